# Where room ends: more databases than there are slots in shared memory, more
# than there are processes, more attached deployments than there is memory for.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TurnLiveness;

my ($limits) = slurp_file("$FindBin::RealBin/../../README.md") =~ /^## Limits\n(.*?)^## /ms;
my ($most) = $limits =~ /^\| databases with a worker and shared memory \| (\d+) in one server;/m;
my ($names) = $limits =~ /^\| deployment, message id, gateway, `conversationId`, `platform` \| 1 \S+ (\d+) bytes \|/m;

my $node = new_node('main', q{
max_worker_processes = 60
autovacuum = off
fsync = off
turn_liveness.attach_capacity = 16
turn_liveness.max_reply_size = '1kB'
});

sub state_in
{
	my ($db) = @_;
	return $node->safe_psql($db, 'SELECT worker_state FROM turn_liveness.stat');
}

# --- names, texts

my $fits = 'x' x $names;
is($node->safe_psql('postgres', "SELECT turn_liveness.arm_turn('$fits', '$fits', jsonb_build_object('conversationId', '$fits', 'platform', '$fits'))"),
	'armed', "names of $names bytes");
isnt($node->psql('postgres', "SELECT turn_liveness.arm_turn('a', 'm', jsonb_build_object('platform', '${fits}x'))"), 0, 'and no more');
is($node->safe_psql('postgres', "SELECT turn_liveness.arm_turn('a', 'm', jsonb_build_object('organizationId', '$fits')), turn_liveness.arm_turn('b', 'm', jsonb_build_object('organizationId', ''))"),
	'armed|armed', 'an organization of 0 to 255 bytes');
isnt($node->psql('postgres', "SELECT turn_liveness.arm_turn('c', 'm', jsonb_build_object('organizationId', '${fits}x'))"), 0, 'and no more');
my $code = sub {
	my ($sql) = @_;
	my ($stdout, $stderr) = ('', '');
	$node->psql('postgres', $sql, stdout => \$stdout, stderr => \$stderr, extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	return $stderr =~ /ERROR:\s+(\w{5})/ ? $1 : $stdout;
};
is($code->(q{SELECT turn_liveness.fail_turn('a', 'm', repeat('x', 1025))}), '54000', 'an error is at most max_reply_size');
is($code->(q{SELECT turn_liveness.mark_provider_failed('a', 'c', repeat('x', 1025))}), '54000', 'so is a reason');
is($code->(q{SET turn_liveness.max_reply_size = '1MB'; SELECT turn_liveness.mark_provider_failed('a', 'c', repeat('x', 8193))}), '54000', 'which has a limit of its own');
is($code->("SELECT turn_liveness.fail_turn('a', 'm', 'x', '${fits}x')"), '22023', 'an error code is at most 255 bytes');
is($code->("SELECT turn_liveness.fail_turn('a', 'm', 'x', '')"), '22023', 'and at least one');
is($code->("SELECT turn_liveness.fail_turn('a', 'm', 'x', '$fits')"), 'won', 'no less');
is($code->(q{SELECT turn_liveness.arm_turn('days', 'm1', duration => '24 d', silence => '24 d', admission => '24 d')}), 'armed', '24 days');
is($code->(q{SELECT turn_liveness.arm_turn('days', 'm2', duration => '25 d')}), '22023', 'and no more');
is($code->(q{SELECT turn_liveness.release_replies('gw', '{1}', '1 day')}), '0', 'a delay of a day');
is($code->(q{SELECT turn_liveness.release_replies('gw', '{1}', '1 day 1 ms')}), '22023', 'and no more');

# --- attached deployments

is($code->(q{SELECT max(turn_liveness.attach_worker('a' || i)) = pg_backend_pid() FROM generate_series(1, 4) i}), 't', 'a session attaches a quarter of attach_capacity');
is($code->(q{SELECT turn_liveness.attach_worker('a' || i) FROM generate_series(1, 5) i}), '53400', 'and no more');

# --- late replies

$node->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.max_late_replies = 3; SELECT pg_reload_conf()');
ok($node->poll_query_until('postgres', q{SHOW turn_liveness.max_late_replies}, 3), 'a limit of three');
my $late = q{SELECT turn_liveness.commit_terminal_reply('late', '{m}', '{"content": "%d"}'); SELECT pg_stat_force_next_flush();};
is($code->(sprintf($late, $_) . "SELECT count(*) FROM turn_liveness.late_replies"), "unknown\n\n$_", "late reply $_ is kept") foreach 1 .. 3;
is($code->(sprintf($late, $_) . "SELECT count(*) FROM turn_liveness.late_replies"), "unknown\n\n3", "late reply $_ is not") foreach 4, 5;
is($node->safe_psql('postgres', 'SELECT unknown, late_dropped FROM turn_liveness.stat'), '5|2', 'all are counted');
is(scalar(() = slurp_file($node->logfile) =~ /late replies of database "postgres" are not kept/g), 1, 'and the log says so once a minute');
is($code->(q{SELECT turn_liveness.arm_turn('late', 'm'), turn_liveness.commit_terminal_reply('late', '{m}', '{}')}), 'armed|won', 'a turn that is owed is answered all the same');

# --- what the README says of ids, indexes and columns of a DBA's

$node->safe_psql('postgres', q{
CREATE TABLE public.own (id bigserial, note text);
CREATE INDEX own_index ON turn_liveness.turn (conversation_id);
ALTER TABLE turn_liveness.turn ADD COLUMN own text;
SELECT turn_liveness.arm_turn('own', m, '{"conversationId": "own"}') FROM unnest('{m1,m2}'::text[]) m;
UPDATE turn_liveness.turn SET own = 'mine' WHERE deployment = 'own'});
is($node->safe_psql('postgres', q{
INSERT INTO public.own (note) VALUES ('x');
SELECT turn_liveness.commit_terminal_reply('own', '{m1}', '{}');
SELECT lastval() = currval('public.own_id_seq'), currval('public.own_id_seq')}), "won\nf|1", 'lastval() is ours afterwards, currval() is not');
is($node->safe_psql('postgres', q{SELECT string_agg(message_id || ' ' || coalesce(own, 'NULL'), ', ' ORDER BY message_id) FROM turn_liveness.turn WHERE deployment = 'own'}),
	'm1 NULL, m2 mine', 'an update by us sets a column of a DBA to NULL');
is($node->safe_psql('postgres', q{SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM turn_liveness.turn WHERE conversation_id = 'own'}),
	'2', 'an index of a DBA is kept up to date');

# --- databases

$node->safe_psql('postgres', 'CREATE DATABASE d2');
add_extension($node, 'd2');
foreach my $n (3 .. $most)
{
	$node->safe_psql('postgres', "CREATE DATABASE d$n TEMPLATE d2 STRATEGY file_copy");
}
my $running = sub { $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'}) };
ok(wait_until("$most workers", sub { $running->() == $most }), "a worker in each of $most databases");
my $start = -s $node->logfile;
$node->safe_psql('postgres', 'CREATE DATABASE one_more TEMPLATE d2 STRATEGY file_copy');
$node->wait_for_log(qr/LOG:  turn_liveness cannot serve database "one_more"\n.*DETAIL:  At most $most databases can use the extension\.\n.*HINT:/, $start);
pass('one more is not served: the log says so, and what to do');
is($running->(), $most, 'the others go on');
is(state_in('one_more'), 'none', 'stat shows no worker');
is($node->safe_psql('one_more', 'SELECT worker_problem, armed IS NULL FROM turn_liveness.stat'), 'too many databases use the extension|t', 'says why, and counts nothing');
is( $node->safe_psql('one_more', q{
SELECT turn_liveness.arm_turn('d', 'm1', admission => '1h', silence => '1h'), turn_liveness.arm_turn('d', 'm2', admission => '1ms', silence => '1ms');
SELECT turn_liveness.heartbeat('d', '{m1}');
SELECT pg_sleep(0.01);
SELECT turn_liveness.sweep_expired_turns();
SELECT string_agg(message_ids[1] || ' ' || error_code, ',') FROM turn_liveness.replies}),
	"armed|armed\n1\n\n1\nm2 WORKER_NEVER_STARTED", 'beats and sweep_expired_turns() serve as without preload');
is(scalar(() = slurp_file($node->logfile, $start) =~ /cannot serve database/g), 1, 'one line in the log');
$node->safe_psql('postgres', 'DROP DATABASE d3');
ok($node->poll_query_until('one_more', q{SELECT worker_state = 'running' FROM turn_liveness.stat}), 'the place of a database that goes is taken');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$node->stop;

# --- processes: what another extension's worker leaves free is taken within five seconds

my $few = new_node('few', q{
max_worker_processes = 3
max_parallel_workers = 3
parallel_setup_cost = 0
parallel_tuple_cost = 0
min_parallel_table_scan_size = 0
}, extension => 0);
$few->safe_psql('postgres', 'CREATE TABLE public.many AS SELECT i FROM generate_series(1, 10000) i; ANALYZE public.many');
my $parallel = session($few);
my $pid = backend_pid($parallel);
$parallel->{stdin} .= "SELECT count(*) FROM public.many WHERE pg_sleep(600)::text || i <> '';\n";
$parallel->{run}->pump_nb;
ok($few->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'parallel worker'}), 'a parallel query has the last background worker');
$start = -s $few->logfile;
$few->safe_psql('postgres', 'CREATE EXTENSION turn_liveness');
ok($few->poll_query_until('postgres', q{SELECT worker_state = 'no slot' FROM turn_liveness.stat}), 'there is none for us');
my $log = slurp_file($few->logfile, $start);
like($log, qr/out of background worker slots: no turn_liveness worker for database "postgres"\n.*DETAIL:  It is tried again every (5) seconds\.\n.*HINT:  .*max_worker_processes/,
	'the log says so, and what to do');
$few->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
my $since = time;
ok($few->poll_query_until('postgres', q{SELECT worker_state = 'running' FROM turn_liveness.stat}), 'it is tried again');
cmp_ok(time - $since, '<', 30 + 20 * psql_takes($few), 'within five seconds, and some for a busy machine');
is(scalar(() = slurp_file($few->logfile, $start) =~ /out of background worker slots/g), 1, 'one line in the log');
eval { $parallel->quit };
$few->stop;
done_testing();
