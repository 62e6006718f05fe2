--
-- A sweep in bulk: many turns of some conversations, the indexes of a DBA, rows
-- that cannot be failed in the middle.
--
CREATE VIEW tl_test.swept AS
	SELECT * FROM turn_liveness.replies WHERE deployment LIKE 'sw-%';

-- more than one group, conversations of one turn and of many
SELECT count(turn_liveness.arm_turn('sw-' || i % 50, 'm' || i, jsonb_build_object(
	'conversationId', 'sw-c' || CASE WHEN i % 3 = 0 THEN 0 ELSE i END, 'userId', 'U' || i,
	'platformMetadata', jsonb_build_object('thread', i, 'tags', jsonb_build_array('a', i)))))
  FROM generate_series(1, 300) i;
CREATE INDEX tl_dba_expression ON turn_liveness.reply ((length(deployment) + array_length(message_ids, 1)));
CREATE INDEX tl_dba_partial ON turn_liveness.delivery (platform, conversation_id) WHERE conversation_id = 'sw-c0';
CREATE INDEX tl_dba_gin ON turn_liveness.reply USING gin (message_ids);
CREATE INDEX tl_dba_brin ON turn_liveness.turn USING brin (message_id);
SELECT tl_test.advance('190 s'), turn_liveness.sweep_expired_turns();
SELECT count(*), count(DISTINCT message_ids), count(DISTINCT reply_id), min(error_code), max(state) FROM tl_test.swept;
-- in a conversation, ids rise in the order in which the turns were armed; a cursor sees each once
SELECT string_agg(message_ids[1], ' ' ORDER BY reply_id) = string_agg(message_ids[1], ' ' ORDER BY substr(message_ids[1], 2)::int) AS in_order
  FROM tl_test.swept WHERE conversation_id = 'sw-c0';
WITH RECURSIVE seen AS (
	SELECT 0 AS n, (SELECT array_agg(reply_id ORDER BY reply_id) FROM turn_liveness.read_replies(ARRAY['sw-c0'], ARRAY[0], max_replies => 7)) AS ids
	UNION ALL
	SELECT n + 1, (SELECT array_agg(reply_id ORDER BY reply_id) FROM turn_liveness.read_replies(ARRAY['sw-c0'], ARRAY[ids[array_length(ids, 1)]], max_replies => 7))
	  FROM seen WHERE ids IS NOT NULL)
SELECT count(id), count(DISTINCT id) FROM seen, unnest(ids) id;
SELECT tl_test.body(payload) AS payload FROM tl_test.swept WHERE message_ids = ARRAY['m7'];
SELECT count(*) FROM turn_liveness.turn t JOIN turn_liveness.reply r ON r.reply_id = t.reply_id AND r.message_ids = ARRAY[t.message_id] WHERE t.deployment LIKE 'sw-%';
-- every index has every entry
SET enable_seqscan = off;
SELECT count(*) FROM turn_liveness.reply WHERE length(deployment) + array_length(message_ids, 1) BETWEEN 5 AND 6 AND deployment LIKE 'sw-%';
SELECT count(*) FROM turn_liveness.delivery WHERE conversation_id = 'sw-c0' AND platform = 'api';
SELECT count(*) FROM generate_series(1, 300) i JOIN turn_liveness.reply ON message_ids @> ARRAY['m' || i] WHERE deployment LIKE 'sw-%';
SELECT count(*) FROM generate_series(1, 300) i JOIN turn_liveness.turn ON message_id = 'm' || i WHERE deployment = 'sw-' || i % 50;
RESET enable_seqscan;
SELECT count(*) FROM turn_liveness.claim_replies('gw', (SELECT array_agg(DISTINCT conversation_id) FROM tl_test.swept), max_replies => 1000);
DROP INDEX turn_liveness.tl_dba_expression, turn_liveness.tl_dba_partial, turn_liveness.tl_dba_gin, turn_liveness.tl_dba_brin;

-- without such indexes the rows of the turns are deleted, and inserted as ended
SELECT count(turn_liveness.arm_turn('sw-t' || i % 50, 't' || i, jsonb_build_object('conversationId', 'sw-e' || i % 7)))
  FROM generate_series(1, 300) i;
SELECT tl_test.advance('190 s'), pg_stat_force_next_flush();
BEGIN;
SELECT turn_liveness.sweep_expired_turns();
SELECT n_tup_upd, n_tup_del, n_tup_ins FROM pg_stat_xact_user_tables WHERE relid = 'turn_liveness.turn'::regclass;
COMMIT;
SET enable_seqscan = off;
SELECT count(t), count(r), min(r.error_code), count(t.routing)
  FROM generate_series(1, 300) i
  LEFT JOIN turn_liveness.turn t ON t.message_id = 't' || i AND t.deployment = 'sw-t' || i % 50 AND t.outcome = 'e'
  LEFT JOIN turn_liveness.reply r ON r.reply_id = t.reply_id AND r.message_ids = ARRAY[t.message_id];
SELECT count(*) FROM turn_liveness.turn WHERE outcome IS NULL AND deployment LIKE 'sw-%';
RESET enable_seqscan;
SELECT count(*) FROM turn_liveness.turn WHERE deployment LIKE 'sw-t%';
SELECT turn_liveness.arm_turn('sw-t' || i % 50, 't' || i), count(*) FROM generate_series(1, 300) i GROUP BY 1;

-- an error in such a batch, of an id that is there already: row by row it is done again
SELECT count(turn_liveness.arm_turn('sw-again', 'r' || i)) FROM generate_series(1, 5) i;
INSERT INTO turn_liveness.reply (reply_id, deployment, message_ids, conversation_id, platform, payload, outcome, generation, created_at, kept_at)
SELECT last_value + 3, 'sw-there', '{m}', 'sw-there', 'api', '{}', 'a', 1, now(), now() FROM turn_liveness.reply_id_seq;
SELECT last_value AS before FROM turn_liveness.reply_id_seq \gset
SELECT tl_test.advance('190 s'), turn_liveness.stat_reset();
SELECT turn_liveness.sweep_expired_turns();
SELECT last_value - :before AS ids FROM turn_liveness.reply_id_seq;
SELECT count(*), count(DISTINCT message_ids) FROM tl_test.swept WHERE deployment = 'sw-again';
SELECT message_id, outcome FROM turn_liveness.turn WHERE deployment = 'sw-again' ORDER BY 1;
SELECT sweep_errors, failed_never_started FROM turn_liveness.stat;

-- what a turn keeps of large values outlives its row
SELECT count(turn_liveness.arm_turn('sw-large', 'l' || i)) FROM generate_series(1, 3) i;
UPDATE turn_liveness.turn SET error_code = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i)
 WHERE deployment = 'sw-large' AND message_id = 'l2';
SELECT tl_test.advance('190 s'), turn_liveness.sweep_expired_turns();
SELECT message_id, outcome, error_code = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i) AS kept
  FROM turn_liveness.turn WHERE deployment = 'sw-large' ORDER BY 1;

-- one row raises in an expression, one has its like in a unique index: they alone stay
CREATE FUNCTION tl_test.fussy(deployment text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF deployment = 'sw-bad' THEN RAISE 'this row is poisoned'; END IF;
	RETURN deployment;
END $$;
CREATE INDEX tl_dba_fussy ON turn_liveness.reply (tl_test.fussy(deployment));
CREATE UNIQUE INDEX tl_dba_unique ON turn_liveness.reply (organization_id) WHERE organization_id = 'sw-org';
SELECT count(turn_liveness.arm_turn(CASE i WHEN 70 THEN 'sw-bad' ELSE 'sw-x' || i END, 'x' || i, jsonb_build_object(
	'conversationId', 'sw-d' || i % 9) || CASE WHEN i IN (30, 90) THEN '{"organizationId": "sw-org"}' ELSE '{}' END::jsonb))
  FROM generate_series(1, 150) i;
SELECT tl_test.advance('190 s'), turn_liveness.stat_reset();
SELECT turn_liveness.sweep_expired_turns();
SELECT deployment, message_id FROM turn_liveness.turns WHERE deployment LIKE 'sw-%' ORDER BY 1;
SELECT count(*), count(DISTINCT message_ids) FROM tl_test.swept WHERE conversation_id LIKE 'sw-d%';
SELECT sweep_errors, failed_never_started FROM turn_liveness.stat;
DROP INDEX turn_liveness.tl_dba_fussy, turn_liveness.tl_dba_unique;
SELECT turn_liveness.sweep_expired_turns();
SELECT count(*), count(DISTINCT message_ids) FROM tl_test.swept WHERE conversation_id LIKE 'sw-d%';

-- an index of a DBA's that arms a turn while the sweep has its row: no second row of a key
CREATE FUNCTION tl_test.arms(deployment text) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_setting('tl_test.arms', true) = 'on' THEN
		PERFORM turn_liveness.arm_turn('sw-armed', 'a2');
	END IF;
	RETURN 1;
END $$;
CREATE PROCEDURE tl_test.sweep_with_index(definition text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'CREATE INDEX tl_dba_arms ON turn_liveness.' || definition;
	PERFORM turn_liveness.arm_turn('sw-armed', 'a' || i, '{"conversationId": "sw-armed"}') FROM generate_series(1, 3) i;
	COMMIT;
	PERFORM tl_test.advance('190 s');
	BEGIN
		PERFORM set_config('tl_test.arms', 'on', true), turn_liveness.sweep_expired_turns();
	EXCEPTION WHEN OTHERS THEN
		RAISE NOTICE '%', sqlstate;
	END;
	PERFORM set_config('tl_test.arms', 'off', true);
	RAISE NOTICE '%', (SELECT string_agg(message_id || ' ' || coalesce(outcome::text, '-'), ', ' ORDER BY message_id, outcome) FROM turn_liveness.turn WHERE deployment = 'sw-armed');
	DROP INDEX turn_liveness.tl_dba_arms;
	PERFORM tl_test.advance('190 s'), turn_liveness.sweep_expired_turns();
	RAISE NOTICE '%', (SELECT string_agg(message_id || ' ' || coalesce(outcome::text, '-'), ', ' ORDER BY message_id, outcome) FROM turn_liveness.turn WHERE deployment = 'sw-armed');
	DELETE FROM turn_liveness.turn WHERE deployment = 'sw-armed';
END $$;
CALL tl_test.sweep_with_index('reply (tl_test.arms(deployment))');
CALL tl_test.sweep_with_index('delivery (tl_test.arms(conversation_id))');
CALL tl_test.sweep_with_index('turn (tl_test.arms(deployment))');
DROP VIEW tl_test.swept;
