# More than one sweeper: a session that calls sweep_expired_turns() beside the
# worker, and two sessions that are the first to do so without preload.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

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
			# its look is a minute off again
			$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
			$worker = wait_worker($node, 'postgres', $worker);
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
