--
-- Hand-overs: start_turn, generations as a fence, arming again.
--
\pset null '(null)'
CREATE VIEW tl_test.held AS
	SELECT deployment, message_id, state, generation, worker, tl_test.ahead(deadline) AS ahead, first_beat IS NOT NULL AS started
	  FROM turn_liveness.turns ORDER BY deployment, message_id;

-- a worker takes the turn: generation 1, started as by a beat that names it
SELECT turn_liveness.start_turn('ho-1', 'm1');
SELECT turn_liveness.arm_turn('ho-1', 'm1');
SELECT * FROM tl_test.held WHERE deployment = 'ho-1';
SELECT turn_liveness.start_turn('ho-1', 'm1', 'w1');
SELECT * FROM tl_test.held WHERE deployment = 'ho-1';
-- a queue that delivers twice: this generation is taken
SELECT turn_liveness.start_turn('ho-1', 'm1', 'w2');
SELECT * FROM tl_test.held WHERE deployment = 'ho-1';
-- take_over: the next generation
SELECT turn_liveness.start_turn('ho-1', 'm1', 'w2', true);
SELECT * FROM tl_test.held WHERE deployment = 'ho-1';
-- of a turn that no worker took, take_over takes this generation
SELECT turn_liveness.arm_turn('ho-1', 'm2'), turn_liveness.start_turn('ho-1', 'm2', take_over => true);
SELECT * FROM tl_test.held WHERE deployment = 'ho-1';

-- beats of the earlier holder count for nothing, those of the present one do
SELECT turn_liveness.heartbeat('ho-1', '{m1}', '{1}') AS old, turn_liveness.heartbeat('ho-1', '{m1}', '{2}') AS present,
	   turn_liveness.heartbeat('ho-1', '{m1}', '{1}') AS old_again, turn_liveness.heartbeat('ho-1', '{m1}', '{3}') AS unheard_of;
SELECT turn_liveness.heartbeat('ho-1', '{m1,m2}', '{1,1}') AS one_of_two, turn_liveness.heartbeat('ho-1', '{m2,m1}', '{1,2}') AS both,
	   turn_liveness.heartbeat('ho-1', '{m2,m1}', '{1,NULL}') AS unfenced;
SELECT * FROM turn_liveness.heartbeats('{ho-1,ho-1,ho-1,ho-1,ho-1}', '{m1,m1,m2,m2,NULL}', '{1,2,1,2,NULL}');
-- the earlier holder's beats do not keep the turn alive
SELECT tl_test.advance('50 s'), turn_liveness.heartbeat('ho-1', '{m1}', '{1}'), turn_liveness.heartbeat('ho-1', '{m2}', '{1}');
SELECT tl_test.advance('20 s');
SELECT * FROM tl_test.held WHERE deployment = 'ho-1';
SELECT turn_liveness.heartbeat('ho-1', '{m1}', '{2}');
SELECT * FROM tl_test.held WHERE deployment = 'ho-1';

-- the answer of the earlier holder is stale: kept, not delivered; the turn is owed
SELECT turn_liveness.commit_terminal_reply('ho-1', '{m1}', '{"content": "old"}', '{1}');
SELECT turn_liveness.commit_terminal_reply('ho-1', '{m1}', '{"content": "of the future"}', '{7}');
SELECT deployment, message_ids, conversation_id, payload, verdict FROM turn_liveness.late_replies WHERE deployment = 'ho-1' ORDER BY payload;
SELECT turn_liveness.commit_terminal_reply('ho-1', '{m1}', '{"content": "old"}', '{1}') AS again, count(*) FROM turn_liveness.late_replies WHERE deployment = 'ho-1';
-- of several, those that the caller holds are won
SELECT turn_liveness.commit_terminal_reply('ho-1', '{m2,m1}', '{"content": "new"}', '{1,1}');
SELECT turn_liveness.commit_terminal_reply('ho-1', '{m2,m1}', '{"content": "old"}', '{1,1}') AS stale_and_ended;
SELECT turn_liveness.commit_terminal_reply('ho-1', '{m1}', '{"content": "new"}', '{2}');
SELECT turn_liveness.commit_terminal_reply('ho-1', '{m1}', '{"content": "old"}', '{1}') AS ended;
SELECT message_ids, outcome, generation, worker, tl_test.body(payload) AS payload FROM turn_liveness.replies WHERE deployment = 'ho-1' ORDER BY reply_id;
SELECT turn_liveness.start_turn('ho-1', 'm1', take_over => true) AS ended, turn_liveness.heartbeat('ho-1', '{m1}', '{2}');

-- arming again is a hand-over, and keeps what is not given
SELECT turn_liveness.arm_turn('ho-2', 'm1', '{}', admission => '1 h', silence => '10 min', duration => '26 h');
SELECT turn_liveness.start_turn('ho-2', 'm1', 'w1');
SELECT turn_liveness.arm_turn('ho-2', 'm1');
SELECT * FROM tl_test.held WHERE deployment = 'ho-2';
SELECT turn_liveness.start_turn('ho-2', 'm1', 'w2');
SELECT * FROM tl_test.held WHERE deployment = 'ho-2';
-- what is given counts, against the limit that holds
SELECT turn_liveness.arm_turn('ho-2', 'm1', admission => '24 h');
SELECT * FROM tl_test.held WHERE deployment = 'ho-2';
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('ho-2', 'm1', admission => '27 h')$$);
SELECT turn_liveness.arm_turn('ho-2', 'm1', admission => '5 min', silence => '2 min', duration => '1 h');
SELECT turn_liveness.start_turn('ho-2', 'm1'), tl_test.advance('0 s');
SELECT * FROM tl_test.held WHERE deployment = 'ho-2';
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('ho-2', 'm1', silence => '2 h')$$);
-- a duration that is shorter than what is kept ends the turn first, and changes nothing else
SELECT turn_liveness.arm_turn('ho-2', 'm1', duration => '90 s');
SELECT admission_ms, silence_ms, duration_ms, generation FROM turn_liveness.turn WHERE deployment = 'ho-2';
SELECT * FROM tl_test.held WHERE deployment = 'ho-2';
SELECT turn_liveness.arm_turn('ho-2', 'm1', duration => '1 h');
SELECT admission_ms, silence_ms, duration_ms, generation FROM turn_liveness.turn WHERE deployment = 'ho-2';
-- the check of a new turn goes by the defaults
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('ho-2', 'm9', admission => '24 h')$$);
SELECT turn_liveness.discharge_turn('ho-2', 'm1'), turn_liveness.arm_turn('ho-2', 'm1', admission => '24 h') AS ended;

-- a savepoint that rolls back takes the hand-over with it
SELECT turn_liveness.arm_turn('ho-3', 'm1'), turn_liveness.start_turn('ho-3', 'm1', 'w1');
BEGIN;
SAVEPOINT s;
SELECT turn_liveness.start_turn('ho-3', 'm1', 'w2', true);
SELECT turn_liveness.heartbeat('ho-3', '{m1}', '{1}') AS committed_state;
ROLLBACK TO s;
COMMIT;
SELECT turn_liveness.heartbeat('ho-3', '{m1}', '{2}') AS never, turn_liveness.heartbeat('ho-3', '{m1}', '{1}') AS present;
SELECT * FROM tl_test.held WHERE deployment = 'ho-3';
SELECT turn_liveness.commit_terminal_reply('ho-3', '{m1}', '{"content": "hi", "generation": "mine"}', '{1}');
SELECT generation, worker, payload -> 'generation' AS told FROM turn_liveness.replies WHERE deployment = 'ho-3';

-- generation and traceparent stand in an error
SELECT turn_liveness.arm_turn('ho-4', 'm1', '{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'), turn_liveness.arm_turn('ho-4', 'm1');
SELECT turn_liveness.fail_turn('ho-4', 'm1', 'stopped', 'CANCELLED');
SELECT generation, tl_test.body(payload) FROM turn_liveness.replies WHERE deployment = 'ho-4';

-- what callers get wrong
SELECT tl_test.try($$SELECT turn_liveness.start_turn(NULL, 'm1')$$);
SELECT tl_test.try($$SELECT turn_liveness.start_turn('d', '')$$);
SELECT tl_test.try($$SELECT turn_liveness.start_turn('d', 'm', repeat('w', 256))$$);
SELECT tl_test.try($$SELECT turn_liveness.start_turn('d', 'm', '')$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeat('d', '{m1,m2}', '{1}')$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeat('d', NULL, '{1}')$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeats('{d,d}', '{m1,m2}', '{1}')$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeats('{d,d}', NULL, '{1,1}')$$);
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('d', '{m1,m2}', '{}', '{1}')$$);
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('d', '{m1,m1}', '{}', '{1,2}')$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeat('d', '{m1,m1}', '{1,2}')$$);
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('d', '{m1}', '{}', '{{1}}')$$);
SELECT turn_liveness.arm_turn('ho-5', 'm1');
SELECT turn_liveness.heartbeat('ho-5', '{m1}', '{0}'), turn_liveness.heartbeat('ho-5', '{m1}', '{-1}'), turn_liveness.heartbeat('ho-5', '{m1}', '{2147483647}'),
	   turn_liveness.heartbeat('ho-5', '{}', '{}'), turn_liveness.heartbeat('ho-5', '{m1,m1}', '{1,1}');
SELECT state FROM turn_liveness.turns WHERE deployment = 'ho-5';
SELECT turn_liveness.discharge_turn('ho-5', 'm1');
