-- Privileges as the catalogues have them.
\set ON_ERROR_STOP 1
BEGIN;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS turn_liveness;
SELECT no_plan();
CREATE ROLE pgtap_public;
CREATE ROLE pgtap_gateway;
CREATE ROLE pgtap_worker;
CREATE ROLE pgtap_monitor;

-- nothing to PUBLIC
SELECT is_empty($$SELECT p.proname FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE p.pronamespace = 'turn_liveness'::regnamespace AND a.grantee = 0$$, 'no function to PUBLIC');
SELECT is_empty($$SELECT c.relname FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v', 'S') AND a.grantee = 0$$, 'no relation to PUBLIC');
SELECT is_empty($$SELECT t.typname FROM pg_type t, aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) a WHERE t.typnamespace = 'turn_liveness'::regnamespace AND t.typtype = 'e' AND a.grantee = 0$$, 'no type to PUBLIC');
SELECT schema_privs_are('turn_liveness', 'pgtap_public', '{}'::name[]);
SELECT is_empty($$SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'turn_liveness'::regnamespace AND (p.proowner <> (SELECT extowner FROM pg_extension WHERE extname = 'turn_liveness'))$$, 'the owner owns all');

SELECT turn_liveness.grant_gateway('pgtap_gateway');
SELECT turn_liveness.grant_worker('pgtap_worker');
SELECT turn_liveness.grant_monitor('pgtap_monitor');
SELECT turn_liveness.grant_monitor('pgtap_monitor');
SELECT schema_privs_are('turn_liveness', r, ARRAY['USAGE']) FROM unnest(ARRAY['pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r;
CREATE TEMP TABLE wanted (role text, function text);
INSERT INTO wanted SELECT 'pgtap_gateway', unnest(ARRAY['arm_turn', 'start_turn', 'post_update', 'suspend_turn', 'resume_turn', 'rescue_turns', 'get_turn', 'heartbeat', 'heartbeats', 'commit_terminal_reply', 'fail_turn', 'fail_deployment', 'reject_turn', 'discharge_turn', 'has_live_turn',
	'mark_provider_failed', 'clear_provider_failed', 'attach_worker', 'detach_worker', 'sweep_expired_turns', 'read_replies', 'claim_replies', 'ack_replies', 'release_replies', 'retry_dead_reply']);
INSERT INTO wanted SELECT 'pgtap_worker', unnest(ARRAY['start_turn', 'post_update', 'suspend_turn', 'resume_turn', 'get_turn', 'heartbeat', 'heartbeats', 'commit_terminal_reply', 'has_live_turn', 'mark_provider_failed', 'clear_provider_failed', 'attach_worker', 'detach_worker']);
CREATE TEMP VIEW had AS
	SELECT r AS role, p.proname::text AS function FROM pg_proc p, unnest(ARRAY['pgtap_public', 'pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r
	 WHERE p.pronamespace = 'turn_liveness'::regnamespace AND has_function_privilege(r, p.oid, 'EXECUTE');
-- what the views call comes with the views
CREATE TEMP VIEW for_views AS SELECT p.proname::text AS function FROM pg_proc p WHERE p.pronamespace = 'turn_liveness'::regnamespace AND p.provolatile = 's' AND p.proname NOT IN ('read_replies', 'get_turn');
SELECT set_eq(format('SELECT function FROM had WHERE role = %L AND function NOT IN (SELECT function FROM for_views)', r), format('SELECT function FROM wanted WHERE role = %L', r), 'functions of ' || r)
  FROM unnest(ARRAY['pgtap_public', 'pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r;
SELECT set_eq($$SELECT r, t.typname::text FROM pg_type t, unnest(ARRAY['pgtap_public', 'pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r WHERE t.typnamespace = 'turn_liveness'::regnamespace AND t.typtype = 'e' AND t.typname !~ '_grant$' AND has_type_privilege(r, t.oid, 'USAGE')$$,
	$$VALUES ('pgtap_gateway', 'arm_result'), ('pgtap_gateway', 'election'), ('pgtap_worker', 'election'), ('pgtap_monitor', 'election')$$, 'each may keep the values that it gets');
SELECT is_empty($$SELECT function FROM had JOIN for_views USING (function) WHERE role = 'pgtap_worker'$$, 'a worker needs no view');
SELECT is_empty($$SELECT c.relname, r, p FROM pg_class c, unnest(ARRAY['pgtap_public', 'pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
	WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'r' AND has_table_privilege(r, c.oid, p)$$, 'no table for anybody');
SELECT is_empty($$SELECT c.relname, r, p FROM pg_class c, unnest(ARRAY['pgtap_public', 'pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p
	WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'r' AND has_any_column_privilege(r, c.oid, p)$$, 'no column of a table either');
SELECT is_empty($$SELECT c.relname, r, p FROM pg_class c, unnest(ARRAY['pgtap_public', 'pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) p
	WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' AND has_table_privilege(r, c.oid, p)$$, 'views are read');
SELECT is_empty($$SELECT r, p FROM unnest(ARRAY['pgtap_public', 'pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) p WHERE has_sequence_privilege(r, 'turn_liveness.reply_id_seq', p)$$, 'no sequence');
SELECT set_eq($$SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' AND has_table_privilege('pgtap_gateway', c.oid, 'SELECT')$$, ARRAY['turns', 'replies', 'late_replies', 'stat'], 'the gateway reads the views');
SELECT is_empty($$SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' AND has_any_column_privilege('pgtap_worker', c.oid, 'SELECT')$$, 'the worker reads none');
SELECT set_eq($$SELECT c.relname::text || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relname IN ('turns', 'replies', 'late_replies', 'stat')
	AND c.relkind = 'v' AND NOT has_column_privilege('pgtap_monitor', c.oid, a.attnum, 'SELECT')$$, ARRAY['turns.routing', 'replies.payload', 'late_replies.payload'], 'the monitor reads all but routing and payload');
-- and none may hand it on
SELECT is_empty($$SELECT p.proname, a.grantee::regrole FROM pg_proc p, aclexplode(p.proacl) a WHERE p.pronamespace = 'turn_liveness'::regnamespace AND a.is_grantable AND a.grantee <> p.proowner$$, 'no grant option');

SELECT throws_ok(format('SELECT turn_liveness.%s_%s(''-'')', v, k), NULL, NULL, format('%s_%s refuses PUBLIC', v, k)) FROM unnest(ARRAY['grant', 'revoke']) v, unnest(ARRAY['gateway', 'worker', 'monitor']) k;
SELECT turn_liveness.revoke_gateway('pgtap_gateway');
SELECT turn_liveness.revoke_worker('pgtap_worker');
SELECT turn_liveness.revoke_monitor('pgtap_monitor');
SELECT is_empty('SELECT * FROM had', 'all is taken back');
SELECT is_empty($$SELECT r, t.typname FROM pg_type t, unnest(ARRAY['pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r WHERE t.typnamespace = 'turn_liveness'::regnamespace AND t.typtype = 'e' AND has_type_privilege(r, t.oid, 'USAGE')$$, 'the types, too');
SELECT is_empty($$SELECT c.relname, r FROM pg_class c, unnest(ARRAY['pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v') AND has_any_column_privilege(r, c.oid, 'SELECT')$$, 'and the views');
SELECT schema_privs_are('turn_liveness', r, '{}'::name[]) FROM unnest(ARRAY['pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r;
SELECT lives_ok('DROP ROLE ' || r, r || ' can be dropped') FROM unnest(ARRAY['pgtap_gateway', 'pgtap_worker', 'pgtap_monitor']) r;

-- what an ordinary user may set
SELECT is_empty($$SELECT name FROM pg_settings WHERE name LIKE 'turn\_liveness.%' AND context NOT IN ('superuser', 'postmaster')$$, 'the settings are the superuser''s');
SELECT * FROM finish();
ROLLBACK;
