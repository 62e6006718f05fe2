--
-- Which server gives out an id, and which refuses: node and accept.
--
\pset null '(null)'
SELECT turn_liveness.arm_turn('nd-1', 'm' || i) FROM generate_series(1, 4) i;
SELECT turn_liveness.fail_turn('nd-1', 'm1', 'stopped');
SELECT max(reply_id) < 2 ^ 44 AS of_node_0 FROM turn_liveness.replies WHERE deployment = 'nd-1';
SET turn_liveness.node = 3;
SELECT turn_liveness.fail_turn('nd-1', 'm2', 'stopped'), turn_liveness.fail_turn('nd-1', 'm3', 'stopped');
SELECT message_ids, reply_id - 3 * 2 ^ 44 AS beyond, reply_id::float8::bigint = reply_id AS exact FROM turn_liveness.replies WHERE deployment = 'nd-1' AND reply_id > 2 ^ 44 ORDER BY reply_id;
-- ids that were given out stay below: a node that is lowered goes on from there
SET turn_liveness.node = 1;
SELECT turn_liveness.fail_turn('nd-1', 'm4', 'stopped');
SELECT message_ids, reply_id - 3 * 2 ^ 44 AS beyond FROM turn_liveness.replies WHERE deployment = 'nd-1' AND reply_id > 2 ^ 44 ORDER BY reply_id;
RESET turn_liveness.node;
SELECT tl_test.code($$SET turn_liveness.node = 511$$), tl_test.code($$SET turn_liveness.node = -1$$);
SELECT setval('turn_liveness.reply_id_seq', 1000000);

-- a server that must not be asked
SELECT turn_liveness.arm_turn('ac-1', 'm1'), turn_liveness.heartbeat('ac-1');
SET turn_liveness.accept = off;
-- every function but those that read, administer, or serve our own objects
SELECT p.proname, tl_test.try(format('SELECT turn_liveness.%I(%s)', p.proname, args)) AS refused
FROM pg_proc p, LATERAL (
	SELECT string_agg(CASE format_type(t, NULL)
		WHEN 'text' THEN '''x''' WHEN 'text[]' THEN '''{x}''' WHEN 'jsonb' THEN '''{}''' WHEN 'interval' THEN '''1 h'''
		WHEN 'bigint' THEN '1' WHEN 'bigint[]' THEN '''{1}''' ELSE 'NULL' END, ', ' ORDER BY n) AS args
	FROM unnest(p.proargtypes) WITH ORDINALITY a(t, n) WHERE n <= p.pronargs - p.pronargdefaults) x
WHERE p.pronamespace = 'turn_liveness'::regnamespace AND p.prorettype <> 'trigger'::regtype
  AND p.proname NOT IN ('get_turn', 'has_live_turn', 'read_replies', 'stat_reset', 'change_privileges',
	'clock_now', 'turn_status', 'holder', 'stat_row') AND p.proname !~ '^(grant|revoke)_'
ORDER BY p.proname COLLATE "C";
-- what reads does so
SELECT state FROM turn_liveness.get_turn('ac-1', 'm1');
SELECT turn_liveness.has_live_turn('ac-1', 'm1'), count(*) FROM turn_liveness.read_replies('{ac-1}');
SELECT count(*) FROM turn_liveness.turns WHERE deployment = 'ac-1';
RESET turn_liveness.accept;
SELECT turn_liveness.heartbeat('ac-1'), turn_liveness.fail_deployment('ac-1');
