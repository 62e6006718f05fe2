# Dump and restore: nothing is lost, nothing is declared dead because of it,
# and the worker does not write before the restore has.

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

sub advance_in
{
	my ($node, $db, $interval) = @_;
	$node->safe_psql($db, "SELECT public.tl_advance('$interval')");
	return;
}

# Until the worker has looked at everything that could have lapsed by now: a
# turn of its own, which lapses at this moment, is failed.
my $probes = 0;

sub worker_looked
{
	my ($node, $db) = @_;
	my $probe = 'probe' . ++$probes;
	$node->safe_psql($db, "SELECT turn_liveness.arm_turn('$probe', 'm', admission => '1ms', silence => '1ms')");
	return $node->poll_query_until($db,
		"SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = '$probe' AND error_code = 'WORKER_NEVER_STARTED'");
}

sub owed_in
{
	my ($node, $db) = @_;
	return $node->safe_psql($db,
		'SELECT count(*), count(*) FILTER (WHERE state = \'lapsed\') FROM turn_liveness.turns');
}

# --- a database in the middle of its life, a day on its clock

my $old = new_node(
	'old', q{
turn_liveness.max_attempts = 1
turn_liveness.claim_timeout = '10 min'
turn_liveness.sweep = off
}, streaming => 1);
advance($old, '1 day');
$old->safe_psql(
	'postgres', q{
SELECT turn_liveness.arm_turn('waiting', 'm1', '{"conversationId": "c1", "platform": "slack", "organizationId": "o1", "x": [1, null, "ü"]}', admission => '1s', silence => '1s');
SELECT turn_liveness.arm_turn('running', 'm1', admission => '1h', silence => '1h');
SELECT turn_liveness.arm_turn('again', 'm1', admission => '1h', silence => '1h');
SELECT turn_liveness.arm_turn('again', 'm1', admission => '1h', silence => '1h');
SELECT turn_liveness.arm_turn('marked', 'm1', admission => '1h', silence => '1h');
SELECT turn_liveness.arm_turn('beaten', 'm1', admission => '30s', silence => '30s');
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

my $new = new_node('new', '', extension => 0);
my $tl_advance = q{CREATE FUNCTION public.tl_advance(interval) RETURNS void AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT};

sub restored
{
	my ($db, $what) = @_;
	is($new->safe_psql($db, $contents), $before, "$what: everything is there");
	wait_worker($new, $db);
	# rows that came by COPY are looked for once a second: the grace counts from then
	my $since = $new->safe_psql($db, 'SELECT turn_liveness.clock_us()');
	$new->poll_query_until($db, "SELECT turn_liveness.clock_us() > $since + 2500000");
	ok(worker_looked($new, $db), "$what: the worker has looked");
	is(owed_in($new, $db), '5|0', "$what: nobody was declared dead");
	is( $new->safe_psql($db, q{
SELECT message_ids[1], state, due_at > clock_timestamp() - interval '10 min' AND
	due_at <= clock_timestamp() + CASE message_ids[1] WHEN 'claimed' THEN interval '10 min' ELSE interval '20 h' END
FROM turn_liveness.replies WHERE message_ids[1] IN ('claimed', 'delayed') ORDER BY 1}),
		"claimed|claimed|t\ndelayed|due|t", "$what: claims and delays are no longer than they were");
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-claimed,c-delayed}')"),
		'0', "$what: and no shorter");
	cmp_ok($new->safe_psql($db, 'SELECT min(reply_id) FROM turn_liveness.reply WHERE deployment LIKE \'probe%\''),
		'>', $largest, "$what: ids go on after the largest");
	advance_in($new, $db, '580 s');
	ok(worker_looked($new, $db), "$what: the worker has looked again");
	is($new->safe_psql($db, 'SELECT turn_liveness.sweep_expired_turns()'), '0', "$what: nor has a sweep by hand anything to do");
	is(owed_in($new, $db), '5|0', "$what: nor within the grace");

	is($new->safe_psql($db, "SELECT turn_liveness.heartbeat('beaten')"), '1', "$what: a beat");
	$new->safe_psql($db, "SELECT public.tl_advance('5 s')");
	ok(worker_looked($new, $db), "$what: the worker has looked after the beat");
	is(owed_in($new, $db), '5|0', "$what: a beat gives a turn deadline");

	# past the grace of all the others, whose deadlines count again
	advance_in($new, $db, '20 s');
	ok( $new->poll_query_until($db,
			"SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'waiting' AND error_code = 'WORKER_UNRESPONSIVE'"),
		"$what: after the grace it is failed");
	is($new->safe_psql($db, "SELECT string_agg(deployment, ',' ORDER BY 1) FROM turn_liveness.turns WHERE deployment IN ('waiting', 'beaten')"),
		'beaten', "$what: but not who has beaten");
	advance_in($new, $db, '20 s');
	ok( $new->poll_query_until($db,
			"SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'beaten' AND error_code = 'WORKER_UNRESPONSIVE'"),
		"$what: until it falls silent");

	# who had claimed before the dump has not longer than it would have had
	is($new->safe_psql($db, "SELECT state FROM turn_liveness.replies WHERE message_ids = '{claimed}'"),
		'due', "$what: a claim from before the dump has timed out");
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-claimed}')"),
		'1', "$what: and can be claimed again");
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-answered,c-failed}')"),
		'2', "$what: what was not delivered is claimed");
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-delayed}')"),
		'0', "$what: a delay is kept");
	advance_in($new, $db, '20 h');
	is($new->safe_psql($db, "SELECT count(*) FROM turn_liveness.claim_replies('gw2', '{c-delayed}')"),
		'1', "$what: until it is over");
	is( $new->safe_psql($db,
			'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) s'),
		'0', "$what: nobody has two ends");
	return;
}

$new->safe_psql('postgres', "CREATE DATABASE $_") for qw(plain custom directory);
$new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", 'plain' ], 'a plain restore');
restored('plain', 'plain');
$new->command_ok([ 'pg_restore', '-j2', '-d', 'custom', "$dir/custom" ], 'a custom restore in parallel');
restored('custom', 'custom');
$new->command_ok([ 'pg_restore', '-j2', '-d', 'directory', "$dir/directory" ], 'a restore of a directory in parallel');
restored('directory', 'directory');

# Over what is there, while its worker runs, and whose clock is far ahead:
# what was never delivered would be past its retention there
advance_in($new, 'custom', '30 days');
$new->command_ok([ 'pg_restore', '--clean', '--if-exists', '--exit-on-error', '-d', 'custom', "$dir/custom" ],
	'a restore that first drops what is there');
restored('custom', 'restored over another');

# --- where the worker waits for the rows: it does not write before them

$new->safe_psql('postgres', 'CREATE DATABASE early');
$new->safe_psql('early', "CREATE EXTENSION turn_liveness; $tl_advance");
my $worker = wait_worker($new, 'early');
my $nothing = q{
SELECT (SELECT sum(base_us) FROM turn_liveness.clock), (SELECT count(*) FROM turn_liveness.turn),
	(SELECT count(*) FROM turn_liveness.reply), is_called, pg_relation_size('turn_liveness.delivery')
FROM turn_liveness.reply_id_seq};
advance_in($new, 'early', '5 min') for 1 .. 3;
is($new->safe_psql('early', $nothing), '0|0|0|f|0', 'a worker writes nothing where nothing was armed');
ok(kill('TERM', $worker), 'it is told to end');
$worker = wait_worker($new, 'early', $worker);
is($new->safe_psql('early', $nothing), '0|0|0|f|0', 'nor when it ends');

# the dump up to where the sequence is set, the time of its home last, as a parallel
# restore may do it; a session at a time
my $plain = slurp_file("$dir/plain.sql");
$plain =~ s/^CREATE FUNCTION public\.tl_advance.*?;$//ms;
$plain =~ s/^\\(un)?restrict .*\n//mg;
$plain =~ s/^ALTER FUNCTION public\.tl_advance.*?;$//m;
my ($data, $rest) = $plain =~ /^(.*?)^(SELECT pg_catalog\.setval\('turn_liveness.*)$/ms;
ok(defined $rest, 'the dump sets the sequence after the data');
ok($data =~ s/^(COPY turn_liveness\.clock .*?^\\\.\n)//ms, 'and has the time of its home');
my $time = $1;
append_to_file("$dir/data.sql", $data);
append_to_file("$dir/time.sql", $time);
append_to_file("$dir/rest.sql", "SET search_path = '';\n$rest");
$new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/data.sql", 'early' ], 'the rows arrive');
$worker = wait_worker($new, 'early');    # CREATE EXTENSION IF NOT EXISTS may have brought another
my $since = $new->safe_psql('early', 'SELECT turn_liveness.clock_us()');
$new->poll_query_until('early', "SELECT turn_liveness.clock_us() > $since + 2500000");
advance_in($new, 'early', '5 min');
is($new->safe_psql('early', 'SELECT count(*) FROM turn_liveness.clock WHERE server <> 0'), '0', 'it writes no time before anything was written here');
is($new->safe_psql('early', 'SELECT turns_owed, turns_lapsed FROM turn_liveness.stat'), '5|0', 'it fails nobody');
is($new->safe_psql('early', 'SELECT is_called FROM turn_liveness.reply_id_seq'), 'f', 'and takes no id');
cmp_ok($new->safe_psql('early', 'SELECT turn_liveness.clock_us()'), '<', 3600 * 1e6, 'its clock is its own');
$new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/time.sql", 'early' ], 'then the time arrives');
cmp_ok($new->safe_psql('early', 'SELECT turn_liveness.clock_us()'), '>', 86400 * 1e6, 'sessions go on from it at once');
ok( $new->poll_query_until('early', "SELECT grace ~ 'pause' FROM turn_liveness.stat"), 'and the worker');
is($new->safe_psql('early', 'SELECT turns_owed, turns_lapsed FROM turn_liveness.stat'), '5|0', 'it still fails nobody');
$new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/rest.sql", 'early' ], 'then the sequence is set');
is($new->safe_psql('early', $contents), $before, 'everything is there');
ok(worker_looked($new, 'early'), 'the worker serves');
is($new->safe_psql('early', 'SELECT count(*) FROM turn_liveness.clock WHERE server <> 0'), '2', 'now it has a time of its own');
advance_in($new, 'early', '580 s');
ok(worker_looked($new, 'early'), 'the worker has looked within the grace');
is(owed_in($new, 'early'), '5|0', 'nobody was declared dead');
advance_in($new, 'early', '30 s');
ok( $new->poll_query_until('early',
		"SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'waiting' AND reply_id > $largest"),
	'the grace counts from when the rows were seen and their time was known');
is(worker_pid($new, 'early'), $worker, 'it was the same worker all the time');

# --- rows that come to where others are: nobody's time is moved under him

$new->safe_psql('postgres', 'CREATE DATABASE used');
$new->safe_psql('used', "CREATE EXTENSION turn_liveness; $tl_advance");
wait_worker($new, 'used');
$new->safe_psql('used', "SELECT turn_liveness.arm_turn('local', 'm1', duration => '3 h', admission => '3 h', silence => '3 h')");
ok($new->poll_query_until('used', 'SELECT count(*) = 1 FROM turn_liveness.clock WHERE server <> 0'), 'with the first arm the time is its own');
$new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/time.sql", 'used' ], 'another time arrives');
cmp_ok($new->safe_psql('used', 'SELECT turn_liveness.clock_us()'), '<', 3600 * 1e6, 'the clock goes on');
$new->restart;
wait_worker($new, 'used');
cmp_ok($new->safe_psql('used', 'SELECT turn_liveness.clock_us()'), '<', 3600 * 1e6, 'also after a start');
is($new->safe_psql('used', 'SELECT state FROM turn_liveness.turns'), 'waiting', 'a turn that was armed here lives');
$new->safe_psql('used', q{
SELECT turn_liveness.reject_turn('far', 'm1', '{}', 'no');
SELECT count(*) FROM turn_liveness.claim_replies('gw', '{far}');
UPDATE turn_liveness.delivery SET due_us = due_us + 3 * 86400000000;
});
is($new->safe_psql('used', 'SELECT state FROM turn_liveness.replies'), 'claimed', 'a claim of another time');
advance_in($new, 'used', '31 s');
ok($new->poll_query_until('used', "SELECT state = 'due' FROM turn_liveness.replies"), 'is freed');

# --- another extension in the same database has a clock of its own

advance_in($new, 'used', '30 days');
$new->safe_psql('used', q{
SELECT turn_liveness.arm_turn('beats', 'm1');
SELECT turn_liveness.heartbeat('beats');
});
is($new->safe_psql('used', 'SELECT leases_used FROM turn_liveness.stat'), '1', 'a lease');
$worker = worker_pid($new, 'used');
is($new->safe_psql('used', q{
BEGIN;
DROP EXTENSION turn_liveness;
CREATE EXTENSION turn_liveness;
COMMIT;
SELECT turn_liveness.arm_turn('beats', 'm2');
SELECT turn_liveness.clock_us() < 3600 * 1e6;
SELECT state FROM turn_liveness.turns;
}), "armed\nt\nwaiting", 'a clock that starts anew, also before there is a worker for it');
wait_worker($new, 'used', $worker);
cmp_ok($new->safe_psql('used', 'SELECT turn_liveness.clock_us()'), '<', 3600 * 1e6, 'and with one');
is($new->safe_psql('used', 'SELECT leases_used FROM turn_liveness.stat'), '0', 'the leases of the last one are gone');
is($new->safe_psql('used', "SELECT turn_liveness.heartbeat('beats')"), '1', 'beats');
advance_in($new, 'used', '50 s');
is($new->safe_psql('used', 'SELECT state FROM turn_liveness.turns'), 'running', 'it lives');
advance_in($new, 'used', '15 s');
ok($new->poll_query_until('used', "SELECT count(*) = 1 FROM turn_liveness.reply WHERE error_code = 'WORKER_UNRESPONSIVE'"),
	'and lapses by that clock');
$new->safe_psql('used', q{
SELECT turn_liveness.arm_turn('beats', 'm3');
SELECT turn_liveness.heartbeat('beats');
});
is($new->safe_psql('used', 'SELECT leases_used FROM turn_liveness.stat'), '1', 'a lease again');
$new->safe_psql('used', 'DROP EXTENSION turn_liveness');
ok($new->poll_query_until('plain', 'SELECT leases_used = 0 FROM turn_liveness.stat'), 'and gone with the extension');
unlike(slurp_file($new->logfile), qr/duplicate key|PANIC|TRAP|signal 6|signal 11/, 'nothing clashed');

# --- the same without preload, where whoever sweeps has the time

my $rows = new_node('rows', '', start => 0);
$rows->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$rows->start;
$rows->safe_psql('postgres', "CREATE EXTENSION turn_liveness; $tl_advance");
$rows->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()') for 1 .. 2;
is($rows->safe_psql('postgres', $nothing), '0|0|0|f|0', 'without preload: a sweep writes nothing where nothing was armed');
$rows->safe_psql('postgres', 'DROP EXTENSION turn_liveness; DROP FUNCTION public.tl_advance');
$rows->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'postgres', "$dir/custom" ], 'a restore');
is($rows->safe_psql('postgres', $contents), $before, 'everything is there');
is($rows->safe_psql('postgres', "SELECT state FROM turn_liveness.replies WHERE message_ids = '{claimed}'"), 'claimed', 'a claim lasts');
foreach my $step ('0 s', '590 s')
{
	advance_in($rows, 'postgres', $step);
	is($rows->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), '0', "after $step there is nothing to fail");
	is(owed_in($rows, 'postgres'), '5|0', 'nor to show as lapsed');
}
advance_in($rows, 'postgres', '20 s');
cmp_ok($rows->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), '>', 0, 'after the grace there is');
is($rows->safe_psql('postgres', "SELECT error_code FROM turn_liveness.replies WHERE deployment = 'waiting'"),
	'WORKER_UNRESPONSIVE', 'and it is failed');
is($rows->safe_psql('postgres', "SELECT state FROM turn_liveness.replies WHERE message_ids = '{claimed}'"), 'due', 'a claim is over');

# beats in rows, and a mark that is set after the restore
$rows->safe_psql('postgres', q{
SELECT turn_liveness.arm_turn(d, 'm1', admission => '30 s', silence => '30 s') FROM unnest('{beaten in rows,to be marked}'::text[]) d;
SELECT turn_liveness.heartbeat('beaten in rows');
});
$rows->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/rows", 'postgres' ], 'a dump without preload');
$rows->stop;
$new->safe_psql('postgres', 'CREATE DATABASE rows');
$new->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'rows', "$dir/rows" ], 'is restored with it');
wait_worker($new, 'rows');
$since = $new->safe_psql('rows', 'SELECT turn_liveness.clock_us()');
$new->poll_query_until('rows', "SELECT turn_liveness.clock_us() > $since + 2500000");
is($new->safe_psql('rows', "SELECT turn_liveness.mark_provider_failed('to be marked', 'PROVIDER', 'out of order')"), '1', 'a mark');
ok(worker_looked($new, 'rows'), 'the worker has read of it');
advance_in($new, 'rows', '580 s');
ok(worker_looked($new, 'rows'), 'the worker has looked');
my $theirs = "deployment IN ('beaten in rows', 'to be marked')";
is($new->safe_psql('rows', "SELECT count(*) FROM turn_liveness.turns WHERE $theirs AND state <> 'lapsed'"), '2',
	'a beat from before the dump takes nobody the grace');
advance_in($new, 'rows', '30 s');
ok($new->poll_query_until('rows', "SELECT count(*) = 2 FROM turn_liveness.reply WHERE $theirs"), 'and a mark does not make it endless');

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
advance($copy, '59 min');
ok(worker_looked($copy, 'postgres'), 'the worker of the copy has looked');
is(ends($copy, 'base', 'm1'), '', 'a turn in flight has one turn deadline from the start of the copy');
advance($copy, '2 min');
is(wait_ended($copy, 'base', 'm1'), 'WORKER_UNRESPONSIVE sweep', 'and no more');

$_->stop for $copy, $new, $old;
done_testing();
