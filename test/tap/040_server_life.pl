# Life in a server: a worker comes and goes with the extension and with the
# settings, is never in the way of DDL, and heals whatever is done to it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TurnLiveness;

# What the server would wait for a connection that does not go away, in seconds.
my $native_wait = 5;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', q{
shared_preload_libraries = 'turn_liveness'
max_worker_processes = 20
max_prepared_transactions = 5
});
$node->start;

# The worker of a database: its pid, or '' if there is none.
sub worker
{
	my ($db) = @_;
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND datname = '$db'"
	);
}

sub wait_for_worker
{
	my ($db, $but, $what) = @_;
	return ok($node->poll_query_until('postgres',
			"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND datname = '$db' AND pid <> $but"),
		$what);
}

sub wait_for_state
{
	my ($db, $state, $what) = @_;
	return ok($node->poll_query_until($db,
			"SELECT worker_state = '$state' AND (worker_pid IS NULL) = (worker_state <> 'running') FROM turn_liveness.stat"),
		$what);
}

sub no_worker
{
	my ($db, $what) = @_;
	return ok($node->poll_query_until('postgres',
			"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND datname = '$db'"),
		$what);
}

# The command is not kept waiting by our worker, as a connection would keep it: for
# five seconds.  What the command itself takes on this machine is measured with the
# same kind of command in a database without the extension.  One session does both
# and reads the clock, for a call of psql may start late.
sub sql_at_once
{
	my ($sql, $what) = @_;
	my $clock = 'SELECT extract(epoch FROM clock_timestamp())';
	wait_alone($node);
	my ($result, $stdout) = $node->psql('postgres',
		"$clock; CREATE DATABASE bystander; ALTER DATABASE bystander RENAME TO bystander2; DROP DATABASE bystander2; $clock; $sql; $clock");
	is($result, 0, $what);
	my ($start, $between, $end) = split /\n/, $stdout;
	cmp_ok(($end // 'inf') - $between, '<', $native_wait + 3 * ($between - $start), "$what: at once");
	return;
}

# The launcher

ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'turn_liveness launcher' AND datname IS NULL AND application_name = 'turn_liveness launcher'"
	),
	'the launcher runs, and in no database');
is(worker('postgres'), '', 'no worker without the extension');

# Extension and settings

$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql('postgres', 'CREATE DATABASE two');

in_time(
	$node, 1, 4,
	'within a second',
	sub {
		$node->safe_psql('one', 'DROP EXTENSION IF EXISTS turn_liveness');
		no_worker('one', 'no worker yet');
		my $start = time;
		$node->safe_psql('one', 'CREATE EXTENSION turn_liveness');
		wait_for_state('one', 'running', 'CREATE EXTENSION starts a worker');
		return time - $start;
	});
$node->safe_psql('two', 'CREATE EXTENSION turn_liveness');
wait_for_state('two', 'running', 'and one in the next database');

my $worker_one = worker('one');
my $worker_two = worker('two');
isnt($worker_one, $worker_two, 'each database has its own');

in_time(
	$node, 2, 8,
	'each within a second',
	sub {
		my $start = time;
		$node->safe_psql('postgres', 'ALTER DATABASE two SET turn_liveness.enabled = off');
		wait_for_state('two', 'disabled', 'ALTER DATABASE ... SET enabled = off stops the worker');
		is( $node->safe_psql('two', 'SELECT worker_problem FROM turn_liveness.stat'),
			'turn_liveness.enabled is off',
			'stat says why');
		$node->safe_psql('postgres', 'ALTER DATABASE two RESET turn_liveness.enabled');
		wait_for_state('two', 'running', 'and RESET starts one again');
		return time - $start;
	});

$node->safe_psql('postgres', 'ALTER DATABASE two SET turn_liveness.sweep = off');
ok( $node->poll_query_until(
		'two',
		"SELECT worker_state = 'running' AND NOT sweep_enabled AND grace ~ 'sweep off' FROM turn_liveness.stat"
	),
	'a running worker takes up sweep = off');
$node->safe_psql('postgres', 'ALTER DATABASE two RESET ALL');
ok( $node->poll_query_until('two', 'SELECT sweep_enabled FROM turn_liveness.stat'),
	'and RESET ALL');

$worker_two = worker('two');
$node->safe_psql('postgres', "ALTER DATABASE two SET work_mem = '5MB'");
$node->safe_psql('postgres', 'BEGIN; ALTER DATABASE two SET turn_liveness.enabled = off; ROLLBACK');
is(worker('two'), $worker_two, 'other settings and what is rolled back do not concern it');

$node->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.enabled = off');
$node->reload;
wait_for_state($_, 'disabled', "enabled = off in the configuration file: $_") for qw(one two);
$node->safe_psql('postgres', 'ALTER SYSTEM RESET turn_liveness.enabled');
$node->reload;
wait_for_state($_, 'running', "and on again: $_") for qw(one two);

$node->safe_psql('two', 'BEGIN; DROP EXTENSION turn_liveness; ROLLBACK');
wait_for_state('two', 'running', 'a DROP EXTENSION that is rolled back changes nothing');
$node->safe_psql('two', 'DROP EXTENSION turn_liveness');
no_worker('two', 'DROP EXTENSION ends the worker');
$node->safe_psql('two', 'BEGIN; CREATE EXTENSION turn_liveness; DROP EXTENSION turn_liveness; CREATE EXTENSION turn_liveness; COMMIT');
wait_for_state('two', 'running', 'CREATE EXTENSION again brings one');

$node->safe_psql('two', 'DROP EXTENSION turn_liveness');
no_worker('two', 'and once more none');
$node->safe_psql('two', "BEGIN; CREATE EXTENSION turn_liveness; PREPARE TRANSACTION 'create'");
$node->safe_psql('two', "COMMIT PREPARED 'create'");
wait_for_state('two', 'running', 'COMMIT PREPARED of CREATE EXTENSION starts a worker');

in_time(
	$node, 2, 8,
	'each within a second',
	sub {
		my $start = time;
		$node->safe_psql('one', "BEGIN; ALTER DATABASE two SET turn_liveness.enabled = off; PREPARE TRANSACTION 'set'");
		isnt(worker('two'), '', 'a prepared ALTER DATABASE ... SET changes nothing yet');
		$node->safe_psql('one', "COMMIT PREPARED 'set'");
		wait_for_state('two', 'disabled', 'its COMMIT PREPARED does');
		$node->safe_psql('one', "BEGIN; ALTER DATABASE two RESET turn_liveness.enabled; PREPARE TRANSACTION 'set'");
		$node->safe_psql('one', "COMMIT PREPARED 'set'");
		wait_for_state('two', 'running', 'either way');
		return time - $start;
	});
$worker_two = worker('two');
$node->safe_psql('one', "BEGIN; ALTER DATABASE two SET turn_liveness.enabled = off; PREPARE TRANSACTION 'set'");
$node->safe_psql('one', "ROLLBACK PREPARED 'set'");
$node->safe_psql('one', "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'set'");
$node->safe_psql('one', "COMMIT PREPARED 'set'");
is(worker('two'), $worker_two, 'one that was rolled back leaves nothing behind under its name');

# A turn that was armed by a prepared transaction, and one that was rolled back

$node->safe_psql('two',
	"BEGIN; SELECT turn_liveness.arm_turn('prepared', 'm1', admission => '300ms', silence => '300ms'); PREPARE TRANSACTION 'arm'");
$node->safe_psql('two', "COMMIT PREPARED 'arm'");
ok( $node->poll_query_until(
		'two', "SELECT count(*) = 1 FROM turn_liveness.replies WHERE deployment = 'prepared' AND error_code = 'WORKER_NEVER_STARTED'"),
	'a turn that COMMIT PREPARED brought is failed in its time');

$node->safe_psql('two', q{
SELECT turn_liveness.arm_turn('undone', 'm1', admission => '1 min', silence => '1 min');
BEGIN;
SELECT turn_liveness.discharge_turn('undone', 'm1');
PREPARE TRANSACTION 'discharge';
CREATE FUNCTION public.tl_advance(interval) RETURNS void
	AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT});
advance($node, '2 min', 'two');
ok( $node->poll_query_until('two', 'SELECT turns_lapsed = 1 FROM turn_liveness.stat'),
	'a lapsed turn that a prepared transaction holds is counted');
$node->safe_psql('two', "ROLLBACK PREPARED 'discharge'");
ok( $node->poll_query_until(
		'two', "SELECT count(*) = 1 FROM turn_liveness.replies WHERE deployment = 'undone' AND outcome = 'error'"),
	'and failed after ROLLBACK PREPARED');

# Never in the way

$worker_one = worker('one');

$node->safe_psql('postgres', 'CREATE DATABASE old');
$node->safe_psql('old', 'CREATE EXTENSION turn_liveness');
wait_for_state('old', 'running', 'a worker runs in the database that is in question');
sql_at_once('ALTER DATABASE old RENAME TO new', 'RENAME');
wait_for_state('new', 'running', 'and the worker is back');
sql_at_once('CREATE DATABASE copy TEMPLATE new', 'CREATE DATABASE ... TEMPLATE');
wait_for_state('new', 'running', 'and the worker is back');
wait_for_state('copy', 'running', 'and the copy has one');

my $space = PostgreSQL::Test::Utils::tempdir;
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$space'");
sql_at_once('ALTER DATABASE new SET TABLESPACE elsewhere', 'SET TABLESPACE');
wait_for_state('new', 'running', 'and the worker is back');
sql_at_once('DROP DATABASE copy', 'DROP DATABASE');
in_time(
	$node, 1, 10,
	'DROP DATABASE hardly waits for the worker',
	sub {
		wait_alone($node);
		$node->safe_psql('postgres', 'CREATE DATABASE brief TEMPLATE new');
		wait_for_state('brief', 'running', 'a worker runs');
		wait_alone($node);
		my $start = time;
		$node->safe_psql('postgres', 'DROP DATABASE brief');
		return time - $start;
	});

is(worker('one'), $worker_one, 'the worker of another database noticed nothing of all this');

# template1 with the extension, and no worker in it

$node->safe_psql('template1', 'CREATE EXTENSION turn_liveness');
sql_at_once('CREATE DATABASE child', 'CREATE DATABASE from template1 with the extension');
wait_for_state('child', 'running', 'and the worker of the new one');
is(worker('template1'), '', 'no worker in a template');
sql_at_once('ALTER DATABASE child IS_TEMPLATE true', 'IS_TEMPLATE');
no_worker('child', 'the worker leaves what becomes a template');
sql_at_once('ALTER DATABASE child IS_TEMPLATE false', 'no template any more');
wait_for_state('child', 'running', 'and comes back');
sql_at_once('ALTER DATABASE child ALLOW_CONNECTIONS false', 'ALLOW_CONNECTIONS false');
no_worker('child', 'the worker leaves what allows no connections');
sql_at_once('DROP DATABASE child', 'DROP DATABASE of it');
$node->safe_psql('template1', 'DROP EXTENSION turn_liveness');

# A role that may not, and a command that fails, do not touch the worker

$node->safe_psql('postgres', 'CREATE ROLE nobody_special LOGIN; CREATE ROLE creator LOGIN CREATEDB');
wait_for_state('new', 'running', 'a worker runs');
my $before = worker('new');
for my $command (
	'DROP DATABASE new',
	'ALTER DATABASE new RENAME TO old',
	'ALTER DATABASE new SET TABLESPACE pg_default',
	'CREATE DATABASE copy TEMPLATE new')
{
	for my $role ('nobody_special', 'creator')
	{
		my ($result, $stdout, $stderr) =
		  $node->psql('postgres', $command, extra_params => [ '-U', $role ]);
		isnt($result, 0, "$role may not: $command");
	}
	next if $command =~ /RENAME/;
	isnt($node->psql('postgres', "BEGIN; $command"), 0, "not in a transaction block: $command");
}
is(worker('new'), $before, 'and none of this ended the worker');

# An owner that is no superuser may

$node->safe_psql('postgres', 'ALTER DATABASE new OWNER TO creator');
is($node->psql('postgres', 'ALTER DATABASE new RENAME TO old; ALTER DATABASE old RENAME TO new',
		extra_params => [ '-U', 'creator' ]),
	0, 'the owner of a database renames it');
wait_for_state('new', 'running', 'and the worker is back');

# A session that stays in the database: the command fails, the worker is back

my $guest = $node->background_psql('new');
$guest->query_safe('SELECT 1');
isnt($node->psql('postgres', "SET statement_timeout = '1s'; ALTER DATABASE new RENAME TO old"),
	0, 'a session in the database blocks RENAME');
wait_for_state('new', 'running', 'the worker is back after the error');

my $dropper = $node->background_psql('postgres', on_error_stop => 0);
my $dropper_pid = $dropper->query_safe('SELECT pg_backend_pid()');
$before = worker('new');
# each gives up after five seconds, and this test may look late
$dropper->{stdin} .= "DROP DATABASE new;\n" x 30;
$dropper->{run}->pump_nb();
ok( wait_until('no worker',
		sub { $guest->query_safe("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND datname = 'new'") eq 't' }),
	'a DROP DATABASE that waits keeps the worker out');
ok(wait_until('the reason', sub { $guest->query_safe('SELECT worker_problem FROM turn_liveness.stat') =~ /without connections/ }), 'stat says why');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($dropper_pid)");
wait_for_state('new', 'running', 'the worker is back after the session was terminated');
eval { $dropper->quit };
$guest->quit;
sql_at_once('DROP DATABASE new', 'DROP DATABASE with nobody in it');
$node->safe_psql('postgres', 'DROP TABLESPACE elsewhere');

# In a transaction block: RENAME is allowed there

$node->safe_psql('postgres', 'BEGIN; ALTER DATABASE two RENAME TO three; ALTER DATABASE three RENAME TO two; COMMIT');
wait_for_state('two', 'running', 'the worker is back after a RENAME in a transaction block');

# Whatever is done to our processes

in_time(
	$node, 1, 4,
	'at once',
	sub {
		$worker_one = worker('one');
		my $start = time;
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker_one)");
		wait_for_worker('one', $worker_one, 'a terminated worker is replaced');
		return time - $start;
	});

$worker_one = worker('one');
my $launcher =
  $node->safe_psql('one', 'SELECT launcher_pid FROM turn_liveness.stat');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok( $node->poll_query_until('one', "SELECT launcher_pid <> $launcher FROM turn_liveness.stat"),
	'a terminated launcher is replaced');
is(worker('one'), $worker_one, 'its workers stay');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker_one)");
wait_for_worker('one', $worker_one, 'and are replaced by the new launcher');
is( $node->safe_psql('postgres',
		"SELECT max(n) FROM (SELECT count(*) AS n FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' GROUP BY datid) s"),
	'1',
	'never two in a database');

# Limits that a DBA sets for sessions are nothing to the worker, which waits here for a lock

my @limits = qw(statement_timeout lock_timeout idle_in_transaction_session_timeout);
push @limits, 'transaction_timeout' if $node->pg_version >= 17;
$node->safe_psql('postgres', "ALTER DATABASE one SET $_ = '200ms'") foreach @limits;
$worker_one = worker('one');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker_one)");
wait_for_worker('one', $worker_one, 'a worker with limits for sessions');
$worker_one = worker('one');
my $log_start = -s $node->logfile;
my $holder;
{
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_=0" } @limits;
	$holder = $node->background_psql('one');
	# the lock is there before the turn lapses
	$holder->query_safe('BEGIN; LOCK TABLE turn_liveness.reply IN SHARE MODE');
	$node->safe_psql('one', "SELECT turn_liveness.arm_turn('limits', 'm', admission => '100ms', silence => '100ms')");
}
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $worker_one AND wait_event_type = 'Lock' AND xact_start < now() - interval '1 s'"
	),
	'it waits longer than any of them allows');
$holder->query_safe('COMMIT');
ok( $node->poll_query_until(
		'one', "SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'limits'"),
	'and goes on');
is(worker('one'), $worker_one, 'the same one');
# (calls of ours in that database have the limits, too, and may reach them)
unlike(slurp_file($node->logfile, $log_start), qr/\[$worker_one\][^\n]*(?:timeout|ERROR|FATAL)/, 'without an error');
$holder->quit;
$node->safe_psql('postgres', 'ALTER DATABASE one RESET ALL');
wait_for_state('one', 'running', 'without limits again');

# DROP EXTENSION while sessions arm, beat, answer and read, and the worker sweeps

my $script = $node->basedir . '/load.sql';
append_to_file($script, q{
\set n random(1, 100000)
DO $$
BEGIN
	PERFORM turn_liveness.arm_turn('d' || :n, 'm', admission => '50ms', silence => '50ms');
	PERFORM turn_liveness.heartbeat('d' || :n);
	PERFORM turn_liveness.commit_terminal_reply('d' || (:n / 2), '{m}', '{}');
	PERFORM count(*) FROM (SELECT 1 FROM turn_liveness.replies LIMIT 10) s;
	PERFORM turn_liveness.claim_replies('gw', platforms => '{api}', max_replies => 5);
EXCEPTION
	WHEN invalid_schema_name OR undefined_table OR undefined_function OR undefined_object
		OR object_not_in_prerequisite_state OR internal_error OR deadlock_detected THEN
		NULL;
END
$$;
});
my ($out, $err) = ('', '');
my $load = IPC::Run::start(
	[ 'pgbench', '-n', '-c', '8', '-j', '2', '-T', '3600', '-f', $script, $node->connstr('one') ],
	'<', \undef, '>', \$out, '2>', \$err);
for my $round (1 .. 10)
{
	$node->poll_query_until('one', 'SELECT coalesce(sum(armed), 0) > 20 FROM turn_liveness.stat')
	  if $round % 2;
	my $stderr;
	foreach my $try (1 .. 2)
	{
		# a vacuum of pg_depend may have changed the order of its locks: once more, then
		(undef, undef, $stderr) = $node->psql('one', 'DROP EXTENSION turn_liveness');
		last if $stderr !~ /deadlock detected/;
	}
	is($stderr, '', "DROP EXTENSION under load, round $round");
	$node->safe_psql('one', 'CREATE EXTENSION turn_liveness');
}
# not INT: a shell that runs us in the background may have it ignored
kill 'TERM', $load->{KIDS}[0]{PID};
$load->finish;
$node->safe_psql('one', 'ALTER EXTENSION turn_liveness UPDATE');
wait_for_state('one', 'running', 'and a worker runs in the end');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 11|signal 6/, 'nothing crashed');

# Statistics

is( $node->safe_psql('two', 'SELECT armed > 0, failed_never_started, worker_starts > 0 FROM turn_liveness.stat'),
	't|2|t', 'counters count');
is( $node->safe_psql('two', 'SELECT turn_liveness.stat_reset(); SELECT armed, stats_reset > now() - interval \'1 hour\' FROM turn_liveness.stat'),
	"\n0|t", 'stat_reset');
$node->safe_psql('two', "SELECT turn_liveness.arm_turn('gauge', 'm1', admission => '3 h', silence => '3 h')");
is( $node->safe_psql('two',
		"SELECT turns_owed, turns_lapsed, next_deadline BETWEEN now() + '2 h' AND now() + '3 h', oldest_due_age > '0s', armed FROM turn_liveness.stat"),
	'1|0|t|t|1', 'gauges');

# A start of the server: it is found out which databases have the extension

$node->safe_psql('postgres', "CREATE DATABASE empty$_") for 1 .. 4;
# so long stat shows the grace
$node->append_conf('postgresql.conf', "turn_liveness.turn_deadline = '10 min'");
$node->restart;
wait_for_state($_, 'running', "after a restart a worker runs in $_") for qw(one two);
is(worker('empty4'), '', 'and none in a database without the extension');
ok( $node->poll_query_until('two', "SELECT grace ~ 'server start' AND grace_until > now() FROM turn_liveness.stat"),
	'stat shows the grace');
$node->stop('immediate');
$node->start;
wait_for_state($_, 'running', "after a crash a worker runs in $_") for qw(one two);

# A standby: the views read, nothing runs; at its promotion a worker comes

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is( $standby->safe_psql('two', 'SELECT worker_state, worker_problem, turns_owed FROM turn_liveness.stat'),
	'none|the server is a standby|1', 'stat on a standby');
is( $standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'turn_liveness%'"),
	'0', 'none of our processes runs on a standby');
$standby->promote;
ok($standby->poll_query_until('two', "SELECT worker_state = 'running' FROM turn_liveness.stat"),
	'a worker runs after the promotion');
$standby->stop;

# No background worker is free: one slot for us besides the launchers

$node->safe_psql('postgres', 'ALTER DATABASE one SET turn_liveness.enabled = off');
wait_for_state('one', 'disabled', 'one database does without');
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$log_start = -s $node->logfile;
$node->restart;
wait_for_state('two', 'running', 'the other has the only worker');
$node->safe_psql('postgres', 'ALTER DATABASE one RESET turn_liveness.enabled');
wait_for_state('one', 'no slot', 'now there is none left');
like($node->safe_psql('one', 'SELECT worker_problem FROM turn_liveness.stat'),
	qr/max_worker_processes/, 'stat says what to do');
$node->safe_psql('one', "SELECT turn_liveness.arm_turn('slotless', 'm1', admission => '1ms', silence => '1ms')");
ok( $node->poll_query_until('one',
		"SELECT turn_liveness.sweep_expired_turns() > 0 OR EXISTS (SELECT FROM turn_liveness.replies WHERE deployment = 'slotless')"),
	'sweep_expired_turns() serves');
# (it tells of a want that has lasted)
my $told = qr/out of background worker slots: no turn_liveness worker for database "one"/;
$node->wait_for_log($told, $log_start);
is(scalar(() = slurp_file($node->logfile, $log_start) =~ /$told/g), 1, 'one line in the log, which names the database');
$node->safe_psql('postgres', 'ALTER DATABASE two SET turn_liveness.enabled = off');
wait_for_state('one', 'running', 'what a worker leaves free is used');
like($node->safe_psql('two', 'SELECT worker_problem FROM turn_liveness.stat'),
	qr/enabled is off/, 'and stat says why there is none any more');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 11|signal 6/, 'nothing crashed at all');

done_testing();
