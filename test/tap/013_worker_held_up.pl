# What holds the worker up for a while: slow rows, a locked table, a lock that
# outlives its session. It goes on as before, and it hears what stops it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node('main');

# The late reply of a database in which nothing was ever armed: see the end.
$node->safe_psql('postgres', 'CREATE DATABASE unarmed');
add_extension($node, 'unarmed');
$node->safe_psql('unarmed', q{SELECT turn_liveness.commit_terminal_reply('d', '{m}', '{}')});
is($node->safe_psql('unarmed', 'SELECT verdict FROM turn_liveness.late_replies'),
	'unknown', 'a reply that belongs to nothing is kept');

# An index that a superuser made takes a fifth of a second for some rows.
$node->safe_psql(
	'postgres', q{
CREATE FUNCTION public.slow(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF $1 LIKE 'slow%' THEN PERFORM pg_sleep(0.2); END IF;
	RETURN $1;
END $$;
CREATE INDEX slow ON turn_liveness.reply (public.slow(deployment))});

sub arm_slow
{
	my ($message, $n) = @_;
	$node->safe_psql('postgres',
		"SELECT turn_liveness.arm_turn('slow' || i, '$message', admission => '300ms')"
		  . " FROM generate_series(1, $n) i");
	return;
}

# --- work is no pause: after one, each turn would get another turn deadline

my $grace;
for my $try (1 .. 10)
{
	advance($node, '61s');
	arm_slow("batch$try", 12);
	$node->poll_query_until('postgres',
		"SELECT count(*) = 12 FROM turn_liveness.reply WHERE message_ids = '{batch$try}'")
	  or die 'the slow turns do not fail';
	$grace = $node->safe_psql('postgres', 'SELECT grace FROM turn_liveness.stat');
	# a machine that is busy with other things may have made a real one
	last if $grace !~ /pause/;
}
unlike($grace, qr/pause/, 'a sweep that takes long is no pause');

# --- sweep = off is heard in the midst of a storm of lapses

# The index waits for us at the second row, and for nothing else.
$node->safe_psql('postgres', q{
CREATE SEQUENCE public.rows_failed;
CREATE OR REPLACE FUNCTION public.slow(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF $1 LIKE 'slow%' AND nextval('public.rows_failed') = 2 THEN
		PERFORM pg_advisory_lock(12);
		PERFORM pg_advisory_unlock(12);
	END IF;
	RETURN $1;
END $$});
my $locker = session($node);
my $pid = worker_pid($node);
$locker->query_safe('SELECT pg_advisory_lock(12)');
arm_slow('storm', 1000);
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND pid = $pid")
  or die 'the storm does not begin';
$node->append_conf('postgresql.conf', 'turn_liveness.sweep = off');
$node->reload;
# a session that begins now has it, so the worker was told, too
$node->poll_query_until('postgres', q{SELECT current_setting('turn_liveness.sweep') = 'off'}) or die 'the setting does not arrive';
$locker->query_safe('SELECT pg_advisory_unlock(12)');
ok($node->poll_query_until('postgres', 'SELECT NOT sweep_enabled FROM turn_liveness.stat'),
	'the worker sees that sweep is off');
cmp_ok(owed($node), '>', 500, 'while most turns are still owed');
$node->safe_psql('postgres',
	"SELECT turn_liveness.fail_deployment(deployment) FROM turn_liveness.turns; DROP INDEX turn_liveness.slow");
$node->append_conf('postgresql.conf', 'turn_liveness.sweep = on');
$node->reload;

# --- the wait for a locked table says nothing about how long a look takes

sub prepared
{
	my ($name, $sql) = @_;
	$node->safe_psql('postgres', "BEGIN; $sql; PREPARE TRANSACTION '$name'");
	return;
}

# nothing but the look itself is left to do
prepared('first', q{SELECT turn_liveness.arm_turn('first', 'm', admission => '300ms')});
$node->safe_psql('postgres', q{COMMIT PREPARED 'first'});
is(wait_ended($node, 'first', 'm'), 'WORKER_NEVER_STARTED sweep', 'a prepared arm is found');
my $problem = q{SELECT coalesce(worker_problem, '') FROM turn_liveness.stat_row()};
my $looks;
for my $try (1 .. 10)
{
	prepared('unrelated', 'SELECT txid_current()');
	$locker->query_safe('BEGIN; LOCK TABLE turn_liveness.turn');
	$node->safe_psql('postgres', q{COMMIT PREPARED 'unrelated'});	# the worker looks at all rows
	wait_until('the worker finds the table locked', sub { $node->safe_psql('postgres', $problem) ne '' })
	  or die 'the worker does not find the table locked';
	last if $looks = $node->safe_psql('postgres', $problem) =~ /"looking at the /;
	# stat tells of the first step that is held up: retention was faster, which comes every ten seconds
	$locker->query_safe('COMMIT');
	wait_until('the worker goes on', sub { $node->safe_psql('postgres', $problem) eq '' });
}
ok($looks, 'the worker finds the table locked');
# it tries again each second; a look that took so long would be the last one for 400 s
wall_clock_passes(4);
$locker->query_safe('COMMIT');
$locker->quit;
prepared('arm', q{SELECT turn_liveness.arm_turn('prepared', 'm', admission => '300ms')});
$node->safe_psql('postgres', q{COMMIT PREPARED 'arm'});
is(wait_ended($node, 'prepared', 'm'), 'WORKER_NEVER_STARTED sweep',
	'the next one is found as soon');

# --- the late reply: the worker looks every ten seconds

$node->append_conf('postgresql.conf', "turn_liveness.retention = '1s'");
$node->reload;
ok($node->poll_query_until('unarmed', 'SELECT count(*) = 0 FROM turn_liveness.late_replies'),
	'retention ends what came where nothing was armed');

# --- mail that comes while it fails a batch is not lost

# They have a rescue window, so that their rows say when they were armed and when they lapsed,
# both on the liveness clock. That clock goes on by two seconds at most from one tick of the
# worker to the next, and a worker that has its mail is through with it after a few ticks: on a
# busy machine, too. Lost mail is found by a look at everything, a minute after the last one.
no_pauses($node);
my $at_a_batch = 0;
for my $try (1 .. 10)
{
	# now the look that no flag asked for has been
	advance($node, '61s');
	# a turn that it has failed since: it is through with what it does besides
	$node->safe_psql('postgres', "SELECT turn_liveness.arm_turn('before', '$try', admission => '1ms')");
	wait_ended($node, 'before', $try);
	$locker = session($node);
	$locker->query_safe('BEGIN; LOCK TABLE turn_liveness.reply');
	$node->safe_psql('postgres', "SELECT turn_liveness.arm_turn('batch', '$try ' || i, admission => '300ms') FROM generate_series(1, 5) i");
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND pid = $pid")
	  or die 'the worker does not wait for the table of replies';
	$at_a_batch = $node->safe_psql('postgres', "SELECT query FROM pg_stat_activity WHERE pid = $pid") eq 'failing lapsed turns';
	# more than a quarter of the mailbox, and less than a letter may be
	$node->safe_psql('postgres',
		"SELECT turn_liveness.arm_turn('mail$try ' || i, 'm', admission => '300ms', rescue => '1h') FROM generate_series(1, 150) i");
	$locker->query_safe('COMMIT');
	$locker->quit;
	ok($node->poll_query_until('postgres', "SELECT count(*) = 150 FROM turn_liveness.turn WHERE deployment LIKE 'mail$try %' AND lapsed IS NOT NULL"),
		'what came meanwhile has lapsed');
	cmp_ok($node->safe_psql('postgres', "SELECT extract(epoch FROM max(lapsed - armed)) FROM turn_liveness.turn WHERE deployment LIKE 'mail$try %'"),
		'<', 15, 'and was not found by a look at everything');
	# else retention was faster
	last if $at_a_batch;
}
ok($at_a_batch, 'the worker was at a batch');

# --- a shutdown does not wait for a lock that a prepared transaction holds

# all that it can put off it puts off, but not a turn that has lapsed
$node->safe_psql('postgres', q{SELECT turn_liveness.arm_turn('held', 'm', admission => '30s')});
prepared('forever', 'LOCK TABLE turn_liveness.turn, turn_liveness.late_reply IN ACCESS EXCLUSIVE MODE');
advance($node, '61s');
$node->poll_query_until('unarmed', "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND pid = $pid")
  or die 'the worker does not wait for the table';
command_ok([ 'pg_ctl', 'stop', '-m', 'fast', '-t', '180', '-D', $node->data_dir ],
	'the server stops though its worker waits for a lock');
$node->_update_pid(0);

# --- nor for a standby that is gone

$node->append_conf('postgresql.conf', "wal_level = replica\nmax_wal_senders = 1\nsynchronous_standby_names = 'gone'");
$node->start;
$node->safe_psql('postgres', q{SET synchronous_commit = local; ROLLBACK PREPARED 'forever'; SELECT turn_liveness.arm_turn('standby', 'm')});
ok($node->poll_query_until('postgres',
		q{SELECT wait_event = 'Extension' FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND datname = 'postgres'}),
	'the worker waits for nothing but the next deadline');
command_ok([ 'pg_ctl', 'stop', '-m', 'fast', '-t', '180', '-D', $node->data_dir ],
	'the server stops though no standby will confirm a commit');
$node->_update_pid(0);

# --- a server that is to accept nothing does so while its worker starts

# The worker looks at all owed turns before its first round.
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->start;
$node->safe_psql('postgres', q{SELECT count(turn_liveness.arm_turn('many' || n, 'm', admission => '1 h')) FROM generate_series(1, 40000) n});
$node->append_conf('postgresql.conf', 'turn_liveness.accept = off');
$node->restart;
my ($rc, $out, $err) = $node->psql('postgres', q{
DO $$
DECLARE
	accepted integer := 0;
BEGIN
	WHILE (SELECT worker_state <> 'running' FROM turn_liveness.stat_row()) LOOP
		BEGIN
			PERFORM turn_liveness.ack_replies('g', '{1}');
			accepted := accepted + 1;
		EXCEPTION WHEN object_not_in_prerequisite_state THEN
			NULL;
		END;
	END LOOP;
	RAISE NOTICE 'accepted %', accepted;
END $$});
is($err =~ /NOTICE:  accepted (\d+)/ ? $1 : $err, 0, 'accept = off, from the first call to the first round of the worker');
$node->stop;

done_testing();
