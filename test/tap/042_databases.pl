# Many databases in one server: each is served while there is room; what is not
# served is logged once and shown.  TL_DATABASES=200 serves so many.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TurnLiveness;

my $most = $ENV{TL_DATABASES} // 36;
my @refused = qw(more1 more2 more3);
my $launcher = q{SELECT query FROM pg_stat_activity WHERE backend_type = 'turn_liveness launcher'};

my $node = new_node('main', qq{
turn_liveness.database_capacity = $most
max_worker_processes = @{[ $most + 2 ]}
max_logical_replication_workers = 0
max_connections = 20
autovacuum = off
turn_liveness.log_failures = on
});

# What all processes of that kind take from the machine's memory by themselves: kB, seconds of CPU
sub processes
{
	my ($like) = @_;
	my ($kb, $ticks) = (0, 0);
	foreach my $pid (split /\n/, $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE '$like'"))
	{
		my $map = slurp_file("/proc/$pid/smaps_rollup");
		$kb += $1 while $map =~ /^Private_\w+: +(\d+) kB/mg;
		my @stat = split / /, slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr;
		$ticks += $stat[11] + $stat[12];
	}
	return ($kb, $ticks / 100);
}

# --- each database has its worker

my $start = time;
$node->safe_psql('postgres', 'CREATE DATABASE d2');
add_extension($node, 'd2');
wait_alone($node);
$node->safe_psql('postgres', join ';', map { "CREATE DATABASE d$_ TEMPLATE d2 STRATEGY file_copy" } 3 .. $most);
my $running = sub { $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'}) };
ok(wait_until("$most workers", sub { $running->() == $most }), "a worker in each of $most databases");
note sprintf '%.1f s to make them all', time - $start;
$start = time;
$node->restart;
ok(wait_until("$most workers", sub { $running->() == $most }), 'after a restart, too');
note sprintf '%.1f s after a restart', time - $start;
# They end all at once, and the postmaster frees their processes one after the other.
# The launcher wants them meanwhile, which it tells the log if it lasts for five seconds.
my $log_start = -s $node->logfile;
my ($end) = split /\|/, $node->safe_psql('postgres', q{SELECT statement_timestamp(), count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'});
ok($node->poll_query_until('postgres', "SELECT count(*) = $most FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND backend_start > '$end'"),
	'and after an end of all workers');
my @wants = map { $node->safe_psql('postgres', "SELECT extract(epoch FROM timestamptz '$_' - timestamptz '$end')") }
  slurp_file($node->logfile, $log_start) =~ /^(\S+ [\d:.]+) .* out of background worker slots/mg;
is(join(' ', grep { $_ < 4.99 } @wants), '', 'no want of processes is told before it has lasted');
ok($node->poll_query_until('postgres', "SELECT ($launcher) = 'workers running: $most'"), 'and the launcher says so');
$node->safe_psql('postgres', join "\n", map { ("\\c d$_", q{SELECT turn_liveness.arm_turn('d', 'm', admission => '1ms', silence => '1ms');}) } 2 .. $most);
my $failed = sub { my $log = slurp_file($node->logfile); return scalar(() = $log =~ /failed turn "m" of deployment "d" .* in database "d\d+"/g) };
ok(wait_until('all failed', sub { $failed->() == $most - 1 }), 'a turn that lapses fails in each');

# what it costs: notes, for the README
my $shared = $node->safe_psql('postgres', q{SELECT allocated_size FROM pg_shmem_allocations WHERE name = 'turn_liveness'});
cmp_ok($shared / $most, '<', 75_000, 'a database takes less than 75 kB of shared memory');
note "$shared bytes of shared memory for $most databases";
my ($private, $cpu) = processes('turn_liveness worker');
note sprintf '%d kB of private memory in %d workers, %.0f each', $private, $most, $private / $most;
if ($ENV{TL_DATABASES})
{
	wall_clock_passes(20);
	note sprintf '%.4f s of CPU a second in idle workers', ((processes('turn_liveness worker'))[1] - $cpu) / 20;
}

# --- three more: the log says so once of each, and what to do

$log_start = -s $node->logfile;
$node->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE d2 STRATEGY file_copy") foreach @refused;
foreach my $db (@refused)
{
	$node->wait_for_log(qr/LOG:  turn_liveness cannot serve database "$db"\n.*DETAIL:  At most $most databases can use the extension\.\n.*HINT:  Increase "turn_liveness.database_capacity"/, $log_start);
}
# the processes that found no room may end late
ok(wait_until("$most workers", sub { $running->() == $most }), 'the others go on');
ok($node->poll_query_until('postgres', "SELECT ($launcher) = 'workers running: $most, no room for: 3'"), 'the launcher shows it in every database');
is($node->safe_psql('more1', 'SELECT worker_state, worker_problem, armed IS NULL FROM turn_liveness.stat'),
	'none|too many databases use the extension: increase turn_liveness.database_capacity|t', 'stat says why, and counts nothing');
my ($rc, $out, $err) = $node->psql('more1', q{SELECT turn_liveness.attach_worker('d')}, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($err, qr/53400: too many databases use turn_liveness\nDETAIL:  At most $most .*\nHINT:  Increase "turn_liveness.database_capacity" and restart/, 'so does attach_worker');
is( $node->safe_psql('more1', q{
SELECT turn_liveness.arm_turn('e', 'm1', admission => '1h', silence => '1h'), turn_liveness.arm_turn('e', 'm2', admission => '1ms', silence => '1ms');
SELECT turn_liveness.heartbeat('e', '{m1}');
SELECT pg_sleep(0.01);	-- without a place in shared memory the wall clock counts: the millisecond is over
SELECT turn_liveness.sweep_expired_turns();
SELECT string_agg(message_ids[1] || ' ' || error_code, ',') FROM turn_liveness.replies WHERE deployment = 'e'}),
	"armed|armed\n1\n\n1\nm2 WORKER_NEVER_STARTED", 'beats and sweep_expired_turns() serve as without preload');

# a place that becomes free is taken by one of them, and the log is not told of the others again
wait_alone($node);
$node->safe_psql('postgres', 'DROP DATABASE d3');
ok($node->poll_query_until('postgres', "SELECT ($launcher) = 'workers running: $most, no room for: 2'"), 'the place of a database that goes is taken');
my %told;
$told{$_}++ foreach slurp_file($node->logfile, $log_start) =~ /cannot serve database "(\w+)"/g;
is(join(', ', map { "$_ $told{$_}" } sort keys %told), 'more1 1, more2 1, more3 1', 'the log told of each once');
my ($left) = grep { $node->safe_psql($_, 'SELECT worker_state FROM turn_liveness.stat') eq 'none' } @refused;
$node->safe_psql($left, 'DROP EXTENSION turn_liveness');
ok($node->poll_query_until('postgres', "SELECT ($launcher) = 'workers running: $most, no room for: 1'"), 'one that needs none any more is not counted');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
is(scalar(() = slurp_file($node->logfile) =~ /out of background worker slots/g), scalar(@wants), 'and no other want of processes is told where they are enough');

# --- fewer processes than databases: some are served all the time, the others never

$node->append_conf('postgresql.conf', "max_worker_processes = 3\nmax_parallel_workers = 0");
$log_start = -s $node->logfile;
$node->restart;
$node->wait_for_log(qr/LOG:  out of background worker slots: no process looks for turn_liveness in database "\w+" and others\n.*DETAIL:  It is tried again every 5 seconds\.\n.*HINT:  Increase "max_worker_processes"/, $log_start);
ok($node->poll_query_until('postgres', "SELECT ($launcher) ~ 'workers running: 2, not looked at: \\d+'"), 'the launcher shows how many it knows nothing of');
my @served = split /\n/, $node->safe_psql('postgres', q{SELECT datname FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'});
my ($waits, $waits_too) = grep { my $db = $_; !grep { $_ eq $db } @served } map { "d$_" } 4 .. $most;
foreach my $db ($waits, $waits_too)
{
	$node->safe_psql($db, q{SELECT turn_liveness.heartbeat('x')});
	ok($node->poll_query_until($db, q{SELECT worker_state = 'no slot' AND worker_problem LIKE '%max_worker_processes' FROM turn_liveness.stat}), 'a database that is used says so itself');
	$node->wait_for_log(qr/LOG:  out of background worker slots: no turn_liveness worker for database "$db"/, $log_start);
}
ok($node->poll_query_until('postgres', "SELECT ($launcher) ~ 'workers running: 2, no process for: 2'"), 'the launcher counts them');
my $log = slurp_file($node->logfile, $log_start);
is(scalar(() = $log =~ /no process looks for/g), 1, 'one line for all that are not known');
is(scalar(() = $log =~ /no turn_liveness worker for database "$_"/g), 1, 'and one for each that is') foreach $waits, $waits_too;
is(scalar(() = $log =~ /out of background worker slots/g), 3, 'and none else, also from the end of the server that had a process for each');
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
$log_start = -s $few->logfile;
$few->safe_psql('postgres', 'CREATE EXTENSION turn_liveness');
ok($few->poll_query_until('postgres', q{SELECT worker_state = 'no slot' FROM turn_liveness.stat}), 'there is none for us');
$few->wait_for_log(qr/out of background worker slots: no turn_liveness worker for database "postgres"\n.*DETAIL:  It is tried again every 5 seconds\.\n.*HINT:  .*max_worker_processes/, $log_start);
my $since = $few->safe_psql('postgres', "SELECT clock_timestamp() FROM pg_cancel_backend($pid)");
ok($few->poll_query_until('postgres', q{SELECT worker_state = 'running' FROM turn_liveness.stat}), 'it is tried again');
# by the server's clock, for a call of psql may start late
cmp_ok($few->safe_psql('postgres', "SELECT extract(epoch FROM backend_start - timestamptz '$since') FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'") || 'inf',
	'<', 30, 'within five seconds, and some for a busy machine');
is(scalar(() = slurp_file($few->logfile, $log_start) =~ /out of background worker slots/g), 1, 'one line in the log');
eval { $parallel->quit };
$few->stop;
done_testing();
