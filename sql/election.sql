--
-- commit_terminal_reply: won, lost, unknown; what is stored and with which address.
--
\pset null '(null)'
CREATE VIEW tl_test.stored AS
	SELECT deployment, message_ids, conversation_id, platform, organization_id, outcome, error_code, decided_by, state,
		   attempt, tl_test.body(payload) AS payload
	  FROM turn_liveness.replies ORDER BY reply_id;

SELECT turn_liveness.arm_turn('el-1', m, '{"channelId": "C1", "conversationId": "el-conv", "userId": "U1", "teamId": "T1", "platform": "slack", "platformMetadata": {"thread": "7"}, "organizationId": "org-1", "color": "red"}')
  FROM unnest(ARRAY['m1', 'm2', 'm3', 'm4']) m;

-- won: the keys that the caller left out come from the routing
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1'], '{"content": "hello", "timestamp": 1}');
SELECT deployment, message_ids, conversation_id, platform, organization_id, outcome, error_code, decided_by, state, attempt, payload
  FROM turn_liveness.replies WHERE deployment = 'el-1';
SELECT armed_at < created_at AS armed_first, first_beat, last_beat, gateway, claimed_at, delivered_at, last_error, due_at = created_at AS due_at_once
  FROM turn_liveness.replies WHERE deployment = 'el-1';
SELECT turn_liveness.has_live_turn('el-1', 'm1'), turn_liveness.has_live_turn('el-1', 'm2');

-- the same call again: won, and nothing is stored; the top-level timestamp does not count
SELECT tl_test.rows() AS before \gset
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1'], '{"content": "hello", "timestamp": 1}');
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1'], '{"timestamp": 2, "content": "hello"}');
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1', 'm1'], '{"content": "hello"}');
SELECT tl_test.rows() = :'before' AS nothing_stored;

-- lost: another reply; it is kept, once
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1'], '{"content": "too late"}');
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1'], '{"content": "too late"}');
SELECT deployment, message_ids, conversation_id, payload, verdict, created_at <= clock_timestamp() AS created
  FROM turn_liveness.late_replies WHERE deployment = 'el-1';
-- a timestamp deeper down makes another reply, so does another set of turns
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1'], '{"content": "hello", "a": {"timestamp": 1}}');
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1', 'never'], '{"content": "hello"}');
SELECT payload, message_ids, verdict FROM turn_liveness.late_replies WHERE deployment = 'el-1' ORDER BY created_at;
SELECT count(*) FROM turn_liveness.replies WHERE deployment = 'el-1';

-- unknown: never armed; kept likewise
SELECT turn_liveness.commit_terminal_reply('el-2', ARRAY['m1'], '{"content": "who?"}');
SELECT turn_liveness.commit_terminal_reply('el-2', ARRAY['m1'], '{"content": "who?"}');
SELECT message_ids, payload, verdict FROM turn_liveness.late_replies WHERE deployment = 'el-2';
SELECT count(*) FROM turn_liveness.replies WHERE deployment = 'el-2';
-- then armed and committed again: won
SELECT turn_liveness.arm_turn('el-2', 'm1');
SELECT turn_liveness.commit_terminal_reply('el-2', ARRAY['m1'], '{"content": "who?"}');
SELECT * FROM tl_test.stored WHERE deployment = 'el-2';

-- a partial win: exactly the turns won are listed, whatever the caller lists
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m1', 'm2', 'never'], '{"content": "for two", "processedMessageIds": ["m1", "m2", "never"]}');
SELECT message_ids, payload FROM tl_test.stored WHERE deployment = 'el-1' AND payload ->> 'content' = 'for two';
-- repeated, ids in another order and twice: won again
SELECT tl_test.rows() AS before \gset
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['never', 'm2', 'm1', 'm2'], '{"content": "for two", "processedMessageIds": ["m1", "m2", "never"]}');
SELECT tl_test.rows() = :'before' AS nothing_stored;
-- numbers are equal as JSON numbers are
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m3', 'm4'], '{"n": 1}');
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m3', 'm4'], '{"n": 1.0}');
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['m3', 'm4'], '{"n": 2}');
-- the same leaves in another nesting are another reply
SELECT turn_liveness.arm_turn('el-9', 'm1'), turn_liveness.commit_terminal_reply('el-9', ARRAY['m1'], '{"a": [[1], 2], "b": {"c": 1}, "d": 2}');
SELECT turn_liveness.commit_terminal_reply('el-9', ARRAY['m1'], '{"a": [[1, 2]], "b": {"c": 1}, "d": 2}'),
	   turn_liveness.commit_terminal_reply('el-9', ARRAY['m1'], '{"a": [[1], 2], "b": {"c": 1, "d": 2}}'),
	   turn_liveness.commit_terminal_reply('el-9', ARRAY['m1'], '{"a": [[1], 2], "b": {"c": 1}, "d": 2}');
SELECT message_ids, payload FROM tl_test.stored WHERE deployment = 'el-1' AND payload ? 'n';

-- lost and unknown together: at least one has ended
SELECT turn_liveness.commit_terminal_reply('el-1', ARRAY['never', 'm4'], '{"content": "mixed"}');
SELECT verdict FROM turn_liveness.late_replies WHERE deployment = 'el-1' AND payload ->> 'content' = 'mixed';

-- several addresses: one reply for each, with its own turns
SELECT turn_liveness.arm_turn('el-3', 'a1', '{"conversationId": "el-A", "platform": "slack", "userId": "ua"}'),
	   turn_liveness.arm_turn('el-3', 'b1', '{"conversationId": "el-B", "platform": "slack", "userId": "ub"}'),
	   turn_liveness.arm_turn('el-3', 'a2', '{"conversationId": "el-A", "platform": "slack", "userId": "uc"}'),
	   turn_liveness.arm_turn('el-3', 'c1', '{"conversationId": "el-A", "platform": "telegram"}'),
	   turn_liveness.arm_turn('el-3', 'd1', '{"conversationId": "el-A", "platform": "slack", "organizationId": "org-2"}');
SELECT turn_liveness.commit_terminal_reply('el-3', ARRAY['a1', 'b1', 'a2', 'c1', 'd1'], '{"content": "all"}');
SELECT conversation_id, platform, organization_id, message_ids, payload FROM tl_test.stored WHERE deployment = 'el-3' ORDER BY 1, 2, 3 NULLS FIRST;
-- repeated: won, for the whole set
SELECT tl_test.rows() AS before \gset
SELECT turn_liveness.commit_terminal_reply('el-3', ARRAY['d1', 'c1', 'b1', 'a2', 'a1'], '{"content": "all"}');
SELECT tl_test.rows() = :'before' AS nothing_stored;

-- the address is the marker's, whatever the reply says
SELECT turn_liveness.arm_turn('el-4', 'm1', '{"conversationId": "el-mine", "platform": "slack", "organizationId": "org-1"}');
SELECT turn_liveness.commit_terminal_reply('el-4', ARRAY['m1'], '{"conversationId": "el-yours", "platform": "telegram", "organizationId": "org-9"}');
SELECT conversation_id, platform, organization_id FROM tl_test.stored WHERE deployment = 'el-4';
SELECT count(*) AS yours FROM turn_liveness.read_replies(ARRAY['el-yours']);
SELECT count(*) AS mine FROM turn_liveness.read_replies(ARRAY['el-mine']);

-- keys that the caller gives stay, keys that the routing lacks are left out
SELECT turn_liveness.arm_turn('el-5', 'm1', '{"userId": "u-routing"}'), turn_liveness.arm_turn('el-5', 'm2');
SELECT turn_liveness.commit_terminal_reply('el-5', ARRAY['m1'], '{"userId": "u-reply", "teamId": "t-reply", "channelId": null}');
SELECT turn_liveness.commit_terminal_reply('el-5', ARRAY['m2'], '{}');
SELECT conversation_id, platform, payload FROM tl_test.stored WHERE deployment = 'el-5';

-- a non-empty error counts as an error
SELECT turn_liveness.arm_turn('el-6', m) FROM unnest(ARRAY['m1', 'm2', 'm3', 'm4']) m;
SELECT turn_liveness.commit_terminal_reply('el-6', ARRAY['m1'], '{"error": "boom", "errorCode": "AGENT_CRASHED"}');
SELECT turn_liveness.commit_terminal_reply('el-6', ARRAY['m2'], '{"error": "boom"}');
SELECT turn_liveness.commit_terminal_reply('el-6', ARRAY['m3'], '{"error": "", "errorCode": "UNUSED"}');
SELECT turn_liveness.commit_terminal_reply('el-6', ARRAY['m4'], '{"error": null}');
SELECT message_ids, outcome, error_code, decided_by FROM tl_test.stored WHERE deployment = 'el-6';

-- the call that ended it first stays the winner
SELECT turn_liveness.arm_turn('el-7', m) FROM unnest(ARRAY['m1', 'm2', 'm3']) m;
SELECT turn_liveness.fail_turn('el-7', 'm1', 'stopped', 'CANCELLED');
SELECT turn_liveness.commit_terminal_reply('el-7', ARRAY['m1'], '{"content": "late"}');
SELECT turn_liveness.discharge_turn('el-7', 'm2');
SELECT turn_liveness.commit_terminal_reply('el-7', ARRAY['m2'], '{"content": "late"}');
SELECT turn_liveness.commit_terminal_reply('el-7', ARRAY['m3'], '{"content": "first"}');
SELECT turn_liveness.fail_turn('el-7', 'm3', 'stopped', 'CANCELLED');
SELECT turn_liveness.reject_turn('el-7', 'm3', '{}', 'refused');
SELECT turn_liveness.discharge_turn('el-7', 'm3');
SELECT turn_liveness.fail_deployment('el-7');
SELECT message_ids, outcome, error_code, decided_by FROM tl_test.stored WHERE deployment = 'el-7';
SELECT message_ids, verdict, payload FROM turn_liveness.late_replies WHERE deployment = 'el-7' ORDER BY message_ids;

-- the beats that the turn saw stand in its record
SELECT turn_liveness.arm_turn('el-8', 'm1');
SELECT turn_liveness.heartbeat('el-8', ARRAY['m1']);
SELECT tl_test.advance('10 s');
SELECT turn_liveness.heartbeat('el-8', ARRAY['m1']);
SELECT turn_liveness.commit_terminal_reply('el-8', ARRAY['m1'], '{}');
SELECT first_beat < last_beat AS two_beats, last_beat <= created_at AS before_end
  FROM turn_liveness.replies WHERE deployment = 'el-8';

-- the story of one message id is one indexed look-up
SELECT message_ids, decided_by FROM turn_liveness.replies WHERE deployment = 'el-3' AND message_ids @> ARRAY['b1'];
SELECT count(*) FROM turn_liveness.turns WHERE deployment LIKE 'el-%';

-- turns are listed in the caller's order, whatever order they were taken in
SELECT turn_liveness.arm_turn('el-order', m) FROM unnest(ARRAY['a', 'b', 'c']) m;
SELECT turn_liveness.commit_terminal_reply('el-order', ARRAY['c', 'a', 'b', 'c'], '{"content": "x"}');
SELECT message_ids, payload->'messageId' AS message, payload->'processedMessageIds' AS processed
FROM turn_liveness.replies WHERE deployment = 'el-order';

-- a turn that is armed and ended in one transaction takes no beat from another
SELECT turn_liveness.arm_turn('el-own', 'a');
SELECT turn_liveness.heartbeat('el-own');
BEGIN;
SELECT turn_liveness.arm_turn('el-own', 'b');
SELECT turn_liveness.commit_terminal_reply('el-own', ARRAY['b'], '{"content": "x"}');
COMMIT;
SELECT message_id, state, last_beat IS NOT NULL AS beaten FROM turn_liveness.turns WHERE deployment = 'el-own';

-- what says why must fit into a reply
SELECT tl_test.code($$SELECT turn_liveness.fail_turn('el-own', 'a', repeat('x', 1048577))$$);
SELECT tl_test.code($$SELECT turn_liveness.fail_turn('el-own', 'a', 'x', repeat('x', 256))$$);
SELECT tl_test.code($$SELECT turn_liveness.mark_provider_failed('el-own', 'X', repeat('x', 1048577))$$);
SELECT turn_liveness.discharge_turn('el-own', 'a');
-- the row of a turn that has ended is small: its record has the rest
SELECT count(*) AS ended, count(routing) AS routings, count(reason) AS reasons, count(wait_reason) AS wait_reasons
  FROM turn_liveness.turn WHERE deployment LIKE 'el-%' AND outcome IS NOT NULL;

-- an error code of a reply is kept as far as any other may be long
SELECT turn_liveness.arm_turn('el-code', 'm');
SELECT turn_liveness.commit_terminal_reply('el-code', '{m}', jsonb_build_object('error', 'x', 'errorCode', repeat('x', 254) || U&'\00e9' || 'x'));
SELECT octet_length(error_code), octet_length(payload ->> 'errorCode') FROM turn_liveness.replies WHERE deployment = 'el-code';
