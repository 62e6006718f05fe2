# Beats, 100,000 live turns: heartbeat against a C function that does nothing,
# what it writes, heartbeats, and the peers' beats.

beat_scripts() { # beat_scripts LIVE: one script for each way
	local to="\\set d random(1, $1)"
	printf '%s\n' "$touch" "$to" "SELECT turn_liveness.heartbeat('w' || :d)" >"$B/heartbeat.$1"
	printf '%s\n' "$touch" "$to" "SELECT bench.noop('w' || :d)" >"$B/noop.$1"
	printf '%s\n' "$touch" "$to" "SELECT turn_liveness.heartbeat('w' || :d, ARRAY['m'], ARRAY[1])" >"$B/fenced.$1"
	printf '%s\n' "$touch" "$to" "SELECT bench.noop('w' || :d, ARRAY['m'], ARRAY[1])" >"$B/noop_fenced.$1"
	printf '%s\n' "$to" "SELECT plain.heartbeat('w' || :d)" >"$B/plain.$1"
	# extendTurnDeadlines of the origin, first version; pgbench would take a colon for a variable
	printf '%s\n' "$to" "UPDATE origin.runs SET run_at = now() + (60 * interval '1 second') WHERE status = 'pending' AND run_type = 'internal' AND queue_name = E'internal\\072turn_timeout' AND action_input->>'deploymentName' = 'w' || :d" >"$B/origin.$1"
}
beat_with() { load "$T" 16 -f "$B/$1"; }
arm() { # arm LIVE: as many turns, one a deployment, that do not lapse
	sql "CALL bench.arm($1, '3 hours', '3 hours')"
	sql "VACUUM ANALYZE turn_liveness.turn"
	# the first beat of each looks into the table; what is measured are the others
	sql "SELECT count(turn_liveness.heartbeat('w' || g)) FROM generate_series(1, $1) g" >/dev/null
}
beat_db() {
	leases 266667
	! want_db bench_beat || return 0
	arm 100000
	beat_scripts 100000
}

heartbeat_ours() { beat_with heartbeat.100000; }
heartbeat_noop() { beat_with noop.100000; }
# 16 sessions, half of them on each of two cores, and so their pgbench: otherwise
# the ratio is that of how often the kernel moves them.
row_heartbeat() {
	local T=$L pinned=$shares warm=$W
	beat_db
	sliced heartbeat "$N" 1 heartbeat_ours heartbeat_noop
	paired heartbeat "heartbeat, calls/s, 100,000 live turns" "no-op C function" "ge 0.95"
	point beats ours 100000 "$ours"
	point beats "no-op" 100000 "$other"
}

# The same with a name and a generation: the lease of each turn is made first.
fenced_ours() { beat_with fenced.100000; }
fenced_noop() { beat_with noop_fenced.100000; }
row_fenced() {
	local T=$L pinned=$shares warm=$W
	beat_db
	sql "SELECT count(turn_liveness.heartbeat('w' || g, ARRAY['m'], ARRAY[1])) FROM generate_series(1, 100000) g" >/dev/null
	sliced fenced "$N" 1 fenced_ours fenced_noop
	paired fenced "heartbeat with a name and a generation, calls/s, 100,000 live turns" "no-op C function" "ge 0.90"
}

# WAL of one session's beats is counted by EXPLAIN, in that session alone.
# What all sessions did to the rows is counted by the statistics.
row_beat_cost() {
	beat_db
	local changes="SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_all_tables WHERE schemaname = 'turn_liveness'"
	local before after wal xids
	before=$(sql "SELECT pg_stat_force_next_flush()" >/dev/null; sql "$changes")
	wal=$(pg <<-'X' | sed -n 's/.*"WAL Bytes": \([0-9]*\).*/\1/p' | head -n 1
		EXPLAIN (ANALYZE, WAL, COSTS off, FORMAT json) SELECT count(turn_liveness.heartbeat('w' || g)) FROM generate_series(1, 100000) g;
	X
	)
	xids=$(sql "SELECT count(pg_current_xact_id_if_assigned()) FROM (SELECT count(turn_liveness.heartbeat('w' || g)) FROM generate_series(1, 100000) g OFFSET 0) x")
	beat_with heartbeat.100000 >/dev/null
	after=$(sql "$changes")
	result beat_cost "of 100,000 beats: WAL bytes + transaction ids + row versions" \
		"$wal + $xids + $((after - before))" - - "$((wal + xids + after - before))" "" "" "le 0"
}

# 100 lists of 1,000 deployments, one pgbench script each, given as parameters.
heartbeats_scripts() {
	local i
	batch=()
	for ((i = 0; i < 100; i++)); do
		echo "SELECT * FROM turn_liveness.heartbeats(:l$i)" >"$B/batch.$i"
		batch+=(-f "$B/batch.$i" -D "l$i=$(seq -s, -f 'w%.0f' $((i * 1000 + 1)) $((i * 1000 + 1000)) | sed 's/.*/{&}/')")
	done
}
heartbeats_ours() { calc "1000 * $(load "$T" 16 "${batch[@]}")"; }
row_heartbeats() {
	local warm=$W
	beat_db
	heartbeats_scripts
	heartbeats_ours >/dev/null
	pairs heartbeats "$N" heartbeats_ours heartbeat_ours
	paired heartbeats "leases/s through heartbeats, 1,000 a call" "through heartbeat" "ge 50"
}

beat_plain() { beat_with "plain.$live"; }
beat_origin() { beat_with "origin.$live"; }
beat_ours() { beat_with "heartbeat.$live"; }
row_beat_peers() {
	local warm=$W
	million_db
	# the peers' beats leave dead rows, which autovacuum takes when it comes
	local lives="1000 100000"
	[ $mode = quick ] || lives="1000 10000 100000"
	for live in $lives; do
		new_db bench_peer
		arm $live
		beat_scripts $live
		pg -f test/bench/sql/origin.sql -f test/bench/sql/plain.sql >/dev/null
		sql "SELECT origin.fill($live, '3 hours'); SELECT count(plain.arm_turn('w' || g, 'm', '{\"platform\": \"api\", \"userId\": \"u1\"}', '3 hours', '3 hours')) FROM generate_series(1, $live) g; SELECT count(plain.heartbeat('w' || g)) FROM generate_series(1, $live) g" >/dev/null
		sql "VACUUM ANALYZE"
		if [ $live = 100000 ]; then
			pairs beat_plain "$P" beat_ours beat_plain
			paired beat_plain "heartbeat, calls/s, 100,000 live turns" "PL/pgSQL, a row for each beat" -
			point beats "PL/pgSQL" $live "$other"
			pairs beat_origin "$P" beat_ours beat_origin
			paired beat_origin "heartbeat, calls/s, 100,000 live turns" "the origin's extend" -
			point beats "origin" $live "$other"
		else
			measured beats ours $live beat_ours
			measured beats "PL/pgSQL" $live beat_plain
			measured beats "origin" $live beat_origin
		fi
		drop_db bench_peer
	done
}
