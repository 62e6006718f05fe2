# Dump and restore: nothing is lost, nothing is declared dead because of it, in
# whatever order the rows come, also where callers come meanwhile.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# What there is to keep, but for times that count from now; a claim ends with
# the server in which it was made.
my $contents = q{
SELECT 'turn', t.deployment, t.message_id, t.outcome, t.armed_at, t.rearmed_at, t.conversation_id, t.routing::text,
	t.admission_ms, t.silence_ms, t.duration_ms, t.error_code, t.reason
FROM turn_liveness.turn t ORDER BY 2, 3;
SELECT r.reply_id, r.deployment, r.message_ids, r.conversation_id, r.platform, r.organization_id, r.payload, r.outcome,
	r.error_code, r.decided_by, r.armed_at, r.first_beat, r.last_beat, r.created_at, CASE r.state WHEN 'claimed' THEN 'due' ELSE r.state END, r.attempt,
	CASE r.state WHEN 'delivered' THEN r.gateway END, r.claimed_at, r.delivered_at, r.last_error
FROM turn_liveness.replies r ORDER BY 1;
SELECT * FROM turn_liveness.late_replies ORDER BY 1, 2;
SELECT last_value, is_called FROM turn_liveness.reply_id_seq;
};

sub owed_in
{
	my ($node, $db) = @_;
	return $node->safe_psql($db,
		'SELECT count(*), count(*) FILTER (WHERE state = \'lapsed\') FROM turn_liveness.turns');
}

# --- a database in the middle of its life

my $old = new_node(
	'old', q{
turn_liveness.max_attempts = 1
turn_liveness.claim_timeout = '1 h'
turn_liveness.sweep = off
}, streaming => 1);
$old->safe_psql(
	'postgres', q{
CREATE ROLE of_two_kinds;
SELECT turn_liveness.grant_worker('of_two_kinds'), turn_liveness.grant_gateway('of_two_kinds');
SELECT turn_liveness.arm_turn('waiting', 'm1', '{"conversationId": "c1", "platform": "slack", "organizationId": "o1", "x": [1, null, "ü"]}', admission => '1s', silence => '1s');
SELECT turn_liveness.arm_turn('running', 'm1', admission => '1h', silence => '1h');
SELECT turn_liveness.arm_turn('again', 'm1', admission => '1h', silence => '1h');
SELECT turn_liveness.arm_turn('again', 'm1', admission => '1h', silence => '1h');
SELECT turn_liveness.arm_turn('marked', 'm1', admission => '1h', silence => '1h');
SELECT turn_liveness.arm_turn('beaten', 'm1', admission => '30 min', silence => '30 min');
SELECT turn_liveness.heartbeat('running', '{m1}'), turn_liveness.heartbeat('beaten');
SELECT turn_liveness.mark_provider_failed('marked', 'PROVIDER', 'out of order');
SELECT turn_liveness.arm_turn('ends', m, jsonb_build_object('conversationId', 'c-' || m)) FROM unnest('{answered,claimed,delivered,failed,discharged,dead,delayed}'::text[]) m;
SELECT turn_liveness.heartbeat('ends', '{answered}');
SELECT turn_liveness.commit_terminal_reply('ends', '{answered}', '{"content": "42"}'),
	turn_liveness.commit_terminal_reply('ends', '{claimed}', '{"content": "43"}'),
	turn_liveness.commit_terminal_reply('ends', '{delivered}', '{"content": "44"}'),
	turn_liveness.commit_terminal_reply('ends', '{dead}', '{"content": "45"}'),
	turn_liveness.commit_terminal_reply('ends', '{delayed}', '{"content": "46"}'),
	turn_liveness.fail_turn('ends', 'failed', 'stopped', 'CANCELLED'),
	turn_liveness.discharge_turn('ends', 'discharged'),
	turn_liveness.reject_turn('ends', 'rejected', '{}', 'no');
SELECT turn_liveness.commit_terminal_reply('ends', '{answered}', '{"content": "too late"}');
SELECT turn_liveness.commit_terminal_reply('never', '{armed}', '{"content": "unknown"}');
SELECT turn_liveness.ack_replies('gw', array_agg(reply_id)) FROM turn_liveness.replies WHERE message_ids = '{delivered}';
SELECT turn_liveness.release_replies('gw', array_agg(reply_id), error => 'gone') FROM turn_liveness.claim_replies('gw', '{c-dead}');
SET turn_liveness.max_attempts = 5;
SELECT turn_liveness.release_replies('gw', array_agg(reply_id), '20 h', 'later') FROM turn_liveness.claim_replies('gw', '{c-delayed}');
SELECT count(*) FROM turn_liveness.claim_replies('gw', '{c-claimed}');
});
is( $old->safe_psql('postgres',
		"SELECT string_agg(message_ids[1] || ' ' || state, ', ' ORDER BY reply_id) FROM turn_liveness.replies WHERE deployment = 'ends'"),
	'answered due, claimed claimed, delivered delivered, dead dead, delayed due, failed due, discharged delivered, rejected due',
	'a reply in every state');

is($old->safe_psql('postgres', 'SELECT turns_owed FROM turn_liveness.stat'), '5', 'five turns are owed');
my $before = $old->safe_psql('postgres', $contents);
my $largest = $old->safe_psql('postgres', 'SELECT max(reply_id) FROM turn_liveness.reply');

my $dir = $old->basedir;
$old->command_ok([ 'pg_dump', '-f', "$dir/plain.sql", 'postgres' ], 'a plain dump');
$old->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", 'postgres' ], 'a custom one');
$old->command_ok([ 'pg_dump', '-Fd', '-j2', '-f', "$dir/directory", 'postgres' ], 'one in parallel');

# --- a server on which nothing was armed

# a worker for each database; the grace is long, for the machine may be slow
my $grace = "turn_liveness.restore_grace = '2 h'";
my $new = new_node('new', "max_worker_processes = 20\n$grace", extension => 0);

sub restored
{
	my ($db, $what) = @_;
	is($new->safe_psql($db, $contents), $before, "$what: everything is there");
	wait_worker($new, $db);
	# rows that came by COPY are looked for once a second: the grace counts from then
	wait_clock($new, 2.5, undef, $db);
	ok(worker_looked($new, $db), "$what: the worker has looked");
	is(owed_in($new, $db), '5|0', "$what: nobody was declared dead");
	is( $new->safe_psql($db, q{
SELECT message_ids[1], state, due_at > clock_timestamp() - interval '1 h' AND
	due_at <= clock_timestamp() + CASE message_ids[1] WHEN 'claimed' THEN interval '1 h' ELSE interval '20 h' END
FROM turn_liveness.replies WHERE message_ids[1] IN ('claimed', 'delayed') ORDER BY 1}),
		"claimed|claimed|t\ndelayed|due|t", "$what: claims and delays are no longer than they were");
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-claimed,c-delayed}')"),
		'0', "$what: and no shorter");
	cmp_ok($new->safe_psql($db, 'SELECT min(reply_id) FROM turn_liveness.reply WHERE deployment LIKE \'probe%\''),
		'>', $largest, "$what: ids go on after the largest");
	advance($new, '110 min', $db);
	ok(worker_looked($new, $db), "$what: the worker has looked again");
	is($new->safe_psql($db, 'SELECT turn_liveness.sweep_expired_turns()'), '0', "$what: nor has a sweep by hand anything to do");
	is(owed_in($new, $db), '5|0', "$what: nor within the grace");

	is($new->safe_psql($db, "SELECT turn_liveness.heartbeat('beaten')"), '1', "$what: a beat");
	advance($new, '5 min', $db);
	ok(worker_looked($new, $db), "$what: the worker has looked after the beat");
	is(owed_in($new, $db), '5|0', "$what: a beat gives a turn deadline");

	# past the grace of all the others, whose deadlines count again
	advance($new, '20 min', $db);
	ok( $new->poll_query_until($db,
			"SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'waiting' AND error_code = 'WORKER_UNRESPONSIVE'"),
		"$what: after the grace it is failed");
	is($new->safe_psql($db, "SELECT string_agg(deployment, ',' ORDER BY 1) FROM turn_liveness.turns WHERE deployment IN ('waiting', 'beaten')"),
		'beaten', "$what: but not who has beaten");
	ok( wait_until(
			'it is failed',
			sub {
				advance($new, '20 min', $db);
				worker_looked($new, $db);
				return $new->safe_psql($db, "SELECT error_code FROM turn_liveness.reply WHERE deployment = 'beaten'") eq 'WORKER_UNRESPONSIVE';
			}),
		"$what: until it falls silent");

	# a gateway that claimed before the dump has no more time than it would have had
	is($new->safe_psql($db, "SELECT state FROM turn_liveness.replies WHERE message_ids = '{claimed}'"),
		'due', "$what: a claim from before the dump has timed out");
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-claimed}')"),
		'1', "$what: and can be claimed again");
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-answered,c-failed}')"),
		'2', "$what: what was not delivered is claimed");
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-delayed}')"),
		'0', "$what: a delay is kept");
	advance($new, '20 h', $db);
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-delayed}')"),
		'1', "$what: until it is over");
	is( $new->safe_psql($db,
			'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) s'),
		'0', "$what: nobody has two ends");

	my $may = q{has_function_privilege('of_two_kinds', 'turn_liveness.arm_turn'::regproc, 'EXECUTE'),
		has_function_privilege('of_two_kinds', 'turn_liveness.start_turn'::regproc, 'EXECUTE')};
	is($new->safe_psql($db, "SELECT $may; SELECT turn_liveness.revoke_gateway('of_two_kinds'); SELECT $may"),
		"t|t\n\nf|t", "$what: what was granted to a role, and as which kinds");
	return;
}

$new->safe_psql('postgres', 'CREATE ROLE of_two_kinds');
$new->safe_psql('postgres', "CREATE DATABASE $_") for qw(plain custom directory);
$new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", 'plain' ], 'a plain restore');
restored('plain', 'plain');
$new->command_ok([ 'pg_restore', '-j2', '-d', 'custom', "$dir/custom" ], 'a custom restore in parallel');
restored('custom', 'custom');
$new->command_ok([ 'pg_restore', '-j2', '-d', 'directory', "$dir/directory" ], 'a restore of a directory in parallel');
restored('directory', 'directory');

# Over what is there, while its worker runs and callers come
$new->safe_psql('postgres', 'CREATE DATABASE over');
add_extension($new, 'over');
$new->safe_psql('over', "SELECT turn_liveness.arm_turn(d, 'm1'), turn_liveness.heartbeat(d) FROM unnest('{local,waiting}'::text[]) d");
$new->command_ok([ 'pg_restore', '--clean', '--if-exists', '--exit-on-error', '-d', 'over', "$dir/custom" ],
	'a restore that first drops what is there');
restored('over', 'restored over another');

# --- the rows come in pieces and in any order, where a worker and callers are

my $nothing = q{
SELECT (SELECT count(*) FROM turn_liveness.turn), (SELECT count(*) FROM turn_liveness.reply),
	is_called, pg_relation_size('turn_liveness.delivery')
FROM turn_liveness.reply_id_seq};
my $plain = slurp_file("$dir/plain.sql");
$plain =~ s/^CREATE FUNCTION public\.tl_advance.*?;$//ms;
$plain =~ s/^\\(un)?restrict .*\n//mg;
$plain =~ s/^ALTER FUNCTION public\.tl_advance.*?;$//m;
my ($data, $rest) = $plain =~ /^(.*?)^(SELECT pg_catalog\.setval\('turn_liveness.*)$/ms;
ok(defined $rest, 'the dump sets the sequence after the data');
append_to_file("$dir/data.sql", $data);
append_to_file("$dir/rest.sql", "SET search_path = '';\n$rest");

sub load
{
	my ($db, $file, $what) = @_;
	return $new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/$file.sql", $db ], $what);
}

$new->safe_psql('postgres', 'CREATE DATABASE early');
add_extension($new, 'early');
my $worker = worker_pid($new, 'early');
advance($new, '5 min', 'early') for 1 .. 3;
is($new->safe_psql('early', $nothing), '0|0|f|0', 'a worker writes nothing where nothing was armed');
ok(kill('TERM', $worker), 'it is told to end');
wait_worker($new, 'early', $worker);
is($new->safe_psql('early', $nothing), '0|0|f|0', 'nor when it ends');

load('early', 'data', 'the rows arrive');
$worker = wait_worker($new, 'early');    # CREATE EXTENSION IF NOT EXISTS may have brought another
wait_clock($new, 2.5, undef, 'early');
advance($new, '60 min', 'early');
is($new->safe_psql('early', 'SELECT turns_owed, turns_lapsed FROM turn_liveness.stat'), '5|0', 'the worker fails nobody');
is($new->safe_psql('early', 'SELECT is_called FROM turn_liveness.reply_id_seq'), 'f', 'and takes no id');
is($new->safe_psql('early', "SELECT turn_liveness.arm_turn('caller', 'm1', admission => '3 h', silence => '3 h'), turn_liveness.heartbeat('running')"),
	'armed|1', 'a caller is let in');
load('early', 'rest', 'then the sequence is set');
is($new->safe_psql('early', "DELETE FROM turn_liveness.turn WHERE deployment = 'caller'; $contents"), $before, 'everything is there');
ok(worker_looked($new, 'early'), 'the worker serves');
advance($new, '50 min', 'early');
ok(worker_looked($new, 'early'), 'the worker has looked within the grace');
is(owed_in($new, 'early'), '5|0', 'nobody was declared dead');
advance($new, '20 min', 'early');
ok( $new->poll_query_until('early',
		"SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'waiting' AND reply_id > $largest"),
	'the grace counts from when the rows were seen');
is(worker_pid($new, 'early'), $worker, 'it was the same worker all the time');

$new->safe_psql('postgres', 'CREATE DATABASE late');
add_extension($new, 'late');
load('late', 'rest', 'the sequence is set first');
is($new->safe_psql('late', "SELECT turn_liveness.arm_turn('local', 'm1'), turn_liveness.discharge_turn('local', 'm1')"), 'armed|t', 'a caller comes');
$new->safe_psql('late', "DELETE FROM turn_liveness.turn; DELETE FROM turn_liveness.reply; DELETE FROM turn_liveness.delivery; SELECT setval('turn_liveness.reply_id_seq', $largest)");
load('late', 'data', 'then the rows arrive');
restored('late', 'in another order');

# --- rows that come to where others are: no turn's time is moved

$new->safe_psql('postgres', 'CREATE DATABASE used');
add_extension($new, 'used');
no_pauses($new, 'used');
$new->safe_psql('used', "SELECT turn_liveness.arm_turn('local', 'm1', duration => '3 h', admission => '3 h', silence => '3 h')");
# as the liveness clock has it: a late tick moves what the wall clock will show
my $deadline = 'deadline - clock_timestamp() + turn_liveness.clock_now()';
my $due = $new->safe_psql('used', "SELECT $deadline FROM turn_liveness.turns");
load('used', 'data', 'the rows of another server arrive');
load('used', 'rest', 'and its sequence');
cmp_ok($new->safe_psql('used', "SELECT abs(extract(epoch FROM $deadline - '$due')) FROM turn_liveness.turns WHERE deployment = 'local'"),
	'<', 1, 'a turn that was armed here has the time that it had');
$new->restart;
wait_worker($new, 'used');
is($new->safe_psql('used', "SELECT state FROM turn_liveness.turns WHERE deployment = 'local'"), 'waiting', 'also after a start');
# in one transaction: the worker may look at it as soon as it sees the row
like($new->safe_psql('used', q{
SELECT turn_liveness.reject_turn('far', 'm1', '{}', 'no');
BEGIN;
SELECT count(*) FROM turn_liveness.claim_replies('gw', '{far}');
UPDATE turn_liveness.delivery SET due_at = due_at + interval '3 days' WHERE conversation_id = 'far';
SELECT state FROM turn_liveness.replies WHERE deployment = 'far';
COMMIT;
}), qr/^claimed$/m, 'a claim of another time');
advance($new, '31 s', 'used');
ok($new->poll_query_until('used', "SELECT state = 'due' FROM turn_liveness.replies WHERE deployment = 'far'"), 'is freed');
unlike(slurp_file($new->logfile), qr/duplicate key|PANIC|TRAP|signal 6|signal 11/, 'nothing clashed');

# --- the same without preload, where a session sweeps and the wall clock counts

my $rows = new_node('rows', $grace, preload => 0);
$rows->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()') for 1 .. 2;
is($rows->safe_psql('postgres', $nothing), '0|0|f|0', 'without preload: a sweep writes nothing where nothing was armed');
$rows->safe_psql('postgres', 'CREATE ROLE of_two_kinds; DROP EXTENSION turn_liveness; DROP FUNCTION public.tl_advance');
$rows->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'postgres', "$dir/custom" ], 'a restore');
is($rows->safe_psql('postgres', $contents), $before, 'everything is there');
is($rows->safe_psql('postgres', "SELECT state FROM turn_liveness.replies WHERE message_ids = '{claimed}'"), 'claimed', 'a claim lasts');
foreach my $step ('0 s', '110 min')
{
	advance($rows, $step, 'postgres');
	is($rows->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), '0', "after $step there is nothing to fail");
	is(owed_in($rows, 'postgres'), '5|0', 'nor to show as lapsed');
}
advance($rows, '20 min', 'postgres');
cmp_ok($rows->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), '>', 0, 'after the grace there is');
is($rows->safe_psql('postgres', "SELECT error_code FROM turn_liveness.replies WHERE deployment = 'waiting'"),
	'WORKER_UNRESPONSIVE', 'and it is failed');
is($rows->safe_psql('postgres', "SELECT state FROM turn_liveness.replies WHERE message_ids = '{claimed}'"), 'due', 'a claim is over');

# beats in rows, and a mark that is set after the restore
$rows->safe_psql('postgres', q{
SELECT turn_liveness.arm_turn(d, 'm1', admission => '30 min', silence => '30 min') FROM unnest('{beaten in rows,to be marked}'::text[]) d;
SELECT turn_liveness.heartbeat('beaten in rows');
});
$rows->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/rows", 'postgres' ], 'a dump without preload');
$rows->stop;
$new->safe_psql('postgres', 'CREATE DATABASE rows');
$new->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'rows', "$dir/rows" ], 'is restored with it');
wait_worker($new, 'rows');
wait_clock($new, 2.5, undef, 'rows');
is($new->safe_psql('rows', "SELECT turn_liveness.mark_provider_failed('to be marked', 'PROVIDER', 'out of order')"), '1', 'a mark');
ok(worker_looked($new, 'rows'), 'the worker has read of it');
advance($new, '110 min', 'rows');
ok(worker_looked($new, 'rows'), 'the worker has looked');
my $theirs = "deployment IN ('beaten in rows', 'to be marked')";
is($new->safe_psql('rows', "SELECT count(*) FROM turn_liveness.turns WHERE $theirs AND state <> 'lapsed'"), '2',
	'a beat from before the dump takes nobody the grace');
ok( wait_until(
		'both are failed',
		sub {
			advance($new, '20 min', 'rows');
			worker_looked($new, 'rows');
			return $new->safe_psql('rows', "SELECT count(*) FROM turn_liveness.reply WHERE $theirs") == 2;
		}),
	'and a mark does not make it endless');

# --- a base backup is a crash recovery

$old->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.sweep = on');
$old->reload;
ok($old->poll_query_until('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat'), 'sweep is on again');
arm($old, 'base', 'm1', "admission => '1h', silence => '1h'");
$old->safe_psql('postgres', "SELECT turn_liveness.heartbeat('base')");
advance($old, '50 min');
$old->backup('base');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($old, 'base');
$copy->start;
wait_worker($copy);
ok($copy->poll_query_until('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat'), 'the copy sweeps');
advance($copy, '50 min');
ok(worker_looked($copy, 'postgres'), 'the worker of the copy has looked');
is(ends($copy, 'base', 'm1'), '', 'a turn in flight has one turn deadline from the start of the copy');
wait_until('it is failed', sub { advance($copy, '15 min'); ends($copy, 'base', 'm1') ne '' });
is(ends($copy, 'base', 'm1'), 'WORKER_UNRESPONSIVE sweep', 'and no more');

$_->stop for $copy, $new, $old;
done_testing();
