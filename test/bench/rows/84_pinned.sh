# An idle transaction that keeps its snapshot the whole time: nothing that dies can
# be cleared away.  The whole life, with two beats, and the same in PL/pgSQL, in
# turn; what is left of turns/s, and how the tables grow.

PINNED_SLICES=$([ "$mode" = quick ] && echo 3 || echo 15)
PINNED_DUE=$([ "$mode" = quick ] && echo 2 || echo 75)
PINNED_SECONDS=$([ "$mode" = quick ] && echo 1 || echo 8)

pinned_scripts() {
	local who claim='' ack=''
	turn_scripts 200
	for who in ours plain; do
		case $who in
		ours) claim=turn_liveness.claim_replies ack=turn_liveness.ack_replies ;;
		plain) claim=plain.claim_replies ack=plain.ack_replies ;;
		esac
		{
			printf '%s\n' "\\set n :n + 1" "\\set d random(1, 100000)"
			cat "$B/$who.arm"
			for _ in 1 2; do echo "SELECT ${claim%.*}.heartbeat('w' || :d);"; done
			cat "$B/$who.commit"
			cat <<-E
				\\set k :n % 100
				\\if :k = 0
				SELECT coalesce(array_agg(reply_id), '{}') AS ids, sum(length(payload::text)) AS size FROM $claim('gateway-1', NULL, '{api}', 100) \\gset
				SELECT $ack('gateway-1', :ids);
				\\endif
			E
		} >"$B/$who.pinned"
	done
}
pinned_size() { # pinned_size SCHEMA: bytes of its tables and indexes
	sql "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = '$1'::regnamespace"
}
# pinned_slice WAY: lives a second; counts them and its seconds
pinned_slice() {
	local rate schema=$1
	[ "$1" != ours ] || schema=turn_liveness
	rate=$(PGOPTIONS=$by_index load "$PINNED_SECONDS" 16 -D n=0 -D run="$(next_run)" -f "$B/$1.pinned") || return 1
	sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$B/pgbench.out" >>"$B/pinned.lives.$1"
	echo "$rate $(pinned_size "$schema")" >>"$B/pinned.sizes.$1"
	echo "$rate"
}
pinned_ours() { pinned_slice ours; }
pinned_plain() { pinned_slice plain; }
pinned_points() { # pinned_points WAY SERIES
	awk -v OFS='\t' -v s="$2" -v every="$PINNED_SECONDS" '{ print s, NR * every, $1 }' "$B/pinned.sizes.$1" >>"$B/plot.pinned_turns"
	paste -d' ' "$B/pinned.sizes.$1" "$B/pinned.lives.$1" |
		awk -v OFS='\t' -v s="$2" '{ lives += $3; print s, lives, $2 / 1e6 }' >>"$B/plot.pinned_sizes"
}
pinned_per_life() { # pinned_per_life WAY BEFORE: bytes that its tables grew for each life
	calc "($(tail -n 1 "$B/pinned.sizes.$1" | cut -d' ' -f2) - $2) / ($(paste -sd+ "$B/pinned.lives.$1"))"
}

row_pinned() {
	local pin free_ours free_plain size_ours size_plain last_ours last_plain
	unlisten
	new_db bench_pinned
	pg -f test/bench/sql/plain.sql
	pinned_scripts
	pinned_ours >/dev/null
	pinned_plain >/dev/null
	free_ours=$(pinned_ours)
	free_plain=$(pinned_plain)
	rm "$B"/pinned.*
	size_ours=$(pinned_size turn_liveness)
	size_plain=$(pinned_size plain)

	exec {pin}> >(pg >/dev/null)
	echo "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class;" >&"$pin"
	wait_for "the snapshot" "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction' AND backend_xmin IS NOT NULL"
	pairs pinned "$PINNED_SLICES" pinned_ours pinned_plain
	noise= # each round is slower than the last
	due_turns "$PINNED_DUE"
	exec {pin}>&-

	last_ours=$(tail -n 1 "$B/pinned.sizes.ours" | cut -d' ' -f1)
	last_plain=$(tail -n 1 "$B/pinned.sizes.plain" | cut -d' ' -f1)
	paired pinned "whole life with two beats, turns/s, for $((PINNED_SLICES * PINNED_SECONDS)) s under an idle transaction's snapshot" "PL/pgSQL" -
	result pinned_last "the same, in the last $PINNED_SECONDS s" "$(human "$last_ours")" "PL/pgSQL" "$(human "$last_plain")" "$(calc "$last_ours / $last_plain")" "" "" -
	result pinned_kept "the same, as a share of turns/s before, %" "$(calc "int(100 * $last_ours / $free_ours)")" "PL/pgSQL" "$(calc "int(100 * $last_plain / $free_plain)")" "$(calc "$last_ours / $free_ours / ($last_plain / $free_plain)")" "" "" -
	size_ours=$(pinned_per_life ours "$size_ours")
	size_plain=$(pinned_per_life plain "$size_plain")
	result pinned_size "bytes by which tables and indexes grow for each of these lives" "$(human "$size_ours")" "PL/pgSQL" "$(human "$size_plain")" "$(calc "$size_ours / $size_plain")" "" "" -
	result pinned_due "from the deadline of one turn to its failure, ms, median of $(wc -l <"$B/due") in the next $PINNED_DUE s (worst $(human "$(quantile 1 <"$B/due")"))" "$(human "$(median <"$B/due")")" - - "$(human "$(median <"$B/due")")" "" "" -
	pinned_points ours ours
	pinned_points plain "PL/pgSQL"
	drop_db bench_pinned
}
