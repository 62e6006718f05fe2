/*
 * turn_liveness over several servers: the functions and views of the extension
 * in a proxy database, which holds nothing itself and sends each call to the
 * node, a server with the extension, where the turn is.  By PL/Proxy; a
 * gateway or a worker calls the proxy as it would call one server.
 *
 * A superuser loads it into an empty database whose encoding is that of the
 * nodes, then names the nodes, here and nowhere else, and grants:
 *
 *	psql -v ON_ERROR_STOP=1 -1 -f "$(pg_config --sharedir)/extension/turn_liveness_proxy.sql"
 *	CREATE SERVER turn_liveness FOREIGN DATA WRAPPER plproxy OPTIONS (
 *		modular_mapping '1', query_timeout '5',
 *		p0 'host=10.0.0.1 dbname=app', p1 'host=10.0.0.2 dbname=app', p2 'host=10.0.0.3 dbname=app');
 *	CREATE USER MAPPING FOR PUBLIC SERVER turn_liveness;	-- the same role there, or OPTIONS (user, password)
 *	SELECT turn_liveness.grant_gateway('my_gateway');		-- at each node, and here
 *
 * The node behind p1 has turn_liveness.node = 1, so that its replies' ids begin
 * at 1 * 2^44: acknowledgements go by the id.  query_timeout is how many
 * seconds a node has for one call.  To load a newer file: DROP SCHEMA
 * turn_liveness, turn_liveness_nodes CASCADE, load it, grant again.
 *
 * The key.  A turn lives on the node that is the hash of what stands before the
 * first '/' of its deployment, modulo the number of nodes.  Its conversation
 * must have the same key, for there its reply is read: arm_turn and reject_turn
 * refuse another with 22023.  Name deployments CONVERSATION or
 * CONVERSATION/anything.
 *
 * What a proxy cannot do, and what is to be known:
 * - A call commits by itself.  A ROLLBACK of the caller's transaction takes
 *   back nothing that a node has done: arm first, then enqueue.
 * - attach_worker, detach_worker (55000) and LISTEN need a session at the node:
 *   turn_liveness.node_of('deployment') and the view nodes say where.  LISTEN
 *   at the proxy is not refused, and hears nothing.
 * - Calls that concern several nodes (heartbeats, reads, claims, acknowledgements,
 *   rescues, sweeps) ask one after the other.  What a node that is down or hangs
 *   would have done is left out with a WARNING; only where no node has answered
 *   they raise.  Rows are in order within a conversation.
 * - An error of a node keeps its SQLSTATE; its message is "... REMOTE ERROR: ...",
 *   its detail and hint have "Remote ..." before them.  A node that cannot be
 *   reached, or has not answered in time, is 08006: it may have done the call.
 * - A cancel or statement_timeout that comes while a node hangs holds that session
 *   until the node goes on, and so does a call that does not fit into the
 *   connection's buffers (some 200 kB for a Unix socket).  Let the proxy's
 *   statement_timeout be longer than query_timeout.
 * - After each error PL/Proxy connects anew to that node.  Host names are looked up
 *   without a limit of time: write addresses.
 */

CREATE EXTENSION IF NOT EXISTS plproxy;

CREATE SCHEMA turn_liveness;
COMMENT ON SCHEMA turn_liveness IS 'turn_liveness over several servers: calls go to the node of the deployment';
CREATE SCHEMA turn_liveness_nodes;
COMMENT ON SCHEMA turn_liveness_nodes IS 'internal: what the functions in turn_liveness call';

CREATE TYPE turn_liveness.arm_result AS ENUM ('armed', 'pending', 'answered');
CREATE TYPE turn_liveness.election AS ENUM ('won', 'lost', 'stale', 'unknown');

/*
 * Which node.
 */

CREATE FUNCTION turn_liveness_nodes.key(name text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashtextextended(split_part(coalesce(name, ''), '/', 1) COLLATE "C", 0) & 2147483647)::integer;
COMMENT ON FUNCTION turn_liveness_nodes.key(text) IS
'hash of what stands before the first ''/'' of a deployment or conversation';

-- of an arm: the reply's readers look where its conversation hashes to
CREATE FUNCTION turn_liveness_nodes.key(deployment text, routing jsonb) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF split_part(routing ->> 'conversationId', '/', 1) <> split_part(deployment, '/', 1) THEN
		RAISE EXCEPTION 'conversation "%" and deployment "%" are not of one node', routing ->> 'conversationId', deployment
			USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Name the deployment CONVERSATION or CONVERSATION/anything.';
	END IF;
	RETURN turn_liveness_nodes.key(deployment);
END $$;
COMMENT ON FUNCTION turn_liveness_nodes.key(text, jsonb) IS
'hash of the deployment; 22023 if the conversation''s is another';

CREATE VIEW turn_liveness.nodes AS
	SELECT substring(o.option_name FROM '[0-9]+$')::integer AS node, o.option_value AS connection
	FROM pg_foreign_server s, pg_options_to_table(s.srvoptions) o
	WHERE s.srvname = 'turn_liveness' AND o.option_name ~ '^p(artition_)?[0-9]+$';
COMMENT ON VIEW turn_liveness.nodes IS 'the nodes, and how the proxy reaches them';

CREATE FUNCTION turn_liveness_nodes.total() RETURNS integer
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	total CONSTANT integer := (SELECT count(*) FROM turn_liveness.nodes);
BEGIN
	IF total = 0 THEN
		RAISE EXCEPTION 'no server "turn_liveness" names the nodes' USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'CREATE SERVER turn_liveness FOREIGN DATA WRAPPER plproxy OPTIONS (p0 ''host=...'', p1 ''host=...'').';
	END IF;
	RETURN total;
END $$;
COMMENT ON FUNCTION turn_liveness_nodes.total() IS 'how many nodes there are';

CREATE FUNCTION turn_liveness.node_of(name text) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE
RETURN turn_liveness_nodes.key(name) % turn_liveness_nodes.total();
COMMENT ON FUNCTION turn_liveness.node_of(text) IS
'the node on which a deployment or conversation lives; the view nodes says how to connect to it';

-- Nodes are doubled in number by copies, the copy of node n being n + their
-- number, so a reply is where its id was given out or on a copy of that node.
CREATE FUNCTION turn_liveness_nodes.holders(reply_id bigint, OUT node integer, OUT moved boolean) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT n, n <> o.origin
	FROM (SELECT t AS total, coalesce(greatest(reply_id >> 44, 0) % t, 0)::integer AS origin
		  FROM turn_liveness_nodes.total() t) o, generate_series(0, o.total - 1) n
	WHERE EXISTS (SELECT FROM generate_series(0, 30) k WHERE o.total % (1 << k) = 0 AND n % (o.total >> k) = o.origin);
END;
COMMENT ON FUNCTION turn_liveness_nodes.holders(bigint) IS
'nodes that may hold a reply: the one that gave out the id, and those that were split off it';

/*
 * One node.  For each of these there is a PL/Proxy function, with an underscore
 * before its name, and a function in C that calls it within the time limit.  In
 * schema turn_liveness are those that a caller calls; in turn_liveness_nodes
 * those of which the functions below are made, which take the node's number.
 */

CREATE TYPE turn_liveness_nodes.reply AS (reply_id bigint, deployment text, message_ids text[], conversation_id text,
	platform text, organization_id text, payload jsonb, outcome text, state text, attempt integer, created_at timestamptz);
CREATE TYPE turn_liveness_nodes.beat AS (deployment text, message_id text);
CREATE TYPE turn_liveness_nodes.rescue AS (deployment text, message_id text, generation integer, routing jsonb, error_code text);
CREATE TYPE turn_liveness_nodes.turn AS (state text, generation integer, worker text, armed_at timestamptz,
	first_beat timestamptz, last_beat timestamptz, deadline timestamptz, ended_at timestamptz, error_code text, reason text,
	decided_by text, reply_id bigint, payload jsonb, last_update jsonb, delivery_state text);

-- the views: what a monitor may read
CREATE TYPE turn_liveness_nodes.turns AS (deployment text, message_id text, conversation_id text, platform text,
	organization_id text, generation integer, worker text, armed_at timestamptz, first_beat timestamptz, last_beat timestamptz,
	deadline timestamptz, state text, error_code text, reason text, blocked_by integer);
CREATE TYPE turn_liveness_nodes.replies AS (reply_id bigint, deployment text, message_ids text[], conversation_id text,
	platform text, organization_id text, outcome text, error_code text, decided_by text, generation integer, worker text,
	armed_at timestamptz, first_beat timestamptz, last_beat timestamptz, created_at timestamptz, state text, attempt integer,
	gateway text, claimed_at timestamptz, due_at timestamptz, delivered_at timestamptz, last_error text);
CREATE TYPE turn_liveness_nodes.late_replies AS (deployment text, message_ids text[], conversation_id text,
	verdict turn_liveness.election, created_at timestamptz);
CREATE TYPE turn_liveness_nodes.stat AS (worker_state text, worker_pid integer, worker_problem text, launcher_pid integer,
	sweep_enabled boolean, grace text, grace_until timestamptz, last_sweep timestamptz, last_sweep_ms double precision, tick_age interval,
	turns_owed bigint, turns_lapsed bigint, turns_blocked bigint, next_deadline timestamptz, oldest_due_age interval,
	leases_used integer, lease_capacity integer, attach_used integer, attach_capacity integer,
	armed bigint, answered bigint, failed_unresponsive bigint, failed_never_started bigint, failed_died bigint,
	failed_too_long bigint, failed_wait_expired bigint, failed_stopped bigint, failed_rejected bigint,
	failed_provider bigint, failed_other bigint, discharged bigint, updates bigint, rearmed bigint, offered bigint,
	rescued bigint, late bigint, stale bigint, unknown bigint, late_dropped bigint, beats bigint, beats_in_rows bigint,
	sweeps bigint, sweep_errors bigint, notifications bigint, claims bigint, acknowledged bigint, redeliveries bigint,
	dead bigint, expired_undelivered bigint, worker_starts bigint, stats_reset timestamptz);

DO $do$
DECLARE
	f record;
	arguments text;
BEGIN
	FOR f IN SELECT * FROM (VALUES
		('turn_liveness', 'arm_turn', $$deployment text, message_id text, routing jsonb DEFAULT '{}', admission interval DEFAULT NULL,
			silence interval DEFAULT NULL, duration interval DEFAULT NULL, rescue interval DEFAULT NULL$$, 'turn_liveness.arm_result',
			'RUN ON turn_liveness_nodes.key(deployment, routing); TARGET turn_liveness.arm_turn'),
		('turn_liveness', 'start_turn', 'deployment text, message_id text, worker text DEFAULT NULL, take_over boolean DEFAULT false', 'integer', NULL),
		('turn_liveness', 'heartbeat', 'deployment text, message_ids text[] DEFAULT NULL, generations integer[] DEFAULT NULL', 'integer', NULL),
		('turn_liveness', 'commit_terminal_reply', 'deployment text, message_ids text[], reply jsonb, generations integer[] DEFAULT NULL', 'turn_liveness.election', NULL),
		('turn_liveness', 'post_update', 'deployment text, message_id text, payload jsonb, generation integer DEFAULT NULL', 'bigint', NULL),
		('turn_liveness', 'suspend_turn', 'deployment text, message_id text, max_wait interval, reason text DEFAULT NULL, generation integer DEFAULT NULL', 'boolean', NULL),
		('turn_liveness', 'resume_turn', 'deployment text, message_id text', 'boolean', NULL),
		('turn_liveness', 'fail_turn', 'deployment text, message_id text, error text, error_code text DEFAULT NULL', 'turn_liveness.election', NULL),
		('turn_liveness', 'fail_deployment', $$deployment text, error text DEFAULT NULL, error_code text DEFAULT 'WORKER_DIED',
			armed_before timestamptz DEFAULT NULL$$, 'integer', NULL),
		('turn_liveness', 'reject_turn', 'deployment text, message_id text, routing jsonb, error text, error_code text DEFAULT NULL', 'turn_liveness.election',
			'RUN ON turn_liveness_nodes.key(deployment, routing); TARGET turn_liveness.reject_turn'),
		('turn_liveness', 'discharge_turn', 'deployment text, message_id text', 'boolean', NULL),
		('turn_liveness', 'has_live_turn', 'deployment text, message_id text', 'boolean', NULL),
		('turn_liveness', 'mark_provider_failed', 'deployment text, error_code text, reason text', 'integer', NULL),
		('turn_liveness', 'clear_provider_failed', 'deployment text', 'integer', NULL),
		('turn_liveness_nodes', 'get_turn', 'deployment text, message_id text', 'SETOF turn_liveness_nodes.turn', NULL),

		('turn_liveness_nodes', 'heartbeats', 'node integer, deployments text[], message_ids text[], generations integer[]', 'SETOF turn_liveness_nodes.beat',
			'RUN ON node; SELECT * FROM turn_liveness.heartbeats(deployments, message_ids, generations)'),
		('turn_liveness_nodes', 'read_replies', 'node integer, conversations text[], after bigint[], max_replies integer', 'SETOF turn_liveness_nodes.reply',
			'RUN ON node; SELECT * FROM turn_liveness.read_replies(conversations, after, max_replies)'),
		('turn_liveness_nodes', 'claim_replies', 'node integer, gateway text, conversations text[], platforms text[], max_replies integer', 'SETOF turn_liveness_nodes.reply',
			'RUN ON node; SELECT * FROM turn_liveness.claim_replies(gateway, conversations, platforms, max_replies)'),
		('turn_liveness_nodes', 'ack_replies', 'node integer, gateway text, reply_ids bigint[]', 'integer',
			'RUN ON node; SELECT turn_liveness.ack_replies(gateway, reply_ids)'),
		('turn_liveness_nodes', 'release_replies', 'node integer, gateway text, reply_ids bigint[], delay interval, error text', 'integer',
			'RUN ON node; SELECT turn_liveness.release_replies(gateway, reply_ids, delay, error)'),
		('turn_liveness_nodes', 'retry_dead_reply', 'node integer, reply_id bigint', 'boolean',
			'RUN ON node; SELECT turn_liveness.retry_dead_reply(reply_id)'),
		('turn_liveness_nodes', 'rescue_turns', 'node integer, max_turns integer', 'SETOF turn_liveness_nodes.rescue',
			'RUN ON node; SELECT * FROM turn_liveness.rescue_turns(max_turns)'),
		('turn_liveness_nodes', 'sweep_expired_turns', 'node integer, max_turns integer', 'integer',
			'RUN ON node; SELECT turn_liveness.sweep_expired_turns(max_turns)'),
		('turn_liveness_nodes', 'stat_reset', 'node integer', 'void', 'RUN ON node; SELECT turn_liveness.stat_reset()'),
		('turn_liveness_nodes', 'number', 'node integer', 'integer',
			'RUN ON node; SELECT coalesce(current_setting(''turn_liveness.node'', true), ''0'')::integer'),
		('turn_liveness_nodes', 'change', 'node integer, verb text, kind text, name text', 'void',
			'RUN ON node; SELECT turn_liveness.change_privileges(verb, kind, name::regrole)')
		) AS f (schema, name, arguments, result, body)
	LOOP
		EXECUTE format('CREATE FUNCTION turn_liveness_nodes.%I(%s) RETURNS %s LANGUAGE plproxy AS %L', '_' || f.name, f.arguments, f.result,
			'CLUSTER ''turn_liveness''; ' ||
			coalesce(f.body, 'RUN ON turn_liveness_nodes.key(deployment); TARGET turn_liveness.' || f.name) || ';');
		EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE C VOLATILE PARALLEL UNSAFE AS %L, %L',
			f.schema, f.name, f.arguments, f.result, '$libdir/turn_liveness', 'turn_liveness_on_node');
	END LOOP;
END $do$;

CREATE FUNCTION turn_liveness.get_turn(deployment text, message_id text,
	OUT state text, OUT generation integer, OUT worker text, OUT armed_at timestamptz,
	OUT first_beat timestamptz, OUT last_beat timestamptz, OUT deadline timestamptz, OUT ended_at timestamptz,
	OUT error_code text, OUT reason text, OUT decided_by text, OUT reply_id bigint, OUT payload jsonb,
	OUT last_update jsonb, OUT delivery_state text)
RETURNS SETOF record LANGUAGE plpgsql STABLE PARALLEL UNSAFE ROWS 1
AS $$
BEGIN
	RETURN QUERY SELECT t.* FROM turn_liveness_nodes.get_turn($1, $2) t;
END $$;

/*
 * Several nodes, one after the other.  What no node would accept is passed to
 * node 0 as it is, which says why.
 */

CREATE FUNCTION turn_liveness.heartbeats(deployments text[], message_ids text[] DEFAULT NULL, generations integer[] DEFAULT NULL,
	OUT deployment text, OUT message_id text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part record;
	answered boolean := false;
BEGIN
	IF deployments IS NULL OR array_ndims(deployments) > 1 OR array_ndims(message_ids) > 1 OR array_ndims(generations) > 1
		OR cardinality(message_ids) <> cardinality(deployments) OR cardinality(generations) <> cardinality(deployments) THEN
		RETURN QUERY SELECT b.* FROM turn_liveness_nodes.heartbeats(0, deployments, message_ids, generations) b;
		RETURN;
	END IF;
	FOR part IN
		SELECT turn_liveness_nodes.key(u.d) % t AS node, array_agg(u.d ORDER BY u.o) AS d,
			   array_agg(u.m ORDER BY u.o) FILTER (WHERE message_ids IS NOT NULL) AS m,
			   array_agg(u.g ORDER BY u.o) FILTER (WHERE generations IS NOT NULL) AS g,
			   row_number() OVER () = count(*) OVER () AS last
		FROM turn_liveness_nodes.total() t, unnest(deployments, message_ids, generations) WITH ORDINALITY u (d, m, g, o)
		GROUP BY 1
	LOOP
		BEGIN
			RETURN QUERY SELECT b.* FROM turn_liveness_nodes.heartbeats(part.node, part.d, part.m, part.g) b;
			answered := true;
		EXCEPTION WHEN OTHERS THEN
			IF part.last AND NOT answered THEN RAISE; END IF;
			RAISE WARNING 'node % did not take % beats: %', part.node, cardinality(part.d), SQLERRM USING ERRCODE = SQLSTATE;
		END;
	END LOOP;
END $$;

-- A reader asks the nodes of its conversations; a claim by platform, all nodes.
-- A conversation is on one node, so what is cut off at max_replies comes later
-- in its order than what is returned.
CREATE FUNCTION turn_liveness_nodes.take(verb text, gateway text, conversations text[], after bigint[], platforms text[], max_replies integer)
RETURNS SETOF turn_liveness_nodes.reply LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part record;
	answered boolean := false;
	room integer := max_replies;
	got integer;
BEGIN
	FOR part IN
		SELECT p.*, row_number() OVER () = count(*) OVER () AS last
		FROM (SELECT s.node, c.list, c.cursors
			  FROM (SELECT t, generate_series(0, t - 1) AS node FROM turn_liveness_nodes.total() t) s
			  LEFT JOIN LATERAL (SELECT array_agg(u.c ORDER BY u.o) AS list,
										array_agg(u.a ORDER BY u.o) FILTER (WHERE take.after IS NOT NULL) AS cursors
								 FROM unnest(conversations, after) WITH ORDINALITY u (c, a, o)
								 WHERE turn_liveness_nodes.key(u.c) % s.t = s.node) c ON true
			  WHERE c.list IS NOT NULL OR cardinality(platforms) > 0
			  ORDER BY random()) p
	LOOP
		EXIT WHEN room <= 0;
		BEGIN
			IF verb = 'read' THEN
				RETURN QUERY SELECT * FROM turn_liveness_nodes.read_replies(part.node, part.list, part.cursors, room);
			ELSE
				RETURN QUERY SELECT * FROM turn_liveness_nodes.claim_replies(part.node, gateway, part.list, platforms, room);
			END IF;
			GET DIAGNOSTICS got = ROW_COUNT;
			room := room - got;
			answered := true;
		EXCEPTION WHEN OTHERS THEN
			IF part.last AND NOT answered THEN RAISE; END IF;
			RAISE WARNING 'node % was not asked for replies: %', part.node, SQLERRM USING ERRCODE = SQLSTATE;
		END;
	END LOOP;
END $$;
COMMENT ON FUNCTION turn_liveness_nodes.take(text, text, text[], bigint[], text[], integer) IS 'internal: what read_replies and claim_replies do';

CREATE FUNCTION turn_liveness.read_replies(conversations text[], after bigint[] DEFAULT NULL, max_replies integer DEFAULT 100,
	OUT reply_id bigint, OUT deployment text, OUT message_ids text[], OUT conversation_id text, OUT platform text,
	OUT organization_id text, OUT payload jsonb, OUT outcome text, OUT state text, OUT attempt integer, OUT created_at timestamptz)
RETURNS SETOF record LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF conversations IS NULL OR array_ndims(conversations) > 1 OR array_ndims(after) > 1
		OR cardinality(after) <> cardinality(conversations) OR max_replies IS NULL OR max_replies < 0 THEN
		RETURN QUERY SELECT r.* FROM turn_liveness_nodes.read_replies(0, conversations, after, max_replies) r;
	ELSE
		RETURN QUERY SELECT r.* FROM turn_liveness_nodes.take('read', NULL, conversations, after, NULL, max_replies) r;
	END IF;
END $$;

CREATE FUNCTION turn_liveness.claim_replies(gateway text, conversations text[] DEFAULT NULL, platforms text[] DEFAULT NULL, max_replies integer DEFAULT 100,
	OUT reply_id bigint, OUT deployment text, OUT message_ids text[], OUT conversation_id text, OUT platform text,
	OUT organization_id text, OUT payload jsonb, OUT outcome text, OUT state text, OUT attempt integer, OUT created_at timestamptz)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF coalesce(conversations, platforms) IS NULL OR array_ndims(conversations) > 1 OR array_ndims(platforms) > 1
		OR max_replies IS NULL OR max_replies < 0 THEN
		RETURN QUERY SELECT r.* FROM turn_liveness_nodes.claim_replies(0, gateway, conversations, platforms, max_replies) r;
	ELSE
		RETURN QUERY SELECT r.* FROM turn_liveness_nodes.take('claim', gateway, conversations, NULL, platforms, max_replies) r;
	END IF;
END $$;

-- The nodes that gave out the ids first; where fewer were counted than are
-- named, those that were split off them.
CREATE FUNCTION turn_liveness_nodes.deliver(verb text, gateway text, reply_ids bigint[], delay interval, error text) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part record;
	answered boolean := false;
	named CONSTANT integer := (SELECT count(DISTINCT id) FROM unnest(reply_ids) id);
	counted integer := 0;
BEGIN
	FOR part IN
		SELECT h.moved, h.node, array_agg(u.id) AS ids,
			   row_number() OVER (PARTITION BY h.moved) = count(*) OVER (PARTITION BY h.moved) AS last
		FROM (SELECT DISTINCT id FROM unnest(reply_ids) id) u, turn_liveness_nodes.holders(u.id) h
		GROUP BY h.moved, h.node ORDER BY h.moved
	LOOP
		EXIT WHEN part.moved AND counted >= named;
		BEGIN
			counted := counted + CASE verb
				WHEN 'ack' THEN turn_liveness_nodes.ack_replies(part.node, gateway, part.ids)
				WHEN 'retry' THEN turn_liveness_nodes.retry_dead_reply(part.node, part.ids[1])::integer
				ELSE turn_liveness_nodes.release_replies(part.node, gateway, part.ids, delay, error) END;
			answered := true;
		EXCEPTION WHEN OTHERS THEN
			IF part.last AND NOT answered THEN RAISE; END IF;
			RAISE WARNING 'node % was not told of % replies: %', part.node, cardinality(part.ids), SQLERRM USING ERRCODE = SQLSTATE;
		END;
	END LOOP;
	RETURN counted;
END $$;
COMMENT ON FUNCTION turn_liveness_nodes.deliver(text, text, bigint[], interval, text) IS 'internal: what ack_replies, release_replies and retry_dead_reply do';

CREATE FUNCTION turn_liveness.ack_replies(gateway text, reply_ids bigint[]) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF reply_ids IS NULL OR array_ndims(reply_ids) > 1 OR cardinality(reply_ids) = 0 THEN
		RETURN turn_liveness_nodes.ack_replies(0, gateway, reply_ids);
	END IF;
	RETURN turn_liveness_nodes.deliver('ack', gateway, reply_ids, NULL, NULL);
END $$;

CREATE FUNCTION turn_liveness.release_replies(gateway text, reply_ids bigint[], delay interval DEFAULT NULL, error text DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF reply_ids IS NULL OR array_ndims(reply_ids) > 1 OR cardinality(reply_ids) = 0 THEN
		RETURN turn_liveness_nodes.release_replies(0, gateway, reply_ids, delay, error);
	END IF;
	RETURN turn_liveness_nodes.deliver('release', gateway, reply_ids, delay, error);
END $$;

CREATE FUNCTION turn_liveness.retry_dead_reply(reply_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN turn_liveness_nodes.deliver('retry', NULL, ARRAY[reply_id], NULL, NULL) > 0;
END $$;

CREATE FUNCTION turn_liveness.rescue_turns(max_turns integer DEFAULT 100,
	OUT deployment text, OUT message_id text, OUT generation integer, OUT routing jsonb, OUT error_code text)
RETURNS SETOF record LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part record;
	answered boolean := false;
	room integer := max_turns;
	got integer;
BEGIN
	FOR part IN
		SELECT p.*, row_number() OVER () = count(*) OVER () AS last
		FROM (SELECT n AS node FROM generate_series(0, turn_liveness_nodes.total() - 1) n ORDER BY random()) p
	LOOP
		BEGIN
			RETURN QUERY SELECT r.* FROM turn_liveness_nodes.rescue_turns(part.node, room) r;
			GET DIAGNOSTICS got = ROW_COUNT;
			room := room - got;
			answered := true;
			EXIT WHEN room <= 0;
		EXCEPTION WHEN OTHERS THEN
			IF part.last AND NOT answered THEN RAISE; END IF;
			RAISE WARNING 'node % was not asked for turns: %', part.node, SQLERRM USING ERRCODE = SQLSTATE;
		END;
	END LOOP;
END $$;

CREATE FUNCTION turn_liveness.sweep_expired_turns(max_turns integer DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part record;
	answered boolean := false;
	failed integer := 0;
BEGIN
	FOR part IN
		SELECT p.*, row_number() OVER () = count(*) OVER () AS last
		FROM (SELECT n AS node FROM generate_series(0, turn_liveness_nodes.total() - 1) n ORDER BY random()) p
	LOOP
		BEGIN
			failed := failed + turn_liveness_nodes.sweep_expired_turns(part.node, max_turns - failed);
			answered := true;
			EXIT WHEN failed >= max_turns;
		EXCEPTION WHEN OTHERS THEN
			IF part.last AND NOT answered THEN RAISE; END IF;
			RAISE WARNING 'node % was not swept: %', part.node, SQLERRM USING ERRCODE = SQLSTATE;
		END;
	END LOOP;
	RETURN failed;
END $$;

/*
 * What needs a session of its own at the node.
 */

CREATE FUNCTION turn_liveness.attach_worker(deployment text) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'attach_worker does not work through a proxy' USING ERRCODE = 'object_not_in_prerequisite_state',
		DETAIL = 'It ties the deployment to a session, and the proxy closes its sessions at the nodes at each error.',
		HINT = format('Call it on a direct connection to node %s (view turn_liveness.nodes), or beat.', turn_liveness.node_of(deployment));
END $$;

CREATE FUNCTION turn_liveness.detach_worker(deployment text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'detach_worker does not work through a proxy' USING ERRCODE = 'object_not_in_prerequisite_state',
		HINT = format('Call it in the session that attached, at node %s.', turn_liveness.node_of(deployment));
END $$;

/*
 * Views: those of the extension, with the node, without routing and payload.
 * Each reads the whole view of every node, whatever the query asks of it.
 */

DO $do$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY '{turns, replies, late_replies, stat}'::text[]
	LOOP
		EXECUTE format($$CREATE FUNCTION turn_liveness_nodes.%I(node integer) RETURNS SETOF turn_liveness_nodes.%I LANGUAGE plproxy
			AS 'CLUSTER ''turn_liveness''; RUN ON node; SELECT %s FROM turn_liveness.%I;'$$, '_' || name, name,
			(SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
			 WHERE attrelid = ('turn_liveness_nodes.' || name)::regclass AND attnum > 0), name);
		EXECUTE format($$CREATE FUNCTION turn_liveness_nodes.%I(node integer) RETURNS SETOF turn_liveness_nodes.%I
			LANGUAGE C VOLATILE PARALLEL UNSAFE AS '$libdir/turn_liveness', 'turn_liveness_on_node'$$, name, name);
		EXECUTE format($$CREATE FUNCTION turn_liveness_nodes.%I() RETURNS TABLE (node integer, line turn_liveness_nodes.%I)
			LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $f$
			BEGIN
				FOR node IN SELECT generate_series(0, turn_liveness_nodes.total() - 1)
				LOOP
					BEGIN
						RETURN QUERY SELECT node, s FROM turn_liveness_nodes.%I(node) s;
					EXCEPTION WHEN OTHERS THEN
						RAISE WARNING 'node %% did not tell: %%', node, SQLERRM USING ERRCODE = SQLSTATE;
					END;
				END LOOP;
			END $f$ $$, name, name, name);
		EXECUTE format('CREATE VIEW turn_liveness.%I AS SELECT v.node, (v.line).* FROM turn_liveness_nodes.%I() v', name, name);
		EXECUTE format('COMMENT ON VIEW turn_liveness.%I IS %L', name, 'the view of every node that answers');
	END LOOP;
END $do$;

/*
 * Administration: at every node, then here.
 */

-- as in the extension: USAGE says that a role was granted this kind
CREATE TYPE turn_liveness_nodes.gateway_grant AS ENUM ();
CREATE TYPE turn_liveness_nodes.worker_grant AS ENUM ();
CREATE TYPE turn_liveness_nodes.monitor_grant AS ENUM ();

CREATE FUNCTION turn_liveness_nodes.change_privileges(verb text, kind text, role regrole) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	of_all CONSTANT text[] := '{key, total, node_of}';
	of_workers CONSTANT text[] := '{start_turn, heartbeat, heartbeats, post_update, suspend_turn, resume_turn,
		commit_terminal_reply, has_live_turn, get_turn, mark_provider_failed, clear_provider_failed, attach_worker, detach_worker}';
	of_views CONSTANT text[] := '{turns, replies, late_replies, stat}';
	of_gateways CONSTANT text[] := '{arm_turn, rescue_turns, fail_turn, fail_deployment, reject_turn,
		discharge_turn, sweep_expired_turns, read_replies, claim_replies, ack_replies, release_replies, retry_dead_reply,
		take, deliver, holders}';
	name CONSTANT text := (SELECT quote_ident(rolname) FROM pg_roles WHERE oid = role);
	others text[] := '{}';
	statement text;
	node integer;
BEGIN
	IF name IS NULL THEN
		RAISE EXCEPTION 'invalid role' USING ERRCODE = CASE WHEN role <> 0 THEN 'undefined_object' ELSE 'invalid_parameter_value' END,
			HINT = 'Create a role for it, at the proxy and at every node.';
	ELSIF NOT (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'turn_liveness') THEN
		RAISE EXCEPTION 'must be owner of schema turn_liveness' USING ERRCODE = 'insufficient_privilege';
	END IF;
	FOR node IN SELECT generate_series(0, turn_liveness_nodes.total() - 1)
	LOOP
		IF turn_liveness_nodes.number(node) <> node THEN
			RAISE EXCEPTION 'the server behind p% has turn_liveness.node = %', node, turn_liveness_nodes.number(node)
				USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Acknowledgements go by the numbers in the ids: change its setting, or the order of the nodes in the server "turn_liveness".';
		END IF;
		PERFORM turn_liveness_nodes.change(node, verb, kind, name);
	END LOOP;

	-- a revoke takes what no other kind of the role's has
	IF verb = 'REVOKE' THEN
		others := ARRAY(
			SELECT k FROM unnest('{gateway, worker, monitor}'::text[]) k
			JOIN pg_type t ON t.oid = format('turn_liveness_nodes.%I', k || '_grant')::regtype, aclexplode(t.typacl) a
			WHERE k <> kind AND a.grantee = role);
	END IF;
	FOR statement IN
		SELECT p.privilege FROM (
			VALUES ('{gateway, worker, monitor}'::text[], 'USAGE ON SCHEMA turn_liveness, turn_liveness_nodes'),
				('{gateway, worker, monitor}', 'USAGE ON FOREIGN SERVER turn_liveness'),
				('{gateway, worker, monitor}', 'USAGE ON TYPE turn_liveness.election'),
				('{gateway}', 'USAGE ON TYPE turn_liveness.arm_result'),
				('{gateway}', 'USAGE ON TYPE turn_liveness_nodes.gateway_grant'),
				('{worker}', 'USAGE ON TYPE turn_liveness_nodes.worker_grant'),
				('{monitor}', 'USAGE ON TYPE turn_liveness_nodes.monitor_grant'),
				('{gateway, worker, monitor}', 'SELECT ON turn_liveness.nodes'),
				('{gateway, monitor}', 'SELECT ON turn_liveness.turns, turn_liveness.replies, turn_liveness.late_replies, turn_liveness.stat')
			UNION ALL
			SELECT f.kinds, 'EXECUTE ON FUNCTION ' || p.oid::regprocedure
			FROM (VALUES ('{gateway, worker, monitor}'::text[], of_all), ('{gateway, worker}', of_workers),
				('{gateway, monitor}', of_views), ('{gateway}', of_gateways)) AS f (kinds, functions)
			JOIN pg_proc p ON p.proname = ANY (f.functions)
				AND p.pronamespace IN ('turn_liveness'::regnamespace, 'turn_liveness_nodes'::regnamespace)) AS p (kinds, privilege)
		WHERE kind = ANY (p.kinds) AND NOT p.kinds && others
	LOOP
		EXECUTE concat_ws(' ', verb, statement, CASE verb WHEN 'GRANT' THEN 'TO' ELSE 'FROM' END, name);
	END LOOP;
END $$;
COMMENT ON FUNCTION turn_liveness_nodes.change_privileges(text, text, regrole) IS 'internal: what grant_... and revoke_... do';

DO $do$
DECLARE
	f record;
BEGIN
	FOR f IN SELECT * FROM unnest('{grant, revoke}'::text[]) AS v (verb), unnest('{gateway, worker, monitor}'::text[]) AS k (kind)
	LOOP
		EXECUTE format('CREATE FUNCTION turn_liveness.%I(role regrole) RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE AS %L',
			f.verb || '_' || f.kind, format('SELECT turn_liveness_nodes.change_privileges(%L, %L, role)', upper(f.verb), f.kind));
	END LOOP;
END $do$;

CREATE FUNCTION turn_liveness.stat_reset() RETURNS void LANGUAGE sql VOLATILE PARALLEL UNSAFE
AS $$SELECT turn_liveness_nodes.stat_reset(n) FROM generate_series(0, turn_liveness_nodes.total() - 1) n$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA turn_liveness, turn_liveness_nodes FROM PUBLIC;
REVOKE ALL ON TYPE turn_liveness.arm_result, turn_liveness.election, turn_liveness_nodes.gateway_grant,
	turn_liveness_nodes.worker_grant, turn_liveness_nodes.monitor_grant FROM PUBLIC;

DO $do$
DECLARE
	f record;
BEGIN
	FOR f IN
		SELECT p.oid::regprocedure::text AS signature, p.pronamespace = 'turn_liveness'::regnamespace AS public
		FROM pg_proc p
		WHERE p.pronamespace IN ('turn_liveness'::regnamespace, 'turn_liveness_nodes'::regnamespace)
		  AND obj_description(p.oid, 'pg_proc') IS NULL
	LOOP
		EXECUTE format('COMMENT ON FUNCTION %s IS %L', f.signature,
			CASE WHEN f.public THEN 'as in the extension, at the node or nodes that it concerns' ELSE 'internal: at one node, or at all' END);
	END LOOP;
END $do$;
