# Three servers behind a proxy database, by PL/Proxy: the whole life of turns
# and replies, and nodes that are down or hang.

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

# none stays stopped, also when the test dies
my @stopped;

END
{
	kill 'CONT', @stopped if @stopped;
}

my @nodes = map { new_node("node$_", "turn_liveness.node = $_\n") } 0 .. 2;
$_->safe_psql('postgres', 'CREATE ROLE my_gateway LOGIN; CREATE ROLE my_worker LOGIN; CREATE ROLE other LOGIN') foreach @nodes;
my $proxy = $nodes[0];
new_proxy($proxy, 3, @nodes);
no_pauses($_) foreach @nodes[ 0, 1 ];

# --- the functions are those of the extension

my $signatures = q{
SELECT p.proname, p.provolatile, p.proparallel,
	(SELECT string_agg(concat_ws(' ', a.name, format_type(a.type, NULL), a.mode,
				pg_get_function_arg_default(p.oid, CASE WHEN a.mode = 'i' THEN a.o::integer END)), ', ' ORDER BY a.o)
	 FROM (SELECT u.name, u.type, coalesce(u.mode, 'i') AS mode, u.o
		   FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes) WITH ORDINALITY AS u (type, name, mode, o)) a),
	p.proretset, format_type(p.prorettype, NULL), obj_description(p.oid, 'pg_proc') IS NOT NULL
FROM pg_proc p
WHERE p.pronamespace = 'turn_liveness'::regnamespace
  AND p.proname <> ALL ('{foreign_change, clock_now, turn_status, holder, stat_row, change_privileges, node_of}')
ORDER BY 1};
is($proxy->safe_psql('proxy', $signatures), $proxy->safe_psql('postgres', $signatures), 'the functions are those of the extension');
my $columns = q{
SELECT attrelid::regclass, attname, format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid IN ('turn_liveness.turns'::regclass, 'turn_liveness.replies'::regclass, 'turn_liveness.late_replies'::regclass, 'turn_liveness.stat'::regclass)
  AND attnum > 0 AND attname NOT IN ('node', 'routing', 'payload') ORDER BY attrelid::regclass::text, attnum};
is($proxy->safe_psql('proxy', $columns), $proxy->safe_psql('postgres', $columns), 'and the columns of the views');
is($proxy->safe_psql('proxy', q{
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace IN ('turn_liveness'::regnamespace, 'turn_liveness_nodes'::regnamespace)
  AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0))}), '', 'PUBLIC may call nothing');

# --- the whole life, over three nodes

my @c = map { of_node($proxy, $_, 4, 'c') } 0 .. 2;
my $all = '{' . join(',', @c) . '}';
is(at_proxy($proxy, <<"END"), "12|armed\n12|1\n0\n12\n12|won\n12|lost", 'arm, start, beat, update, answer: each where its deployment lives');
SELECT count(*), min(turn_liveness.arm_turn(c, 'm', jsonb_build_object('conversationId', c, 'platform', 'web'))) FROM unnest('$all'::text[]) c;
SELECT count(*), min(turn_liveness.start_turn(c, 'm', 'w')) FROM unnest('$all'::text[]) c;
SELECT count(*) FROM turn_liveness.heartbeats('$all', array_fill('m'::text, '{12}'), array_fill(1, '{12}'));
SELECT count(turn_liveness.post_update(c, 'm', '{"status": "thinking"}', 1)) FROM unnest('$all'::text[]) c;
SELECT count(*), min(turn_liveness.commit_terminal_reply(c, '{m}', '{"content": "42"}', '{1}')) FROM unnest('$all'::text[]) c;
SELECT count(*), min(turn_liveness.commit_terminal_reply(c, '{m}', '{"content": "43"}', '{1}')) FROM unnest('$all'::text[]) c;
END
is(at_proxy($proxy, <<"END"), "24|24|t|t|12\n12|t\n0\n5\n24|24|t\n24", 'replies: read, cut off, claimed, acknowledged');
SELECT count(*), count(DISTINCT reply_id), bool_and(reply_id >> 44 = turn_liveness.node_of(deployment)), bool_and(platform = 'web'),
	   count(*) FILTER (WHERE outcome = 'answer') FROM turn_liveness.read_replies('$all');
SELECT count(*), bool_and(outcome = 'answer') FROM turn_liveness.read_replies('$all',
	(SELECT array_agg((SELECT min(reply_id) FROM turn_liveness.read_replies(ARRAY[c])) ORDER BY o) FROM unnest('$all'::text[]) WITH ORDINALITY u (c, o)));
SELECT count(*) FROM turn_liveness.claim_replies('g', '{nothing}', '{}');
SELECT count(*) FROM turn_liveness.read_replies('$all', max_replies => 5);
SELECT count(*), count(DISTINCT reply_id), bool_and(state = 'claimed') FROM turn_liveness.claim_replies('g', NULL, '{web}');
SELECT turn_liveness.ack_replies('g', (SELECT array_agg(reply_id) FROM turn_liveness.read_replies('$all')));
END
is(at_proxy($proxy, <<"END"), "f|won|t|t|t|0\n1|1|f\n1|t\n1|2|won\n1|1|0|answer\n0|f\n2", 'the other functions');
SELECT turn_liveness.has_live_turn('$c[0]', 'm2'), turn_liveness.reject_turn('$c[0]', 'm2', '{"platform": "web"}', 'no'),
	   turn_liveness.arm_turn('$c[0]', 'm2') = 'answered', turn_liveness.arm_turn('$c[0]', 'm3') = 'armed',
	   turn_liveness.discharge_turn('$c[0]', 'm3'), turn_liveness.fail_deployment('$c[0]');
SELECT count(turn_liveness.arm_turn('$c[4]', 'm4', rescue => '1 h')), turn_liveness.mark_provider_failed('$c[4]', 'P', 'r'), turn_liveness.resume_turn('$c[4]', 'm4');
SELECT turn_liveness.clear_provider_failed('$c[4]'), turn_liveness.suspend_turn('$c[4]', 'm4', '1 h', 'asks');
SELECT turn_liveness.resume_turn('$c[4]', 'm4')::integer, turn_liveness.start_turn('$c[4]', 'm4'), turn_liveness.fail_turn('$c[4]', 'm4', 'stopped', 'CANCELLED');
SELECT turn_liveness.release_replies('h', array_agg(reply_id), '0', 'later'), turn_liveness.ack_replies('g', array_agg(reply_id)), turn_liveness.ack_replies('h', array_agg(reply_id)),
	   (SELECT min(outcome) FROM turn_liveness.read_replies('{$c[4]}') WHERE message_ids = '{m}' AND outcome = 'answer')
	FROM turn_liveness.claim_replies('h', '{$c[4]}');
SELECT turn_liveness.retry_dead_reply(reply_id)::integer, turn_liveness.has_live_turn('$c[4]', 'm4') FROM turn_liveness.read_replies('{$c[4]}') WHERE outcome = 'error';
SELECT count(*) FROM turn_liveness.replies WHERE outcome = 'error';
END
is(at_proxy($proxy, "SELECT state, error_code, delivery_state FROM turn_liveness.get_turn('$c[4]', 'm4')"), 'error|CANCELLED|delivered', 'get_turn');
is(at_proxy($proxy, 'SELECT count(*), min(worker_state), sum(answered) FROM turn_liveness.stat'), '3|running|12', 'stat: a row for each node');

# a turn of each node is offered, and rescued
at_proxy($proxy, "SELECT turn_liveness.arm_turn(c, 'r', admission => '1 min', rescue => '1 h') FROM unnest('{$c[0],$c[4],$c[8]}'::text[]) c");
foreach my $node (@nodes)
{
	advance($node, '2 min');
	worker_looked($node);
}
# node 2 finds pauses, each of which gives its turn another turn deadline
ok( wait_until(
		'three turns are offered',
		sub {
			return 1 if at_proxy($proxy, "SELECT count(*) FROM turn_liveness.turns WHERE state = 'lapsed' AND error_code IS NOT NULL") eq '3';
			advance($nodes[2], '1 min');
			worker_looked($nodes[2]);
			return 0;
		}),
	'three turns are offered');
is(at_proxy($proxy, 'SELECT count(*) FROM turn_liveness.rescue_turns(2)'), 2, 'two are taken');
is(at_proxy($proxy, 'SELECT string_agg(generation || error_code, $$ $$) FROM turn_liveness.rescue_turns()'), '2WORKER_NEVER_STARTED', 'and the third');
at_proxy($proxy, "SELECT turn_liveness.discharge_turn(c, 'r') FROM unnest('{$c[0],$c[4],$c[8]}'::text[]) c");

# --- what is refused

fails_with($proxy, "SELECT turn_liveness.arm_turn('$c[0]', 'x', '{\"conversationId\": \"$c[4]\"}')", '22023', 'HINT:  Name the deployment', 'a conversation of another key');
is(at_proxy($proxy, "SELECT turn_liveness.arm_turn('$c[0]/agent', 'x', '{\"conversationId\": \"$c[0]\"}'), turn_liveness.discharge_turn('$c[0]/agent', 'x')"), 'armed|t', 'and of the same');
fails_with($proxy, "SELECT turn_liveness.attach_worker('$c[4]')", '55000', 'HINT:  Call it on a direct connection to node 1', 'attach_worker');
fails_with($proxy, "SELECT turn_liveness.detach_worker('$c[4]')", '55000', 'at node 1', 'detach_worker');
fails_with($proxy, "SELECT turn_liveness.commit_terminal_reply('$c[4]', '{}', '{}')", '22023', 'REMOTE ERROR', 'an error of the node keeps its code');
fails_with($proxy, "SELECT turn_liveness.heartbeats('{a,b}', '{m}')", '22023', 'HINT', 'lists of different lengths');
fails_with($proxy, "SELECT turn_liveness.heartbeats('{{a,b}}')", '2202E', '', 'two dimensions');
fails_with($proxy, "SELECT turn_liveness.claim_replies('g')", '22023', '', 'a claim without a filter');
fails_with($proxy, "SELECT turn_liveness.claim_replies('', '{a}')", '22023', '', 'a claim without a name');
fails_with($proxy, "SELECT turn_liveness.read_replies(NULL)", '22023', '', 'a read of nothing');
fails_with($proxy, "SELECT turn_liveness.read_replies('{a,b}', '{1}')", '22023', '', 'a cursor too few');
fails_with($proxy, "SELECT turn_liveness.rescue_turns(-1)", '22023', '', 'less than no turns');
fails_with($proxy, "SELECT turn_liveness.sweep_expired_turns(-1)", '22023', '', 'to sweep, too');
fails_with($proxy, "SELECT turn_liveness.retry_dead_reply(NULL)", '22023', '', 'no reply');
fails_with($proxy, "SELECT turn_liveness.stat_reset()", '42501', '', 'administration');
is(at_proxy($proxy, "SELECT string_agg(coalesce(message_id, '-'), ',') FROM turn_liveness.heartbeats('{NULL,\"\"}', '{a,b}')"), 'a,b', 'beats of what cannot be are given up');
is(at_proxy($proxy, "SELECT count(*) FROM turn_liveness.heartbeats('{}')"), 0, 'no beats');
like(at_proxy($proxy, "SELECT turn_liveness.arm_turn('a', 'm')", 'my_worker'), qr/permission denied/, 'a worker may not arm');
is(at_proxy($proxy, "SELECT turn_liveness.heartbeat('a')", 'my_worker'), 0, 'and beats');
is($proxy->safe_psql('proxy', q{
SELECT turn_liveness.grant_monitor('other'), turn_liveness.grant_worker('other'), turn_liveness.revoke_worker('other')}), '||', 'granted and revoked');
is(at_proxy($proxy, 'SELECT count(*) FROM turn_liveness.turns', 'other'), 0, 'a monitor reads');
is($nodes[2]->safe_psql('postgres', "SELECT has_function_privilege('other', 'turn_liveness.heartbeat(text, text[], integer[])', 'EXECUTE'), has_table_privilege('other', 'turn_liveness.stat', 'SELECT')"),
	'f|t', 'granted at the nodes, too');
my $may = q{SELECT string_agg(p.proname, ',' ORDER BY p.proname) FROM pg_proc p WHERE p.pronamespace = 'turn_liveness'::regnamespace
	AND p.proname IN ('arm_turn', 'claim_replies', 'start_turn') AND has_function_privilege('other', p.oid, 'EXECUTE')};
is($proxy->safe_psql('proxy', qq{
SELECT turn_liveness.revoke_monitor('other'), turn_liveness.grant_worker('other'), turn_liveness.grant_gateway('other'), turn_liveness.revoke_gateway('other');
$may}), "|||\nstart_turn", 'a worker that was a gateway, too, is one after a revoke');
is($nodes[2]->safe_psql('postgres', $may), 'start_turn', 'at the nodes, too');
is($proxy->safe_psql('proxy', qq{
SELECT turn_liveness.revoke_worker('other');
GRANT EXECUTE ON FUNCTION turn_liveness.arm_turn TO other;
SELECT turn_liveness.revoke_monitor('other');
$may}), "\n\narm_turn", 'a revoke grants nothing');
is(at_proxy($proxy, q{
CREATE TEMP TABLE kept AS SELECT turn_liveness.fail_turn('a', 'none', 'x') AS election;
SELECT election FROM kept}), 'unknown', 'a gateway keeps what it gets');

# numbers that are not those of the nodes
my $swap = 'ALTER SERVER turn_liveness OPTIONS (SET p0 %s, SET p1 %s)';
my @connections = map { (split / /, node_option($_, $nodes[$_]), 2)[1] } 0, 1;
$proxy->safe_psql('proxy', sprintf $swap, reverse @connections);
like(($proxy->psql('proxy', "SELECT turn_liveness.grant_worker('my_worker')"))[2], qr/behind p0 has turn_liveness.node = 1/, 'wrong numbers are noticed when a role is granted');
$proxy->safe_psql('proxy', sprintf $swap, @connections);

# --- one node is down: turns of the others live

my @live = map { my $n = $_; [ map { "$_/a" } of_node($proxy, $n, 3, 'd') ] } 0 .. 2;
my $beats = "SELECT * FROM turn_liveness.heartbeats('{" . join(',', map { @$_ } @live) . "}', array_fill('m'::text, '{9}'))";
my $claim = "SELECT count(*), bool_and(attempt = 1) FROM turn_liveness.claim_replies('g', NULL, '{push}')";
at_proxy($proxy, "SELECT turn_liveness.arm_turn(c, 'm', silence => '10 min') FROM unnest('{" . join(',', map { @$_ } @live) . "}'::text[]) c");
is(at_proxy($proxy, $beats), '', 'nine turns beat');
at_proxy($proxy, "SELECT turn_liveness.reject_turn(c, 'p', '{\"platform\": \"push\"}', 'no') FROM unnest('{$c[0],$c[8]}'::text[]) c");
my $session = $proxy->background_psql('proxy', on_error_stop => 0, extra_params => [ '-U', 'my_gateway' ]);
$session->set_query_timer_restart;
is($session->query($beats), '', 'in a session that stays, too');

$nodes[1]->stop('immediate');
foreach my $round (1, 2)
{
	advance($_, '6 min') foreach @nodes[ 0, 2 ];
	my ($out, $err) = at_proxy($proxy, $beats);
	is($out, '', 'node 1 is down: no worker is told to give up');
	like($err, qr/WARNING:  node 1 did not take 3 beats/, 'and is told why');
	is($session->query($beats), '', 'nor one whose session stays');
}
worker_looked($_) foreach @nodes[ 0, 2 ];
is(join(' ', map { failures($_, 'd%') } @nodes[ 0, 2 ]), '0 0', 'no turn of another node has failed');
is((at_proxy($proxy, $claim))[0], '2|t', 'replies of the other nodes are claimed');
fails_with($proxy, "SELECT turn_liveness.heartbeat('$live[1][0]')", '08006', 'PQconnectPoll|PQconnectStart', 'a call for node 1 is a lost connection');
fails_with($proxy, "SELECT turn_liveness.heartbeats('{$live[1][0]}')", '08006', '', 'beats that no node took raise');
fails_with($proxy, "SELECT turn_liveness.read_replies('{$live[1][0]}')", '08006', '', 'as does a read');
fails_with($proxy, "SELECT turn_liveness.ack_replies('g', ARRAY[1::bigint << 44])", '08006', '', 'and an acknowledgement');
like((at_proxy($proxy, 'SELECT string_agg(node::text, $$ $$) FROM turn_liveness.stat'))[0], qr/^0 2$/, 'stat shows the others');
$nodes[1]->start;
wait_worker($nodes[1]);
no_pauses($nodes[1]);
ok(wait_until('node 1 takes beats', sub { my ($out, $err) = at_proxy($proxy, $beats); return $out eq '' && $err !~ /WARNING/ }), 'node 1 is back');

# --- one node hangs, with and without a connection to it

ok(wait_until('the session beats everywhere', sub { $session->{stderr} = ''; $session->query($beats); return $session->{stderr} !~ /WARNING/ }), 'all beat');
my $postmaster = (slurp_file($nodes[2]->data_dir . '/postmaster.pid') =~ /^(\d+)/)[0];
@stopped = ($postmaster, split ' ', `ps -o pid= --ppid $postmaster`);
kill 'STOP', @stopped;
foreach my $round (1, 2)
{
	advance($_, '6 min') foreach @nodes[ 0, 1 ];
	$session->{stderr} = '';
	is($session->query($beats), '', 'node 2 hangs: no worker is told to give up');
	like($session->{stderr}, qr/WARNING:  node 2 did not take 3 beats: a node did not answer within 3 s/, $round == 1 ? 'with a connection to it' : 'and without');
}
worker_looked($_) foreach @nodes[ 0, 1 ];
is(join(' ', map { failures($_, 'd%') } @nodes[ 0, 1 ]), '0 0', 'no turn of another node has failed');
kill 'CONT', @stopped;
@stopped = ();

is(at_proxy($proxy, "SELECT count(*), min(turn_liveness.commit_terminal_reply(c, '{m}', '{}')) FROM unnest('{" . join(',', map { @$_ } @live) . "}'::text[]) c"),
	'9|won', 'every answer wins');
is(at_proxy($proxy, 'SELECT count(*) = count(DISTINCT reply_id), count(DISTINCT reply_id >> 44), min(reply_id >> 44 - node) FROM turn_liveness.replies'),
	't|3|0', 'ids never collide');
$session->quit;
$_->stop foreach @nodes;
done_testing();
