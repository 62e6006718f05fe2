--
-- The settings: names, defaults, contexts, ranges.
--
\pset null '(null)'
SELECT name, vartype, boot_val, unit, context FROM pg_settings WHERE name LIKE 'turn\_liveness.%' AND name NOT LIKE '%.message\_%' ORDER BY name COLLATE "C";
SELECT name, context, boot_val <> '' AS has_text FROM pg_settings WHERE name LIKE 'turn\_liveness.message\_%' ORDER BY name COLLATE "C";
SELECT name AS without_description FROM pg_settings WHERE name LIKE 'turn\_liveness.%' AND coalesce(short_desc, '') = '';
-- the defaults as the contract names them
SELECT * FROM (VALUES ('admission_deadline', '3min'), ('turn_deadline', '1min'), ('max_turn_duration', '4h'), ('mass_silence_hold', '1min'),
					  ('sweep', 'on'), ('reconnect_window', '2s'), ('claim_timeout', '30s'), ('retry_delay', '1s'), ('max_attempts', '30'),
					  ('retention', '1d'), ('undelivered_retention', '7d'), ('notify_channel', 'turn_liveness'), ('notify_detail', 'on'),
					  ('max_reply_size', '1MB'), ('max_routing_size', '64kB'), ('restore_grace', '10min'), ('log_failures', 'on')) AS want (name, value)
 WHERE current_setting('turn_liveness.' || name, true) IS DISTINCT FROM value;

-- all time settings take milliseconds and up; a range is refused when it is set
SELECT s, tl_test.run(format('SET turn_liveness.%s = ''-1ms''', s)) AS negative, tl_test.run(format('SET turn_liveness.%s = 0', s)) AS zero,
	   tl_test.run(format('SET turn_liveness.%s = ''5ms''', s)) AS "5ms", tl_test.run(format('SET turn_liveness.%s = ''1000000h''', s)) AS huge,
	   tl_test.run(format('SET turn_liveness.%s = ''soon''', s)) AS words, tl_test.run(format('RESET turn_liveness.%s', s)) AS reset
  FROM unnest(ARRAY['admission_deadline', 'turn_deadline', 'max_turn_duration', 'mass_silence_hold', 'reconnect_window', 'claim_timeout',
					'retry_delay', 'retention', 'undelivered_retention', 'restore_grace']) s;
-- no claim lasts longer than a delay may
SELECT tl_test.run('SET turn_liveness.claim_timeout = ''1 d'''), tl_test.run('SET turn_liveness.claim_timeout = ''86400001 ms'''), tl_test.run('RESET turn_liveness.claim_timeout');
SELECT tl_test.run('SET turn_liveness.max_attempts = 0'), tl_test.run('SET turn_liveness.sweep_batch = 0'), tl_test.run('SET turn_liveness.max_reply_size = 0'),
	   tl_test.run('SET turn_liveness.max_routing_size = 0'), tl_test.run('SET turn_liveness.sweep = 5'), tl_test.run('SET turn_liveness.enabled = ''perhaps''');
SELECT tl_test.run(format('SET turn_liveness.notify_channel = %L', repeat('c', 64))), tl_test.run('SET turn_liveness.notify_channel = ''''');
RESET turn_liveness.notify_channel;
SELECT tl_test.run('SET turn_liveness.message_died = ''''');
-- what sizes shared memory needs a restart
SELECT name, tl_test.run(format('SET %s = %L', name, boot_val)) FROM pg_settings WHERE name LIKE 'turn\_liveness.%' AND context = 'postmaster' ORDER BY 1;
-- the prefix is ours
\set VERBOSITY sqlstate
SET turn_liveness.no_such_setting = 1;
\set VERBOSITY default

-- an ordinary user sets nothing that decides which turns fail or what is kept; ALTER DATABASE does
CREATE ROLE tl_guc_user;
SET ROLE tl_guc_user;
SELECT name, tl_test.run(format('SET %s = %L', name, boot_val)) FROM pg_settings WHERE name LIKE 'turn\_liveness.%' AND name <> 'turn_liveness.attach_capacity' AND name <> 'turn_liveness.lease_capacity' ORDER BY name COLLATE "C";
SELECT count(*) FROM pg_settings WHERE name LIKE 'turn\_liveness.%' AND setting IS NULL;
RESET ROLE;
DROP ROLE tl_guc_user;
SELECT name, tl_test.run(format('ALTER DATABASE %I SET %s = %L', current_database(), name, boot_val)) AS set, tl_test.run(format('ALTER DATABASE %I RESET %s', current_database(), name)) AS reset
  FROM pg_settings WHERE name LIKE 'turn\_liveness.%' AND context <> 'postmaster' ORDER BY name COLLATE "C";

-- a setting that is shorter than a deadline within it: the longer time holds
SET turn_liveness.max_turn_duration = '1min';
SELECT turn_liveness.arm_turn('guc-1', 'm1');
RESET turn_liveness.max_turn_duration;
SELECT tl_test.ahead(deadline) FROM turn_liveness.turns WHERE deployment = 'guc-1';
SELECT turn_liveness.discharge_turn('guc-1', 'm1');
