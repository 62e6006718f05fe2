# A million live turns: the time of a beat, and what the worker needs.

MILLION=${BENCH_MILLION:-1000000}
million_db() {
	[ -n "${have[bench_million]-}" ] || leases $((MILLION / 10 * 13))
	! want_db bench_million || return 0
	beat_scripts 1000
	beat_scripts $MILLION
	# deadlines as they are by default: 180 s for the first beat, then 60 s
	sql "CALL bench.arm($MILLION, NULL, NULL)"
	worker_pid=$(sql "SELECT worker_pid FROM turn_liveness.stat_row()")
	sql "CREATE TABLE bench.list (id integer PRIMARY KEY, d text[])"
	sql "INSERT INTO bench.list SELECT (g - 1) / 1000, array_agg('w' || g ORDER BY g) FROM generate_series(1, $MILLION) g GROUP BY 1"
	sql "VACUUM ANALYZE bench.list"
	# every turn beats each 20 s, by batches of 1,000, from here to the end
	printf '%s\n' "\\set i (:i + 1) % ($MILLION / 1000)" \
		"SELECT count(*) FROM turn_liveness.heartbeats((SELECT d FROM bench.list WHERE id = :i))" >"$B/million.beats"
	pgbench -n -M prepared -c 1 -T 3600 -D i=0 -R "$(calc "$MILLION / 20000")" -f "$B/million.beats" >"$B/million.out" 2>&1 </dev/null &
	beater=$!
	new_db bench_few
	arm 1000
	export PGDATABASE=bench_million
	worker_watch
}
# until every turn has had its first beat, which looks into the table
million_beaten() {
	PGDATABASE=bench_million wait_for "a beat of each of them" "SELECT beats >= $MILLION FROM turn_liveness.stat_row()"
}
million_end() {
	[ -n "${have[bench_million]-}" ] || return 0
	{ kill "$beater" && wait "$beater" || true; } 2>/dev/null
	{ kill "$watch" && wait "$watch" || true; } 2>/dev/null
	drop_db bench_million bench_few
}

million_ours() { PGDATABASE=bench_million beat_with "heartbeat.$MILLION"; }
few_ours() { PGDATABASE=bench_few beat_with heartbeat.1000; }
# the bar is on time: calls/s the other way round
row_beat_million() {
	local T=$L pinned=$shares warm=$((2 * W))
	million_db
	million_beaten
	sliced beat_million "$N" 1 few_ours million_ours
	paired beat_million "heartbeat, calls/s at 1,000 live turns" "at $MILLION" "le 1.1"
	point beats ours 1000 "$ours"
	point beats ours "$MILLION" "$other"
}

# 200,000 beats in one statement, each for another deployment, in no order of theirs,
# for the second time in the session
CALLS=200000
session_us() {
	local once="SELECT bench.us('SELECT count($1(''w'' || (1 + g * 7919::bigint % $MILLION))) FROM generate_series(1, $CALLS) g') / $CALLS;"
	pg <<<"$once $once" | tail -n 1
}
session_ours() { session_us turn_liveness.heartbeat; }
session_noop() { session_us bench.noop; }
row_beat_session() {
	million_db
	million_beaten
	pair_op=diff
	pairs beat_session "$N" session_ours session_noop
	pair_op=ratio
	paired beat_session "heartbeat inside one session, µs, $MILLION live turns" "no-op; the difference" "le 0.5"
}

# CPU of the worker: nanoseconds of its only thread, in each second.  It looks at
# a turn once in its turn deadline, at first 60 s after it was armed; so the quick
# form counts 60 s from the end of the arming, in which every turn has one look,
# while other rows are measured; the long form the two minutes that follow these.
# A million turns armed in one go are too many for the worker's mailbox: it
# searches the table for them, up to a minute later.  Such seconds (over 10 % of a
# core: looks never take that much) belong to the arming; they are left out and
# shown beside.
worker_cpu() { cut -d' ' -f1 "/proc/$worker_pid/schedstat"; }
worker_watch() {
	local i before after
	before=$(worker_cpu)
	for ((i = 0; i < ($([ $mode = quick ] && echo 60 || echo 180)); i++)); do
		sleep 1
		after=$(worker_cpu)
		echo $((after - before))
		before=$after
	done >"$B/worker_cpu" &
	watch=$!
}
row_worker_cpu() {
	million_db
	wait $watch
	local percent all
	read -r percent all < <(tail -n "$([ $mode = quick ] && echo 60 || echo 120)" "$B/worker_cpu" | awk '{ all += $1; if ($1 < 1e8) looks += $1 } END { printf "%.3f %.3f\n", looks / NR / 1e7, all / NR / 1e7 }')
	result worker_cpu "CPU of the worker, % of a core, $MILLION live turns beating every 20 s (searching what was armed included: $all)" "$percent" - - "$percent" "" "" "le 0.8"
	kill -0 $beater || fatal "the beats ended: $(cat "$B/million.out")"
	[ "$(sql "SELECT failed_unresponsive + failed_never_started + beats_in_rows FROM turn_liveness.stat_row()")" = 0 ] ||
		fatal "turns lapsed, or beats went to rows: $(sql "SELECT turn_liveness.stat_row()")"
	million_end
}

row_shmem() {
	leases $((MILLION / 10 * 13))
	sql "SELECT sum(allocated_size), (SELECT setting FROM pg_settings WHERE name = 'turn_liveness.lease_capacity') FROM pg_shmem_allocations WHERE name ILIKE '%turn_liveness%'" | tr '|' ' ' >"$B/shmem"
	local size capacity
	read -r size capacity <"$B/shmem"
	result shmem "shared memory ÷ lease capacity ($capacity), bytes" "$(calc "$size / $capacity")" - - "$(calc "$size / $capacity")" "" "" "le 96"
}
