--
-- The extension, and what the tests that follow use.
--
SET client_min_messages = warning;
CREATE EXTENSION turn_liveness;
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
