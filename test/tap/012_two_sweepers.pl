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

# a beat that comes when a sweep has looked at its turn, and does not hold the row yet
{
	my $node = new_node('looked', "turn_liveness.enabled = off\nturn_liveness.mass_silence_hold = 0", extension => 0);
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my ($include) = map { s/\s+$//r } `$ENV{PG_CONFIG} --includedir-server`;
	system('cc', '-shared', '-fPIC', "-I$include", '-o', "$dir/slow_delete.so", "$FindBin::RealBin/slow_delete.c") == 0
	  or die 'this test needs a C compiler';
	$node->safe_psql('postgres', qq{
CREATE EXTENSION turn_liveness;
CREATE FUNCTION public.tl_advance(interval) RETURNS void AS '\$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT;
CREATE FUNCTION slow_delete(regclass, text) RETURNS void AS '$dir/slow_delete' LANGUAGE C STRICT});
	my $sweep = 'SELECT turn_liveness.sweep_expired_turns()';
	my $beats = q{SELECT turn_liveness.heartbeat('d'), turn_liveness.heartbeat('e', '{m1}')};

	arm($node, $_, 'm1', q{admission => '1 min', silence => '1 min'}) foreach 'd', 'e';
	is($node->safe_psql('postgres', $beats), '1|1', 'two turns run');
	advance($node, '61 s');
	my $sweeper = session($node);
	$sweeper->query_safe("SELECT slow_delete('turn_liveness.turn', '$dir/go_on')");
	$sweeper->{stdin} .= "SELECT 'failed ' || turn_liveness.sweep_expired_turns();\n";
	wait_until('a sweep is about to take a row', sub { $sweeper->{run}->pump_nb; -e "$dir/go_on.waits" });
	is($node->safe_psql('postgres', $beats), '1|1', 'they beat');
	append_to_file("$dir/go_on", '');
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
	is($node->safe_psql('postgres', 'SELECT count(*), count(outcome) FROM turn_liveness.turn'), '2|2', 'each has one row');
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
