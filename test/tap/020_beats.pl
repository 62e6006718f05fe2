# What a beat costs: no WAL, no transaction id, no dead tuple.  And what
# happens when there is no room for it in shared memory.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# No process but ours writes: no running-xacts records either.
my $quiet = q{
wal_level = minimal
max_wal_senders = 0
autovacuum = off
checkpoint_timeout = 1h
};

my $node = new_node('main', $quiet);

# --- zero, zero, zero

$node->safe_psql(
	'postgres', q{
SELECT count(turn_liveness.arm_turn('d' || i, m, admission => '1h')) FROM generate_series(1, 200) i, unnest('{a,b}'::text[]) m;
VACUUM turn_liveness.turn;
CHECKPOINT});

my %beat = (
	'for the deployment' => q{SELECT sum(turn_liveness.heartbeat('d' || (i % 200 + 1))) FROM generate_series(1, 20000) i},
	'for a turn' => q{SELECT sum(turn_liveness.heartbeat('d' || (i % 200 + 1), '{a}')) FROM generate_series(1, 20000) i},
	'in batches' => q{SELECT count(b.deployment) FROM generate_series(1, 100) n, LATERAL turn_liveness.heartbeats(ARRAY(SELECT 'd' || (i + 0 * n) FROM generate_series(1, 200) i)) b},
	'in batches, by name' => q{SELECT count(b.deployment) FROM generate_series(1, 100) n, LATERAL turn_liveness.heartbeats(ARRAY(SELECT 'd' || (i + 0 * n) FROM generate_series(1, 200) i), array_fill('a'::text, '{200}')) b},
	'for what owes nothing' => q{SELECT sum(turn_liveness.heartbeat('none' || i)) FROM generate_series(1, 20000) i},
	'by has_live_turn' => q{SELECT count(*) FILTER (WHERE turn_liveness.has_live_turn('d' || (i % 200 + 1), 'a')) FROM generate_series(1, 20000) i},
);
my %result = (
	'for the deployment' => 40000,
	'for a turn' => 20000,
	'in batches' => 0,
	'in batches, by name' => 0,
	'for what owes nothing' => 0,
	'by has_live_turn' => 20000,
);

my $session = session($node);
my $costs = q{
SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot()),
	(SELECT n_dead_tup + n_tup_upd + n_tup_ins + n_tup_del + n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'turn_liveness.turn'::regclass)};

foreach my $how (sort keys %beat)
{
	# the first ones find their place, and set the hints of the rows they read
	$session->query_safe($beat{$how});
	# so does the question: with checksums, which 18 has by default, hints are logged
	$session->query_safe("SELECT pg_stat_force_next_flush(); $costs");
	my $before = $session->query_safe($costs);
	is($session->query_safe($beat{$how}), $result{$how}, "20000 beats $how: the count");
	$session->query_safe('SELECT pg_stat_force_next_flush()');
	is($session->query_safe($costs), $before, "20000 beats $how: no WAL, no transaction id, no dead tuple");
	is($session->query_safe("BEGIN; $beat{$how}; SELECT pg_current_xact_id_if_assigned() IS NULL; COMMIT"),
		"$result{$how}\nt", "20000 beats $how: none in an open transaction either");
}
is($session->query_safe('SELECT beats_in_rows FROM turn_liveness.stat'), 0, 'none went to the rows');
cmp_ok($session->query_safe('SELECT beats FROM turn_liveness.stat'), '>=', 300000, 'all were counted');

# The same measure sees a write.
my $before = $session->query_safe($costs);
arm($node, 'write', 'm');
isnt($session->query_safe($costs), $before, 'an arm is seen by the same measure');

# In a read-only transaction
is($session->query_safe("BEGIN READ ONLY; SELECT turn_liveness.heartbeat('d1'); COMMIT"),
	2, 'a beat is possible in a read-only transaction');

# --- leases are given back when turns end

cmp_ok($session->query_safe('SELECT leases_used FROM turn_liveness.stat'),
	'>=', 400, 'deployments and named turns have leases');
$session->query_safe(
	q{SELECT count(turn_liveness.commit_terminal_reply('d' || i, '{a,b}', '{}')) FROM generate_series(1, 200) i});
is($session->query_safe(q{SELECT sum(turn_liveness.heartbeat('d' || i)) FROM generate_series(1, 200) i}),
	0, 'all turns have ended');
is($session->query_safe('SELECT leases_used FROM turn_liveness.stat'), 0, 'no lease is left');

# One by one, and without a beat after the end
$session->query_safe(
	q{SELECT count(turn_liveness.arm_turn('one' || i, 'm')) FROM generate_series(1, 50) i});
$session->query_safe(
	q{SELECT sum(turn_liveness.heartbeat('one' || i)) FROM generate_series(1, 50) i});
is($session->query_safe('SELECT leases_used FROM turn_liveness.stat'), 50, '50 deployments beat');
$session->query_safe("SELECT turn_liveness.commit_terminal_reply('one$_', '{m}', '{}')") foreach 1 .. 50;
is($session->query_safe('SELECT leases_used FROM turn_liveness.stat'), 0, 'their ends free the leases');

$session->quit;
$node->stop;

# --- no room

my $small = new_node('small', "$quiet\nturn_liveness.lease_capacity = 16\n");
is($small->safe_psql('postgres', 'SELECT lease_capacity FROM turn_liveness.stat'), 16, 'capacity');
$small->safe_psql('postgres',
	q{SELECT count(turn_liveness.arm_turn('d' || i, m, admission => '1 d', silence => '20 min', duration => '1 d')) FROM generate_series(1, 64) i, unnest('{a,b}'::text[]) m});
my $beat = q{SELECT count(*), count(*) FILTER (WHERE n = 2) FROM (SELECT turn_liveness.heartbeat('d' || i) n FROM generate_series(1, 64) i) x};
my $beat_names = q{SELECT count(*), count(*) FILTER (WHERE n = 2) FROM (SELECT turn_liveness.heartbeat('d' || i, '{a,b}') n FROM generate_series(1, 64) i) x};
is($small->safe_psql('postgres', $beat), '64|64', 'every beat tells what is owed');
is($small->safe_psql('postgres', $beat_names), '64|64', 'by name too');
is($small->safe_psql('postgres', 'SELECT leases_used FROM turn_liveness.stat'), 16, 'the leases are used up');
cmp_ok($small->safe_psql('postgres', 'SELECT beats_in_rows FROM turn_liveness.stat'),
	'>', 0, 'beats in rows are counted');
is($small->safe_psql('postgres',
		q{SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'd' || i FROM generate_series(1, 70) i))}),
	6, 'heartbeats names the six that owe nothing');

# They keep their turns alive, wherever they are written; the dead are failed.
foreach my $round (1 .. 6)
{
	advance($small, '1 min') foreach 1 .. 15;
	is($small->safe_psql('postgres',
			q{SELECT count(*) FILTER (WHERE n = 2) FROM (SELECT turn_liveness.heartbeat('d' || i, '{a,b}') n FROM generate_series(1, 54) i) x}),
		54, "round $round: those that beat are owed");
}
# (after a pause of a busy machine they have another turn deadline)
ok( wait_until(
		'the silent ones are failed',
		sub {
			return 1 if $small->safe_psql('postgres', 'SELECT count(*) = 20 FROM turn_liveness.reply') eq 't';
			advance($small, '5 min');
			$small->safe_psql('postgres', q{SELECT sum(turn_liveness.heartbeat('d' || i, '{a,b}')) FROM generate_series(1, 54) i});
			return 0;
		}),
	'those that did not are failed');
is($small->safe_psql('postgres',
		q{SELECT count(*), count(*) FILTER (WHERE substr(deployment, 2)::int > 54 AND error_code = 'WORKER_UNRESPONSIVE') FROM turn_liveness.reply}),
	'20|20', 'and no other');
is(scalar(() = slurp_file($small->logfile) =~ /shared memory for beats is full/g),
	1, 'it is logged once');
like(slurp_file($small->logfile), qr/HINT:.*turn_liveness\.lease_capacity/, 'with a hint');

# A beat in a row starts a turn, shows in the view, and does not wait.
$small->safe_psql('postgres', q{SELECT turn_liveness.arm_turn('new', 'm', admission => '1 h', silence => '20 min')});
is($small->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('new')}), 1, 'one more');
is($small->safe_psql('postgres', q{SELECT state FROM turn_liveness.turns WHERE deployment = 'new'}),
	'running', 'a beat starts it, in whatever place');
my $holder = session($small);
$holder->query_safe(q{BEGIN; SELECT turn_liveness.commit_terminal_reply('new', '{m}', '{}')});
is($small->safe_psql('postgres',
		q{SET lock_timeout = '60s'; SELECT turn_liveness.heartbeat('new')}),
	1, 'a beat does not wait for an open election, and counts what is committed');
is($holder->query_safe('COMMIT; SELECT 1'), 1, 'the election goes on');
is($small->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('new')}), 0, 'then nothing is owed');
$holder->quit;

# --- room again

$small->safe_psql('postgres',
	q{SELECT count(turn_liveness.commit_terminal_reply('d' || i, '{a,b}', '{}')) FROM generate_series(1, 54) i});
$small->safe_psql('postgres',
	q{SELECT sum(turn_liveness.heartbeat('d' || i)), sum(turn_liveness.heartbeat('d' || i, '{a,b}')) FROM generate_series(1, 64) i});
# what no beat and no end has removed the worker drops
ok( wait_until(
		'leases are reclaimed',
		sub {
			advance($small, '1 min') foreach 1 .. 5;
			return $small->safe_psql('postgres', 'SELECT leases_used < 16 FROM turn_liveness.stat') eq 't';
		}),
	'leases of what owes nothing are reclaimed');
arm($small, 'later', 'm');
my $in_rows = $small->safe_psql('postgres', 'SELECT beats_in_rows FROM turn_liveness.stat');
is($small->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('later')}), 1, 'a new one beats');
is($small->safe_psql('postgres', 'SELECT beats_in_rows FROM turn_liveness.stat'),
	$in_rows, 'in shared memory');

$small->stop;

# --- one page of memory is full, and others have room: 600 leases are on 11 pages of 60, and a
# deployment's turns on the one page of its partition as long as that has room

my $pages = new_node('pages', "$quiet\nturn_liveness.lease_capacity = 600\n");
my $many = "ARRAY(SELECT 'm' || i FROM generate_series(1, 400) i)";
$pages->safe_psql('postgres',
	q{SELECT count(turn_liveness.arm_turn(d, 'm' || i, admission => '1 d', silence => '20 min', duration => '1 d')) FROM generate_series(1, 400) i, unnest('{big,other}'::text[]) d});
sub in_memory
{
	return $pages->safe_psql('postgres', 'SELECT leases_used, beats_in_rows FROM turn_liveness.stat');
}
is($pages->safe_psql('postgres', "SELECT turn_liveness.heartbeat('big', $many)"), 400, '400 turns of one deployment beat');
is(in_memory(), '401|0', 'in shared memory');
is($pages->safe_psql('postgres', "SELECT turn_liveness.heartbeat('big', $many, array_fill(1, '{400}'))"),
	400, 'each is found again');
is(in_memory(), '401|0', 'and has no second lease');
is($pages->safe_psql('postgres', "SELECT turn_liveness.heartbeat('other', $many)"), 400, '400 of another one beat');
is(in_memory(), '600|202', 'until the leases are used up, to the last one');
$pages->safe_psql('postgres',
	"SELECT count(turn_liveness.fail_turn('big', 'm' || i, 'x')) FROM generate_series(1, 400) i WHERE i % 2 = 0");
is($pages->safe_psql('postgres', "SELECT turn_liveness.heartbeat('big', $many)"), 200, 'the other half is owed');
is($pages->safe_psql('postgres', "SELECT turn_liveness.heartbeat('other', $many)"), 400, 'all of the other deployment are');
is((split /\|/, in_memory())[0], 600, 'in the places of those that have ended');
$pages->safe_psql('postgres', "SELECT turn_liveness.fail_deployment(d, 'x') FROM unnest('{big,other}'::text[]) d");
is($pages->safe_psql('postgres', "SELECT turn_liveness.heartbeat('big'), turn_liveness.heartbeat('other')"), '0|0', 'nothing is owed');
is((split /\|/, in_memory())[0], 0, 'no lease is left');
$pages->stop;
done_testing();
