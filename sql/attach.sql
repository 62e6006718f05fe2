--
-- attach_worker and detach_worker: the session that a deployment is tied to. Each sweep sees its end.
--
\pset null '(null)'
-- the server process's id; detach says whether it was attached in this session
SELECT turn_liveness.attach_worker('at-1') = pg_backend_pid() AS attached;
SELECT turn_liveness.attach_worker('at-1') = pg_backend_pid() AS again;
SELECT turn_liveness.detach_worker('at-1'), turn_liveness.detach_worker('at-1'), turn_liveness.detach_worker('at-never');
-- soft: not undone by a rollback
BEGIN;
SELECT turn_liveness.attach_worker('at-1') = pg_backend_pid() AS attached;
ROLLBACK;
SELECT turn_liveness.detach_worker('at-1');
BEGIN;
SELECT turn_liveness.attach_worker('at-1') = pg_backend_pid() AS attached;
SELECT pg_current_xact_id_if_assigned();
COMMIT;
-- no beat in itself
SELECT turn_liveness.arm_turn('at-1', 'm1');
SELECT turn_liveness.attach_worker('at-1') = pg_backend_pid() AS attached;
SELECT state, last_beat FROM turn_liveness.turns WHERE deployment = 'at-1';
SELECT tl_test.advance('190 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT error_code, decided_by FROM turn_liveness.replies WHERE deployment = 'at-1';

-- waits until a session is gone, three minutes at the most
CREATE FUNCTION tl_test.wait_for_end(session integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 36000 LOOP
		IF NOT EXISTS (SELECT FROM pg_stat_get_activity(session)) THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.005);
		PERFORM pg_stat_clear_snapshot();
	END LOOP;
	RAISE 'session % does not end', session;
END $$;

SELECT turn_liveness.detach_worker('at-1');
SELECT attach_used AS before FROM turn_liveness.stat \gset
-- the session ends: the turns that were armed before fail after reconnect_window (2 s); a detached one's do not
SELECT turn_liveness.arm_turn('at-2', 'm1', '{"conversationId": "at-conv"}'), turn_liveness.arm_turn('at-3', 'm1'), turn_liveness.arm_turn('at-4', 'm1'), turn_liveness.arm_turn('at-5', 'm1'), turn_liveness.arm_turn('at-6', 'm1');
SELECT turn_liveness.arm_turn('at-7', 'm1'), turn_liveness.arm_turn('at-8', 'm1');
SELECT turn_liveness.attach_worker(d) = pg_backend_pid() AS attached FROM unnest(ARRAY['at-2', 'at-3', 'at-4', 'at-5', 'at-6', 'at-7', 'at-8']) d;
-- one waits for a human, one is handed over to another worker
SELECT turn_liveness.suspend_turn('at-7', 'm1', '1 h'), turn_liveness.arm_turn('at-8', 'm1');
SELECT turn_liveness.detach_worker('at-3');
SELECT turn_liveness.mark_provider_failed('at-6', 'PROVIDER', 'the provider is down');
SELECT pg_backend_pid() AS session \gset
\c -
SELECT tl_test.wait_for_end(:session);
-- inside the window: not yet; back by a beat, or attached again
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.heartbeat('at-4'), turn_liveness.attach_worker('at-5') = pg_backend_pid() AS attached;
SELECT turn_liveness.arm_turn('at-2', 'm2');
SELECT tl_test.advance('3 s');
-- a sweep that is rolled back has not dealt with the end of the session
BEGIN;
SAVEPOINT a;
SELECT turn_liveness.sweep_expired_turns();
ROLLBACK TO a;
COMMIT;
SELECT turn_liveness.sweep_expired_turns();
SELECT deployment, message_ids, error_code, decided_by, payload ->> 'error' <> '' AS says FROM turn_liveness.replies WHERE deployment LIKE 'at-%' AND decided_by = 'session' ORDER BY 1, 2;
SELECT deployment, message_id FROM turn_liveness.turns WHERE deployment LIKE 'at-%' ORDER BY 1, 2;
SELECT turn_liveness.detach_worker('at-5'), turn_liveness.detach_worker('at-2');
SELECT sum(turn_liveness.fail_deployment(d)) FROM unnest(ARRAY['at-2', 'at-3', 'at-4', 'at-5', 'at-7', 'at-8']) d;
-- what is dealt with keeps no place
SELECT attach_used - :before AS left_over FROM turn_liveness.stat;
SELECT count(*) FROM turn_liveness.turns;

-- one session attaches a quarter of all places
SELECT count(turn_liveness.attach_worker('at-many-' || i)) = 512 AS quarter FROM generate_series(1, 512) i;
SELECT tl_test.try($$SELECT turn_liveness.attach_worker('at-more')$$);
SELECT count(*) FILTER (WHERE turn_liveness.detach_worker('at-many-' || i)) AS detached FROM generate_series(1, 512) i;
