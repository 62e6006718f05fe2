-- Peer (b): the same API in PL/pgSQL, as a careful user would write it instead of
-- installing us: a row for each beat (narrow, never indexed but by its key, room
-- for HOT), NOTIFY in the transaction, a sweep for pg_cron.
CREATE SCHEMA plain;
CREATE TABLE plain.turn (
	deployment text COLLATE "C" NOT NULL, message_id text COLLATE "C" NOT NULL,
	conversation_id text NOT NULL, platform text NOT NULL, organization_id text, routing jsonb NOT NULL,
	armed_at timestamptz NOT NULL DEFAULT clock_timestamp(), admission_until timestamptz NOT NULL,
	silence interval NOT NULL, ended_at timestamptz, outcome text,
	PRIMARY KEY (deployment, message_id)
) WITH (fillfactor = 90);
CREATE INDEX ON plain.turn (deployment) WHERE outcome IS NULL;
CREATE INDEX ON plain.turn (admission_until) WHERE outcome IS NULL;
CREATE TABLE plain.beat (deployment text COLLATE "C" PRIMARY KEY, at timestamptz NOT NULL) WITH (fillfactor = 50);
CREATE TABLE plain.reply (
	reply_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	deployment text NOT NULL, message_ids text[] NOT NULL, conversation_id text NOT NULL, platform text NOT NULL,
	organization_id text, payload jsonb NOT NULL, state text NOT NULL DEFAULT 'due', attempt integer NOT NULL DEFAULT 0,
	gateway text, due_at timestamptz NOT NULL DEFAULT clock_timestamp(), created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 90);
CREATE INDEX ON plain.reply (conversation_id, reply_id);
CREATE INDEX ON plain.reply (platform, due_at) WHERE state IN ('due', 'claimed');

CREATE FUNCTION plain.arm_turn(d text, m text, r jsonb, admission interval DEFAULT '180 s', s interval DEFAULT '60 s')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	o text;
BEGIN
	INSERT INTO plain.turn (deployment, message_id, conversation_id, platform, organization_id, routing, admission_until, silence)
	VALUES (d, m, coalesce(r->>'conversationId', d), coalesce(r->>'platform', 'api'), r->>'organizationId', r,
			clock_timestamp() + admission, s)
	ON CONFLICT DO NOTHING;
	IF FOUND THEN
		RETURN 'armed';
	END IF;
	UPDATE plain.turn SET admission_until = clock_timestamp() + admission
	WHERE deployment = d AND message_id = m AND outcome IS NULL;
	RETURN CASE WHEN FOUND THEN 'pending' ELSE 'answered' END;
END $$;

CREATE FUNCTION plain.heartbeat(d text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	n integer;
BEGIN
	SELECT count(*) INTO n FROM plain.turn WHERE deployment = d AND outcome IS NULL;
	IF n > 0 THEN
		UPDATE plain.beat SET at = clock_timestamp() WHERE deployment = d;
		IF NOT FOUND THEN
			INSERT INTO plain.beat VALUES (d, clock_timestamp()) ON CONFLICT (deployment) DO UPDATE SET at = excluded.at;
		END IF;
	END IF;
	RETURN n;
END $$;

CREATE FUNCTION plain.commit_terminal_reply(d text, ids text[], reply jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	won text[];
	r jsonb;
BEGIN
	WITH ended AS (
		UPDATE plain.turn SET outcome = 'answer', ended_at = clock_timestamp()
		WHERE deployment = d AND message_id = ANY (ids) AND outcome IS NULL
		RETURNING message_id, routing
	)
	SELECT array_agg(message_id), min(routing::text)::jsonb INTO won, r FROM ended;
	IF won IS NULL THEN
		RETURN 'lost';
	END IF;
	INSERT INTO plain.reply (deployment, message_ids, conversation_id, platform, organization_id, payload)
	VALUES (d, won, coalesce(r->>'conversationId', d), coalesce(r->>'platform', 'api'), r->>'organizationId',
			r || jsonb_build_object('messageId', won[1], 'conversationId', coalesce(r->>'conversationId', d),
				'processedMessageIds', to_jsonb(won), 'timestamp', floor(extract(epoch FROM clock_timestamp()) * 1000)) || reply);
	PERFORM pg_notify('plain', json_build_object('conversations', json_build_array(coalesce(r->>'conversationId', d)))::text);
	RETURN 'won';
END $$;

-- the oldest due replies of these platforms, for this gateway alone
CREATE FUNCTION plain.claim_replies(g text, conversations text[], platforms text[], max_replies integer DEFAULT 100)
RETURNS SETOF plain.reply LANGUAGE sql AS $$
	UPDATE plain.reply SET state = 'claimed', attempt = attempt + 1, gateway = g, due_at = clock_timestamp() + interval '30 s'
	WHERE reply_id IN (
		SELECT reply_id FROM plain.reply
		WHERE state IN ('due', 'claimed') AND platform = ANY (platforms) AND due_at <= clock_timestamp()
		  AND (conversations IS NULL OR conversation_id = ANY (conversations))
		ORDER BY due_at LIMIT max_replies FOR UPDATE SKIP LOCKED)
	RETURNING *
$$;
CREATE FUNCTION plain.ack_replies(g text, ids bigint[]) RETURNS integer LANGUAGE sql AS $$
	WITH acknowledged AS (
		UPDATE plain.reply SET state = 'delivered' WHERE reply_id = ANY (ids) AND gateway = g AND state = 'claimed' RETURNING 1)
	SELECT count(*)::integer FROM acknowledged
$$;

-- What pg_cron runs every few seconds: SELECT plain.sweep()
CREATE FUNCTION plain.sweep(max_turns integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	n integer;
BEGIN
	WITH lapsed AS (
		SELECT t.deployment, t.message_id, b.at FROM plain.turn t LEFT JOIN plain.beat b USING (deployment)
		WHERE t.outcome IS NULL AND t.admission_until < clock_timestamp()
		  AND (b.at IS NULL OR b.at < t.armed_at OR b.at + t.silence < clock_timestamp())
		ORDER BY t.admission_until LIMIT max_turns FOR UPDATE OF t SKIP LOCKED
	), ended AS (
		UPDATE plain.turn t SET outcome = 'error', ended_at = clock_timestamp() FROM lapsed l
		WHERE (t.deployment, t.message_id) = (l.deployment, l.message_id)
		RETURNING t.*, l.at
	), stored AS (
		INSERT INTO plain.reply (deployment, message_ids, conversation_id, platform, organization_id, payload)
		SELECT deployment, ARRAY[message_id], conversation_id, platform, organization_id,
			   routing || jsonb_build_object('messageId', message_id, 'conversationId', conversation_id,
				   'teamId', coalesce(routing->>'teamId', platform),
				   'error', 'No worker could be started for your request. Please retry in a moment.',
				   'errorCode', CASE WHEN at IS NULL THEN 'WORKER_NEVER_STARTED' ELSE 'WORKER_UNRESPONSIVE' END,
				   'processedMessageIds', jsonb_build_array(message_id),
				   'timestamp', floor(extract(epoch FROM clock_timestamp()) * 1000))
		FROM ended
		RETURNING conversation_id
	)
	SELECT coalesce(sum(k), 0) INTO n FROM (
		SELECT count(*) AS k, pg_notify('plain', json_build_object('conversations', json_agg(conversation_id))::text)
		FROM (SELECT conversation_id, (row_number() OVER ()) / 100 AS page FROM stored) s GROUP BY page
	) x;
	RETURN n;
END $$;

-- with a statement of its own for each batch, as cron runs it again and again
CREATE PROCEDURE plain.drain() LANGUAGE plpgsql AS $$
BEGIN
	WHILE plain.sweep() > 0 LOOP
		COMMIT;
	END LOOP;
END $$;
