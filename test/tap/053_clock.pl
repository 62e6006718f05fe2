# The liveness clock where what it rests on is rolled back, or the server dies
# before any of it was written: nobody's time is moved under him.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node('main', '', extension => 0);
my $hours = "admission => '3 h', silence => '3 h', duration => '3 h'";
my $written = 'SELECT count(*) FROM turn_liveness.clock WHERE server <> 0';

# A database with the extension and, if asked for, with a worker; more is done in
# the transaction that makes the extension.
sub database
{
	my ($db, $worker, $more) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql('postgres', "ALTER DATABASE $db SET turn_liveness.enabled = off") unless $worker;
	$node->safe_psql($db, join ';', 'BEGIN', 'CREATE EXTENSION turn_liveness', $more // (), 'COMMIT');
	wait_worker($node, $db) if $worker;
	return;
}

# What a restore brings: the time of another home, a month on.
my $restored = 'INSERT INTO turn_liveness.clock VALUES (12345, 30 * 86400000000, 0, 1, 0, 0)';

sub restored_time
{
	my ($db) = @_;
	$node->safe_psql($db, $restored);
	return;
}

# Whoever was armed here lives, by a clock that is his.
sub lives
{
	my ($db, $what) = @_;
	is($node->safe_psql($db, 'SELECT state, turn_liveness.clock_us() < 86400 * 1000000::bigint FROM turn_liveness.turns'),
		'waiting|t', "$what: the turn lives, by its own clock");
	return;
}

# --- an arm, and a crash before anybody wrote the time

database($_, 0) foreach qw(crash sweep again);
my $arm = "BEGIN; SELECT turn_liveness.arm_turn('d', 'm', $hours); PREPARE TRANSACTION 'early'; COMMIT PREPARED 'early'";
$node->safe_psql('crash', $arm);
is($node->safe_psql('crash', $written), '0', 'the time was not written');
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', 'ALTER DATABASE crash RESET turn_liveness.enabled');
wait_worker($node, 'crash');
ok($node->poll_query_until('crash', $written, '1'), 'after a crash it is, as there is a turn');
restored_time('crash');
lives('crash', 'after a crash');

# --- a sweep that writes the time, and is rolled back

is($node->safe_psql('sweep', qq{
$arm;
BEGIN;
SELECT turn_liveness.sweep_expired_turns();
$written;
SELECT turn_liveness.clock_us() > 0;
ROLLBACK;
$written;
SELECT turn_liveness.sweep_expired_turns();
$written;
}), "armed\n0\n1\nt\n0\n0\n1", 'the next sweep writes it');
restored_time('sweep');
lives('sweep', 'after the rollback of a sweep');

# --- an arm, a restore and a start of the server, and nobody who sweeps

database('nobody', 0);
$node->safe_psql('nobody', "SELECT turn_liveness.arm_turn('d', 'm', $hours)");
restored_time('nobody');
$node->restart;
lives('nobody', 'restored and started before anybody swept');
is($node->safe_psql('nobody', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'and the first sweep fails nobody');
lives('nobody', 'the same after a sweep');

# --- another extension in this database, which never was

is($node->safe_psql('again', qq{
SELECT turn_liveness.arm_turn('d', 'm', $hours);
SELECT turn_liveness.heartbeat('d');
SELECT turn_liveness.clock_us() AS before \\gset
BEGIN;
DROP EXTENSION turn_liveness;
CREATE EXTENSION turn_liveness;
SELECT turn_liveness.arm_turn('d', 'm2', $hours);
ROLLBACK;
SELECT turn_liveness.clock_us() > :before;
SELECT state FROM turn_liveness.turns;
}), "armed\n1\narmed\nt\nrunning", 'a rolled-back CREATE EXTENSION takes neither time nor beats from the one that is there');

# --- one that is armed in the transaction that makes the extension, while a worker still ticks for the last one

database('anew', 1);
my $worker = worker_pid($node, 'anew');
$node->safe_psql('anew', qq{
BEGIN;
DROP EXTENSION turn_liveness;
CREATE EXTENSION turn_liveness;
SELECT turn_liveness.arm_turn('d', 'm', $hours);
COMMIT});
wait_worker($node, 'anew', $worker);
is($node->safe_psql('anew', 'SELECT armed_us <= turn_liveness.clock_us() FROM turn_liveness.turn'), 't',
	'armed with the extension: not in the time of another clock');
ok($node->poll_query_until('anew', $written, '1'), 'armed with the extension: the time is written');
restored_time('anew');
lives('anew', 'armed with the extension');

# ... and before anybody has started its clock

database('unstarted', 0, "SELECT turn_liveness.arm_turn('d', 'm', $hours)");
restored_time('unstarted');
lives('unstarted', 'armed with the extension, a restore before its clock starts');
is($node->safe_psql('unstarted', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'and a sweep fails nobody');
lives('unstarted', 'the same after a sweep');

database('inside', 0, "SELECT turn_liveness.arm_turn('d', 'm', $hours); $restored");
lives('inside', 'armed with the extension, a restore in the same transaction');
is($node->safe_psql('inside', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'and a sweep fails nobody there');

# --- a restore while a transaction that arms is open

foreach my $worker (0, 1)
{
	foreach my $commit ('COMMIT', "PREPARE TRANSACTION 'open'; COMMIT PREPARED 'open'")
	{
		my $db = "open$worker" . ($commit =~ /PREPARE/ ? 'prepared' : '');
		database($db, $worker);
		my $open = session($node, $db);
		$open->query_safe("BEGIN; SELECT turn_liveness.arm_turn('d', 'm', $hours); SELECT turn_liveness.arm_turn('e', 'm', $hours), turn_liveness.mark_provider_failed('e', 'X', 'x')");
		restored_time($db);
		$open->query_safe($commit);
		$open->quit;
		is($node->safe_psql($db, 'SELECT turn_liveness.sweep_expired_turns()'), '0', "a restore while an arm is open, $commit: a sweep fails nobody");
		is($node->safe_psql($db, 'SELECT deployment, state, turn_liveness.clock_us() > 30 * 86400 * 1000000::bigint FROM turn_liveness.turns ORDER BY 1'),
			"d|waiting|t\ne|withheld|t", 'they live by the clock of the restore');
	}
}

# --- the extension goes in the transaction that arms

$node->safe_psql('inside', qq{
BEGIN;
SELECT turn_liveness.arm_turn('d', 'm2', $hours);
DROP EXTENSION turn_liveness;
COMMIT;
CREATE EXTENSION turn_liveness;
BEGIN;
SELECT turn_liveness.arm_turn('d', 'm3', $hours);
DROP EXTENSION turn_liveness;
CREATE EXTENSION turn_liveness;
PREPARE TRANSACTION 'anew';
ROLLBACK PREPARED 'anew'});
is($node->safe_psql('inside', 'SELECT count(*) FROM turn_liveness.turn'), '0', 'an extension that goes takes what the transaction armed along');

# --- a prepared arm

database('prepared', 1);
$node->safe_psql('prepared', "BEGIN; SELECT turn_liveness.arm_turn('d', 'm', $hours); PREPARE TRANSACTION 'arm'");
ok($node->poll_query_until('prepared', $written, '1'), 'a prepared arm: the time is written');
restored_time('prepared');
$node->safe_psql('prepared', "COMMIT PREPARED 'arm'");
lives('prepared', 'a prepared arm');

$node->stop;

# --- without preload, where the rows are the clock

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;
database('rows', 0);
$node->safe_psql('rows', $arm);
is($node->safe_psql('rows', $written), '0', 'without preload: a prepared arm does not write the time');
$node->safe_psql('rows', 'SELECT turn_liveness.sweep_expired_turns()');
is($node->safe_psql('rows', $written), '1', 'a sweep does');
restored_time('rows');
lives('rows', 'without preload');
is($node->safe_psql('rows', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'without preload: a sweep fails nobody');
lives('rows', 'without preload, after a sweep');
$node->restart;
lives('rows', 'without preload, after a start');

database('unswept', 0);
$node->safe_psql('unswept', "SELECT turn_liveness.arm_turn('d', 'm', $hours)");
restored_time('unswept');
lives('unswept', 'without preload, restored before anybody swept');
is($node->safe_psql('unswept', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'without preload: the first sweep fails nobody');
lives('unswept', 'without preload, after the first sweep');

database('within', 0);
$node->safe_psql('within', "BEGIN; SELECT turn_liveness.arm_turn('d', 'm', $hours); $restored; COMMIT");
is($node->safe_psql('within', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'without preload, a restore in the transaction that arms: a sweep fails nobody');
is($node->safe_psql('within', 'SELECT state FROM turn_liveness.turns'), 'waiting', 'and the turn lives');

# who may write the row does not wait for whoever has locked the table
database('locked', 0);
my $lock = session($node, 'locked');
$lock->query_safe('BEGIN; LOCK TABLE turn_liveness.clock IN SHARE MODE');
is($node->safe_psql('locked', "SET lock_timeout = '10 s'; SELECT turn_liveness.arm_turn('d', 'm', $hours)"), 'armed', 'an arm does not wait for a lock on the clock');
is($node->safe_psql('locked', $written), '0', 'which it could not write');
$lock->query_safe('COMMIT');
$lock->quit;
$node->safe_psql('locked', "SELECT turn_liveness.arm_turn('d', 'm2', $hours)");
is($node->safe_psql('locked', $written), '1', 'the next one does');

# sweep is on again: two who sweep at once, one of whom writes that down and rolls back
my $sweep = 'SELECT turn_liveness.sweep_expired_turns()';
$node->safe_psql('rows', qq{
CREATE FUNCTION public.tl_advance(interval) RETURNS void AS '\$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT;
SELECT turn_liveness.arm_turn('e', 'm', admission => '1 s', silence => '30 s');
SET turn_liveness.sweep = off;
$sweep;
SELECT public.tl_advance('10 s')});
my $first = session($node, 'rows');
is($first->query_safe('BEGIN; SELECT turn_liveness.sweep_expired_turns(0)'), '0', 'without preload: sweep is on again');
is($node->safe_psql('rows', "SET statement_timeout = '20s'; $sweep"), '0', 'who sweeps at the same time knows');
$first->query_safe('ROLLBACK');
$first->quit;
is($node->safe_psql('rows', "$sweep; SELECT public.tl_advance('29 s'); $sweep"), "0\n\n0", 'each turn has one turn deadline, from the first who wrote it');
is($node->safe_psql('rows', "SELECT public.tl_advance('2 s'); $sweep"), "\n1", 'and not more');

$node->stop;
done_testing();
