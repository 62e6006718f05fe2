# The path to the database is out, not the workers: when many deployments beat
# and then no worker at all calls, lapses are held back for a while.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# Each part runs in a database of its own: a call in one is no sign of life in
# another.  The turn deadline is ten minutes, and the test drives the clock.
my $node = new_node('main', q{
turn_liveness.turn_deadline = '10 min'
turn_liveness.mass_silence_hold = '20 min'
autovacuum = off
max_worker_processes = 30
}, extension => 0, wall_clock => 1);

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

# No session calls for that long on the liveness clock.  The second step waits for
# the round after the one that the first began: the worker has swept by then.
sub silence
{
	my ($db, $minutes) = @_;
	$node->safe_psql($db, "SELECT public.tl_advance('$minutes min')");
	$node->safe_psql($db, q{SELECT public.tl_advance('1 s')});
	return;
}

# They fail, and no hold keeps them: only a pause, which a busy machine may make of
# itself, gives them more time.  $call is done in each round, which is three minutes.
sub all_fail
{
	my ($db, $count, $rounds, $what, $call) = @_;
	my $failed = wait_until(
		'they are failed',
		sub {
			my $grace = $node->safe_psql($db, "SELECT coalesce(grace, 'none') FROM turn_liveness.stat_row()");
			$rounds-- if $grace !~ /pause/;
			$call->() if $call;
			silence($db, 3);
			return failed($db) == $count || $rounds < 0;
		});
	is(failed($db), $count, $what);
	return;
}

# --- the outage: 200 deployments, one and a half deadlines

make_database('outage', 200);
is(beat('outage', 200), 0, 'outage: 200 deployments beat');
silence('outage', 15);
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
silence('slow', 20);
is($node->safe_psql('slow', "SELECT turn_liveness.heartbeat('d1')"), 1, 'slow: the first one is back');
silence('slow', 6);
is(failed('slow'), 0, 'slow: within a turn deadline after it nobody is failed');
is(beat('slow', 100), 0, 'slow: half of them are back');
ok(wait_until('the other half is failed', sub { beat('slow', 100); silence('slow', 3); return failed('slow') == 100 }),
	'slow: the other half is failed, after the turn deadline');
is($node->safe_psql('slow',
		q{SELECT count(*) FROM turn_liveness.reply WHERE substr(deployment, 2)::int <= 100}),
	0, 'slow: nobody else is');

# --- each turn goes by its own silence deadline, and what gateways call proves nothing

# No worker calls for some of the turns' own silence deadlines, each less than
# the setting.  $call is done in each step of a tenth of the outage.
sub outage_of
{
	my ($db, $count, $silence, $minutes, $call) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	add_extension($node, $db);
	$node->safe_psql($db,
		"SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '1h', silence => '$silence')) FROM generate_series(1, $count) i");
	is(beat($db, $count), 0, "$db: $count deployments beat");
	foreach my $step (1 .. 10)
	{
		$node->safe_psql($db, $call) if $call;
		silence($db, $minutes / 10);
	}
	is(failed($db), 0, "$db: 0 of $count are failed in the outage");
	is(beat($db, $count), 0, "$db: calls come again, all turns are owed");
	silence($db, 0.1);
	is(failed($db), 0, "$db: 0 of $count are failed then");
	is($node->safe_psql($db,
			"SELECT count(*) FILTER (WHERE e = 'won') FROM (SELECT turn_liveness.commit_terminal_reply('d' || i, '{m}', '{}') e FROM generate_series(1, $count) i) x"),
		$count, "$db: all answers win");
	return;
}
outage_of('brief', 20, '50 s', 2);
outage_of('pooler', 30, '5 min', 7.5);
outage_of('polled', 20, '50 s', 2, q{
SELECT count(*) FROM turn_liveness.claim_replies('gw', platforms => '{slack}');
SELECT count(*) FROM turn_liveness.read_replies('{d1}');
SELECT turn_liveness.arm_turn('gateway', 'm' || random(), admission => '1h')});
outage_of('rescuing', 20, '5 min', 7.5, q{
SELECT count(*) FROM turn_liveness.rescue_turns();
SELECT turn_liveness.has_live_turn('d1', 'm'), turn_liveness.fail_turn('none', 'm', 'x')});

# --- without the hold

$node->safe_psql('postgres', 'CREATE DATABASE nohold');
$node->safe_psql('postgres', 'ALTER DATABASE nohold SET turn_liveness.mass_silence_hold = 0');
add_extension($node, 'nohold');
$node->safe_psql('nohold',
	"SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '1h')) FROM generate_series(1, 200) i");
beat('nohold', 200);
silence('nohold', 9);
all_fail('nohold', 200, 1, 'mass_silence_hold = 0: all are failed');
is($node->safe_psql('nohold', "SELECT turn_liveness.commit_terminal_reply('d1', '{m}', '{}')"),
	'lost', 'and their answers are lost');

# --- too few to tell

make_database('few', 9);
silence('few', 9);
all_fail('few', 9, 1, 'nine deployments that fall silent are failed');
make_database('ten', 10);
silence('ten', 15);
is(failed('ten'), 0, 'ten are not');

# --- the path is alive

make_database('alive', 200);
all_fail('alive', 200, 4, 'others call, the workers are dead: they are failed without a hold',
	sub { $node->safe_psql('alive', "SELECT turn_liveness.heartbeat('other')") });
like($node->safe_psql('alive', "SELECT coalesce(grace, 'none') FROM turn_liveness.stat_row()"),
	qr/^(?!.*mass silence)/, 'stat tells of none');

# --- what is never held

make_database('never', 50);
$node->safe_psql('never',
	"SELECT turn_liveness.arm_turn('long', 'm', admission => '3 min', silence => '3 min', duration => '12 min')");
$node->safe_psql('never', "SELECT turn_liveness.arm_turn('waits', 'm', admission => '12 min')");
$node->safe_psql('never', "SELECT turn_liveness.heartbeat('long')");
my $worker = session($node, 'never');
$worker->query_safe("SELECT turn_liveness.arm_turn('attached', 'm', admission => '1h')");
$worker->query_safe("SELECT turn_liveness.attach_worker('attached')");
beat('never', 50);
$node->safe_psql('never', "SELECT turn_liveness.heartbeat('long')");
silence('never', 11);
kill 'KILL', client_pid($worker);
eval { $worker->quit };
ok(wait_until('three are failed', sub { silence('never', 1); return failed('never') == 3 }),
	'an ended session, the duration limit, and a turn that never started are not held');
is($node->safe_psql('never',
		q{SELECT string_agg(deployment || ' ' || error_code, ', ' ORDER BY deployment) FROM turn_liveness.reply}),
	'attached WORKER_DIED, long TURN_TOO_LONG, waits WORKER_NEVER_STARTED', 'with their codes');
is(failed('never'), 3, 'the silent ones are');

# --- the hold ends

$node->safe_psql('postgres', 'CREATE DATABASE ends');
$node->safe_psql('postgres', "ALTER DATABASE ends SET turn_liveness.mass_silence_hold = '25 min'");
add_extension($node, 'ends');
no_pauses($node, 'ends');
$node->safe_psql('ends',
	"SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '1h')) FROM generate_series(1, 200) i");
beat('ends', 200);
silence('ends', 20);
is(failed('ends'), 0, 'mass_silence_hold = 25 min: held');
silence('ends', 12);
ok(wait_until('all are failed', sub { silence('ends', 1); return failed('ends') == 200 }),
	'nobody ever calls again: they are failed');
my $after = $node->safe_psql('ends', 'SELECT extract(epoch FROM min(created_at - last_beat)) / 60 FROM turn_liveness.reply');
cmp_ok($after, '>=', 34.9, "after the hold ($after min)");
cmp_ok($after, '<', 45, 'and not long after it');

# --- a worker calls in one long transaction, and the wall clock goes back meanwhile

make_database('stepped', 20);
my $open = session($node, 'stepped');
my $idle = sub { $open->query_safe(q{SELECT turn_liveness.heartbeat('idle')}) };
$open->query_safe('BEGIN');
$idle->();
step_wall_clock($node, -3600);
foreach (1 .. 3)
{
	silence('stepped', 3);
	$idle->();
}
all_fail('stepped', 20, 2, 'each of its statements tells that the path lives', $idle);
$open->query_safe('COMMIT');
$open->quit;

$node->stop;
done_testing();
