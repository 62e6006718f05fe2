--
-- What each role can do at worst, and what limits it: the README's Security says it in these sentences.
--
\pset null '(null)'
CREATE ROLE tl_anyone;
CREATE ROLE tl_worst_worker;
CREATE ROLE tl_worst_gateway;
CREATE ROLE tl_worst_monitor;
SELECT turn_liveness.grant_worker('tl_worst_worker'), turn_liveness.grant_gateway('tl_worst_gateway'), turn_liveness.grant_monitor('tl_worst_monitor');
SELECT turn_liveness.arm_turn('th-1', m, '{"conversationId": "th-A", "userId": "U1"}', duration => '100 s') FROM unnest(ARRAY['m1', 'm2', 'm3', 'm4']) m;

-- any role: LISTEN and NOTIFY know no privileges; a notification changes nothing
SELECT tl_test.rows() AS before \gset
SET ROLE tl_anyone;
LISTEN turn_liveness;
UNLISTEN turn_liveness;
NOTIFY turn_liveness, '{"conversations":["th-A"],"platforms":["api"],"lapsed":["th-1"]}';
RESET ROLE;
SELECT tl_test.rows() = :'before' AS unchanged;

-- a monitor: names, codes, reasons, times
SELECT turn_liveness.suspend_turn('th-1', 'm4', '1 h', 'asks for leave');
SET ROLE tl_worst_monitor;
SELECT deployment, message_id, conversation_id, state, reason FROM turn_liveness.turns WHERE message_id = 'm4';
SELECT tl_test.code('SELECT routing FROM turn_liveness.turns'), tl_test.code('SELECT payload FROM turn_liveness.replies');

-- a worker, of any turn that it can name: updates, its answer, and what was answered
SET ROLE tl_worst_worker;
SELECT turn_liveness.post_update('th-1', 'm1', '{"content": "once"}') < turn_liveness.post_update('th-1', 'm1', '{"content": "twice"}') AS as_often_as_it_likes;
SELECT turn_liveness.commit_terminal_reply('th-1', ARRAY['m1'], '{"content": "another''s answer"}');
SELECT state, payload ->> 'content' AS content, payload ->> 'userId' AS "user" FROM turn_liveness.get_turn('th-1', 'm1');
-- it cannot learn their names here, nor do what gateways do
SELECT tl_test.code(q) FROM unnest(ARRAY['SELECT message_id FROM turn_liveness.turns', $$SELECT * FROM turn_liveness.read_replies(ARRAY['th-A'])$$,
	$$SELECT turn_liveness.arm_turn('th-1', 'm9')$$, $$SELECT turn_liveness.fail_turn('th-1', 'm2', 'x')$$, 'SELECT * FROM turn_liveness.rescue_turns()']) q;
-- beats keep a turn up to its duration limit; waits, one after the other, for as long as it likes
SELECT turn_liveness.heartbeat('th-1', ARRAY['m2']);
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('th-1', ARRAY['m2']);
SELECT tl_test.code($$SELECT turn_liveness.suspend_turn('th-1', 'm3', '25 days')$$), turn_liveness.suspend_turn('th-1', 'm3', '24 days');
SELECT tl_test.advance('51 s');
SELECT turn_liveness.heartbeat('th-1', ARRAY['m2']);
RESET ROLE;
SELECT turn_liveness.sweep_expired_turns();
SELECT message_ids, error_code FROM turn_liveness.replies WHERE deployment = 'th-1' AND error_code IS NOT NULL;
SET ROLE tl_worst_worker;
SELECT tl_test.advance('23 days'), turn_liveness.suspend_turn('th-1', 'm3', '24 days');
RESET ROLE;
SELECT tl_test.advance('23 days'), turn_liveness.sweep_expired_turns();
SELECT message_id, state FROM turn_liveness.turns WHERE deployment = 'th-1';
SELECT turn_liveness.fail_turn('th-1', 'm3', 'enough');

-- a gateway: it reads, claims and ends what is another's, and the record says what ended it and which gateway had it
SELECT turn_liveness.arm_turn('th-2', m, '{"conversationId": "th-B"}') FROM unnest(ARRAY['m1', 'm2']) m;
SET ROLE tl_worst_gateway;
SELECT turn_liveness.fail_deployment('th-2', 'out of spite', 'SPITE');
SELECT count(*) FROM turn_liveness.claim_replies('not mine', ARRAY['th-B']);
SELECT turn_liveness.ack_replies('not mine', array_agg(reply_id)) FROM turn_liveness.replies WHERE message_ids = ARRAY['m1'] AND deployment = 'th-2';
SELECT message_ids, error_code, decided_by, state, gateway FROM turn_liveness.replies WHERE deployment = 'th-2' ORDER BY 1;
-- what it claims and leaves is due again; what has ended stays as it ended
SELECT tl_test.advance('31 s');
SELECT message_ids, state FROM turn_liveness.replies WHERE deployment = 'th-2' ORDER BY 1;
SELECT turn_liveness.fail_turn('th-2', 'm1', 'again'), turn_liveness.discharge_turn('th-2', 'm1'), turn_liveness.reject_turn('th-2', 'm1', '{}', 'again'),
	   turn_liveness.commit_terminal_reply('th-2', ARRAY['m1'], '{"content": "again"}'), turn_liveness.arm_turn('th-2', 'm1');
SELECT message_ids, payload ->> 'error' AS error FROM turn_liveness.read_replies(ARRAY['th-B']);
SELECT tl_test.code(q) FROM unnest(ARRAY['DELETE FROM turn_liveness.reply', 'UPDATE turn_liveness.reply SET payload = NULL', 'SET turn_liveness.sweep = off', 'SELECT turn_liveness.stat_reset()']) q;
RESET ROLE;

SELECT turn_liveness.revoke_worker('tl_worst_worker'), turn_liveness.revoke_gateway('tl_worst_gateway'), turn_liveness.revoke_monitor('tl_worst_monitor');
DROP ROLE tl_anyone, tl_worst_worker, tl_worst_gateway, tl_worst_monitor;
