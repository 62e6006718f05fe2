--
-- The view stat: one row of counters and gauges.
--
\pset null '(null)'
SELECT turn_liveness.stat_reset();
SELECT count(*) FROM turn_liveness.stat;
SELECT armed, answered, failed_unresponsive, failed_never_started, failed_died, failed_too_long, failed_wait_expired, failed_stopped, failed_rejected, failed_provider, failed_other, discharged, late, unknown,
	   beats, claims, acknowledged, redeliveries, dead FROM turn_liveness.stat;
SELECT worker_state, worker_pid, sweep_enabled, turns_owed, turns_lapsed, lease_capacity, leases_used >= 0 AS leases, stats_reset <= clock_timestamp() AS reset FROM turn_liveness.stat;

SELECT count(turn_liveness.arm_turn('st-1', 'm' || i, '{"conversationId": "st-A"}')) FROM generate_series(1, 12) i;
SELECT turn_liveness.arm_turn('st-2', 'm1', duration => '30 s', admission => '10 s');
SELECT turn_liveness.commit_terminal_reply('st-1', ARRAY['m1', 'm2'], '{"content": "x"}');
SELECT turn_liveness.commit_terminal_reply('st-1', ARRAY['m1'], '{"content": "late"}'), turn_liveness.commit_terminal_reply('st-1', ARRAY['m1'], '{"content": "late"}');
SELECT turn_liveness.commit_terminal_reply('st-1', ARRAY['never'], '{"content": "unknown"}');
SELECT turn_liveness.discharge_turn('st-1', 'm3'), turn_liveness.fail_turn('st-1', 'm4', 'x', 'CANCELLED'), turn_liveness.fail_turn('st-1', 'm5', 'x');
SELECT turn_liveness.fail_turn('st-1', 'm6', 'x', 'WORKER_DIED'), turn_liveness.reject_turn('st-1', 'm20', '{}', 'x', 'GUARDRAIL');
SELECT turn_liveness.heartbeat('st-1', ARRAY['m7', 'm8']), turn_liveness.heartbeat('st-2');
-- a call counts, and what is rolled back was called, as in pg_stat
BEGIN;
SELECT turn_liveness.arm_turn('st-1', 'm21'), turn_liveness.discharge_turn('st-1', 'm9');
ROLLBACK;
SELECT turns_owed, turns_lapsed FROM turn_liveness.stat;
SELECT tl_test.advance('70 s');
SELECT turns_owed, turns_lapsed FROM turn_liveness.stat;
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('120 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT count(*) FROM turn_liveness.claim_replies('gw', ARRAY['st-A'], NULL, 2);
SELECT tl_test.advance('31 s');
SELECT count(*) FROM turn_liveness.claim_replies('gw', ARRAY['st-A'], NULL, 3);
SELECT turn_liveness.ack_replies('gw', array_agg(reply_id)) FROM turn_liveness.replies WHERE conversation_id = 'st-A' AND state = 'claimed';
SELECT armed, answered, failed_unresponsive, failed_never_started, failed_died, failed_too_long, failed_wait_expired, failed_stopped, failed_rejected, failed_provider, failed_other, discharged, late, unknown,
	   beats > 0 AS beats, claims, acknowledged, redeliveries, dead FROM turn_liveness.stat;
SELECT turns_owed, turns_lapsed, sweeps >= 2 AS sweeps, next_deadline FROM turn_liveness.stat;
SELECT turn_liveness.stat_reset();
SELECT armed, answered, failed_other, failed_stopped, claims FROM turn_liveness.stat;
SELECT count(*) FROM turn_liveness.turns;
-- the same with savepoints
BEGIN;
SELECT turn_liveness.arm_turn('st-3', 'm1');
SAVEPOINT a;
SELECT turn_liveness.arm_turn('st-3', 'm2');
SAVEPOINT b;
SELECT turn_liveness.arm_turn('st-3', 'm3'), turn_liveness.discharge_turn('st-3', 'm1');
RELEASE b;
SAVEPOINT c;
SAVEPOINT d;
SELECT turn_liveness.fail_turn('st-3', 'm2', 'x');
RELEASE c;
ROLLBACK TO a;
SELECT turn_liveness.arm_turn('st-3', 'm4');
SAVEPOINT e;
SELECT turn_liveness.discharge_turn('st-3', 'm4');
COMMIT;
SELECT armed, discharged, failed_stopped FROM turn_liveness.stat;
SELECT turn_liveness.fail_deployment('st-3');

-- leases go with the turns: the deployment's, and that of a turn that beats name
SELECT leases_used AS before FROM turn_liveness.stat \gset
SELECT turn_liveness.arm_turn('st-5', 'm1');
SELECT turn_liveness.heartbeat('st-5'), turn_liveness.heartbeat('st-5', ARRAY['m1']);
SELECT leases_used - :before AS more FROM turn_liveness.stat;
SELECT turn_liveness.discharge_turn('st-5', 'm1');
SELECT leases_used - :before AS more FROM turn_liveness.stat;
-- a lease that its turn has left behind goes with the beat that finds nothing owed
SELECT leases_used AS before FROM turn_liveness.stat \gset
SELECT turn_liveness.arm_turn('st-4', 'm1'), turn_liveness.heartbeat('st-4');
BEGIN;
SAVEPOINT a;
ROLLBACK TO a;
SELECT turn_liveness.discharge_turn('st-4', 'm1');
COMMIT;
SELECT leases_used - :before AS left_behind, turn_liveness.heartbeat('st-4') FROM turn_liveness.stat;
SELECT leases_used - :before AS left_behind FROM turn_liveness.stat;

-- a row of others may have times that are infinite: the views can be read
BEGIN;
SELECT turn_liveness.arm_turn('st-infinite', 'm1'), turn_liveness.reject_turn('st-infinite', 'm2', '{}', 'no');
UPDATE turn_liveness.turn SET next_check = '-infinity' WHERE deployment = 'st-infinite';
UPDATE turn_liveness.delivery SET due_at = 'infinity' WHERE conversation_id = 'st-infinite';
SELECT coalesce(isfinite(next_deadline), true) AS shown FROM turn_liveness.stat;
SELECT due_at FROM turn_liveness.replies WHERE conversation_id = 'st-infinite';
ROLLBACK;
