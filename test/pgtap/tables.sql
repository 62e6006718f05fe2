-- The tables: keys, collations, indexes, what a dump takes along.
\set ON_ERROR_STOP 1
BEGIN;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS turn_liveness;
SELECT no_plan();

SELECT tables_are('turn_liveness', ARRAY['turn', 'reply', 'delivery', 'late_reply']);
SELECT sequences_are('turn_liveness', ARRAY['reply_id_seq']);

-- one row, one key for each turn: everything hangs on it
SELECT col_is_pk('turn_liveness', 'turn', ARRAY['message_id', 'deployment'], 'the key of a turn');
SELECT is_empty($$SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_collation l ON l.oid = a.attcollation
	WHERE c.relnamespace = 'turn_liveness'::regnamespace AND (c.relkind = 'i' OR c.relkind = 'r' AND a.attname IN ('deployment', 'message_id', 'message_ids', 'conversation_id', 'platform', 'gateway')) AND l.collname <> 'C' AND l.collname <> 'default'$$, 'no collation of the system');
SELECT is_empty($$SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 JOIN pg_collation l ON l.oid = a.attcollation
	WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'i' AND l.collname <> 'C'$$, 'every index on text is COLLATE "C"');
SELECT col_is_pk('turn_liveness', 'reply', 'reply_id', 'the key of a reply: ids of all conversations');
SELECT col_is_pk('turn_liveness', 'delivery', ARRAY['conversation_id', 'is_open', 'reply_id'], 'the key of a delivery');
SELECT col_is_pk('turn_liveness', 'late_reply', 'digest', 'the key of a late reply');

SELECT indexes_are('turn_liveness', 'turn', ARRAY['turn_pkey', 'turn_owed_deployment', 'turn_owed_check', 'turn_owed_conversation', 'turn_owed_lapsed']);
SELECT indexes_are('turn_liveness', 'reply', ARRAY['reply_pkey']);
SELECT indexes_are('turn_liveness', 'delivery', ARRAY['delivery_pkey', 'delivery_open_platform', 'delivery_parked', 'delivery_dead']);
SELECT indexes_are('turn_liveness', 'late_reply', ARRAY['late_reply_pkey', 'late_reply_kept', 'late_reply_deployment', 'late_reply_conversation']);
SELECT index_is_unique('turn_liveness', 'reply', 'reply_pkey', 'ids of all conversations');
SELECT index_is_unique('turn_liveness', 'delivery', 'delivery_pkey', 'one delivery in either part');
SELECT is_empty($$SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'turn_liveness'::regnamespace AND NOT (i.indisvalid AND i.indisready)$$, 'every index is valid');

-- look-ups by (deployment, message id), by conversation and by state use an index
SET LOCAL enable_seqscan = off;
CREATE FUNCTION pg_temp.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; plan text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP plan := plan || line || E'\n'; END LOOP;
	RETURN plan;
END $$;
SELECT matches(pg_temp.plan(q), 'Index', q) FROM unnest(ARRAY[
	$$SELECT * FROM turn_liveness.turns WHERE deployment = 'd' AND message_id = 'm'$$,
	$$SELECT * FROM turn_liveness.turns WHERE conversation_id = 'c'$$,
	$$SELECT * FROM turn_liveness.replies WHERE deployment = 'd' AND message_ids @> ARRAY['m']$$,
	$$SELECT * FROM turn_liveness.replies WHERE conversation_id = 'c'$$,
	$$SELECT * FROM turn_liveness.replies WHERE reply_id = 1$$,
	$$SELECT * FROM turn_liveness.replies WHERE state = 'dead'$$,
	$$SELECT * FROM turn_liveness.replies WHERE state = 'due'$$,
	$$SELECT * FROM turn_liveness.replies WHERE state = 'claimed'$$,
	$$SELECT * FROM turn_liveness.late_replies WHERE deployment = 'd'$$,
	$$SELECT * FROM turn_liveness.late_replies WHERE conversation_id = 'c'$$]) q;
SELECT doesnt_match(pg_temp.plan(q), 'Seq Scan', 'no table is read whole: ' || q) FROM unnest(ARRAY[
	$$SELECT * FROM turn_liveness.turns WHERE deployment = 'd' AND message_id = 'm'$$,
	$$SELECT * FROM turn_liveness.turns WHERE conversation_id = 'c'$$,
	$$SELECT * FROM turn_liveness.replies WHERE deployment = 'd' AND message_ids @> ARRAY['m']$$,
	$$SELECT * FROM turn_liveness.replies WHERE conversation_id = 'c'$$,
	$$SELECT * FROM turn_liveness.replies WHERE state = 'dead'$$]) q;

-- a beat in the row, and a claim, are HOT: what changes often is in no index
SELECT is_empty($$SELECT i.indexrelid::regclass, a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
	WHERE i.indrelid = 'turn_liveness.turn'::regclass AND a.attname IN ('beat', 'started', 'seen', 'frozen')$$, 'a beat changes no indexed column');
SELECT is_empty($$SELECT i.indexrelid::regclass, a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
	WHERE i.indrelid = 'turn_liveness.delivery'::regclass AND a.attname IN ('attempt', 'due_at', 'gateway', 'claimed_at')$$, 'nor does a claim');
-- entries of a whole life: each new row version, times the indexes that it stands in, less what is HOT
SET LOCAL enable_seqscan = on;
SELECT turn_liveness.arm_turn('hot', 'm');
SELECT turn_liveness.commit_terminal_reply('hot', '{m}', '{"content": "1"}');
SELECT is(pg_stat_get_xact_tuples_hot_updated('turn_liveness.delivery'::regclass), 0::bigint, 'no update of a delivery yet');
SELECT is((SELECT count(*) FROM turn_liveness.claim_replies('gw', '{hot}')), 1::bigint, 'a claim');
SELECT is(pg_stat_get_xact_tuples_hot_updated('turn_liveness.delivery'::regclass), 1::bigint, 'makes no entry in any index');
SELECT is((SELECT amname::text FROM pg_class c JOIN pg_am m ON m.oid = c.relam WHERE c.oid = 'turn_liveness.turn'::regclass), 'heap', 'heap');
SELECT is_empty($$SELECT relname FROM pg_class WHERE relnamespace = 'turn_liveness'::regnamespace AND relpersistence <> 'p'$$, 'nothing is unlogged: a crash empties no table');
SELECT is((SELECT seqcache FROM pg_sequence WHERE seqrelid = 'turn_liveness.reply_id_seq'::regclass), 1::bigint, 'ids are taken one at a time');
SELECT is((SELECT seqcycle FROM pg_sequence WHERE seqrelid = 'turn_liveness.reply_id_seq'::regclass), false, 'and never again');

-- what pg_dump takes along: everything there is
SELECT set_eq($$SELECT c.relname::text FROM pg_extension e, unnest(e.extconfig) o JOIN pg_class c ON c.oid = o WHERE e.extname = 'turn_liveness'$$,
	ARRAY['turn', 'reply_id_seq', 'reply', 'delivery', 'late_reply'], 'registered for dump');
SELECT is_empty($$SELECT e.extname FROM pg_extension e, unnest(e.extcondition) q WHERE e.extname = 'turn_liveness' AND q <> ''$$, 'whole tables');
SELECT is_empty($$SELECT conname FROM pg_constraint WHERE connamespace = 'turn_liveness'::regnamespace AND contype = 'f'$$, 'no foreign key stands in the way of pg_restore -j');
-- pg_upgrade refuses reg* columns
SELECT is_empty($$SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 JOIN pg_type t ON t.oid = a.atttypid
	WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v') AND t.typname LIKE 'reg%'$$, 'no reg* column');
SELECT is_empty($$SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'r' AND (a.atthasdef OR a.attidentity <> '')$$, 'no default: every value is written by us');
-- triggers: those that note what others change by hand, always
SELECT set_eq($$SELECT tgrelid::regclass::text, tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'turn_liveness'::regnamespace) AND NOT tgisinternal$$,
	$$VALUES ('turn_liveness.turn', 'foreign_change', 'A'), ('turn_liveness.delivery', 'foreign_change', 'A')$$, 'two triggers');
SELECT * FROM finish();
ROLLBACK;
