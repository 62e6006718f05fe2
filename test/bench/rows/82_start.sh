# The start of a worker that finds so many owed turns: how soon it has looked at
# all, what memory it takes, and whether a turn that is due then fails in time.
#
# The turns are copies of one that arm_turn wrote.  Each may wait for three hours,
# so none lapses.  Half of them may be silent for a minute: the worker looks at
# those once a minute.  The others are as patient as they wait: the worker's
# calendar ends three and a half minutes ahead, and files them anew from there.

START_COUNTS=${BENCH_START:-$([ "$mode" = quick ] && echo "10000 100000" || echo "100000 1000000 10000000")}
START_SECONDS=$([ "$mode" = quick ] && echo 3 || echo 240)

start_worker() { sql "SELECT worker_pid FROM turn_liveness.stat_row() WHERE worker_state = 'running'"; }
# start_memory FIELD: megabytes, of the worker's process
start_memory() { awk -v field="$1:" '$1 == field { printf "%.0f", $2 / 1024 }' "/proc/$worker_pid/status"; }

# due_turns SECONDS: turns that are due one after the other; milliseconds from the
# deadline of each to its failure
due_turns() {
	local end run
	sql "CREATE SEQUENCE bench.due"
	end=$(($(date +%s) + $1)) run=$(next_run)
	{
		while [ "$(date +%s)" -lt $end ]; do
			echo "SELECT turn_liveness.arm_turn('due$run', 'm' || nextval('bench.due'), '{\"platform\": \"api\"}', '1 s', '1 s');"
			sleep 0.1
		done
	} | pg >/dev/null
	wait_for "the turns that were due" "SELECT NOT EXISTS (SELECT FROM turn_liveness.turn WHERE deployment = 'due$run' AND outcome IS NULL)"
	sql "SELECT extract(epoch FROM created_at - armed_at) * 1000 - 1000 FROM turn_liveness.reply WHERE deployment = 'due$run'" >"$B/due"
}

row_start() {
	local count before=0 seconds small i worker_pid
	unlisten
	new_db bench_start
	sql "ALTER DATABASE bench_start SET turn_liveness.enabled = off"
	wait_for "the worker to leave" "SELECT worker_state = 'disabled' FROM turn_liveness.stat_row()"
	sql "SELECT turn_liveness.arm_turn('w0', 'm0', '{\"platform\": \"api\", \"channelId\": \"c1\", \"userId\": \"u1\", \"organizationId\": \"o1\"}', '3 hours')" >/dev/null
	sql "CREATE TABLE bench.turn AS TABLE turn_liveness.turn"
	pg -f test/bench/sql/copies.sql
	for count in $START_COUNTS; do
		sql "ALTER DATABASE bench_start SET turn_liveness.enabled = off"
		wait_for "the worker to leave" "SELECT worker_state = 'disabled' FROM turn_liveness.stat_row()"
		sql "SELECT bench.copies('turn', $((before + 1)), $count, \$j\${\"deployment\": \"'w' || g\", \"conversation_id\": \"'w' || g\", \"message_id\": \"'m' || 1000000000 + g\",
			\"begun\": \"t.begun + g * interval '1 us'\", \"armed\": \"t.armed + g * interval '1 us'\", \"silence_ms\": \"CASE WHEN g % 2 = 0 THEN t.silence_ms ELSE t.admission_ms END\",
			\"next_check\": \"CASE WHEN g % 2 = 0 THEN t.next_check ELSE t.armed + t.admission_ms * interval '1 ms' END + g * interval '1 us'\"}\$j\$)" >/dev/null
		sql "VACUUM ANALYZE"
		sql "ALTER DATABASE bench_start RESET turn_liveness.enabled"
		tl_server_restart
		worker_pid=
		for ((i = 0; i < 10000 && !worker_pid; i++)); do
			sleep 0.02
			worker_pid=$(start_worker)
		done
		[ -n "$worker_pid" ] || fatal "the worker does not run"
		seconds=$(sql "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")
		small=${small:-$(start_memory RssAnon)}
		point start "seconds until it runs" "$count" "$seconds"
		point start "its own memory, 100 MB" "$count" "$(calc "$(start_memory RssAnon) / 100")"
		before=$count
	done
	result start "from the server's start until the worker has looked at $count owed turns, s" "$(human "$seconds")" - - "$(human "$seconds")" "" "" -
	result start_memory "the worker's own memory then, MB (at its most, with the shared memory that it touched: $(start_memory VmHWM))" "$(start_memory RssAnon)" "with ${START_COUNTS%% *}" "$small" "$(calc "$(start_memory RssAnon) / $small")" "" "" -
	due_turns "$START_SECONDS"
	result start_due "from the deadline of one turn to its failure, ms, median of $(wc -l <"$B/due") in the next $START_SECONDS s (worst $(human "$(quantile 1 <"$B/due")"))" "$(human "$(median <"$B/due")")" - - "$(human "$(median <"$B/due")")" "" "" -
	drop_db bench_start
}
