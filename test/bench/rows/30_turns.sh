# Turns a second: arm, then commit the reply, two transactions.

# The data of a turn, the same for everyone: :d and :m are made of the client's
# number and a count, so that every turn is a new one.
answer() { # answer BYTES: text that does not compress to nothing
	perl -e 'srand 7; print join "", map { ("a".."z", " ", 0..9)[rand 37] } 1..shift' "$1"
}
turn_scripts() { # turn_scripts BYTES: the scripts of arm and commit, ours and bare
	local text prefix
	text=$(answer "$1")
	prefix="\\set n :n + 1
\\set d random(1, 100000)"
	cat >"$B/ours.arm" <<-E
		SELECT turn_liveness.arm_turn('w' || :d, :run || '-' || :client_id || '-' || :n, '{"platform": "api", "channelId": "c1", "userId": "u1", "organizationId": "o1"}');
	E
	cat >"$B/ours.commit" <<-E
		SELECT turn_liveness.commit_terminal_reply('w' || :d, ARRAY[:run || '-' || :client_id || '-' || :n], '{"finalText": "$text"}');
	E
	cat >"$B/bare.arm" <<-E
		INSERT INTO bare.turn (deployment, message_id, epoch, begun_us, armed_us, check_us, admission_ms, silence_ms, duration_ms, armed_at, conversation_id, routing) VALUES ('w' || :d, :run || '-' || :client_id || '-' || :n, 1, 1, 1, 1, 1, 1, 1, now(), 'w' || :d, '{"platform": "api", "channelId": "c1", "userId": "u1", "organizationId": "o1"}');
	E
	cat >"$B/bare.commit" <<-E
		WITH e AS (UPDATE bare.turn SET outcome = 'a', request = '00000000-0000-0000-0000-000000000001' WHERE deployment = 'w' || :d AND message_id = :run || '-' || :client_id || '-' || :n AND outcome IS NULL), r AS (INSERT INTO bare.reply (reply_id, deployment, message_ids, conversation_id, platform, organization_id, payload, outcome, decided_by, armed_at, created_at) VALUES (nextval('bare.reply_id_seq'), 'w' || :d, ARRAY[:run || '-' || :client_id || '-' || :n], 'w' || :d, 'api', 'o1', '{"userId": "u1", "platform": "api", "channelId": "c1", "finalText": "$text", "messageId": "1-12-12345", "teamId": "api", "timestamp": 1790000000000, "conversationId": "w12345", "organizationId": "o1", "processedMessageIds": ["1-12-12345"]}', 'a', 'r', now(), now()) RETURNING reply_id) INSERT INTO bare.delivery (reply_id, state, attempt, due_us, kept_us, conversation_id, platform) SELECT reply_id, 'o', 0, 0, 0, 'w' || :d, 'api' FROM r;
	E
	local who
	for who in ours bare; do
		{ echo "$prefix"; cat "$B/$who.arm" "$B/$who.commit"; } >"$B/$who.turn"
	done
}
# every run has a number of its own, so no turn comes twice
next_run() { echo x >>"$B/runs"; wc -l <"$B/runs"; }

turns_db() {
	new_db bench_turns
	pg -f test/bench/sql/bare.sql
	turn_scripts 200
}
turns_ours() { load "$T" 64 -D n=0 -D run="$(next_run)" -f "$B/ours.turn"; }
turns_bare() { load "$T" 64 -D n=0 -D run="$(next_run)" -f "$B/bare.turn"; }

row_turns_bare() {
	turns_db
	turns_ours >/dev/null
	turns_bare >/dev/null
	pairs turns_bare "$N" turns_ours turns_bare
	paired turns_bare "turns/s (arm, commit the reply), 64 clients" "bare SQL, same rows" "ge 0.8"
}
