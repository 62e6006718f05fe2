--
-- Tables, indexes and constraints that are not as installed: refused with a
-- hint, never read or written wrongly; and what a DBA may add.
--
\pset null '(null)'
SET client_min_messages = warning;
SELECT turn_liveness.arm_turn('inst-1', 'm1');
SELECT turn_liveness.arm_turn('inst-1', 'm2');
SELECT turn_liveness.commit_terminal_reply('inst-1', ARRAY['m2'], '{"content": "x"}');
SELECT turn_liveness.commit_terminal_reply('inst-1', ARRAY['m2'], '{"content": "late"}');
-- a beat remembers its count: each of these is for one beat that looks
SELECT count(turn_liveness.arm_turn('inst-b' || n, 'm1')) FROM generate_series(1, 11) n;

-- an index that is gone, not ready, not valid, or another one under its name
CREATE FUNCTION tl_test.calls() RETURNS TABLE (call text, gives text) LANGUAGE sql AS $$
	SELECT c, tl_test.try('SELECT turn_liveness.' || c)
	  FROM unnest(ARRAY['heartbeat(''inst-1'')', 'heartbeat(''inst-1'', ARRAY[''m1''])', 'arm_turn(''inst-1'', ''m1'')',
						'has_live_turn(''inst-1'', ''m1'')', 'fail_deployment(''inst-1'', armed_before => ''epoch'')']) c
$$;
BEGIN;
DROP INDEX turn_liveness.turn_owed_deployment;
SELECT * FROM tl_test.calls();
CREATE INDEX turn_owed_deployment ON turn_liveness.turn (deployment) WHERE outcome IS NULL;
SELECT * FROM tl_test.calls();
ROLLBACK;
BEGIN;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'turn_liveness.turn_owed_deployment'::regclass;
SELECT * FROM tl_test.calls();
ROLLBACK;
BEGIN;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'turn_liveness.turn_pkey'::regclass;
SELECT * FROM tl_test.calls();
ROLLBACK;
SELECT d AS definition, tl_test.try(format($$DO $do$ BEGIN
	DROP INDEX turn_liveness.turn_owed_deployment;
	CREATE %s;
	RAISE EXCEPTION 'taken: %%', turn_liveness.heartbeat('inst-b%s');
	END $do$ $$, d, n)) AS gives
  FROM unnest(ARRAY[
	'INDEX turn_owed_deployment ON turn_liveness.turn (message_id) WHERE outcome IS NULL',
	'INDEX turn_owed_deployment ON turn_liveness.turn ((1)) WHERE outcome IS NULL',
	'INDEX turn_owed_deployment ON turn_liveness.turn USING hash (deployment) WHERE outcome IS NULL',
	'INDEX turn_owed_deployment ON turn_liveness.turn (deployment) WHERE outcome IS NOT NULL',
	'INDEX turn_owed_deployment ON turn_liveness.turn (deployment) WITH (fillfactor = 80) WHERE outcome IS NULL AND silence_ms > 0',
	'INDEX turn_owed_deployment ON turn_liveness.turn (deployment DESC) WHERE outcome IS NULL',
	'INDEX turn_owed_deployment ON turn_liveness.turn (deployment COLLATE "POSIX") WHERE outcome IS NULL',
	'INDEX turn_owed_deployment ON turn_liveness.turn (deployment text_pattern_ops) WHERE outcome IS NULL',
	'INDEX turn_owed_deployment ON turn_liveness.reply (deployment)',
	'TABLE turn_liveness.turn_owed_deployment ()',
	'INDEX turn_owed_deployment ON turn_liveness.turn (deployment) WITH (fillfactor = 80) WHERE outcome IS NULL']) WITH ORDINALITY AS x (d, n);
-- an index of a DBA's under the name of ours has all that belongs in it
BEGIN;
DROP INDEX turn_liveness.turn_owed_conversation;
CREATE INDEX turn_owed_conversation ON turn_liveness.turn (conversation_id);
SELECT turn_liveness.arm_turn('inst-n', m, '{"conversationId": "inst-c"}') FROM unnest(ARRAY['failed', 'won']) m;
SELECT turn_liveness.fail_turn('inst-n', 'failed', 'x'), turn_liveness.commit_terminal_reply('inst-n', '{won}', '{}');
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
EXPLAIN (COSTS off) SELECT count(*) FROM turn_liveness.turn WHERE conversation_id = 'inst-c';
SELECT count(*) FROM turn_liveness.turn WHERE conversation_id = 'inst-c';
ROLLBACK;
-- a search_path that shadows operators does not make an index another one
CREATE SCHEMA tl_ops;
CREATE FUNCTION tl_ops.eq("char", "char") RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR tl_ops.= (LEFTARG = "char", RIGHTARG = "char", FUNCTION = tl_ops.eq);
SET search_path = tl_ops, pg_catalog;
\c -
SET search_path = tl_ops, pg_catalog;
SELECT count(*) FROM turn_liveness.claim_replies('gw', ARRAY['inst-1']);
RESET search_path;
DROP SCHEMA tl_ops CASCADE;
\pset null '(null)'
SET client_min_messages = warning;

-- a unique index more over the key: as a cancelled REINDEX CONCURRENTLY leaves
-- one, and a DBA's own; a key that is there is no error, and nothing is written
BEGIN;
CREATE UNIQUE INDEX turn_pkey_ccnew ON turn_liveness.turn (deployment, message_id);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'turn_liveness.turn_pkey_ccnew'::regclass;
CREATE UNIQUE INDEX late_reply_pkey_ccnew ON turn_liveness.late_reply (digest);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'turn_liveness.late_reply_pkey_ccnew'::regclass;
CREATE UNIQUE INDEX dba ON turn_liveness.turn (message_id, deployment) INCLUDE (routing);
SELECT turn_liveness.arm_turn('inst-1', 'm1'), turn_liveness.arm_turn('inst-1', 'm2'), turn_liveness.arm_turn('inst-1', 'm3'),
	   turn_liveness.arm_turn('inst-1', 'm3'), turn_liveness.reject_turn('inst-1', 'm1', '{}', 'x'),
	   turn_liveness.commit_terminal_reply('inst-1', ARRAY['m2'], '{"content": "late"}');
ROLLBACK;
BEGIN;
SELECT turn_liveness.arm_turn('inst-1', 'm2'), turn_liveness.arm_turn('inst-1', 'm2');
SELECT pg_current_xact_id_if_assigned() IS NULL AS nothing_written;
SELECT turn_liveness.commit_terminal_reply('inst-1', ARRAY['m2'], '{"content": "late"}');
SELECT pg_current_xact_id_if_assigned() IS NULL AS nothing_written;
COMMIT;

SET client_min_messages = error;
-- tables: what the functions would not honour is refused
SELECT c AS change, tl_test.try(format($$DO $do$ BEGIN
	%s;
	PERFORM turn_liveness.arm_turn('inst-2', 'm1');
	RAISE EXCEPTION 'taken: %%', turn_liveness.heartbeat('inst-2');
	END $do$ $$, c)) AS gives
  FROM unnest(ARRAY[
	'ALTER TABLE turn_liveness.turn ADD COLUMN tenant text NOT NULL DEFAULT ''x''',
	'TRUNCATE turn_liveness.turn; ALTER TABLE turn_liveness.turn ALTER COLUMN reason SET NOT NULL',
	'ALTER TABLE turn_liveness.turn ADD COLUMN l integer GENERATED ALWAYS AS (length(deployment)) STORED',
	'ALTER TABLE turn_liveness.turn ADD CHECK (deployment <> ''bad'')',
	'ALTER TABLE turn_liveness.turn DROP COLUMN request',
	'ALTER TABLE turn_liveness.turn DROP COLUMN request; ALTER TABLE turn_liveness.turn ADD COLUMN request uuid',
	'ALTER TABLE turn_liveness.turn ALTER COLUMN request TYPE text',
	'ALTER TABLE turn_liveness.turn ALTER COLUMN reply_id TYPE integer',
	'ALTER TABLE turn_liveness.turn ADD UNIQUE (deployment, message_id) DEFERRABLE',
	'ALTER TABLE turn_liveness.turn ADD EXCLUDE USING btree (deployment WITH =, message_id WITH =)',
	'ALTER TABLE turn_liveness.turn REPLICA IDENTITY NOTHING; CREATE PUBLICATION tl_pub FOR TABLE turn_liveness.turn',
	'ALTER TABLE turn_liveness.turn SET UNLOGGED',
	'CREATE TABLE tl_test.fk (m text, d text, FOREIGN KEY (m, d) REFERENCES turn_liveness.turn ON DELETE CASCADE)',
	'CREATE TABLE tl_test.fk (d text PRIMARY KEY); ALTER TABLE turn_liveness.turn ADD FOREIGN KEY (deployment) REFERENCES tl_test.fk NOT VALID',
	'CREATE TABLE turn_liveness.shape (LIKE turn_liveness.turn) PARTITION BY RANGE (message_id); ALTER TABLE turn_liveness.turn RENAME TO t; ALTER TABLE turn_liveness.shape RENAME TO turn',
	'CREATE VIEW turn_liveness.shape AS SELECT * FROM turn_liveness.turn; ALTER TABLE turn_liveness.turn RENAME TO t; ALTER VIEW turn_liveness.shape RENAME TO turn',
	'ALTER TABLE turn_liveness.turn ADD COLUMN tenant text DEFAULT ''x''',
	'ALTER TABLE turn_liveness.turn ADD COLUMN tenant text NOT NULL DEFAULT ''x''; ALTER TABLE turn_liveness.turn DROP COLUMN tenant',
	'ALTER TABLE turn_liveness.turn REPLICA IDENTITY FULL; CREATE PUBLICATION tl_pub FOR TABLE turn_liveness.turn',
	'CREATE INDEX dba ON turn_liveness.turn ((length(message_id))) WHERE outcome = ''a''']) c;

-- a view reads a row by position, too
SELECT tl_test.try($$DO $do$ BEGIN
	ALTER TABLE turn_liveness.turn ALTER COLUMN error_code TYPE integer USING 7;
	PERFORM state FROM turn_liveness.turns;
	END $do$ $$) AS gives;

-- and one that is not a superuser's: the worker would run its owner's code
CREATE ROLE tl_owner;
BEGIN;
ALTER TABLE turn_liveness.turn OWNER TO tl_owner;
SELECT * FROM tl_test.calls();
ALTER TABLE turn_liveness.turn OWNER TO CURRENT_USER;
SELECT turn_liveness.heartbeat('inst-1');
ROLLBACK;
CREATE ROLE tl_super SUPERUSER;
BEGIN;
ALTER TABLE turn_liveness.turn OWNER TO tl_super;
SELECT turn_liveness.heartbeat('inst-1');
ALTER ROLE tl_super NOSUPERUSER;
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('inst-1', 'm1')$$);
ROLLBACK;
DROP ROLE tl_owner, tl_super;

DROP FUNCTION tl_test.calls();
-- what the functions refuse the tables refuse too, by any way to write
SELECT c AS change, tl_test.run(format('UPDATE turn_liveness.%s', c)) AS gives
  FROM unnest(ARRAY[
	'turn SET deployment = ''''', 'turn SET deployment = repeat(''x'', 256)', 'turn SET message_id = ''''', 'turn SET message_id = repeat(''x'', 256)',
	'turn SET conversation_id = repeat(''x'', 2000)', 'turn SET conversation_id = ''''', 'turn SET outcome = ''z''',
	'turn SET admission_ms = 0', 'turn SET silence_ms = -1', 'turn SET duration_ms = 0', 'turn SET routing = ''[]''', 'turn SET routing = ''"x"''',
	'turn SET routing = ''{"platform": 1}''', 'turn SET routing = ''{"platform": ""}''', 'turn SET routing = jsonb_build_object(''platform'', repeat(''x'', 256))',
	'turn SET routing = ''{"conversationId": {}}''', 'turn SET routing = jsonb_build_object(''organizationId'', repeat(''x'', 256))', 'turn SET routing = ''{"organizationId": true}''',
	'turn SET routing = ''{"platform": null, "conversationId": null, "organizationId": 1}''', 'turn SET routing = ''{}''',
	'reply SET deployment = ''''', 'reply SET conversation_id = repeat(''x'', 256)', 'reply SET platform = repeat(''x'', 256)', 'reply SET platform = ''''',
	'reply SET message_ids = ''{}''', 'reply SET message_ids = ''{NULL}''', 'reply SET payload = ''1''', 'reply SET outcome = ''l''', 'reply SET decided_by = ''z''',
	'delivery SET delivered_at = now()', 'delivery SET attempt = -1', 'delivery SET conversation_id = repeat(''x'', 256)', 'delivery SET platform = repeat(''x'', 256)', 'delivery SET gateway = ''''',
	'late_reply SET deployment = ''''', 'late_reply SET message_ids = ''{}''', 'late_reply SET payload = ''[]''']) c;
SELECT conrelid::regclass, count(*) FROM pg_constraint WHERE connamespace = 'turn_liveness'::regnamespace AND contype = 'c' GROUP BY 1 ORDER BY 1;

SELECT sum(turn_liveness.fail_deployment(d)) FROM (SELECT DISTINCT deployment FROM turn_liveness.turns WHERE deployment LIKE 'inst-%') x (d);
