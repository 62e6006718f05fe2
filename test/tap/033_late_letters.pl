# What the worker's watch list says of places where no row of an owed turn stands any
# more: the row has moved, or the session that tells of it is slow, and another
# turn's row stands there by now.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $library = PostgreSQL::Test::Utils::tempdir() . '/slow_commit.so';
my ($include) = map { s/\s+$//r } `$ENV{PG_CONFIG} --includedir-server`;
system('cc', '-shared', '-fPIC', "-I$include", '-o', $library, "$FindBin::RealBin/slow_commit.c") == 0
  or die 'this test needs a C compiler';

my $node = new_node('main', "turn_liveness.mass_silence_hold = 0\nautovacuum = off");
my $listener = session($node);
$listener->query_safe('LISTEN turn_liveness');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A session that commits this, and tells the worker of it when the file is there.
sub slow
{
	my ($go_on, $statements, $until) = @_;
	my $session = session($node);

	$session->query_safe("SELECT turn_liveness.clock_now(); LOAD '$library'");
	$session->{stdin} .= "BEGIN; SET LOCAL slow_commit.go_on = '$go_on'; $statements; COMMIT;\n";
	$session->{run}->pump_nb;
	$node->poll_query_until('postgres', $until) or die 'the commit is not visible';
	return $session;
}

# A turn that stays, so that the table does: rows are stored after it.
sql(q{SELECT turn_liveness.arm_turn('stays', 'm', admission => '3 h', silence => '3 h')});

# --- the place where a row stood before it moved is looked at once, after a scan of the owed rows
# that did not meet one there; another turn is owed, and the deployment beats, all the while

sub sweeps { return sql('SELECT sweeps FROM turn_liveness.stat_row()') }

my $sweeps = sweeps();
sql(<<'END');
SELECT turn_liveness.arm_turn('moves', '1'), turn_liveness.heartbeat('moves');
SELECT turn_liveness.post_update('moves', '1', '{}');
SELECT turn_liveness.commit_terminal_reply('moves', '{1}', '{}');
SELECT turn_liveness.arm_turn('moves', '2'), turn_liveness.heartbeat('moves');
END

sub beaten_round
{
	advance($node, '30 s');
	sql(q{SELECT turn_liveness.heartbeat('moves')});
	two_rounds($node, $listener);
	return;
}
beaten_round();
is(sweeps(), $sweeps, 'a deployment that beats: nothing is looked at');
ok(wait_until('the rows are looked at', sub { beaten_round(); sweeps() > $sweeps }), 'the worker looks where rows stood that have moved');
beaten_round() foreach 1 .. 4;
$sweeps = sweeps();
beaten_round() foreach 1 .. 8;
is(sweeps(), $sweeps, 'once, and at the row of the turn that is owed not at all');

# --- letters of rows whose place has another turn's row by now

my $rounds = 0;

sql('CREATE TABLE place (deployment text, ctid_of_it tid)');

# $first: the statements of slow sessions, of which the last ends turn X; Y gets its place.  The row
# of X is so large that its page has room again, however full the others are.
sub race
{
	my ($what, $times, @first) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $x = 'x' . ++$rounds;
	my $y = "y$rounds";
	my $arm = "SELECT turn_liveness.arm_turn('$x', 'm', jsonb_build_object('userId', repeat('u', 1400)), admission => '$times', silence => '$times'); INSERT INTO place SELECT deployment, ctid FROM turn_liveness.turn WHERE deployment = '$x'";
	my $end = "SELECT turn_liveness.commit_terminal_reply('$x', '{m}', '{}')";
	my $owed = "SELECT count(*) = 1 FROM turn_liveness.turn WHERE deployment = '$x' AND outcome IS NULL";
	my $ended = "SELECT count(*) = 1 FROM turn_liveness.turn WHERE deployment = '$x' AND outcome IS NOT NULL";
	my @slow;

	foreach my $step (@first)
	{
		my $go_on = "$dir/" . @slow;

		push @slow, slow($go_on, "$arm; $end", $ended) if $step eq 'arm and end';
		push @slow, slow($go_on, $arm, $owed) if $step eq 'arm';
		push @slow, slow($go_on, $end, $ended) if $step eq 'end';
		sql($end) if $step eq 'end in time';
	}
	my $place = sql("SELECT ctid_of_it FROM place WHERE deployment = '$x'");
	sql('VACUUM (INDEX_CLEANUP on) turn_liveness.turn');
	my $taken = '';
	foreach my $i (1 .. 40)
	{
		sql("SELECT count(turn_liveness.arm_turn('$y-' || $i * 100 + n, 'm', admission => '1 min', silence => '1 min')) FROM generate_series(1, 100) n");
		$taken = sql("SELECT deployment FROM turn_liveness.turn WHERE ctid = '$place' AND deployment LIKE '$y-%'");
		last if $taken ne '';
	}
	isnt($taken, '', "$what: another turn has its place $place") or return;
	# the worker has that turn's letter before the others
	two_rounds($node, $listener);
	foreach my $i (0 .. $#slow)
	{
		append_to_file("$dir/$i", '');
		$slow[$i]->query_safe('SELECT 1');
	}
	two_rounds($node, $listener);
	advance($node, '62 s');
	two_rounds($node, $listener);
	is(ends($node, $taken, 'm'), 'WORKER_NEVER_STARTED sweep', "$what: and is failed in time");
	$_->quit foreach @slow;
	return;
}
race('armed and ended in a transaction', '2 h', 'arm and end');
race('the same, with an early deadline', '30 s', 'arm and end');
race('armed and ended late', '2 h', 'arm', 'end');
race('armed late', '2 h', 'arm', 'end in time');

$listener->quit;
$node->stop;

# --- a place that a row has left, and that a turn gets whose commit waits for a standby: the worker
# looks there after that turn became visible, and before its session tells of it

my $sync = new_node('sync', "turn_liveness.mass_silence_hold = 0\nsynchronous_commit = local\nautovacuum = off", streaming => 1);
no_pauses($sync);
my $sync_listener = session($sync);
$sync_listener->query_safe('LISTEN turn_liveness');
my $waiter = session($sync);
my $pid = backend_pid($waiter);
$waiter->query_safe("SELECT turn_liveness.clock_now(); LOAD '$library'; SET synchronous_commit = on");
$sync->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
$sync->safe_psql('postgres', 'SELECT pg_reload_conf()');
$sync->poll_query_until('postgres', 'SHOW synchronous_standby_names', 'nobody') or die 'no setting';

sub sync_sql { return $sync->safe_psql('postgres', $_[0]) }

sync_sql(q{SELECT turn_liveness.arm_turn('stays', 'm', admission => '3 h', silence => '3 h')});
sync_sql(q{SELECT turn_liveness.arm_turn('left', 'm', admission => '90 s', silence => '90 s')});
my $left = sync_sql(q{SELECT ctid FROM turn_liveness.turn WHERE deployment = 'left'});
two_rounds($sync, $sync_listener);
# suspend_turn changes a key of an index, so VACUUM frees the row's place
sync_sql(q{SELECT turn_liveness.suspend_turn('left', 'm', '1 h')});
sync_sql(q{SELECT turn_liveness.resume_turn('left', 'm')});
isnt(sync_sql(q{SELECT ctid FROM turn_liveness.turn WHERE deployment = 'left'}), $left, 'a row moves');
sync_sql('VACUUM (INDEX_CLEANUP on) turn_liveness.turn');
my $told = PostgreSQL::Test::Utils::tempdir() . '/told';
$waiter->{stdin} .= "BEGIN; SET LOCAL slow_commit.go_on = '$told'; SELECT turn_liveness.arm_turn('late', 'm', admission => '1 min', silence => '1 min'); COMMIT;\nSELECT 'told';\n";
$waiter->{run}->pump_nb;
$sync->poll_query_until('postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid")
  or die 'the commit does not wait';
# the worker scans the owed rows each minute, and meets neither of the two there
advance($sync, '62 s');
sync_sql(q{SELECT turn_liveness.heartbeat('left')});
two_rounds($sync, $sync_listener);
sync_sql("SELECT pg_cancel_backend($pid)");
$sync->poll_query_until('postgres', q{SELECT count(*) = 1 FROM turn_liveness.turn WHERE deployment = 'late'})
  or die 'it does not become visible';
is(sync_sql(q{SELECT ctid FROM turn_liveness.turn WHERE deployment = 'late'}), $left, 'another turn gets its place');
advance($sync, '30 s');
two_rounds($sync, $sync_listener);
is(ends($sync, 'late', 'm'), '', 'it is owed 30 s after it became visible');
append_to_file($told, '');
$waiter->query_until(qr/told/, '');
two_rounds($sync, $sync_listener);
advance($sync, '62 s');
two_rounds($sync, $sync_listener);
is(ends($sync, 'late', 'm'), 'WORKER_NEVER_STARTED sweep', 'and is failed after a minute');

$waiter->quit;
$sync_listener->quit;
$sync->stop;
done_testing();
