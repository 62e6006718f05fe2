"""What a run is judged by. Each check yields one text for each violation, with its evidence."""
import bisect
import re
from collections import Counter

from check import EPSILON, EXPECTED, given_up
from life import CLAIM, HOLD, RECONNECT, split

INF = float("inf")
ARMED = ("armed", "pending")


def terminal_of(history, key):
    found = history.terminals.get(key, [])
    return found[0] if found else None


def under(reply, key, generation):
    """Has the turn ended under that generation? None: the record tells that of its first turn."""
    if generation is None or reply["messages"][0] != split(key)[1]:
        return None
    return reply["generation"] == generation


def at(reply):
    return "%s %s by %s at %.3f, reply %d, generation %s" % (
        reply["outcome"], reply["error_code"] or "", reply["decided_by"], reply["at"], reply["id"], reply["generation"])


def lost_or_doubled(history):
    owed = {row[0]: row for row in history.tables["turns"]}
    for key, events in history.by_turn.items():
        arms = [(c, row) for c, _, row in events if c.op in ("arm", "again")]
        sure = [c for c, row in arms if c.sure and row and row[1] in ARMED]
        if sure and key in owed:
            yield "%s is still owed (%s): %r" % (key, owed[key], sure[0])
        elif sure and key not in history.terminals:
            yield "%s is lost: %r" % (key, sure[0])
        if sum(c.sure and row is not None and row[1] == "armed" for c, row in arms) > 1:
            yield "%s was armed twice: %s" % (key, arms)
    for key, replies in history.terminals.items():
        if len(replies) > 1:
            yield "%s has %d terminal records: %s" % (key, len(replies), "; ".join(map(at, replies)))
        if not any(c.op in ("arm", "again", "reject") and c.possible for c, _, _ in history.by_turn.get(key, [])):
            yield "%s has a record, and no arm of it was committed: %s" % (key, at(replies[0]))


def won_in_vain(history):
    """What a caller was told of an end is what there is, and each end was made by a call."""
    decided = {"fail": "fail", "reject": "reject", "discharge": "discharge"}
    for key, events in history.by_turn.items():
        reply = terminal_of(history, key)
        armed = min((c.end for c, _, row in events if c.op == "arm" and c.sure and row and row[1] in ARMED), default=INF)
        for call, item, row in events:
            if not call.sure or row is None or call.op == "beat":
                continue
            told = "won" if row[1] is True else row[1]
            if call.op == "commit":
                good = reply and reply["token"] == call.items[0] and reply["decided_by"] == "reply"
                if told == "won" and not good and len(item[0]) == 1:
                    yield "%s: told won in vain by %r: %s" % (key, call, reply and at(reply))
                if told == "won" and not good and not any(
                        reply["token"] == call.items[0] for k in item[0] for reply in history.terminals.get(k, [])):
                    yield "%s: told won in vain by %r" % (item[0], call)
                if told == "stale" and reply and len(item[0]) == 1 and under(reply, key, item[1][0]):
                    yield "%s: told stale under the last generation by %r: %s" % (key, call, at(reply))
            elif call.op in decided and told == "won" and (not reply or reply["decided_by"] != decided[call.op]):
                yield "%s: told won in vain by %r: %s" % (key, call, reply and at(reply))
            if call.op in ("commit", "fail", "reject") and told == "unknown" and armed < call.begin:
                yield "%s: told unknown, armed at %.3f: %r" % (key, armed, call)
            if told in ("lost", "answered") and reply and reply["at"] > call.end + EPSILON and \
                    (call.op != "commit" or len(item[0]) == 1):
                yield "%s: told %s before its end: %r: %s" % (key, told, call, at(reply))
        if reply and reply["decided_by"] in ("reply", "fail", "reject", "discharge"):
            made = [c for c, item, _ in events if c.possible and
                    (c.op == "commit" and c.items[0] == reply["token"] if reply["decided_by"] == "reply"
                     else c.op == reply["decided_by"])]
            if not made:
                yield "%s was ended by no call that was committed: %s, %s" % (key, at(reply), reply["token"])


def stale_wins(history):
    for key, events in history.by_turn.items():
        reply = terminal_of(history, key)
        takers = {}
        numbers = set()         # under which the call that won named the turn
        for call, item, row in events:
            if call.op == "commit" and reply and reply["decided_by"] == "reply" and call.items[0] == reply["token"]:
                numbers.add(item[1][item[0].index(key)])
            if call.op == "start" and call.sure and row and row[1] is not None:
                if row[1] in takers:
                    yield "%s: generation %d was taken twice: %r, %r" % (key, row[1], takers[row[1]], call)
                takers[row[1]] = call
        if numbers and all(under(reply, key, n) is False for n in numbers):
            yield "%s was won under generation %s: %s" % (key, numbers, at(reply))


def updates_in_place(history):
    for key, events in history.by_turn.items():
        stored = {u["status"]: u for u in history.updates.get(key, [])}
        reply = terminal_of(history, key)
        made = {}
        for call, item, row in events:
            if call.op == "update" and call.possible:
                made[item[2]] = (call, row)
        if len(stored) != len(history.updates.get(key, [])):
            yield "%s: an update is stored twice: %s" % (key, history.updates[key])
        for token, update in stored.items():
            if token not in made:
                yield "%s: an update that no call has committed: %s" % (key, update)
            if reply and update["id"] > reply["id"]:
                yield "%s: update %d after the end: %s" % (key, update["id"], at(reply))
        last = None
        for token, (call, row) in sorted(made.items(), key=lambda m: m[1][0].begin):
            if not call.sure or row is None or row[1] is None:
                continue
            if token not in stored or stored[token]["id"] != row[1]:
                yield "%s: update %s of %r is lost" % (key, row[1], call)
            if last and last[0].end < call.begin and last[1] > row[1]:
                yield "%s: update %d is after %d: %r" % (key, last[1], row[1], call)
            last = (call, row[1])


def beats_in_vain(history):
    """A worker was told to give up a turn that was its own, or to go on long after its end."""
    for key, events in history.by_turn.items():
        reply = terminal_of(history, key)
        armed = min((c.end for c, _, row in events if c.op == "arm" and c.sure and row and row[1] in ARMED), default=INF)
        for call, item, row in events:
            zero = call.sure and (call.op == "beats" and given_up(history, call, key) or
                                  call.op == "beat" and call.rows[0][0] == 0)
            if zero and reply and armed < call.begin and reply["at"] > call.end + EPSILON and \
                    (item[1] is None or under(reply, key, item[1])):
                yield "%s: told to give up generation %s by %r: %s" % (key, item[1], call, at(reply))
            # the sweep commits at once, but for a lock or a standby; a count may be five seconds old
            if call.op in ("beats", "beat") and call.sure and not zero and reply and \
                    reply["decided_by"] in ("sweep", "session") and call.begin > reply["at"] + 20:
                yield "%s: told to go on by %r: %s" % (key, call, at(reply))


# --- false failures: when could the turn have lapsed at the earliest?

STALLS = ("stop_server", "stop_sweeper", "lock", "rewrite")


class Graces:
    """When the server started, pauses ended and the sweep was on again; cuts of the workers' path."""

    def __init__(self, history):
        self.starts, self.floors, self.off, self.cuts, stalls = [], [], [], [], []
        for line in history.log:
            if line.endswith("database system is ready to accept connections"):
                self.starts.append(float(line.split()[0]) - 0.05)
        began = {}
        for fault in history.faults:
            if fault["phase"] == "begin":
                began[fault["fault"], fault.get("at")] = fault["w"]
            elif fault["phase"] == "end" and (fault["fault"], fault["at"]) in began:
                begin, end = began[fault["fault"], fault["at"]], fault["w"]
                if fault["fault"] in ("stop_server", "stop_sweeper") and end - begin > 2.1:
                    # beside a sweeper that is stopped sessions sweep
                    self.floors.append((end, "pause", begin if fault["fault"] == "stop_server" else end))
                elif fault["fault"] == "sweep_off":
                    self.off.append((begin + 1.5, end))
                    if end - begin > 6:
                        self.floors.append((end, "sweep on", begin + 1.5))
                elif fault["fault"] == "cut":
                    self.cuts.append((begin, end))
                if fault["fault"] in STALLS:
                    stalls.append((begin, end))
        # the length of a silence counts on a clock that stands still while the worker is held up
        self.cuts = [(begin, end) for begin, end in self.cuts if not any(b < end and begin < e for b, e in stalls)]
        self.starts.sort()
        self.floors += [(start, "start", 0) for start in self.starts]
        self.floors.sort()


    def restarted(self, begin, end):
        return bisect.bisect(self.starts, begin) < bisect.bisect(self.starts, end)


def signs(history, key):
    """What may have moved the turn's deadline: (kind, call, begin, end, sure); kinds arm, sign, weak, wait."""
    for call, item, row in history.by_turn[key]:
        if not call.possible:
            continue
        sure = call.sure
        kind = None
        if call.op in ("arm", "again"):
            kind = "arm" if not sure or row[1] in ARMED else None
        elif call.op == "resume":
            kind = "arm" if not sure or row[1] else None
        elif call.op == "rescue":
            kind = "arm"
        elif call.op in ("start", "update"):
            kind = call.op.replace("update", "sign") if not sure or row[1] is not None else None
        elif call.op == "beats":
            kind = "sign" if not sure or not given_up(history, call, key) else None
        elif call.op == "beat":
            kind = "sign" if not sure or call.rows[0][0] > 0 else None
        elif call.op == "suspend":
            kind = "wait" if not sure or row[1] else None
        if kind:
            yield kind, call, item
    for call in history.lost_rescues:
        yield "arm", call, None
    deployment = split(key)[0]
    for call, item, row in history.by_deployment.get(deployment, []):
        if call.op == "beats" and call.possible and not (call.sure and given_up(history, call, deployment + "/")):
            yield "weak", call, item


COVERS = {"arm": ("arm", "start", "sign", "weak", "wait"), "start": ("arm", "start", "sign", "weak", "wait"),
          "sign": ("arm", "start", "sign", "weak"), "weak": ("start", "sign", "weak"),
          "wait": ("arm", "start", "sign", "weak")}


def candidates(history, key, end, marked):
    """Those of the signs of which no later one is sure to have taken their place."""
    found = [s for s in signs(history, key) if s[1].begin < end]
    sure = {}               # kind -> when the last of those began that surely took place
    for kind, call, _ in found:
        # one that came while the sweep was failing the turn may have been told that it goes on
        if call.sure and call.end < end - 2 * EPSILON and not (marked and kind in ("sign", "weak", "start")):
            sure[kind] = max(sure.get(kind, 0), call.begin)
    for kind, call, item in found:
        over = max((begin for k, begin in sure.items() if kind in COVERS[k]), default=0)
        if not call.sure or call.end >= over:
            if not (call.fate == "lost" and call.begin < over and call.end < over - 30):
                yield kind, call, item


def false_failures(history):
    graces = Graces(history)
    floors = [floor for floor, _, _ in graces.floors]
    beating = crowd(history, graces)
    sessions = session_lives(history)
    for key in history.terminals:
        reply = terminal_of(history, key)
        if reply["decided_by"] not in ("sweep", "session") or key not in history.by_turn:
            continue
        for why in false_failure(history, key, reply, graces, floors, beating, sessions):
            yield "%s: %s, %s" % (key, at(reply), why)


def false_failure(history, key, reply, graces, floors, beating, sessions):
    failed = reply["at"] + EPSILON
    arms = [(c, item) for c, item, _ in history.by_turn[key] if c.op == "arm" and c.possible]
    if not arms:
        return
    first = arms[0][0].begin
    _, admission, silence, duration, window = arms[0][1]
    for begin, end in graces.off:
        if begin < failed - 2 * EPSILON and failed < end:
            yield "sweep was off from %.3f to %.3f" % (begin, end)
    marks = [c for c, _, _ in history.by_deployment.get(split(key)[0], [])
             if c.op == "provider" and c.possible and first < c.end and c.begin < failed]
    code = reply["error_code"]
    moves = list(candidates(history, key, failed, bool(marks)))
    waits = [call.begin for kind, call, _ in moves if kind == "wait" and call.sure]
    if waits and code not in ("WAIT_EXPIRED", "PROVIDER") and not any(
            kind in ("arm", "start") and call.end > waits[-1] for kind, call, _ in moves):
        yield "and it waited since %.3f" % waits[-1]
        return
    if code == "WORKER_DIED" or reply["decided_by"] == "session":
        # a marked turn is not offered
        yield from died(history, key, failed, 0 if marks else window, graces, sessions)
        return

    offered = window if code in ("WORKER_UNRESPONSIVE", "WORKER_NEVER_STARTED") and not marks else 0

    def floored(call, own):
        """The earliest end of an interval, and the graces that the turn was owed before it failed."""
        deadline, why, held = call.begin + own, "", 0
        if graces.restarted(call.begin, failed):
            # how long the clock stood still in an earlier run is not known any more: the floor counts
            deadline = call.begin
        for floor, name, since in graces.floors[:bisect.bisect(floors, failed)]:
            owed = floor + (silence if call.sure and call.end < floor else min(own, silence))
            # a turn that was offered before keeps its window, but for a start, which forgets the offer
            if offered and deadline <= since:
                held = owed
            elif owed > deadline and call.begin < floor:
                deadline, why, held = owed, " (%s at %.3f)" % (name, floor), 0
        return max(deadline + offered, held), why

    # a mark's code stands for whichever time has run out
    earliest = [floored(arms[0][0], duration) + (arms[0][0],)] if code in ("TURN_TOO_LONG", "PROVIDER") else []
    if code != "TURN_TOO_LONG":
        for kind, call, item in moves:
            if code == "WORKER_NEVER_STARTED" and kind != "arm" or (code == "WAIT_EXPIRED") != (kind == "wait") and \
                    code != "PROVIDER":
                continue
            own = {"arm": admission, "wait": item[2] if kind == "wait" else 0}.get(kind, silence)
            earliest.append(floored(call, own) + (call,))
    if not earliest:
        yield "and nothing in its life leads to that: %s" % [(k, c) for k, c, _ in moves]
        return
    deadline, why, call = min(earliest, key=lambda e: e[0])
    if failed < deadline:
        yield "%.3f s before its deadline%s, silence %s, window %s, last sign %r" % (
            deadline - failed, why, silence, window, call)
    if code == "WORKER_UNRESPONSIVE" and not marks and window == 0:
        for begin, end in graces.cuts:
            if begin + silence / 2 + 0.5 < failed < end + silence and end - begin > silence / 2 + 0.5 and \
                    failed < deadline + HOLD and beating.get(begin) and \
                    not graces.restarted(begin, failed):
                yield "though the path was cut from %.3f to %.3f" % (begin, end)


def crowd(history, graces):
    """For each cut of the path: did ten deployments surely beat right before it?"""
    found = {}
    for begin, _ in graces.cuts:
        names = set()
        since = max([begin - 2.5] + [start for start in graces.starts if start < begin])
        for call in history.calls:
            if call.op in ("beats", "beat") and call.sure and since < call.begin and call.end < begin:
                names |= {split(item[0])[0] for item in call.items if not given_up(history, call, item[0])}
        found[begin] = len(names) >= 12 and history.tables["stat"].get("lease_capacity", 0) > 1000
    return found


def session_lives(history):
    """For each session the begins of its calls that ended well."""
    lives = {}
    for call in history.calls:
        if call.end < INF and call.fate != "lost" and (call.fate != "error" or call.error is not None):
            lives.setdefault(call.session, []).append(call.begin)
    return lives


def died(history, key, failed, window, graces, sessions):
    """A session that had attached the deployment must have ended, and its window be over."""
    deployment = split(key)[0]
    attached, possible = {}, []
    for call, _, _ in history.by_deployment.get(deployment, []):
        if call.op == "attach" and call.possible and call.begin < failed:
            possible.append(call)
            if call.sure and call.end < failed - 0.1:
                attached[call.session] = call
        elif call.op == "detach" and call.possible and call.begin < failed:
            attached.pop(call.session, None)
    if not possible:
        yield "and no session had attached it"
    elif any(max(c.begin for c in possible) < start < failed - 0.1 for start in graces.starts):
        yield "and all sessions that had attached it were of an earlier run: %r" % possible[-1]
    last = max((c.end if c.sure else INF for c in possible), default=INF)
    for call, _, row in history.by_turn[key]:
        if call.op in ("again", "resume", "rescue") and call.sure and last < call.begin and call.end < failed and \
                row and row[1] not in ("answered", False):
            yield "and it was handed over since a session attached: %r, %r" % (possible[-1], call)
    for session, call in attached.items():
        begins = sessions.get(session, [])
        last = begins[bisect.bisect(begins, failed) - 1]
        if begins[-1] > failed:
            yield "and session %s lives, which attached it: %r" % (session, call)
        elif failed < last + RECONNECT + window:
            yield "%.3f s before the end of its window, session %s" % (last + RECONNECT + window - failed, session)


# --- delivery

def deaf_cursors(history):
    seen = {}
    for call in history.calls:
        if call.op == "read" and call.sure:
            for reply_id, conversation, outcome in call.rows:
                ids = seen.setdefault((call.client.split(".")[0], conversation), [])
                if ids and ids[-1] >= reply_id:
                    yield "%s was shown %d after %d: %r" % (conversation, reply_id, ids[-1], call)
                ids.append(reply_id)
    stored = {}
    for row in history.tables["replies"]:
        if row[3].startswith("g") and row[5] != "discharged":
            stored.setdefault(row[3], set()).add(row[0])
    found = {}
    for (_, conversation), ids in seen.items():
        found.setdefault(conversation, set()).update(ids)
    for conversation in stored.keys() | found.keys():
        missed = stored.get(conversation, set()) - found.get(conversation, set())
        if missed:
            yield "%s: never shown: %s" % (conversation, sorted(missed)[:10])
        if found.get(conversation, set()) - stored.get(conversation, set()):
            yield "%s: shown, and not there: %s" % (
                conversation, sorted(found[conversation] - stored.get(conversation, set()))[:10])


def claims(history):
    graces = Graces(history)
    held = {}               # reply -> sure claims
    maybe = Counter()
    acked, released = {}, {}
    lost = sum(c.op == "claim" and c.fate == "lost" for c in history.calls)
    for call in history.calls:
        if call.op == "claim" and call.sure:
            for reply_id, attempt in call.rows:
                held.setdefault(reply_id, []).append((call, attempt))
        elif call.op == "ack" and call.sure and call.rows[0][0] == len(call.items):
            for reply_id in call.items:
                acked[reply_id] = min(acked.get(reply_id, INF), call.end)
        elif call.op == "release" and call.possible:
            for reply_id in call.items:
                released.setdefault(reply_id, []).append(call)
    for reply_id, some in held.items():
        for (one, a), (two, b) in zip(some, some[1:]):
            gone = any(one.begin < r.end and r.begin < two.end for r in released.get(reply_id, []))
            if two.end < one.begin + CLAIM - EPSILON and not gone and not graces.restarted(one.begin, two.end):
                yield "reply %d was given twice within its time: %r, %r" % (reply_id, one, two)
            if two.begin > one.end and b <= a:
                yield "reply %d: attempt %d after %d: %r" % (reply_id, b, a, two)
        for call, _ in some:
            if call.begin > acked.get(reply_id, INF):
                yield "reply %d was given after it was acknowledged at %.3f: %r" % (reply_id, acked[reply_id], call)
    for row in history.tables["replies"]:
        n = len(held.get(row[0], []))
        if not n <= row[13] <= n + lost:
            yield "reply %d has %d attempts, %d claims were told" % (row[0], row[13], n)
        if row[0] in acked and row[12] != "delivered":
            yield "reply %d is %s, though it was acknowledged" % (row[0], row[12])


# --- the rest

def client_errors(history):
    allowed = {"resolve": ("42704", "55000")}
    for call in history.calls:
        if call.fate in ("error", "lost") and call.error is not None and not EXPECTED.fullmatch(call.code) and \
                call.code not in allowed.get(call.op, ()):
            yield "%r: %s" % (call, call.error)
    yield from history.stderr
    if history.steps and max(history.steps) - min(history.steps) > 0.05:
        yield "the wall clock was stepped by %.3f s: nothing can be said" % (max(history.steps) - min(history.steps))


BAD_LINE = re.compile(r"PANIC|TRAP|terminated by signal (?!9\b)|leak|could not fail|still referenced| XX\d\d\d ")


def server_log(history):
    for line in history.log:
        if BAD_LINE.search(line):
            yield line


def leaks(history):
    tables = history.tables
    yield from tables.get("problems", [])
    if tables.get("prepared"):
        yield "prepared transactions are left: %s" % tables["prepared"]
    if tables.get("locks"):
        yield "%d advisory locks are left" % tables["locks"]
    stat = tables["stat"]
    if stat["attach_used"] != 0 or stat["worker_state"] != "running" or stat["worker_problem"]:
        yield "stat: %s" % stat
    # a turn that a prepared transaction has ended, or a session that was killed, may leave its own
    deployments = {split(key)[0] for key in history.by_turn}
    doubtful = sum(len(c.items) for c in history.calls if c.gid or c.fate == "lost" and c.op == "commit")
    if stat.get("leases_used", 0) > len(deployments) + doubtful:
        yield "%d leases are left for %d deployments (%d turns in doubt)" % (
            stat["leases_used"], len(deployments), doubtful)


def amcheck(history):
    if history.tables["amcheck"]:
        yield history.tables["amcheck"][:2000]


CHECKS = [("every armed turn ended once", lost_or_doubled), ("what was won is there", won_in_vain),
          ("no earlier holder won", stale_wins), ("updates are in their place", updates_in_place),
          ("no turn failed before its time", false_failures), ("beats were told the truth", beats_in_vain),
          ("no cursor missed a reply", deaf_cursors), ("claims are held by one gateway", claims),
          ("callers met no other errors", client_errors), ("the server's log", server_log),
          ("nothing is left over", leaks), ("amcheck of tables and indexes", amcheck)]


def summary(history):
    replies = [reply for some in history.terminals.values() for reply in some]
    faults = Counter(f["fault"] for f in history.faults if f["phase"] == "begin" and f["fault"] != "none")
    return "%d turns, %d calls (%d in doubt), ends %s; %d faults %s; starts %d; stat %s" % (
        len(history.terminals), len(history.calls), sum(c.fate == "lost" for c in history.calls),
        dict(Counter(r["error_code"] or r["outcome"] for r in replies)), sum(faults.values()), dict(faults),
        len(Graces(history).starts), history.tables.get("stat"))
