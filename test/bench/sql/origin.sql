-- Peer (a): the origin's way.  Its gateway keeps markers as pending rows of its
-- job table, and sends every statement by itself (field notes, part A, 1.2-1.4).
--
-- The table has 18 indexes and a marker sits in 9 of them.  Three are known by
-- definition (key, claim, idempotency); of the others only the number counts
-- here: six on columns every row has, nine partial ones that a marker is not in.
CREATE SCHEMA origin;
CREATE TABLE origin.organization (id text PRIMARY KEY);
INSERT INTO origin.organization VALUES ('o1');

CREATE TABLE origin.runs (
	id bigserial PRIMARY KEY,
	organization_id text REFERENCES origin.organization ON DELETE CASCADE,
	run_type text NOT NULL, queue_name text, status text NOT NULL DEFAULT 'pending',
	action_key text, action_input jsonb, action_output jsonb,
	claimed_by text, claimed_at timestamptz, last_heartbeat_at timestamptz, completed_at timestamptz,
	error_message text, feed_id bigint, connection_id bigint, watcher_id integer, window_id bigint,
	auth_profile_id bigint, created_by_user_id text, dispatched_message_id text,
	idempotency_key text, attempts integer NOT NULL DEFAULT 0, max_attempts integer NOT NULL DEFAULT 3,
	priority integer NOT NULL DEFAULT 0, retry_delay_seconds integer,
	run_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX ON origin.runs (idempotency_key)
	WHERE idempotency_key IS NOT NULL AND status IN ('pending', 'claimed', 'running');
CREATE INDEX ON origin.runs (run_type, queue_name, priority DESC, run_at, id)
	WHERE status = 'pending' AND run_type IN ('chat_message', 'schedule', 'agent_run', 'internal', 'task');
CREATE INDEX ON origin.runs (status);
CREATE INDEX ON origin.runs (run_type);
CREATE INDEX ON origin.runs (created_at DESC);
CREATE INDEX ON origin.runs (organization_id, created_at DESC);
CREATE INDEX ON origin.runs (status, created_at);
CREATE INDEX ON origin.runs (run_type, created_at) WHERE status = 'pending';
CREATE INDEX ON origin.runs (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX ON origin.runs (claimed_at) WHERE status IN ('claimed', 'running');
CREATE INDEX ON origin.runs (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX ON origin.runs (feed_id) WHERE feed_id IS NOT NULL;
CREATE INDEX ON origin.runs (connection_id) WHERE connection_id IS NOT NULL;
CREATE INDEX ON origin.runs (watcher_id) WHERE watcher_id IS NOT NULL;
CREATE INDEX ON origin.runs (window_id) WHERE window_id IS NOT NULL;
CREATE INDEX ON origin.runs (auth_profile_id) WHERE auth_profile_id IS NOT NULL;
CREATE INDEX ON origin.runs (created_by_user_id) WHERE created_by_user_id IS NOT NULL;

-- n markers as arm would have written them, only faster
CREATE FUNCTION origin.fill(n integer, deadline interval) RETURNS void LANGUAGE sql AS $$
	INSERT INTO origin.runs (run_type, queue_name, idempotency_key, action_input, run_at)
	SELECT 'internal', 'internal:turn_timeout', 'w' || g || ':m',
		   jsonb_build_object('messageId', 'm', 'deploymentName', 'w' || g, 'platform', 'api', 'userId', 'u1', 'conversationId', 'w' || g),
		   now() + deadline
	FROM generate_series(1, n) g
$$;

-- One call of its sweep: 200 at most, then row by row.  The gateway sends these
-- statements over its connection; here they save the round trips.
CREATE FUNCTION origin.sweep() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	routing jsonb;
	n integer := 0;
BEGIN
	FOR routing IN
		DELETE FROM origin.runs WHERE id IN (
			SELECT id FROM origin.runs
			WHERE status = 'pending' AND run_type = 'internal' AND queue_name = 'internal:turn_timeout' AND run_at < now()
			FOR UPDATE SKIP LOCKED LIMIT 200)
		RETURNING action_input
	LOOP
		INSERT INTO origin.runs (run_type, queue_name, status, action_input, organization_id, run_at, max_attempts, retry_delay_seconds)
		VALUES ('chat_message', 'thread_response', 'pending',
			routing - 'deploymentName' || jsonb_build_object('teamId', 'api',
				'error', 'The worker handling your request stopped responding before it could reply. Please retry in a moment.',
				'processedMessageIds', jsonb_build_array(routing->>'messageId'), 'timestamp', 1790000000000),
			routing->>'organizationId', now(), 30, 1);
		n := n + 1;
	END LOOP;
	RETURN n;
END $$;
-- every 15 s in its gateway; here without a pause
CREATE PROCEDURE origin.drain() LANGUAGE plpgsql AS $$
BEGIN
	WHILE origin.sweep() > 0 LOOP
		COMMIT;
		PERFORM pg_notify('runs_lobu:thread_response', 'thread_response');
		COMMIT;
	END LOOP;
END $$;
