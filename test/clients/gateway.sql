-- The whole gateway side in psql, and a worker, in one session.
--
--   psql -v ON_ERROR_STOP=1 -f gateway.sql
--
-- Wants a table my_jobs (payload jsonb). Through a pooler in transaction mode
-- (psql -v pooler=1) there is no LISTEN and no attach_worker: they need a session.
-- psql prepares nothing, so it needs no other setting there.

\set ON_ERROR_STOP 1
SELECT 'tenant-1/psql-' || txid_current() AS conversation \gset
\if :{?pooler}
\else
-- gateway: LISTEN first, then read; a notification says where to look again
LISTEN turn_liveness;
-- worker: its session's end would be its death. The number must be that of the driver
-- (psql shows it as %p in its prompt, here there is none), else there is a pooler between.
SELECT turn_liveness.attach_worker(:'conversation') = pg_backend_pid() AS session \gset
\endif

-- gateway: a message has come. Owed and enqueued together, or neither.
BEGIN;
SELECT turn_liveness.arm_turn(:'conversation', 'm1',
	jsonb_build_object('conversationId', :'conversation', 'platform', 'web', 'userId', 'u1')) AS arm \gset
INSERT INTO my_jobs VALUES ('{"messageId": "m1"}');
COMMIT;

-- worker: it takes the turn, unless another has it; then, every few seconds, a beat that names the
-- turn and its generation; 0 means give up
SELECT turn_liveness.start_turn(:'conversation', 'm1', 'worker-1') AS generation \gset
SELECT turn_liveness.heartbeat(:'conversation', '{m1}', ARRAY[:generation]) AS beat \gset

-- worker: the answer; the same call again, and another answer
SELECT turn_liveness.commit_terminal_reply(:'conversation', '{m1}', '{"content": "42"}', ARRAY[:generation]) AS first \gset
SELECT turn_liveness.commit_terminal_reply(:'conversation', '{m1}', '{"content": "42"}', ARRAY[:generation]) AS again \gset
SELECT turn_liveness.commit_terminal_reply(:'conversation', '{m1}', '{"content": "43"}', ARRAY[:generation]) AS other \gset

-- gateway: what a stream has not seen yet; cursor is its Last-Event-ID
\set cursor 0
SELECT reply_id AS cursor, payload->>'content' AS content
FROM turn_liveness.read_replies(ARRAY[:'conversation'], ARRAY[:cursor]) \gset
SELECT turn_liveness.ack_replies('gateway-psql', ARRAY[:cursor]) AS ack \gset

-- stopped by the user: the client hears it, and the worker with its next beat.
-- reject_turn, because the stop may come before the arm, which then says answered.
SELECT turn_liveness.arm_turn(:'conversation', 'm2', jsonb_build_object('conversationId', :'conversation')) AS arm2 \gset
SELECT turn_liveness.reject_turn(:'conversation', 'm2', jsonb_build_object('conversationId', :'conversation'),
	'Stopped.', 'CANCELLED') AS stop \gset
SELECT turn_liveness.heartbeat(:'conversation', '{m2}') AS beat2 \gset
SELECT payload->>'errorCode' AS code FROM turn_liveness.read_replies(ARRAY[:'conversation'], ARRAY[:cursor]) \gset

-- pushed: one replica alone sends. Autocommit commits the claim before anything is sent.
-- Claim no more than can be sent within claim_timeout.
SELECT turn_liveness.reject_turn(:'conversation', 'm3', '{"platform": "psql"}', 'Message rejected.', 'GUARDRAIL') AS reject \gset
SELECT array_agg(reply_id) AS claimed, count(*) AS claims
FROM turn_liveness.claim_replies('gateway-psql', platforms => '{psql}', max_replies => 10) \gset
SELECT count(*) AS claims2 FROM turn_liveness.claim_replies('gateway-psql-2', platforms => '{psql}') \gset
SELECT turn_liveness.ack_replies('gateway-psql', :'claimed') AS ack3 \gset

\if :{?pooler}
\else
SELECT turn_liveness.detach_worker(:'conversation') AS detach \gset
\endif

-- what all this must have said
SELECT ROW(:'arm', :generation, :beat, :'first', :'again', :'other', :'content', :ack)::text AS answered,
	   ROW(:'arm2', :'stop', :beat2, :'code')::text AS stopped,
	   ROW(:'reject', :claims, :claims2, :ack3)::text AS pushed \gset
\echo :answered :stopped :pushed
SELECT :'answered' = '(armed,1,1,won,won,lost,42,1)' AND :'stopped' = '(armed,won,0,CANCELLED)'
	AND :'pushed' = '(won,1,0,1)' AS ok \gset
\if :{?pooler}
\else
SELECT :'ok' AND :'session' AND :'detach' AS ok \gset
\endif
\if :ok
\else
DO $$ BEGIN RAISE EXCEPTION 'that is not what was to come'; END $$;
\endif
