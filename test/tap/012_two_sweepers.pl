# More than one sweeper: a session that calls sweep_expired_turns() beside the
# worker, and two sessions that are the first to do so without preload.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use SlowHeap;
use TurnLiveness;

# A worker in place of that one: its look at everything is a minute off again.
sub new_worker
{
	my ($node, $worker) = @_;

	$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
	return wait_worker($node, 'postgres', $worker);
}

# beside the worker: the sweep of a session moves the row of a turn that lives,
# and the worker must still find it when it lapses; not only by its look at
# everything, a minute after its start
{
	my $node = new_node('worker', '');
	my $worker = worker_pid($node);

	no_pauses($node);
	in_time(
		$node, 55, 0,
		'and not by the look at everything',
		sub {
			my ($try) = @_;
			$worker = new_worker($node, $worker);
			my $start = clock_us($node);
			my ($before, $swept, $after) = split /\n/, $node->safe_psql('postgres', qq{
SELECT FROM turn_liveness.arm_turn('d$try', 'm1', '{}', admission => '20 s', silence => '10 s');
SELECT FROM turn_liveness.arm_turn('d$try', 'm2', '{}', admission => '20 s', silence => '10 s');
SELECT FROM public.tl_advance('15 s');
SELECT string_agg(ctid::text, ' ' ORDER BY message_id) FROM turn_liveness.turn WHERE deployment = 'd$try';
SELECT turn_liveness.sweep_expired_turns();
SELECT string_agg(ctid::text, ' ' ORDER BY message_id) FROM turn_liveness.turn WHERE deployment = 'd$try'}) =~ s/^\n+//mgr;
			is($swept, '0', 'they live');
			isnt($after, $before, 'their rows have moved');
			advance($node, '10 s');
			ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM turn_liveness.replies WHERE deployment = 'd$try' AND decided_by = 'sweep'"),
				'the worker fails them all the same');
			return (clock_us($node) - $start) / 1e6;
		});
	$node->stop;
}

# a beat that comes when a sweep has looked at its turn, and does not hold the row yet: the sweep of
# a session, then the worker's
{
	my ($node, $dir) = slow_node('looked', 'turn_liveness.mass_silence_hold = 0');

	no_pauses($node);
	advance($node, '10 min');

	my $stop = sub { unlink "$dir/delete.waits"; append_to_file("$dir/delete", ''); return };
	my $waits = sub { return -e "$dir/delete.waits" };
	my $sweep = 'SELECT turn_liveness.sweep_expired_turns()';
	my $beats = q{SELECT turn_liveness.heartbeat('d'), turn_liveness.heartbeat('e', '{m1}')};
	my $rows = 'SELECT count(*), count(outcome) FROM turn_liveness.turn';

	arm($node, $_, 'm1', q{admission => '1 min', silence => '1 min'}) foreach 'd', 'e';
	is($node->safe_psql('postgres', $beats), '1|1', 'two turns run');
	advance($node, '61 s');
	$stop->();
	my $sweeper = session($node);
	$sweeper->{stdin} .= "SELECT 'failed ' || turn_liveness.sweep_expired_turns();\n";
	wait_until('a sweep is about to take a row', sub { $sweeper->{run}->pump_nb; $waits->() });
	is($node->safe_psql('postgres', $beats), '1|1', 'they beat');
	unlink "$dir/delete";
	like($sweeper->query_until(qr/failed \d+/, ''), qr/failed 0/, 'the sweep fails neither');
	$sweeper->quit;
	is($node->safe_psql('postgres', q{SELECT string_agg(deployment || ' ' || state, ', ' ORDER BY deployment) FROM turn_liveness.turns}), 'd running, e running',
		'and live');
	is($node->safe_psql('postgres', $beats), '1|1', 'they are owed');
	advance($node, '59 s');
	is($node->safe_psql('postgres', $sweep), '0', 'they live for a turn deadline');
	advance($node, '2 s');
	is($node->safe_psql('postgres', $sweep), '2', 'and no longer');
	is($node->safe_psql('postgres', $beats), '0|0', 'nothing is owed');
	is($node->safe_psql('postgres', $rows), '2|2', 'each has one row');

	$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.enabled');
	my $worker = wait_worker($node, 'postgres');
	in_time(
		$node, 55, 0,
		'and not by the look at everything',
		sub {
			my ($try) = @_;
			$worker = new_worker($node, $worker);
			my $start = clock_us($node);
			my $beat = "SELECT turn_liveness.heartbeat('w$try')";
			my $row = "SELECT ctid FROM turn_liveness.turn WHERE deployment = 'w$try'";

			arm($node, "w$try", 'm1', q{admission => '20 s', silence => '20 s'});
			is($node->safe_psql('postgres', $beat), '1', 'a turn runs');
			my $before = $node->safe_psql('postgres', $row);
			$stop->();
			advance($node, '21 s');
			wait_until('the worker is about to take its row', $waits);
			is($node->safe_psql('postgres', $beat), '1', 'it beats');
			unlink "$dir/delete";
			wait_until('the row is put back', sub { $node->safe_psql('postgres', $row) !~ /^(?:\Q$before\E)?$/ })
			  or die 'the worker does not put the row back';
			is($node->safe_psql('postgres', $beat), '1', 'it is owed');
			advance($node, '21 s');
			is(wait_ended($node, "w$try", 'm1'), 'WORKER_UNRESPONSIVE sweep', 'it is failed when it falls silent')
			  or die 'the worker does not look where it put the row';
			return (clock_us($node) - $start) / 1e6;
		});
	is($node->safe_psql('postgres', q{SELECT sweep_errors FROM turn_liveness.stat}), '0', 'no error');
	$node->stop;
}

# without preload: two sessions that both are the first to see a turn
{
	my $node = new_node('bare', "shared_preload_libraries = ''", extension => 0);
	# a prepared arm is first seen by a sweep
	$node->safe_psql('postgres', q{
CREATE EXTENSION turn_liveness;
BEGIN;
SELECT turn_liveness.arm_turn('d', 'm');
PREPARE TRANSACTION 'p';
COMMIT PREPARED 'p'});
	my $first = session($node);
	$first->query_safe('BEGIN');
	is($first->query_safe('SELECT turn_liveness.sweep_expired_turns()'), '0', 'the first sees it');
	is($node->safe_psql('postgres', q{SET lock_timeout = '10s'; SELECT turn_liveness.sweep_expired_turns()}),
		'0', 'the second does not wait for the first');
	$first->query_safe('COMMIT');
	$first->quit;
	is($node->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'and sweeps after it');
	$node->stop;
}

done_testing();
