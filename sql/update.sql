--
-- Updates, the messages before the last, and get_turn.
--
\pset null '(null)'
SELECT turn_liveness.post_update('up-1', 'm1', '{"status": "none"}') AS none;
SELECT turn_liveness.arm_turn('up-1', 'm1', '{"channelId": "C1", "conversationId": "up-conv", "platform": "slack", "traceparent": "00-a-b-01"}');
SELECT turn_liveness.post_update('up-1', 'm1', '{"status": "thinking"}') IS NOT NULL AS stored;
SELECT state, first_beat IS NOT NULL AS started FROM turn_liveness.turns WHERE deployment = 'up-1';
SELECT turn_liveness.post_update('up-1', 'm1', '{"status": "old"}', 7) AS old, turn_liveness.post_update('up-1', 'm1', '{"status": "asking", "messageId": "x", "platform": "mine"}', 1) IS NOT NULL AS stored;
-- a sign of life
SELECT tl_test.advance('50 s'), turn_liveness.post_update('up-1', 'm1', '{"status": "still here"}') IS NOT NULL AS stored;
SELECT tl_test.advance('50 s'), turn_liveness.sweep_expired_turns(), turn_liveness.has_live_turn('up-1', 'm1');
-- read, claimed, acknowledged like replies
SELECT deployment, message_ids, conversation_id, platform, tl_test.body(payload) AS payload, outcome, state, attempt FROM turn_liveness.read_replies('{up-conv}');
SELECT payload ->> 'status' AS status, outcome, state, attempt FROM turn_liveness.claim_replies('g', '{up-conv}', max_replies => 2);
SELECT turn_liveness.ack_replies('g', (SELECT array_agg(reply_id) FROM turn_liveness.read_replies('{up-conv}')));
-- the terminal one comes last, and an update after it is none
BEGIN;
SELECT turn_liveness.commit_terminal_reply('up-1', '{m1}', '{"content": "hi"}');
SELECT turn_liveness.post_update('up-1', 'm1', '{"status": "too late"}') AS none;
COMMIT;
SELECT payload ->> 'status' AS status, payload ->> 'content' AS content, outcome, state FROM turn_liveness.read_replies('{up-conv}');
SELECT outcome, decided_by, generation, payload ? 'processedMessageIds' AS lists FROM turn_liveness.replies WHERE deployment = 'up-1' ORDER BY reply_id;

-- all about one turn
SELECT state, generation, worker, armed_at IS NOT NULL AS armed, first_beat IS NOT NULL AS first, last_beat IS NOT NULL AS last, deadline, ended_at IS NOT NULL AS ended,
	   error_code, reason, decided_by, reply_id IS NOT NULL AS replied, payload ->> 'content' AS content, last_update ->> 'status' AS last_update, delivery_state
  FROM turn_liveness.get_turn('up-1', 'm1');
SELECT * FROM turn_liveness.get_turn('up-1', 'nothing');
SELECT turn_liveness.arm_turn('up-2', 'm1'), turn_liveness.start_turn('up-2', 'm1', 'w1');
SELECT state, generation, worker, tl_test.ahead(deadline) AS ahead, ended_at, error_code, reason, decided_by, reply_id, payload, last_update, delivery_state FROM turn_liveness.get_turn('up-2', 'm1');
SELECT turn_liveness.suspend_turn('up-2', 'm1', '1 h', 'approve it');
SELECT state, tl_test.ahead(deadline) AS ahead, reason FROM turn_liveness.get_turn('up-2', 'm1');
SELECT turn_liveness.fail_turn('up-2', 'm1', 'stopped by the user', 'CANCELLED');
SELECT state, worker, error_code, reason, decided_by, payload ->> 'error' AS error, delivery_state FROM turn_liveness.get_turn('up-2', 'm1');
SELECT turn_liveness.arm_turn('up-2', 'm2'), turn_liveness.discharge_turn('up-2', 'm2');
SELECT state, decided_by, payload, delivery_state FROM turn_liveness.get_turn('up-2', 'm2');
SELECT turn_liveness.reject_turn('up-2', 'm3', '{}', 'refused', 'GUARDRAIL');
SELECT state, armed_at, generation, error_code, reason, decided_by FROM turn_liveness.get_turn('up-2', 'm3');
SELECT turn_liveness.arm_turn('up-2', 'm4'), turn_liveness.mark_provider_failed('up-2', 'QUOTA', 'no more');
SELECT state, error_code, reason FROM turn_liveness.get_turn('up-2', 'm4');
SELECT turn_liveness.fail_deployment('up-2');
-- one look at an index
SET enable_seqscan = on;
SELECT tl_test.code($$SELECT turn_liveness.get_turn(NULL, 'm')$$), tl_test.code($$SELECT turn_liveness.get_turn('d', '')$$);

-- retention: an update goes by itself, and leaves the turn
SELECT turn_liveness.arm_turn('up-3', 'm1', admission => '30 h', duration => '40 h'), turn_liveness.post_update('up-3', 'm1', '{"status": 1}') IS NOT NULL AS stored;
SELECT turn_liveness.ack_replies('g', (SELECT array_agg(reply_id) FROM turn_liveness.read_replies('{up-3}')));
SELECT turn_liveness.suspend_turn('up-3', 'm1', '100 h');
SELECT tl_test.advance('25 h'), turn_liveness.sweep_expired_turns();
SELECT count(*) FROM turn_liveness.read_replies('{up-3}');
SELECT state, last_update FROM turn_liveness.get_turn('up-3', 'm1');
SELECT turn_liveness.fail_turn('up-3', 'm1', 'stopped');

SELECT tl_test.try($$SELECT turn_liveness.post_update('d', 'm', '[]')$$);
SELECT tl_test.try($$SELECT turn_liveness.post_update('d', 'm', NULL)$$);
SELECT tl_test.try($$SELECT turn_liveness.post_update('d', 'm', jsonb_build_object('x', repeat('x', 1100000)))$$);
