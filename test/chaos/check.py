"""check.py DIRECTORY: judge a run by what the clients logged and what the tables hold.

A call is a transaction with a begin and an end by the wall clock, and did what it did in between.
It is sure (the client was told of the commit), possible (the client was not told), or void.
"""
import glob
import json
import os
import re
import sys

EPSILON = 0.02          # between clocks of one machine, and rounding
EXPECTED = re.compile("40001|40P01|55P03|57P0[1-5]|08...|")


class Call:
    __slots__ = ("client", "session", "op", "items", "begin", "end", "fate", "rows", "code", "gid", "error")

    def __init__(self, client, line):
        self.client, self.session, self.op, self.items = client, (client, line["c"]), line["o"], line["i"]
        self.begin, self.end, self.gid = line["w"], float("inf"), line.get("g")
        self.fate, self.rows, self.code, self.error = "lost", None, None, None

    def ends(self, line):
        self.end, self.fate, self.rows = line["w"], line["f"], line.get("r")
        self.code, self.error = line.get("x"), line.get("e")

    sure = property(lambda self: self.fate == "ok")
    possible = property(lambda self: self.fate in ("ok", "lost"))

    def __repr__(self):
        return "%s by %s, %.3f to %.3f: %s %s" % (self.op, self.client, self.begin, self.end, self.fate, self.code or "")


class History:
    def __init__(self, directory=None):
        self.calls, self.faults, self.gone, self.tables, self.log, self.stderr = [], [], {}, {}, [], []
        self.steps = []         # of the wall clock: its distance from the monotonic clock
        if directory:
            self.read(directory)

    def read(self, directory):
        for path in sorted(glob.glob(directory + "/*.log")):
            name = os.path.basename(path)[:-4]
            if name.startswith("server."):
                self.log += open(path, errors="replace").read().splitlines()
            elif name == "faults":
                self.faults = [json.loads(line) for line in open(path)]
            else:
                # a client that was killed may have torn its last line
                self.add(name, [json.loads(line) for line in open(path) if line.endswith("}\n")])
        for path in glob.glob(directory + "/*.err"):
            lines = open(path).read().splitlines()      # notices of libpq, and what ended the process
            if any(line.startswith("Traceback") for line in lines):
                self.stderr += ["%s: %s" % (os.path.basename(path), line) for line in lines[-3:]]
        self.tables = json.load(open(directory + "/tables.json"))

    def add(self, client, lines):
        open_calls = {}
        distances = [line["w"] - line["m"] for line in lines]
        self.steps += [min(distances), max(distances)] if lines else []
        for line in lines:
            if "f" in line:
                open_calls.pop(line["n"]).ends(line)
            elif line["o"] == "gone":
                self.gone[client, line["c"]] = line["w"]
            else:
                open_calls[line["n"]] = Call(client, line)
                self.calls.append(open_calls[line["n"]])

    def index(self):
        """What was prepared becomes what it was resolved to; then all by turn."""
        resolved = {}
        for call in self.calls:
            if call.op == "resolve" and call.possible:
                gid, verb = call.items
                if verb == "ROLLBACK" and call.sure:
                    resolved[gid] = ("rolled", call.end)
                elif resolved.get(gid, ("lost",))[0] == "lost":
                    resolved[gid] = ("ok" if call.sure else "lost", call.end)
        for call in self.calls:
            if call.fate == "prepared" or call.fate == "lost" and call.gid in resolved:
                call.fate, call.end = resolved.get(call.gid, ("lost", float("inf")))
        self.calls.sort(key=lambda call: call.begin)
        self.by_turn, self.by_deployment = {}, {}
        for call in self.calls:
            if call.op in ("read", "claim", "ack", "release", "resolve"):
                continue
            for i, item in enumerate(call.items):
                if call.op == "commit" and i == 0:
                    continue
                row = call.rows[i - (call.op == "commit")] if call.rows and call.op not in ("beats", "rescue") \
                    and len(call.rows) > i - (call.op == "commit") else None
                for key in item[0] if call.op == "commit" else [item[0]]:
                    where = self.by_deployment if "/" not in key or key.endswith("/") else self.by_turn
                    where.setdefault(key.rstrip("/"), []).append((call, item, row))
            if call.op == "rescue":
                for row in call.rows or []:
                    self.by_turn.setdefault(row[0], []).append((call, row, row))
        # what rescued turns unknown to its caller, who did not hear
        self.lost_rescues = [c for c in self.calls if c.op == "rescue" and c.fate == "lost"]
        self.terminals, self.updates = {}, {}
        for row in self.tables["replies"]:
            reply = dict(zip(("id", "deployment", "messages", "conversation", "platform", "outcome", "error_code",
                              "decided_by", "generation", "at", "token", "status", "state", "attempt"), row))
            for message in reply["messages"]:
                where = self.updates if reply["outcome"] == "update" else self.terminals
                where.setdefault("%s/%s" % (reply["deployment"], message), []).append(reply)
        self.given_up = {}
        for call in self.calls:
            if call.op == "beats" and call.sure:
                for row in call.rows:
                    self.given_up.setdefault(call, set()).add(row[0])


def given_up(history, call, key):
    return key in history.given_up.get(call, ())


def report(history):
    """Print the verdict; the number of checks that failed."""
    import judge
    history.index()
    bad = 0
    for name, check in judge.CHECKS:
        found = list(check(history))
        bad += bool(found)
        print("%-6s %s%s" % ("FAILED" if found else "ok", name, ": %d" % len(found) if found else ""))
        for line in found[:20]:
            print("       " + str(line))
    print("# " + judge.summary(history))
    print("%d passed, %d failed" % (len(judge.CHECKS) - bad, bad), flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(1 if report(History(sys.argv[1])) else 0)
