# No false failure: 10,000 live turns, and all that can happen to a server.
#
# Each event finds 10,000 turns that were alive a moment before, and 20 whose
# workers are really dead: ten that had beaten, ten that only wait.  After the
# event nobody is failed for silence before one whole turn deadline has passed;
# those whose workers beat again are never failed, the dead ones are in the end.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use TurnLiveness;

my $SILENCE = 3;
my $LIVE = 10_000;

# No mass-silence hold: it is not what is to save them.
my $settings = q{
turn_liveness.mass_silence_hold = 0
autovacuum = off
checkpoint_timeout = 1h
};

my $node = new_node('main', $settings, streaming => 1);
my $event;
my $beaten;		# before the dead ones gave their last sign
my $generation = 0;
my $armed = 0;

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}

sub beat_all
{
	return sql("SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'live' || i FROM generate_series(1, $LIVE) i))");
}

# Made once: the live ones; for each event: the dead ones.
sub prepare
{
	($event) = @_;
	if (!$armed)
	{
		$armed = 1;
		$generation++;
		sql(    "SELECT count(turn_liveness.arm_turn('live' || i, 'm$generation', admission => '$SILENCE s', silence => '$SILENCE s', duration => '4h'))"
			  . " FROM generate_series(1, $LIVE) i");
		is(beat_all(), 0, "$event: 10000 turns are armed");
	}
	$beaten = time;
	sql(    "SELECT count(turn_liveness.arm_turn('dead' || i, '$event', admission => '$SILENCE s', silence => '$SILENCE s'))"
		  . " FROM generate_series(1, 10) i");
	sql(    "SELECT count(turn_liveness.arm_turn('wait' || i, '$event', admission => '$SILENCE s', silence => '$SILENCE s'))"
		  . " FROM generate_series(1, 10) i");
	my $dead = sql("SELECT sum(turn_liveness.heartbeat('dead' || i)) FROM generate_series(1, 10) i");
	is(beat_all() . " $dead", '0 10', "$event: all are alive");
	is(failed(), 0, "$event: nobody has been failed before");
	return;
}

# How many were failed of those that this event concerns
sub failed
{
	return sql("SELECT count(*) FROM turn_liveness.reply WHERE outcome = 'e' AND (message_ids = ARRAY['$event'] OR message_ids = ARRAY['m$generation'])");
}

# The event is over, at that time at the earliest.  Either the server was started
# anew ($restarted), so that beats were lost, or it stood still since $stopped.
sub check
{
	my ($over, $restarted, $stopped) = @_;
	my $first = failed();

	is($first, 0, "$event: nobody is failed at once");
	is(beat_all(), 0, "$event: the live ones beat again, all are owed");
	ok( wait_until(
			'the dead are failed',
			sub {
				my $idle = beat_all();
				return 1 if $idle != 0 || failed() >= 20;
				usleep(200_000);
				return 0;
			}),
		"$event: the dead ones are failed in the end");
	is(live_failed(), 0, "$event: no live one is failed");
	is(beat_all(), 0, "$event: all of them are owed");
	is( sql("SELECT string_agg(DISTINCT substr(deployment, 1, 4) || ' ' || error_code, ', ' ORDER BY substr(deployment, 1, 4) || ' ' || error_code)"
			  . " FROM turn_liveness.reply WHERE message_ids = ARRAY['$event']"),
		'dead WORKER_UNRESPONSIVE, wait '
		  . ($restarted ? 'WORKER_UNRESPONSIVE' : 'WORKER_NEVER_STARTED'),
		"$event: with their codes");
	my ($earliest, $latest) = map { $_ - $over } split /\|/,
	  sql("SELECT extract(epoch FROM min(created_at)), extract(epoch FROM max(created_at)) FROM turn_liveness.reply WHERE message_ids = ARRAY['$event']");
	# a new set, if this one has suffered
	disarm() if live_failed() > 0;
	# what ran between the last sign of life and the event counts
	cmp_ok($earliest + ($restarted ? 0 : $stopped - $beaten), '>=', $SILENCE - 0.01,
		sprintf('%s: they had a whole turn deadline (until %.2f s after it)', $event, $earliest));
	cmp_ok($latest, '<', $SILENCE + 6, sprintf('%s: not much more (%.2f s)', $event, $latest));
	is(sql("SELECT count(*) FROM turn_liveness.reply WHERE message_ids = ARRAY['$event']"), 20, "$event: once each");
	return;
}

# The live ones end, so that nobody has to beat for them; later there are others.
sub disarm
{
	sql("SELECT count(turn_liveness.discharge_turn('live' || i, 'm$generation')) FROM generate_series(1, $LIVE) i");
	$armed = 0;
	return;
}

sub live_failed
{
	return sql("SELECT count(*) FROM turn_liveness.reply WHERE outcome = 'e' AND message_ids = ARRAY['m$generation']");
}

sub server_pids
{
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	return ($postmaster, split ' ', `ps -o pid= --ppid $postmaster`);
}

# --- the server goes and comes back

prepare('restart');
my $clock = clock_us($node);
$node->stop('fast');
wall_clock_passes(1.5 * $SILENCE);
my $over = time;
$node->start;
cmp_ok(clock_us($node), '>=', $clock, 'restart: the liveness clock goes on where it was');
cmp_ok(clock_us($node), '<', $clock + 1_000_000 * $SILENCE, 'restart: the time in between does not count');
check($over, 1);

prepare('immediate');
$node->stop('immediate');
wall_clock_passes(1.5 * $SILENCE);
$over = time;
$node->start;
check($over, 1);

prepare('backend crash');
my $session = session($node);
my $victim = backend_pid($session);
$over = time;
kill 'KILL', $victim;
$node->wait_for_log(qr/PID $victim\) was terminated by signal 9.*database system is ready to accept connections/s);
eval { $session->quit };
$node->poll_query_until('postgres', 'SELECT 1', '1');
check($over, 1);

# --- the worker goes, or stands still

prepare('worker restart');
my $worker = wait_worker($node);
$over = time;
sql("SELECT pg_terminate_backend($worker)");
wait_worker($node, 'postgres', $worker);
is(failed(), 0, "$event: nobody is failed by the new worker");
is(beat_all(), 0, "$event: the live ones beat on");
ok( wait_until('the dead are failed', sub { beat_all(); return failed() >= 20 }),
	"$event: the dead ones are failed in the end");
is(live_failed(), 0, "$event: no live one is failed");

# While it stands still the clients go on, but for the dead.
prepare('worker paused');
$worker = worker_pid($node);
kill 'STOP', $worker;
my $end = time + 3 * $SILENCE;
do { beat_all(); usleep(300_000) } while time < $end;
is(failed(), 0, "$event: nobody sweeps");
kill 'CONT', $worker;
is(beat_all(), 0, "$event: all that beat are owed");
ok( wait_until('the dead are failed', sub { beat_all(); return failed() >= 20 }),
	"$event: the dead ones are failed in the end");
is(live_failed(), 0, "$event: no live one is failed");

# Nobody beats in the pause either; then all do.
prepare('worker paused in silence');
my $stopped = time;
kill 'STOP', $worker;
wall_clock_passes(3 * $SILENCE);
$over = time;
kill 'CONT', $worker;
check($over, 0, $stopped);

prepare('server paused');
my @pids = server_pids();
$stopped = time;
kill 'STOP', @pids;
wall_clock_passes(3 * $SILENCE);
$over = time;
kill 'CONT', reverse @pids;
check($over, 0, $stopped);

# Twice in a row, with nothing in between
prepare('paused twice');
foreach (1 .. 2)
{
	@pids = server_pids();
	$stopped = time;
	kill 'STOP', @pids;
	wall_clock_passes(1.5 * $SILENCE);
	$over = time;
	kill 'CONT', reverse @pids;
	sql('SELECT 1');
}
check($over, 0, $stopped);

# --- a standby takes over

disarm();
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', 'SELECT worker_problem FROM turn_liveness.stat_row()'),
	'the server is a standby', 'no worker on a standby');
prepare('promotion');
$node->wait_for_catchup($standby);
$node->stop('immediate');
my $old = $node;
$node = $standby;
wall_clock_passes(1.5 * $SILENCE);
$over = time;
$standby->promote;
wait_worker($standby);
check($over, 1);
$standby->stop;

# --- the wall clock steps

SKIP:
{
	my ($shim, $set) = wall_clock_shim($old->basedir);
	skip 'no C compiler: the wall clock cannot be stepped', 1 unless $shim;

	$node = PostgreSQL::Test::Cluster->new('stepped');
	$node->init;
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'turn_liveness'\nturn_liveness.log_failures = off\n$settings");
	my $start = sub {
		local $ENV{LD_PRELOAD} = $shim;
		local $ENV{WALL_CLOCK_OFFSET} = $old->basedir . '/offset';
		$node->start;
	};
	$start->();
	add_extension($node);
	$armed = 0;
	$generation = 0;
	my %step = ('an hour ahead' => 3600, 'an hour back' => -3600, 'a year ahead' => 365 * 86400, 'a year back' => -365 * 86400);
	foreach my $step (sort keys %step)
	{
		$set->(0);
		prepare($step);
		$set->($step{$step});
		$over = time;
		my $seen = sql('SELECT extract(epoch FROM clock_timestamp())') - time;
		cmp_ok(abs($seen - $step{$step}), '<', 60, "$step: the server sees the step");
		check($over + $step{$step}, 0, $over);
		my $back = sql("SELECT extract(epoch FROM max(created_at)) FROM turn_liveness.reply WHERE message_ids = ARRAY['$step']") - time;
		cmp_ok(abs($back - $step{$step}), '<', 60, "$step: the worker saw it too");
		is(owed($node), $LIVE, "$step: the live ones are owed");
	}

	# A restart under another wall clock
	foreach my $year (1, -1)
	{
		prepare("restart in year $year");
		$node->stop('fast');
		$set->($year * 31536000);
		$over = time;
		$start->();
		check($over + $year * 31536000, 1);
	}
	$node->stop;
}

done_testing();
