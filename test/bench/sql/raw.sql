-- Copies of our tables with no index but the keys, for the raw statement that
-- the sweep is held against.
CREATE SCHEMA raw;
CREATE TABLE raw.turn (LIKE turn_liveness.turn INCLUDING DEFAULTS INCLUDING STORAGE,
	PRIMARY KEY (message_id, deployment)) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE raw.reply (LIKE turn_liveness.reply INCLUDING DEFAULTS INCLUDING STORAGE,
	PRIMARY KEY (reply_id));
CREATE TABLE raw.delivery (LIKE turn_liveness.delivery INCLUDING DEFAULTS INCLUDING STORAGE,
	PRIMARY KEY (conversation_id, is_open, reply_id)) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
CREATE SEQUENCE raw.reply_id_seq AS bigint;

-- what the sweep does to the rows, in one statement
CREATE FUNCTION raw.sweep() RETURNS bigint LANGUAGE sql AS $$
	WITH ended AS (
		UPDATE raw.turn SET outcome = 'e', error_code = NULL
		WHERE outcome IS NULL AND next_check <= 'infinity'
		RETURNING *
	), replies AS (
		INSERT INTO raw.reply
		SELECT nextval('raw.reply_id_seq'), deployment, ARRAY[message_id], conversation_id, routing->>'platform', routing->>'organizationId',
			   routing || jsonb_build_object('messageId', message_id, 'conversationId', conversation_id,
				   'teamId', coalesce(routing->>'teamId', routing->>'platform', 'api'),
				   'error', 'No worker could be started for your request. Please retry in a moment.',
				   'errorCode', 'WORKER_NEVER_STARTED', 'processedMessageIds', jsonb_build_array(message_id),
				   'generation', generation,
				   'timestamp', floor(extract(epoch FROM clock_timestamp()) * 1000)),
			   'e', 'WORKER_NEVER_STARTED', 's', generation, worker, armed_at, NULL, NULL, now(), now()
		FROM ended
		RETURNING reply_id, conversation_id, platform
	), deliveries AS (
		INSERT INTO raw.delivery
		SELECT reply_id, conversation_id, platform, true, 0, '-infinity' FROM replies
		RETURNING 1
	)
	SELECT count(*) FROM deliveries
$$;
