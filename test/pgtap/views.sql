-- The views: names, columns, order, types.
\set ON_ERROR_STOP 1
BEGIN;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS turn_liveness;
SELECT no_plan();

CREATE TEMP VIEW shape AS
	SELECT c.relname::text AS name, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
	  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' GROUP BY 1;

SELECT set_has($$SELECT name FROM shape$$, $$VALUES ('turns'), ('replies'), ('late_replies'), ('stat')$$, 'the views of the contract');
SELECT is((SELECT columns FROM shape WHERE name = 'turns'),
	'deployment text, message_id text, conversation_id text, platform text, organization_id text, routing jsonb, generation integer, worker text, armed_at timestamp with time zone, '
	'first_beat timestamp with time zone, last_beat timestamp with time zone, deadline timestamp with time zone, state text, error_code text, reason text, blocked_by integer', 'columns of turns');
SELECT is((SELECT columns FROM shape WHERE name = 'replies'),
	'reply_id bigint, deployment text, message_ids text[], conversation_id text, platform text, organization_id text, payload jsonb, outcome text, error_code text, '
	'decided_by text, generation integer, worker text, armed_at timestamp with time zone, first_beat timestamp with time zone, last_beat timestamp with time zone, created_at timestamp with time zone, '
	'state text, attempt integer, gateway text, claimed_at timestamp with time zone, due_at timestamp with time zone, delivered_at timestamp with time zone, last_error text', 'columns of replies');
SELECT is((SELECT regexp_replace(columns, 'verdict [^,]+', 'verdict') FROM shape WHERE name = 'late_replies'),
	'deployment text, message_ids text[], conversation_id text, payload jsonb, verdict, created_at timestamp with time zone', 'columns of late_replies');
SELECT is((SELECT count(*) FROM turn_liveness.stat), 1::bigint, 'stat has one row');
SELECT is_empty($$SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' AND obj_description(c.oid, 'pg_class') IS NULL$$, 'every view has a comment');
SELECT is_empty($$SELECT relname FROM pg_class c WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')$$, 'every view is the extension''s');
SELECT is_empty($$SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' AND c.reloptions::text LIKE '%security_invoker=on%' AND c.relname NOT LIKE 'monitor%'$$, 'a view needs no right on a table');

-- what they say of the states
SELECT turn_liveness.arm_turn('pgtap', m) FROM unnest(ARRAY['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']) m;
SELECT turn_liveness.commit_terminal_reply('pgtap', ARRAY['a'], '{}');
SELECT turn_liveness.commit_terminal_reply('pgtap', ARRAY['b'], '{"error": "e", "errorCode": "C"}');
SELECT turn_liveness.discharge_turn('pgtap', 'c');
SELECT turn_liveness.fail_turn('pgtap', 'd', 'e', 'C');
SELECT turn_liveness.reject_turn('pgtap', 'e', '{}', 'e', 'C');
SELECT turn_liveness.mark_provider_failed('pgtap', 'P', 'r');
SELECT turn_liveness.arm_turn('pgtap', 'i');
SELECT turn_liveness.heartbeat('pgtap', ARRAY['i']);
SELECT turn_liveness.arm_turn('pgtap', 'j');
SELECT bag_eq($$SELECT message_id, state, error_code, reason FROM turn_liveness.turns WHERE deployment = 'pgtap'$$,
	$$VALUES ('f', 'withheld', 'P', 'r'), ('g', 'withheld', 'P', 'r'), ('h', 'withheld', 'P', 'r'), ('i', 'running', NULL, NULL), ('j', 'waiting', NULL, NULL)$$, 'states of turns');
SELECT bag_eq($$SELECT message_ids, outcome, error_code, decided_by FROM turn_liveness.replies WHERE deployment = 'pgtap'$$,
	$$VALUES (ARRAY['a'], 'answer', NULL, 'reply'), (ARRAY['b'], 'error', 'C', 'reply'), (ARRAY['c'], 'discharged', NULL, 'discharge'), (ARRAY['d'], 'error', 'C', 'fail'), (ARRAY['e'], 'error', 'C', 'reject')$$, 'outcomes');
SELECT is((SELECT count(*) FROM turn_liveness.claim_replies('gw', ARRAY['pgtap'], NULL, 2)), 2::bigint, 'two are claimed');
SELECT is(turn_liveness.ack_replies('gw', (SELECT array_agg(reply_id) FROM turn_liveness.replies WHERE deployment = 'pgtap' AND message_ids = ARRAY['a'])), 1, 'one is acknowledged');
SELECT bag_eq($$SELECT message_ids, state, attempt, gateway FROM turn_liveness.replies WHERE deployment = 'pgtap' AND outcome <> 'discharged'$$,
	$$VALUES (ARRAY['a'], 'delivered', 1, 'gw'), (ARRAY['b'], 'claimed', 1, 'gw'), (ARRAY['d'], 'due', 0, NULL), (ARRAY['e'], 'due', 0, NULL)$$, 'states of delivery');
SELECT is_empty($$SELECT reply_id FROM turn_liveness.replies WHERE (state = 'claimed') <> (claimed_at IS NOT NULL AND delivered_at IS NULL) AND deployment = 'pgtap' AND outcome <> 'discharged'$$, 'claimed since');
SELECT * FROM finish();
ROLLBACK;
