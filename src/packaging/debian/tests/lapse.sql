-- In a database with the extension, of a server that preloads the library: a
-- turn whose worker falls silent ends in an error, and another one stays owed.

\set ON_ERROR_STOP 1
\set QUIET 1
SET client_min_messages = warning;

-- until the worker runs, a minute at the most
DO $$
BEGIN
	FOR tenth IN 1 .. 600 LOOP
		IF (SELECT worker_state = 'running' FROM turn_liveness.stat) THEN
			RETURN;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.1);
	END LOOP;
	RAISE 'the worker does not run: %', (SELECT worker_problem FROM turn_liveness.stat);
END $$;

SELECT turn_liveness.arm_turn('conv-lapse', 'm1', silence => '1 s') AS armed,
       turn_liveness.arm_turn('conv-owed', 'm1') AS other \gset
SELECT turn_liveness.start_turn('conv-lapse', 'm1', 'worker-a') AS generation \gset

-- until the turn has failed, a minute at the most
DO $$
BEGIN
	FOR tenth IN 1 .. 600 LOOP
		IF EXISTS (SELECT FROM turn_liveness.read_replies('{conv-lapse}')) THEN
			RETURN;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.1);
	END LOOP;
	RAISE 'the turn does not fail';
END $$;

SELECT payload->>'errorCode' AS code FROM turn_liveness.read_replies('{conv-lapse}') \gset
SELECT string_agg(deployment, ',') AS owed FROM turn_liveness.turns
WHERE deployment IN ('conv-lapse', 'conv-owed') \gset

SELECT :'armed' = 'armed' AND :'other' = 'armed' AND :'generation' = '1'
       AND :'code' = 'WORKER_UNRESPONSIVE' AND :'owed' = 'conv-owed' AS kept \gset
\if :kept
\echo 'ok - a turn whose worker fell silent has failed with' :code
\else
\echo 'not ok -' :armed :other :generation :code :owed
\quit 1
\endif
