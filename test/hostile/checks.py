"""The judge: what must hold while hostile sessions run, and afterwards."""

import os
import re
import time

from ddl import TABLES
from statements import SETUP

# Each query finds what breaks its sentence, in one snapshot. Rows of aliens are
# what others wrote past the functions.
INVARIANTS = {
    "each ended turn has one terminal reply, with its id": """
        SELECT t.deployment, t.message_id, t.outcome, t.reply_id, count(r.reply_id)
        FROM turn_liveness.turn t
        LEFT JOIN turn_liveness.reply r ON r.conversation_id = t.conversation_id AND r.reply_id = t.reply_id
            AND t.message_id = ANY (r.message_ids) AND r.deployment = t.deployment AND r.outcome <> 'u'
        WHERE t.outcome IS NOT NULL AND t.deployment NOT LIKE 'alien%'
        GROUP BY 1, 2, 3, 4 HAVING count(r.reply_id) <> 1""",
    "no turn is in two terminal replies": """
        SELECT r.deployment, m, array_agg(r.reply_id)
        FROM turn_liveness.reply r, unnest(r.message_ids) m
        WHERE r.outcome <> 'u' AND r.deployment NOT LIKE 'alien%'
        GROUP BY 1, 2 HAVING count(*) > 1""",
    "no owed turn has a terminal reply": """
        SELECT t.deployment, t.message_id, r.reply_id
        FROM turn_liveness.turn t
        JOIN turn_liveness.reply r ON r.conversation_id = t.conversation_id AND r.outcome <> 'u'
            AND t.message_id = ANY (r.message_ids) AND r.deployment = t.deployment
        WHERE t.outcome IS NULL AND t.deployment NOT LIKE 'alien%'""",
    "replies and delivery rows match": """
        SELECT * FROM turn_liveness.reply r FULL JOIN turn_liveness.delivery d
            ON d.reply_id = r.reply_id AND d.conversation_id = r.conversation_id AND d.platform = r.platform
        WHERE r.reply_id IS NULL OR d.reply_id IS NULL""",
    "an update comes before the terminal reply of its turn": """
        SELECT u.deployment, u.message_ids, u.reply_id, t.reply_id
        FROM turn_liveness.reply u
        JOIN turn_liveness.turn t ON t.deployment = u.deployment AND t.message_id = u.message_ids[1]
        WHERE u.outcome = 'u' AND t.outcome IS NOT NULL AND u.reply_id > t.reply_id""",
    "a delivered reply is not held, an ended one keeps no routing": """
        SELECT 1 FROM turn_liveness.turn
        WHERE outcome IS NOT NULL AND routing IS NOT NULL AND deployment NOT LIKE 'alien%'""",
}

# What the log must not say. The owner's session (hostile0) sets the sequence back, in
# transactions that it rolls back: what it sweeps there it cannot fail.
BAD_LOG = re.compile(
    r"PANIC|TRAP:|was terminated by signal|leak|AddressSanitizer|runtime error:"
    r"|stuck spinlock|\bXX\d\d\d\b|exited with exit code [^01]"
    r"|^(?!.* hostile0 ).*could not fail"
)
# Internal errors of the parser, intervaltypmodout() and acldefault(), which sqlsmith
# reaches without any function of ours.
SERVERS_OWN = re.compile(
    r"STATEMENT:|failed to find conversion function from unknown to"
    r"|invalid INTERVAL typmod: 0x|unrecognized objtype abbreviation: "
)


def is_bad(line):
    return BAD_LOG.search(line) and not SERVERS_OWN.search(line)


class Verdict:
    def __init__(self):
        self.passed = self.failed = 0
        self.seen = set()

    def check(self, what, is_good, detail=""):
        """Count it; a check that is made again and again counts once."""
        if is_good and what in self.seen:
            return
        self.seen.add(what)
        if is_good:
            self.passed += 1
        else:
            self.failed += 1
        print(("ok - " if is_good else "not ok - ") + what, flush=True)
        if not is_good and detail:
            for line in str(detail)[:4000].split("\n"):
                print("#   " + line, flush=True)

    def close(self):
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0


class Judge:
    def __init__(self, connect):
        self.connect = connect
        self.log = os.path.join(os.environ.get("TL_SERVER", ""), "log")

    def begin(self, connection):
        self.started = connection.rows("SELECT pg_postmaster_start_time()")
        self.log_at = os.path.getsize(self.log) if os.path.exists(self.log) else 0

    def activity(self):
        """What each session does: for one that hangs."""
        connection = self.connect("judge")
        rows = connection.rows(
            "SELECT pid, application_name, backend_type, state, wait_event_type, wait_event,"
            " pg_blocking_pids(pid), left(query, 300) FROM pg_stat_activity"
        )
        connection.close()
        return "\n".join(" ".join(str(v) for v in row) for row in rows)

    def look(self, verdict):
        """The invariants, in one snapshot, beside whatever goes on."""
        connection = self.connect("judge", "-c lock_timeout=500ms -c statement_timeout=60s")
        connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        for what, query in INVARIANTS.items():
            connection.run("SAVEPOINT s")
            state, message, _ = connection.run(
                f"LOCK TABLE turn_liveness.turn, turn_liveness.reply,"
                f" turn_liveness.delivery IN ACCESS SHARE MODE"
            )
            # the owner's changes may be in the way
            if state != "00000":
                connection.run("ROLLBACK TO s")
                break
            state, message, result = connection.run(query + " LIMIT 10")
            if state == "00000":
                rows = [
                    [result.get_value(i, j) for j in range(result.nfields)]
                    for i in range(result.ntuples)
                ]
                verdict.check(what, not rows, "\n".join(map(str, rows)))
            else:
                connection.run("ROLLBACK TO s")
        connection.close()

    def tidy(self, connection):
        """Take back what the owner's statements left, and end what is open."""
        for (gid,) in connection.rows("SELECT gid FROM pg_prepared_xacts"):
            connection.run(f"ROLLBACK PREPARED '{gid}'")
        for sql in (
            ["ALTER SCHEMA hidden RENAME TO turn_liveness"]
            + [
                f"ALTER DATABASE postgres RESET turn_liveness.{s}"
                for s in ("sweep", "enabled", "accept")
            ]
            + ["DROP PUBLICATION IF EXISTS hostile", "DROP TABLE IF EXISTS hostile.child"]
            + [f"ALTER TABLE turn_liveness.hidden RENAME TO {t}" for t in TABLES]
        ):
            connection.run(sql)
        for t in TABLES:
            for column in ("deployment", "reply_id", "conversation_id", "kept_at", "is_open"):
                connection.run(f"ALTER TABLE turn_liveness.{t} RENAME COLUMN hidden TO {column}")
            for sql in (
                "ALTER TABLE {t} DROP COLUMN IF EXISTS hostile",
                "ALTER TABLE {t} DROP CONSTRAINT IF EXISTS hostile",
                "DROP INDEX IF EXISTS turn_liveness.hostile_{n}",
                "ALTER TABLE {t} OWNER TO postgres",
                "ALTER TABLE {t} SET LOGGED",
                "ALTER TABLE {t} REPLICA IDENTITY DEFAULT",
                "ALTER TABLE {t} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
                "ALTER TABLE {t} ENABLE TRIGGER ALL",
                "DROP RULE IF EXISTS hostile ON {t}",
                "DROP TRIGGER IF EXISTS hostile ON {t}",
                "GRANT ALL ON {t} TO postgres",
                "REINDEX TABLE {t}",
            ):
                connection.run(sql.format(t=f"turn_liveness.{t}", n=t))
        for (index,) in connection.rows(
            "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid"
        ):
            connection.run(f"DROP INDEX {index}")

    def wait(self, connection, query, before=""):
        """Until the query says yes, for three minutes."""
        end = time.time() + 180
        while True:
            if before:
                connection.run(before)
            rows = connection.rows(query)
            if rows and rows[0][0] == "t":
                return True
            if time.time() > end:
                return False
            time.sleep(0.1)

    def end(self, verdict):
        connection = self.connect("judge")
        self.wait(
            connection,
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'hostile%'",
        )
        self.tidy(connection)
        # with the database's settings as they are now
        connection.close()
        connection = self.connect("judge")
        state, message, _ = connection.run(SETUP)
        verdict.check("the extension is whole, or can be made anew", state == "00000", message)
        self.look(verdict)
        preload = connection.rows("SHOW shared_preload_libraries")[0][0] != ""
        # an ordinary life after it all
        connection.run("DELETE FROM turn_liveness.turn WHERE deployment LIKE 'alien%'")
        if preload:
            verdict.check(
                "the worker runs",
                self.wait(connection, "SELECT worker_state = 'running' FROM turn_liveness.stat"),
                connection.rows("SELECT worker_state, worker_problem FROM turn_liveness.stat"),
            )
        name = f"probe{time.time()}"
        for sql in (
            f"arm_turn('{name}', 'm')",
            f"heartbeat('{name}', '{{m}}')",
            f"commit_terminal_reply('{name}', '{{m}}', '{{}}')",
            f"arm_turn('{name}', 'n', silence => '1 ms', admission => '1 ms')",
            "sweep_expired_turns()",
        ):
            state, message, _ = connection.run(f"SELECT turn_liveness.{sql}")
            verdict.check(
                f"afterwards: {sql.split('(')[0]}", state == "00000", f"{sql}: {message}"
            )
        verdict.check(
            "afterwards: a turn that lapses is failed",
            self.wait(
                connection,
                f"SELECT count(*) = 2 FROM turn_liveness.reply WHERE deployment = '{name}'",
                "" if preload else "SELECT turn_liveness.sweep_expired_turns()",
            ),
        )
        if preload:
            # a session's end is settled by the worker
            verdict.check(
                "no deployment stays attached",
                self.wait(connection, "SELECT attach_used = 0 FROM turn_liveness.stat"),
                connection.rows("SELECT attach_used FROM turn_liveness.stat"),
            )
            self.leases(connection, verdict)
        verdict.check(
            "no session has left a lock",
            self.wait(
                connection, "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"
            ),
        )
        self.amcheck(connection, verdict)
        verdict.check(
            "the server did not restart",
            connection.rows("SELECT pg_postmaster_start_time()") == self.started,
        )
        connection.close()
        self.read_log(verdict)

    def leases(self, connection, verdict):
        """Once nothing is owed, the beat of a name gives its lease back. What is left has
        a name that retention or DROP EXTENSION has taken."""
        connection.run(
            "SELECT turn_liveness.fail_deployment(d) FROM"
            " (SELECT DISTINCT deployment d FROM turn_liveness.turn WHERE outcome IS NULL) x"
        )
        verdict.check(
            "nothing is owed at the end",
            self.wait(
                connection, "SELECT count(*) = 0 FROM turn_liveness.turn WHERE outcome IS NULL"
            ),
        )
        before = int(connection.rows("SELECT leases_used FROM turn_liveness.stat")[0][0])
        connection.rows(
            "SELECT turn_liveness.heartbeat(deployment), turn_liveness.heartbeat(deployment, ids)"
            " FROM (SELECT deployment, array_agg(message_id) ids FROM turn_liveness.turn GROUP BY 1) x"
        )
        after = int(connection.rows("SELECT leases_used FROM turn_liveness.stat")[0][0])
        print(f"# leases left: {before}, {after} once each name has beaten")
        verdict.check(
            "beats for what owes nothing take no lease", after <= before, f"{before} {after}"
        )

    def amcheck(self, connection, verdict):
        state, message, _ = connection.run("CREATE EXTENSION IF NOT EXISTS amcheck")
        if state != "00000":
            print(f"# amcheck is not in this server: {message}")
            return
        for sql in (
            "SELECT bt_index_check(indexrelid, true) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
            " WHERE c.relnamespace = 'turn_liveness'::regnamespace",
            "SELECT v.* FROM pg_class c, verify_heapam(c.oid) v"
            " WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'r'",
        ):
            state, message, result = connection.run(sql)
            what = "indexes" if "bt_index" in sql else "tables"
            rows = result.ntuples if state == "00000" and what == "tables" else 0
            verdict.check(f"amcheck of our {what}", state == "00000" and rows == 0, message)

    def read_log(self, verdict):
        if not os.path.exists(self.log):
            return
        with open(self.log, errors="replace") as file:
            file.seek(self.log_at)
            bad = [line.rstrip()[:1000] for line in file if is_bad(line)]
        verdict.check(
            "the server's log tells of no crash, assertion, internal error or leak",
            not bad,
            "\n".join(bad[:20]),
        )
