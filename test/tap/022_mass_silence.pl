# The path to the database is out, not the workers: when many deployments beat
# and then nobody at all calls, lapses are held back for a while.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use TurnLiveness;

# Each part runs in a database of its own: who calls in one is no sign of life
# in another.
my $node = new_node('main', q{
turn_liveness.turn_deadline = '2s'
autovacuum = off
max_worker_processes = 20
}, extension => 0);

sub make_database
{
	my ($db, $deployments) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	add_extension($node, $db);
	$node->safe_psql($db,
		"SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '1h')) FROM generate_series(1, $deployments) i");
	beat($db, $deployments);
	return;
}

# How many of them owe nothing any more
sub beat
{
	my ($db, $deployments) = @_;
	return $node->safe_psql($db,
		"SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'd' || i FROM generate_series(1, $deployments) i))");
}

# None of our functions that counts as a call, and none of our views
sub failed
{
	my ($db) = @_;
	return $node->safe_psql($db, "SELECT count(*) FROM turn_liveness.reply WHERE outcome = 'e'");
}

# Nobody calls for that long on the liveness clock.
sub silence
{
	my ($db, $seconds) = @_;
	my $since = $node->safe_psql($db, 'SELECT turn_liveness.clock_us()');
	$node->poll_query_until($db, "SELECT turn_liveness.clock_us() >= $since + 1000000 * $seconds");
	return;
}

# Beat for that long, often.
sub beat_on
{
	my ($db, $deployments, $seconds) = @_;
	my $end = time + $seconds;
	my $idle;
	do { $idle = beat($db, $deployments); usleep(200_000) } while time < $end;
	return $idle;
}

# --- the outage: 200 deployments, one and a half deadlines

make_database('outage', 200);
is(beat_on('outage', 200, 1), 0, 'outage: 200 deployments beat');
silence('outage', 3);
is(failed('outage'), 0, 'outage: after one and a half deadlines of silence nobody is failed');
like($node->safe_psql('outage', 'SELECT grace FROM turn_liveness.stat_row()'),
	qr/mass silence/, 'outage: stat tells');
is(beat('outage', 200), 0, 'outage: calls come again, all turns are owed');
is(failed('outage'), 0, 'outage: nobody is failed then');
is($node->safe_psql('outage',
		q{SELECT count(*) FILTER (WHERE e = 'won') FROM (SELECT turn_liveness.commit_terminal_reply('d' || i, '{m}', '{}') e FROM generate_series(1, 100) i) x}),
	100, 'outage: their answers win');
is($node->safe_psql('outage',
		q{SELECT count(*) FROM (SELECT turn_liveness.heartbeat('d' || i) n FROM generate_series(101, 200) i) x WHERE n <> 1}),
	0, 'outage: the others beat');

# Later ones: a worker that comes back a little after the first has its time.
make_database('slow', 200);
beat_on('slow', 200, 1);
silence('slow', 4);
is($node->safe_psql('slow', "SELECT turn_liveness.heartbeat('d1')"), 1, 'slow: the first one is back');
silence('slow', 1.2);
is(failed('slow'), 0, 'slow: within a turn deadline after it nobody is failed');
is(beat('slow', 100), 0, 'slow: half of them are back');
ok(wait_until('the other half is failed', sub { beat('slow', 100); return failed('slow') == 100 }),
	'slow: the other half is failed, after the turn deadline');
is($node->safe_psql('slow',
		q{SELECT count(*) FROM turn_liveness.reply WHERE substr(deployment, 2)::int <= 100}),
	0, 'slow: nobody else is');

# --- without the hold

$node->safe_psql('postgres', 'CREATE DATABASE nohold');
$node->safe_psql('postgres', 'ALTER DATABASE nohold SET turn_liveness.mass_silence_hold = 0');
add_extension($node, 'nohold');
$node->safe_psql('nohold',
	"SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '1h')) FROM generate_series(1, 200) i");
beat_on('nohold', 200, 1);
silence('nohold', 3);
is(failed('nohold'), 200, 'mass_silence_hold = 0: all are failed');
is($node->safe_psql('nohold', "SELECT turn_liveness.commit_terminal_reply('d1', '{m}', '{}')"),
	'lost', 'and their answers are lost');

# --- too few to tell

make_database('few', 9);
beat_on('few', 9, 1);
silence('few', 3);
is(failed('few'), 9, 'nine deployments that fall silent are failed');
make_database('ten', 10);
beat_on('ten', 10, 1);
silence('ten', 3);
is(failed('ten'), 0, 'ten are not');

# --- the path is alive

make_database('alive', 200);
beat_on('alive', 200, 1);
my $since = time;
ok( wait_until(
		'all are failed',
		sub {
			$node->safe_psql('alive', "SELECT turn_liveness.heartbeat('nobody')");
			return failed('alive') == 200;
		}),
	'others call, the workers are dead: they are failed');
cmp_ok(time - $since, '<', 2 + 3, 'without a hold');
like($node->safe_psql('alive', "SELECT coalesce(grace, 'none') FROM turn_liveness.stat_row()"),
	qr/^(?!.*mass silence)/, 'stat tells of none');

# --- what is never held

make_database('never', 50);
$node->safe_psql('never',
	"SELECT turn_liveness.arm_turn('long', 'm', admission => '1s', silence => '1s', duration => '3500ms')");
$node->safe_psql('never', "SELECT turn_liveness.arm_turn('waits', 'm', admission => '3500ms')");
$node->safe_psql('never', "SELECT turn_liveness.heartbeat('long')");
my $worker = session($node, 'never');
$worker->query_safe("SELECT turn_liveness.arm_turn('attached', 'm', admission => '1h')");
$worker->query_safe("SELECT turn_liveness.attach_worker('attached')");
beat('never', 50);
$node->safe_psql('never', "SELECT turn_liveness.heartbeat('long')");
silence('never', 2.5);
kill 'KILL', client_pid($worker);
eval { $worker->quit };
ok($node->poll_query_until('never', "SELECT count(*) = 3 FROM turn_liveness.reply"),
	'an ended session, the duration limit, and a turn that never started are not held');
is($node->safe_psql('never',
		q{SELECT string_agg(deployment || ' ' || error_code, ', ' ORDER BY deployment) FROM turn_liveness.reply}),
	'attached WORKER_DIED, long TURN_TOO_LONG, waits WORKER_NEVER_STARTED', 'with their codes');
is(failed('never'), 3, 'the silent ones are');

# --- the hold ends

$node->safe_psql('postgres', 'CREATE DATABASE ends');
$node->safe_psql('postgres', "ALTER DATABASE ends SET turn_liveness.mass_silence_hold = '2500ms'");
add_extension($node, 'ends');
$node->safe_psql('ends',
	"SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '1h')) FROM generate_series(1, 200) i");
beat_on('ends', 200, 1);
silence('ends', 3.5);
is(failed('ends'), 0, 'mass_silence_hold = 2.5 s: held');
ok($node->poll_query_until('ends', "SELECT count(*) = 200 FROM turn_liveness.reply"),
	'nobody ever calls again: they are failed');
my $after = $node->safe_psql('ends', 'SELECT extract(epoch FROM min(created_at - last_beat)) FROM turn_liveness.reply');
cmp_ok($after, '>=', 4.4, "after the hold ($after s)");
cmp_ok($after, '<', 9, 'and not long after it');

$node->stop;
done_testing();
