--
-- Waits for a human: suspend_turn and resume_turn.
--
\pset null '(null)'
CREATE VIEW tl_test.waits AS
	SELECT deployment, message_id, state, generation, worker, tl_test.ahead(deadline) AS ahead, reason
	  FROM turn_liveness.turns ORDER BY deployment, message_id;

SELECT turn_liveness.suspend_turn('su-1', 'm1', '1 h') AS none;
SELECT turn_liveness.arm_turn('su-1', 'm1', duration => '10 min'), turn_liveness.start_turn('su-1', 'm1', 'w1');
SELECT turn_liveness.suspend_turn('su-1', 'm1', '1 h', 'old', 7) AS old;
SELECT turn_liveness.suspend_turn('su-1', 'm1', '1 h', 'approve the payment', 1);
SELECT * FROM tl_test.waits WHERE deployment = 'su-1';
-- no beats, no silence, no duration: only the wait itself counts
SELECT tl_test.advance('50 min'), turn_liveness.sweep_expired_turns(), turn_liveness.has_live_turn('su-1', 'm1');
SELECT * FROM tl_test.waits WHERE deployment = 'su-1';
-- a worker that comes does not get it, unless it takes it over
SELECT turn_liveness.start_turn('su-1', 'm1', 'w2');
-- the holder may still beat: that changes nothing, and it hears that the turn is owed
SELECT turn_liveness.heartbeat('su-1', '{m1}', '{1}');
SELECT * FROM tl_test.waits WHERE deployment = 'su-1';
-- again: another end, another reason
SELECT turn_liveness.suspend_turn('su-1', 'm1', '2 h', 'still waiting');
SELECT * FROM tl_test.waits WHERE deployment = 'su-1';
-- the answer: it waits for its worker as if armed now, with the rest of its duration
SELECT turn_liveness.resume_turn('su-1', 'm1');
SELECT turn_liveness.resume_turn('su-1', 'm1') AS again;
SELECT * FROM tl_test.waits WHERE deployment = 'su-1';
-- a late beat of the old holder changes nothing
SELECT turn_liveness.heartbeat('su-1', '{m1}', '{1}');
SELECT * FROM tl_test.waits WHERE deployment = 'su-1';
SELECT turn_liveness.start_turn('su-1', 'm1', 'w2');
SELECT turn_liveness.commit_terminal_reply('su-1', '{m1}', '{"content": "late"}', '{1}');
SELECT tl_test.advance('50 s'), turn_liveness.heartbeat('su-1', '{m1}', '{2}') FROM generate_series(1, 11);
SELECT * FROM tl_test.waits WHERE deployment = 'su-1';
SELECT tl_test.advance('60 s'), turn_liveness.sweep_expired_turns();
SELECT error_code, decided_by, generation, worker FROM turn_liveness.replies WHERE deployment = 'su-1';

-- a wait that is too long
SELECT turn_liveness.arm_turn('su-2', 'm1', '{"channelId": "C1"}', rescue => '1 h'), turn_liveness.suspend_turn('su-2', 'm1', '5 min');
SELECT tl_test.advance('290 s'), turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.waits WHERE deployment = 'su-2';
SELECT tl_test.advance('20 s');
SELECT * FROM tl_test.waits WHERE deployment = 'su-2';
SELECT turn_liveness.sweep_expired_turns();
SELECT error_code, decided_by, tl_test.body(payload) AS payload FROM turn_liveness.replies WHERE deployment = 'su-2';
SELECT turn_liveness.resume_turn('su-2', 'm1'), turn_liveness.suspend_turn('su-2', 'm1', '5 min');

-- a suspended turn is answered, failed, discharged, armed again and taken over like another
SELECT turn_liveness.arm_turn('su-3', 'm' || i), turn_liveness.suspend_turn('su-3', 'm' || i, '1 h', 'r') FROM generate_series(1, 5) i;
SELECT turn_liveness.commit_terminal_reply('su-3', '{m1}', '{"content": "hi"}', '{1}'), turn_liveness.fail_turn('su-3', 'm2', 'stopped', 'CANCELLED'), turn_liveness.discharge_turn('su-3', 'm3'),
	   turn_liveness.arm_turn('su-3', 'm4'), turn_liveness.start_turn('su-3', 'm5', 'w', true);
SELECT * FROM tl_test.waits WHERE deployment = 'su-3';
SELECT turn_liveness.fail_deployment('su-3');

-- a provider's failure, before and during the wait
SELECT turn_liveness.arm_turn('su-4', 'm1'), turn_liveness.mark_provider_failed('su-4', 'QUOTA', 'no more'), turn_liveness.suspend_turn('su-4', 'm1', '1 h', 'r');
SELECT * FROM tl_test.waits WHERE deployment = 'su-4';
SELECT turn_liveness.clear_provider_failed('su-4'), turn_liveness.mark_provider_failed('su-4', 'QUOTA', 'no more');
SELECT * FROM tl_test.waits WHERE deployment = 'su-4';
SELECT turn_liveness.resume_turn('su-4', 'm1');
SELECT * FROM tl_test.waits WHERE deployment = 'su-4';
SELECT turn_liveness.fail_deployment('su-4');

-- rolled back
SELECT turn_liveness.arm_turn('su-5', 'm1');
BEGIN;
SELECT turn_liveness.suspend_turn('su-5', 'm1', '1 h');
ROLLBACK;
SELECT * FROM tl_test.waits WHERE deployment = 'su-5';
SELECT turn_liveness.fail_deployment('su-5');

SELECT tl_test.try($$SELECT turn_liveness.suspend_turn('su-6', 'm1', NULL)$$);
SELECT tl_test.try($$SELECT turn_liveness.suspend_turn('su-6', 'm1', '0')$$);
SELECT tl_test.try($$SELECT turn_liveness.suspend_turn('su-6', 'm1', '25 days')$$);
SELECT tl_test.try($$SELECT turn_liveness.suspend_turn('su-6', 'm1', '1 h', repeat('x', 8193))$$);
SELECT tl_test.try($$SELECT turn_liveness.resume_turn('su-6', NULL)$$);
