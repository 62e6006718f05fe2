# sweep_expired_turns with 200,000 lapsed turns, in one call, against one raw
# statement and against the peer's set-based sweep.

SWEEP=200000
sweep_db() { # no worker: the calls alone sweep
	! want_db bench_sweep || return 0
	sql "ALTER DATABASE bench_sweep SET turn_liveness.enabled = off"
	wait_for "the worker to leave" "SELECT worker_state = 'disabled' FROM turn_liveness.stat_row()"
	sql "CALL bench.arm($SWEEP, '1 ms', '1 ms')"
	sql "CREATE TABLE bench.saved AS SELECT * FROM turn_liveness.turn"
	pg -f test/bench/sql/raw.sql -f test/bench/sql/plain.sql
}
# so many lapsed turns, as arm_turn wrote them, in our table or in raw's
refill() { # refill SCHEMA LAPSED
	sql "TRUNCATE $1.turn, $1.reply, $1.delivery"
	sql "INSERT INTO $1.turn SELECT * FROM bench.saved LIMIT $2"
}
swept() { # swept SCHEMA LAPSED: nothing was left
	[ "$(sql "SELECT count(*) FROM $1.reply")" = "$2" ] || fatal "the sweep of $1 left turns"
}
sweep_seconds() { # sweep_seconds LAPSED
	refill turn_liveness "$1"
	sql "SELECT bench.us('SELECT turn_liveness.sweep_expired_turns($1)') / 1000000"
	swept turn_liveness "$1"
}
raw_seconds() {
	refill raw "$1"
	sql "SELECT bench.us('SELECT raw.sweep()') / 1000000"
	swept raw "$1"
}
sweep_ours() { calc "$SWEEP / $(sweep_seconds $SWEEP)"; }
sweep_raw() { calc "$SWEEP / $(raw_seconds $SWEEP)"; }
plain_fill() { # plain_fill LAPSED
	sql "TRUNCATE plain.turn, plain.reply, plain.beat; SELECT count(plain.arm_turn('w' || g, 'm', '{\"platform\": \"api\", \"userId\": \"u1\"}', '1 ms')) FROM generate_series(1, $1) g" >/dev/null
}
sweep_plain() {
	plain_fill $SWEEP
	local seconds
	seconds=$(sql "SELECT bench.us('SELECT plain.sweep($SWEEP)') / 1000000")
	swept plain $SWEEP
	calc "$SWEEP / $seconds"
}
row_sweep() {
	sweep_db
	# a pair takes a quarter of a minute
	pairs sweep "$([ $mode = quick ] && echo 2 || echo "$N")" sweep_ours sweep_raw
	paired sweep "sweep_expired_turns, $SWEEP lapsed, turns/s" "one raw statement, bare tables with their keys" "ge 0.45"
	point lapsed ours $SWEEP "$(calc "$SWEEP / $ours")"
	point lapsed "raw statement" $SWEEP "$(calc "$SWEEP / $other")"
	local n
	for n in 2000 20000; do
		measured lapsed ours $n sweep_seconds $n
		measured lapsed "raw statement" $n raw_seconds $n
	done
	pairs sweep_set "$([ $mode = quick ] && echo 2 || echo "$N")" sweep_ours sweep_plain
	paired sweep_set "sweep_expired_turns, $SWEEP lapsed, turns/s" "PL/pgSQL, one statement" "ge 1.5"
}

# The peers' sweeps, in batches as they come: 1,000 and 200.
PEER=20000
peer_ours() {
	refill turn_liveness $PEER
	peer_time bench.drain
	swept turn_liveness $PEER
}
peer_time() { # peer_time PROCEDURE: turns a second
	{
		echo "SELECT clock_timestamp() AS t \\gset"
		echo "CALL $1();"
		echo "SELECT $PEER / extract(epoch FROM clock_timestamp() - :'t');"
	} | pg
}
peer_plain() {
	plain_fill $PEER
	peer_time plain.drain
}
peer_origin() {
	sql "TRUNCATE origin.runs; SELECT origin.fill($PEER, '-1 ms')" >/dev/null
	peer_time origin.drain
}
row_sweep_peers() {
	sweep_db
	pg -f test/bench/sql/origin.sql
	# a transaction for each batch, as the peers' drains have
	sql 'CREATE PROCEDURE bench.drain() LANGUAGE plpgsql AS $$ BEGIN WHILE turn_liveness.sweep_expired_turns(1000) > 0 LOOP COMMIT; END LOOP; END $$'
	pairs sweep_plain "$N" peer_ours peer_plain
	paired sweep_plain "sweep, $PEER lapsed, 1,000 a call, turns/s" "PL/pgSQL, what pg_cron runs, 1,000 a call" "ge 1.5"
	pairs sweep_origin "$P" peer_ours peer_origin
	paired sweep_origin "sweep, $PEER lapsed, turns/s" "the origin's, 200 a call, no pause between" -
}

# 2,000 lapsed turns among so many live ones
row_sweep_live() {
	sweep_db
	local live k counts="0 10000 100000"
	# the lapsed ones must not be among the live ones
	sql "UPDATE bench.saved SET deployment = 'x' || deployment, conversation_id = 'x' || conversation_id"
	[ $mode = quick ] || counts="0 10000 100000 1000000"
	for live in $counts; do
		refill turn_liveness 0
		if [ "$live" != 0 ]; then
			sql "CALL bench.arm($live, '3 hours', '3 hours')"
			sql "VACUUM ANALYZE turn_liveness.turn"
		fi
		for k in 0 1 2; do
			sql "INSERT INTO turn_liveness.turn SELECT * FROM bench.saved ORDER BY deployment LIMIT 2000 OFFSET $((2000 * k))"
			sql "SELECT bench.us('SELECT turn_liveness.sweep_expired_turns(2000)') / 1000000"
			swept turn_liveness $((2000 * (k + 1)))
		done >"$B/live"
		point live ours "$live" "$(median <"$B/live")"
	done
	say "sweep of 2,000 lapsed, seconds by live turns: $(cut -f2,3 "$B/plot.live" | tr '\t\n' ' ,')"
}
