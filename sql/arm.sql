--
-- arm_turn: armed, pending, answered; what is stored, what a re-arm changes.
--
\pset null '(null)'

SELECT turn_liveness.arm_turn('arm-1', 'm1', '{"conversationId": "arm-conv", "platform": "slack", "organizationId": "org-1", "channelId": "C1", "color": "red"}');
SELECT deployment, message_id, conversation_id, platform, organization_id, routing, first_beat, last_beat,
	   state, error_code, reason, armed_at BETWEEN clock_timestamp() - interval '10 min' AND clock_timestamp() AS armed_now,
	   tl_test.ahead(deadline) AS deadline
  FROM turn_liveness.turns WHERE deployment = 'arm-1';

-- without routing: the conversation is the deployment, the platform is api
SELECT turn_liveness.arm_turn('arm-2', 'm1');
SELECT turn_liveness.arm_turn('arm-2', 'm2', '{"platform": "api", "userId": "u"}');
SELECT message_id, conversation_id, platform, organization_id, routing FROM turn_liveness.turns WHERE deployment = 'arm-2' ORDER BY 1;

-- pending: it is there already; armed_at and routing stay
CREATE TEMP TABLE before AS SELECT * FROM turn_liveness.turns WHERE deployment = 'arm-1';
SELECT turn_liveness.arm_turn('arm-1', 'm1', '{"conversationId": "other", "platform": "telegram"}');
SELECT t.armed_at = b.armed_at AS armed_at_stays, t.routing = b.routing AS routing_stays, t.conversation_id, t.platform
  FROM turn_liveness.turns t JOIN before b USING (deployment, message_id);
SELECT count(*) FROM turn_liveness.turns WHERE deployment = 'arm-1';

-- its admission starts again as if armed now
SELECT tl_test.advance('100 s');
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-1';
SELECT turn_liveness.arm_turn('arm-1', 'm1');
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-1';

-- also when it was running: the hand-over to another worker
SELECT turn_liveness.heartbeat('arm-1', ARRAY['m1']);
SELECT state, tl_test.ahead(deadline), first_beat IS NOT NULL AS started FROM turn_liveness.turns WHERE deployment = 'arm-1';
SELECT turn_liveness.arm_turn('arm-1', 'm1');
SELECT state, tl_test.ahead(deadline), first_beat FROM turn_liveness.turns WHERE deployment = 'arm-1';
-- and when it had lapsed
SELECT tl_test.advance('200 s');
SELECT state FROM turn_liveness.turns WHERE deployment = 'arm-1';
SELECT turn_liveness.arm_turn('arm-1', 'm1');
SELECT state, tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-1';

-- a re-arm that is rolled back changes nothing
SELECT tl_test.advance('100 s');
BEGIN;
SELECT turn_liveness.arm_turn('arm-1', 'm1');
ROLLBACK;
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-1';

-- answered: by a reply, an error or a discharge; nothing is written
SELECT turn_liveness.commit_terminal_reply('arm-1', ARRAY['m1'], '{"content": "hello"}');
SELECT turn_liveness.arm_turn('arm-1', 'm1');
SELECT turn_liveness.fail_turn('arm-2', 'm1', 'no', 'X');
SELECT turn_liveness.discharge_turn('arm-2', 'm2');
SELECT turn_liveness.arm_turn('arm-2', 'm1'), turn_liveness.arm_turn('arm-2', 'm2');
SELECT turn_liveness.reject_turn('arm-2', 'm3', '{}', 'no');
SELECT turn_liveness.arm_turn('arm-2', 'm3');
SELECT count(*) FROM turn_liveness.turns WHERE deployment LIKE 'arm-_';
SELECT turn_liveness.heartbeat('arm-1'), turn_liveness.heartbeat('arm-2');

-- the key has two parts that are never joined into one
SELECT turn_liveness.arm_turn('arm-3:a', 'b'), turn_liveness.arm_turn('arm-3', 'a:b'), turn_liveness.arm_turn('arm-3:a:b', ':');
SELECT turn_liveness.arm_turn('arm-4', 'b'), turn_liveness.arm_turn('arm-5', 'b');
SELECT turn_liveness.heartbeat('arm-3:a'), turn_liveness.heartbeat('arm-3', ARRAY['a:b', 'b']), turn_liveness.heartbeat('arm-3:a:b');
SELECT turn_liveness.commit_terminal_reply('arm-3', ARRAY['a:b'], '{}');
SELECT deployment, message_id FROM turn_liveness.turns WHERE deployment LIKE 'arm-%' ORDER BY 1, 2;
SELECT turn_liveness.fail_deployment(d) FROM unnest(ARRAY['arm-3:a', 'arm-3', 'arm-3:a:b', 'arm-4', 'arm-5']) d;

-- times of one turn
SELECT turn_liveness.arm_turn('arm-6', 'm1', '{}', '10 min', '5 min', '1 h');
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-6';
SELECT turn_liveness.heartbeat('arm-6', ARRAY['m1']);
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-6';
-- a re-arm without times keeps the turn's limit in all: 1 h from the first arm
SELECT tl_test.advance('55 min');
SELECT turn_liveness.arm_turn('arm-6', 'm1');
SELECT turn_liveness.heartbeat('arm-6', ARRAY['m1']);
SELECT tl_test.ahead(deadline) <= 300 AS inside_the_limit FROM turn_liveness.turns WHERE deployment = 'arm-6';
SELECT tl_test.advance('6 min');
SELECT turn_liveness.heartbeat('arm-6', ARRAY['m1']), turn_liveness.has_live_turn('arm-6', 'm1');
SELECT turn_liveness.sweep_expired_turns();
SELECT error_code FROM turn_liveness.replies WHERE deployment = 'arm-6';

-- the settings are read when the turn is armed
SET turn_liveness.admission_deadline = '20 min';
SET turn_liveness.turn_deadline = '15 min';
SELECT turn_liveness.arm_turn('arm-7', 'm1');
RESET turn_liveness.admission_deadline;
RESET turn_liveness.turn_deadline;
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-7';
SELECT turn_liveness.heartbeat('arm-7');
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-7';
SELECT turn_liveness.fail_deployment('arm-7');

-- an interval without a unit is seconds, and that is said when it is too long
SELECT turn_liveness.arm_turn('arm-8', 'm1', admission => '600');
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'arm-8';
SELECT turn_liveness.fail_deployment('arm-8');
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('arm-9', 'm1', admission => '60000')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('arm-9', 'm1', silence => '60000')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('arm-9', 'm1', admission => '2 min', duration => '1 min')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('arm-9', 'm1', silence => '2 min', duration => '1 min')$$);
-- at the limit is not over it
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('arm-9', 'm1', admission => '1 min', silence => '1 min', duration => '1 min')$$);
SELECT turn_liveness.fail_deployment('arm-9');
SELECT count(*) FROM turn_liveness.turns;
DROP TABLE before;

-- what has ended is looked at, and nothing is written: no row version, no WAL; the same for a reply that is late again
CREATE FUNCTION tl_test.wal_records(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, WAL, FORMAT json) ' || statement INTO plan;
	RETURN plan -> 0 -> 'Plan' ->> 'WAL Records';
END $$;
SELECT turn_liveness.arm_turn('arm-wal', 'm'), turn_liveness.discharge_turn('arm-wal', 'm'), turn_liveness.arm_turn('arm-wal', 'm');
SELECT turn_liveness.commit_terminal_reply('arm-wal', ARRAY['m'], '{"content": "late"}'), turn_liveness.commit_terminal_reply('arm-wal', ARRAY['m'], '{"content": "late"}');
SELECT tl_test.wal_records($$SELECT count(turn_liveness.arm_turn('arm-wal', 'm')) FROM generate_series(1, 100)$$) AS answered,
	   tl_test.wal_records($$SELECT count(turn_liveness.commit_terminal_reply('arm-wal', ARRAY['m'], '{"content": "late"}')) FROM generate_series(1, 100)$$) AS late_again,
	   tl_test.wal_records($$SELECT turn_liveness.arm_turn('arm-wal', 'n')$$) > 0 AS armed;
SELECT turn_liveness.discharge_turn('arm-wal', 'n');
