# Turns a second with notifications on, as by default, and off (notify_channel
# empty); ten sessions listen.  And that nothing is left out of what they are told.

notify_row_db() { # the listeners of this row alone
	turns_db
	unlisten
	listening_since=$(sent)
	listen 10 turn_liveness
}
sent() { sql "SELECT notifications FROM turn_liveness.stat_row()"; }
told() { # told on|off: turns a second
	local before rate
	before=$(sent)
	if [ "$1" = on ]; then
		db_set "RESET turn_liveness.notify_channel"
		# a worker begins with one that says "look"
		wait_for "the worker to notify" "SELECT notifications > $before FROM turn_liveness.stat_row()"
	else
		db_set "SET turn_liveness.notify_channel = ''"
	fi
	[ "$(sql "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN \"turn_liveness\"'")" = 10 ] ||
		fatal "not ten sessions listen"
	before=$(sent)
	rate=$(PGOPTIONS=$by_index load_cpu "told_$1" "$T" 64 -D n=0 -D run="$(next_run)" -f "$B/ours.turn") || return 1
	case $1$(($(sent) - before)) in
	on0) fatal "notifications are on, and none was sent" ;;
	off0 | on*) ;;
	off*) fatal "notifications are off, and some were sent" ;;
	esac
	echo "$rate"
}
told_on() { told on; }
told_off() { told off; }

# One more round, not measured: ten sessions keep every payload, every turn has a
# conversation of its own.  The names of two replies committed afterwards, one
# after the other, show that all that was to come has come.
told_all() {
	local i j k=0 run first total made named looks missed
	db_set "RESET turn_liveness.notify_channel"
	unlisten
	listen_mode=collect listen 10 turn_liveness
	run=$(next_run)
	sed "s/'w' || :d/'c' || :run || '-' || :client_id || '-' || :n/g" "$B/ours.turn" >"$B/ours.told"
	first=$(sql "SELECT coalesce(max(reply_id), 0) FROM turn_liveness.reply")
	PGOPTIONS=$by_index load "$T" 64 -D n=0 -D run="$run" -f "$B/ours.told" >/dev/null || return 1
	made=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$B/pgbench.out")
	for ((i = 0; i < 20 && k < 2; i++)); do
		sql "SELECT turn_liveness.arm_turn('end-$run-$i', 'm'), turn_liveness.commit_terminal_reply('end-$run-$i', '{m}', '{}')" >/dev/null
		for ((j = 0; j < 40; j++)); do
			[ "$(grep -c "\"end-$run-$i\"" "$B/listen.out")" != 10 ] || break
			sleep 0.05
		done
		# not named, but covered by a look: another
		[ $j = 40 ] && k=0 || k=$((k + 1))
	done
	[ $k = 2 ] || fatal "the listeners were not told of replies to an idle server"
	unlisten
	grep '	.*	' "$B/listen.out" >"$B/told"
	IFS='|' read -r total named looks missed < <(pg <<-X
		CREATE TEMP TABLE told (listener integer, at double precision, payload jsonb);
		\\copy told FROM '$B/told' (FORMAT csv, DELIMITER E'\\t', QUOTE E'\\x01')
		CREATE TEMP TABLE named AS SELECT DISTINCT listener, name FROM told, jsonb_array_elements_text(payload->'conversations') name;
		ANALYZE named;
		SELECT count(*) / 10, count(*) FILTER (WHERE named) / 10, count(*) FILTER (WHERE NOT named AND looked) / 10,
			   count(DISTINCT reply_id) FILTER (WHERE NOT named AND NOT looked)
		FROM (SELECT r.reply_id, n.name IS NOT NULL AS named,
					 coalesce(extract(epoch FROM r.created_at) < l.at, false) AS looked
			  FROM turn_liveness.reply r CROSS JOIN generate_series(0, 9) s(listener)
			  LEFT JOIN (SELECT listener, max(at) AS at FROM told WHERE payload = '{}' GROUP BY 1) l ON l.listener = s.listener
			  LEFT JOIN named n ON (n.listener, n.name) = (s.listener, r.conversation_id)
			  WHERE r.reply_id > $first AND r.conversation_id LIKE 'c$run-%') x;
	X
	)
	[ "$total" = "$made" ] || fatal "$made turns, but $total replies"
	result notify_named "of $total conversations with a reply: named to all 10 listening + covered by {} + neither" \
		"$named + $looks + $missed" - - "$missed" "" "" "le 0"
	[ "$missed" = 0 ] || fatal "listeners were not told of $missed conversations"
}

row_notify_off() {
	local listening_since received
	notify_row_db
	told_on >/dev/null
	told_off >/dev/null
	# both ways are the same statements: many short rounds serve better than few
	pairs notify_off $((2 * N + 1)) told_on told_off
	paired notify_off "turns/s, 64 clients, 10 listening, notifications as by default" "notify_channel empty" "ge 0.95"
	cpu_result notify_cpu "the server's CPU for one of these turns, listeners included, µs" told_on "notify_channel empty" told_off
	# the last round was without
	received=$(($(sent) - listening_since))
	unlisten
	grep -qx "received $received to $received" "$B/listen.out" ||
		fatal "$received notifications were sent: $(tail -n 1 "$B/listen.out")"
	told_all
}
