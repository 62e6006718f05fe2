# read_replies and claim_replies: 20,000 conversations named, none due; 300,000
# replies due elsewhere.

fetch_us() { sql "SELECT bench.us('SELECT count(*) FROM $1')" ; }
row_fetch() {
	new_db bench_fetch
	# stored by hand: only their number counts
	sql "INSERT INTO turn_liveness.reply (reply_id, deployment, message_ids, conversation_id, platform, payload, outcome, decided_by, created_at)
		 SELECT nextval('turn_liveness.reply_id_seq'), 'e' || g, '{m}', 'e' || g, 'api', '{\"finalText\": \"some text\"}', 'a', 'r', now() FROM generate_series(1, 300000) g;
		 INSERT INTO turn_liveness.delivery (reply_id, state, attempt, due_at, kept_at, conversation_id, platform)
		 SELECT reply_id, 'o', 0, '-infinity', now(), conversation_id, platform FROM turn_liveness.reply;
		 CREATE TABLE bench.names AS SELECT array_agg('w' || g) AS names, array_agg(0::bigint) AS cursors FROM generate_series(1, 20000) g"
	sql "VACUUM ANALYZE"
	local what i
	for what in "read_replies((SELECT names FROM bench.names), (SELECT cursors FROM bench.names))" \
		"claim_replies(''gateway-1'', (SELECT names FROM bench.names))"; do
		for ((i = 0; i <= N; i++)); do fetch_us "turn_liveness.$what"; done | tail -n +2 | awk '{ print $1 / 1000 }' | sort -g >"$B/fetch"
		result "${what%%_*}" "${what%%(*} with 20,000 conversations named, 300,000 due elsewhere, ms" \
			"$(human "$(median <"$B/fetch")")" - - "$(human "$(median <"$B/fetch")")" "$(human "$(head -n 1 "$B/fetch")")" "$(human "$(tail -n 1 "$B/fetch")")" "le 100"
	done
	drop_db bench_fetch
}
