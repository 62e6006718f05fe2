# The whole life: arm, commit, claim by 100, acknowledge.

# One pgbench transaction is one life; every hundredth of a client's is followed
# by one claim and one acknowledgement.  The bare one finds the rows of its
# claim by their key: the client makes the ids.
life_scripts() {
	{
		printf '%s\n' "$touch" "\\set n :n + 1" "\\set d random(1, 100000)"
		cat "$B/ours.arm" "$B/ours.commit"
		cat <<-'X'
			\set k :n % 100
			\if :k = 0
			SELECT coalesce(array_agg(reply_id), '{}') AS ids, sum(length(payload::text)) AS size FROM turn_liveness.claim_replies('gateway-1', NULL, '{api}', 100) \gset
			SELECT turn_liveness.ack_replies('gateway-1', :ids);
			\endif
		X
	} >"$B/ours.life"
	{
		printf '%s\n' "$touch" "\\set n :n + 1" "\\set d random(1, 100000)" \
			"\\set r (:run * 1000 + :client_id) * 10000000 + :n" "\\set first :r - 99"
		cat "$B/bare.arm"
		sed "s/nextval('bare.reply_id_seq')/:r/" "$B/bare.commit"
		cat <<-'X'
			\set k :n % 100
			\if :k = 0
			WITH c AS (UPDATE bare.delivery SET attempt = attempt + 1, due_at = now(), gateway = 'gateway-1', claimed_at = now() WHERE reply_id BETWEEN :first AND :r AND is_open RETURNING reply_id) SELECT coalesce(array_agg(reply_id), '{}') AS ids, sum(length(payload::text)) AS size FROM c JOIN bare.reply USING (reply_id) \gset
			UPDATE bare.delivery SET is_open = false, delivered_at = now(), due_at = now() WHERE reply_id = ANY (:ids) AND gateway = 'gateway-1';
			\endif
		X
	} >"$B/bare.life"
}
life_load() { PGOPTIONS=$by_index load_cpu "life_$1" "$T" 16 -D n=0 -D run="$(next_run)" -f "$B/$1.life"; }
life_ours() { life_load ours; }
life_bare() { life_load bare; }

row_life_bare() {
	local T=$L warm=$W
	leases 131072
	new_db bench_life
	pg -f test/bench/sql/bare.sql
	turn_scripts 200
	life_scripts
	sliced life_bare "$N" 1 life_ours life_bare
	paired life_bare "whole life (arm, commit, claim by 100, acknowledge), turns/s" "bare SQL, same rows, keys only" "ge 0.92"
	cpu_result life_cpu "the server's CPU for one of these lives, µs" life_ours "bare SQL" life_bare
	drop_db bench_life
}

# WAL of everything the server does meanwhile, over N lives; full_page_writes is
# off for as long as that takes.
row_life_wal() {
	new_db bench_life
	pg -f test/bench/sql/bare.sql
	turn_scripts 1000
	life_scripts
	pg -c "ALTER SYSTEM SET full_page_writes = off" -c "SELECT pg_reload_conf()" -c CHECKPOINT >/dev/null
	local each=1000 start end before
	[ $mode = quick ] || each=10000
	start=$(sql "SELECT pg_current_wal_insert_lsn()")
	pgbench -n -M prepared -c 8 -j "$cores" -t $each -D cold=0 -D n=0 -D run="$(next_run)" -f "$B/ours.life" >"$B/pgbench.out" 2>&1 </dev/null || fatal "$(cat "$B/pgbench.out")"
	# the sessions' ends and the worker's notifications belong to it
	before=
	until end=$(sql "SELECT pg_current_wal_insert_lsn()") && [ "$end" = "$before" ]; do
		before=$end
		sleep 0.2
	done
	# leaf entries in our indexes, whatever else is in those records
	sql "SELECT pg_switch_wal()" >/dev/null
	local entries indexes
	indexes=$(sql "SELECT string_agg(pg_relation_filenode(oid)::text, '|') FROM pg_class WHERE relkind = 'i' AND relnamespace = 'turn_liveness'::regnamespace")
	entries=$("$("$TL_PG_CONFIG" --bindir)/pg_waldump" -p "$TL_SERVER/data/pg_wal" -s "$start" -e "$end" -r Btree 2>/dev/null |
		grep -E 'desc: (INSERT_LEAF|INSERT_POST|SPLIT_[LR])' | grep -vE 'level:? [1-9]' |
		grep -cE "blkref #0: rel [0-9]+/[0-9]+/($indexes) ") || true
	entries=$(printf %.2f "$(calc "$entries / (8 * $each)")")
	result life_entries "index entries written by a whole life, over $((8 * each)) lives" "$entries" - - "$entries" "" "" "le 9"
	end=$(sql "SELECT round(('$end'::pg_lsn - '$start') / (8.0 * $each))")
	result life_wal "WAL of a whole life with 1 kB of answer, bytes, over $((8 * each)) lives" "$end" - - "$end" "" "" "le 3072"
	pg -c "ALTER SYSTEM RESET full_page_writes" -c "SELECT pg_reload_conf()" >/dev/null
	drop_db bench_life
}
