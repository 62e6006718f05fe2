# Deployments that are tied to sessions, through the life of the server: a
# shutdown is no death, and a death finds its worker and its place.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Attached;
use TurnLiveness;

my $node = new_node(
	'main', q{
turn_liveness.reconnect_window = 0
autovacuum = off
});
attach_on($node);

# --- a shutdown is no death; neither is a restart of the worker or a crash

foreach my $mode ('fast', 'immediate')
{
	my $session = attached("shutdown-$mode");
	arm_long("shutdown-$mode");
	$node->stop($mode);
	eval { $session->quit };
	$node->start;
	wait_worker($node);
	settle();
	is_owed("shutdown-$mode", 'm', "$mode shutdown: no death");
	is($node->safe_psql('postgres', "SELECT turn_liveness.heartbeat('shutdown-$mode')"), 1, "$mode shutdown: it beats on");
}

my $session = attached('worker');
arm_long('worker');
my $worker = worker_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
wait_worker($node, 'postgres', $worker);
settle();
is_owed('worker', 'm', 'a restart of our worker is no death');
$worker = worker_pid($node);
kill 'STOP', $worker;
kill_client($session);
kill 'CONT', $worker;
is(wait_ended($node, 'worker', 'm'), 'WORKER_DIED session', 'a death while it could not look is seen');

$session = attached('while-away');
arm_long('while-away');
$worker = worker_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
kill_client($session);
is(wait_ended($node, 'while-away', 'm'), 'WORKER_DIED session', 'a death while there was no worker is seen');

is($node->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) x'),
	0, 'nothing was answered twice');

# --- a pause: no session can come back in it, so the window begins anew

$node->append_conf('postgresql.conf', q{turn_liveness.reconnect_window = '1 s'});
$node->restart;
wait_worker($node);
$session = attached('paused');
arm_long('paused');
$worker = worker_pid($node);
worker_looked($node);
kill 'STOP', $worker;
kill_client($session);
ok($node->poll_query_until('postgres', q{SELECT tick_age > '3 s' FROM turn_liveness.stat_row()}), 'a pause: the clock stands');
my $resumed = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
kill 'CONT', $worker;
is(wait_ended($node, 'paused', 'm'), 'WORKER_DIED session', 'a pause: the death is seen');
is($node->safe_psql('postgres', "SELECT created_at >= '$resumed'::timestamptz + '1 s' FROM turn_liveness.reply WHERE deployment = 'paused'"),
	't', 'a pause: when a whole window has passed after it');
$node->append_conf('postgresql.conf', 'turn_liveness.reconnect_window = 0');

# --- no room: an error for the session that comes then, and nothing else

$node->append_conf('postgresql.conf', 'turn_liveness.attach_capacity = 16');
$node->restart;
wait_worker($node);
$node->safe_psql('postgres', q{
ALTER DATABASE postgres SET turn_liveness.reconnect_window = '1h';
CREATE FUNCTION attach_many(OUT attached int, OUT refused int) LANGUAGE plpgsql AS $$
BEGIN
	attached := 0;
	refused := 0;
	FOR i IN 1 .. 20000 LOOP
		BEGIN
			PERFORM turn_liveness.attach_worker('greedy' || i);
			attached := attached + 1;
		EXCEPTION WHEN configuration_limit_exceeded THEN
			refused := refused + 1;
		END;
	END LOOP;
END $$;
});
wait_worker($node);
arm_long('greedy1');
my $greedy = session($node);
is($greedy->query_safe('SELECT * FROM attach_many()'), '4|19996', 'a session gets a quarter of what there is');
my @others = map { session($node) } 1 .. 3;
foreach my $n (1 .. 3)
{
	is($others[ $n - 1 ]->query_safe("SELECT count(turn_liveness.attach_worker('other$n-' || i)) FROM generate_series(1, 4) i"), 4, "so does session $n");
}
is($greedy->query_safe("SELECT turn_liveness.attach_worker('greedy1') = pg_backend_pid()"), 't', 'and keeps it');

my ($rc, $out, $err) = $node->psql('postgres', '\set VERBOSITY verbose
SELECT turn_liveness.attach_worker(\'other\')');
like($err, qr/53400.*HINT: .*"turn_liveness.attach_capacity"/s, 'others are refused, and told why');
is($node->safe_psql('postgres', "SELECT turn_liveness.attach_worker('greedy1') IS NULL, turn_liveness.detach_worker('greedy1')"),
	'f|t', 'what is held already can be held by others too');
is($node->safe_psql('postgres', "SELECT turn_liveness.heartbeat('greedy1')"), 1, 'beats go on');

is($greedy->query_safe("SELECT turn_liveness.detach_worker('greedy4')"), 't', 'one is given back');
$session = attached('other');
my $pid = backend_pid($greedy);
kill_client($greedy);
wait_gone($pid);
isnt($node->psql('postgres', "SELECT turn_liveness.attach_worker('another')"), 0, 'a death that is still looked at keeps its place');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.reconnect_window');
is(wait_ended($node, 'greedy1', 'm'), 'WORKER_DIED session', 'until the worker has dealt with it');
ok($node->poll_query_until('postgres', "SELECT turn_liveness.attach_worker('another') > 0"), 'then there is room');

# one from before the sweep was on again waits for a turn deadline, and gives its place up before
$node->poll_query_until('postgres', 'SELECT attach_used = 13 FROM turn_liveness.stat') or die 'another one has room';
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.sweep = off');
$node->poll_query_until('postgres', 'SELECT NOT sweep_enabled FROM turn_liveness.stat') or die 'the sweep is not off';
my $held = session($node);
$pid = backend_pid($held);
foreach my $n (1 .. 3)
{
	arm_long("held$n");
	$held->query_safe("SELECT turn_liveness.attach_worker('held$n')");
}
kill_client($held);
wait_gone($pid);
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.sweep');
$node->poll_query_until('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat') or die 'the sweep is not on';
worker_looked($node);
is($node->safe_psql('postgres', q{SELECT attach_used, (SELECT count(turn_liveness.attach_worker('after' || i)) FROM generate_series(1, 3) i) FROM turn_liveness.stat}),
	'16|3', 'deaths from before the sweep was on again keep no session out');
$node->safe_psql('postgres', q{SELECT turn_liveness.discharge_turn('held' || i, 'm') FROM generate_series(1, 3) i});

# --- a death with a turn that cannot be failed keeps its own place, and no other

$node->safe_psql('postgres', q{
CREATE FUNCTION public.poison(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN IF $1 = 'bad' THEN RAISE 'this row is poisoned'; END IF; RETURN $1; END $$;
CREATE INDEX poison ON turn_liveness.reply (public.poison(deployment))});
arm_long('bad');
my $from = -s $node->logfile;
my $since = time;
my $errors = $node->safe_psql('postgres', 'SELECT sweep_errors FROM turn_liveness.stat_row()');
$node->safe_psql('postgres', q{SELECT turn_liveness.attach_worker('bad')});
my $room = 0;
foreach my $n (1 .. 20)
{
	$room += $node->poll_query_until('postgres', "SELECT turn_liveness.attach_worker('after$n') > 0");
	last if $room < $n;
}
is($room, 20, 'other deaths are settled');
# The worker tells the log once a minute, by a clock that no test moves: it tries more
# often than such minutes have passed, and the log has no more lines.
ok( wait_until(
		'it is tried again and again',
		sub { $node->safe_psql('postgres', 'SELECT sweep_errors FROM turn_liveness.stat_row()') - $errors > 3 + (time - $since) / 60 }),
	'the bad one is tried each second');
my $told = () = slurp_file($node->logfile, $from) =~ /could not fail the turn/g;
cmp_ok($told, '>=', 1, 'the log is told');
cmp_ok($told, '<=', 1 + (time - $since) / 60, 'once a minute');
$node->safe_psql('postgres', 'DROP INDEX turn_liveness.poison');
is(wait_ended($node, 'bad', 'm'), 'WORKER_DIED session', 'it is failed when it can be');
$_->quit foreach $session, @others;

# --- another extension since: the death of a session that attached to the last one is no news

my $old = session($node);
$old->query_safe("SELECT turn_liveness.attach_worker('anew')");
$node->safe_psql('postgres', 'DROP EXTENSION turn_liveness');
add_extension($node);
arm_long($_) foreach 'anew', 'after';
my $new = session($node);
$new->query_safe("SELECT turn_liveness.attach_worker('after')");
foreach my $gone ($old, $new)
{
	$pid = backend_pid($gone);
	kill_client($gone);
	wait_gone($pid);
}
is(wait_ended($node, 'after', 'm'), 'WORKER_DIED session', 'a session of this extension has died');
is(ends($node, 'anew', 'm'), '', 'a session of the last one has not');
$node->stop;
done_testing();
