/*
 * turn_liveness 1.0: tables, views and the SQL face of the C functions.
 *
 * CREATE EXTENSION runs this script with search_path = pg_catalog, and views
 * and constraints store the functions and operators that it finds: a caller's
 * search_path does not matter to them.  No function runs with more rights than
 * its caller: the C code opens our tables by itself, so that EXECUTE on a
 * function is the whole privilege and nothing else has to be granted.
 */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION turn_liveness" to load this file. \quit

CREATE SCHEMA turn_liveness;
COMMENT ON SCHEMA turn_liveness IS 'every armed turn ends in exactly one terminal reply';

CREATE TYPE turn_liveness.arm_result AS ENUM ('armed', 'pending', 'answered');
CREATE TYPE turn_liveness.election AS ENUM ('won', 'lost', 'stale', 'unknown');

/*
 * Tables.  begun to frozen, due_at and kept_at are times of the liveness clock;
 * the other timestamps are the wall clock and are only shown.  src/README.md,
 * "Time" and "Tables".
 */

/*
 * The CHECK constraints refuse from others (COPY, restores, replication) what
 * the functions refuse from their callers.  The functions write without SQL and
 * check their arguments themselves; store/rel_open.c knows how many
 * constraints each table has.
 */

-- one row a turn; what its end changes stands behind the rest, for an update logs a row from its first changed column on
CREATE TABLE turn_liveness.turn (
	deployment		text COLLATE "C" NOT NULL	-- the key's second part
		CHECK (octet_length(deployment) BETWEEN 1 AND 255),
	message_id		text COLLATE "C" NOT NULL	-- and its first: many clients' ids rise, so that new entries share pages
		CHECK (octet_length(message_id) BETWEEN 1 AND 255),
	conversation_id	text COLLATE "C" NOT NULL	-- the reply's address: routing's conversationId, or the deployment
		CHECK (octet_length(conversation_id) BETWEEN 1 AND 255),
	armed_at		timestamptz NOT NULL,		-- when it was first armed
	epoch			bigint NOT NULL,			-- installation it was armed in << 32 | run its times are of
	begun			timestamptz NOT NULL,		-- first armed: the duration counts from here
	armed			timestamptz NOT NULL,		-- armed, or armed again: the admission counts from here
	next_check		timestamptz NOT NULL,		-- the sweep looks at it then
	generation		integer NOT NULL			-- 1, and one more with each hand-over: fences what earlier holders do
		CHECK (generation > 0),
	admission_ms	integer NOT NULL			-- it may wait so long for its first beat
		CHECK (admission_ms > 0),
	silence_ms		integer NOT NULL			-- and be silent so long after one
		CHECK (silence_ms > 0),
	duration_ms		integer NOT NULL			-- and take so long in all
		CHECK (duration_ms > 0),
	rescue_ms		integer NOT NULL			-- and be offered so long once it has lapsed
		CHECK (rescue_ms >= 0),
	seen			timestamptz,				-- it became visible then; infinity: by COMMIT PREPARED, and no sweep has seen it
	beat			timestamptz,				-- last beat that was written into the row
	started			timestamptz,				-- the beat in the row that started it
	frozen			timestamptz,				-- the deadline of a withheld turn
	suspended		timestamptz,				-- it waits for a human since then: its duration stands still
	wait_until		timestamptz,				-- and for so long at most
	lapsed			timestamptz,				-- it is offered for rescue since then, unless it beat after that
	lapse_code		"char"						-- why it is offered: u unresponsive, n never started, d session ended
		CHECK (lapse_code IN ('u', 'n', 'd')),
	taken			integer,					-- the generation that start_turn took last
	worker			text						-- and the worker's name for itself
		CHECK (octet_length(worker) <= 255),
	rearmed_at		timestamptz,				-- when it was armed again the last time
	outcome			"char"						-- NULL: owed; a answer, e error, d discharged
		CHECK (outcome IN ('a', 'e', 'd')),
	routing			jsonb						-- as it was passed; NULL once the turn has ended
		CHECK (jsonb_typeof(routing) = 'object'
			   AND coalesce(jsonb_typeof(routing -> 'platform'), 'null') IN ('string', 'null')
			   AND coalesce(octet_length(routing ->> 'platform'), 1) BETWEEN 1 AND 255
			   AND coalesce(jsonb_typeof(routing -> 'conversationId'), 'null') IN ('string', 'null')
			   AND coalesce(octet_length(routing ->> 'conversationId'), 1) BETWEEN 1 AND 255
			   AND coalesce(jsonb_typeof(routing -> 'organizationId'), 'null') IN ('string', 'number', 'null')
			   AND coalesce(octet_length(routing ->> 'organizationId'), 1) <= 255),
	error_code		text,						-- of mark_provider_failed
	reason			text,						-- likewise
	wait_reason		text,						-- of suspend_turn
	request			uuid,						-- digest of the reply that ended it: its repetition is won again
	reply_id		bigint,						-- the reply that ended it
	last_update		bigint,						-- its latest update
	PRIMARY KEY (message_id, deployment)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX turn_owed_deployment ON turn_liveness.turn (deployment) WHERE outcome IS NULL;
-- Hardly any two rows have equal keys in the indexes WITH (deduplicate_items = off): a look for equal ones costs as much as a split.
CREATE INDEX turn_owed_check ON turn_liveness.turn (next_check) WITH (deduplicate_items = off) WHERE outcome IS NULL;
-- most conversations have the name of their deployment, and that is indexed
CREATE INDEX turn_owed_conversation ON turn_liveness.turn (conversation_id) WHERE outcome IS NULL AND conversation_id <> deployment;

-- an ordinary life has no entry here
CREATE INDEX turn_owed_lapsed ON turn_liveness.turn (lapsed) WHERE outcome IS NULL AND lapsed IS NOT NULL;

-- taken under a short lock per conversation, one at a time: never a CACHE
CREATE SEQUENCE turn_liveness.reply_id_seq AS bigint NO CYCLE CACHE 1;

-- the outbox, replies and updates: insert-only
CREATE TABLE turn_liveness.reply (
	reply_id		bigint PRIMARY KEY,			-- in a conversation, ids rise in the order of commits
	deployment		text COLLATE "C" NOT NULL	-- of its turns
		CHECK (octet_length(deployment) BETWEEN 1 AND 255),
	message_ids		text[] COLLATE "C" NOT NULL	-- the turns that it ended, or the one that it tells of
		CHECK (cardinality(message_ids) > 0 AND array_position(message_ids, NULL) IS NULL),
	conversation_id	text COLLATE "C" NOT NULL	-- the address
		CHECK (octet_length(conversation_id) BETWEEN 1 AND 255),
	platform		text COLLATE "C" NOT NULL	-- likewise
		CHECK (octet_length(platform) BETWEEN 1 AND 255),
	organization_id	text COLLATE "C",			-- likewise
	payload			jsonb						-- what the client gets; NULL: discharged
		CHECK (jsonb_typeof(payload) = 'object'),
	outcome			"char" NOT NULL				-- a answer, e error, d discharged, u update: its turn goes on
		CHECK (outcome IN ('a', 'e', 'd', 'u')),
	error_code		text,						-- of an error
	decided_by		"char"						-- r reply, f fail_..., s sweep, w session's end, j reject, d discharge; NULL: update
		CHECK (decided_by IN ('r', 'f', 's', 'w', 'j', 'd')),
	generation		integer NOT NULL,			-- of the first turn
	worker			text,						-- likewise
	armed_at		timestamptz,				-- of the first turn
	first_beat		timestamptz,				-- likewise
	last_beat		timestamptz,				-- likewise
	created_at		timestamptz NOT NULL,		-- when it was stored
	kept_at			timestamptz NOT NULL		-- likewise: retention counts from here
);

-- what changes while a reply is delivered: one narrow row for each reply, in the same order;
-- a page has room for its rows as open, claimed and delivered: no claim waits for pruning to stay on its page (HOT)
CREATE TABLE turn_liveness.delivery (
	reply_id		bigint NOT NULL,			-- of the reply
	conversation_id	text COLLATE "C" NOT NULL	-- of the reply
		CHECK (octet_length(conversation_id) BETWEEN 1 AND 255),
	platform		text COLLATE "C" NOT NULL	-- likewise
		CHECK (octet_length(platform) BETWEEN 1 AND 255),
	is_open			boolean NOT NULL,			-- due or claimed; else delivered, discharged or dead
	attempt			integer NOT NULL			-- claims so far
		CHECK (attempt >= 0),
	due_at			timestamptz NOT NULL,		-- open: due from then on, -infinity: since it was stored; done: since then
	gateway			text COLLATE "C"			-- holds it, held it last, or delivered it
		CHECK (octet_length(gateway) BETWEEN 1 AND 255),
	claimed_at		timestamptz,				-- the last claim
	delivered_at	timestamptz,				-- the acknowledgement, or the discharge; NULL: open, or dead
	last_error		text,						-- of release_replies
	parked_until	timestamptz,				-- open, and due_at is that far ahead: out of the way of claims
	PRIMARY KEY (conversation_id, is_open, reply_id),
	CHECK (NOT is_open OR delivered_at IS NULL),
	CHECK (parked_until IS NULL OR is_open)
) WITH (fillfactor = 35, autovacuum_vacuum_scale_factor = 0.05);
-- A claim changes no column that stands here, so it makes no entry in any index.
CREATE INDEX delivery_open_platform ON turn_liveness.delivery (platform, reply_id) WITH (deduplicate_items = off) WHERE is_open AND parked_until IS NULL;
CREATE INDEX delivery_parked ON turn_liveness.delivery (platform, parked_until) WHERE parked_until IS NOT NULL;
CREATE INDEX delivery_dead ON turn_liveness.delivery (reply_id) WHERE NOT is_open AND delivered_at IS NULL;

-- replies that came too late or for nothing that we know: kept, not delivered
CREATE TABLE turn_liveness.late_reply (
	digest			uuid PRIMARY KEY,			-- of the columns below: an equal one is kept once
	deployment		text COLLATE "C" NOT NULL	-- that the caller named
		CHECK (octet_length(deployment) BETWEEN 1 AND 255),
	message_ids		text[] COLLATE "C" NOT NULL	-- likewise
		CHECK (cardinality(message_ids) > 0 AND array_position(message_ids, NULL) IS NULL),
	conversation_id	text COLLATE "C",			-- of the turn that had ended, NULL if unknown
	payload			jsonb NOT NULL				-- the reply as it was passed
		CHECK (jsonb_typeof(payload) = 'object'),
	verdict			turn_liveness.election NOT NULL,	-- why it is here
	created_at		timestamptz NOT NULL,		-- when it came
	kept_at			timestamptz NOT NULL		-- retention counts from here
);
CREATE INDEX late_reply_kept ON turn_liveness.late_reply (kept_at);
CREATE INDEX late_reply_deployment ON turn_liveness.late_reply (deployment);
CREATE INDEX late_reply_conversation ON turn_liveness.late_reply (conversation_id);

SELECT pg_extension_config_dump('turn_liveness.turn', '');
SELECT pg_extension_config_dump('turn_liveness.reply_id_seq', '');
SELECT pg_extension_config_dump('turn_liveness.reply', '');
SELECT pg_extension_config_dump('turn_liveness.delivery', '');
SELECT pg_extension_config_dump('turn_liveness.late_reply', '');

/*
 * Turns.
 */

CREATE FUNCTION turn_liveness.arm_turn(deployment text, message_id text, routing jsonb DEFAULT '{}',
	admission interval DEFAULT NULL, silence interval DEFAULT NULL, duration interval DEFAULT NULL, rescue interval DEFAULT NULL)
RETURNS turn_liveness.arm_result
AS 'MODULE_PATHNAME', 'turn_liveness_arm_turn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.arm_turn(text, text, jsonb, interval, interval, interval, interval) IS
'make this turn owed: armed (written), pending (was owed already; its admission starts again, under the next generation), answered (it has ended; nothing written)';

CREATE FUNCTION turn_liveness.start_turn(deployment text, message_id text, worker text DEFAULT NULL, take_over boolean DEFAULT false)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_start_turn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.start_turn(text, text, text, boolean) IS
'a worker takes the turn: returns its generation, the fence for its beats and its answer; NULL if it is not owed or was taken already';

CREATE FUNCTION turn_liveness.heartbeat(deployment text, message_ids text[] DEFAULT NULL, generations integer[] DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_heartbeat'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.heartbeat(text, text[], integer[]) IS
'sign of life for a deployment or for the named turns; returns how many of them are still owed, to the holder of that generation if one is given';

CREATE FUNCTION turn_liveness.heartbeats(deployments text[], message_ids text[] DEFAULT NULL, generations integer[] DEFAULT NULL,
	OUT deployment text, OUT message_id text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'turn_liveness_heartbeats'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.heartbeats(text[], text[], integer[]) IS
'one beat for each element; returns the elements that owe nothing any more';

CREATE FUNCTION turn_liveness.commit_terminal_reply(deployment text, message_ids text[], reply jsonb, generations integer[] DEFAULT NULL)
RETURNS turn_liveness.election
AS 'MODULE_PATHNAME', 'turn_liveness_commit_terminal_reply'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.commit_terminal_reply(text, text[], jsonb, integer[]) IS
'end these turns and store the reply in the caller''s transaction: won, or lost, stale (another generation holds the turn) or unknown, which are kept as late replies';

CREATE FUNCTION turn_liveness.post_update(deployment text, message_id text, payload jsonb, generation integer DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'turn_liveness_post_update'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.post_update(text, text, jsonb, integer) IS
'store a message before the last one of a turn that is owed, in the caller''s transaction; returns its id, NULL if the turn is not owed or the generation is old';

CREATE FUNCTION turn_liveness.suspend_turn(deployment text, message_id text, max_wait interval, reason text DEFAULT NULL, generation integer DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'turn_liveness_suspend_turn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.suspend_turn(text, text, interval, text, integer) IS
'the turn waits for a human, for max_wait at most; false if it is not owed or the generation is old';

CREATE FUNCTION turn_liveness.resume_turn(deployment text, message_id text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'turn_liveness_resume_turn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.resume_turn(text, text) IS
'the wait is over: the turn waits for its worker as if armed now, under the next generation; false if it was not suspended';

CREATE FUNCTION turn_liveness.rescue_turns(max_turns integer DEFAULT 100,
	OUT deployment text, OUT message_id text, OUT generation integer, OUT routing jsonb, OUT error_code text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'turn_liveness_rescue_turns'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.rescue_turns(integer) IS
'take turns that lapsed or lost their session and are within their rescue window, oldest first, and arm each again for another worker';

CREATE FUNCTION turn_liveness.get_turn(deployment text, message_id text,
	OUT state text, OUT generation integer, OUT worker text, OUT armed_at timestamptz,
	OUT first_beat timestamptz, OUT last_beat timestamptz, OUT deadline timestamptz, OUT ended_at timestamptz,
	OUT error_code text, OUT reason text, OUT decided_by text, OUT reply_id bigint, OUT payload jsonb,
	OUT last_update jsonb, OUT delivery_state text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'turn_liveness_get_turn'
LANGUAGE C STABLE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION turn_liveness.get_turn(text, text) IS
'all about one turn, owed or ended, by one look at an index; no row if it is not known';

CREATE FUNCTION turn_liveness.fail_turn(deployment text, message_id text, error text, error_code text DEFAULT NULL)
RETURNS turn_liveness.election
AS 'MODULE_PATHNAME', 'turn_liveness_fail_turn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.fail_turn(text, text, text, text) IS
'terminal error for one turn, if it is still owed';

CREATE FUNCTION turn_liveness.fail_deployment(deployment text, error text DEFAULT NULL,
	error_code text DEFAULT 'WORKER_DIED', armed_before timestamptz DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_fail_deployment'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.fail_deployment(text, text, text, timestamptz) IS
'terminal error for every turn of the deployment that is still owed and was armed before that instant; returns how many';

CREATE FUNCTION turn_liveness.reject_turn(deployment text, message_id text, routing jsonb, error text, error_code text DEFAULT NULL)
RETURNS turn_liveness.election
AS 'MODULE_PATHNAME', 'turn_liveness_reject_turn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.reject_turn(text, text, jsonb, text, text) IS
'terminal error for a message that is refused before dispatch; needs no marker and ends one that is there';

CREATE FUNCTION turn_liveness.discharge_turn(deployment text, message_id text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'turn_liveness_discharge_turn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.discharge_turn(text, text) IS
'end the obligation without a reply; true if the turn was owed';

CREATE FUNCTION turn_liveness.has_live_turn(deployment text, message_id text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'turn_liveness_has_live_turn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.has_live_turn(text, text) IS
'true while the turn is owed and its deadline is ahead, judged by the latest committed state';

CREATE FUNCTION turn_liveness.mark_provider_failed(deployment text, error_code text, reason text)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_mark_provider_failed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.mark_provider_failed(text, text, text) IS
'beats no longer extend the turns that the deployment owes now; returns turns marked';

CREATE FUNCTION turn_liveness.clear_provider_failed(deployment text)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_clear_provider_failed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.clear_provider_failed(text) IS
'beats extend the deployment''s turns again; returns turns cleared';

CREATE FUNCTION turn_liveness.attach_worker(deployment text)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_attach_worker'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.attach_worker(text) IS
'tie the deployment to this session: its end without detach_worker fails the turns; returns the server process''s id';

CREATE FUNCTION turn_liveness.detach_worker(deployment text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'turn_liveness_detach_worker'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.detach_worker(text) IS
'a deliberate stop: no failure follows; false if the deployment was not attached in this session';

CREATE FUNCTION turn_liveness.sweep_expired_turns(max_turns integer DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_sweep_expired_turns'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.sweep_expired_turns(integer) IS
'fail lapsed turns now, at most that many (default turn_liveness.sweep_batch); returns how many';

/*
 * Delivery.
 */

CREATE FUNCTION turn_liveness.read_replies(conversations text[], after bigint[] DEFAULT NULL, max_replies integer DEFAULT 100,
	OUT reply_id bigint, OUT deployment text, OUT message_ids text[], OUT conversation_id text, OUT platform text,
	OUT organization_id text, OUT payload jsonb, OUT outcome text, OUT state text, OUT attempt integer, OUT created_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'turn_liveness_read_replies'
LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.read_replies(text[], bigint[], integer) IS
'the replies and updates of these conversations past each one''s cursor, oldest first; changes nothing; the last id seen is a safe cursor';

CREATE FUNCTION turn_liveness.claim_replies(gateway text, conversations text[] DEFAULT NULL, platforms text[] DEFAULT NULL, max_replies integer DEFAULT 100,
	OUT reply_id bigint, OUT deployment text, OUT message_ids text[], OUT conversation_id text, OUT platform text,
	OUT organization_id text, OUT payload jsonb, OUT outcome text, OUT state text, OUT attempt integer, OUT created_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'turn_liveness_claim_replies'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.claim_replies(text, text[], text[], integer) IS
'take due replies and updates of these conversations or of these platforms for this gateway, oldest first';

CREATE FUNCTION turn_liveness.ack_replies(gateway text, reply_ids bigint[])
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_ack_replies'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.ack_replies(text, bigint[]) IS
'delivered; counts the replies that this gateway holds and due ones that no gateway holds';

CREATE FUNCTION turn_liveness.release_replies(gateway text, reply_ids bigint[], delay interval DEFAULT NULL, error text DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_release_replies'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.release_replies(text, bigint[], interval, text) IS
'not delivered: due again after the delay (default turn_liveness.retry_delay, doubled with every attempt)';

CREATE FUNCTION turn_liveness.retry_dead_reply(reply_id bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'turn_liveness_retry_dead_reply'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.retry_dead_reply(bigint) IS
'put a dead reply back; true if it was dead';

/*
 * What the views need.  A view checks EXECUTE of its functions against the
 * reader, so grant_monitor and grant_gateway name them too.
 */

CREATE FUNCTION turn_liveness.clock_now()
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'turn_liveness_clock_now'
LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.clock_now() IS
'the liveness clock of this database: the wall clock of the server''s start, and the time in which the server ran since';

CREATE FUNCTION turn_liveness.turn_status(turn turn_liveness.turn,
	OUT first_beat timestamptz, OUT last_beat timestamptz, OUT deadline timestamptz, OUT state text, OUT error_code text)
AS 'MODULE_PATHNAME', 'turn_liveness_turn_status'
LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.turn_status(turn_liveness.turn) IS
'beats, effective deadline and state of a turn that is owed; the view turns is its public face';

-- pg_locks knows no savepoint that was released
CREATE FUNCTION turn_liveness.holder(turn tid)
RETURNS integer
AS 'MODULE_PATHNAME', 'turn_liveness_holder'
LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.holder(tid) IS
'the process whose open transaction keeps the sweep from the turn at that address, 0 for a prepared one, NULL for none; the view turns is its public face';

-- Two branches, so that a look-up by conversation finds an index in each.
CREATE VIEW turn_liveness.turns AS
	SELECT x.deployment, (x.t).message_id, x.conversation_id,
		   coalesce((x.t).routing ->> 'platform', 'api') AS platform,
		   (x.t).routing ->> 'organizationId' AS organization_id,
		   (x.t).routing, (x.t).generation, (x.t).worker, (x.t).armed_at,
		   s.first_beat, s.last_beat, s.deadline, s.state,
		   s.error_code, coalesce((x.t).wait_reason, (x.t).reason) AS reason,
		   CASE s.state WHEN 'lapsed' THEN turn_liveness.holder(x.address) END AS blocked_by
	FROM (
		SELECT t.deployment, t.deployment AS conversation_id, t.ctid AS address, t
		FROM turn_liveness.turn t
		WHERE t.outcome IS NULL AND t.conversation_id = t.deployment
		UNION ALL
		SELECT t.deployment, t.conversation_id, t.ctid AS address, t
		FROM turn_liveness.turn t
		WHERE t.outcome IS NULL AND t.conversation_id <> t.deployment
	) x, LATERAL turn_liveness.turn_status(x.t) s;
COMMENT ON VIEW turn_liveness.turns IS 'the turns that are owed: waiting, running, suspended, withheld or lapsed';

-- One branch for each state, each with its own join: a query for one state is
-- planned on that state's index and the other branches vanish, and a look-up by
-- conversation or id reaches the indexes of every branch.  Open replies are in one
-- of two indexes, parked or not: the condition that is always true tells the planner.
CREATE VIEW turn_liveness.replies AS
	SELECT x.reply_id, x.deployment, x.message_ids, x.conversation_id, x.platform, x.organization_id, x.payload,
		   CASE x.outcome WHEN 'a' THEN 'answer' WHEN 'e' THEN 'error' WHEN 'd' THEN 'discharged'
						  WHEN 'u' THEN 'update' END AS outcome,
		   x.error_code,
		   CASE x.decided_by WHEN 'r' THEN 'reply' WHEN 'f' THEN 'fail' WHEN 's' THEN 'sweep'
							 WHEN 'w' THEN 'session' WHEN 'j' THEN 'reject' WHEN 'd' THEN 'discharge' END AS decided_by,
		   x.generation, x.worker, x.armed_at, x.first_beat, x.last_beat, x.created_at,
		   x.state, x.attempt, x.gateway, x.claimed_at,
		   CASE WHEN x.due_at = '-infinity' THEN x.created_at
				WHEN NOT isfinite(x.due_at) THEN x.due_at
				ELSE clock_timestamp() + (x.due_at - turn_liveness.clock_now())
		   END AS due_at,
		   x.delivered_at, x.last_error
	FROM (
		SELECT r.*, 'due'::text AS state, d.attempt, d.gateway, d.claimed_at, d.due_at, d.delivered_at, d.last_error
		FROM turn_liveness.delivery d JOIN turn_liveness.reply r ON r.conversation_id = d.conversation_id AND r.reply_id = d.reply_id
		WHERE d.is_open AND (d.parked_until IS NULL OR d.parked_until IS NOT NULL)
		  AND (d.gateway IS NULL OR d.due_at <= turn_liveness.clock_now())
		UNION ALL
		SELECT r.*, 'claimed'::text AS state, d.attempt, d.gateway, d.claimed_at, d.due_at, d.delivered_at, d.last_error
		FROM turn_liveness.delivery d JOIN turn_liveness.reply r ON r.conversation_id = d.conversation_id AND r.reply_id = d.reply_id
		WHERE d.is_open AND (d.parked_until IS NULL OR d.parked_until IS NOT NULL)
		  AND d.gateway IS NOT NULL AND d.due_at > turn_liveness.clock_now()
		UNION ALL
		SELECT r.*, 'delivered'::text AS state, d.attempt, d.gateway, d.claimed_at, NULL::timestamptz AS due_at, d.delivered_at, d.last_error
		FROM turn_liveness.delivery d JOIN turn_liveness.reply r ON r.conversation_id = d.conversation_id AND r.reply_id = d.reply_id
		WHERE NOT d.is_open AND d.delivered_at IS NOT NULL
		UNION ALL
		SELECT r.*, 'dead'::text AS state, d.attempt, d.gateway, d.claimed_at, NULL::timestamptz AS due_at, d.delivered_at, d.last_error
		FROM turn_liveness.delivery d JOIN turn_liveness.reply r ON r.conversation_id = d.conversation_id AND r.reply_id = d.reply_id
		WHERE NOT d.is_open AND d.delivered_at IS NULL
	) x;
COMMENT ON VIEW turn_liveness.replies IS 'every reply, update and terminal record within retention, with the state of its delivery';

CREATE VIEW turn_liveness.late_replies AS
	SELECT deployment, message_ids, conversation_id, payload, verdict, created_at
	FROM turn_liveness.late_reply;
COMMENT ON VIEW turn_liveness.late_replies IS 'replies that lost their election, were stale or belong to no turn that is known: kept, not delivered';

-- Direct heap access fires no trigger, so these see just what others do to the
-- tables by hand or by COPY, and void what beats and claims remember.
CREATE FUNCTION turn_liveness.foreign_change()
RETURNS trigger
AS 'MODULE_PATHNAME', 'turn_liveness_foreign_change'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.foreign_change() IS
'internal: notes that a table was changed by other than our functions';
CREATE TRIGGER foreign_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON turn_liveness.turn
	FOR EACH STATEMENT EXECUTE FUNCTION turn_liveness.foreign_change();
ALTER TABLE turn_liveness.turn ENABLE ALWAYS TRIGGER foreign_change;
CREATE TRIGGER foreign_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON turn_liveness.delivery
	FOR EACH STATEMENT EXECUTE FUNCTION turn_liveness.foreign_change();
ALTER TABLE turn_liveness.delivery ENABLE ALWAYS TRIGGER foreign_change;

/*
 * What happens: counters and gauges.
 */

CREATE FUNCTION turn_liveness.stat_row(
	OUT worker_state text, OUT worker_pid integer, OUT worker_problem text, OUT launcher_pid integer,
	OUT leases_used integer, OUT lease_capacity integer, OUT attach_used integer, OUT attach_capacity integer,
	OUT last_sweep timestamptz, OUT last_sweep_ms double precision, OUT tick_age interval,
	OUT sweep_enabled boolean, OUT grace text, OUT grace_until timestamptz,
	OUT armed bigint, OUT answered bigint,
	OUT failed_unresponsive bigint, OUT failed_never_started bigint, OUT failed_died bigint,
	OUT failed_too_long bigint, OUT failed_wait_expired bigint, OUT failed_stopped bigint,
	OUT failed_rejected bigint, OUT failed_provider bigint, OUT failed_other bigint,
	OUT discharged bigint, OUT updates bigint, OUT rearmed bigint, OUT offered bigint, OUT rescued bigint,
	OUT late bigint, OUT stale bigint, OUT unknown bigint, OUT late_dropped bigint,
	OUT beats bigint, OUT beats_in_rows bigint, OUT sweeps bigint, OUT sweep_errors bigint,
	OUT notifications bigint, OUT claims bigint, OUT acknowledged bigint, OUT redeliveries bigint,
	OUT dead bigint, OUT expired_undelivered bigint, OUT worker_starts bigint,
	OUT stats_reset timestamptz)
AS 'MODULE_PATHNAME', 'turn_liveness_stat_row'
LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.stat_row() IS
'what shared memory tells of this database; the view stat is its public face';

-- Each gauge that is asked of the tables is a subquery of its own: a query that
-- does not name it does not pay for it.
CREATE VIEW turn_liveness.stat AS
	SELECT s.worker_state, s.worker_pid, s.worker_problem, s.launcher_pid,
		   s.sweep_enabled, s.grace, s.grace_until, s.last_sweep, s.last_sweep_ms, s.tick_age,
		   (SELECT count(*) FROM turn_liveness.turn t WHERE t.outcome IS NULL) AS turns_owed,
		   (SELECT count(*)
			FROM turn_liveness.turn t, LATERAL turn_liveness.turn_status(t) u
			WHERE t.outcome IS NULL AND t.next_check <= turn_liveness.clock_now()
			  AND u.state = 'lapsed') +
		   -- the sweep looks at what is offered when the window ends
		   (SELECT count(*)
			FROM turn_liveness.turn t, LATERAL turn_liveness.turn_status(t) u
			WHERE t.outcome IS NULL AND t.lapsed IS NOT NULL AND t.next_check > turn_liveness.clock_now()
			  AND u.state = 'lapsed') AS turns_lapsed,
		   (SELECT count(*)
			FROM turn_liveness.turn t, LATERAL turn_liveness.turn_status(t) u
			WHERE t.outcome IS NULL AND t.next_check <= turn_liveness.clock_now()
			  AND u.state = 'lapsed' AND turn_liveness.holder(t.ctid) IS NOT NULL) AS turns_blocked,
		   (SELECT clock_timestamp() + (t.next_check - turn_liveness.clock_now())
			FROM turn_liveness.turn t
			WHERE t.outcome IS NULL AND isfinite(t.next_check)
			ORDER BY t.next_check LIMIT 1) AS next_deadline,
		   (WITH RECURSIVE p(platform) AS (
				(SELECT d.platform FROM turn_liveness.delivery d
				 WHERE d.is_open AND d.parked_until IS NULL ORDER BY d.platform LIMIT 1)
				UNION ALL
				SELECT (SELECT d.platform FROM turn_liveness.delivery d
						WHERE d.is_open AND d.parked_until IS NULL AND d.platform > p.platform
						ORDER BY d.platform LIMIT 1)
				FROM p WHERE p.platform IS NOT NULL
			), q(platform) AS (
				(SELECT d.platform FROM turn_liveness.delivery d
				 WHERE d.parked_until IS NOT NULL ORDER BY d.platform LIMIT 1)
				UNION ALL
				SELECT (SELECT d.platform FROM turn_liveness.delivery d
						WHERE d.parked_until IS NOT NULL AND d.platform > q.platform
						ORDER BY d.platform LIMIT 1)
				FROM q WHERE q.platform IS NOT NULL
			)
			SELECT max(o.age) FROM (
				SELECT (SELECT CASE WHEN d.due_at = '-infinity' THEN clock_timestamp() - r.created_at
									ELSE turn_liveness.clock_now() - d.due_at END
						FROM turn_liveness.delivery d
						JOIN turn_liveness.reply r ON r.conversation_id = d.conversation_id AND r.reply_id = d.reply_id
						WHERE d.is_open AND d.parked_until IS NULL AND d.platform = p.platform
						  AND d.due_at <= turn_liveness.clock_now()
						ORDER BY d.reply_id LIMIT 1) AS age
				FROM p
				UNION ALL
				SELECT (SELECT turn_liveness.clock_now() - d.parked_until
						FROM turn_liveness.delivery d
						WHERE d.platform = q.platform AND d.parked_until <= turn_liveness.clock_now()
						ORDER BY d.parked_until LIMIT 1)
				FROM q
			) o) AS oldest_due_age,
		   s.leases_used, s.lease_capacity, s.attach_used, s.attach_capacity,
		   s.armed, s.answered, s.failed_unresponsive, s.failed_never_started, s.failed_died,
		   s.failed_too_long, s.failed_wait_expired, s.failed_stopped, s.failed_rejected,
		   s.failed_provider, s.failed_other, s.discharged, s.updates, s.rearmed, s.offered,
		   s.rescued, s.late, s.stale, s.unknown, s.late_dropped,
		   s.beats, s.beats_in_rows, s.sweeps, s.sweep_errors, s.notifications,
		   s.claims, s.acknowledged, s.redeliveries, s.dead, s.expired_undelivered,
		   s.worker_starts, s.stats_reset
	FROM turn_liveness.stat_row() s;
COMMENT ON VIEW turn_liveness.stat IS 'what happens in this database, in one row; counters are cumulative since stats_reset or the start of the server, and NULL without preload';
COMMENT ON COLUMN turn_liveness.stat.worker_state IS 'none, wanted, running, disabled or no slot';
COMMENT ON COLUMN turn_liveness.stat.worker_pid IS 'process id of the worker of this database';
COMMENT ON COLUMN turn_liveness.stat.worker_problem IS 'why no worker runs, that it is stopped, or which of its steps waits for which lock; NULL when all is well';
COMMENT ON COLUMN turn_liveness.stat.launcher_pid IS 'process id of the launcher, which starts the workers of all databases';
COMMENT ON COLUMN turn_liveness.stat.sweep_enabled IS 'false while turn_liveness.sweep = off holds every automatic failure';
COMMENT ON COLUMN turn_liveness.stat.grace IS 'what holds failures back now: sweep off, server start, pause, sweep on again, mass silence; NULL when nothing does';
COMMENT ON COLUMN turn_liveness.stat.grace_until IS 'when that ends for turns with the default deadline; NULL when it has no known end';
COMMENT ON COLUMN turn_liveness.stat.last_sweep IS 'when the worker last looked at turns that might have lapsed';
COMMENT ON COLUMN turn_liveness.stat.last_sweep_ms IS 'how long that took, in milliseconds';
COMMENT ON COLUMN turn_liveness.stat.tick_age IS 'how long ago the worker moved the liveness clock on: a second at most; beyond two the clock stands still; NULL where no worker runs';
COMMENT ON COLUMN turn_liveness.stat.turns_owed IS 'turns that are owed an answer; the view turns tells them by state';
COMMENT ON COLUMN turn_liveness.stat.turns_lapsed IS 'of these, turns whose deadline is past: offered for rescue, about to be failed, or held back by an open transaction, a grace or sweep = off';
COMMENT ON COLUMN turn_liveness.stat.turns_blocked IS 'of these, turns that an open or prepared transaction holds; turns.blocked_by names it';
COMMENT ON COLUMN turn_liveness.stat.next_deadline IS 'no turn lapses before this; in the past while beats extend the turn that would be the next';
COMMENT ON COLUMN turn_liveness.stat.oldest_due_age IS 'how long the reply that waits longest for a gateway has been due (again)';
COMMENT ON COLUMN turn_liveness.stat.leases_used IS 'deployments and named turns that beat in shared memory, in all databases';
COMMENT ON COLUMN turn_liveness.stat.lease_capacity IS 'turn_liveness.lease_capacity: beats that find no room go to the rows';
COMMENT ON COLUMN turn_liveness.stat.attach_used IS 'deployments that are attached to sessions, or whose session''s end is being dealt with, in all databases';
COMMENT ON COLUMN turn_liveness.stat.attach_capacity IS 'turn_liveness.attach_capacity: attach_worker fails beyond it';
COMMENT ON COLUMN turn_liveness.stat.armed IS 'turns armed';
COMMENT ON COLUMN turn_liveness.stat.answered IS 'turns ended by a committed terminal reply';
COMMENT ON COLUMN turn_liveness.stat.failed_unresponsive IS 'turns failed with WORKER_UNRESPONSIVE';
COMMENT ON COLUMN turn_liveness.stat.failed_never_started IS 'turns failed with WORKER_NEVER_STARTED';
COMMENT ON COLUMN turn_liveness.stat.failed_died IS 'turns failed with WORKER_DIED';
COMMENT ON COLUMN turn_liveness.stat.failed_too_long IS 'turns failed with TURN_TOO_LONG';
COMMENT ON COLUMN turn_liveness.stat.failed_wait_expired IS 'turns failed with WAIT_EXPIRED';
COMMENT ON COLUMN turn_liveness.stat.failed_stopped IS 'turns failed by fail_turn or fail_deployment with another code';
COMMENT ON COLUMN turn_liveness.stat.failed_rejected IS 'turns ended by reject_turn with another code';
COMMENT ON COLUMN turn_liveness.stat.failed_provider IS 'turns that lapsed with the code of mark_provider_failed';
COMMENT ON COLUMN turn_liveness.stat.failed_other IS 'turns ended by a worker''s own error, with another code';
COMMENT ON COLUMN turn_liveness.stat.discharged IS 'turns ended by discharge_turn';
COMMENT ON COLUMN turn_liveness.stat.updates IS 'updates stored';
COMMENT ON COLUMN turn_liveness.stat.rearmed IS 'turns armed again while they were owed';
COMMENT ON COLUMN turn_liveness.stat.offered IS 'turns that lapsed, or lost their session, and were offered for rescue';
COMMENT ON COLUMN turn_liveness.stat.rescued IS 'turns that rescue_turns took';
COMMENT ON COLUMN turn_liveness.stat.late IS 'replies that lost their election';
COMMENT ON COLUMN turn_liveness.stat.stale IS 'replies of an earlier holder of the turn';
COMMENT ON COLUMN turn_liveness.stat.unknown IS 'replies for turns that were never armed or are past retention';
COMMENT ON COLUMN turn_liveness.stat.late_dropped IS 'of late, stale and unknown ones, those beyond turn_liveness.max_late_replies or 1 GB: not kept';
COMMENT ON COLUMN turn_liveness.stat.beats IS 'beats';
COMMENT ON COLUMN turn_liveness.stat.beats_in_rows IS 'beats that fell back to the rows of the table';
COMMENT ON COLUMN turn_liveness.stat.sweeps IS 'looks at turns that might have lapsed';
COMMENT ON COLUMN turn_liveness.stat.sweep_errors IS 'rounds of the worker that ended in an error';
COMMENT ON COLUMN turn_liveness.stat.notifications IS 'notifications sent';
COMMENT ON COLUMN turn_liveness.stat.claims IS 'replies claimed';
COMMENT ON COLUMN turn_liveness.stat.acknowledged IS 'replies acknowledged';
COMMENT ON COLUMN turn_liveness.stat.redeliveries IS 'claims of a reply that had been claimed before';
COMMENT ON COLUMN turn_liveness.stat.dead IS 'replies that became dead after max_attempts claims';
COMMENT ON COLUMN turn_liveness.stat.expired_undelivered IS 'due and dead replies removed by undelivered_retention';
COMMENT ON COLUMN turn_liveness.stat.worker_starts IS 'workers started for this database';
COMMENT ON COLUMN turn_liveness.stat.stats_reset IS 'since when the counters count';

/*
 * Administration.
 */

-- Types without values: USAGE on one says that a role was granted this kind.
CREATE TYPE turn_liveness.gateway_grant AS ENUM ();
COMMENT ON TYPE turn_liveness.gateway_grant IS 'internal: USAGE marks the roles of grant_gateway';
CREATE TYPE turn_liveness.worker_grant AS ENUM ();
COMMENT ON TYPE turn_liveness.worker_grant IS 'internal: USAGE marks the roles of grant_worker';
CREATE TYPE turn_liveness.monitor_grant AS ENUM ();
COMMENT ON TYPE turn_liveness.monitor_grant IS 'internal: USAGE marks the roles of grant_monitor';

-- What each kind of role may do stands here and nowhere else.  A role can be of
-- several kinds, and REVOKE knows privileges only: it takes those that no other
-- kind of the role's has.  The statements run with the caller's rights; from
-- another than the owner, GRANT would only warn.
CREATE FUNCTION turn_liveness.change_privileges(verb text, kind text, role regrole)
RETURNS void LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	of_workers CONSTANT text[] := '{start_turn, heartbeat, heartbeats, post_update, suspend_turn,
		resume_turn, commit_terminal_reply, has_live_turn, get_turn, mark_provider_failed,
		clear_provider_failed, attach_worker, detach_worker}';
	of_gateways CONSTANT text[] := '{arm_turn, rescue_turns, fail_turn, fail_deployment, reject_turn,
		discharge_turn, sweep_expired_turns, read_replies, claim_replies, ack_replies,
		release_replies, retry_dead_reply}';
	-- inside the views, where the reader's privilege counts
	of_views CONSTANT text[] := '{clock_now, turn_status, holder, stat_row}';
	-- what a monitor reads shows neither routing nor answers
	of_monitors CONSTANT jsonb := '{
		"turns": ["deployment", "message_id", "conversation_id", "platform", "organization_id", "generation",
			"worker", "armed_at", "first_beat", "last_beat", "deadline", "state", "error_code", "reason", "blocked_by"],
		"replies": ["reply_id", "deployment", "message_ids", "conversation_id", "platform", "organization_id",
			"outcome", "error_code", "decided_by", "generation", "worker", "armed_at", "first_beat", "last_beat",
			"created_at", "state", "attempt", "gateway", "claimed_at", "due_at", "delivered_at", "last_error"],
		"late_replies": ["deployment", "message_ids", "conversation_id", "verdict", "created_at"]}';
	name CONSTANT text := (SELECT quote_ident(rolname) FROM pg_roles WHERE oid = role);
	others text[] := '{}';
	columns text[] := '{}';
	statement text;
BEGIN
	IF role IS NULL OR role = 0 THEN
		RAISE EXCEPTION 'invalid role' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'Neither NULL nor "-", which stands for PUBLIC, is accepted.',
			HINT = 'Create a role for it and make others its members.';
	ELSIF name IS NULL THEN
		RAISE EXCEPTION 'role with OID % does not exist', role::oid USING ERRCODE = 'undefined_object';
	ELSIF NOT (SELECT pg_has_role(extowner, 'USAGE') FROM pg_extension WHERE extname = 'turn_liveness') THEN
		RAISE EXCEPTION 'must be owner of extension turn_liveness' USING ERRCODE = 'insufficient_privilege';
	END IF;
	-- two GRANTs at once on one object would be an internal error
	LOCK TABLE turn_liveness.late_reply IN SHARE UPDATE EXCLUSIVE MODE;

	IF verb = 'REVOKE' THEN
		-- what was granted to the role itself tells, not what it has through others;
		-- has_type_privilege() also sees what was revoked after an old snapshot
		others := ARRAY(
			SELECT k FROM unnest('{gateway, worker, monitor}'::text[]) k
			JOIN pg_type t ON t.oid = format('turn_liveness.%I', k || '_grant')::regtype, aclexplode(t.typacl) a
			WHERE k <> kind AND a.grantee = role AND has_type_privilege(role, t.oid, 'USAGE'));
		-- to revoke SELECT on a view revokes it on the columns, too: those that a
		-- monitor needs, and has now, it gets back
		IF kind = 'gateway' AND 'monitor' = ANY (others) THEN
			columns := ARRAY(
				SELECT format('SELECT (%s) ON %s', string_agg(DISTINCT quote_ident(t.attname), ', '), c.oid::regclass)
				FROM jsonb_object_keys(of_monitors) v
				JOIN pg_class c ON c.oid = format('turn_liveness.%I', v)::regclass
				JOIN pg_attribute t ON t.attrelid = c.oid AND of_monitors -> v ? t.attname, aclexplode(t.attacl) a
				WHERE a.grantee = role AND a.grantor = c.relowner AND a.privilege_type = 'SELECT'
				GROUP BY c.oid);
		END IF;
	END IF;

	FOR statement IN
		SELECT p.privilege FROM (
			VALUES ('{gateway, worker, monitor}'::text[], 'USAGE ON SCHEMA turn_liveness'),
				('{gateway, worker, monitor}', 'USAGE ON TYPE turn_liveness.election'),
				('{gateway}', 'USAGE ON TYPE turn_liveness.arm_result'),
				('{gateway}', 'USAGE ON TYPE turn_liveness.gateway_grant'),
				('{worker}', 'USAGE ON TYPE turn_liveness.worker_grant'),
				('{monitor}', 'USAGE ON TYPE turn_liveness.monitor_grant'),
				('{gateway, worker}', 'EXECUTE ON FUNCTION turn_liveness.' || array_to_string(of_workers, ', turn_liveness.')),
				('{gateway}', 'EXECUTE ON FUNCTION turn_liveness.' || array_to_string(of_gateways, ', turn_liveness.')),
				('{gateway, monitor}', 'EXECUTE ON FUNCTION turn_liveness.' || array_to_string(of_views, ', turn_liveness.')),
				('{gateway, monitor}', 'SELECT ON turn_liveness.stat'),
				('{gateway}', 'SELECT ON turn_liveness.turns, turn_liveness.replies, turn_liveness.late_replies')
			UNION ALL
			SELECT '{monitor}', format('SELECT (%s) ON turn_liveness.%I',
									   (SELECT string_agg(quote_ident(c), ', ') FROM jsonb_array_elements_text(m.value) c), m.key)
			FROM jsonb_each(of_monitors) m) AS p (kinds, privilege)
		WHERE kind = ANY (p.kinds) AND NOT p.kinds && others
	LOOP
		EXECUTE concat_ws(' ', verb, statement, CASE verb WHEN 'GRANT' THEN 'TO' ELSE 'FROM' END, name);
	END LOOP;
	FOREACH statement IN ARRAY columns
	LOOP
		EXECUTE concat_ws(' ', 'GRANT', statement, 'TO', name);
	END LOOP;
END $$;
COMMENT ON FUNCTION turn_liveness.change_privileges(text, text, regrole) IS 'internal: what grant_... and revoke_... do';

CREATE FUNCTION turn_liveness.grant_gateway(role regrole) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$SELECT turn_liveness.change_privileges('GRANT', 'gateway', role)$$;
COMMENT ON FUNCTION turn_liveness.grant_gateway(regrole) IS 'grant the role what a gateway needs: everything but administration, and the views';
CREATE FUNCTION turn_liveness.grant_worker(role regrole) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$SELECT turn_liveness.change_privileges('GRANT', 'worker', role)$$;
COMMENT ON FUNCTION turn_liveness.grant_worker(regrole) IS 'grant the role what a worker needs: start_turn, beats, updates, suspend and resume, its terminal reply, provider failures, has_live_turn, get_turn, attach and detach';
CREATE FUNCTION turn_liveness.grant_monitor(role regrole) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$SELECT turn_liveness.change_privileges('GRANT', 'monitor', role)$$;
COMMENT ON FUNCTION turn_liveness.grant_monitor(regrole) IS 'grant the role the views without payload and routing';
CREATE FUNCTION turn_liveness.revoke_gateway(role regrole) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$SELECT turn_liveness.change_privileges('REVOKE', 'gateway', role)$$;
COMMENT ON FUNCTION turn_liveness.revoke_gateway(regrole) IS 'take back what grant_gateway granted';
CREATE FUNCTION turn_liveness.revoke_worker(role regrole) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$SELECT turn_liveness.change_privileges('REVOKE', 'worker', role)$$;
COMMENT ON FUNCTION turn_liveness.revoke_worker(regrole) IS 'take back what grant_worker granted';
CREATE FUNCTION turn_liveness.revoke_monitor(role regrole) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$SELECT turn_liveness.change_privileges('REVOKE', 'monitor', role)$$;
COMMENT ON FUNCTION turn_liveness.revoke_monitor(regrole) IS 'take back what grant_monitor granted';

CREATE FUNCTION turn_liveness.stat_reset() RETURNS void
AS 'MODULE_PATHNAME', 'turn_liveness_stat_reset' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION turn_liveness.stat_reset() IS 'set the counters of stat to zero';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA turn_liveness FROM PUBLIC;
REVOKE ALL ON TYPE turn_liveness.arm_result, turn_liveness.election, turn_liveness.gateway_grant,
	turn_liveness.worker_grant, turn_liveness.monitor_grant FROM PUBLIC;
