# Turns a second with 10, 100 and 500 sessions listening: each notification wakes
# all of them.  And what notify_interval gives back.

# listening NAME N: turns a second with N sessions listening
listening() {
	local before rate
	listen "$2" turn_liveness
	[ "$(sql "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN \"turn_liveness\"'")" = "$2" ] ||
		fatal "not $2 sessions listen"
	before=$(sent)
	rate=$(PGOPTIONS=$by_index load_cpu "$1" "$T" 64 -D n=0 -D run="$(next_run)" -f "$B/ours.turn") || return 1
	# CPU of a turn, turns, notifications
	echo "$(tail -n 1 "$B/cpu.$1") $(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$B/pgbench.out") $(($(sent) - before))" >>"$B/woken.$1"
	unlisten
	echo "$rate"
}
listening_10() { listening listen_10 10; }
listening_100() { listening listen_100 100; }
listening_500() { listening listen_500 500; }
# wake_us N: the server's CPU for one wake-up of one listener beyond the first ten, of each pair
wake_us() {
	tail -n "$P" "$B/woken.listen_10" | paste -d' ' - "$B/woken.listen_$1" |
		awk -v n="$1" '$6 { printf "%.2f\n", ($4 - $1) * $5 / $6 / (n - 10) }' | median
}

row_listeners() {
	local n T=$L warm=$W
	[ $mode = long ] || T=1 warm=1
	unlisten
	tl_server_restart "max_connections = 700"
	turns_db
	unlisten
	wait_for "the worker" "SELECT worker_state = 'running' FROM turn_liveness.stat_row()"
	rm -f "$B"/woken.*
	listening_10 >/dev/null
	for n in 100 500; do
		pairs listeners_$n "$P" listening_$n listening_10
		paired listeners_$n "turns/s, 64 clients, $n listening" "10 listening" -
		result wake_$n "the server's CPU for waking one of $n listeners once, µs" "$(wake_us $n)" - - "$(wake_us $n)" "" "" -
	done
	pairs listeners_slow "$P" listening_slow listening_500
	paired listeners_slow "turns/s, 64 clients, 500 listening, notify_interval = 250 ms" "20 ms" -
	turns_end
	tl_server_restart "max_connections = 200"
}
listening_slow() {
	db_set "SET turn_liveness.notify_interval = '250ms'"
	listening listen_slow 500
	db_set "RESET turn_liveness.notify_interval"
}
