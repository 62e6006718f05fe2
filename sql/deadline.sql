--
-- When a turn lapses, and with which code.  The liveness clock is driven.
--
\pset null '(null)'
CREATE VIEW tl_test.turns AS
	SELECT deployment, message_id, state, tl_test.ahead(deadline) AS ahead, first_beat IS NOT NULL AS started,
		   last_beat IS NOT NULL AS beaten, error_code, reason
	  FROM turn_liveness.turns ORDER BY deployment, message_id;
CREATE VIEW tl_test.errors AS
	SELECT deployment, message_ids, outcome, error_code, decided_by, state, first_beat IS NOT NULL AS started,
		   last_beat IS NOT NULL AS beaten, payload ->> 'errorCode' AS code_told, payload ->> 'error' AS error
	  FROM turn_liveness.replies ORDER BY deployment, message_ids;

-- never started: admission, 180 s
SELECT turn_liveness.arm_turn('dl-1', 'm1', '{"channelId": "C1", "conversationId": "dl-conv", "userId": "U1", "platform": "slack", "organizationId": "org-1", "color": "red"}');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-1';
SELECT tl_test.advance('170 s');
SELECT turn_liveness.has_live_turn('dl-1', 'm1'), turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('20 s');
SELECT turn_liveness.has_live_turn('dl-1', 'm1');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-1';
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.turns WHERE deployment = 'dl-1';
SELECT * FROM tl_test.errors WHERE deployment = 'dl-1';
SELECT conversation_id, platform, organization_id, tl_test.body(payload) AS payload FROM turn_liveness.replies WHERE deployment = 'dl-1';
SELECT turn_liveness.heartbeat('dl-1'), turn_liveness.has_live_turn('dl-1', 'm1'), turn_liveness.arm_turn('dl-1', 'm1');
SELECT turn_liveness.commit_terminal_reply('dl-1', ARRAY['m1'], '{"content": "late"}');

-- started, then silent: turn deadline, 60 s, also where that is earlier than admission
SELECT turn_liveness.arm_turn('dl-2', 'm1');
SELECT turn_liveness.heartbeat('dl-2', ARRAY['m1']);
SELECT * FROM tl_test.turns WHERE deployment = 'dl-2';
SELECT tl_test.advance('50 s');
SELECT turn_liveness.has_live_turn('dl-2', 'm1'), turn_liveness.sweep_expired_turns(), turn_liveness.heartbeat('dl-2', ARRAY['m1']);
SELECT tl_test.advance('50 s');
SELECT turn_liveness.has_live_turn('dl-2', 'm1'), turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.turns WHERE deployment = 'dl-2';
SELECT tl_test.advance('20 s');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-2';
-- lapsed is not live, but a beat revives it as long as no sweep has taken it
SELECT turn_liveness.has_live_turn('dl-2', 'm1'), turn_liveness.heartbeat('dl-2', ARRAY['m1']), turn_liveness.has_live_turn('dl-2', 'm1');
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.errors WHERE deployment = 'dl-2';

-- a beat for the whole deployment starts the only turn it owes
SELECT turn_liveness.arm_turn('dl-3', 'm1');
SELECT turn_liveness.heartbeat('dl-3');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-3';
-- and only ever lengthens the time of several: the one that is queued keeps its admission
SELECT turn_liveness.arm_turn('dl-3', 'm2');
SELECT turn_liveness.heartbeat('dl-3');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-3';
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-3');
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-3');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-3';
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-3');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-3';
SELECT turn_liveness.sweep_expired_turns();
-- the busy one ends; the queued one is the only one, and starts
SELECT turn_liveness.commit_terminal_reply('dl-3', ARRAY['m1'], '{}');
SELECT turn_liveness.heartbeat('dl-3');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-3';
SELECT turn_liveness.fail_deployment('dl-3');

-- the worker dies with one turn begun and one queued: each has its own code and its own time
SELECT turn_liveness.arm_turn('dl-4', 'm1'), turn_liveness.arm_turn('dl-4', 'm2');
SELECT turn_liveness.heartbeat('dl-4', ARRAY['m1']);
SELECT * FROM tl_test.turns WHERE deployment = 'dl-4';
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.turns WHERE deployment = 'dl-4';
SELECT tl_test.advance('120 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.errors WHERE deployment = 'dl-4';

-- a beat for another turn, another deployment or with an unknown name is none for this one
SELECT turn_liveness.arm_turn('dl-5', 'm1'), turn_liveness.arm_turn('dl-5', 'm2'), turn_liveness.arm_turn('dl-5b', 'm1');
SELECT turn_liveness.heartbeat('dl-5', ARRAY['m1', 'm2']), turn_liveness.heartbeat('dl-5b');
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-5', ARRAY['m2', 'never']), turn_liveness.heartbeat('dl-5b', ARRAY['m2']);
SELECT tl_test.advance('20 s');
SELECT * FROM tl_test.turns WHERE deployment LIKE 'dl-5%';
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.fail_deployment('dl-5'), turn_liveness.fail_deployment('dl-5b');

-- the duration limit: beats or not
SELECT turn_liveness.arm_turn('dl-6', 'm1', '{}', '2 min', '1 min', '3 min'), turn_liveness.arm_turn('dl-6', 'm2', '{}', '2 min', '1 min', '1 h');
SELECT turn_liveness.heartbeat('dl-6', ARRAY['m1', 'm2']);
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-6', ARRAY['m1', 'm2']);
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-6', ARRAY['m1', 'm2']);
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-6', ARRAY['m1', 'm2']);
SELECT * FROM tl_test.turns WHERE deployment = 'dl-6';
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('40 s');
SELECT turn_liveness.heartbeat('dl-6', ARRAY['m1', 'm2']);
SELECT * FROM tl_test.turns WHERE deployment = 'dl-6';
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.errors WHERE deployment = 'dl-6';
SELECT turn_liveness.fail_deployment('dl-6');
-- a re-arm does not move it
SELECT turn_liveness.arm_turn('dl-7', 'm1', '{}', '2 min', '1 min', '3 min');
SELECT tl_test.advance('110 s');
SELECT turn_liveness.arm_turn('dl-7', 'm1', '{}', '2 min', '1 min', '3 min');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-7';
SELECT tl_test.advance('80 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT message_ids, error_code FROM tl_test.errors WHERE deployment = 'dl-7';

-- beats withheld: the deadline freezes as it stands
SELECT turn_liveness.mark_provider_failed('dl-8', 'RATE_LIMITED', 'the provider says 429');
SELECT turn_liveness.arm_turn('dl-8', 'm1'), turn_liveness.arm_turn('dl-8', 'm2');
SELECT turn_liveness.heartbeat('dl-8', ARRAY['m1']);
SELECT turn_liveness.mark_provider_failed('dl-8', 'RATE_LIMITED', 'the provider says 429');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-8';
-- only those that it owes now
SELECT turn_liveness.arm_turn('dl-8', 'm3');
SELECT tl_test.advance('40 s');
-- a beat counts them still, but lengthens nothing
SELECT turn_liveness.heartbeat('dl-8'), turn_liveness.heartbeat('dl-8', ARRAY['m1', 'm2', 'm3']);
SELECT * FROM tl_test.turns WHERE deployment = 'dl-8';
-- the first mark stays
SELECT turn_liveness.mark_provider_failed('dl-8', 'OTHER', 'another reason');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-8';
SELECT tl_test.advance('30 s');
SELECT turn_liveness.has_live_turn('dl-8', 'm1'), turn_liveness.has_live_turn('dl-8', 'm2');
SELECT turn_liveness.heartbeat('dl-8', ARRAY['m1', 'm2', 'm3']);
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.errors WHERE deployment = 'dl-8';
-- cleared: beats lengthen again
SELECT turn_liveness.clear_provider_failed('dl-8');
SELECT turn_liveness.clear_provider_failed('dl-8');
SELECT turn_liveness.heartbeat('dl-8', ARRAY['m2', 'm3']);
SELECT * FROM tl_test.turns WHERE deployment = 'dl-8';
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-8', ARRAY['m2', 'm3']);
SELECT tl_test.advance('50 s');
SELECT * FROM tl_test.turns WHERE deployment = 'dl-8';
SELECT turn_liveness.sweep_expired_turns();
-- after it was cleared the next mark counts
SELECT turn_liveness.mark_provider_failed('dl-8', 'OTHER', 'another reason');
SELECT tl_test.advance('10 min');
SELECT turn_liveness.sweep_expired_turns();
SELECT * FROM tl_test.errors WHERE deployment = 'dl-8';
-- a mark and a clear roll back with their transaction
SELECT turn_liveness.arm_turn('dl-9', 'm1');
BEGIN;
SELECT turn_liveness.mark_provider_failed('dl-9', 'X', 'x');
ROLLBACK;
SELECT state, error_code FROM tl_test.turns WHERE deployment = 'dl-9';
SELECT turn_liveness.mark_provider_failed('dl-9', 'X', 'x');
BEGIN;
SELECT turn_liveness.clear_provider_failed('dl-9');
ROLLBACK;
SELECT state, error_code FROM tl_test.turns WHERE deployment = 'dl-9';
-- several marks in one transaction give no time
SELECT turn_liveness.clear_provider_failed('dl-9'), turn_liveness.heartbeat('dl-9', ARRAY['m1']);
SELECT tl_test.advance('40 s');
BEGIN;
SELECT turn_liveness.mark_provider_failed('dl-9', 'X', 'x'), turn_liveness.clear_provider_failed('dl-9'), turn_liveness.mark_provider_failed('dl-9', 'Y', 'y');
COMMIT;
SELECT * FROM tl_test.turns WHERE deployment = 'dl-9';
-- a caller's own code is the caller's
SELECT turn_liveness.fail_turn('dl-9', 'm1', 'stopped', 'CANCELLED');
SELECT error_code FROM tl_test.errors WHERE deployment = 'dl-9';
SELECT turn_liveness.mark_provider_failed('dl-unheard-of', 'X', 'x'), turn_liveness.clear_provider_failed('dl-unheard-of');

-- a sweep takes as many as it is told
SELECT turn_liveness.arm_turn('dl-10', 'm' || i) FROM generate_series(1, 5) i;
SELECT tl_test.advance('190 s');
SELECT turn_liveness.sweep_expired_turns(2), turn_liveness.sweep_expired_turns(max_turns => 2);
SELECT count(*) FROM tl_test.turns WHERE deployment = 'dl-10';
SELECT turn_liveness.heartbeat('dl-10');
SELECT turn_liveness.sweep_expired_turns(2);
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns(2);
SELECT count(*), min(error_code), max(error_code) FROM tl_test.errors WHERE deployment = 'dl-10';
SET turn_liveness.sweep_batch = 3;
SELECT turn_liveness.arm_turn('dl-11', 'm' || i) FROM generate_series(1, 5) i;
SELECT tl_test.advance('190 s');
SELECT turn_liveness.sweep_expired_turns();
RESET turn_liveness.sweep_batch;
SELECT turn_liveness.sweep_expired_turns();

-- an arm that became visible late is not failed at that instant
BEGIN;
SELECT turn_liveness.arm_turn('dl-12', 'm1');
SELECT tl_test.advance('10 min');
COMMIT;
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.has_live_turn('dl-12', 'm1');
SELECT tl_test.advance('50 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT tl_test.advance('20 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT deployment, error_code FROM tl_test.errors WHERE deployment = 'dl-12';

-- the texts are settings
SET turn_liveness.message_never_started = 'nobody came';
SET turn_liveness.message_unresponsive = 'nobody answered';
SET turn_liveness.message_too_long = 'it took ages';
SET turn_liveness.message_died = 'it died';
SELECT turn_liveness.arm_turn('dl-13', 'm1'), turn_liveness.arm_turn('dl-13', 'm2'), turn_liveness.arm_turn('dl-13', 'm3', duration => '185 s'), turn_liveness.arm_turn('dl-13', 'm4', admission => '1 h');
SELECT turn_liveness.heartbeat('dl-13', ARRAY['m2', 'm3']);
SELECT tl_test.advance('100 s');
SELECT turn_liveness.heartbeat('dl-13', ARRAY['m3']);
SELECT tl_test.advance('50 s');
SELECT turn_liveness.heartbeat('dl-13', ARRAY['m3']);
SELECT tl_test.advance('45 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.fail_deployment('dl-13');
SELECT message_ids, error_code, error FROM tl_test.errors WHERE deployment = 'dl-13';
RESET turn_liveness.message_never_started;
RESET turn_liveness.message_unresponsive;
RESET turn_liveness.message_too_long;
RESET turn_liveness.message_died;

-- a row of others may have any times: the views and the record of its end can be read
SELECT count(turn_liveness.arm_turn('dl-15', 'm' || i)) FROM generate_series(1, 4) i;
UPDATE turn_liveness.turn SET beat = 'infinity' WHERE deployment = 'dl-15' AND message_id = 'm1';
UPDATE turn_liveness.turn SET suspended = 'infinity', wait_until = 'infinity' WHERE deployment = 'dl-15' AND message_id = 'm2';
UPDATE turn_liveness.turn SET started = '-infinity', beat = 'infinity' WHERE deployment = 'dl-15' AND message_id = 'm3';
UPDATE turn_liveness.turn SET lapsed = 'infinity' WHERE deployment = 'dl-15' AND message_id = 'm4';
SELECT message_id, state, extract(year FROM deadline) BETWEEN 1000 AND 3500 AS shown FROM turn_liveness.turns WHERE deployment = 'dl-15' ORDER BY message_id;
SELECT state, extract(year FROM last_beat) BETWEEN 1000 AND 3500 AS shown FROM turn_liveness.get_turn('dl-15', 'm1');
SELECT turn_liveness.mark_provider_failed('dl-15', 'DOWN', NULL);
SELECT count(*) FROM turn_liveness.turn WHERE deployment = 'dl-15' AND lapse_code NOT IN ('u', 'n', 'd');
SELECT turn_liveness.fail_deployment('dl-15');
SELECT count(*), bool_and(coalesce(extract(year FROM last_beat) BETWEEN 1000 AND 3500, true)) AS shown FROM turn_liveness.replies WHERE deployment = 'dl-15';

-- sweep = off, of the database: lapsed turns are shown, not failed; all else goes on
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET turn_liveness.sweep = off', current_database()); END $$;
\c -
SELECT turn_liveness.arm_turn('dl-14', 'm1'), turn_liveness.arm_turn('dl-14', 'm2');
SELECT tl_test.advance('190 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT deployment, message_id, state FROM tl_test.turns WHERE deployment = 'dl-14';
SELECT turn_liveness.fail_turn('dl-14', 'm2', 'stopped', 'CANCELLED');
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET turn_liveness.sweep', current_database()); END $$;
\c -
-- on again: each gets one turn deadline
SELECT turn_liveness.sweep_expired_turns();
SELECT turn_liveness.has_live_turn('dl-14', 'm1');
SELECT tl_test.advance('70 s');
SELECT turn_liveness.sweep_expired_turns();
SELECT message_ids, error_code FROM tl_test.errors WHERE deployment = 'dl-14';
SELECT count(*) FROM turn_liveness.turns;

-- a row that cannot be failed keeps no other from it
CREATE FUNCTION tl_test.poison(deployment text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF deployment = 'dl-bad' THEN RAISE 'this row is poisoned'; END IF;
	RETURN deployment;
END $$;
CREATE INDEX poison ON turn_liveness.reply (tl_test.poison(deployment));
SELECT turn_liveness.arm_turn(d, 'm1') FROM unnest(ARRAY['dl-good1', 'dl-bad', 'dl-good2']) d;
SELECT tl_test.advance('190 s'), turn_liveness.sweep_expired_turns();
SELECT deployment, state FROM turn_liveness.turns WHERE deployment IN ('dl-good1', 'dl-bad', 'dl-good2');
DROP INDEX turn_liveness.poison;
SELECT turn_liveness.sweep_expired_turns();
