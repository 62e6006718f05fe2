--
-- The rescue window: a lapsed turn is offered, taken by one caller, or fails at the window's end.
--
\pset null '(null)'
CREATE VIEW tl_test.offered AS
	SELECT deployment, message_id, state, generation, tl_test.ahead(deadline) AS ahead, error_code
	  FROM turn_liveness.turns ORDER BY deployment, message_id;

-- never started: offered at its admission, failed at the window's end
SELECT turn_liveness.arm_turn('rs-1', 'm1', '{"channelId": "C1"}', rescue => '60 s');
SELECT tl_test.advance('170 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT count(*) AS taken FROM turn_liveness.rescue_turns();
SELECT tl_test.advance('20 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-1';
SELECT turn_liveness.has_live_turn('rs-1', 'm1');
SELECT tl_test.advance('40 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-1';
SELECT tl_test.advance('30 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT count(*) FROM tl_test.offered WHERE deployment = 'rs-1';
SELECT outcome, error_code, decided_by, generation FROM turn_liveness.replies WHERE deployment = 'rs-1';

-- started, then silent: taken by a rescue, under the next generation, with its routing
SELECT turn_liveness.arm_turn('rs-2', 'm1', '{"channelId": "C2"}', rescue => '5 min'), turn_liveness.start_turn('rs-2', 'm1', 'w1');
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM turn_liveness.rescue_turns(0);
BEGIN;
SELECT * FROM turn_liveness.rescue_turns();
SELECT * FROM turn_liveness.rescue_turns();
ROLLBACK;
SELECT * FROM tl_test.offered WHERE deployment = 'rs-2';
SELECT * FROM turn_liveness.rescue_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-2';
SELECT turn_liveness.heartbeat('rs-2', '{m1}', '{1}') AS old, turn_liveness.start_turn('rs-2', 'm1', 'w2') AS taken;
SELECT turn_liveness.commit_terminal_reply('rs-2', '{m1}', '{"content": "late"}', '{1}') AS old, turn_liveness.commit_terminal_reply('rs-2', '{m1}', '{"content": "hi"}', '{2}') AS new;

-- a beat revives a turn that was offered, and it lapses anew
SELECT turn_liveness.arm_turn('rs-3', 'm1', rescue => '5 min'), turn_liveness.heartbeat('rs-3', '{m1}');
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.heartbeat('rs-3', '{m1}');
SELECT count(*) AS taken FROM turn_liveness.rescue_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-3';
SELECT turn_liveness.has_live_turn('rs-3', 'm1');
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-3';
-- arming it again takes it too
SELECT turn_liveness.arm_turn('rs-3', 'm1');
SELECT count(*) AS taken FROM turn_liveness.rescue_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-3';
-- and a worker that comes for it
SELECT tl_test.advance('190 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.start_turn('rs-3', 'm1', 'w3');
SELECT count(*) AS taken FROM turn_liveness.rescue_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-3';
SELECT turn_liveness.fail_turn('rs-3', 'm1', 'stopped', 'CANCELLED');

-- oldest first, and as many as are asked for
SELECT turn_liveness.arm_turn('rs-4', 'm' || i, admission => i * interval '20 s', rescue => '1 h') FROM generate_series(3, 1, -1) i;
SELECT tl_test.advance('30 s'), turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('20 s'), turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('20 s'), turn_liveness.sweep_expired_turns();
SELECT message_id, generation, error_code FROM turn_liveness.rescue_turns(2);
SELECT message_id, generation, error_code FROM turn_liveness.rescue_turns(2);
SELECT count(turn_liveness.discharge_turn('rs-4', 'm' || i)) FROM generate_series(1, 3) i;

-- no window: the duration limit, fail_..., a failed provider
SELECT turn_liveness.arm_turn('rs-5', 'm1', duration => '100 s', silence => '90 s', rescue => '1 h'), turn_liveness.heartbeat('rs-5', '{m1}');
SELECT tl_test.advance('80 s'), turn_liveness.heartbeat('rs-5', '{m1}');
SELECT tl_test.advance('30 s'), turn_liveness.sweep_expired_turns();
SELECT error_code, decided_by FROM turn_liveness.replies WHERE deployment = 'rs-5';
SELECT turn_liveness.arm_turn('rs-6', 'm1', rescue => '1 h'), turn_liveness.mark_provider_failed('rs-6', 'QUOTA', 'no more');
SELECT tl_test.advance('190 s'), turn_liveness.sweep_expired_turns();
SELECT error_code, decided_by FROM turn_liveness.replies WHERE deployment = 'rs-6';
-- the duration ends the window
SELECT turn_liveness.arm_turn('rs-7', 'm1', duration => '100 s', rescue => '1 h'), turn_liveness.heartbeat('rs-7', '{m1}');
SELECT tl_test.advance('70 s'), turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-7';
SELECT tl_test.advance('40 s'), turn_liveness.sweep_expired_turns();
SELECT error_code FROM turn_liveness.replies WHERE deployment = 'rs-7';

-- no caller gets it when the window is over, swept or not
SELECT turn_liveness.arm_turn('rs-10', 'm1', admission => '60 s', rescue => '60 s');
SELECT tl_test.advance('70 s'), turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-10';
SELECT tl_test.advance('61 s');
SELECT count(*) AS taken FROM turn_liveness.rescue_turns();
SELECT turn_liveness.sweep_expired_turns();
SELECT error_code FROM turn_liveness.replies WHERE deployment = 'rs-10';

-- the setting is the default, read when the turn is armed
SET turn_liveness.rescue_window = '2 min';
SELECT turn_liveness.arm_turn('rs-8', 'm1'), turn_liveness.arm_turn('rs-8', 'm2', rescue => '0');
RESET turn_liveness.rescue_window;
SELECT message_id, rescue_ms FROM turn_liveness.turn WHERE deployment = 'rs-8' ORDER BY 1;
SELECT tl_test.advance('190 s'), turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.offered WHERE deployment = 'rs-8';
-- sweep = off holds the window's end, and turned on again it gives a turn deadline
SELECT tl_test.advance('130 s');
SET turn_liveness.sweep = off;
SELECT turn_liveness.sweep_expired_turns();
RESET turn_liveness.sweep;
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('70 s'), turn_liveness.sweep_expired_turns();
SELECT error_code FROM turn_liveness.replies WHERE deployment = 'rs-8' ORDER BY reply_id;

SELECT tl_test.try($$SELECT * FROM turn_liveness.rescue_turns(-1)$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('rs-9', 'm1', rescue => '-1 s')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('rs-9', 'm1', rescue => '100 days')$$);
