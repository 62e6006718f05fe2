--
-- Which role may do what: PUBLIC nothing, each role exactly its own; hostile paths, names, triggers and rules.
--
\pset null '(null)'
CREATE ROLE tl_nobody;
CREATE ROLE tl_gateway;
CREATE ROLE tl_worker;
CREATE ROLE tl_monitor;

-- nothing to PUBLIC
SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'turn_liveness'::regnamespace AND has_function_privilege('tl_nobody', p.oid, 'EXECUTE');
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v')
   AND (has_table_privilege('tl_nobody', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') OR has_any_column_privilege('tl_nobody', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'));
SELECT has_schema_privilege('tl_nobody', 'turn_liveness', 'USAGE'), has_schema_privilege('tl_nobody', 'turn_liveness', 'CREATE');
SET ROLE tl_nobody;
SELECT tl_test.code($$SELECT turn_liveness.heartbeat('priv-1')$$), tl_test.code($$SELECT * FROM turn_liveness.turns$$), tl_test.code($$SELECT turn_liveness.grant_gateway('tl_nobody')$$);
RESET ROLE;

-- only the owner grants, and never to PUBLIC
SELECT turn_liveness.grant_gateway('tl_gateway'), turn_liveness.grant_worker('tl_worker'), turn_liveness.grant_monitor('tl_monitor');
SELECT tl_test.try($$SELECT turn_liveness.grant_gateway('-')$$);
SELECT tl_test.try($$SELECT turn_liveness.grant_worker('-')$$);
SELECT tl_test.try($$SELECT turn_liveness.grant_monitor('-')$$);
SELECT tl_test.try($$SELECT turn_liveness.grant_monitor('0')$$);
SELECT tl_test.try($$SELECT turn_liveness.grant_monitor(4294967295::oid::regrole)$$);
SELECT tl_test.try($$SELECT turn_liveness.grant_monitor(NULL)$$);
SELECT tl_test.try($$SELECT turn_liveness.revoke_monitor('-')$$);
SELECT has_schema_privilege('tl_nobody', 'turn_liveness', 'USAGE') AS public_has_schema;
-- EXECUTE alone is not enough to grant
GRANT USAGE ON SCHEMA turn_liveness TO tl_nobody;
GRANT EXECUTE ON FUNCTION turn_liveness.grant_gateway, turn_liveness.change_privileges TO tl_nobody;
SET ROLE tl_nobody;
SELECT tl_test.try($$SELECT turn_liveness.grant_gateway('tl_nobody')$$);
SELECT tl_test.try($$SELECT turn_liveness.change_privileges('GRANT', 'worker', 'tl_nobody')$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION turn_liveness.grant_gateway, turn_liveness.change_privileges FROM tl_nobody;
REVOKE USAGE ON SCHEMA turn_liveness FROM tl_nobody;
-- a name that has to be quoted
CREATE ROLE "Role; x ""y""";
SELECT turn_liveness.grant_worker('"Role; x ""y"""');
SELECT has_function_privilege('Role; x "y"', 'turn_liveness.heartbeat'::regproc, 'EXECUTE');
SELECT turn_liveness.revoke_worker('"Role; x ""y"""');
DROP ROLE "Role; x ""y""";

-- what each role may call
SELECT p.proname, has_function_privilege('tl_gateway', p.oid, 'EXECUTE') AS gateway, has_function_privilege('tl_worker', p.oid, 'EXECUTE') AS worker,
	   has_function_privilege('tl_monitor', p.oid, 'EXECUTE') AS monitor
  FROM pg_proc p WHERE p.pronamespace = 'turn_liveness'::regnamespace ORDER BY p.proname COLLATE "C";
SELECT r AS role, has_schema_privilege(r, 'turn_liveness', 'USAGE') AS usage, has_schema_privilege(r, 'turn_liveness', 'CREATE') AS create
  FROM unnest(ARRAY['tl_gateway', 'tl_worker', 'tl_monitor']) r;
-- and which views and columns it reads; no table, no sequence
SELECT c.relname, c.relkind, r AS role,
	   CASE WHEN has_table_privilege(r, c.oid, 'SELECT') THEN 'all'
			ELSE (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND has_column_privilege(r, c.oid, a.attnum, 'SELECT')) END AS reads
  FROM pg_class c, unnest(ARRAY['tl_gateway', 'tl_worker', 'tl_monitor']) r
 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v') AND (has_table_privilege(r, c.oid, 'SELECT') OR has_any_column_privilege(r, c.oid, 'SELECT'))
 ORDER BY 1, 3;
SELECT c.relname, r AS role FROM pg_class c, unnest(ARRAY['tl_gateway', 'tl_worker', 'tl_monitor']) r
 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v') AND has_table_privilege(r, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER');
SELECT c.relname, r AS role FROM pg_class c, unnest(ARRAY['tl_gateway', 'tl_worker', 'tl_monitor']) r
 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege(r, c.oid, 'USAGE, SELECT, UPDATE');
SELECT t.typname, has_type_privilege('tl_nobody', t.oid, 'USAGE') AS public FROM pg_type t WHERE t.typnamespace = 'turn_liveness'::regnamespace AND t.typtype = 'e' ORDER BY 1;

-- the gateway does the whole job
SET ROLE tl_gateway;
SELECT turn_liveness.arm_turn('priv-1', m, '{"conversationId": "priv-A", "platform": "slack", "userId": "secret"}') FROM unnest(ARRAY['m1', 'm2', 'm3', 'm4']) m;
SELECT turn_liveness.heartbeat('priv-1'), turn_liveness.has_live_turn('priv-1', 'm1');
SELECT count(*) FROM turn_liveness.heartbeats(ARRAY['priv-1']);
SELECT turn_liveness.commit_terminal_reply('priv-1', ARRAY['m1'], '{"content": "secret"}'), turn_liveness.fail_turn('priv-1', 'm2', 'x'), turn_liveness.discharge_turn('priv-1', 'm3'), turn_liveness.reject_turn('priv-1', 'm9', '{}', 'x');
SELECT turn_liveness.mark_provider_failed('priv-1', 'c', 'r'), turn_liveness.clear_provider_failed('priv-1'), turn_liveness.sweep_expired_turns(), turn_liveness.fail_deployment('priv-1');
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['priv-A']);
SELECT count(*) FROM turn_liveness.claim_replies('gw', ARRAY['priv-A']);
SELECT turn_liveness.ack_replies('gw', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE deployment = 'priv-1' AND message_ids = ARRAY['m1'])), turn_liveness.release_replies('gw', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE deployment = 'priv-1' AND message_ids = ARRAY['m2'])), turn_liveness.retry_dead_reply(0);
SELECT turn_liveness.arm_turn('priv-1', 'm5', '{"userId": "secret"}');
SELECT (SELECT count(*) FROM turn_liveness.turns WHERE deployment = 'priv-1') AS turns, (SELECT count(*) FROM turn_liveness.replies WHERE deployment = 'priv-1') AS replies,
	   (SELECT count(*) >= 0 FROM turn_liveness.late_replies) AS late, (SELECT count(*) FROM turn_liveness.stat) AS stat;
SELECT payload ->> 'content' AS content FROM turn_liveness.replies WHERE deployment = 'priv-1' AND outcome = 'answer';
SELECT tl_test.code(f) AS administration FROM unnest(ARRAY['SELECT turn_liveness.stat_reset()', 'SELECT turn_liveness.grant_gateway(''tl_nobody'')', 'SELECT turn_liveness.grant_worker(''tl_nobody'')', 'SELECT turn_liveness.grant_monitor(''tl_nobody'')',
	'SELECT turn_liveness.revoke_gateway(''tl_worker'')', 'SELECT turn_liveness.revoke_worker(''tl_worker'')', 'SELECT turn_liveness.revoke_monitor(''tl_monitor'')']) f;
SELECT c, tl_test.code('SELECT count(*) FROM turn_liveness.' || c) FROM unnest(ARRAY['turn', 'reply', 'delivery', 'late_reply', 'reply_id_seq']) c;
SELECT c AS command, tl_test.run(c) FROM unnest(ARRAY['INSERT INTO turn_liveness.turn SELECT', 'UPDATE turn_liveness.turn SET outcome = NULL', 'DELETE FROM turn_liveness.reply', 'CREATE TABLE turn_liveness.x ()', 'SELECT nextval(''turn_liveness.reply_id_seq'')', 'LOCK TABLE turn_liveness.turn', 'TRUNCATE turn_liveness.turn', 'ALTER TABLE turn_liveness.turn ADD x integer', 'DROP EXTENSION turn_liveness', 'COPY turn_liveness.turn TO STDOUT']) c;
RESET ROLE;

-- the worker beats and answers; it reads nothing and decides nothing else
SET ROLE tl_worker;
SELECT turn_liveness.heartbeat('priv-1'), turn_liveness.heartbeat('priv-1', ARRAY['m5']), turn_liveness.has_live_turn('priv-1', 'm5');
SELECT count(*) FROM turn_liveness.heartbeats(ARRAY['priv-1', 'priv-none']);
SELECT turn_liveness.mark_provider_failed('priv-1', 'c', 'r'), turn_liveness.clear_provider_failed('priv-1');
SELECT turn_liveness.commit_terminal_reply('priv-1', ARRAY['m5'], '{"content": "by the worker"}');
SELECT turn_liveness.commit_terminal_reply('priv-1', ARRAY['m5'], '{"content": "late"}');
SELECT turn_liveness.attach_worker('priv-1') = pg_backend_pid() AS attached, turn_liveness.detach_worker('priv-1');
SELECT f AS call, tl_test.code('SELECT ' || f) FROM unnest(ARRAY['turn_liveness.arm_turn(''priv-2'', ''m1'')', 'turn_liveness.fail_turn(''priv-1'', ''m5'', ''x'')', 'turn_liveness.fail_deployment(''priv-1'')',
	'turn_liveness.reject_turn(''priv-1'', ''m5'', ''{}'', ''x'')', 'turn_liveness.discharge_turn(''priv-1'', ''m5'')',
	'turn_liveness.sweep_expired_turns()', 'turn_liveness.read_replies(ARRAY[''priv-A''])', 'turn_liveness.claim_replies(''w'', ARRAY[''priv-A''])', 'turn_liveness.ack_replies(''w'', ARRAY[1::bigint])',
	'turn_liveness.release_replies(''w'', ARRAY[1::bigint])', 'turn_liveness.retry_dead_reply(1)', 'turn_liveness.stat_reset()', 'turn_liveness.grant_worker(''tl_nobody'')']) f;
SELECT c, tl_test.code('SELECT count(*) FROM turn_liveness.' || c) FROM unnest(ARRAY['turn', 'reply', 'delivery', 'late_reply', 'turns', 'replies', 'late_replies', 'stat']) c;
RESET ROLE;

-- the monitor sees everything but routing and answers, and calls nothing that writes
SELECT turn_liveness.arm_turn('priv-3', 'm1', '{"userId": "secret"}');
SET ROLE tl_monitor;
SELECT deployment, message_id, state, armed_at IS NOT NULL AS armed, deadline IS NOT NULL AS deadline FROM turn_liveness.turns WHERE deployment = 'priv-3';
SELECT message_ids, outcome, decided_by, state, due_at <= clock_timestamp() AS due FROM turn_liveness.replies WHERE deployment = 'priv-1' ORDER BY reply_id;
SELECT message_ids, verdict FROM turn_liveness.late_replies WHERE deployment = 'priv-1';
SELECT count(*) FROM turn_liveness.stat;
SELECT q AS query, tl_test.code(q) FROM unnest(ARRAY['SELECT routing FROM turn_liveness.turns', 'SELECT * FROM turn_liveness.turns', 'SELECT payload FROM turn_liveness.replies', 'SELECT * FROM turn_liveness.replies', 'SELECT payload FROM turn_liveness.late_replies',
	'SELECT turns FROM turn_liveness.turns', 'SELECT * FROM turn_liveness.turn', 'SELECT * FROM turn_liveness.reply', 'SELECT * FROM turn_liveness.delivery', 'SELECT turn_liveness.heartbeat(''priv-3'')', 'SELECT turn_liveness.sweep_expired_turns()',
	'SELECT turn_liveness.read_replies(ARRAY[''priv-A''])', 'SELECT turn_liveness.claim_replies(''m'', ARRAY[''priv-A''])', 'SELECT turn_liveness.stat_reset()', 'SELECT turn_liveness.arm_turn(''priv-3'', ''m2'')']) q;
RESET ROLE;
SELECT turn_liveness.discharge_turn('priv-3', 'm1');

-- a hostile search_path: operators, functions, types and tables that shadow everybody's
CREATE SCHEMA tl_evil;
GRANT USAGE ON SCHEMA tl_evil TO PUBLIC;
CREATE FUNCTION tl_evil.raise() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the hostile schema was asked'; END $$;
CREATE FUNCTION tl_evil.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT tl_evil.raise()';
CREATE FUNCTION tl_evil.eq(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT tl_evil.raise()';
CREATE FUNCTION tl_evil.eq("char", "char") RETURNS boolean LANGUAGE sql AS 'SELECT tl_evil.raise()';
CREATE FUNCTION tl_evil.eq(integer, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT tl_evil.raise()';
CREATE FUNCTION tl_evil.eq(bigint, integer) RETURNS boolean LANGUAGE sql AS 'SELECT tl_evil.raise()';
CREATE FUNCTION tl_evil.get(jsonb, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the hostile schema was asked'; END $$;
CREATE FUNCTION tl_evil.minus(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the hostile schema was asked'; END $$;
CREATE OPERATOR tl_evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = tl_evil.eq);
CREATE OPERATOR tl_evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = tl_evil.eq);
CREATE OPERATOR tl_evil.= (LEFTARG = "char", RIGHTARG = "char", FUNCTION = tl_evil.eq);
CREATE OPERATOR tl_evil.= (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = tl_evil.eq);
CREATE OPERATOR tl_evil.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = tl_evil.eq);
CREATE OPERATOR tl_evil.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = tl_evil.eq);
CREATE OPERATOR tl_evil.- (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = tl_evil.minus);
CREATE OPERATOR tl_evil.->> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = tl_evil.get);
CREATE FUNCTION tl_evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''infinity''::pg_catalog.timestamptz WHERE tl_evil.raise()';
CREATE FUNCTION tl_evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''infinity''::pg_catalog.timestamptz WHERE tl_evil.raise()';
CREATE FUNCTION tl_evil.nextval(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1::pg_catalog.int8 WHERE tl_evil.raise()';
CREATE FUNCTION tl_evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT tl_evil.raise()';
CREATE TABLE tl_evil.turn (deployment text);
CREATE TABLE tl_evil.reply (reply_id bigint);
CREATE TABLE tl_evil.delivery (reply_id bigint);
CREATE DOMAIN tl_evil.text AS pg_catalog.text CHECK (false);
CREATE DOMAIN tl_evil.jsonb AS pg_catalog.jsonb CHECK (false);
CREATE FUNCTION tl_evil.life() RETURNS pg_catalog.text LANGUAGE plpgsql SET search_path = tl_evil, pg_catalog, turn_liveness AS $$
DECLARE
	n pg_catalog.int8;
BEGIN
	PERFORM turn_liveness.arm_turn('priv-evil', m, '{"conversationId": "priv-evil"}') FROM pg_catalog.unnest(ARRAY['m1', 'm2', 'm3', 'm4', 'm5', 'm6']::pg_catalog.text[]) m;
	PERFORM turn_liveness.heartbeat('priv-evil'), turn_liveness.heartbeat('priv-evil', ARRAY['m1']::pg_catalog.text[]), turn_liveness.has_live_turn('priv-evil', 'm1');
	PERFORM * FROM turn_liveness.heartbeats(ARRAY['priv-evil']::pg_catalog.text[]);
	PERFORM turn_liveness.commit_terminal_reply('priv-evil', ARRAY['m1', 'm2']::pg_catalog.text[], '{"content": "x"}');
	PERFORM turn_liveness.commit_terminal_reply('priv-evil', ARRAY['m1', 'm2']::pg_catalog.text[], '{"content": "late"}');
	PERFORM turn_liveness.fail_turn('priv-evil', 'm3', 'x'), turn_liveness.discharge_turn('priv-evil', 'm4'), turn_liveness.reject_turn('priv-evil', 'm7', '{}', 'x');
	PERFORM turn_liveness.mark_provider_failed('priv-evil', 'c', 'r'), turn_liveness.clear_provider_failed('priv-evil');
	PERFORM tl_test.advance('200 s');
	PERFORM turn_liveness.sweep_expired_turns();
	PERFORM turn_liveness.fail_deployment('priv-evil');
	PERFORM turn_liveness.ack_replies('gw', (SELECT pg_catalog.array_agg(c.reply_id) FROM turn_liveness.claim_replies('gw', ARRAY['priv-evil']::pg_catalog.text[]) c));
	PERFORM turn_liveness.release_replies('gw', ARRAY[1]::pg_catalog.int8[]), turn_liveness.retry_dead_reply(1);
	SELECT pg_catalog.count(*) INTO n FROM turn_liveness.read_replies(ARRAY['priv-evil']::pg_catalog.text[]);
	PERFORM r.state, r.due_at, r.outcome FROM turn_liveness.replies r;
	PERFORM t.state, t.platform, t.deadline FROM turn_liveness.turns t;
	PERFORM * FROM turn_liveness.late_replies;
	PERFORM * FROM turn_liveness.stat;
	RETURN n::pg_catalog.text;
END $$;
SELECT tl_evil.life() AS replies_read;
SELECT array_agg(DISTINCT outcome ORDER BY outcome) FROM turn_liveness.replies WHERE deployment = 'priv-evil';
-- the schema works as a trap: used by name it raises
SELECT tl_test.try($$SELECT 'a'::pg_catalog.text OPERATOR(tl_evil.=) 'a'::pg_catalog.text$$);
-- a fresh session whose path was hostile from its start, as the gateway's role
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = tl_evil, pg_catalog', current_database()); END $$;
\c -
SET ROLE tl_gateway;
SELECT turn_liveness.arm_turn('priv-evil', 'm8', '{"conversationId": "priv-evil-2"}');
SELECT turn_liveness.heartbeat('priv-evil');
SELECT turn_liveness.commit_terminal_reply('priv-evil', ARRAY['m8']::pg_catalog.text[], '{"content": "x"}');
SELECT state FROM turn_liveness.read_replies(ARRAY['priv-evil-2']::pg_catalog.text[]);
RESET ROLE;
DO $$ BEGIN EXECUTE pg_catalog.format('ALTER DATABASE %I RESET search_path', pg_catalog.current_database()); END $$;
\c -
SET client_min_messages = warning;
DROP SCHEMA tl_evil CASCADE;
RESET client_min_messages;

-- temp tables named like ours
CREATE TEMP TABLE turn (deployment text, message_id text);
CREATE TEMP TABLE reply (reply_id bigint);
CREATE TEMP TABLE delivery (reply_id bigint);
CREATE TEMP SEQUENCE reply_id_seq;
SET search_path = pg_temp, turn_liveness, public;
SELECT arm_turn('priv-temp', 'm1'), heartbeat('priv-temp'), commit_terminal_reply('priv-temp', ARRAY['m1'], '{}');
SELECT count(*) FROM claim_replies('gw', ARRAY['priv-temp']);
RESET search_path;
SELECT count(*) FROM pg_temp.turn;
SELECT last_value, is_called FROM pg_temp.reply_id_seq;
DROP TABLE pg_temp.turn, pg_temp.reply, pg_temp.delivery;

-- triggers and rules on our tables do not fire, defaults and row security do not matter
CREATE FUNCTION tl_test.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trigger fired on %', TG_TABLE_NAME; END $$;
DO $$
DECLARE t text;
BEGIN
	FOREACH t IN ARRAY ARRAY['turn', 'reply', 'delivery', 'late_reply'] LOOP
		EXECUTE format('CREATE TRIGGER tl_test_row BEFORE INSERT OR UPDATE OR DELETE ON turn_liveness.%I FOR EACH ROW EXECUTE FUNCTION tl_test.fire()', t);
		EXECUTE format('CREATE TRIGGER tl_test_after AFTER INSERT OR UPDATE OR DELETE ON turn_liveness.%I FOR EACH ROW EXECUTE FUNCTION tl_test.fire()', t);
		EXECUTE format('CREATE TRIGGER tl_test_statement BEFORE INSERT OR UPDATE OR DELETE ON turn_liveness.%I EXECUTE FUNCTION tl_test.fire()', t);
		EXECUTE format('ALTER TABLE turn_liveness.%I ENABLE ALWAYS TRIGGER tl_test_row', t);
		EXECUTE format('CREATE RULE tl_test_insert AS ON INSERT TO turn_liveness.%I DO INSTEAD NOTHING', t);
		EXECUTE format('CREATE RULE tl_test_delete AS ON DELETE TO turn_liveness.%I DO INSTEAD NOTHING', t);
		EXECUTE format('ALTER TABLE turn_liveness.%I ENABLE ROW LEVEL SECURITY', t);
		EXECUTE format('ALTER TABLE turn_liveness.%I FORCE ROW LEVEL SECURITY', t);
	END LOOP;
END $$;
SET ROLE tl_gateway;
SELECT turn_liveness.arm_turn('priv-trig', m, '{"conversationId": "priv-trig"}') FROM unnest(ARRAY['m1', 'm2', 'm3', 'm4', 'm5']) m;
SELECT turn_liveness.arm_turn('priv-trig', 'm1'), turn_liveness.heartbeat('priv-trig');
SELECT turn_liveness.commit_terminal_reply('priv-trig', ARRAY['m1', 'm2'], '{"content": "x"}'), turn_liveness.commit_terminal_reply('priv-trig', ARRAY['m1'], '{"content": "late"}');
SELECT turn_liveness.fail_turn('priv-trig', 'm3', 'x'), turn_liveness.discharge_turn('priv-trig', 'm4'), turn_liveness.reject_turn('priv-trig', 'm6', '{"conversationId": "priv-trig"}', 'x');
SELECT turn_liveness.mark_provider_failed('priv-trig', 'c', 'r');
RESET ROLE;
SELECT tl_test.advance('200 s');
SET ROLE tl_gateway;
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.ack_replies('gw', array_agg(reply_id)) FROM turn_liveness.claim_replies('gw', ARRAY['priv-trig']);
SELECT count(*) FROM turn_liveness.read_replies(ARRAY['priv-trig']);
RESET ROLE;
SELECT tl_test.advance('25 h');
SELECT turn_liveness.sweep_expired_turns();
-- it would have been seen: by hand they fire
SELECT tl_test.code($$UPDATE turn_liveness.delivery SET attempt = 0$$);
DO $$
DECLARE t text;
BEGIN
	FOREACH t IN ARRAY ARRAY['turn', 'reply', 'delivery', 'late_reply'] LOOP
		EXECUTE format('DROP TRIGGER tl_test_row ON turn_liveness.%I; DROP TRIGGER tl_test_after ON turn_liveness.%I; DROP TRIGGER tl_test_statement ON turn_liveness.%I', t, t, t);
		EXECUTE format('DROP RULE tl_test_insert ON turn_liveness.%I; DROP RULE tl_test_delete ON turn_liveness.%I', t, t);
		EXECUTE format('ALTER TABLE turn_liveness.%I DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', t);
	END LOOP;
END $$;
DROP FUNCTION tl_test.fire();
SELECT count(*) AS gone_with_retention FROM turn_liveness.replies WHERE deployment = 'priv-trig';

-- values of our types are a gateway's and a worker's to keep, a monitor's to read
SELECT r AS role, t.typname FROM unnest(ARRAY['tl_gateway', 'tl_worker', 'tl_monitor']) r, pg_type t
 WHERE t.typnamespace = 'turn_liveness'::regnamespace AND t.typtype = 'e' AND has_type_privilege(r, t.oid, 'USAGE') ORDER BY 1, 2;
SET ROLE tl_gateway;
CREATE TEMP TABLE tl_kept AS SELECT turn_liveness.arm_turn('priv-type', 'm1') AS armed, turn_liveness.reject_turn('priv-type', 'm2', '{}', 'x') AS election;
CREATE FUNCTION pg_temp.discard() RETURNS turn_liveness.election LANGUAGE sql AS $$SELECT turn_liveness.fail_turn('priv-type', 'm1', 'x')$$;
SELECT *, pg_temp.discard() FROM tl_kept;
DROP FUNCTION pg_temp.discard();
DROP TABLE tl_kept;
RESET ROLE;
SET ROLE tl_worker;
CREATE TEMP TABLE tl_kept AS SELECT turn_liveness.commit_terminal_reply('priv-type', ARRAY['m1'], '{}') AS election;
DROP TABLE tl_kept;
RESET ROLE;
SET ROLE tl_monitor;
CREATE TEMP TABLE tl_kept AS SELECT verdict FROM turn_liveness.late_replies;
DROP TABLE tl_kept;
RESET ROLE;

-- Whatever a role has, a revoke gives it nothing more, leaves what its other kinds need, and takes the rest of its own kind.
CREATE FUNCTION tl_test.held(r name) RETURNS text[] LANGUAGE sql AS $$
	SELECT coalesce(array_agg(h ORDER BY h COLLATE "C"), '{}') FROM (
		SELECT 'schema' WHERE has_schema_privilege(r, 'turn_liveness', 'USAGE')
		UNION ALL
		SELECT proname FROM pg_proc WHERE pronamespace = 'turn_liveness'::regnamespace AND has_function_privilege(r, oid, 'EXECUTE')
		UNION ALL
		SELECT typname FROM pg_type WHERE typnamespace = 'turn_liveness'::regnamespace AND typtype = 'e' AND has_type_privilege(r, oid, 'USAGE')
		UNION ALL
		SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
		WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v') AND has_column_privilege(r, c.oid, a.attnum, 'SELECT')) x (h)
$$;
CREATE FUNCTION tl_test.less(a text[], VARIADIC b text[]) RETURNS text[] LANGUAGE sql AS $$SELECT ARRAY(SELECT x FROM unnest(a) x WHERE x <> ALL (b))$$;
-- "extra" is what is left of the revoked kind beyond what others need, "rest" what is left when the other kinds are revoked, too
CREATE FUNCTION tl_test.revoked(kinds text[], by_hand text, kind text, OUT "left" integer, OUT gained text[], OUT lost text[], OUT extra text[], OUT rest text[])
LANGUAGE plpgsql AS $$
DECLARE
	k text;
	before text[];
	after text[];
	named CONSTANT text[] := tl_test.held('tl_' || kind);
	needed text[] := '{}';
BEGIN
	CREATE ROLE tl_start;
	FOREACH k IN ARRAY kinds LOOP
		EXECUTE format('SELECT turn_liveness.grant_%s(''tl_start'')', k);
		needed := needed || CASE WHEN k <> kind THEN tl_test.held('tl_' || k) END;
	END LOOP;
	EXECUTE by_hand;
	before := tl_test.held('tl_start');
	EXECUTE format('SELECT turn_liveness.revoke_%s(''tl_start'')', kind);
	after := tl_test.held('tl_start');
	"left" := cardinality(after);
	gained := tl_test.less(after, VARIADIC before);
	lost := ARRAY(SELECT b FROM unnest(tl_test.less(before, VARIADIC after)) b WHERE b = ANY (needed) OR b <> ALL (named));
	extra := ARRAY(SELECT a FROM unnest(tl_test.less(after, VARIADIC needed)) a WHERE a = ANY (named));
	FOREACH k IN ARRAY kinds LOOP
		EXECUTE format('SELECT turn_liveness.revoke_%s(''tl_start'')', k);
	END LOOP;
	rest := tl_test.held('tl_start');
	DROP OWNED BY tl_start;
	DROP ROLE tl_start;
END $$;
CREATE TEMP TABLE tl_start (id integer GENERATED ALWAYS AS IDENTITY, start text, kinds text[], by_hand text);
INSERT INTO tl_start (start, kinds, by_hand) VALUES
	('nothing', '{}', ''),
	('a function', '{}', 'GRANT USAGE ON SCHEMA turn_liveness TO tl_start; GRANT EXECUTE ON FUNCTION turn_liveness.arm_turn TO tl_start'),
	('a column', '{}', 'GRANT SELECT (deployment) ON turn_liveness.turns TO tl_start'),
	('gateway', '{gateway}', ''),
	('worker', '{worker}', ''),
	('monitor', '{monitor}', ''),
	('gateway, worker', '{gateway, worker}', ''),
	('worker, gateway', '{worker, gateway}', ''),
	('gateway, monitor', '{gateway, monitor}', ''),
	('monitor, gateway', '{monitor, gateway}', ''),
	('worker, monitor', '{worker, monitor}', ''),
	('all', '{worker, monitor, gateway}', ''),
	('gateway less a function', '{gateway}', 'REVOKE EXECUTE ON FUNCTION turn_liveness.claim_replies FROM tl_start'),
	('gateway, worker less a function', '{gateway, worker}', 'REVOKE EXECUTE ON FUNCTION turn_liveness.heartbeat FROM tl_start'),
	('monitor, gateway less a view', '{monitor, gateway}', 'REVOKE SELECT ON turn_liveness.replies FROM tl_start'),
	-- here the view gave it the column, which goes with the view
	('gateway, monitor less a column', '{gateway, monitor}', 'REVOKE SELECT (worker) ON turn_liveness.turns FROM tl_start'),
	('monitor and payload', '{monitor}', 'GRANT SELECT (payload) ON turn_liveness.replies TO tl_start'),
	('all and payload', '{gateway, worker, monitor}', 'GRANT SELECT (payload) ON turn_liveness.replies TO tl_start'),
	('worker and administration', '{worker}', 'GRANT EXECUTE ON FUNCTION turn_liveness.stat_reset TO tl_start');
SELECT start, kind AS revoked, x.* FROM tl_start s, unnest(ARRAY['gateway', 'worker', 'monitor']) WITH ORDINALITY k (kind, n), tl_test.revoked(s.kinds, s.by_hand, kind) x ORDER BY id, n;
DROP TABLE tl_start;
DROP FUNCTION tl_test.revoked(text[], text, text);
DROP FUNCTION tl_test.less(text[], text[]);
DROP FUNCTION tl_test.held(name);

-- taken back
SELECT turn_liveness.revoke_gateway('tl_gateway'), turn_liveness.revoke_worker('tl_worker'), turn_liveness.revoke_monitor('tl_monitor');
SELECT p.proname, r AS role FROM pg_proc p, unnest(ARRAY['tl_gateway', 'tl_worker', 'tl_monitor']) r
 WHERE p.pronamespace = 'turn_liveness'::regnamespace AND has_function_privilege(r, p.oid, 'EXECUTE');
SELECT c.relname, r AS role FROM pg_class c, unnest(ARRAY['tl_gateway', 'tl_worker', 'tl_monitor']) r
 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v') AND has_any_column_privilege(r, c.oid, 'SELECT');
-- a role that is both keeps what the other grant gave
SELECT turn_liveness.grant_gateway('tl_gateway'), turn_liveness.grant_worker('tl_gateway');
SELECT turn_liveness.revoke_worker('tl_gateway');
SET ROLE tl_gateway;
SELECT tl_test.code($$SELECT turn_liveness.arm_turn('priv-both', 'm1')$$), tl_test.code($$SELECT turn_liveness.discharge_turn('priv-both', 'm1')$$);
RESET ROLE;
SELECT turn_liveness.revoke_gateway('tl_gateway');
-- nothing of ours keeps a role from being dropped
DROP ROLE tl_nobody;
DROP ROLE tl_gateway;
DROP ROLE tl_worker;
DROP ROLE tl_monitor;
SELECT count(*) FROM turn_liveness.turns;
