# From a worker session's end to the listener's wake-up.

row_latency() {
	new_db bench_latency
	sql "ALTER DATABASE bench_latency SET turn_liveness.reconnect_window = 0"
	wait_for "the worker" "SELECT worker_state = 'running' FROM turn_liveness.stat_row()"
	sleep 1.5 # settings act within a second
	sql "CREATE TABLE bench.commits (name text)"
	local n=200 p99 commit
	[ $mode = quick ] || n=3000
	"$B/client" latency $n >"$B/latency" || fatal "latency"
	cut -d' ' -f1 "$B/latency" >"$B/plot.latency"
	p99=$(quantile 0.99 <"$B/plot.latency")
	commit=$(cut -d' ' -f2 "$B/latency" | median)
	result latency "worker session's end to the listener's wake-up, ms, p99 of $n (median $(median <"$B/plot.latency"))" "$p99" \
		"10 ms + 2 median commits of $commit ms" "$(calc "10 + 2 * $commit")" "$(calc "$p99 / (10 + 2 * $commit)")" "" "" "le 1"
	drop_db bench_latency
}
