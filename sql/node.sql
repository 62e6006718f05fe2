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
SELECT tl_test.try(call) FROM unnest(ARRAY[
	$$SELECT turn_liveness.arm_turn('ac-1', 'm2')$$, $$SELECT turn_liveness.start_turn('ac-1', 'm1')$$,
	$$SELECT turn_liveness.heartbeat('ac-1')$$, $$SELECT turn_liveness.heartbeats('{ac-1}')$$,
	$$SELECT turn_liveness.commit_terminal_reply('ac-1', '{m1}', '{}')$$, $$SELECT turn_liveness.post_update('ac-1', 'm1', '{}')$$,
	$$SELECT turn_liveness.suspend_turn('ac-1', 'm1', '1 h')$$, $$SELECT turn_liveness.resume_turn('ac-1', 'm1')$$,
	$$SELECT turn_liveness.rescue_turns()$$, $$SELECT turn_liveness.fail_turn('ac-1', 'm1', 'stopped')$$,
	$$SELECT turn_liveness.fail_deployment('ac-1')$$, $$SELECT turn_liveness.reject_turn('ac-1', 'm1', '{}', 'stopped')$$,
	$$SELECT turn_liveness.discharge_turn('ac-1', 'm1')$$, $$SELECT turn_liveness.mark_provider_failed('ac-1', 'C', 'r')$$,
	$$SELECT turn_liveness.clear_provider_failed('ac-1')$$, $$SELECT turn_liveness.attach_worker('ac-1')$$,
	$$SELECT turn_liveness.sweep_expired_turns()$$, $$SELECT turn_liveness.claim_replies('g', '{ac-1}')$$,
	$$SELECT turn_liveness.ack_replies('g', '{1}')$$, $$SELECT turn_liveness.release_replies('g', '{1}')$$,
	$$SELECT turn_liveness.retry_dead_reply(1)$$]) call;
-- what reads does so
SELECT state FROM turn_liveness.get_turn('ac-1', 'm1');
SELECT turn_liveness.has_live_turn('ac-1', 'm1'), count(*) FROM turn_liveness.read_replies('{ac-1}');
SELECT count(*) FROM turn_liveness.turns WHERE deployment = 'ac-1';
RESET turn_liveness.accept;
SELECT turn_liveness.heartbeat('ac-1'), turn_liveness.fail_deployment('ac-1');
