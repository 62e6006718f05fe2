"""Hostile statements: each way to reach our functions, and what goes on around them.

A statement does not depend on what the server answered to those before it: the
seed, the session and its number give it again.
"""

import re

from ddl import GRANTS, TABLES, Ddl
from lists import COLUMNS, ROLES
from values import Values

LOCKS = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "READ UNCOMMITTED")

# Several calls in one statement, and in one block: see fill().
SEVERAL = (
    "SELECT {}, {}, {}",
    "SELECT * FROM {} x, {} y LIMIT 50",
    "SELECT {3} FROM generate_series(1, 3)",
    "SELECT 1 FROM hostile.many WHERE i < 4 AND {3} IS NULL",
    "VALUES (({})::text), (({})::text)",
    "WITH a AS MATERIALIZED (SELECT {}), b AS (SELECT {})"
    " SELECT * FROM b LEFT JOIN a ON {} IS NOT NULL LIMIT 9",
    "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {select}",
    "INSERT INTO hostile.sink SELECT left(({})::text, 12)",
    "SELECT * FROM {} LIMIT 1",
    "SELECT ({}).*",
    "{select}; {select}; SELECT 1 / 0",
    "{select}; COMMIT; {select}",
    "SELECT count(*) OVER (PARTITION BY ({3})::text) FROM generate_series(1, 3)",
    "SELECT x FROM ROWS FROM ({}, {}) WITH ORDINALITY x LIMIT 9",
    "MERGE INTO hostile.sink s USING (SELECT ({})::text AS v) n ON s.v = n.v"
    " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (left(n.v, 12))",
    "DELETE FROM hostile.sink",
)
BLOCKS = (
    "BEGIN PERFORM {}; PERFORM {}; EXCEPTION WHEN OTHERS THEN PERFORM {}; END",
    "BEGIN FOR i IN 1..{how often} LOOP BEGIN PERFORM {n};"
    " IF i % 3 = 0 THEN RAISE division_by_zero; END IF;"
    " EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END",
    "BEGIN PERFORM {}; COMMIT; PERFORM {}; ROLLBACK;"
    " PERFORM {}; COMMIT AND CHAIN; PERFORM {}; END",
    "DECLARE r record; BEGIN FOR r IN SELECT {} LOOP PERFORM {}; COMMIT; END LOOP; END",
    "BEGIN PERFORM {}; BEGIN PERFORM {};"
    " RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN PERFORM {};"
    " END; PERFORM {}; RAISE EXCEPTION 'out'; END",
    "BEGIN PERFORM {}; EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(0); END",
)


# What a session finds: roles, a table whose triggers call us, functions that run
# what they are given with the rights of their owner or in a parallel worker.
SETUP = f"""
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS turn_liveness;
DO $$
DECLARE r text;
BEGIN
	FOREACH r IN ARRAY '{{{",".join(ROLES)}}}'::text[] LOOP
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
			EXECUTE 'CREATE ROLE ' || r;
		END IF;
	END LOOP;
END $$;
CREATE SCHEMA IF NOT EXISTS hostile;
GRANT ALL ON SCHEMA hostile TO PUBLIC;
CREATE TABLE IF NOT EXISTS hostile.sink (v text);
CREATE TABLE IF NOT EXISTS hostile.many AS SELECT i FROM generate_series(1, 300) i;
GRANT ALL ON ALL TABLES IN SCHEMA hostile TO PUBLIC;
ANALYZE hostile.many;
CREATE OR REPLACE FUNCTION hostile.run(q text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN EXECUTE q; RETURN 1; END $$;
CREATE OR REPLACE FUNCTION hostile.definer(q text) RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN EXECUTE q; RETURN 1; EXCEPTION WHEN division_by_zero THEN RETURN 2; END $$;
CREATE OR REPLACE FUNCTION hostile.safe(q text) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN EXECUTE q; RETURN 1; END $$;
CREATE OR REPLACE FUNCTION hostile.stable(q text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN EXECUTE q; RETURN 1; END $$;
CREATE OR REPLACE FUNCTION hostile.calls_us() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM turn_liveness.arm_turn('d0', coalesce(NEW.v, 'm'));
	PERFORM turn_liveness.heartbeat('d0');
	RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER calls_us BEFORE INSERT OR UPDATE ON hostile.sink
	FOR EACH ROW WHEN (length(NEW.v) < 9) EXECUTE FUNCTION hostile.calls_us();
{GRANTS};
RESET client_min_messages;
"""


class Statements(Ddl):
    """The stream of one session."""

    def __init__(self, rng, catalog, is_owner):
        self.values = Values(rng)
        self.pick, self.chance = self.values.pick, self.values.chance
        self.rng = rng
        # what changes privileges holds a lock to the transaction's end
        self.functions = [
            f
            for f in catalog["functions"]
            for _ in range(1 if re.match("grant|revoke|change", f["name"]) else 5)
        ]
        self.settings = catalog["settings"]
        self.force_parallel = catalog["force_parallel"]
        self.called = []
        self.later = {}  # number of a statement: those to send before it
        self.kinds = [
            (300, self.single),
            (60, self.several),
            (25, self.block),
            (25, self.inside),
            (30, self.cursor),
            (30, self.prepared),
            (60, self.begin),
            (45, self.savepoint),
            (70, self.end),
            (12, self.two_phase),
            (25, self.role),
            (25, self.set_session),
            (6, self.set_ours),
            (10, self.path),
            (6, self.shadow),
            (8, self.reset),
            (10, self.view),
            (6, self.lock),
            (8, self.alien),
            (6, self.signal),
            (5, self.listen),
            (3, self.grants),
        ]
        if is_owner:
            self.kinds += [(40, self.rolled_back_ddl), (60, self.ddl), (3, self.drop_extension)]
        self.total = sum(weight for weight, _ in self.kinds)

    def next(self):
        """(statement, [(function that it calls, how often)])"""
        self.called = []
        if self.later.get(self.values.n):
            return self.later[self.values.n].pop(0), self.called
        self.values.n += 1
        at = self.rng.random() * self.total
        for weight, kind in self.kinds:
            at -= weight
            if at < 0:
                break
        return kind(), self.called

    # --- calls

    def call(self, times=1):
        function = self.pick(self.functions)
        self.called.append((function["name"], times))
        positional = self.chance(0.3)
        arguments = []
        optional = len(function["arguments"]) - function["defaults"]
        for i, (name, kind) in enumerate(function["arguments"]):
            if i >= optional and self.chance(0.5):
                if positional:
                    break
                continue
            value = self.values.cast(kind, name)
            arguments.append(value if positional else f"{name} => {value}")
        return f"turn_liveness.{function['name']}({', '.join(arguments)})"

    def select(self):
        return f"SELECT {self.call()}" if self.chance(0.6) else f"SELECT * FROM {self.call()}"

    def single(self):
        return self.select()

    def quoted(self, sql):
        return f"$q${sql}$q$"

    def fill(self, form, times=1):
        """Each {} is a call, {3} one that runs three times, {n} one in a loop of n, {select} a query."""

        def piece(found):
            what = found[1]
            return self.select() if what == "select" else self.call(times if what == "n" else int(what or 1))

        return re.sub(r"\{(select|n|\d?)\}", piece, form.replace("{how often}", str(times)))

    def several(self):
        return self.fill(SEVERAL[self.rng.randrange(len(SEVERAL))])

    def block(self):
        """Subtransactions, and commits inside of procedures."""
        form = BLOCKS[self.rng.randrange(len(BLOCKS))]
        return f"DO $b$ {self.fill(form, self.pick((2, 10, 60)) if '{n}' in form else 1)} $b$"

    def inside(self):
        how = self.pick(("run", "definer", "safe", "stable"))
        if self.chance(0.5):
            return f"SELECT hostile.{how}({self.quoted(self.select())})"
        # a parallel worker, where the planner is made to use one
        return (
            f"SELECT sum(hostile.{how}({self.quoted(self.select())})) FROM hostile.many"
            " WHERE i < 3"
        )

    def cursor(self):
        name = f"c{self.rng.randrange(3)}"
        return self.pick(
            (
                lambda: f"DECLARE {name} {self.pick(('', 'SCROLL ', 'NO SCROLL '))}CURSOR"
                f" {self.pick(('', 'WITH HOLD '))}FOR {self.select()}",
                lambda: f"FETCH {self.pick(('1', 'ALL', 'BACKWARD 1', '0', 'LAST'))} FROM {name}",
                lambda: f"MOVE 2 IN {name}",
                lambda: f"CLOSE {self.pick((name, 'ALL'))}",
            )
        )()

    def prepared(self):
        name = f"p{self.rng.randrange(6)}"
        return self.pick(
            (
                lambda: f"PREPARE {name} AS {self.select()}",
                lambda: f"PREPARE {name}(text, text) AS SELECT turn_liveness.has_live_turn($1, $2),"
                f" turn_liveness.arm_turn($1, $2), {self.call()}",
                lambda: f"EXECUTE {name}",
                lambda: f"EXECUTE {name}",
                lambda: f"EXECUTE {name}",
                lambda: f"EXECUTE {name}({self.values.v_text('deployment')}, {self.values.v_text('message_id')})",
                lambda: f"DEALLOCATE {self.pick((name, name, 'ALL'))}",
            )
        )()

    # --- transactions

    def begin(self):
        return (
            f"BEGIN ISOLATION LEVEL {self.pick(LEVELS)}"
            f"{self.pick((', READ WRITE', '', '', ', READ ONLY', ', READ ONLY, DEFERRABLE'))}"
        )

    def savepoint(self):
        name = f"s{self.rng.randrange(3)}"
        return self.pick(
            (
                f"SAVEPOINT {name}",
                f"SAVEPOINT {name}",
                f"ROLLBACK TO {name}",
                f"RELEASE {name}",
                "SELECT 1 / 0",
                "SET TRANSACTION READ ONLY",
            )
        )

    def end(self):
        return self.pick(
            ("COMMIT", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "END")
        )

    def two_phase(self):
        gid = f"hostile{self.rng.randrange(2)}"
        return self.pick(
            (
                f"PREPARE TRANSACTION '{gid}'",
                f"COMMIT PREPARED '{gid}'",
                f"ROLLBACK PREPARED '{gid}'",
                f"COMMIT PREPARED '{gid}'",
                f"BEGIN; {self.select()}; PREPARE TRANSACTION '{gid}'",
            )
        )

    # --- what the session is like

    def role(self):
        role = self.pick(ROLES + ("hostile_gateway",) + ("NONE",) * 8)
        if self.chance(0.1):
            return f"SET SESSION AUTHORIZATION {'DEFAULT' if role == 'NONE' else role}"
        return f"SET {self.pick(('', 'LOCAL '))}ROLE {role}"

    def set_session(self):
        name, values = self.pick(
            (
                ("statement_timeout", ("'1ms'", "'10ms'", "'3s'", "DEFAULT", "DEFAULT")),
                ("lock_timeout", ("'1ms'", "'20ms'", "DEFAULT", "DEFAULT")),
                (self.force_parallel, ("on", "regress", "off", "DEFAULT")),
                ("plan_cache_mode", ("force_generic_plan", "force_custom_plan", "DEFAULT")),
                ("synchronous_commit", ("off", "local", "on", "DEFAULT")),
                (
                    "default_transaction_isolation",
                    ("'serializable'", "'repeatable read'", "DEFAULT", "DEFAULT"),
                ),
                ("default_transaction_read_only", ("on", "off", "off", "DEFAULT")),
                ("default_transaction_deferrable", ("on", "DEFAULT")),
                ("session_replication_role", ("replica", "local", "DEFAULT")),
                ("enable_indexscan", ("off", "DEFAULT")),
                ("enable_seqscan", ("off", "DEFAULT")),
                ("work_mem", ("'64kB'", "DEFAULT")),
                ("parallel_setup_cost", ("0", "DEFAULT")),
                ("max_stack_depth", ("'100kB'", "'7MB'", "DEFAULT", "DEFAULT")),
                ("temp_buffers", ("100", "DEFAULT")),
                ("row_security", ("off", "DEFAULT")),
                ("check_function_bodies", ("off", "DEFAULT")),
                ("timezone", ("'Asia/Kathmandu'", "DEFAULT")),
                ("intervalstyle", ("iso_8601", "sql_standard", "DEFAULT")),
                ("extra_float_digits", ("-15", "DEFAULT")),
                ("datestyle", ("'SQL, DMY'", "DEFAULT")),
                ("bytea_output", ("escape", "DEFAULT")),
                ("default_toast_compression", ("pglz", "DEFAULT")),
                ("jit_above_cost", ("0", "DEFAULT")),
            )
        )
        return f"SET {self.pick(('', 'LOCAL '))}{name} = {self.pick(values)}"

    def set_ours(self):
        return f"SET {self.pick(('', 'LOCAL '))}{self.values.setting(*self.pick(self.settings))}"

    def path(self):
        return "SET search_path = " + self.pick(
            (
                "turn_liveness",
                "pg_temp, turn_liveness, pg_catalog",
                "hostile, public, turn_liveness",
                "''",
                "pg_temp, hostile, pg_catalog",
                "DEFAULT",
                "DEFAULT",
                "nowhere",
            )
        )

    def shadow(self):
        """What a search_path may find in the place of ours and of the server's."""
        where = self.pick(("pg_temp", "hostile"))
        table = self.pick(TABLES)
        return self.pick(
            (
                f"CREATE TEMP TABLE IF NOT EXISTS {table} (LIKE turn_liveness.{table} INCLUDING ALL)",
                f"CREATE TEMP TABLE IF NOT EXISTS {table} (deployment int, reply_id text)",
                f"DROP TABLE IF EXISTS pg_temp.{table}",
                f"CREATE OR REPLACE FUNCTION {where}.clock_now() RETURNS timestamptz LANGUAGE sql"
                " AS 'SELECT now() / 0'",
                f"CREATE OR REPLACE FUNCTION {where}.lies(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true'",
                f"CREATE OPERATOR {where}.= (LEFTARG = text, RIGHTARG = text, PROCEDURE = {where}.lies)",
                f"DROP OPERATOR IF EXISTS {where}.= (text, text)",
                f"CREATE DOMAIN {where}.text AS pg_catalog.text CHECK (false)",
                f"DROP DOMAIN IF EXISTS {where}.text CASCADE",
                f"CREATE TYPE {where}.election AS ENUM ('lost', 'won')",
                f"DROP TYPE IF EXISTS {where}.election CASCADE",
            )
        )

    def reset(self):
        return self.pick(
            (
                "RESET ALL",
                "RESET ALL",
                "DISCARD ALL",
                "DISCARD TEMP",
                "DISCARD PLANS",
                "DISCARD SEQUENCES",
                "RESET ROLE",
                "-- disconnect",
                "-- hang up",
            )
        )

    # --- beside the functions

    def view(self):
        what = self.pick(("turns", "turns", "replies", "late_replies", "stat", "turn", "reply"))
        where = self.pick(
            (
                "",
                " WHERE deployment = 'd0'",
                " WHERE conversation_id IN ('c0', 'd1')",
                " WHERE state = 'lapsed'",
                " WHERE reply_id > 5",
                " WHERE platform = 'web'",
            )
        )
        return self.pick(
            (
                f"SELECT * FROM turn_liveness.{what}{where} LIMIT 20",
                f"SELECT count(*) FROM turn_liveness.{what} x{where}",
                f"SELECT x, {self.call(5)} FROM turn_liveness.{what} x{where} LIMIT 5",
                f"EXPLAIN (ANALYZE, TIMING OFF) SELECT * FROM turn_liveness.{what}{where}",
                f"SELECT s FROM turn_liveness.turn t, turn_liveness.turn_status(t) s{where} LIMIT 20",
                f"CREATE TEMP TABLE IF NOT EXISTS kept AS SELECT * FROM turn_liveness.{what}",
            )
        )

    def lock(self):
        table = self.pick(TABLES)
        return self.pick(
            (
                f"LOCK TABLE turn_liveness.{table} IN {self.pick(LOCKS)} MODE{self.pick(('', ' NOWAIT'))}",
                f"SELECT 1 FROM turn_liveness.{table} LIMIT 3 FOR {self.pick(('UPDATE', 'KEY SHARE', 'SHARE'))}"
                f"{self.pick(('', ' NOWAIT', ' SKIP LOCKED'))}",
                f"SELECT pg_advisory_lock({self.rng.randrange(5)}), pg_advisory_unlock_all()",
                f"SELECT pg_try_advisory_xact_lock({self.rng.randrange(5)}, 0)",
            )
        )

    def alien(self):
        """Rows of others: what the functions refuse the tables refuse too."""
        row = self.values.alien_row()
        columns = ", ".join(sorted(COLUMNS))
        return self.pick(
            (
                "INSERT INTO turn_liveness.turn SELECT (jsonb_populate_record(NULL::turn_liveness.turn,"
                f" '{{{row}}}')).* ON CONFLICT DO NOTHING",
                f"UPDATE turn_liveness.turn t SET ({columns}) = (SELECT {columns} FROM"
                f" jsonb_populate_record(t, '{{{self.values.turn_members(2)}}}') n)"
                " WHERE deployment LIKE 'alien%' AND outcome IS NULL",
                "DELETE FROM turn_liveness.turn WHERE deployment LIKE 'alien%'",
                "UPDATE turn_liveness.turn SET worker = worker WHERE outcome IS NULL",
                "CREATE TEMP TABLE IF NOT EXISTS others (LIKE turn_liveness.turn);"
                " CREATE OR REPLACE TRIGGER f AFTER INSERT ON others"
                " EXECUTE FUNCTION turn_liveness.foreign_change(); INSERT INTO others DEFAULT VALUES",
            )
        )

    def signal(self):
        def one(where):
            return (
                f"(SELECT pid FROM pg_stat_activity WHERE {where}"
                " AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1)"
            )

        session, ours = "application_name LIKE 'hostile%'", "backend_type LIKE 'turn_liveness%'"
        return self.pick(
            (
                f"SELECT pg_cancel_backend({one(session)})",
                f"SELECT pg_cancel_backend({one(session)})",
                f"SELECT pg_terminate_backend({one(session)})",
                f"SELECT pg_cancel_backend({one(ours)})",
                "SELECT pg_cancel_backend(pg_backend_pid())",
            )
        )

    def listen(self):
        return self.pick(
            (
                "LISTEN turn_liveness",
                "UNLISTEN *",
                "NOTIFY turn_liveness, '{\"lapsed\":[\"d0\"]}'",
                "SELECT pg_notify('turn_liveness', repeat('x', 7999))",
            )
        )

    def grants(self):
        role, kind = self.pick(ROLES), self.pick(("gateway", "worker", "monitor"))
        self.called.append((f"grant_{kind}", 1))
        return self.pick((f"SELECT turn_liveness.grant_{kind}('{role}')", GRANTS, GRANTS))
