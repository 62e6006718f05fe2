# No false failure: 10,000 live turns, and all that can happen to a server.
#
# Each event finds 10,000 turns that were alive a moment before, and 20 whose
# workers are really dead: ten that had beaten, ten that only wait.  When it comes
# all of them have been silent for most of their turn deadline.  After the event
# no turn is failed for silence before one whole turn deadline has passed; those
# whose workers beat again are never failed, the dead ones are in the end.
#
# The test drives the clock: a turn deadline is half an hour, so what the machine
# itself takes between two steps is nothing.  Only what is to be a pause takes
# time, and only what stops processes.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TurnLiveness;

my $SILENCE = 1800;
my $MARGIN = 300;		# what the machine may take between two steps
my $PAUSE = 6;			# long enough to be one
my $LIVE = 10_000;

# No mass-silence hold: it is not what is to save them.
my $settings = qq{
turn_liveness.turn_deadline = '$SILENCE s'
turn_liveness.mass_silence_hold = 0
autovacuum = off
checkpoint_timeout = 1h
};

my $node = new_node('main', $settings, streaming => 1);
my $event;
my $generation = 0;
my $armed = 0;

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}

# Returns how many of them owe nothing.
sub beat_all
{
	return sql("SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'live' || i FROM generate_series(1, $LIVE) i))");
}

# Made once: the live ones; for each event: the dead ones.  Then most of a turn
# deadline passes in silence, unless told otherwise.
sub prepare
{
	my ($silent);
	($event, $silent) = @_;
	if (!$armed)
	{
		$armed = 1;
		$generation++;
		sql(    "SELECT count(turn_liveness.arm_turn('live' || i, 'm$generation', admission => '$SILENCE s', silence => '$SILENCE s', duration => '20 d'))"
			  . " FROM generate_series(1, $LIVE) i");
		is(beat_all(), 0, "$event: 10000 turns are armed");
	}
	sql(    "SELECT count(turn_liveness.arm_turn('dead' || i, '$event', admission => '$SILENCE s', silence => '$SILENCE s'))"
		  . " FROM generate_series(1, 10) i");
	sql(    "SELECT count(turn_liveness.arm_turn('wait' || i, '$event', admission => '$SILENCE s', silence => '$SILENCE s'))"
		  . " FROM generate_series(1, 10) i");
	my $dead = sql("SELECT sum(turn_liveness.heartbeat('dead' || i)) FROM generate_series(1, 10) i");
	is(beat_all() . " $dead", '0 10', "$event: all are alive");
	advance($node, ($silent // $SILENCE - $MARGIN) . ' s');
	is(failed(), 0, "$event: no turn has been failed before");
	return;
}

# How many were failed of those that this event concerns
sub failed
{
	return sql("SELECT count(*) FROM turn_liveness.reply WHERE outcome = 'e' AND (message_ids = ARRAY['$event'] OR message_ids = ARRAY['m$generation'])");
}

# The event is over.  Either the server was started anew ($restarted), so that
# beats were lost, or it stood still, or, if no turn deadline begins with the
# event, it came $silent seconds after the last sign of life.
sub check
{
	my ($restarted, $silent) = @_;

	is(failed(), 0, "$event: no turn is failed at once");
	wait_worker($node);
	advance($node, ($SILENCE - $MARGIN - ($silent // 0)) . ' s');
	ok(worker_looked($node), "$event: the worker looks when most of a turn deadline has passed");
	is(failed(), 0, "$event: they have a whole turn deadline");
	is(beat_all(), 0, "$event: the live ones beat again, all are owed");
	the_dead_fail();
	is( sql("SELECT string_agg(DISTINCT substr(deployment, 1, 4) || ' ' || error_code, ', ' ORDER BY substr(deployment, 1, 4) || ' ' || error_code)"
			  . " FROM turn_liveness.reply WHERE message_ids = ARRAY['$event']"),
		'dead WORKER_UNRESPONSIVE, wait '
		  . ($restarted ? 'WORKER_UNRESPONSIVE' : 'WORKER_NEVER_STARTED'),
		"$event: with their codes");
	is(sql("SELECT count(*) FROM turn_liveness.reply WHERE message_ids = ARRAY['$event']"), 20, "$event: once each");
	return;
}

# The live ones beat on until the dead ones are failed, and that is as soon as no
# grace is in force: a pause that the machine makes of itself gives another one.
# So a grace passes in few steps, in which there is little time for the next pause.
sub the_dead_fail
{
	my $without_grace = 0;

	wait_until(
		'the dead are failed',
		sub {
			my $grace = sql("SELECT coalesce(grace, 'none') FROM turn_liveness.stat_row()");
			advance($node, ($grace eq 'none' ? $MARGIN : $SILENCE - $MARGIN) . ' s');
			worker_looked($node);
			return 1 if beat_all() != 0 || failed() >= 20 || $without_grace > 2;
			$without_grace++ if $grace eq 'none';
			return 0;
		});
	is(failed(), 20, "$event: the dead ones are failed in the end");
	cmp_ok($without_grace, '<=', 2, "$event: and not later than they must");
	is(live_failed(), 0, "$event: no live one is failed");
	is(beat_all(), 0, "$event: all of them are owed");
	# a new set, if this one has suffered
	disarm() if live_failed() > 0;
	return;
}

# The live ones end, so that the test need not beat for them; later there are others.
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
$node->stop('fast');
$node->start;
check(1);

prepare('immediate');
$node->stop('immediate');
$node->start;
check(1);

prepare('backend crash');
my $session = session($node);
my $victim = backend_pid($session);
kill 'KILL', $victim;
$node->wait_for_log(qr/PID $victim\) was terminated by signal 9.*database system is ready to accept connections/s);
eval { $session->quit };
$node->poll_query_until('postgres', 'SELECT 1', '1');
check(1);

# --- the worker goes, or stands still

prepare('worker restart');
my $worker = wait_worker($node);
sql("SELECT pg_terminate_backend($worker)");
wait_worker($node, 'postgres', $worker);
is(failed(), 0, "$event: no turn is failed by the new worker");
is(beat_all(), 0, "$event: the live ones beat on");
the_dead_fail();

# While it stands still the clients go on, but for the dead.
prepare('worker paused');
$worker = worker_pid($node);
kill 'STOP', $worker;
my $end = time + $PAUSE;
do { beat_all() } while time < $end;
is(failed(), 0, "$event: no process sweeps");
kill 'CONT', $worker;
is(beat_all(), 0, "$event: all that beat are owed");
the_dead_fail();

# No client beats in the pause either; then all do.
prepare('worker paused in silence');
kill 'STOP', $worker;
wall_clock_passes($PAUSE);
kill 'CONT', $worker;
check(0);

prepare('server paused');
my @pids = server_pids();
kill 'STOP', @pids;
wall_clock_passes($PAUSE);
kill 'CONT', reverse @pids;
check(0);

# Twice in a row, with nothing in between
prepare('paused twice');
foreach (1 .. 2)
{
	@pids = server_pids();
	kill 'STOP', @pids;
	wall_clock_passes($PAUSE);
	kill 'CONT', reverse @pids;
	sql('SELECT 1');
}
check(0);

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
$standby->promote;
wait_worker($standby);
check(1);
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
		prepare($step, $MARGIN);
		$set->($step{$step});
		my $seen = sql('SELECT extract(epoch FROM clock_timestamp())') - time;
		cmp_ok(abs($seen - $step{$step}), '<', 600, "$step: the server sees the step");
		check(0, $MARGIN);
		my $back = sql("SELECT extract(epoch FROM max(created_at)) FROM turn_liveness.reply WHERE message_ids = ARRAY['$step']") - time;
		cmp_ok(abs($back - $step{$step}), '<', 600, "$step: the worker saw it too");
		is(owed($node), $LIVE, "$step: the live ones are owed");
	}

	# A restart under another wall clock
	foreach my $year (1, -1)
	{
		prepare("restart in year $year");
		$node->stop('fast');
		$set->($year * 31536000);
		$start->();
		check(1);
	}
	$node->stop;
}

done_testing();
