# Turns a second: arm, then commit the reply, two transactions; 64 clients, ten
# sessions listening.

# The data of a turn is the same for everyone.  Every turn is a new one: its
# message id is made of the run, the client and a count.
answer() { # answer BYTES: text that does not compress to nothing
	perl -e 'srand 7; print join "", map { ("a".."z", " ", 0..9)[rand 37] } 1..shift' "$1"
}
turn_scripts() { # turn_scripts BYTES: arm and commit in every way
	local text id routing payload who
	text=$(answer "$1")
	id=":run || '-' || :client_id || '-' || :n"
	routing='{"platform": "api", "channelId": "c1", "userId": "u1", "organizationId": "o1"}'
	# as our payload comes out
	payload='{"userId": "u1", "platform": "api", "channelId": "c1", "finalText": "'$text'", "messageId": "1-12-12345", "teamId": "api", "timestamp": 1790000000000, "conversationId": "w12345", "organizationId": "o1", "processedMessageIds": ["1-12-12345"]}'

	echo "SELECT turn_liveness.arm_turn('w' || :d, $id, '$routing');" >"$B/ours.arm"
	echo "SELECT turn_liveness.commit_terminal_reply('w' || :d, ARRAY[$id], '{\"finalText\": \"$text\"}');" >"$B/ours.commit"

	# the same with a NOTIFY in the transaction, in the same statement
	cp "$B/ours.arm" "$B/notify.arm"
	echo "SELECT turn_liveness.commit_terminal_reply('w' || :d, ARRAY[$id], '{\"finalText\": \"$text\"}'), pg_notify('turn_liveness', '{\"conversations\":[\"w' || :d || '\"]}');" >"$B/notify.commit"

	# bare SQL: see bare.sql
	cat >"$B/bare.arm" <<-E
		INSERT INTO bare.turn (deployment, message_id, epoch, begun, armed, next_check, admission_ms, silence_ms, duration_ms, rescue_ms, generation, armed_at, conversation_id, routing) VALUES ('w' || :d, $id, 1, now(), now(), now(), 1, 1, 1, 0, 1, now(), 'w' || :d, '$routing');
	E
	cat >"$B/bare.commit" <<-E
		WITH e AS (UPDATE bare.turn SET outcome = 'a', request = '00000000-0000-0000-0000-000000000001' WHERE deployment = 'w' || :d AND message_id = $id AND outcome IS NULL), r AS (INSERT INTO bare.reply (reply_id, deployment, message_ids, conversation_id, platform, organization_id, payload, outcome, decided_by, generation, armed_at, created_at, kept_at) VALUES (nextval('bare.reply_id_seq'), 'w' || :d, ARRAY[$id], 'w' || :d, 'api', 'o1', '$payload', 'a', 'r', 1, now(), now(), now()) RETURNING reply_id) INSERT INTO bare.delivery (reply_id, is_open, attempt, due_at, conversation_id, platform) SELECT reply_id, true, 0, '-infinity', 'w' || :d, 'api' FROM r;
	E

	# the least: see least.sql
	echo "INSERT INTO least.turn (message_id, deployment, routing) VALUES ($id, 'w' || :d, '$routing');" >"$B/least.arm"
	echo "WITH e AS (DELETE FROM least.turn WHERE message_id = $id AND deployment = 'w' || :d RETURNING deployment) INSERT INTO least.reply (conversation_id, payload) SELECT deployment, '$payload' FROM e;" >"$B/least.commit"

	# PL/pgSQL
	sed 's/turn_liveness\.arm/plain.arm/' "$B/ours.arm" >"$B/plain.arm"
	sed 's/turn_liveness\.commit/plain.commit/' "$B/ours.commit" >"$B/plain.commit"

	# the origin, statement by statement: send(), then its commit of a reply;
	# pgbench would take a colon for a variable
	cat >"$B/origin.arm" <<-E
		INSERT INTO origin.runs (run_type, queue_name, status, idempotency_key, action_input, organization_id, run_at, max_attempts, attempts, priority) VALUES ('internal', E'internal\072turn_timeout', 'pending', 'w' || :d || ':' || $id, jsonb_build_object('messageId', $id, 'deploymentName', 'w' || :d, 'conversationId', 'w' || :d) || '$routing', 'o1', now() + (60 * interval '1 second'), 3, 0, 0) ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL AND status IN ('pending', 'claimed', 'running') DO NOTHING RETURNING id;
		SELECT pg_notify(E'runs_lobu\072internal\072turn_timeout', E'internal\072turn_timeout');
	E
	cat >"$B/origin.commit" <<-E
		BEGIN;
		DELETE FROM origin.runs WHERE idempotency_key = 'w' || :d || ':' || $id AND status = 'pending' AND run_type = 'internal' AND queue_name = E'internal\072turn_timeout' RETURNING id;
		INSERT INTO origin.runs (run_type, queue_name, status, action_input, organization_id, run_at, max_attempts, attempts, priority, retry_delay_seconds) VALUES ('chat_message', 'thread_response', 'pending', '$payload', 'o1', now(), 30, 0, 0, 1);
		COMMIT;
		SELECT pg_notify(E'runs_lobu\072thread_response', 'thread_response');
	E
	for who in ours notify bare least plain origin; do
		{
			printf '%s\n' "$touch" "\\set n :n + 1" "\\set d random(1, 100000)"
			cat "$B/$who.arm" "$B/$who.commit"
		} >"$B/$who.turn"
	done
}
# every run has a number of its own, so no turn comes twice
next_run() {
	echo x >>"$B/runs"
	wc -l <"$B/runs"
}
# The plan must not depend on when autovacuum came by.
by_index="-c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
turns() { PGOPTIONS=$by_index load "$T" "$2" -D n=0 -D run="$(next_run)" -f "$B/$1.turn"; } # turns WAY CLIENTS

turns_db() {
	leases 131072
	if ! want_db bench_turns; then
		pg -f test/bench/sql/bare.sql -f test/bench/sql/least.sql -f test/bench/sql/plain.sql -f test/bench/sql/origin.sql
		turn_scripts 200
		local who T=1
		for who in ours notify bare least plain origin; do turns $who 64 >/dev/null; done
	fi
	[ -n "$listeners" ] || listen 10 turn_liveness plain runs_lobu:thread_response
}
turns_end() {
	unlisten
	drop_db bench_turns
}

turns_ours() { turns ours 64; }
turns_notify() { turns notify 64; }
turns_bare() { turns bare 64; }
turns_least() { turns least 64; }
turns_plain() { turns plain 64; }
turns_origin() { turns origin 64; }

row_turns_bare() {
	local T=$L warm=$W
	turns_db
	sliced turns_bare "$N" 1 turns_ours turns_bare
	paired turns_bare "turns/s (arm, commit the reply), 64 clients, 10 listening" "bare SQL, same rows, keys only" "ge 0.92"
	cpu_result turns_cpu "the server's CPU for one of these turns, µs" turns_ours "bare SQL" turns_bare
}
row_turns_least() {
	local T=$L warm=$W
	turns_db
	sliced turns_least "$N" 1 turns_ours turns_least
	paired turns_least "turns/s, 64 clients, 10 listening" "the least SQL: a row, then a reply in its place" "ge 0.75"
	cpu_result least_cpu "the server's CPU for one of these turns, µs" turns_ours "the least SQL" turns_least
}
row_turns_origin() {
	turns_db
	sliced turns_origin "$N" 1 turns_ours turns_origin
	paired turns_origin "turns/s, 64 clients, 10 listening" "the origin's SQL" "ge 4"
}
row_turns_plain() {
	turns_db
	sliced turns_plain "$P" 1 turns_ours turns_plain
	paired turns_plain "turns/s, 64 clients, 10 listening" "PL/pgSQL, NOTIFY in the transaction" -
}
row_notify() {
	turns_db
	pairs notify "$P" turns_ours turns_notify
	paired notify "turns/s, 64 clients, 10 listening" "the same + NOTIFY in the transaction" -
	local clients
	for clients in 1 4 16 64; do
		if [ $clients = 64 ]; then
			point turns "ours" 64 "$ours"
			point turns "with NOTIFY in the transaction" 64 "$other"
		else
			measured turns "ours" $clients turns ours $clients
			measured turns "with NOTIFY in the transaction" $clients turns notify $clients
		fi
	done
}
# The last of these rows: the server gets a disk that takes a millisecond longer.
row_slow_flush() {
	turns_db
	unlisten
	LD_PRELOAD=$B/slow_flush.so tl_server_restart
	grep -q slow_flush "/proc/$(postmaster)/maps" || fatal "the flush is not slow"
	wait_for "the worker" "SELECT worker_state = 'running' FROM turn_liveness.stat_row()"
	turns_db
	turns_ours >/dev/null
	pairs slow_notify "$P" turns_ours turns_notify
	paired slow_notify "turns/s, flush + 1 ms, 64 clients, 10 listening" "the same + NOTIFY in the transaction" -
	pairs slow_origin "$P" turns_ours turns_origin
	paired slow_origin "turns/s, flush + 1 ms, 64 clients, 10 listening" "the origin's SQL" -
	local clients counts="1 64"
	[ $mode = quick ] || counts="1 4 16 64"
	for clients in $counts; do
		measured turns_slow "ours" $clients turns ours $clients
		measured turns_slow "with NOTIFY in the transaction" $clients turns notify $clients
	done
	turns_end
	tl_server_restart
}
