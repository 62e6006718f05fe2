# heartbeat against a C function that does nothing, 100,000 live turns.

row_heartbeat() {
	new_db bench_beat
	sql "CALL bench.arm(100000, '3 hours', '3 hours')"
	echo "\\set d random(1, 100000)
SELECT turn_liveness.heartbeat('w' || :d)" >"$B/heartbeat.pgb"
	echo "\\set d random(1, 100000)
SELECT bench.noop('w' || :d)" >"$B/noop.pgb"
	heartbeat_ours() { load "$T" 16 -f "$B/heartbeat.pgb"; }
	heartbeat_noop() { load "$T" 16 -f "$B/noop.pgb"; }
	heartbeat_ours >/dev/null
	pairs heartbeat "$N" heartbeat_ours heartbeat_noop
	paired heartbeat "heartbeat, calls/s, 100,000 live turns" "no-op C function" "ge 0.92"
	drop_db bench_beat
}
