"""What the owner of the database does to our objects while others call us."""

TABLES = ("turn", "reply", "delivery", "late_reply")

GRANTS = """SELECT turn_liveness.grant_gateway('hostile_gateway'),
turn_liveness.grant_worker('hostile_worker'), turn_liveness.grant_monitor('hostile_monitor')"""


class Ddl:
    """Statements of the owner's session."""

    def change(self):
        """A change of our objects, and the statement that takes it back."""
        table = self.pick(TABLES)
        t = f"turn_liveness.{table}"
        kept = self.pick(("deployment", "reply_id", "conversation_id", "kept_at", "is_open"))
        f = self.pick(self.functions)
        return self.pick(
            (
                (
                    f"ALTER TABLE {t} ADD COLUMN hostile int",
                    f"ALTER TABLE {t} DROP COLUMN IF EXISTS hostile",
                ),
                (
                    f"ALTER TABLE {t} ADD COLUMN hostile int DEFAULT 3",
                    f"ALTER TABLE {t} DROP COLUMN IF EXISTS hostile",
                ),
                (
                    f"ALTER TABLE {t} ADD COLUMN hostile int NOT NULL DEFAULT 3",
                    f"ALTER TABLE {t} DROP COLUMN IF EXISTS hostile",
                ),
                (
                    f"ALTER TABLE {t} ADD CONSTRAINT hostile CHECK (length({t}::text) < 50)",
                    f"ALTER TABLE {t} DROP CONSTRAINT IF EXISTS hostile",
                ),
                (
                    f"CREATE INDEX IF NOT EXISTS hostile_{table} ON {t} (hostile.stable('SELECT 1'))",
                    f"DROP INDEX IF EXISTS turn_liveness.hostile_{table}",
                ),
                (
                    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS hostile_{table} ON {t} ({kept})",
                    f"DROP INDEX CONCURRENTLY IF EXISTS turn_liveness.hostile_{table}",
                ),
                (
                    f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS hostile_{table} ON {t} ({kept})",
                    f"DROP INDEX IF EXISTS turn_liveness.hostile_{table}",
                ),
                (
                    f"ALTER TABLE {t} RENAME TO hidden",
                    f"ALTER TABLE turn_liveness.hidden RENAME TO {table}",
                ),
                (
                    f"ALTER TABLE {t} RENAME COLUMN {kept} TO hidden",
                    f"ALTER TABLE {t} RENAME COLUMN hidden TO {kept}",
                ),
                (
                    "ALTER SCHEMA turn_liveness RENAME TO hidden",
                    "ALTER SCHEMA hidden RENAME TO turn_liveness",
                ),
                (
                    f"ALTER TABLE {t} OWNER TO hostile_gateway",
                    f"ALTER TABLE {t} OWNER TO postgres",
                ),
                (f"ALTER TABLE {t} SET UNLOGGED", f"ALTER TABLE {t} SET LOGGED"),
                (
                    f"ALTER TABLE {t} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
                    f"ALTER TABLE {t} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
                ),
                (f"ALTER TABLE {t} DISABLE TRIGGER ALL", f"ALTER TABLE {t} ENABLE TRIGGER ALL"),
                (
                    f"ALTER TABLE {t} REPLICA IDENTITY NOTHING",
                    f"ALTER TABLE {t} REPLICA IDENTITY DEFAULT",
                ),
                (
                    "CREATE PUBLICATION hostile FOR ALL TABLES",
                    "DROP PUBLICATION IF EXISTS hostile",
                ),
                (
                    f"CREATE RULE hostile AS ON UPDATE TO {t} DO INSTEAD NOTHING",
                    f"DROP RULE IF EXISTS hostile ON {t}",
                ),
                (
                    f"CREATE TRIGGER hostile BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION hostile.calls_us()",
                    f"DROP TRIGGER IF EXISTS hostile ON {t}",
                ),
                (
                    f"CREATE TABLE IF NOT EXISTS hostile.child () INHERITS ({t})",
                    "DROP TABLE IF EXISTS hostile.child",
                ),
                (
                    f"ALTER FUNCTION turn_liveness.{f['name']} PARALLEL SAFE",
                    f"ALTER FUNCTION turn_liveness.{f['name']} PARALLEL UNSAFE",
                ),
                (
                    f"ALTER FUNCTION turn_liveness.{f['name']} SET work_mem = '64kB'",
                    f"ALTER FUNCTION turn_liveness.{f['name']} RESET ALL",
                ),
                (
                    "ALTER DATABASE postgres SET turn_liveness.sweep = off",
                    "ALTER DATABASE postgres RESET turn_liveness.sweep",
                ),
                (
                    "ALTER DATABASE postgres SET turn_liveness.enabled = off",
                    "ALTER DATABASE postgres RESET turn_liveness.enabled",
                ),
                (
                    "ALTER DATABASE postgres SET turn_liveness.accept = off",
                    "ALTER DATABASE postgres RESET turn_liveness.accept",
                ),
                (f"REVOKE ALL ON {t} FROM postgres", f"GRANT ALL ON {t} TO postgres"),
                (
                    f"ALTER TABLE {t} CLUSTER ON {table}_pkey",
                    f"ALTER TABLE {t} SET WITHOUT CLUSTER",
                ),
                (
                    f"ALTER TABLE {t} SET (autovacuum_enabled = off, toast_tuple_target = 128)",
                    f"ALTER TABLE {t} RESET (autovacuum_enabled, toast_tuple_target)",
                ),
            )
        )

    def rolled_back_ddl(self):
        """Done and undone in one transaction, with calls that see it."""
        i = self.rng.randrange(12)
        t = f"turn_liveness.{self.pick(TABLES)}"
        index = self.pick(
            (
                "turn_owed_deployment",
                "turn_owed_check",
                "turn_owed_lapsed",
                "turn_owed_conversation",
                "delivery_open_platform",
                "delivery_dead",
                "delivery_parked",
                "late_reply_kept",
            )
        )
        change = (
            f"DROP INDEX turn_liveness.{index}",
            f"ALTER INDEX turn_liveness.{index} RENAME TO hidden",
            f"ALTER TABLE {t} DROP COLUMN conversation_id CASCADE",
            f"TRUNCATE {t}",
            "DROP EXTENSION turn_liveness CASCADE; CREATE EXTENSION turn_liveness",
            "DROP EXTENSION turn_liveness CASCADE",
            "ALTER SEQUENCE turn_liveness.reply_id_seq RESTART WITH 1",
            f"ALTER TABLE {t} ALTER COLUMN conversation_id TYPE varchar(3)",
            "ALTER SEQUENCE turn_liveness.reply_id_seq MAXVALUE 9223372036854775807 RESTART WITH 9223372036854775806",
            f"DROP TABLE {t} CASCADE",
            "DROP SEQUENCE turn_liveness.reply_id_seq CASCADE",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'turn_liveness.turn_pkey'::regclass",
        )[i]
        calls = "; ".join(self.select() for _ in range(self.pick((1, 2, 3))))
        inner = (
            f"SAVEPOINT a; {change}; {calls}; ROLLBACK TO a; {self.select()}"
            if self.chance(0.3)
            else f"{change}; {calls}"
        )
        return f"ROLLBACK; BEGIN; {inner}; ROLLBACK"

    def ddl(self):
        t = f"turn_liveness.{self.pick(TABLES)}"
        form = self.rng.randrange(10)
        if form < 5:
            do, undo = self.change()
            # what cannot stand in a transaction cannot stand in one string
            if self.chance(0.3) and "CONCURRENTLY" not in do + undo:
                return f"{do}; {self.select()}; {undo}"
            # once more later, should a lock have been in its way
            for n in (self.rng.randrange(1, 6), 40):
                self.later.setdefault(self.values.n + n, []).extend(
                    ("ROLLBACK", "RESET SESSION AUTHORIZATION", "RESET ALL", undo)
                )
            return do
        if form == 5:
            return self.pick(
                (
                    f"REINDEX TABLE CONCURRENTLY {t}",
                    f"REINDEX TABLE {t}",
                    f"REINDEX INDEX CONCURRENTLY {t}_pkey",
                )
            )
        if form == 6:
            return self.pick(
                (
                    f"VACUUM {t}",
                    f"VACUUM FULL {t}",
                    f"VACUUM (FREEZE, ANALYZE) {t}",
                    f"CLUSTER {t} USING {t.split('.')[1]}_pkey",
                    f"ANALYZE {t}",
                    "CHECKPOINT",
                )
            )
        if form == 7:
            return self.pick(
                (
                    "ALTER EXTENSION turn_liveness UPDATE",
                    "ALTER EXTENSION turn_liveness SET SCHEMA hostile",
                    f"ALTER EXTENSION turn_liveness DROP TABLE {t}",
                    f"ALTER EXTENSION turn_liveness ADD TABLE {t}",
                    "SELECT pg_switch_wal()",
                    "SELECT pg_reload_conf()",
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'turn_liveness%'",
                )
            )
        return GRANTS

    def drop_extension(self):
        return self.pick(
            (
                "ROLLBACK; DROP EXTENSION turn_liveness CASCADE; CREATE EXTENSION turn_liveness; "
                + GRANTS,
                f"ROLLBACK; BEGIN; DROP EXTENSION turn_liveness CASCADE; SAVEPOINT s; {self.select()};"
                " ROLLBACK; CREATE EXTENSION IF NOT EXISTS turn_liveness",
                f"ROLLBACK; BEGIN; DROP EXTENSION turn_liveness CASCADE; CREATE EXTENSION turn_liveness; {self.select()};"
                f" {self.select()}; COMMIT; {GRANTS}",
            )
        )
