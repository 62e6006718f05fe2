--
-- The mass-silence hold: an outage of the path to the database is not the death of the workers.
--
\pset null '(null)'
CREATE FUNCTION tl_test.beat_all(first integer, last integer) RETURNS bigint LANGUAGE sql AS $$
	SELECT sum(turn_liveness.heartbeat('si-' || i)) FROM generate_series(first, last) i
$$;
CREATE FUNCTION tl_test.arm_all(last integer) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(turn_liveness.arm_turn('si-' || i, gen_random_uuid()::text)) FROM generate_series(1, last) i
$$;
SELECT tl_test.advance('10 min');

SET turn_liveness.mass_silence_hold = '2 min';

-- twelve deployments beat; then no worker calls
SELECT tl_test.arm_all(12);
SELECT turn_liveness.arm_turn('si-waiting', 'm', admission => '1 min'), turn_liveness.arm_turn('si-long', 'm', duration => '65 s');
SELECT tl_test.beat_all(1, 12), turn_liveness.heartbeat('si-long');
SELECT tl_test.advance('70 s');
-- held: the started ones; not the one that never started, and not the duration limit
SELECT turn_liveness.sweep_expired_turns();
SELECT deployment, error_code FROM turn_liveness.replies WHERE deployment IN ('si-waiting', 'si-long') ORDER BY 1;
SELECT grace FROM turn_liveness.stat;
SELECT state, count(*) FROM turn_liveness.turns WHERE deployment LIKE 'si-%' GROUP BY 1;
-- fail_... is not held either
SELECT turn_liveness.fail_deployment('si-12');
-- calls come again: one whole turn deadline for every worker to beat
SELECT tl_test.beat_all(1, 2);
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('50 s');
SELECT tl_test.beat_all(1, 3);
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('15 s');
SELECT tl_test.beat_all(1, 3);
SELECT turn_liveness.sweep_expired_turns();
SELECT grace FROM turn_liveness.stat;
SELECT deployment, state FROM turn_liveness.turns WHERE deployment LIKE 'si-%' ORDER BY 1;
SELECT sum(turn_liveness.fail_deployment('si-' || i)) FROM generate_series(1, 12) i;

-- at most mass_silence_hold (2 min)
SELECT tl_test.advance('10 min');
SELECT tl_test.arm_all(10);
SELECT tl_test.beat_all(1, 10);
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('100 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('15 s');
SELECT turn_liveness.sweep_expired_turns();

-- fewer than ten deployments: the workers are dead
SELECT tl_test.advance('10 min');
SELECT tl_test.arm_all(9);
SELECT tl_test.beat_all(1, 9);
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();

-- another worker calls: the path is alive, the workers are dead
SELECT tl_test.advance('10 min');
SELECT tl_test.arm_all(12);
SELECT tl_test.beat_all(1, 12);
SELECT tl_test.advance('25 s');
SELECT turn_liveness.heartbeat('si-idle');
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('25 s');
SELECT turn_liveness.heartbeat('si-idle');
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('15 s');
SELECT turn_liveness.sweep_expired_turns();

-- a gateway calls, which may have another path: that proves nothing
SELECT tl_test.advance('10 min');
SELECT tl_test.arm_all(12);
SELECT tl_test.beat_all(1, 12);
SELECT tl_test.advance('25 s');
SELECT count(*) FROM turn_liveness.read_replies(ARRAY['si-1'], ARRAY[9223372036854775807]);
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('25 s');
SELECT count(*) FROM turn_liveness.claim_replies('gw', ARRAY['si-1']), turn_liveness.has_live_turn('si-1', 'm'), turn_liveness.fail_turn('si-1', 'none', 'e');
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('15 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT sum(turn_liveness.fail_deployment('si-' || i)) FROM generate_series(1, 12) i;

-- nor does a statement that came before the silence and goes on calling
SELECT tl_test.advance('10 min');
SELECT tl_test.arm_all(12);
SELECT tl_test.beat_all(1, 12);
SELECT turn_liveness.heartbeat('si-idle'), tl_test.advance('40 s'), turn_liveness.heartbeat('si-idle'),
	tl_test.advance('25 s'), turn_liveness.heartbeat('si-idle');
SELECT turn_liveness.sweep_expired_turns();
SELECT grace FROM turn_liveness.stat;
-- a procedure that commits is a worker inside of the server: each of its transactions counts
CREATE PROCEDURE tl_test.beat_and_commit() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 3 LOOP
		PERFORM turn_liveness.heartbeat('si-idle');
		PERFORM tl_test.advance('25 s');
		COMMIT;
	END LOOP;
END $$;
SELECT tl_test.beat_all(1, 12);
CALL tl_test.beat_and_commit();
SELECT turn_liveness.sweep_expired_turns();
SELECT sum(turn_liveness.fail_deployment('si-' || i)) FROM generate_series(1, 12) i;

-- the silence of each turn's own counts, not the setting
SELECT tl_test.advance('10 min');
SELECT count(turn_liveness.arm_turn('si-' || i, gen_random_uuid()::text, silence => '50 s')) FROM generate_series(1, 20) i;
SELECT turn_liveness.arm_turn('si-slow', 'm', silence => '400 s');
SELECT tl_test.beat_all(1, 20), turn_liveness.heartbeat('si-slow');
SELECT tl_test.advance('120 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.beat_all(1, 19);
SELECT tl_test.advance('40 s');
SELECT tl_test.beat_all(1, 19);
SELECT turn_liveness.sweep_expired_turns();
-- fifty seconds after calls came again, the worker that stayed away is dead
SELECT tl_test.advance('20 s');
SELECT tl_test.beat_all(1, 19);
SELECT turn_liveness.sweep_expired_turns();
-- the gap of two minutes was none for a turn that may be silent for nearly seven
SELECT tl_test.advance('40 s'), tl_test.beat_all(1, 19);
SELECT tl_test.advance('40 s'), tl_test.beat_all(1, 19);
SELECT tl_test.advance('40 s'), tl_test.beat_all(1, 19);
SELECT tl_test.advance('40 s'), tl_test.beat_all(1, 19);
SELECT tl_test.advance('40 s'), tl_test.beat_all(1, 19);
SELECT tl_test.advance('30 s'), tl_test.beat_all(1, 19);
SELECT turn_liveness.sweep_expired_turns();
SELECT sum(turn_liveness.fail_deployment('si-' || i)) FROM generate_series(1, 20) i;

-- off
SET turn_liveness.mass_silence_hold = 0;
SELECT tl_test.advance('10 min');
SELECT tl_test.arm_all(12);
SELECT tl_test.beat_all(1, 12);
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
RESET turn_liveness.mass_silence_hold;
SHOW turn_liveness.mass_silence_hold;

-- nothing is left
SELECT sum(turn_liveness.fail_deployment('si-' || i)) FROM generate_series(1, 12) i;
SELECT count(*) FROM turn_liveness.turns;
SELECT tl_test.advance('10 min');
SELECT turn_liveness.heartbeat('si-1');
