# sweep_expired_turns with 200,000 lapsed turns against one raw statement.

SWEEP=200000
sweep_db() { # no worker: the calls alone sweep
	new_db bench_sweep
	sql "ALTER DATABASE bench_sweep SET turn_liveness.enabled = off"
	wait_for "the worker to leave" "SELECT worker_state = 'disabled' FROM turn_liveness.stat_row()"
	sql "CALL bench.arm($SWEEP, '1 ms', '1 ms')"
	sql "CREATE TABLE bench.saved AS SELECT * FROM turn_liveness.turn"
	pg -f test/bench/sql/raw.sql
}
sweep_ours() {
	sql "TRUNCATE turn_liveness.turn, turn_liveness.reply, turn_liveness.delivery"
	sql "INSERT INTO turn_liveness.turn SELECT * FROM bench.saved"
	sql "SELECT $SWEEP * 1000000.0 / bench.us('SELECT turn_liveness.sweep_expired_turns($SWEEP)')"
	[ "$(sql "SELECT count(*) FROM turn_liveness.reply")" = $SWEEP ] || fatal "the sweep left turns"
}
sweep_raw() {
	sql "TRUNCATE raw.turn, raw.reply, raw.delivery"
	sql "INSERT INTO raw.turn SELECT * FROM bench.saved"
	sql "SELECT $SWEEP * 1000000.0 / bench.us('SELECT raw.sweep()')"
	[ "$(sql "SELECT count(*) FROM raw.reply")" = $SWEEP ] || fatal "the raw statement left turns"
}
row_sweep() {
	sweep_db
	pairs sweep "$(((N + 2) / 2))" sweep_ours sweep_raw
	paired sweep "sweep_expired_turns, $SWEEP lapsed, turns/s" "raw statement, same tables and indexes" "ge 0.8"
	drop_db bench_sweep
}
