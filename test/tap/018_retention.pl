# Retention while another session's snapshot is old: the index keeps an entry of each
# record that went, and the walk does not pass over all of them again and again.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $RECORDS = 3000;

my $node = new_node('main', "autovacuum = off\nturn_liveness.retention = '1 h'\n");
# sessions sweep
$node->append_conf('postgresql.conf', 'turn_liveness.enabled = off');
$node->restart;
my $sweeper = session($node);

sub records
{
	return $node->safe_psql('postgres', 'SELECT count(*) FROM turn_liveness.delivery');
}

# One sweep; how many entries of the index it read.  The counter of the session
# starts anew when it was reported.
sub sweep
{
	my $read = q{SELECT pg_stat_get_xact_tuples_returned('turn_liveness.reply_pkey'::regclass)};
	my ($before, undef, $after) = split /\n/,
	  $sweeper->query_safe("BEGIN; $read; SELECT turn_liveness.sweep_expired_turns() IS NULL; $read; COMMIT");
	return $after - $before;
}

# Discharged turns: their records go after the retention.
sub discharge
{
	my ($from, $to) = @_;
	$node->safe_psql('postgres',
		"SELECT count(turn_liveness.arm_turn('d' || i, 'm')), count(turn_liveness.discharge_turn('d' || i, 'm')) FROM generate_series($from, $to) i");
	return;
}

discharge(1, $RECORDS);
my $old = session($node);
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
advance($node, '2 h');
ok(wait_until('records go', sub { sweep(); return records() == 0 }), 'all records went');

# what is younger than the walk's end
discharge($RECORDS + 1, $RECORDS + 10);
advance($node, '61 s');
cmp_ok(sweep(), '>=', $RECORDS, 'a walk over all of them once a minute');
cmp_ok(sweep(), '<=', 10, 'no other begins before what went');
cmp_ok(sweep(), '<=', 10, 'nor the one after it');
is(records(), 10, 'young ones stay');
advance($node, '2 h');
sweep();
is(records(), 0, 'and go in their time');
$old->query_safe('COMMIT');

# what a walk left behind, a walk over all finds within a minute
discharge($RECORDS + 11, $RECORDS + 20);
my $held = session($node);
$held->query_safe("BEGIN; SELECT count(*) FROM (SELECT 1 FROM turn_liveness.delivery ORDER BY reply_id LIMIT 1 FOR UPDATE) x");
advance($node, '2 h');
sweep();
is(records(), 1, 'a record that is held is left');
$held->query_safe('COMMIT');
advance($node, '61 s');
sweep();
is(records(), 0, 'for a minute at most');

# A read passes once over the entries of what went: from the rows it learns that they are dead
$node->safe_psql('postgres',
	q{SELECT count(turn_liveness.arm_turn('e' || i, 'm', '{"conversationId": "one"}')), count(turn_liveness.discharge_turn('e' || i, 'm')) FROM generate_series(1, 50) i});
advance($node, '2 h');
sweep();
is(records(), 0, 'all records of one conversation went');

sub entries_of_a_read
{
	my $read = q{SELECT pg_stat_get_xact_tuples_returned('turn_liveness.delivery_pkey'::regclass)};
	my ($before, $none, $after) = split /\n/,
	  $sweeper->query_safe("BEGIN; $read; SELECT count(*) FROM turn_liveness.read_replies('{one}'); $read; COMMIT");
	is($none, 0, 'nothing is read');
	return $after - $before;
}
cmp_ok(entries_of_a_read(), '>=', 50, 'the first read passes over their entries');
is(entries_of_a_read(), 0, 'the next one does not');

# What stays for long is walked over again after nine times as long as the last walk took, if that is
# more than a minute. A sweep looks at 1,500 records here, so that a walk takes three.
$node->safe_psql('postgres', "SELECT count(turn_liveness.reject_turn('u' || i, 'm', '{}', 'no')) FROM generate_series(1, $RECORDS) i");
$sweeper->query_safe('SET turn_liveness.sweep_batch = 100');
advance($node, '2 h');
sweep();
advance($node, '100 s');
sweep();
sweep();
is(records(), $RECORDS, 'what was not delivered stays');
advance($node, '890 s');
cmp_ok(sweep(), '<=', 10, 'a walk that took 100 s begins anew no sooner than 900 s after it');
advance($node, '1 h');
cmp_ok(sweep(), '>=', 1000, 'but then');

# Without a worker each sweep may come from a session of its own, which remembers no walk
discharge($RECORDS + 21, $RECORDS + 21);
advance($node, '2 h');
my $sessions = 0;
$node->safe_psql('postgres', 'SET turn_liveness.sweep_batch = 100; SELECT turn_liveness.sweep_expired_turns()')
  while records() > $RECORDS && $sessions++ < 100;
is(records(), $RECORDS, 'sweeps of new sessions pass what stays, too');

$_->quit foreach $sweeper, $old, $held;
$node->stop;
done_testing();
