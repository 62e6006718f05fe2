--
-- Terminal errors: fail_turn, fail_deployment, reject_turn; discharge_turn.
--
\pset null '(null)'

-- the payload, exactly
SELECT turn_liveness.arm_turn('fail-1', 'm1', '{"channelId": "C1", "conversationId": "fail-conv", "userId": "U1", "teamId": "T1", "platform": "slack", "platformMetadata": {"thread": "7"}, "organizationId": "org-1", "color": "red"}'),
	   turn_liveness.arm_turn('fail-1', 'm2'), turn_liveness.arm_turn('fail-1', 'm3', '{"platform": "telegram", "conversationId": "fail-tg"}');
SELECT turn_liveness.fail_turn('fail-1', 'm1', 'it broke', 'BROKEN');
SELECT turn_liveness.fail_turn('fail-1', 'm2', 'it broke');
SELECT turn_liveness.fail_turn('fail-1', 'm3', 'stopped by the user', error_code => 'CANCELLED');
SELECT message_ids, conversation_id, platform, organization_id, outcome, error_code, decided_by, state, tl_test.body(payload) AS payload
  FROM turn_liveness.replies WHERE deployment = 'fail-1' ORDER BY reply_id;
-- once
SELECT turn_liveness.fail_turn('fail-1', 'm1', 'it broke', 'BROKEN');
SELECT turn_liveness.fail_turn('fail-1', 'm1', 'it broke again');
SELECT turn_liveness.fail_turn('fail-1', 'never', 'it broke');
SELECT count(*) FROM turn_liveness.replies WHERE deployment = 'fail-1';
SELECT count(*) FROM turn_liveness.late_replies WHERE deployment = 'fail-1';

-- every turn of one deployment, and of no other
SELECT turn_liveness.arm_turn('fail-2', m, '{"userId": "u"}') FROM unnest(ARRAY['m1', 'm2', 'm3']) m;
SELECT turn_liveness.arm_turn('fail-2b', 'm1'), turn_liveness.arm_turn('fail', 'm1');
SELECT turn_liveness.commit_terminal_reply('fail-2', ARRAY['m2'], '{"content": "done"}');
SELECT turn_liveness.fail_deployment('fail-2');
SELECT turn_liveness.fail_deployment('fail-2');
SELECT message_ids, outcome, error_code, decided_by, tl_test.body(payload) AS payload
  FROM turn_liveness.replies WHERE deployment = 'fail-2' ORDER BY message_ids;
SELECT turn_liveness.fail_deployment('fail-2b', 'pod evicted', 'EVICTED');
SELECT turn_liveness.fail_deployment('fail', error_code => NULL);
SELECT deployment, error_code, payload ->> 'error' AS error FROM turn_liveness.replies WHERE deployment IN ('fail-2b', 'fail') ORDER BY 1;
SELECT turn_liveness.fail_deployment('fail-unheard-of');

-- armed before an instant that the database gave
SELECT turn_liveness.arm_turn('fail-3', 'm1');
SELECT turn_liveness.arm_turn('fail-3', 'm2');
SELECT armed_at AS second FROM turn_liveness.turns WHERE deployment = 'fail-3' AND message_id = 'm2' \gset
SELECT turn_liveness.arm_turn('fail-3', 'm3');
SELECT turn_liveness.fail_deployment('fail-3', armed_before => '-infinity');
SELECT turn_liveness.fail_deployment('fail-3', armed_before => :'second');
SELECT message_id FROM turn_liveness.turns WHERE deployment = 'fail-3' ORDER BY 1;
-- armed again counts
SELECT armed_at AS third FROM turn_liveness.turns WHERE deployment = 'fail-3' AND message_id = 'm3' \gset
SELECT turn_liveness.arm_turn('fail-3', 'm2');
SELECT turn_liveness.fail_deployment('fail-3', armed_before => :'third');
SELECT turn_liveness.fail_deployment('fail-3', armed_before => NULL);
SELECT message_ids, error_code FROM turn_liveness.replies WHERE deployment = 'fail-3' ORDER BY 1;

-- reject_turn needs no marker; and then the turn has ended
SELECT turn_liveness.reject_turn('fail-4', 'm1', '{"conversationId": "fail-guard", "platform": "slack", "userId": "u", "organizationId": "org-1"}', 'blocked by the guardrail', 'GUARDRAIL');
SELECT message_ids, conversation_id, platform, organization_id, outcome, error_code, decided_by, state, armed_at, first_beat, tl_test.body(payload) AS payload
  FROM turn_liveness.replies WHERE deployment = 'fail-4';
SELECT turn_liveness.arm_turn('fail-4', 'm1');
SELECT turn_liveness.commit_terminal_reply('fail-4', ARRAY['m1'], '{"content": "late"}');
SELECT turn_liveness.reject_turn('fail-4', 'm1', '{"conversationId": "fail-guard"}', 'another reason');
SELECT count(*) FROM turn_liveness.replies WHERE deployment = 'fail-4';
-- it ends a marker that is there, at the marker's address
SELECT turn_liveness.arm_turn('fail-4', 'm2', '{"conversationId": "fail-marker", "platform": "slack"}');
SELECT turn_liveness.reject_turn('fail-4', 'm2', '{"conversationId": "fail-guard", "platform": "telegram"}', 'blocked');
SELECT conversation_id, platform, error_code, decided_by, armed_at IS NOT NULL AS was_armed FROM turn_liveness.replies WHERE deployment = 'fail-4' AND message_ids = ARRAY['m2'];
SELECT turn_liveness.heartbeat('fail-4');
-- an answered one is not touched
SELECT turn_liveness.arm_turn('fail-4', 'm3');
SELECT turn_liveness.commit_terminal_reply('fail-4', ARRAY['m3'], '{"content": "done"}');
SELECT turn_liveness.reject_turn('fail-4', 'm3', '{}', 'blocked');
SELECT outcome, decided_by FROM turn_liveness.replies WHERE deployment = 'fail-4' AND message_ids = ARRAY['m3'];

-- discharge_turn: ended without a reply, with a record
SELECT turn_liveness.arm_turn('fail-5', 'm1', '{"conversationId": "fail-dis", "platform": "slack"}');
SELECT turn_liveness.discharge_turn('fail-5', 'm1');
SELECT turn_liveness.discharge_turn('fail-5', 'm1');
SELECT turn_liveness.discharge_turn('fail-5', 'never');
SELECT message_ids, conversation_id, platform, payload, outcome, error_code, decided_by FROM turn_liveness.replies WHERE deployment = 'fail-5';
SELECT turn_liveness.heartbeat('fail-5'), turn_liveness.has_live_turn('fail-5', 'm1'), turn_liveness.arm_turn('fail-5', 'm1');
-- the client hears nothing from us
SELECT count(*) FROM turn_liveness.read_replies(ARRAY['fail-dis']);
SELECT count(*) FROM turn_liveness.claim_replies('fail-gw', ARRAY['fail-dis']);
SELECT tl_test.advance('31 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT count(*) FROM turn_liveness.claim_replies('fail-gw', ARRAY['fail-dis']);
SELECT turn_liveness.commit_terminal_reply('fail-5', ARRAY['m1'], '{"content": "late"}');

-- each default text can be overridden
SELECT turn_liveness.arm_turn('fail-6', 'm1');
SELECT turn_liveness.fail_deployment('fail-6', error => NULL, error_code => 'WORKER_DIED');
SELECT payload ->> 'error' <> '' AS default_text FROM turn_liveness.replies WHERE deployment = 'fail-6';
SELECT count(*) FROM turn_liveness.turns;

-- an index of a DBA's that calls us while we write the row it is for: an error, and no endless repetition
CREATE FUNCTION tl_test.calls(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_setting('tl_test.calls', true) = 'on' THEN
		PERFORM turn_liveness.mark_provider_failed('fail-calls', 'E', 'r');
	END IF;
	RETURN $1;
END $$;
CREATE INDEX calls ON turn_liveness.turn (tl_test.calls(message_id));
SELECT turn_liveness.arm_turn('fail-calls', 'm1');
SET tl_test.calls = on;
\set VERBOSITY sqlstate
SELECT turn_liveness.mark_provider_failed('fail-calls', 'E', 'r');
SELECT turn_liveness.fail_deployment('fail-calls');
\set VERBOSITY default
RESET tl_test.calls;
SELECT turn_liveness.fail_deployment('fail-calls');
DROP INDEX turn_liveness.calls;
DROP FUNCTION tl_test.calls(text);
