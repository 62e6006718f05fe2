# More than one sweeper: a session that calls sweep_expired_turns() beside the
# worker, and two sessions that are the first to do so without preload.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# beside the worker: the sweep of a session moves the row of a turn that lives,
# and the worker must still find it when it lapses
{
	my $node = PostgreSQL::Test::Cluster->new('worker');
	$node->init;
	$node->start;
	$node->safe_psql('postgres', q{
CREATE EXTENSION turn_liveness;
CREATE FUNCTION public.advance(interval) RETURNS void
	AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT;
});
	ok($node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'}),
		'the worker is there');
	$node->safe_psql('postgres', q{
SELECT turn_liveness.arm_turn('d', 'm' || i, '{}', admission => '20 s', silence => '10 s') FROM generate_series(1, 5) i;
SELECT public.advance('15 s')});
	my $before = $node->safe_psql('postgres', q{SELECT string_agg(ctid::text, ' ' ORDER BY message_id) FROM turn_liveness.turn});
	is($node->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'they live');
	isnt($node->safe_psql('postgres', q{SELECT string_agg(ctid::text, ' ' ORDER BY message_id) FROM turn_liveness.turn}),
		$before, 'their rows have moved');
	my $since = time;
	$node->safe_psql('postgres', q{SELECT public.advance('10 s')});
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 5 FROM turn_liveness.replies WHERE decided_by = 'sweep'}),
		'the worker fails them all the same');
	cmp_ok(time - $since, '<', 25, 'and not by the look at everything, a minute after its start');
	$node->stop;
}

# without preload: two sessions that both are the first to see a row of another run
{
	my $node = PostgreSQL::Test::Cluster->new('bare');
	$node->init;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nmax_prepared_transactions = 1");
	$node->start;
	$node->safe_psql('postgres', q{
CREATE EXTENSION turn_liveness;
BEGIN;
SELECT turn_liveness.arm_turn('d', 'm', admission => '1ms');
PREPARE TRANSACTION 'p';
COMMIT PREPARED 'p'});
	$node->restart;
	my $first = $node->background_psql('postgres');
	$first->query_safe('BEGIN');
	$first->query_safe('SELECT turn_liveness.sweep_expired_turns()');
	is($first->query_safe("SELECT isfinite(seen) FROM turn_liveness.turn"), 't', 'the first stamps the row');
	is($node->safe_psql('postgres', q{SET lock_timeout = '10s'; SELECT turn_liveness.sweep_expired_turns()}),
		'0', 'the second does not wait for the first');
	$first->query_safe('COMMIT');
	$first->quit;
	is($node->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'and sweeps after it');
	is($node->safe_psql('postgres', 'SELECT state FROM turn_liveness.turns'), 'waiting', 'the turn has its turn deadline');
	$node->stop;
}

done_testing();
