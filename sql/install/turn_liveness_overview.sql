-- One look at turn_liveness, for a person at a terminal:
--
--   psql -d app -f "$(pg_config --sharedir)/extension/turn_liveness_overview.sql"
--
-- What is owed, what failed in the last hour and why, what is stuck, which holder
-- has what, and whether the worker is well.  It needs what grant_monitor grants
-- (with pg_read_all_stats it says more of the process that holds a turn), reads
-- only, works on a standby, and fits a screen of 50 lines and 120 columns.  Long
-- names are cut.  The whole story of one message:
--
--   SELECT * FROM turn_liveness.get_turn('conv-7', 'm1');

\set QUIET on
\set ON_ERROR_STOP on
\pset pager off
\pset border 0
\pset footer off
\pset null ''
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

SELECT format('database %s, %s', current_database(), to_char(now(), 'YYYY-MM-DD HH24:MI:SS')) AS title
\gset
SELECT line AS "TURN_LIVENESS", text AS :"title"
FROM turn_liveness.stat, LATERAL (VALUES
	('worker', concat_ws(', ', worker_state, 'process ' || worker_pid,
		'ticked ' || round(extract(epoch FROM tick_age), 1) || ' s ago')),
	('PROBLEM', left(worker_problem, 100)),
	('', substr(worker_problem, 101, 100)),
	('HELD BACK', CASE WHEN grace IS NOT NULL THEN
		grace || ' until ' || coalesce(to_char(grace_until, 'HH24:MI:SS'), '?') END),
	('turns', concat_ws(', ', turns_owed || ' owed', turns_lapsed || ' lapsed',
		turns_blocked || ' of these held by transactions')),
	('since ' || to_char(stats_reset, 'MM-DD HH24:MI'), concat_ws(', ',
		armed || ' armed', answered || ' answered',
		failed_unresponsive + failed_never_started + failed_died + failed_too_long
		+ failed_wait_expired + failed_stopped + failed_rejected + failed_provider
		+ failed_other || ' failed', discharged || ' discharged', dead || ' dead replies')),
	('full', concat_ws(', ', leases_used || ' of ' || lease_capacity || ' leases',
		beats_in_rows || ' beats in rows', attach_used || ' of ' || attach_capacity || ' attached',
		round(100 * pg_notification_queue_usage()) || ' % of the notification queue'))
	) AS lines (line, text)
WHERE text <> '';

-- owed, by state and platform: the five largest
SELECT state AS "OWED", left(platform, 40) AS platform, count(*) AS turns,
	   date_trunc('second', clock_timestamp() - min(armed_at)) AS "armed before",
	   date_trunc('second', min(deadline) - clock_timestamp()) AS "next deadline in",
	   count(*) FILTER (WHERE deadline < clock_timestamp()) AS overdue
FROM turn_liveness.turns t GROUP BY state, t.platform ORDER BY 3 DESC, 1, 2 LIMIT 5;

-- failed in the last hour: by code, with the two latest of each
SELECT CASE nth WHEN 1 THEN left(coalesce(error_code, '(no code)'), 20) ELSE '' END AS "FAILED IN AN HOUR",
	   CASE nth WHEN 1 THEN turns END AS turns, to_char(created_at, 'HH24:MI:SS') AS "at",
	   left(deployment, 18) AS deployment, left(array_to_string(message_ids, ','), 10) AS message,
	   left(worker, 12) AS worker, generation AS gen, decided_by AS by,
	   date_trunc('second', created_at - armed_at) AS "after",
	   date_trunc('second', created_at - last_beat) AS silent
FROM (
	SELECT r.*, count(*) OVER code AS turns,
		   row_number() OVER (code ORDER BY created_at DESC, reply_id DESC) AS nth
	FROM (
		SELECT reply_id, error_code, created_at, deployment, message_ids, worker, generation,
			   decided_by, armed_at, last_beat
		FROM turn_liveness.replies
		WHERE outcome = 'error' AND created_at > now() - interval '1 hour') r
	WINDOW code AS (PARTITION BY error_code)) f
WHERE nth <= 2 ORDER BY f.turns DESC, error_code, nth LIMIT 8;

-- stuck: turns that a transaction holds, and replies that wait
SELECT what AS "STUCK", left(place, 30) AS "where", how_many AS "how many",
	   date_trunc('second', age) AS "for", left(why, 50) AS why
FROM (
	SELECT 1 AS rank, 'turn held open' AS what, t.deployment || ' ' || t.message_id AS place,
		   1::bigint AS how_many, clock_timestamp() - t.deadline AS age,
		   CASE t.blocked_by WHEN 0 THEN 'a prepared transaction'
		   ELSE concat_ws(' ', 'process', t.blocked_by, a.state, a.usename, a.application_name) END AS why
	FROM turn_liveness.turns t LEFT JOIN pg_stat_activity a ON a.pid = t.blocked_by
	WHERE t.blocked_by IS NOT NULL
	UNION ALL
	SELECT 2, 'turns overdue', platform, count(*), clock_timestamp() - min(deadline),
		   'held back, or the worker is not well'
	FROM turn_liveness.turns
	WHERE blocked_by IS NULL AND deadline < clock_timestamp() - interval '1 min' GROUP BY platform
	UNION ALL
	SELECT 3, 'replies ' || state, platform, count(*), now() - min(created_at),
		   concat_ws(', ', 'claimed ' || max(attempt) || ' times at most', max(last_error))
	FROM turn_liveness.replies
	WHERE state = 'dead' OR state = 'due' AND due_at < now() - interval '1 min' GROUP BY platform, state
	UNION ALL
	SELECT 4, 'claims timed out', gateway, count(*), now() - min(claimed_at),
		   'it claimed and did not acknowledge'
	FROM turn_liveness.replies
	WHERE state = 'due' AND gateway IS NOT NULL AND claimed_at IS NOT NULL AND last_error IS NULL
	GROUP BY gateway) s
ORDER BY rank, age DESC LIMIT 6;

-- the holders: workers, humans, gateways, the largest of each
SELECT kind AS "HOLDER", left(name, 40) AS name, holds,
	   date_trunc('second', longest) AS longest, date_trunc('second', silent) AS silent
FROM (
	SELECT h.*, row_number() OVER (PARTITION BY kind ORDER BY n DESC, name) AS nth
	FROM (
		SELECT 1 AS rank, 'worker' AS kind, coalesce(worker, '(no name)') AS name,
			   count(*) || ' turns' AS holds, count(*) AS n,
			   clock_timestamp() - min(first_beat) AS longest, clock_timestamp() - min(last_beat) AS silent
		FROM turn_liveness.turns WHERE state IN ('running', 'withheld') GROUP BY worker
		UNION ALL
		SELECT 2, 'human', coalesce(reason, '(no reason)'), count(*) || ' turns wait', count(*),
			   clock_timestamp() - min(armed_at), NULL
		FROM turn_liveness.turns WHERE state = 'suspended' GROUP BY reason
		UNION ALL
		SELECT 3, 'rescue', 'was with ' || coalesce(worker, '(no name)'), count(*) || ' turns offered',
			   count(*), clock_timestamp() - min(armed_at), clock_timestamp() - min(last_beat)
		FROM turn_liveness.turns WHERE state = 'lapsed' AND deadline > clock_timestamp() GROUP BY worker
		UNION ALL
		SELECT 4, 'gateway', gateway, count(*) || ' replies claimed', count(*),
			   now() - min(claimed_at), NULL
		FROM turn_liveness.replies WHERE state = 'claimed' GROUP BY gateway) h) n
WHERE nth <= CASE kind WHEN 'worker' THEN 3 ELSE 2 END ORDER BY rank, nth;
COMMIT;
