# read_replies and claim_replies: 20,000 conversations named, to each of which five
# replies were delivered, and none is due; 300,000 (quick: 100,000) replies due
# elsewhere.  And a claim by the platform of as many replies of which none is due:
# others hold them, or they are delayed, or delivered.

fetch_us() { sql "SELECT bench.us('SELECT count(*) FROM $1')" ; }
row_fetch() {
	local due=300000
	[ $mode = long ] || due=100000
	new_db bench_fetch
	# stored by hand: only their number counts
	sql "INSERT INTO turn_liveness.reply (reply_id, deployment, message_ids, conversation_id, platform, payload, outcome, decided_by, generation, created_at, kept_at)
		 SELECT nextval('turn_liveness.reply_id_seq'), 'e' || g, '{m}', 'e' || g, 'api', '{\"finalText\": \"some text\"}', 'a', 'r', 1, now(), now() FROM generate_series(1, $due) g;
		 INSERT INTO turn_liveness.delivery (reply_id, is_open, attempt, due_at, conversation_id, platform)
		 SELECT reply_id, true, 0, '-infinity', conversation_id, platform FROM turn_liveness.reply;
		 INSERT INTO turn_liveness.reply (reply_id, deployment, message_ids, conversation_id, platform, payload, outcome, decided_by, generation, created_at, kept_at)
		 SELECT nextval('turn_liveness.reply_id_seq'), w, '{m}', w, 'api', '{\"finalText\": \"some text\"}', 'a', 'r', 1, now(), now() FROM (SELECT 'w' || 1 + g % 20000 AS w FROM generate_series(1, 100000) g) x;
		 INSERT INTO turn_liveness.delivery (reply_id, is_open, attempt, due_at, conversation_id, platform, delivered_at)
		 SELECT reply_id, false, 1, now(), conversation_id, platform, now() FROM turn_liveness.reply WHERE reply_id > $due;
		 CREATE TABLE bench.names AS SELECT array_agg('w' || g) AS names, array_agg($due + 100000::bigint) AS cursors FROM generate_series(1, 20000) g"
	sql "VACUUM ANALYZE"
	local what i how open set
	for what in "read_replies((SELECT names FROM bench.names), (SELECT cursors FROM bench.names))" \
		"claim_replies(''gateway-1'', (SELECT names FROM bench.names))"; do
		for ((i = 0; i <= N; i++)); do fetch_us "turn_liveness.$what"; done | tail -n +2 | awk '{ print $1 / 1000 }' | sort -g >"$B/fetch"
		result "${what%%_*}" "${what%%(*} with 20,000 conversations named, $due due elsewhere, ms" \
			"$(human "$(median <"$B/fetch")")" - - "$(human "$(median <"$B/fetch")")" "$(human "$(head -n 1 "$B/fetch")")" "$(human "$(tail -n 1 "$B/fetch")")" "le 100"
	done
	local held="gateway = 'gateway-2', claimed_at = now()"
	for what in "claimed|true|$held" "delayed|true|gateway = NULL" "delivered|false|$held, delivered_at = now()"; do
		IFS='|' read -r how open set <<<"$what"
		sql "UPDATE turn_liveness.delivery SET is_open = $open, attempt = 1, due_at = turn_liveness.clock_now() + interval '1 h', parked_until = NULL, $set WHERE reply_id <= $due"
		# a claim is parked by the worker, a delay by the function that makes it
		[ "$how" != delayed ] || sql "UPDATE turn_liveness.delivery SET parked_until = due_at WHERE reply_id <= $due"
		[ "$how" != claimed ] || wait_for "parked claims" "SELECT count(*) = $due FROM turn_liveness.delivery WHERE parked_until = due_at"
		sql "VACUUM turn_liveness.delivery"
		for ((i = 0; i <= N; i++)); do fetch_us "turn_liveness.claim_replies(''gateway-1'', platforms => ''{api}'')"; done | tail -n +2 | awk '{ print $1 / 1000 }' | sort -g >"$B/fetch"
		result "claim_$how" "claim_replies by platform, $due of it $how, none due, ms" \
			"$(human "$(median <"$B/fetch")")" - - "$(human "$(median <"$B/fetch")")" "$(human "$(head -n 1 "$B/fetch")")" "$(human "$(tail -n 1 "$B/fetch")")" "le 100"
	done
	drop_db bench_fetch
}
