# So many turns that are kept: what calls take beside an empty table, then
# retention under way while as many new ones come.
#
# The records are copies of one that the functions made, and as old as if they had
# come at the rate at which new ones come then.

GROWTH=${BENCH_GROWTH:-$([ "$mode" = quick ] && echo 100000 || echo 10000000)}
GROWTH_SECONDS=$([ "$mode" = quick ] && echo 4 || echo 360)
GROWTH_EVERY=$([ "$mode" = quick ] && echo 1 || echo 5)
growth_clients=4

# one turn, from its arm to its acknowledgement, and a stream that reads it
growth_scripts() {
	turn_scripts 200
	{
		printf '%s\n' "\\set n :n + 1" "\\set d random(1, 100000)"
		cat "$B/ours.arm" "$B/ours.commit"
		cat <<-'E'
			SELECT count(*) FROM turn_liveness.read_replies(ARRAY['w' || :d], ARRAY[:after::bigint]);
			\set k :n % 100
			\if :k = 0
			SELECT coalesce(array_agg(reply_id), '{}') AS ids, sum(length(payload::text)) AS size FROM turn_liveness.claim_replies('gateway-1', NULL, '{api}', 100) \gset
			SELECT turn_liveness.ack_replies('gateway-1', :ids);
			\endif
		E
	} >"$B/growth.life"
}
# growth_round DB: lives a second; and what each call took, in milliseconds
growth_round() {
	local PGDATABASE=$1 after
	after=$(sql "SELECT last_value FROM turn_liveness.reply_id_seq")
	load "$T" $growth_clients -r -D n=0 -D run="$(next_run)" -D after="$after" -f "$B/growth.life" || return 1
	sed -n "s/^ *\([0-9.]*\) .*turn_liveness\.\([a-z]*\)_.*/$1 \2 \1/p" "$B/pgbench.out" >>"$B/growth.calls"
}
growth_ours() { growth_round bench_growth; }
growth_empty() { growth_round bench_empty; }
growth_call() { # growth_call CALL MEASURE: of the last pairs
	local a b
	a=$(grep "^bench_growth $1 " "$B/growth.calls" | cut -d' ' -f3 | tail -n "$npairs" | median)
	b=$(grep "^bench_empty $1 " "$B/growth.calls" | cut -d' ' -f3 | tail -n "$npairs" | median)
	result "growth_$1" "$2, ms, $GROWTH turns kept, $growth_clients clients" "$a" "none kept" "$b" "$(calc "$a / $b")" "" "" -
}

# growth_fill RATE: what is kept, the last of it from now
growth_fill() {
	local age="($GROWTH - g)::float8 / $1 * interval '1 s'" name="'w' || 1 + g * 7919 % 100000"
	local to="\"deployment\": \"$name\", \"conversation_id\": \"$name\"" pids=() pid
	sql "SELECT turn_liveness.arm_turn('w0', 'm0', '{\"platform\": \"api\", \"channelId\": \"c1\", \"userId\": \"u1\", \"organizationId\": \"o1\"}'), turn_liveness.commit_terminal_reply('w0', '{m0}', '{\"finalText\": \"$(answer 200)\"}')" >/dev/null
	sql "SELECT turn_liveness.ack_replies('gateway-1', array_agg(reply_id)) FROM turn_liveness.claim_replies('gateway-1', NULL, '{api}')" >/dev/null
	sql "CREATE TABLE bench.turn AS TABLE turn_liveness.turn; CREATE TABLE bench.reply AS TABLE turn_liveness.reply; CREATE TABLE bench.delivery AS TABLE turn_liveness.delivery"
	sql "SELECT setval('turn_liveness.reply_id_seq', last_value + $GROWTH) FROM turn_liveness.reply_id_seq" >/dev/null
	pg -f test/bench/sql/copies.sql
	sql "SELECT bench.copies('turn', 1, $GROWTH, \$j\${$to, \"message_id\": \"'m' || 1000000000 + g\", \"reply_id\": \"t.reply_id + g\"}\$j\$)" >/dev/null &
	pids+=($!)
	sql "SELECT bench.copies('reply', 1, $GROWTH, \$j\${$to, \"message_ids\": \"ARRAY['m' || 1000000000 + g]\", \"reply_id\": \"t.reply_id + g\", \"created_at\": \"t.created_at - $age\", \"kept_at\": \"t.kept_at - $age\"}\$j\$)" >/dev/null &
	pids+=($!)
	sql "SELECT bench.copies('delivery', 1, $GROWTH, \$j\${$to, \"reply_id\": \"t.reply_id + g\", \"due_at\": \"t.due_at - $age\"}\$j\$)" >/dev/null &
	pids+=($!)
	for pid in "${pids[@]}"; do wait "$pid" || fatal "the records"; done
	sql "VACUUM ANALYZE"
}

# What vacuum takes of the CPU: process id and nanoseconds of each that runs.
vacuum_cpu() {
	perl -e '
		my ($postmaster, $db) = @ARGV;
		for my $dir (glob "/proc/[0-9]*") {
			open my $f, "<", "$dir/stat" or next;
			next unless (<$f> // "") =~ /.*\) \S (\d+) / && $1 == $postmaster;
			next unless open($f, "<", "$dir/cmdline") && (<$f> // "") =~ /autovacuum worker/;
			print substr($dir, 6), " ", (split " ", <$f>)[0], "\n" if open $f, "<", "$dir/schedstat";
		}' "$(postmaster)"
}
# Sizes and records gone: milliseconds; bytes of the tables and of all indexes; count.
growth_sample() {
	sql "SELECT round(extract(epoch FROM clock_timestamp()) * 1000), pg_table_size('turn_liveness.turn'), pg_table_size('turn_liveness.reply'), pg_table_size('turn_liveness.delivery'),
			pg_indexes_size('turn_liveness.turn') + pg_indexes_size('turn_liveness.reply') + pg_indexes_size('turn_liveness.delivery'),
			(SELECT n_tup_del FROM pg_stat_all_tables WHERE relid = 'turn_liveness.delivery'::regclass)" | tr '|' ' '
}
# growth_watch PID: samples until this process ends
growth_watch() {
	: >"$B/growth.vacuum"
	while kill -0 "$1" 2>/dev/null; do
		growth_sample
		vacuum_cpu >>"$B/growth.vacuum"
		sleep "$GROWTH_EVERY"
	done >"$B/growth.samples"
}

# growth_retention RATE: what has to go comes at that rate, and a tenth of all is
# overdue; new turns come at that rate too
growth_retention() {
	local keep server worker worker_pid pid
	keep=$(sql "SELECT round(1000 * extract(epoch FROM turn_liveness.clock_now() - kept_at)) FROM turn_liveness.reply ORDER BY reply_id OFFSET $((GROWTH / 10)) LIMIT 1")
	db_set "SET turn_liveness.retention = $keep"
	worker_pid=$(sql "SELECT worker_pid FROM turn_liveness.stat_row()")
	server=$(server_us)
	worker=$(worker_cpu)
	pgbench -n -M prepared -c 8 -j "$cores" -T "$GROWTH_SECONDS" -R "$1" -P "$GROWTH_EVERY" -D n=0 -D run="$(next_run)" -D after="$(sql "SELECT last_value FROM turn_liveness.reply_id_seq")" -f "$B/growth.life" >"$B/growth.out" 2>&1 </dev/null &
	pid=$!
	growth_watch $pid
	wait $pid || fatal "$(cat "$B/growth.out")"
	server=$(($(server_us) - server))
	worker=$((($(worker_cpu) - worker) / 1000))
	growth_results "$1" "$keep" $server $worker
}
# growth_results RATE KEEP-MS SERVER-US WORKER-US: from the samples
growth_results() {
	local rate=$1 keep=$2 turns gone caught first last middle vacuum
	turns=$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$B/growth.out")
	# how many went each second, until none was overdue any more
	read -r gone caught first last middle < <(awk -v late="$((GROWTH / 10))" -v rate="$rate" '
		NR == 1 { t0 = $1; gone0 = $6; first = $2 + $3 + $4 + $5 }
		{ t = ($1 - t0) / 1000; gone = $6 - gone0; size[NR] = $2 + $3 + $4 + $5; at[NR] = t }
		!caught { pace = t ? gone / t : 0; if (gone >= 0.98 * (late + rate * t)) caught = t }
		END {
			for (i = 1; i < NR && at[i] < t * 2 / 3; i++);
			printf "%.6g %.6g %s %s %s\n", pace, caught, first, size[NR], size[i]
		}' "$B/growth.samples")
	vacuum=$(awk '!($1 in from) { from[$1] = NR > 1 ? 0 : $2 } { to[$1] = $2 } END { for (p in to) us += (to[p] - from[p]) / 1000; printf "%.0f", us }' "$B/growth.vacuum")
	result growth_retention "new turns/s while as many records have to go, $GROWTH turns kept for $((keep / 1000)) s, 8 clients" "$(human "$turns")" "offered" "$rate" "$(calc "$turns / $rate")" "" "" -
	result growth_gone "records/s that retention took, while a tenth of all was overdue ($([ "$caught" = 0 ] && echo "for all of $GROWTH_SECONDS s" || echo "for $(human "$caught") s"))" "$(human "$gone")" "came to their end" "$rate" "$(calc "$gone / $rate")" "" "" -
	result growth_size "tables and indexes after $GROWTH_SECONDS s of it, GB" "$(calc "$last / 1e9")" "before" "$(calc "$first / 1e9")" "$(calc "$last / $first")" "" "" -
	result growth_steady "the same" "$(calc "$last / 1e9")" "when two thirds were over" "$(calc "$middle / 1e9")" "$(calc "$last / $middle")" "" "" -
	result growth_vacuum "autovacuum's share of the server's CPU meanwhile, % (of all: $(($3 / 10000 / GROWTH_SECONDS)) % of a core; the worker: $(calc "100 * $4 / $3") %)" "$(calc "100 * $vacuum / $3")" - - "$(calc "100 * $vacuum / $3")" "" "" -

	# points: the share of each table, and of the indexes; what came and went
	awk -v OFS='\t' '
		NR == 1 { t0 = $1 }
		{ t = ($1 - t0) / 1000; print "turn", t, $2 / 1e9; print "reply", t, $3 / 1e9; print "delivery", t, $4 / 1e9; print "indexes", t, $5 / 1e9 }
		' "$B/growth.samples" >"$B/plot.growth_sizes"
	{
		awk -v OFS='\t' '/^progress:/ { print "new turns", $2, $4 }' "$B/growth.out"
		# the worker tells the statistics once a second
		awk -v OFS='\t' '
			NR == 1 { t0 = $1 }
			NR > 2 { print "records gone", ($1 - t0) / 1000, ($6 - gone[NR - 2]) * 1000 / ($1 - t[NR - 2]) }
			{ t[NR] = $1; gone[NR] = $6 }' "$B/growth.samples"
	} >"$B/plot.growth_turns"
}

row_growth() {
	local T=$T warm=0 most rate
	unlisten
	if [ "$mode" = long ]; then
		T=$L warm=$W
		# the WAL of so many rows would stay until the next checkpoint
		tl_server_restart "max_wal_size = 4GB"
	fi
	new_db bench_empty
	growth_scripts
	growth_empty >/dev/null
	# retention and vacuum need a share of the machine, too
	most=$(growth_clients=16 growth_empty)
	rate=$(calc "int($most * 0.6 / 100) * 100")
	((rate < 5000)) || rate=5000
	new_db bench_growth
	growth_fill "$rate"
	say "$GROWTH records stored: $(sql "SELECT pg_size_pretty(pg_database_size('bench_growth'))")"
	growth_ours >/dev/null
	pairs growth "$P" growth_ours growth_empty
	paired growth "turns/s (arm, commit, read, claim, acknowledge), $GROWTH turns kept, $growth_clients clients" "none kept" -
	growth_call arm "arm_turn"
	growth_call commit "commit_terminal_reply"
	growth_call read "read_replies of one conversation past a cursor"
	growth_call claim "claim_replies by platform, 100 due"
	growth_call ack "ack_replies, 100"
	drop_db bench_empty
	export PGDATABASE=bench_growth
	growth_retention "$rate"
	drop_db bench_growth
	[ "$mode" = quick ] || tl_server_restart "max_wal_size = 64GB"
}
