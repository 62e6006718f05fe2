--
-- read, claim, acknowledge, release, dead, retention.
--
\pset null '(null)'
-- retention works in batches: what other tests left would go first
TRUNCATE turn_liveness.turn, turn_liveness.reply, turn_liveness.delivery, turn_liveness.late_reply;
-- ids are shown by what is in them
CREATE FUNCTION tl_test.reply(content text) RETURNS bigint LANGUAGE sql STABLE AS $$
	SELECT reply_id FROM turn_liveness.replies WHERE payload ->> 'content' = content
$$;
CREATE VIEW tl_test.delivery AS
	SELECT payload ->> 'content' AS content, state, attempt, gateway, claimed_at IS NOT NULL AS claimed,
		   tl_test.ahead(due_at) AS due, delivered_at IS NOT NULL AS delivered, last_error
	  FROM turn_liveness.replies WHERE deployment LIKE 'dv-%' ORDER BY reply_id;
CREATE FUNCTION tl_test.answer(deployment text, conversation text, platform text, content text) RETURNS turn_liveness.election LANGUAGE plpgsql AS $$
BEGIN
	PERFORM turn_liveness.arm_turn(deployment, content, jsonb_build_object('conversationId', conversation, 'platform', platform, 'organizationId', 'org'));
	RETURN turn_liveness.commit_terminal_reply(deployment, ARRAY[content], jsonb_build_object('content', content));
END $$;

SELECT tl_test.answer('dv-1', 'dv-A', 'dv-slack', 'a1'), tl_test.answer('dv-1', 'dv-B', 'dv-slack', 'b1'),
	   tl_test.answer('dv-1', 'dv-A', 'dv-slack', 'a2'), tl_test.answer('dv-1', 'dv-C', 'dv-telegram', 'c1'),
	   tl_test.answer('dv-1', 'dv-A', 'dv-slack', 'a3');

-- read: these conversations, oldest first, past each one's own cursor; it takes nothing
SELECT deployment, message_ids, conversation_id, platform, organization_id, tl_test.body(payload) AS payload, state, attempt, created_at <= clock_timestamp() AS created
  FROM turn_liveness.read_replies(ARRAY['dv-A']);
SELECT payload ->> 'content' AS content, state FROM turn_liveness.read_replies(ARRAY['dv-A', 'dv-B', 'dv-none']);
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['dv-A', 'dv-B'], ARRAY[tl_test.reply('a2'), NULL]);
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['dv-B', 'dv-A'], ARRAY[tl_test.reply('b1'), tl_test.reply('a1')]);
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['dv-A'], ARRAY[tl_test.reply('a3')]);
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['dv-A', 'dv-C'], NULL, 2);
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['dv-A', 'dv-A']);
SELECT payload ->> 'content' AS content FROM turn_liveness.read_replies(ARRAY['dv-A', 'dv-A'], ARRAY[tl_test.reply('a2'), tl_test.reply('a1')]) LIMIT 10;
SELECT count(*) FROM turn_liveness.read_replies(ARRAY[]::text[]);
SELECT array_agg(reply_id ORDER BY reply_id) = array_agg(reply_id) AS oldest_first FROM turn_liveness.read_replies(ARRAY['dv-C', 'dv-B', 'dv-A']);
BEGIN READ ONLY;
SELECT count(*) FROM turn_liveness.read_replies(ARRAY['dv-A']);
COMMIT;
SELECT * FROM tl_test.delivery;

-- claim: due ones, by conversation or by platform
SELECT count(*) FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-none'], ARRAY['whatsapp']);
SELECT count(*) FROM turn_liveness.claim_replies('gw-1', ARRAY[]::text[]);
SELECT count(*) FROM turn_liveness.claim_replies('gw-1', ARRAY[]::text[], ARRAY[]::text[]);
SELECT deployment, message_ids, conversation_id, platform, organization_id, tl_test.body(payload) AS payload, state, attempt, created_at <= clock_timestamp() AS created
  FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-B'], ARRAY['dv-telegram']);
SELECT payload ->> 'content' AS content FROM turn_liveness.claim_replies('gw-1', platforms => ARRAY['dv-telegram', 'dv-slack'], max_replies => 2);
SELECT * FROM tl_test.delivery;
-- what is claimed is not due to another, but can be read
SELECT payload ->> 'content' AS content FROM turn_liveness.claim_replies('gw-2', ARRAY['dv-A', 'dv-B', 'dv-C']);
SELECT payload ->> 'content' AS content, state, attempt FROM turn_liveness.read_replies(ARRAY['dv-A']);

-- acknowledge: what this gateway holds, and due ones that no gateway holds
SELECT turn_liveness.ack_replies('gw-2', ARRAY[tl_test.reply('a1')]);
SELECT turn_liveness.ack_replies('gw-1', ARRAY[tl_test.reply('a1'), tl_test.reply('a1'), 0, -1, NULL, 9223372036854775807]);
SELECT turn_liveness.ack_replies('gw-1', ARRAY[tl_test.reply('a1')]);
SELECT turn_liveness.ack_replies('gw-1', ARRAY[]::bigint[]);
SELECT tl_test.answer('dv-1', 'dv-A', 'dv-slack', 'a4');
SELECT turn_liveness.ack_replies('gw-9', ARRAY[tl_test.reply('a4')]);
SELECT * FROM tl_test.delivery;
-- a delivered one is read still, in every tab, also when nothing is left of its time as a due one
SELECT payload ->> 'content' AS content, state FROM turn_liveness.read_replies(ARRAY['dv-A']);
VACUUM (INDEX_CLEANUP on) turn_liveness.delivery;
SELECT payload ->> 'content' AS content, state FROM turn_liveness.read_replies(ARRAY['dv-A']);

-- a second row of a reply, written by hand: no two deliveries
BEGIN;
INSERT INTO turn_liveness.delivery (reply_id, conversation_id, platform, is_open, attempt, due_at, delivered_at)
SELECT reply_id, conversation_id, platform, false, 1, due_at, now() FROM turn_liveness.delivery WHERE reply_id = tl_test.reply('a2');
SELECT tl_test.code($$SELECT turn_liveness.ack_replies('gw-1', ARRAY[tl_test.reply('a2')])$$);
ROLLBACK;

-- a claim that is not acknowledged is due again after claim_timeout (30 s)
SELECT tl_test.advance('20 s');
SELECT count(*) FROM turn_liveness.claim_replies('gw-2', ARRAY['dv-A', 'dv-B', 'dv-C']);
SELECT tl_test.advance('15 s');
SELECT content, state, attempt FROM tl_test.delivery;
SELECT payload ->> 'content' AS content, attempt FROM turn_liveness.claim_replies('gw-2', ARRAY['dv-A', 'dv-B']);
-- a stale gateway's acknowledgement counts nothing
SELECT turn_liveness.ack_replies('gw-1', ARRAY[tl_test.reply('a2'), tl_test.reply('b1'), tl_test.reply('a3')]);
SELECT turn_liveness.release_replies('gw-1', ARRAY[tl_test.reply('a2'), tl_test.reply('b1')]);
SELECT turn_liveness.ack_replies('gw-2', ARRAY[tl_test.reply('a2'), tl_test.reply('a3')]);
-- timed out and not taken: its last holder, or any other, may say that it was delivered
SELECT turn_liveness.ack_replies('gw-1', ARRAY[tl_test.reply('c1')]);
SELECT * FROM tl_test.delivery;

-- release: due again after a delay
SELECT turn_liveness.release_replies('gw-2', ARRAY[tl_test.reply('b1'), tl_test.reply('a2')], '10 s', 'socket closed');
SELECT turn_liveness.release_replies('gw-2', ARRAY[tl_test.reply('b1')], '10 s', 'not held any more');
SELECT * FROM tl_test.delivery WHERE content = 'b1';
SELECT count(*) FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-B']);
SELECT tl_test.advance('11 s');
SELECT payload ->> 'content' AS content, attempt FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-B']);
-- at once
SELECT turn_liveness.release_replies('gw-1', ARRAY[tl_test.reply('b1')], '0');
SELECT payload ->> 'content' AS content, attempt FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-B']);
SELECT turn_liveness.release_replies('gw-1', ARRAY[]::bigint[]);
SELECT tl_test.try($$SELECT turn_liveness.release_replies('gw-1', ARRAY[1::bigint], '25 h')$$);
SELECT tl_test.try(format($$SELECT turn_liveness.release_replies('gw-1', ARRAY[%s], '24 h')$$, tl_test.reply('b1')));
SELECT tl_test.ahead(due_at) FROM turn_liveness.replies WHERE reply_id = tl_test.reply('b1');
-- delayed, it is due by the view, and no gateway holds it: one whose stream has shown it may say so
SELECT payload ->> 'content' AS content, state FROM turn_liveness.read_replies(ARRAY['dv-B']);
BEGIN;
SELECT turn_liveness.ack_replies('gw-2', ARRAY[tl_test.reply('b1')]);
SELECT * FROM tl_test.delivery WHERE content = 'b1';
SELECT turn_liveness.release_replies('gw-1', ARRAY[tl_test.reply('b1')]);
ROLLBACK;

-- without a delay: retry_delay, doubled with every attempt, up to 5 min
SET turn_liveness.retry_delay = '10 s';
SELECT tl_test.answer('dv-2', 'dv-D', 'dv-slack', 'd1');
CREATE FUNCTION tl_test.attempt() RETURNS text LANGUAGE plpgsql AS $$
DECLARE n integer; due integer;
BEGIN
	SELECT attempt INTO n FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-D']);
	PERFORM turn_liveness.release_replies('gw-1', ARRAY[tl_test.reply('d1')], error => 'try ' || n);
	SELECT tl_test.ahead(due_at) INTO due FROM turn_liveness.replies WHERE reply_id = tl_test.reply('d1');
	PERFORM tl_test.advance(make_interval(secs => due + 1));
	RETURN format('attempt %s, then %s s', n, due);
END $$;
SELECT tl_test.attempt() FROM generate_series(1, 8);
RESET turn_liveness.retry_delay;
SELECT state, attempt, last_error FROM tl_test.delivery WHERE content = 'd1';

-- after max_attempts it is dead: kept, seen, never claimed; and can be put back
SET turn_liveness.max_attempts = 10;
SELECT tl_test.attempt();
SELECT payload ->> 'content' AS content, attempt FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-D']);
SELECT turn_liveness.release_replies('gw-1', ARRAY[tl_test.reply('d1')], '0', 'the last one');
SELECT state FROM tl_test.delivery WHERE content = 'd1';
SELECT count(*) FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-D']);
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.delivery WHERE content = 'd1';
SELECT payload ->> 'content' AS content, state FROM turn_liveness.read_replies(ARRAY['dv-D']);
SELECT turn_liveness.ack_replies('gw-1', ARRAY[tl_test.reply('d1')]);
SELECT turn_liveness.retry_dead_reply(tl_test.reply('d1'));
SELECT turn_liveness.retry_dead_reply(tl_test.reply('d1')), turn_liveness.retry_dead_reply(tl_test.reply('a1')), turn_liveness.retry_dead_reply(0);
SELECT * FROM tl_test.delivery WHERE content = 'd1';
SELECT payload ->> 'content' AS content FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-D']);
SELECT turn_liveness.ack_replies('gw-1', ARRAY[tl_test.reply('d1')]);
-- dead by time-out too
SELECT tl_test.answer('dv-2', 'dv-E', 'dv-slack', 'e1');
SET turn_liveness.max_attempts = 1;
SELECT payload ->> 'content' AS content FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-E']);
SELECT tl_test.advance('31 s');
SELECT count(*) FROM turn_liveness.claim_replies('gw-2', ARRAY['dv-E']);
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.delivery WHERE content = 'e1';
RESET turn_liveness.max_attempts;
-- waiting for a gateway costs no attempt
SELECT tl_test.answer('dv-2', 'dv-F', 'dv-slack', 'f1');
SELECT tl_test.advance('1 h');
SELECT turn_liveness.sweep_expired_turns();
SELECT state, attempt FROM tl_test.delivery WHERE content = 'f1';

-- one statement moves replies into the caller's own queue, once
SELECT tl_test.answer('dv-3', 'dv-M' || i % 3, 'relay', 'move ' || i) FROM generate_series(1, 7) i;
CREATE TEMP TABLE queue (reply_id bigint PRIMARY KEY, payload jsonb);
WITH claimed AS MATERIALIZED (SELECT * FROM turn_liveness.claim_replies('mover', platforms => ARRAY['relay'], max_replies => 5)),
	 moved AS (INSERT INTO queue SELECT reply_id, payload FROM claimed RETURNING reply_id)
SELECT turn_liveness.ack_replies('mover', (SELECT array_agg(reply_id) FROM moved));
WITH claimed AS MATERIALIZED (SELECT * FROM turn_liveness.claim_replies('mover', platforms => ARRAY['relay'], max_replies => 5)),
	 moved AS (INSERT INTO queue SELECT reply_id, payload FROM claimed RETURNING reply_id)
SELECT turn_liveness.ack_replies('mover', (SELECT array_agg(reply_id) FROM moved));
WITH claimed AS MATERIALIZED (SELECT * FROM turn_liveness.claim_replies('mover', platforms => ARRAY['relay'], max_replies => 5)),
	 moved AS (INSERT INTO queue SELECT reply_id, payload FROM claimed RETURNING reply_id)
SELECT turn_liveness.ack_replies('mover', (SELECT coalesce(array_agg(reply_id), '{}') FROM moved));
SELECT payload ->> 'content' AS content FROM queue ORDER BY reply_id;
SELECT content, state, attempt, gateway FROM tl_test.delivery WHERE content LIKE 'move %';
-- a move that fails takes nothing
SELECT tl_test.answer('dv-3', 'dv-M0', 'relay', 'move 8');
SELECT tl_test.code($$INSERT INTO queue SELECT tl_test.reply('move 1'), payload FROM turn_liveness.claim_replies('mover', platforms => ARRAY['relay'])$$);
SELECT content, state, attempt, gateway FROM tl_test.delivery WHERE content = 'move 8';
-- claim and acknowledge, or release, inside one transaction and rolled back
BEGIN;
SELECT count(*) FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-M0']);
SELECT turn_liveness.ack_replies('gw-1', ARRAY[tl_test.reply('move 8')]);
SELECT state FROM turn_liveness.replies WHERE reply_id = tl_test.reply('move 8');
ROLLBACK;
SELECT content, state, attempt, gateway FROM tl_test.delivery WHERE content = 'move 8';

-- errors of delivery: claimed, acknowledged and read like answers
SELECT turn_liveness.arm_turn('dv-4', 'm1', '{"conversationId": "dv-G", "platform": "dv-push"}');
SELECT turn_liveness.fail_turn('dv-4', 'm1', 'it broke', 'BROKEN');
SELECT payload ->> 'errorCode' AS code FROM turn_liveness.read_replies(ARRAY['dv-G']);
SELECT payload ->> 'errorCode' AS code, platform FROM turn_liveness.claim_replies('gw-1', platforms => ARRAY['dv-push']);

-- paging with the last id as cursor: each reply once, in order, 100 at a time unless told
SELECT count(tl_test.answer('dv-7', 'dv-P' || i % 2, 'dv-page', 'page ' || i)) FROM generate_series(1, 250) i;
SELECT count(*), count(DISTINCT reply_id) FROM turn_liveness.read_replies(ARRAY['dv-P0', 'dv-P1']);
CREATE FUNCTION tl_test.page(size integer) RETURNS TABLE (pages bigint, replies bigint, again bigint, in_order boolean) LANGUAGE plpgsql AS $$
DECLARE
	last bigint[] := ARRAY[NULL, NULL]; got bigint[] := '{}'; page bigint[]; r record;
BEGIN
	pages := 0;
	LOOP
		page := '{}';
		FOR r IN SELECT * FROM turn_liveness.read_replies(ARRAY['dv-P0', 'dv-P1'], last, size) LOOP
			page := page || r.reply_id;
			last[1 + right(r.conversation_id, 1)::integer] := r.reply_id;
		END LOOP;
		EXIT WHEN page = '{}';
		pages := pages + 1;
		got := got || page;
	END LOOP;
	SELECT count(DISTINCT g), count(*) - count(DISTINCT g), array_agg(g ORDER BY g) = array_agg(g ORDER BY o) INTO replies, again, in_order FROM unnest(got) WITH ORDINALITY AS u (g, o);
	RETURN NEXT;
END $$;
SELECT * FROM tl_test.page(100);
SELECT * FROM tl_test.page(7);
SELECT * FROM tl_test.page(1000);
SELECT count(*) FROM turn_liveness.claim_replies('gw-1', platforms => ARRAY['dv-page']);
SELECT count(*) FROM turn_liveness.claim_replies('gw-2', ARRAY['dv-P0', 'dv-P1'], ARRAY['dv-page'], 1000);
SELECT turn_liveness.ack_replies('gw-2', array_agg(reply_id)), turn_liveness.ack_replies('gw-1', array_agg(reply_id)) FROM turn_liveness.read_replies(ARRAY['dv-P0', 'dv-P1'], NULL, 1000);

-- what a call needs
SELECT tl_test.try($$SELECT turn_liveness.claim_replies('gw-1')$$);
SELECT tl_test.try($$SELECT turn_liveness.claim_replies(NULL, ARRAY['x'])$$);
SELECT tl_test.try($$SELECT turn_liveness.claim_replies('', ARRAY['x'])$$);
SELECT tl_test.try($$SELECT turn_liveness.claim_replies(repeat('g', 256), ARRAY['x'])$$);
SELECT tl_test.try($$SELECT turn_liveness.ack_replies(NULL, ARRAY[1::bigint])$$);
SELECT tl_test.try($$SELECT turn_liveness.release_replies('', ARRAY[1::bigint])$$);
SELECT tl_test.try($$SELECT turn_liveness.release_replies('gw-1', ARRAY[1::bigint], '-1 s')$$);
SELECT tl_test.try($$SELECT turn_liveness.read_replies(ARRAY['a', 'b'], ARRAY[1::bigint])$$);
SELECT tl_test.try($$SELECT turn_liveness.read_replies(NULL)$$);
SELECT tl_test.try($$SELECT turn_liveness.read_replies(ARRAY['dv-A'], NULL, -1)$$);
SELECT tl_test.try($$SELECT turn_liveness.claim_replies('gw-1', ARRAY['dv-A'], NULL, -1)$$);

-- retention: delivered, discharged and late ones after 24 h, due and dead ones after 7 days
SELECT turn_liveness.arm_turn('dv-5', 'm1'), turn_liveness.arm_turn('dv-5', 'm2');
SELECT turn_liveness.discharge_turn('dv-5', 'm1');
-- a restored row may list a turn twice
UPDATE turn_liveness.reply SET message_ids = '{m1,m1}' WHERE deployment = 'dv-5';
SELECT turn_liveness.commit_terminal_reply('dv-5', ARRAY['m2'], '{"content": "never fetched"}');
SELECT turn_liveness.commit_terminal_reply('dv-5', ARRAY['m2'], '{"content": "late"}');
SELECT tl_test.advance('23 h');
SELECT turn_liveness.sweep_expired_turns();
SELECT count(*) FROM turn_liveness.replies WHERE state = 'delivered' AND deployment LIKE 'dv-%';
SELECT message_ids, outcome FROM turn_liveness.replies WHERE deployment = 'dv-5' ORDER BY 1;
SELECT count(*) FROM turn_liveness.late_replies WHERE deployment = 'dv-5';
SELECT tl_test.advance('2 h');
SELECT turn_liveness.sweep_expired_turns();
SELECT deployment, payload ->> 'content' AS content, state FROM turn_liveness.replies WHERE deployment LIKE 'dv-%' ORDER BY reply_id;
SELECT count(*) FROM turn_liveness.late_replies WHERE deployment = 'dv-5';
-- the record is gone, so is the turn: unknown, and it could be armed
SELECT turn_liveness.commit_terminal_reply('dv-5', ARRAY['m1'], '{"content": "very late"}');
SELECT turn_liveness.arm_turn('dv-5', 'm1'), turn_liveness.arm_turn('dv-5', 'm2');
SELECT turn_liveness.discharge_turn('dv-5', 'm1');
SELECT tl_test.advance('6 days');
SELECT turn_liveness.sweep_expired_turns();
SELECT count(*) FROM turn_liveness.replies WHERE deployment LIKE 'dv-%' AND state IN ('due', 'dead', 'claimed');
SELECT turn_liveness.commit_terminal_reply('dv-5', ARRAY['m2'], '{"content": "after all"}');
SELECT count(*) FROM turn_liveness.turns;
-- not one that a gateway is sending
SELECT turn_liveness.arm_turn('dv-6', 'm1'), turn_liveness.commit_terminal_reply('dv-6', ARRAY['m1'], '{"content": "old"}');
SELECT tl_test.advance('8 days');
SELECT payload ->> 'content' AS content FROM turn_liveness.claim_replies('gw-1', ARRAY['dv-6']);
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.ack_replies('gw-1', array_agg(reply_id)) FROM turn_liveness.read_replies(ARRAY['dv-6']);
