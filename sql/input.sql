--
-- What is accepted, and what is refused before anything is written.
--
\pset null '(null)'

-- valid: a colon in either part of the key
SELECT turn_liveness.arm_turn('in:1', 'm:1'), turn_liveness.arm_turn('in', '1:m:1'), turn_liveness.arm_turn(':', ':');
SELECT turn_liveness.heartbeat('in:1', ARRAY['m:1']), turn_liveness.heartbeat('in', ARRAY['m:1']), turn_liveness.heartbeat(':', ARRAY[':']);
SELECT turn_liveness.commit_terminal_reply('in', ARRAY['1:m:1'], '{"content": ":"}');
SELECT turn_liveness.has_live_turn('in:1', 'm:1'), turn_liveness.has_live_turn('in', '1:m:1');
SELECT turn_liveness.commit_terminal_reply('in:1', ARRAY['m:1'], '{}'), turn_liveness.discharge_turn(':', ':');
-- blanks, quotes, backslashes, newlines, and names that differ in case only
SELECT turn_liveness.arm_turn(E' in''"\\\n\t', E' m{},"\\\n'), turn_liveness.arm_turn('in-case', 'm'), turn_liveness.arm_turn('IN-CASE', 'm'), turn_liveness.arm_turn('in-case', 'M');
SELECT turn_liveness.commit_terminal_reply(E' in''"\\\n\t', ARRAY[E' m{},"\\\n'], '{"content": "odd"}');
SELECT deployment = E' in''"\\\n\t' AS deployment, message_ids = ARRAY[E' m{},"\\\n'] AS message_ids, payload ->> 'messageId' = E' m{},"\\\n' AS message_id
  FROM turn_liveness.replies WHERE payload ->> 'content' = 'odd';
SELECT turn_liveness.fail_deployment('in-case'), turn_liveness.fail_deployment('IN-CASE');
-- multibyte, up to 255 bytes
SELECT octet_length(repeat('ü', 127) || 'x'), octet_length(repeat('😀', 63) || 'abc');
SELECT turn_liveness.arm_turn(repeat('ü', 127) || 'x', repeat('😀', 63) || 'abc', jsonb_build_object('conversationId', repeat('漢', 85)));
SELECT turn_liveness.heartbeat(repeat('ü', 127) || 'x', ARRAY[repeat('😀', 63) || 'abc']);
SELECT count(*) FROM turn_liveness.heartbeats(ARRAY[repeat('ü', 127) || 'x'], ARRAY[repeat('😀', 63) || 'abc']);
SELECT turn_liveness.commit_terminal_reply(repeat('ü', 127) || 'x', ARRAY[repeat('😀', 63) || 'abc'], '{"content": "ü漢😀"}');
SELECT length(deployment), length(message_ids[1]), length(conversation_id), payload ->> 'content' AS content
  FROM turn_liveness.read_replies(ARRAY[repeat('漢', 85)]);
-- 255 bytes of one
SELECT turn_liveness.arm_turn(repeat('d', 255), repeat('m', 255), jsonb_build_object('conversationId', repeat('c', 255)));
SELECT turn_liveness.fail_deployment(repeat('d', 255));
SELECT count(*) FROM turn_liveness.claim_replies(repeat('g', 255), ARRAY[repeat('c', 255)]);
-- duplicate ids are counted once
SELECT turn_liveness.arm_turn('in-dup', 'm1'), turn_liveness.arm_turn('in-dup', 'm2');
SELECT turn_liveness.heartbeat('in-dup', ARRAY['m1', 'm1', 'm2', 'm1']);
SELECT turn_liveness.commit_terminal_reply('in-dup', ARRAY['m2', 'm1', 'm2', 'm1'], '{"content": "dup"}');
SELECT count(*), max(cardinality(message_ids)) AS ids, max(jsonb_array_length(payload -> 'processedMessageIds')) AS listed FROM turn_liveness.replies WHERE deployment = 'in-dup';
-- 10,000 ids in one call
SELECT count(turn_liveness.arm_turn('in-many', 'm' || i)) FROM generate_series(1, 10000) i;
SELECT turn_liveness.heartbeat('in-many'), turn_liveness.heartbeat('in-many', ARRAY(SELECT 'm' || i FROM generate_series(1, 10000) i));
SELECT turn_liveness.commit_terminal_reply('in-many', ARRAY(SELECT 'm' || i FROM generate_series(10000, 1, -1) i), '{"content": "many"}');
SELECT cardinality(message_ids), jsonb_array_length(payload -> 'processedMessageIds') AS listed FROM turn_liveness.replies WHERE deployment = 'in-many';
SELECT turn_liveness.commit_terminal_reply('in-many', ARRAY(SELECT 'm' || i FROM generate_series(1, 10000) i), '{"content": "many"}');
SELECT turn_liveness.heartbeat('in-many'), turn_liveness.heartbeat('in-many', ARRAY(SELECT 'm' || i FROM generate_series(1, 10000) i));
-- a reply of almost 1 MB, a routing of almost 64 kB
SELECT turn_liveness.arm_turn('in-big', 'm1', jsonb_build_object('blob', repeat('r', 65000)));
SELECT turn_liveness.commit_terminal_reply('in-big', ARRAY['m1'], jsonb_build_object('content', repeat('x', 1000000)));
SELECT length(payload ->> 'content') FROM turn_liveness.read_replies(ARRAY['in-big']);
-- a binary-looking, deep answer survives as it was
SELECT turn_liveness.arm_turn('in-deep', 'm1');
SELECT turn_liveness.commit_terminal_reply('in-deep', ARRAY['m1'], '{"a": [1, 2.50, 1e400, null, true, {"b": "\u0001\ud83d\ude00"}], "": ""}');
SELECT payload -> 'a' AS a, payload -> '' AS "empty key" FROM turn_liveness.read_replies(ARRAY['in-deep']);

--
-- refused: nothing is written
--
SELECT tl_test.rows() AS before \gset

-- names: NULL, empty, 256 bytes, in every function that takes one
SELECT f AS call, n AS name, tl_test.try(replace(f, '?', v)) AS result
  FROM (VALUES ('NULL', 'NULL'), ('empty', ''''''), ('256 bytes', 'repeat(''ü'', 128)')) AS name (n, v),
	   unnest(ARRAY[
		'SELECT turn_liveness.arm_turn(?, ''m'')',
		'SELECT turn_liveness.arm_turn(''in-x'', ?)',
		'SELECT turn_liveness.heartbeat(?)',
		'SELECT turn_liveness.heartbeat(?, ARRAY[''m''])',
		'SELECT turn_liveness.commit_terminal_reply(?, ARRAY[''m''], ''{}'')',
		'SELECT turn_liveness.commit_terminal_reply(''in-x'', ARRAY[''m'', ?], ''{}'')',
		'SELECT turn_liveness.fail_turn(?, ''m'', ''e'')',
		'SELECT turn_liveness.fail_turn(''in-x'', ?, ''e'')',
		'SELECT turn_liveness.fail_deployment(?)',
		'SELECT turn_liveness.reject_turn(?, ''m'', ''{}'', ''e'')',
		'SELECT turn_liveness.reject_turn(''in-x'', ?, ''{}'', ''e'')',
		'SELECT turn_liveness.discharge_turn(?, ''m'')',
		'SELECT turn_liveness.discharge_turn(''in-x'', ?)',
		'SELECT turn_liveness.has_live_turn(?, ''m'')',
		'SELECT turn_liveness.has_live_turn(''in-x'', ?)',
		'SELECT turn_liveness.mark_provider_failed(?, ''c'', ''r'')',
		'SELECT turn_liveness.clear_provider_failed(?)',
		'SELECT turn_liveness.attach_worker(?)',
		'SELECT turn_liveness.detach_worker(?)',
		'SELECT turn_liveness.claim_replies(?, ARRAY[''c''])',
		'SELECT turn_liveness.ack_replies(?, ARRAY[1::bigint])',
		'SELECT turn_liveness.release_replies(?, ARRAY[1::bigint])']) WITH ORDINALITY AS call (f, o)
 ORDER BY o, n;
-- just over, in bytes and not in characters
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', repeat('m', 256))$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn(repeat('漢', 86), 'm')$$);

-- routing: objects only, in arm_turn and reject_turn
SELECT r AS routing, tl_test.try(format('SELECT turn_liveness.arm_turn(''in-x'', ''m'', %L)', r)) AS arm_turn,
	   tl_test.try(format('SELECT turn_liveness.reject_turn(''in-x'', ''m'', %L, ''e'')', r)) AS reject_turn
  FROM unnest(ARRAY['[]', '[{"conversationId": "c"}]', '"text"', '1', 'true', 'null', NULL]) r;
-- conversationId: text of 1 to 255 bytes
SELECT r AS routing, tl_test.try(format('SELECT turn_liveness.arm_turn(''in-x'', ''m'', %L)', r)) AS arm_turn,
	   tl_test.try(format('SELECT turn_liveness.reject_turn(''in-x'', ''m'', %L, ''e'')', r)) AS reject_turn
  FROM unnest(ARRAY['{"conversationId": 7}', '{"conversationId": true}', '{"conversationId": ["c"]}', '{"conversationId": {"id": "c"}}', '{"conversationId": ""}']) r;
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', jsonb_build_object('conversationId', repeat('ü', 128)))$$);
SELECT tl_test.try($$SELECT turn_liveness.reject_turn('in-x', 'm', jsonb_build_object('conversationId', repeat('c', 256)), 'e')$$);
-- over max_routing_size (64 kB)
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', jsonb_build_object('blob', repeat('r', 66000)))$$);
SELECT tl_test.try($$SELECT turn_liveness.reject_turn('in-x', 'm', jsonb_build_object('blob', repeat('r', 66000)), 'e')$$);

-- replies: objects only, no \u0000, no lone surrogates, no 50 MB
SELECT r AS reply, tl_test.try(format('SELECT turn_liveness.commit_terminal_reply(''in-x'', ARRAY[''m''], %L)', r)) AS result
  FROM unnest(ARRAY['[]', '[{"content": "c"}]', '"text"', '1', 'false', 'null', NULL]) r;
SELECT r AS reply, tl_test.code(format('SELECT turn_liveness.commit_terminal_reply(''in-x'', ARRAY[''m''], %L)', r)) AS code
  FROM unnest(ARRAY['{"content": "\u0000"}', '{"content": "\ud83d"}', '{"content": "\ude00"}', '{"content": "\ude00\ud83d"}', '{"\u0000": 1}', '{', '']) r;
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('in-x', ARRAY['m'], jsonb_build_object('content', repeat('x', 50 * 1024 * 1024)))$$);
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('in-x', ARRAY['m'], jsonb_build_object('content', repeat('x', 1024 * 1024 + 100)))$$);
SET turn_liveness.max_reply_size = '1kB';
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('in-x', ARRAY['m'], jsonb_build_object('content', repeat('x', 2000)))$$);
RESET turn_liveness.max_reply_size;
-- what one call may hold: ids, a reason, an organization
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('in-x', ARRAY(SELECT 'm' || i FROM generate_series(1, 10001) i), '{}')$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeat('in-x', ARRAY(SELECT 'm' || i FROM generate_series(1, 10001) i))$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeat('in-x', ARRAY(SELECT 'm' || i FROM generate_series(1, 10000) i))$$);
SELECT tl_test.try($$SELECT turn_liveness.mark_provider_failed('in-x', 'c', repeat('x', 8193))$$);
SELECT tl_test.try($$SELECT turn_liveness.mark_provider_failed('in-x', 'c', repeat('x', 8192))$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', '{"organizationId": 1e255}')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', '{"organizationId": true}')$$);

SELECT tl_test.rows() = :'before' AS nothing_written;
-- it is the size of the reply and not of its compressed form that counts, and a turn that is owed stays so
SELECT turn_liveness.arm_turn('in-owed', 'm');
SELECT tl_test.code($$SELECT turn_liveness.commit_terminal_reply('in-owed', ARRAY['m'], jsonb_build_object('content', repeat('x', 50 * 1024 * 1024)))$$);
SELECT turn_liveness.heartbeat('in-owed'), turn_liveness.discharge_turn('in-owed', 'm');
SELECT tl_test.rows() AS before \gset

-- beats by name: a name that cannot be is refused, as everywhere but in heartbeats
SELECT tl_test.try($$SELECT turn_liveness.heartbeat('in-x', ARRAY[NULL])$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeat('in-x', ARRAY['m', ''])$$);
SELECT tl_test.try($$SELECT turn_liveness.heartbeat('in-x', ARRAY[repeat('m', 256)])$$);
-- lists: empty, NULL, of several dimensions
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('in-x', ARRAY[]::text[], '{}')$$);
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('in-x', NULL, '{}')$$);
SELECT tl_test.code($$SELECT turn_liveness.commit_terminal_reply('in-x', ARRAY[['a', 'b'], ['c', 'd']], '{}')$$);
SELECT tl_test.code($$SELECT turn_liveness.heartbeats(ARRAY[['a', 'b'], ['c', 'd']])$$);
SELECT tl_test.code($$SELECT turn_liveness.heartbeats(NULL)$$);
SELECT tl_test.rows() = :'before' AS nothing_written;
-- arrays that do not start at 1 are lists too
SELECT tl_test.try($$SELECT turn_liveness.commit_terminal_reply('in-lower', '[5:6]={a,b}'::text[], '{"content": "lower"}')$$);
SELECT message_ids FROM turn_liveness.late_replies WHERE deployment = 'in-lower';
SELECT tl_test.rows() AS before \gset

-- texts and codes that have to be there
SELECT tl_test.try($$SELECT turn_liveness.fail_turn('in-x', 'm', NULL)$$);
SELECT tl_test.try($$SELECT turn_liveness.fail_turn('in-x', 'm', '')$$);
SELECT tl_test.try($$SELECT turn_liveness.reject_turn('in-x', 'm', '{}', NULL)$$);
SELECT tl_test.try($$SELECT turn_liveness.mark_provider_failed('in-x', NULL, 'r')$$);
SELECT tl_test.try($$SELECT turn_liveness.mark_provider_failed('in-x', 'c', NULL)$$);

-- intervals: negative, infinite or over-long, over the duration limit
SELECT i AS "interval",
	   tl_test.code(format('SELECT turn_liveness.arm_turn(''in-x'', ''m'', ''{}'', admission => %L)', i)) AS admission,
	   tl_test.code(format('SELECT turn_liveness.arm_turn(''in-x'', ''m'', ''{}'', silence => %L)', i)) AS silence,
	   tl_test.code(format('SELECT turn_liveness.arm_turn(''in-x'', ''m'', ''{}'', duration => %L)', i)) AS duration,
	   tl_test.code(format('SELECT turn_liveness.release_replies(''gw'', ARRAY[1::bigint], %L)', i)) AS release
  FROM unnest(ARRAY['-1 s', '-1 microsecond', '1 month -31 days', '178000000 years', '-178000000 years', '5 h -1 month']) i;
-- infinity is an interval since PostgreSQL 17: refused either way
SELECT left(tl_test.code($$SELECT turn_liveness.arm_turn('in-x', 'm', admission => 'infinity')$$), 2) AS class, left(tl_test.code($$SELECT turn_liveness.release_replies('gw', ARRAY[1::bigint], '-infinity')$$), 2) AS class;
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', admission => '-1 s')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', silence => '0')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', duration => '0')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', admission => '4 h 1 s')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', silence => '4 h 1 s')$$);
SELECT tl_test.try($$SELECT turn_liveness.arm_turn('in-x', 'm', silence => '2 h', duration => '1 h')$$);
SELECT tl_test.try($$SELECT turn_liveness.sweep_expired_turns(-1)$$);

SELECT tl_test.rows() = :'before' AS nothing_written;
SELECT turn_liveness.sweep_expired_turns(0);
SELECT count(*) FROM turn_liveness.turns;

-- without a row that could not be written by itself: a refused call in the middle of a transaction leaves the rest
BEGIN;
SELECT turn_liveness.arm_turn('in-mid', 'm1');
SAVEPOINT s;
\set VERBOSITY sqlstate
SELECT turn_liveness.arm_turn('in-mid', '');
\set VERBOSITY default
ROLLBACK TO s;
COMMIT;
SELECT turn_liveness.heartbeat('in-mid'), turn_liveness.discharge_turn('in-mid', 'm1');
