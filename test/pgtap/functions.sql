-- Every function of the contract: arguments, defaults, results, volatility, parallel label; and no other.
\set ON_ERROR_STOP 1
BEGIN;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS turn_liveness;
SELECT no_plan();

CREATE TEMP TABLE reply_columns AS SELECT 'TABLE(reply_id bigint, deployment text, message_ids text[], conversation_id text, platform text, organization_id text, payload jsonb, outcome text, state text, attempt integer, created_at timestamp with time zone)'::text AS columns;
CREATE TEMP TABLE want (name text, arguments text, result text, volatile "char", parallel "char");
INSERT INTO want VALUES
	('arm_turn', 'deployment text, message_id text, routing jsonb DEFAULT ''{}''::jsonb, admission interval DEFAULT NULL::interval, silence interval DEFAULT NULL::interval, duration interval DEFAULT NULL::interval, rescue interval DEFAULT NULL::interval', 'turn_liveness.arm_result', 'v', 'u'),
	('start_turn', 'deployment text, message_id text, worker text DEFAULT NULL::text, take_over boolean DEFAULT false', 'integer', 'v', 'u'),
	('heartbeat', 'deployment text, message_ids text[] DEFAULT NULL::text[], generations integer[] DEFAULT NULL::integer[]', 'integer', 'v', 'u'),
	('heartbeats', 'deployments text[], message_ids text[] DEFAULT NULL::text[], generations integer[] DEFAULT NULL::integer[]', 'TABLE(deployment text, message_id text)', 'v', 'u'),
	('commit_terminal_reply', 'deployment text, message_ids text[], reply jsonb, generations integer[] DEFAULT NULL::integer[]', 'turn_liveness.election', 'v', 'u'),
	('post_update', 'deployment text, message_id text, payload jsonb, generation integer DEFAULT NULL::integer', 'bigint', 'v', 'u'),
	('suspend_turn', 'deployment text, message_id text, max_wait interval, reason text DEFAULT NULL::text, generation integer DEFAULT NULL::integer', 'boolean', 'v', 'u'),
	('resume_turn', 'deployment text, message_id text', 'boolean', 'v', 'u'),
	('rescue_turns', 'max_turns integer DEFAULT 100', 'TABLE(deployment text, message_id text, generation integer, routing jsonb, error_code text)', 'v', 'u'),
	('get_turn', 'deployment text, message_id text', 'TABLE(state text, generation integer, worker text, armed_at timestamp with time zone, first_beat timestamp with time zone, last_beat timestamp with time zone, deadline timestamp with time zone, ended_at timestamp with time zone, error_code text, reason text, decided_by text, reply_id bigint, payload jsonb, last_update jsonb, delivery_state text)', 's', 'u'),
	('fail_turn', 'deployment text, message_id text, error text, error_code text DEFAULT NULL::text', 'turn_liveness.election', 'v', 'u'),
	('fail_deployment', 'deployment text, error text DEFAULT NULL::text, error_code text DEFAULT ''WORKER_DIED''::text, armed_before timestamp with time zone DEFAULT NULL::timestamp with time zone', 'integer', 'v', 'u'),
	('reject_turn', 'deployment text, message_id text, routing jsonb, error text, error_code text DEFAULT NULL::text', 'turn_liveness.election', 'v', 'u'),
	('discharge_turn', 'deployment text, message_id text', 'boolean', 'v', 'u'),
	('has_live_turn', 'deployment text, message_id text', 'boolean', 'v', 'u'),
	('mark_provider_failed', 'deployment text, error_code text, reason text', 'integer', 'v', 'u'),
	('clear_provider_failed', 'deployment text', 'integer', 'v', 'u'),
	('attach_worker', 'deployment text', 'integer', 'v', 'u'),
	('detach_worker', 'deployment text', 'boolean', 'v', 'u'),
	('sweep_expired_turns', 'max_turns integer DEFAULT NULL::integer', 'integer', 'v', 'u'),
	('read_replies', 'conversations text[], after bigint[] DEFAULT NULL::bigint[], max_replies integer DEFAULT 100', (SELECT columns FROM reply_columns), 's', 'u'),
	('claim_replies', 'gateway text, conversations text[] DEFAULT NULL::text[], platforms text[] DEFAULT NULL::text[], max_replies integer DEFAULT 100', (SELECT columns FROM reply_columns), 'v', 'u'),
	('ack_replies', 'gateway text, reply_ids bigint[]', 'integer', 'v', 'u'),
	('release_replies', 'gateway text, reply_ids bigint[], delay interval DEFAULT NULL::interval, error text DEFAULT NULL::text', 'integer', 'v', 'u'),
	('retry_dead_reply', 'reply_id bigint', 'boolean', 'v', 'u'),
	('grant_gateway', 'role regrole', 'void', 'v', 'u'),
	('revoke_gateway', 'role regrole', 'void', 'v', 'u'),
	('grant_worker', 'role regrole', 'void', 'v', 'u'),
	('revoke_worker', 'role regrole', 'void', 'v', 'u'),
	('grant_monitor', 'role regrole', 'void', 'v', 'u'),
	('revoke_monitor', 'role regrole', 'void', 'v', 'u'),
	('stat_reset', '', 'void', 'v', 'u');

-- OUT arguments and RETURNS TABLE are the same to a caller: compared are the IN arguments, and the columns of the result
CREATE TEMP VIEW have AS
	SELECT p.oid, p.proname::text AS name,
		   (SELECT coalesce(string_agg(a.name || ' ' || format_type(a.type, NULL) ||
					CASE WHEN a.i > p.pronargs - p.pronargdefaults
						 THEN ' DEFAULT ' || pg_get_function_arg_default(p.oid, a.i::integer) ELSE '' END, ', ' ORDER BY a.i), '')
			  FROM (SELECT u.name, u.type, row_number() OVER (ORDER BY u.o) AS i
					  FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes) WITH ORDINALITY AS u (type, name, mode, o)
					 WHERE coalesce(u.mode, 'i') IN ('i', 'b', 'v')) a) AS arguments,
		   CASE WHEN p.proretset AND p.prorettype = 'record'::regtype
				THEN 'TABLE(' || (SELECT string_agg(u.name || ' ' || format_type(u.type, NULL), ', ' ORDER BY u.o)
									FROM unnest(p.proallargtypes, p.proargnames, p.proargmodes) WITH ORDINALITY AS u (type, name, mode, o)
								   WHERE u.mode IN ('o', 't')) || ')'
				ELSE CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END || format_type(p.prorettype, NULL) END AS result,
		   p.provolatile AS volatile, p.proparallel AS parallel
	  FROM pg_proc p WHERE p.pronamespace = 'turn_liveness'::regnamespace;

SELECT has_function('turn_liveness', name, 'there is ' || name) FROM want;
SELECT is(h.arguments, w.arguments, 'arguments of ' || w.name) FROM want w LEFT JOIN have h USING (name);
SELECT is(h.result, w.result, 'result of ' || w.name) FROM want w LEFT JOIN have h USING (name);
SELECT is(h.volatile, w.volatile, 'volatility of ' || w.name) FROM want w LEFT JOIN have h USING (name);
SELECT is(h.parallel, w.parallel, 'parallel label of ' || w.name) FROM want w LEFT JOIN have h USING (name);

-- beyond the contract there is only what the views and the table of turns need
SELECT set_eq(
	$$SELECT name FROM have WHERE name NOT IN (SELECT name FROM want) AND name NOT LIKE 'stat%'$$,
	ARRAY['clock_now', 'turn_status', 'holder', 'foreign_change', 'change_privileges'], 'no other function, but what the views and the grants need');
SELECT is_empty($$SELECT name FROM have GROUP BY name HAVING count(*) > 1$$, 'functions are never overloaded');
SELECT is_empty($$SELECT name FROM have JOIN pg_proc p USING (oid) WHERE p.prosecdef$$, 'no function runs with more rights than its caller');
SELECT is_empty($$SELECT name FROM have JOIN pg_proc p USING (oid) JOIN pg_language l ON l.oid = p.prolang WHERE (l.lanname = 'c') = (p.proconfig IS NOT NULL)$$, 'no C function pays for a SET clause, and each other one has its search_path');
SELECT is_empty($$SELECT name FROM have JOIN pg_proc p USING (oid) JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname <> 'c' AND name !~ '^(grant|revoke)_' AND name <> 'change_privileges'$$, 'every function but the grants is C');
SELECT is_empty($$SELECT name FROM have JOIN pg_proc p USING (oid) WHERE p.proisstrict AND name IN (SELECT name FROM want)$$, 'no function answers NULL for a NULL argument');
SELECT is_empty($$SELECT name FROM have WHERE parallel = 's'$$, 'no function runs in a parallel worker');
SELECT is_empty($$SELECT name FROM have WHERE volatile = 'i'$$, 'no function is immutable');
SELECT is_empty($$SELECT name FROM have WHERE coalesce(obj_description(oid, 'pg_proc'), '') = ''$$, 'every function has a comment');
SELECT is_empty($$SELECT name FROM have JOIN pg_proc p USING (oid) WHERE p.probin IS NOT NULL AND p.probin NOT LIKE '%turn_liveness%'$$, 'every function is in our library');
SELECT is_empty($$SELECT h.name FROM have h WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = h.oid AND d.deptype = 'e')$$, 'every function is the extension''s');

-- every one has been called once: the library has what the SQL names
SELECT lives_ok(format('SELECT %L::regprocedure', oid::regprocedure), name || ' can be named') FROM have;
SELECT is(pg_typeof(turn_liveness.arm_turn('pgtap', 'm'))::text, 'turn_liveness.arm_result', 'arm_turn answers');
SELECT is(turn_liveness.heartbeat(deployment => 'pgtap', message_ids => ARRAY['m']), 1, 'arguments have their names');
SELECT is(turn_liveness.commit_terminal_reply(deployment => 'pgtap', message_ids => ARRAY['m'], reply => '{}')::text, 'won', 'the election answers');
SELECT lives_ok('SELECT turn_liveness.stat_reset()', 'stat_reset');

SELECT enums_are('turn_liveness', ARRAY['arm_result', 'election', 'gateway_grant', 'worker_grant', 'monitor_grant']);
SELECT enum_has_labels('turn_liveness', 'arm_result', ARRAY['armed', 'pending', 'answered']);
SELECT enum_has_labels('turn_liveness', 'election', ARRAY['won', 'lost', 'stale', 'unknown']);
SELECT * FROM finish();
ROLLBACK;
