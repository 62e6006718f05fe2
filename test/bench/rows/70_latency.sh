# How soon a listener is woken: after a worker session's end, after a commit.

row_latency() {
	new_db bench_latency
	db_set "SET turn_liveness.reconnect_window = 0"
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

# One commit at a time on an idle server, as the one session sends COMMIT, until the
# other has the notification: a reply's, and a plain NOTIFY's.
wakeup() { # wakeup ours|plain: the median of a round, ms
	"$B/client" wakeup "$1" "$wakeups" >"$B/wakeup" || return 1
	cat "$B/wakeup" >>"$B/wakeup.$1"
	median <"$B/wakeup"
}
wakeup_ours() { wakeup ours; }
wakeup_plain() { wakeup plain; }
row_wakeup() {
	new_db bench_latency
	sql "CREATE TABLE bench.commits (name text)"
	local wakeups=60
	[ $mode = quick ] || wakeups=100
	wakeup_ours >/dev/null
	wakeup_plain >/dev/null
	rm "$B/wakeup.ours" "$B/wakeup.plain"
	pair_op=diff
	pairs wakeup "$N" wakeup_ours wakeup_plain
	pair_op=ratio
	result wakeup "idle: from COMMIT of a reply to the listener's wake-up, median, ms (p99 $(human "$(quantile 0.99 <"$B/wakeup.ours")"))" "$(human "$ours")" \
		"plain NOTIFY (p99 $(human "$(quantile 0.99 <"$B/wakeup.plain")")); the difference" "$(human "$other")" "$rmed" "$rmin" "$rmax" "le 2"
	drop_db bench_latency
}
