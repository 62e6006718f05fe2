"""The checker is checked: a good history passes, and each kind of violation is found."""
import copy
import sys

import judge
from check import Call, History

T = 1000.0              # all times are seconds after that


class Story(History):
    """One turn of each kind; a case changes it before it is judged."""

    def __init__(self):
        super().__init__()
        self.named = {}
        self.tables = {"replies": [], "turns": [], "prepared": [], "locks": 0, "problems": [], "amcheck": "",
                       "stat": {"attach_used": 0, "worker_state": "running", "worker_problem": None,
                                "lease_capacity": 131072}}
        self.fault("none", 0, 0)
        # a: updated twice, answered
        self.arm("a", 0)
        self.start("a", 1)
        self.call("beats1", "w.0", "beats", [["g0d0/a", 1]], 2, rows=[])
        self.call("update1", "w.0", "update", [["g0d0/a", 1, "u1"]], 2.5, rows=[["g0d0/a", 5]])
        self.call("update2", "w.0", "update", [["g0d0/a", 1, "u2"]], 2.6, rows=[["g0d0/a", 6]])
        self.call("commit", "w.0", "commit", ["t1", [["g0d0/a"], [1]]], 3, rows=[["g0d0/a", "won"]])
        self.call("late", "w.0", "commit", ["t2", [["g0d0/a"], [1]]], 4, rows=[["g0d0/a", "lost"]])
        self.reply(5, "a", "update", at=2.5, status="u1")
        self.reply(6, "a", "update", at=2.6, status="u2")
        self.reply(7, "a", "answer", at=3, by="reply", token="t1", state="delivered", attempt=1)
        # b: falls silent; c: never started; d: its session ended; e: waited; f: too long
        self.arm("b", 0)
        self.start("b", 1)
        self.call("beats2", "w.0", "beats", [["g0d0/b", 1]], 2, rows=[])
        self.reply(8, "b", "error", "WORKER_UNRESPONSIVE", 5.1, "sweep")
        self.arm("c", 0)
        self.reply(9, "c", "error", "WORKER_NEVER_STARTED", 4.1, "sweep")
        self.call("attach", "v.0", "attach", [["g0d1"]], 0.5, rows=[[1]], session=2)
        self.arm("d", 0, "g0d1")
        self.call("start d", "v.0", "start", [["g0d1/d", False]], 1, rows=[["g0d1/d", 1]], session=2)
        self.reply(10, "d", "error", "WORKER_DIED", 2.2, "session", deployment="g0d1")
        self.arm("e", 0)
        self.start("e", 1)
        self.call("suspend", "w.0", "suspend", [["g0d0/e", 1, 4]], 2, rows=[["g0d0/e", True]])
        self.call("beats3", "w.0", "beats", [["g0d0/e", 1]], 5.5, rows=[])
        self.reply(11, "e", "error", "WAIT_EXPIRED", 6.1, "sweep")
        self.arm("f", 0, duration=5)
        self.start("f", 1)
        self.call("beats4", "w.0", "beats", [["g0d0/f", 1]], 4, rows=[])
        self.reply(12, "f", "error", "TURN_TOO_LONG", 5.1, "sweep")
        # g: rolled back; h: prepared, then rolled back, then armed and discharged
        self.arm("g", 0, fate="rolled")
        self.call("prepare", "w.0", "commit", ["t3", [["g0d0/h"], [1]]], 2, fate="prepared",
                  rows=[["g0d0/h", "won"]], gid="p1")
        self.call("resolve", "w.0", "resolve", ["p1", "ROLLBACK"], 3, rows=[])
        self.arm("h", 0)
        self.call("discharge", "g.0", "discharge", [["g0d0/h"]], 4, rows=[["g0d0/h", True]])
        self.reply(13, "h", "discharged", at=4, by="discharge", state="delivered")
        # i: taken over
        self.arm("i", 0)
        self.start("i", 1)
        self.call("again", "g.0", "again", [["g0d0/i", None, None, None, None]], 2, rows=[["g0d0/i", "pending"]])
        self.start("i", 3, 2)
        self.call("stale", "w.0", "commit", ["t4", [["g0d0/i"], [1]]], 3.5, rows=[["g0d0/i", "stale"]])
        self.call("commit i", "w.0", "commit", ["t5", [["g0d0/i"], [2]]], 4, rows=[["g0d0/i", "won"]])
        self.reply(14, "i", "answer", at=4, by="reply", token="t5", generation=2)
        self.call("read", "l0.0", "read", [], 8, rows=[[n, "g0d0", "x"] for n in (5, 6, 7, 8, 9, 11, 12, 14)] +
                  [[10, "g0d1", "x"]])
        self.call("claim", "p0.0", "claim", [], 3.2, rows=[[7, 1]])
        self.call("ack", "p0.0", "ack", [7], 3.4, rows=[[1]])
        self.call("idle", "w.0", "beat", [["g0d0/zz", 1]], 9, rows=[[0]])

    def call(self, name, client, op, items, begin, fate="ok", rows=None, gid=None, session=1, took=0.01):
        call = Call(client, {"c": session, "o": op, "i": items, "w": T + begin, "g": gid})
        call.ends({"w": T + begin + took, "f": fate, "r": rows})
        self.named[name] = call
        self.calls.append(call)

    def arm(self, name, begin, deployment="g0d0", duration=60, fate="ok"):
        key = "%s/%s" % (deployment, name)
        self.call("arm " + name, "g.0", "arm", [[key, 4, 3, duration, 0]], begin, fate, [[key, "armed"]])

    def start(self, name, begin, generation=1):
        self.call("start %s%d" % (name, generation), "w.0", "start", [["g0d0/" + name, False]], begin,
                  rows=[["g0d0/" + name, generation]])

    def reply(self, number, name, outcome, code=None, at=0, by=None, token=None, status=None, generation=1,
              deployment="g0d0", state="due", attempt=0):
        self.tables["replies"].append([number, deployment, [name], deployment, "web", outcome, code, by, generation,
                                       T + at, token, status, state, attempt])

    def fault(self, kind, begin, end):
        self.faults += [{"fault": kind, "at": begin, "phase": "begin", "w": T + begin},
                        {"fault": kind, "at": begin, "phase": "end", "w": T + end}]

    def row(self, number):
        return next(row for row in self.tables["replies"] if row[0] == number)

    def drop(self, number):
        self.tables["replies"].remove(self.row(number))

    def without(self, *names):
        self.calls = [call for call in self.calls if call not in [self.named[n] for n in names]]

    def started(self, at):
        self.log.append("%.3f [1]  00000 LOG:  database system is ready to accept connections" % (T + at))


def change(name, **fields):
    return lambda s: [setattr(s.named[name], field, value) for field, value in fields.items()]


def column(number, position, value):
    return lambda s: s.row(number).__setitem__(position, value)


def both(*steps):
    return lambda s: [step(s) for step in steps]


ENDS, WON, STALE, UPDATES, EARLY, BEATS, CURSORS, CLAIMS, ERRORS, LOG, LEAKS, AMCHECK = [n for n, _ in judge.CHECKS]
OWED = lambda s: s.tables["turns"].append(["g0d0/b", "lapsed", None])
OFFER = lambda s: s.named["arm b"].items[0].__setitem__(4, 3)

# what is wrong, who finds it (None: nothing is wrong), how
CASES = [
    ("nothing", None, lambda s: None),
    ("a turn is lost", ENDS, lambda s: s.drop(8)),
    ("a turn is still owed", ENDS, both(lambda s: s.drop(8), OWED)),
    ("a turn is owed and ended", ENDS, OWED),
    ("two terminal records", ENDS, lambda s: s.reply(20, "b", "error", "WORKER_UNRESPONSIVE", 6, "sweep")),
    ("armed twice", ENDS, lambda s: s.arm("b", 0.2)),
    ("an arm that was rolled back is there", ENDS, lambda s: s.reply(20, "g", "error", "GATEWAY", 6, "fail")),
    ("an arm in doubt need not be there", None, both(change("arm b", fate="lost", rows=None), lambda s: s.drop(8),
                                                     lambda s: s.named["read"].rows.remove([8, "g0d0", "x"]))),
    ("won in vain", WON, column(7, 10, "t9")),
    ("won, and swept", WON, both(column(7, 7, "sweep"), column(7, 6, "WORKER_UNRESPONSIVE"), column(7, 9, T + 9))),
    ("an answer that was rolled back is there", WON, both(column(13, 7, "reply"), column(13, 10, "t3"))),
    ("discharged in vain", WON, both(column(13, 7, "sweep"), column(13, 9, T + 9))),
    ("lost before the end", WON, both(column(7, 9, T + 5), change("commit", fate="lost", rows=None))),
    ("unknown, though armed", WON, change("late", rows=[["g0d0/a", "unknown"]])),
    ("stale under the last number", WON, change("late", rows=[["g0d0/a", "stale"]])),
    ("ended by nothing", WON, lambda s: s.without("commit")),
    ("an earlier holder won", STALE, column(14, 8, 3)),
    ("a generation taken twice", STALE, change("start i2", rows=[["g0d0/i", 1]])),
    ("an update is lost", UPDATES, lambda s: s.drop(5)),
    ("an update that was rolled back", UPDATES, change("update1", fate="rolled")),
    ("an update twice", UPDATES, lambda s: s.reply(4, "a", "update", at=2.5, status="u1")),
    ("an update after the end", UPDATES, both(column(6, 0, 15), change("update2", rows=[["g0d0/a", 15]]))),
    ("updates out of order", UPDATES, both(change("update1", rows=[["g0d0/a", 6]]), change("update2", rows=[["g0d0/a", 5]]),
                                           column(5, 11, "u2"), column(6, 11, "u1"))),
    ("silent, too early", EARLY, column(8, 9, T + 4.9)),
    ("silent, but for a beat in doubt", EARLY, both(column(8, 9, T + 3.9), change("beats2", fate="lost"))),
    ("silent, though an earlier beat is in doubt", None, both(column(8, 9, T + 4.1), change("beats2", fate="lost"))),
    ("silent in its rescue window", EARLY, OFFER),
    ("offered, in the grace of a pause", EARLY, both(OFFER, column(8, 9, T + 10.9), lambda s: s.fault("stop_server", 5.2, 8))),
    ("offered, after the grace of a pause", None, both(OFFER, column(8, 9, T + 11.1), lambda s: s.fault("stop_server", 5.2, 8))),
    ("silent, then offered, after a pause", EARLY, both(OFFER, column(8, 9, T + 11.1), lambda s: s.fault("stop_server", 4.8, 8))),
    ("silent in the grace of a start", EARLY, lambda s: s.started(3)),
    ("silent after the grace of a start", None, lambda s: s.started(0.4)),
    ("silent in the grace of a pause", EARLY, lambda s: s.fault("stop_server", 0.5, 3)),
    ("a stop that is no pause", None, lambda s: s.fault("stop_server", 1.5, 3)),
    ("silent in the grace of the sweep", EARLY, lambda s: s.fault("sweep_off", -6, 3)),
    ("swept while the sweep was off", EARLY, lambda s: s.fault("sweep_off", 2, 7)),
    ("never started, but it was", EARLY, column(8, 6, "WORKER_NEVER_STARTED")),
    ("never started, too early", EARLY, column(9, 9, T + 3.9)),
    ("a wait that ended early", EARLY, column(11, 9, T + 5.9)),
    ("an end of a wait without one", EARLY, lambda s: s.without("suspend")),
    ("silent while it waited", EARLY, column(11, 6, "WORKER_UNRESPONSIVE")),
    ("too long, too early", EARLY, column(12, 9, T + 4.9)),
    ("too long, in the grace of a start", EARLY, lambda s: s.started(2.5)),
    ("too long by an earlier run's clock", None, both(lambda s: s.started(0.4), column(12, 9, T + 4))),
    ("dead, and was never attached", EARLY, lambda s: s.without("attach")),
    ("dead, and its session lives", EARLY, lambda s: s.call("x", "v.0", "beat", [["g0d1/d", 1]], 8, rows=[[0]], session=2)),
    ("dead, in the window", EARLY, column(10, 9, T + 1.9)),
    ("dead, but handed over since", EARLY, lambda s: s.call("x", "g.0", "again", [["g0d1/d"] + [None] * 4], 1.1,
                                                            rows=[["g0d1/d", "pending"]])),
    ("dead by a session before the start", EARLY, lambda s: s.started(0.9)),
    ("taken over, failed by the earlier holder's time", EARLY, both(
        change("commit i", fate="rolled"), column(14, 7, "sweep"), column(14, 6, "WORKER_UNRESPONSIVE"), column(14, 10, None),
        column(14, 9, T + 5.5))),
    ("told to give up", BEATS, change("beats2", rows=[["g0d0/b"]])),
    ("told to go on after the end", BEATS, lambda s: s.call("x", "w.0", "beats", [["g0d0/b", 1]], 30, rows=[])),
    ("told to give up an old number", None, lambda s: s.call("x", "w.0", "beats", [["g0d0/i", 1]], 3.2, rows=[["g0d0/i"]])),
    ("a reply never shown", CURSORS, lambda s: s.named["read"].rows.pop(2)),
    ("a reply shown twice", CURSORS, lambda s: s.call("x", "l0.1", "read", [], 9, rows=[[7, "g0d0", "x"]])),
    ("a reply shown that is not there", CURSORS, lambda s: s.named["read"].rows.append([99, "g0d0", "x"])),
    ("claimed twice", CLAIMS, both(lambda s: s.call("x", "p1.0", "claim", [], 3.3, rows=[[7, 2]]), column(7, 13, 2),
                                   change("ack", rows=[[0]]), column(7, 12, "due"))),
    ("claimed after its time", None, both(lambda s: s.call("x", "p1.0", "claim", [], 6.3, rows=[[7, 2]]), column(7, 13, 2),
                                          change("ack", rows=[[0]]), column(7, 12, "due"))),
    ("claimed twice, before and after a start", None, both(
        change("claim", begin=T + 7, end=T + 7.1), lambda s: s.call("x", "p1.0", "claim", [], 9, rows=[[7, 2]]),
        lambda s: s.started(8), column(7, 13, 2), change("ack", rows=[[0]]), column(7, 12, "due"))),
    ("claimed after it was acknowledged", CLAIMS, both(
        lambda s: s.call("x", "p1.0", "claim", [], 7, rows=[[7, 2]]), column(7, 13, 2))),
    ("an attempt too many", CLAIMS, column(7, 13, 2)),
    ("an acknowledgement is lost", CLAIMS, column(7, 12, "due")),
    ("an internal error", ERRORS, change("arm b", fate="error", code="XX000", error="tuple concurrently updated", rows=None)),
    ("a client's traceback", ERRORS, lambda s: s.stderr.append("Traceback")),
    ("an assertion", LOG, lambda s: s.log.append("1 [2] FATAL TRAP: FailedAssertion")),
    ("a leak", LOG, lambda s: s.log.append("1 [2] 01000 WARNING:  buffer refcount leak: [42]")),
    ("a signal", LOG, lambda s: s.log.append("server process (PID 1) was terminated by signal 11: Segmentation fault")),
    ("an attached deployment is left", LEAKS, lambda s: s.tables["stat"].update(attach_used=1)),
    ("leases are left", LEAKS, lambda s: s.tables["stat"].update(leases_used=100)),
    ("a prepared transaction is left", LEAKS, lambda s: s.tables["prepared"].append("p9")),
    ("a broken index", AMCHECK, lambda s: s.tables.update(amcheck="item order invariant violated")),
]


def crowd_case():
    """A cut of the path holds back what lapses meanwhile, if ten deployments beat before."""
    story = Story()
    for n in range(14):
        story.call("many %d" % n, "w.0", "beats", [["g0d%d/x" % (n + 20), 1]], 2.0, rows=[])
    story.fault("cut", 2.2, 7)
    return story


def main():
    failed = 0
    for name, expected, step in CASES + [("failed in a cut of the path", EARLY, None)]:
        story = Story() if step else crowd_case()
        if step:
            step(story)
        story.index()
        found = {check: list(judge_it(copy.copy(story))) for check, judge_it in judge.CHECKS}
        found = {check: lines for check, lines in found.items() if lines}
        if (expected is None and found) or (expected is not None and expected not in found):
            failed += 1
            print("not found: %s: %s" % (name, found))
    print("%d passed, %d failed" % (len(CASES) + 1 - failed, failed))
    return 1 if failed else 0


sys.exit(main())
