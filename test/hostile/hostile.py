#!/usr/bin/python3
"""hostile.py [SECONDS [SEED [SESSIONS]]] | sqlsmith [SECONDS [SEED]]

Call every function of ours from several sessions with what users never send, on
the server that PGHOST and PGPORT name, and judge it afterwards. The seed is
printed: the same one makes each session send the same statements.

The last line says "N passed, N failed".
"""

import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter, deque

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from psycopg import pq

import checks
from statements import SETUP, Statements

# Lost connections and servers that do not take one: from pg_terminate_backend,
# or from a crash, which the server's log tells.
GONE = {"57P01", "57P02", "57P03", "08006", "08003"}
STUCK_S = 180
# a session's statements, also on a busy machine: together they call every function
LEAST = 500


class Connection:
    """libpq with what a judge needs: SQLSTATEs, where an error comes from, notices."""

    def __init__(self, name, options=""):
        self.bad_notices = []
        info = f"application_name={name} options='-c client_min_messages=warning {options}'"
        end = time.time() + 120
        while True:
            self.pg = pq.PGconn.connect(info.encode())
            if self.pg.status == pq.ConnStatus.OK:
                break
            message = self.pg.error_message
            self.pg.finish()
            if time.time() > end:
                raise RuntimeError(f"cannot connect: {message.decode()}")
            time.sleep(0.05)
        self.pg.notice_handler = self.notice

    def notice(self, result):
        text = result.error_message.decode(errors="replace").strip()
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        if (state or b"").startswith(b"XX000") or "leak" in text:
            self.bad_notices.append(text)

    def run(self, sql, extended=False):
        """(SQLSTATE, message with the place in the source, rows)"""
        try:
            data = sql.encode()
            result = (
                self.pg.exec_params(data, [], result_format=1)
                if extended
                else self.pg.exec_(data)
            )
            while result.status in (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN):
                result = self.pg.get_result()
            while self.pg.notifies():
                pass
        except Exception as e:  # psycopg's own, for a connection that has gone
            return "08003", str(e), None
        if result.status == pq.ExecStatus.FATAL_ERROR:
            field = lambda which: (result.error_field(which) or b"").decode(errors="replace")
            d = pq.DiagnosticField
            state = field(d.SQLSTATE) or "08006"
            place = f"{field(d.SOURCE_FILE)}:{field(d.SOURCE_LINE)} {field(d.SOURCE_FUNCTION)}"
            return (
                state,
                f"{field(d.MESSAGE_PRIMARY) or self.pg.error_message.decode()} ({place})",
                None,
            )
        return "00000", "", result

    def rows(self, sql):
        state, message, result = self.run(sql)
        if state != "00000":
            raise RuntimeError(f"{state} {message}: {sql[:200]}")
        return [
            [
                None if result.get_value(i, j) is None else result.get_value(i, j).decode()
                for j in range(result.nfields)
            ]
            for i in range(result.ntuples)
        ]

    def is_of_others(self, message, sql):
        """The server's own internal errors: of two commands that change one object at
        once, and of an object that was dropped between two looks at it."""
        if "tuple concurrently" in message:
            return re.search(r"\b(drop|alter|create|grant|revoke|change_|reindex)", sql, re.I)
        gone = re.search(
            r"(?:cache lookup failed for|could not open) (type|relation|function|publication).* (\d+)",
            message,
        )
        if gone is None:
            return False
        self.run("ROLLBACK")
        table = {"relation": "pg_class", "function": "pg_proc"}.get(gone[1], "pg_" + gone[1])
        return not self.rows(f"SELECT 1 FROM pg_catalog.{table} WHERE oid = {gone[2]}")

    def close(self):
        self.pg.finish()


def catalog(connection):
    """Our functions with their arguments, and our settings, as the server has them."""
    functions = {}
    for name, number, argument, kind, defaults in connection.rows(
        """
            SELECT p.proname, a.i, coalesce(p.proargnames[a.i], ''),
                   CASE WHEN t.typtype = 'c' THEN t.typrelid::regclass::text ELSE format_type(a.t, NULL) END,
                   p.pronargdefaults
            FROM pg_proc p
            LEFT JOIN LATERAL unnest(p.proargtypes::oid[]) WITH ORDINALITY a(t, i) ON true
            LEFT JOIN pg_type t ON t.oid = a.t
            WHERE p.pronamespace = 'turn_liveness'::regnamespace
            ORDER BY 1, 2"""
    ):
        function = functions.setdefault(
            name, {"name": name, "arguments": [], "defaults": int(defaults)}
        )
        if number is not None:
            function["arguments"].append((argument, kind))
    settings = connection.rows(
        """
            SELECT name, vartype, min_val, max_val FROM pg_settings
            WHERE name LIKE 'turn_liveness.%' AND context IN ('user', 'superuser') ORDER BY 1"""
    )
    version = int(connection.rows("SHOW server_version_num")[0][0])
    return {
        "functions": list(functions.values()),
        "settings": settings,
        "force_parallel": "debug_parallel_query" if version >= 160000 else "force_parallel_mode",
    }


def session(number, seed, seconds, what, progress, results):
    """One session's process: until the time is over and it has said enough, or found a fault."""
    rng = random.Random(f"{seed}/{number}")
    stream = Statements(rng, what, number == 0)
    options = "-c lock_timeout=100ms -c statement_timeout=2s -c log_min_messages=log"
    connection = Connection(f"hostile{number}", options)
    recent = deque(maxlen=12)
    called, succeeded, states = Counter(), Counter(), Counter()
    faults = []
    statements = 0
    end = time.time() + seconds
    while (time.time() < end or statements < LEAST) and len(faults) < 3:
        sql, calls = stream.next()
        extended = rng.random() < 0.2
        statements += 1
        progress[number] = time.time()
        recent.append(f"{statements}: {sql}")
        if sql == "-- hang up":
            connection.pg.send_query(stream.select().encode())
        if sql.startswith("-- "):
            connection.close()
            connection = Connection(f"hostile{number}", options)
            continue
        # an aborted transaction answers nothing: a few statements are enough
        if (
            connection.pg.transaction_status == pq.TransactionStatus.INERROR
            and rng.random() < 0.5
        ):
            connection.run("ROLLBACK")
        state, message, _ = connection.run(sql, extended)
        states[state if state[:2] != "XX" else f"{state} {message}"] += 1
        for name, times in calls:
            called[name] += times
            if state == "00000":
                succeeded[name] += times
        for notice in connection.bad_notices:
            faults.append(("notice: " + notice, list(recent)))
        connection.bad_notices.clear()
        if state.startswith("XX") and not connection.is_of_others(message, sql):
            faults.append((f"{state} {message}", list(recent)))
        if state in GONE or connection.pg.status != pq.ConnStatus.OK:
            connection.close()
            connection = Connection(f"hostile{number}", options)
    connection.close()
    results.put((number, statements, called, succeeded, states, faults))


def watch(processes, progress, results, judge, verdict):
    """Until every session has ended; the judge looks now and then at one snapshot."""
    done, looked = {}, time.time()
    while len(done) < len(processes):
        while not results.empty():
            result = results.get()
            done[result[0]] = result
        for number, process in processes.items():
            if number in done:
                continue
            if not process.is_alive() and results.empty():
                verdict.check(
                    f"session {number} lives to its end", False, f"exit code {process.exitcode}"
                )
                done[number] = (number, 0, Counter(), Counter(), Counter(), [])
            elif time.time() - progress[number] > STUCK_S:
                verdict.check(f"session {number} gets its answers", False, judge.activity())
                process.kill()
                done[number] = (number, 0, Counter(), Counter(), Counter(), [])
        if time.time() - looked > 10:
            judge.look(verdict)
            looked = time.time()
        time.sleep(0.2)
    return done.values()


def crowd(numbers, seed, seconds, what, judge, verdict):
    """The sessions of these numbers, all at once; judges and prints what they saw."""
    progress = multiprocessing.Array("d", [time.time()] * (max(numbers) + 1))
    results = multiprocessing.Queue()
    processes = {
        i: multiprocessing.Process(
            target=session, args=(i, seed, seconds, what, progress, results)
        )
        for i in numbers
    }
    for process in processes.values():
        process.start()
    called, succeeded, states, statements = Counter(), Counter(), Counter(), 0
    faults = []
    for number, count, calls, good, seen, found in watch(
        processes, progress, results, judge, verdict
    ):
        statements += count
        called += calls
        succeeded += good
        states += seen
        faults += [(number, *fault) for fault in found]
    for process in processes.values():
        process.join(10)

    print(f"# {statements} statements, {sum(called.values())} calls of {len(called)} functions")
    print("# SQLSTATEs: " + ", ".join(f"{n} {s}" for s, n in states.most_common()))
    for number, fault, recent in faults:
        print(f"# session {number}: {fault}")
        for line in recent:
            print("#   " + line.replace("\n", " ")[:3000])
    verdict.check("no internal error and no leaked reference reaches a session", not faults)
    return statements, called, succeeded


def generator(seconds, seed, sessions, what, judge, verdict):
    statements, called, succeeded = crowd(range(sessions), seed, seconds, what, judge, verdict)
    names = [f["name"] for f in what["functions"]]
    rare = sorted(names, key=lambda name: succeeded[name])[:6]
    print("# least often without an error: " + ", ".join(f"{n} {succeeded[n]}" for n in rare))
    missing = [name for name in names if not called[name]]
    verdict.check("every function of the catalog was called", not missing, " ".join(missing))
    # a trigger function can only be fired
    missing = [name for name in names if not succeeded[name] and name != "foreign_change"]
    if statements > 20000:
        verdict.check("every function has also succeeded", not missing, " ".join(missing))


def sqlsmith(seconds, seed, what, judge, verdict):
    """sqlsmith as a gateway, while one session of ours keeps the tables filled."""
    connection = Connection("judge")
    for sql in (
        "ALTER ROLE hostile_gateway LOGIN",
        "ALTER ROLE hostile_gateway SET statement_timeout = '1 s'",
        "ALTER SYSTEM SET track_functions = 'all'",
        "SELECT pg_reload_conf()",
    ):
        connection.run(sql)
    target = f"host={os.environ['PGHOST']} port={os.environ['PGPORT']} dbname=postgres"
    one = f"sqlsmith --seed=$seed --target='{target} user=hostile_gateway' --exclude-catalog"
    command = f"while :; do {one}; seed=$((seed + 1)); done"
    smith = subprocess.Popen(
        ["timeout", str(seconds), "bash", "-c", f"seed={seed}; {command}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    crowd([1], seed, seconds, what, judge, verdict)
    smith.wait()
    rows = connection.rows(
        "SELECT count(*), sum(calls) FROM pg_stat_user_functions WHERE schemaname = 'turn_liveness'"
    )
    print(f"# functions called, calls by all sessions: {rows}")
    connection.close()


def main():
    arguments = sys.argv[1:]
    smith = arguments[:1] == ["sqlsmith"]
    arguments = arguments[smith:] + [None] * 3
    seconds = int(arguments[0] or 60)
    seed = int(arguments[1] or random.randrange(10**6))
    sessions = int(arguments[2] or 8)
    print(f"# seed {seed}, {seconds} s", flush=True)

    connection = Connection("judge")
    state, message, _ = connection.run(SETUP)
    if state != "00000":
        sys.exit(f"{state} {message}")
    what = catalog(connection)
    verdict = checks.Verdict()
    judge = checks.Judge(Connection)
    judge.begin(connection)
    connection.close()
    if smith:
        sqlsmith(seconds, seed, what, judge, verdict)
    else:
        generator(seconds, seed, sessions, what, judge, verdict)
    judge.end(verdict)
    sys.exit(verdict.close())


if __name__ == "__main__":
    main()
