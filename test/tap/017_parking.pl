# Claims that last are moved out of the way of the claims to come, whether or
# not the worker was told of them; they end on time all the same.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node('main', 'turn_liveness.claim_timeout = 10min', 'max_prepared_transactions = 2');

# a reply of each conversation, to be pushed
sub store
{
	my (@conversations) = @_;
	foreach my $c (@conversations)
	{
		arm($node, $c, 'm', q{'{"platform": "slack"}'});
		is($node->safe_psql('postgres', "SELECT turn_liveness.commit_terminal_reply('$c', '{m}', '{}')"), 'won', "a reply of $c");
	}
}

sub claim
{
	my ($gateway, $max) = @_;
	return "SELECT string_agg(deployment, ',' ORDER BY reply_id) FROM turn_liveness.claim_replies('$gateway', platforms => '{slack}', max_replies => $max)";
}

# Poll for which are parked: each until its own due time.
sub parked
{
	my ($expected, $what) = @_;
	my $query = q{SELECT coalesce(string_agg(conversation_id, ',' ORDER BY reply_id), 'none')
		FROM turn_liveness.delivery WHERE parked_until = due_at AND parked_until > turn_liveness.clock_now()};
	ok($node->poll_query_until('postgres', $query, $expected), $what)
	  or diag($node->safe_psql('postgres', $query));
}

sub sql { return $node->safe_psql('postgres', $_[0]) }

store(qw(a b c d));
is(sql(claim('g1', 2)), 'a,b', 'two are claimed');
is(sql(q{SELECT turn_liveness.ack_replies('g1', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE deployment = 'a'))}), 1, 'one is delivered');
is(sql(q{SELECT count(*) FROM turn_liveness.delivery WHERE parked_until IS NOT NULL AND claimed_at > clock_timestamp() - interval '500 ms'}), 0, 'at first none is parked');
advance($node, '2 s');
parked('b', 'the one that is still claimed is parked');
is(sql(claim('g2', 1)), 'c', 'another gateway gets the next');
is(sql(q{SELECT state || ' ' || gateway FROM turn_liveness.replies WHERE deployment = 'b'}), 'claimed g1', 'parked, it is claimed as before');
advance($node, '2 s');
parked('b,c', 'and so is that');
is(sql(q{SELECT turn_liveness.release_replies('g2', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE deployment = 'c'), '2 h')}), 1, 'released');
parked('b,c', 'delayed replies are parked at once');

# --- it ends on time, with a notification

my $listener = session($node);
$listener->query_safe('LISTEN turn_liveness');
advance($node, '11 min');
ok(notified($listener, qr/"turn_liveness" with payload "[^"]*\{.*"b"/), 'the end of the claim is notified');
is(sql(claim('g3', 2)), 'b,d', 'and the reply claimed again, before younger ones');
is(sql(q{SELECT attempt FROM turn_liveness.replies WHERE deployment = 'b'}), 2, 'for the second time');
is(sql(q{SELECT turn_liveness.ack_replies('g3', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE state = 'claimed'))}), 2, 'delivered');
is(sql(q{SELECT string_agg(conversation_id, ',') FROM turn_liveness.delivery WHERE parked_until IS NOT NULL}), 'c', 'what is delivered is not parked');

# --- a claim whose transaction is open for longer than the claim lasts

store('late');
ok(notified($listener, qr/"late"/), 'the reply is notified when it is stored');
my $slow = session($node);
is($slow->query_safe('BEGIN; ' . claim('g1', 1)), 'late', 'it is claimed in a transaction');
advance($node, '11 min');
$slow->query_safe('COMMIT');
ok(notified($listener, qr/"late"/), 'and notified as due again when that commits after its end');
is(sql(claim('g2', 1)), 'late', 'another gateway takes it');
is(sql(q{SELECT turn_liveness.ack_replies('g2', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE deployment = 'late'))}), 1, 'and delivers it');
$slow->quit;

# --- claims that the worker was not told of

store('e');
sql("BEGIN; " . claim('g1', 1) . "; PREPARE TRANSACTION 'claim'");
sql("COMMIT PREPARED 'claim'");
advance($node, '2 s');
parked('c,e', 'a claim in a prepared transaction');

store('f');
my $worker = worker_pid($node);
sql(claim('g1', 1) . "; SELECT pg_terminate_backend($worker)");
isnt(wait_worker($node, 'postgres', $worker), $worker, 'the worker that was told is another');
advance($node, '2 s');
parked('c,e,f', 'a claim of which the last worker knew');

# --- a session held the row when the worker came to park it, and rolled back

store('g');
sql(claim('g1', 1));
my $acks = session($node);
$acks->query_safe(q{BEGIN; SELECT turn_liveness.ack_replies('g1', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE deployment = 'g'))});
# the worker has the letter of the claim before its time
two_rounds($node, $listener);
advance($node, '2 s');
two_rounds($node, $listener);
parked('c,e,f', 'a claim whose row is held is passed over');
$acks->query_safe('ROLLBACK');
advance($node, '61 s');
parked('c,e,f,g', 'and met again a minute later');
$acks->quit;
$listener->quit;

done_testing();
