--
-- The extension as an object: created, refused, dropped, created again.
-- Last in this file stand the helpers of the tests that follow.
--
\pset null '(null)'
SET client_min_messages = warning;

-- a schema of that name that is there already is not taken over
CREATE SCHEMA turn_liveness;
\set VERBOSITY sqlstate
CREATE EXTENSION turn_liveness;
\set VERBOSITY default
DROP SCHEMA turn_liveness;

-- created and rolled back: nothing stays
BEGIN;
CREATE EXTENSION turn_liveness;
SELECT turn_liveness.arm_turn('create-1', 'm1');
ROLLBACK;
SELECT to_regnamespace('turn_liveness') IS NULL AS nothing_left;

CREATE EXTENSION turn_liveness;
SELECT e.extrelocatable, n.nspname
  FROM pg_extension e
  JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'turn_liveness';

\set VERBOSITY sqlstate
-- once is enough
CREATE EXTENSION turn_liveness;
-- its place is fixed, and its parts cannot be taken out one by one
ALTER EXTENSION turn_liveness SET SCHEMA public;
DROP SCHEMA turn_liveness CASCADE;
DROP TABLE turn_liveness.turn CASCADE;
DROP FUNCTION turn_liveness.heartbeat(text, text[]);
\set VERBOSITY default

-- it works, and what it knows is gone when it is gone
SELECT turn_liveness.arm_turn('create-1', 'm1'), turn_liveness.arm_turn('create-1', 'm2');
SELECT turn_liveness.heartbeat('create-1');
SELECT turn_liveness.heartbeat('create-1');

-- a drop that is rolled back loses nothing
BEGIN;
DROP EXTENSION turn_liveness;
ROLLBACK;
SELECT turn_liveness.heartbeat('create-1');
SELECT turn_liveness.commit_terminal_reply('create-1', ARRAY['m2'], '{"content": "done"}');

DROP EXTENSION turn_liveness;
SELECT to_regnamespace('turn_liveness') IS NULL AS nothing_left;
SELECT count(*) FROM pg_proc WHERE probin LIKE '%turn_liveness%';

-- created again in the same session: no count that a beat remembered, no turn, no reply of before
CREATE EXTENSION turn_liveness;
SELECT turn_liveness.heartbeat('create-1');
SELECT count(*) AS turns FROM turn_liveness.turns;
SELECT count(*) AS replies FROM turn_liveness.replies;
SELECT count(*) AS read FROM turn_liveness.read_replies(ARRAY['create-1']);
SELECT turn_liveness.arm_turn('create-1', 'm1');
SELECT turn_liveness.heartbeat('create-1');
SELECT turn_liveness.discharge_turn('create-1', 'm1');

-- nothing without a comment for \df+ and \dv+
SELECT p.proname AS function_without_comment FROM pg_proc p
 WHERE p.pronamespace = 'turn_liveness'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.relname AS view_without_comment FROM pg_class c
 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' AND obj_description(c.oid, 'pg_class') IS NULL;

--
-- helpers of the tests
--
CREATE SCHEMA tl_test;
GRANT USAGE ON SCHEMA tl_test TO PUBLIC;

-- the liveness clock of this database moves on at once: tests never sleep
CREATE FUNCTION tl_test.advance(interval) RETURNS void
AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT;

-- what a statement gives: its first value, or SQLSTATE, message and hint
CREATE FUNCTION tl_test.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	value text; state text; message text; hint text;
BEGIN
	EXECUTE statement INTO value;
	RETURN 'ok: ' || coalesce(value, '(null)');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN state || ': ' || message || CASE WHEN hint <> '' THEN ' HINT: ' || hint ELSE '' END;
END $$;

-- just the SQLSTATE, where the message is the server's own
CREATE FUNCTION tl_test.code(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	value text;
BEGIN
	EXECUTE statement INTO value;
	RETURN 'ok: ' || coalesce(value, '(null)');
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;

-- the same for a command that returns nothing
CREATE FUNCTION tl_test.run(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;

-- everything that is stored, to show that a refused call wrote nothing
CREATE FUNCTION tl_test.rows() RETURNS text LANGUAGE sql AS $$
	SELECT format('turn %s, reply %s, delivery %s, late %s',
				  (SELECT count(*) FROM turn_liveness.turn), (SELECT count(*) FROM turn_liveness.reply),
				  (SELECT count(*) FROM turn_liveness.delivery), (SELECT count(*) FROM turn_liveness.late_reply))
$$;

-- a payload without its timestamp, which has to be the database's clock in milliseconds
CREATE FUNCTION tl_test.body(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT CASE WHEN payload ->> 'timestamp' IS NULL THEN payload
				WHEN (payload ->> 'timestamp')::numeric BETWEEN extract(epoch FROM clock_timestamp()) * 1000 - 600000
															AND extract(epoch FROM clock_timestamp()) * 1000 + 1000
					 AND (payload ->> 'timestamp')::numeric % 1 = 0
				THEN payload || '{"timestamp": "good"}' ELSE payload END
$$;

-- how far ahead an instant is, in steps of ten seconds
CREATE FUNCTION tl_test.ahead(instant timestamptz) RETURNS integer LANGUAGE sql AS $$
	SELECT (round(extract(epoch FROM instant - clock_timestamp()) / 10) * 10)::integer
$$;
