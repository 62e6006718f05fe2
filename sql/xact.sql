--
-- Inside the caller's transaction: rollback, savepoints, two phases, isolation levels.
--
\pset null '(null)'

-- rolled back: won is void
SELECT turn_liveness.arm_turn('xa-1', 'm1', '{"conversationId": "xa-A"}');
BEGIN;
SELECT turn_liveness.commit_terminal_reply('xa-1', ARRAY['m1'], '{"content": "first"}');
SELECT turn_liveness.arm_turn('xa-1', 'm1');
SELECT count(*) FROM turn_liveness.read_replies(ARRAY['xa-A']);
ROLLBACK;
SELECT turn_liveness.heartbeat('xa-1'), turn_liveness.has_live_turn('xa-1', 'm1');
SELECT count(*) FROM turn_liveness.read_replies(ARRAY['xa-A']);
SELECT turn_liveness.commit_terminal_reply('xa-1', ARRAY['m1'], '{"content": "second"}');
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['xa-A']);

-- the same in savepoints
SELECT turn_liveness.arm_turn('xa-2', 'm1', '{"conversationId": "xa-B"}'), turn_liveness.arm_turn('xa-2', 'm2', '{"conversationId": "xa-B"}');
BEGIN;
SAVEPOINT a;
SELECT turn_liveness.commit_terminal_reply('xa-2', ARRAY['m1'], '{"content": "undone"}');
ROLLBACK TO a;
SELECT turn_liveness.commit_terminal_reply('xa-2', ARRAY['m1'], '{"content": "kept"}');
SAVEPOINT b;
SELECT turn_liveness.fail_turn('xa-2', 'm2', 'undone');
ROLLBACK TO b;
SAVEPOINT c;
SELECT turn_liveness.arm_turn('xa-2', 'm3');
RELEASE c;
SAVEPOINT d;
SELECT turn_liveness.arm_turn('xa-2', 'm4');
SELECT turn_liveness.reject_turn('xa-2', 'm5', '{}', 'undone');
ROLLBACK TO d;
COMMIT;
SELECT message_id FROM turn_liveness.turns WHERE deployment = 'xa-2' ORDER BY 1;
SELECT turn_liveness.heartbeat('xa-2'), turn_liveness.heartbeat('xa-2', ARRAY['m4', 'm5']);
SELECT message_ids, payload ->> 'content' AS content, payload ->> 'error' AS error FROM turn_liveness.replies WHERE deployment = 'xa-2';
SELECT turn_liveness.fail_deployment('xa-2');

-- everything in one transaction, even in one statement
BEGIN;
SELECT turn_liveness.arm_turn('xa-3', 'm1', '{"conversationId": "xa-C"}');
SELECT turn_liveness.arm_turn('xa-3', 'm1');
SELECT turn_liveness.commit_terminal_reply('xa-3', ARRAY['m1'], '{"content": "one"}');
SELECT turn_liveness.commit_terminal_reply('xa-3', ARRAY['m1'], '{"content": "one"}');
SELECT turn_liveness.commit_terminal_reply('xa-3', ARRAY['m1'], '{"content": "two"}');
SELECT turn_liveness.arm_turn('xa-3', 'm1');
COMMIT;
SELECT turn_liveness.arm_turn('xa-3', 'm2', '{"conversationId": "xa-C"}'), turn_liveness.commit_terminal_reply('xa-3', ARRAY['m2'], '{"content": "three"}'), turn_liveness.arm_turn('xa-3', 'm2');
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['xa-C']);
SELECT payload ->> 'content' AS late FROM turn_liveness.late_replies WHERE deployment = 'xa-3';
-- with other work of the caller
CREATE TEMP TABLE job (id text);
BEGIN;
INSERT INTO job VALUES ('x');
SELECT turn_liveness.arm_turn('xa-3', id) FROM job;
\set VERBOSITY sqlstate
SELECT 1 / 0;
\set VERBOSITY default
ROLLBACK;
SELECT turn_liveness.heartbeat('xa-3'), (SELECT count(*) FROM job) AS jobs;

-- REPEATABLE READ and SERIALIZABLE, alone
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT turn_liveness.arm_turn('xa-4', 'm1'), turn_liveness.arm_turn('xa-4', 'm2');
SELECT turn_liveness.commit_terminal_reply('xa-4', ARRAY['m1'], '{"content": "rr"}');
SELECT count(*) FROM turn_liveness.turns WHERE deployment = 'xa-4';
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT turn_liveness.arm_turn('xa-4', 'm2');
SELECT turn_liveness.commit_terminal_reply('xa-4', ARRAY['m2'], '{"content": "ser"}');
SELECT payload ->> 'content' AS content FROM turn_liveness.claim_replies('gw', ARRAY['xa-4']);
SELECT turn_liveness.ack_replies('gw', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE deployment = 'xa-4'));
COMMIT;
SELECT message_ids, state FROM turn_liveness.replies WHERE deployment = 'xa-4' ORDER BY 1;

-- READ ONLY: reading does, writing is refused
SELECT turn_liveness.arm_turn('xa-5', 'm1');
BEGIN READ ONLY;
SELECT turn_liveness.has_live_turn('xa-5', 'm1'), (SELECT count(*) FROM turn_liveness.read_replies(ARRAY['xa-A'])) AS replies,
	   (SELECT count(*) FROM turn_liveness.turns WHERE deployment = 'xa-5') AS turns;
COMMIT;
BEGIN READ ONLY;
SELECT tl_test.code(f) FROM unnest(ARRAY[
	$$SELECT turn_liveness.arm_turn('xa-5', 'm2')$$,
	$$SELECT turn_liveness.commit_terminal_reply('xa-5', ARRAY['m1'], '{}')$$,
	$$SELECT turn_liveness.fail_turn('xa-5', 'm1', 'x')$$,
	$$SELECT turn_liveness.fail_deployment('xa-5')$$,
	$$SELECT turn_liveness.reject_turn('xa-5', 'm3', '{}', 'x')$$,
	$$SELECT turn_liveness.discharge_turn('xa-5', 'm1')$$,
	$$SELECT turn_liveness.mark_provider_failed('xa-5', 'c', 'r')$$,
	$$SELECT turn_liveness.sweep_expired_turns()$$,
	$$SELECT count(*) FROM turn_liveness.claim_replies('gw', ARRAY['xa-A'])$$]) f;
ROLLBACK;
SELECT turn_liveness.heartbeat('xa-5');
SELECT turn_liveness.fail_deployment('xa-5');

-- two phases
SELECT turn_liveness.arm_turn('xa-6', 'm1', '{"conversationId": "xa-P"}'), turn_liveness.arm_turn('xa-6', 'm2', '{"conversationId": "xa-P"}');
BEGIN;
SELECT turn_liveness.commit_terminal_reply('xa-6', ARRAY['m1'], '{"content": "prepared"}');
SELECT turn_liveness.arm_turn('xa-6', 'm3', '{"conversationId": "xa-P"}');
SELECT turn_liveness.heartbeat('xa-6') >= 0 AS beat;
PREPARE TRANSACTION 'xa-6';
SELECT turn_liveness.heartbeat('xa-6', ARRAY['m1']), turn_liveness.heartbeat('xa-6', ARRAY['m3']);
-- the turn is in its hands: a sweep skips it, others wait
SELECT tl_test.advance('10 min');
SELECT turn_liveness.sweep_expired_turns();
SET lock_timeout = '10ms';
SELECT tl_test.code($$SELECT turn_liveness.fail_turn('xa-6', 'm1', 'x')$$);
SELECT tl_test.code($$SELECT turn_liveness.commit_terminal_reply('xa-6', ARRAY['m1'], '{}')$$);
SELECT tl_test.code($$SELECT turn_liveness.arm_turn('xa-6', 'm3')$$);
RESET lock_timeout;
SELECT turn_liveness.has_live_turn('xa-6', 'm1');
COMMIT PREPARED 'xa-6';
SELECT payload ->> 'content' AS content, payload ->> 'errorCode' AS code FROM turn_liveness.read_replies(ARRAY['xa-P']);
SELECT turn_liveness.heartbeat('xa-6', ARRAY['m1']), turn_liveness.commit_terminal_reply('xa-6', ARRAY['m1'], '{"content": "prepared"}');
-- what was armed in it is not failed at the instant that it became visible
SELECT turn_liveness.sweep_expired_turns();
SELECT message_id FROM turn_liveness.turns WHERE deployment = 'xa-6';
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT message_ids, error_code FROM turn_liveness.replies WHERE deployment = 'xa-6' AND error_code IS NOT NULL ORDER BY 1;
-- and rolled back
SELECT turn_liveness.arm_turn('xa-7', 'm1');
SELECT turn_liveness.heartbeat('xa-7');
BEGIN;
SELECT turn_liveness.discharge_turn('xa-7', 'm1');
PREPARE TRANSACTION 'xa-7';
ROLLBACK PREPARED 'xa-7';
SELECT turn_liveness.heartbeat('xa-7'), turn_liveness.arm_turn('xa-7', 'm1');
-- a beat after COMMIT PREPARED does not count what has ended
BEGIN;
SELECT turn_liveness.discharge_turn('xa-7', 'm1');
PREPARE TRANSACTION 'xa-7';
SELECT turn_liveness.heartbeat('xa-7');
COMMIT PREPARED 'xa-7';
SELECT turn_liveness.heartbeat('xa-7');

-- what was armed and changed once more in one prepared transaction has its time too
BEGIN;
SELECT turn_liveness.arm_turn('xa-9', 'm1'), turn_liveness.arm_turn('xa-9', 'm1');
SELECT turn_liveness.arm_turn('xa-10', 'm1'), turn_liveness.mark_provider_failed('xa-10', 'X', 'x');
PREPARE TRANSACTION 'xa-9';
SELECT tl_test.advance('10 min');
COMMIT PREPARED 'xa-9';
SELECT turn_liveness.sweep_expired_turns();
SELECT deployment, message_id, error_code FROM turn_liveness.turns WHERE deployment IN ('xa-9', 'xa-10') ORDER BY 1;
SELECT turn_liveness.fail_deployment('xa-9'), turn_liveness.fail_deployment('xa-10');

-- nor is what a transaction armed that stayed open for long
BEGIN;
SELECT turn_liveness.arm_turn('xa-13', 'm1');
SELECT tl_test.advance('10 min');
COMMIT;
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.fail_deployment('xa-13');
-- for ten seconds only, too: it does not lapse a minute after the arm
BEGIN;
SELECT turn_liveness.arm_turn('xa-14', 'm1', admission => '60 s', silence => '60 s');
SELECT tl_test.advance('10 s');
COMMIT;
SELECT tl_test.advance('55 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.fail_deployment('xa-14');

-- a turn that a rolled-back savepoint ended keeps its beats
SELECT turn_liveness.arm_turn('xa-11', 'm1'), turn_liveness.heartbeat('xa-11', ARRAY['m1']);
BEGIN;
SAVEPOINT a;
SELECT turn_liveness.commit_terminal_reply('xa-11', ARRAY['m1'], '{"content": "undone"}');
ROLLBACK TO a;
COMMIT;
SELECT state, first_beat IS NOT NULL AS started FROM turn_liveness.turns WHERE deployment = 'xa-11';
-- no beat remembers what an open transaction has armed
SELECT turn_liveness.arm_turn('xa-11', 'm2');
BEGIN;
SELECT turn_liveness.arm_turn('xa-11', 'm3');
SELECT turn_liveness.heartbeat('xa-11') > 0 AS beat;
ROLLBACK;
SELECT turn_liveness.heartbeat('xa-11'), turn_liveness.fail_deployment('xa-11');

-- a cursor over a reader, a prepared statement (generic plan) through other calls
BEGIN;
DECLARE c CURSOR FOR SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['xa-C']);
FETCH 1 FROM c;
SELECT turn_liveness.arm_turn('xa-8', 'm1', '{"conversationId": "xa-C"}');
FETCH ALL FROM c;
COMMIT;
SET plan_cache_mode = force_generic_plan;
PREPARE beat(text) AS SELECT turn_liveness.heartbeat($1);
EXECUTE beat('xa-8');
EXECUTE beat('xa-none');
SELECT turn_liveness.discharge_turn('xa-8', 'm1');
EXECUTE beat('xa-8');
DEALLOCATE beat;
RESET plan_cache_mode;
SELECT count(*) FROM turn_liveness.turns;

-- a function that is marked parallel safe in error: no internal error
CREATE FUNCTION tl_test.safe() RETURNS bool LANGUAGE plpgsql PARALLEL SAFE
AS $$BEGIN RETURN turn_liveness.has_live_turn('xa-none', 'm1'); END$$;
SELECT count(set_config(name, 'on', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
\set VERBOSITY sqlstate
SELECT tl_test.safe();
\set VERBOSITY default
SELECT count(set_config(name, 'off', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
DROP FUNCTION tl_test.safe();

-- PL/pgSQL checks a domain even between a COMMIT and the next statement, without a snapshot
-- in PL/pgSQL: PostgreSQL 15 to 17 plan a function in SQL without a snapshot there
CREATE FUNCTION tl_test.large() RETURNS jsonb LANGUAGE plpgsql
AS $$BEGIN RETURN (SELECT jsonb_build_object('conversationId', 'xa-L', 'platformMetadata', string_agg(md5(i::text), '')) FROM generate_series(1, 300) i); END$$;
CREATE DOMAIN tl_test.arms AS bigint CHECK (VALUE IS NULL OR turn_liveness.arm_turn('xa-12', 'm' || VALUE, tl_test.large()) IS NOT NULL);
CREATE DOMAIN tl_test.commits AS text CHECK (VALUE IS NULL OR turn_liveness.commit_terminal_reply('xa-12', ARRAY[VALUE], '{"content": "x"}') IS NOT NULL);
SELECT turn_liveness.arm_turn('xa-12', 'm' || i, tl_test.large()) FROM generate_series(1, 3) i;
DO $$ DECLARE a tl_test.arms; BEGIN COMMIT; GET DIAGNOSTICS a = ROW_COUNT; END $$;
DO $$ DECLARE c tl_test.commits; BEGIN FOR c IN SELECT 'm' || i FROM generate_series(1, 3) i LOOP COMMIT; END LOOP; END $$;
SELECT message_id, pg_column_size(routing) > 8000 AS large FROM turn_liveness.turns WHERE deployment = 'xa-12' ORDER BY 1;
SELECT message_ids, payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['xa-L']);
SELECT turn_liveness.discharge_turn('xa-12', 'm0');
DROP DOMAIN tl_test.arms, tl_test.commits;
DROP FUNCTION tl_test.large();
