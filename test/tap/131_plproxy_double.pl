# Two servers behind a proxy become four while turns are live, as the README
# says: by physical copies, with turn_liveness.accept = off for the moment of the
# change.  No turn fails, none is lost, none is doubled, and each is won.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Proxy;
use TurnLiveness;

need_plproxy();

my @nodes = map { new_node("node$_", "turn_liveness.node = $_\n", streaming => 1) } 0, 1;
$_->safe_psql('postgres', 'CREATE ROLE my_gateway LOGIN; CREATE ROLE my_worker LOGIN') foreach @nodes;
my $proxy = PostgreSQL::Test::Cluster->new('proxy');
$proxy->init;
$proxy->start;
new_proxy($proxy, 30, @nodes);
no_pauses($_) foreach @nodes;

# 40 turns that workers hold, 20 replies that no gateway took, 4 that one did, 8
# that are delivered
my $live = "SELECT 'live' || i AS c FROM generate_series(1, 40) i";
my $due = "SELECT 'due' || i AS c FROM generate_series(1, 20) i";
my $held = "SELECT 'held' || i AS c FROM generate_series(1, 4) i";
my $old = "SELECT 'old' || i AS c FROM generate_series(1, 8) i";
my $beats = "SELECT count(*) FROM turn_liveness.heartbeats((SELECT array_agg(c) FROM ($live) l), array_fill('m'::text, '{40}'), array_fill(1, '{40}'))";

is(at_proxy($proxy, <<"END"), "40|armed|1\n0\n20|won\n4|won\n8|won\n4\n8", 'turns and replies of two nodes');
SELECT count(*), min(turn_liveness.arm_turn(c, 'm', silence => '10 min')), min(turn_liveness.start_turn(c, 'm')) FROM ($live) l;
$beats;
SELECT count(*), min(turn_liveness.reject_turn(c, 'm', '{"platform": "push"}', 'no')) FROM ($due) d;
SELECT count(*), min(turn_liveness.reject_turn(c, 'm', '{"platform": "push"}', 'no')) FROM ($held) d;
SELECT count(*), min(turn_liveness.reject_turn(c, 'm', '{}', 'no')) FROM ($old) d;
SELECT count(*) FROM turn_liveness.claim_replies('g', (SELECT array_agg(c) FROM ($held) h));
SELECT turn_liveness.ack_replies('g', (SELECT array_agg(reply_id) FROM turn_liveness.read_replies((SELECT array_agg(c) FROM ($old) o))));
END
my $held_ids = at_proxy($proxy, "SELECT array_agg(reply_id) FROM turn_liveness.read_replies((SELECT array_agg(c) FROM ($held) h))");
my $largest = at_proxy($proxy, 'SELECT max(reply_id) FROM turn_liveness.replies');
my $stays = $proxy->background_psql('proxy', on_error_stop => 0, extra_params => [ '-U', 'my_gateway' ]);
$stays->set_query_timer_restart;
is($stays->query($beats), 0, 'a session that stays');

# 1. a copy of each node, which follows it; the copy of node n is n + 2
foreach my $n (0, 1)
{
	my $copy = PostgreSQL::Test::Cluster->new('node' . ($n + 2));
	$nodes[$n]->backup('copy');
	$copy->init_from_backup($nodes[$n], 'copy', has_streaming => 1);
	$copy->append_conf('postgresql.conf', 'turn_liveness.node = ' . ($n + 2));
	$copy->start;
	push @nodes, $copy;
}
is(at_proxy($proxy, $beats), 0, 'beats go on meanwhile');

# 2. all refuse calls
foreach my $n (0 .. 3)
{
	$nodes[$n]->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.accept = off');
	$nodes[$n]->reload;
}
foreach my $n (0, 1)
{
	my ($name) = of_node($proxy, $n, 1, 'x');
	ok( wait_until('calls are refused', sub { at_proxy($proxy, "SELECT turn_liveness.heartbeat('$name')") =~ /does not accept/ }),
		"node $n refuses");
}
fails_with($proxy, $beats, '55000', 'does not accept', 'so do beats: repeat them');
like($stays->query($beats) . $stays->{stderr}, qr/does not accept/, 'of a session that stays, too');

# 3. when no transaction is open any more, and the copies have all, they are promoted
foreach my $n (0, 1)
{
	$nodes[$n]->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND backend_type = 'client backend'})
	  or die 'a transaction stays open';
	$nodes[$n]->wait_for_catchup($nodes[ $n + 2 ], 'replay', $nodes[$n]->lsn('insert'));
	$nodes[ $n + 2 ]->promote;
	wait_worker($nodes[ $n + 2 ]);
	no_pauses($nodes[ $n + 2 ]);
}

# 4. each node forgets what is the other's
$nodes[$_]->safe_psql('postgres', not_its_own($_)) foreach 0 .. 3;

# 5. the proxy learns of them, and 6. all accept calls
$proxy->safe_psql('proxy', 'ALTER SERVER turn_liveness OPTIONS (ADD ' . node_option(2, $nodes[2]) . ', ADD ' . node_option(3, $nodes[3]) . ')');
foreach my $node (@nodes)
{
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET turn_liveness.accept');
	$node->reload;
}
ok( wait_until(
		'beats are taken',
		sub { my ($out, $err) = at_proxy($proxy, $beats); return $out eq '0' && $err !~ /WARNING|ERROR/ }),
	'all nodes accept beats of all turns');
$stays->{stderr} = '';
is($stays->query($beats), 0, 'those of the session that stays');
unlike($stays->{stderr}, qr/WARNING|ERROR/, 'without a complaint');

is(at_proxy($proxy, 'SELECT string_agg(node || worker_state || coalesce(worker_problem, $$$$), $$ $$ ORDER BY node) FROM turn_liveness.stat'),
	'0running 1running 2running 3running', 'four nodes, no problem');
is(at_proxy($proxy, 'SELECT count(DISTINCT node), count(*), count(DISTINCT deployment), bool_and(node = turn_liveness.node_of(deployment)) FROM turn_liveness.turns'),
	'4|40|40|t', 'each turn is on one node, its own');
is(at_proxy($proxy, 'SELECT count(*), count(DISTINCT reply_id), count(DISTINCT node) FROM turn_liveness.replies'), '32|32|4', 'each reply, too');

is(at_proxy($proxy, "SELECT turn_liveness.ack_replies('g', '$held_ids'), turn_liveness.ack_replies('g', '$held_ids')"), '4|0',
	'claims of before are acknowledged where they are now');

# deadlines go on: silent for less than ten minutes twice
foreach my $round (1, 2)
{
	advance($_, '6 min') foreach @nodes;
	is(at_proxy($proxy, $beats), 0, 'all beat');
}
worker_looked($_) foreach @nodes;
is(at_proxy($proxy, q{SELECT count(*) FROM turn_liveness.replies WHERE decided_by = 'sweep' AND deployment LIKE 'live%'}), 0, 'none has failed');

is(at_proxy($proxy, <<"END"), "40|won\n8|answered\n20|20|t\n40|40|t", 'every turn is won, every reply claimed once');
SELECT count(*), min(turn_liveness.commit_terminal_reply(c, '{m}', '{"content": "42"}', '{1}')) FROM ($live) l;
SELECT count(*), min(turn_liveness.arm_turn(c, 'm')) FROM ($old) o;
SELECT count(*), count(DISTINCT conversation_id), bool_and(attempt = 1) FROM turn_liveness.claim_replies('h', NULL, '{push}');
SELECT count(*), count(DISTINCT conversation_id), bool_and(reply_id > CASE WHEN turn_liveness.node_of(conversation_id) > 1 THEN $largest ELSE 0 END)
FROM turn_liveness.read_replies((SELECT array_agg(c) FROM ($live) l));
END
is(at_proxy($proxy, q{SELECT count(*), count(DISTINCT reply_id), count(*) FILTER (WHERE conversation_id NOT LIKE 'probe%') FROM turn_liveness.replies}),
	'76|76|72', 'ids never collide');
$stays->quit;
$_->stop foreach @nodes, $proxy;
done_testing();
