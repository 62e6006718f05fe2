--
-- heartbeat and heartbeats: the verdict, and what a beat is not.
--
\pset null '(null)'

-- nothing is owed: 0, and no trace
SELECT turn_liveness.heartbeat('beat-1');
SELECT turn_liveness.heartbeat('beat-1', ARRAY['m1']);
SELECT turn_liveness.arm_turn('beat-1', 'm1');
-- a beat that came before the arm is nothing
SELECT state, first_beat, last_beat FROM turn_liveness.turns WHERE deployment = 'beat-1';

-- how many are owed
SELECT turn_liveness.heartbeat('beat-1');
SELECT turn_liveness.arm_turn('beat-1', 'm2'), turn_liveness.arm_turn('beat-1', 'm3');
SELECT turn_liveness.heartbeat('beat-1');
SELECT turn_liveness.heartbeat('beat-1', ARRAY['m1']);
SELECT turn_liveness.heartbeat('beat-1', ARRAY['m1', 'm3']);
SELECT turn_liveness.heartbeat('beat-1', ARRAY['m3', 'm1', 'm3', 'm1']);
SELECT turn_liveness.heartbeat('beat-1', ARRAY['m1', 'never']);
SELECT turn_liveness.heartbeat('beat-1', ARRAY['never']);
SELECT turn_liveness.heartbeat('beat-1', ARRAY[]::text[]);
-- the same once more: what was counted before is not just repeated
SELECT turn_liveness.commit_terminal_reply('beat-1', ARRAY['m1'], '{}');
SELECT turn_liveness.heartbeat('beat-1'), turn_liveness.heartbeat('beat-1', ARRAY['m1']), turn_liveness.heartbeat('beat-1', ARRAY['m1', 'm2']);
SELECT turn_liveness.fail_turn('beat-1', 'm2', 'x');
SELECT turn_liveness.heartbeat('beat-1'), turn_liveness.heartbeat('beat-1', ARRAY['m2']);
SELECT turn_liveness.discharge_turn('beat-1', 'm3');
SELECT turn_liveness.heartbeat('beat-1'), turn_liveness.heartbeat('beat-1', ARRAY['m3']);
SELECT turn_liveness.arm_turn('beat-1', 'm4');
SELECT turn_liveness.heartbeat('beat-1');
SELECT turn_liveness.reject_turn('beat-1', 'm4', '{}', 'x');
SELECT turn_liveness.heartbeat('beat-1');
SELECT turn_liveness.arm_turn('beat-1', 'm5');
SELECT turn_liveness.heartbeat('beat-1');
SELECT turn_liveness.fail_deployment('beat-1');
SELECT turn_liveness.heartbeat('beat-1');
SELECT turn_liveness.arm_turn('beat-1', 'm6');
SELECT turn_liveness.heartbeat('beat-1');
SELECT tl_test.advance('10 min');
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.heartbeat('beat-1');

-- rows that are changed by hand are seen too
SELECT turn_liveness.arm_turn('beat-2', m) FROM unnest(ARRAY['m1', 'm2']) m;
SELECT turn_liveness.heartbeat('beat-2');
DELETE FROM turn_liveness.turn WHERE deployment = 'beat-2' AND message_id = 'm1';
SELECT turn_liveness.heartbeat('beat-2');
DELETE FROM turn_liveness.turn WHERE deployment = 'beat-2';
SELECT turn_liveness.heartbeat('beat-2');

-- a beat is no write: no transaction id
SELECT turn_liveness.arm_turn('beat-3', 'm1');
BEGIN;
SELECT turn_liveness.heartbeat('beat-3');
SELECT turn_liveness.heartbeat('beat-3', ARRAY['m1', 'never']);
SELECT * FROM turn_liveness.heartbeats(ARRAY['beat-3', 'beat-none'], ARRAY['m1', NULL]);
SELECT pg_current_xact_id_if_assigned();
ROLLBACK;
-- and it is soft: the rollback did not take it back
SELECT state, last_beat IS NOT NULL AS has_beat FROM turn_liveness.turns WHERE deployment = 'beat-3';
-- it counts what is committed
BEGIN;
SELECT turn_liveness.discharge_turn('beat-3', 'm1');
ROLLBACK;
SELECT turn_liveness.heartbeat('beat-3');
BEGIN;
SELECT turn_liveness.arm_turn('beat-3', 'm2');
SELECT turn_liveness.heartbeat('beat-3') IN (1, 2) AS own_changes_may_be_missing;
ROLLBACK;
SELECT turn_liveness.heartbeat('beat-3');
SELECT turn_liveness.heartbeat('beat-3');
SELECT turn_liveness.fail_deployment('beat-3');

-- heartbeats: the elements that owe nothing any more
SELECT turn_liveness.arm_turn('beat-4', 'm1'), turn_liveness.arm_turn('beat-5', 'm1'), turn_liveness.arm_turn('beat-5', 'm2'), turn_liveness.arm_turn('beat-6', 'm1');
SELECT * FROM turn_liveness.heartbeats(ARRAY['beat-4', 'beat-5', 'beat-6']);
SELECT * FROM turn_liveness.heartbeats(ARRAY['beat-4', 'beat-none', 'beat-5', 'beat-nobody']) ORDER BY 1;
SELECT * FROM turn_liveness.heartbeats(ARRAY['beat-4', 'beat-4', 'beat-5', 'beat-5', 'beat-5', 'beat-none'], ARRAY['m1', 'm2', 'm2', 'm9', NULL, NULL]) ORDER BY 1, 2;
-- two deployments with the same message id
SELECT * FROM turn_liveness.heartbeats(ARRAY['beat-4', 'beat-5', 'beat-6', 'beat-7'], ARRAY['m1', 'm1', 'm1', 'm1']) ORDER BY 1, 2;
SELECT deployment, message_id, state FROM turn_liveness.turns WHERE deployment LIKE 'beat-%' ORDER BY 1, 2;
SELECT turn_liveness.commit_terminal_reply('beat-5', ARRAY['m1', 'm2'], '{}');
SELECT * FROM turn_liveness.heartbeats(ARRAY['beat-4', 'beat-5', 'beat-6']);
-- a null, empty or over-long element is returned like one that is not owed, and fails no other
SELECT tl_test.advance('2 min');
SELECT coalesce(left(deployment, 6), '(null)') AS deployment, length(deployment), coalesce(left(message_id, 3), '(null)') AS message_id, length(message_id)
  FROM turn_liveness.heartbeats(ARRAY[NULL, '', repeat('x', 256), 'beat-4', 'beat-4', 'beat-6'], ARRAY['m1', 'm1', 'm1', '', repeat('m', 256), 'm1']) ORDER BY 1, 2, 3;
SELECT count(*) FROM turn_liveness.heartbeats(ARRAY[NULL, '', repeat('x', 256), 'beat-6']);
SELECT deployment, state, tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'beat-6';
-- nothing to do
SELECT * FROM turn_liveness.heartbeats(ARRAY[]::text[]);
SELECT * FROM turn_liveness.heartbeats(ARRAY[]::text[], ARRAY[]::text[]);
-- lengths that differ
SELECT tl_test.try($$SELECT turn_liveness.heartbeats(ARRAY['beat-4', 'beat-6'], ARRAY['m1'])$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeats(ARRAY['beat-4'], ARRAY['m1', 'm2'])$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeats(ARRAY['beat-4'], ARRAY[]::text[])$$);
SELECT turn_liveness.fail_deployment('beat-4'), turn_liveness.fail_deployment('beat-6');

-- many in one call
SELECT count(turn_liveness.arm_turn('beat-many-' || i, 'm')) FROM generate_series(1, 3000) i;
SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'beat-many-' || i FROM generate_series(1, 4000) i));
SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'beat-many-' || i FROM generate_series(1, 4000) i), ARRAY(SELECT 'm' FROM generate_series(1, 4000)));
-- and the right ones are told, in the order of the call
SELECT (SELECT array_agg(b.deployment || '/' || b.message_id ORDER BY b.ordinality)
          FROM turn_liveness.heartbeats(
			ARRAY(SELECT 'beat-many-' || i FROM generate_series(1, 4000) i ORDER BY i),
			ARRAY(SELECT CASE WHEN i % 5 = 0 THEN 'gone' ELSE 'm' END FROM generate_series(1, 4000) i ORDER BY i),
			ARRAY(SELECT CASE WHEN i % 7 = 0 THEN 1 WHEN i % 11 = 0 THEN 2 END FROM generate_series(1, 4000) i ORDER BY i)) WITH ORDINALITY b) =
       (SELECT array_agg('beat-many-' || i || CASE WHEN i % 5 = 0 THEN '/gone' ELSE '/m' END ORDER BY i)
          FROM generate_series(1, 4000) i WHERE i % 5 = 0 OR i > 3000 OR (i % 11 = 0 AND i % 7 > 0)) AS as_expected;
SELECT state, count(*) FROM turn_liveness.turns WHERE deployment LIKE 'beat-many-%' GROUP BY 1;
SELECT sum(turn_liveness.fail_deployment('beat-many-' || i)) FROM generate_series(1, 3000) i;
SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'beat-many-' || i FROM generate_series(1, 3000) i));
SELECT count(*) FROM turn_liveness.turns;
-- so many beats at once, then silence, is what the mass-silence hold looks for: let it pass
SELECT tl_test.advance('10 min');
SELECT turn_liveness.heartbeat('beat-1');
