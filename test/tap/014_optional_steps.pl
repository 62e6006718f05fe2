# Nothing that is not the sweep holds the sweep up: what another session locks,
# or keeps waiting, is tried again later, turns lapse in time, and stat says so.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# no standby by that name: a commit with synchronous_commit = on waits
my $node = new_node('main', q{
synchronous_standby_names = 'nobody'
synchronous_commit = local
autovacuum = off
}, streaming => 1);
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', 'CREATE TABLE plain (i integer)');
my $pid = worker_pid($node);

sub says
{
	my ($step, $lock) = @_;
	return ok($node->poll_query_until('postgres',
			qq{SELECT coalesce(worker_problem ~ '^waits for a lock in step "$step" since [0-9]+ s: $lock\$', false) FROM turn_liveness.stat_row()}),
		"stat says which step waits, for which lock, and for whom: $step")
	  || diag $node->safe_psql('postgres', 'SELECT worker_problem FROM turn_liveness.stat_row()');
}

sub says_nothing
{
	return ok($node->poll_query_until('postgres', 'SELECT worker_problem IS NULL FROM turn_liveness.stat_row()'),
		'and no more when it is done');
}

my $n = 0;
sub lapses
{
	my ($what) = @_;
	$n++;
	arm($node, "turn$n", 'm', q{'{"conversationId": "c"}', admission => '200ms'});
	return is(wait_ended($node, "turn$n", 'm'), 'WORKER_NEVER_STARTED sweep', "a turn lapses: $what");
}

lapses('at first');

# --- a NOTIFY of another database, whose commit waits for a standby

my $other = session($node, 'elsewhere');
my $other_pid = backend_pid($other);
$other->query_safe('SET synchronous_commit = on');
$other->{stdin} .= "BEGIN; INSERT INTO plain VALUES (1); NOTIFY other; COMMIT;\n";
$other->{run}->pump_nb;
ok($node->poll_query_until('postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $other_pid"),
	'a session notifies, and its commit waits for a standby');
lapses('while the notification queue is locked') foreach 1 .. 3;
says('notifying', "the queue of notifications, held by process $other_pid");
my $listener = session($node);
$listener->query_safe('LISTEN turn_liveness');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($other_pid)");
ok(notified($listener, qr/"turn_liveness" with payload/), 'what could not be told is told afterwards');
says_nothing();
$other->quit;
$listener->quit;

# --- locks on our tables that the sweep itself does not need

my $hold = session($node);
my $hold_pid = backend_pid($hold);
foreach my $lock (
	[ 'turn_liveness.late_reply', 'SHARE', 'retention' ],
	[ 'turn_liveness.late_reply', 'ACCESS EXCLUSIVE', 'retention' ],
	[ 'pg_catalog.pg_subscription', 'ACCESS EXCLUSIVE', 'looking for subscriptions' ])
{
	my ($table, $mode, $step) = @$lock;
	$hold->query_safe("BEGIN; LOCK TABLE $table IN $mode MODE");
	# what comes every ten seconds comes now
	$hold->query_safe("DO \$\$ BEGIN PERFORM public.tl_advance('11 s'); END \$\$");
	lapses("while $table is locked in $mode mode") foreach 1 .. 2;
	says($step, qq{"$table", held by process $hold_pid});
	lapses('still');
	$hold->query_safe('ROLLBACK');
	says_nothing();
}

# a worker that starts does so too
$hold->query_safe('BEGIN; LOCK TABLE turn_liveness.late_reply IN ACCESS EXCLUSIVE MODE');
$hold->query_safe("SELECT pg_terminate_backend($pid)");
wait_worker($node, 'postgres', $pid);
$pid = worker_pid($node);
lapses('by a worker that starts while a table is locked');
$hold->query_safe('ROLLBACK');
says_nothing();

# --- the sweep itself waits for its own tables, and stat says that too

$hold->query_safe('BEGIN; LOCK TABLE turn_liveness.reply IN SHARE MODE');
arm($node, 'held', 'm', q{admission => '200ms'});
says('failing lapsed turns', qq{"turn_liveness.reply", held by process $hold_pid});
$hold->query_safe('ROLLBACK');
is(wait_ended($node, 'held', 'm'), 'WORKER_NEVER_STARTED sweep', 'and goes on');
says_nothing();
$hold->query_safe(q{BEGIN; LOCK TABLE turn_liveness.reply IN SHARE MODE; PREPARE TRANSACTION 'reply'});
arm($node, 'prepared', 'm', q{admission => '200ms'});
says('failing lapsed turns', '"turn_liveness.reply", held by a prepared transaction');
$hold->query_safe(q{ROLLBACK PREPARED 'reply'});
is(wait_ended($node, 'prepared', 'm'), 'WORKER_NEVER_STARTED sweep', 'and goes on');
says_nothing();

is(worker_pid($node), $pid, 'the same worker all the time');

# --- a worker that does not run at all

ok($node->poll_query_until('postgres', q{SELECT tick_age < interval '2 s' FROM turn_liveness.stat}), 'it ticks');
kill 'STOP', $pid;
ok( $node->poll_query_until('postgres',
		q{SELECT coalesce(worker_problem ~ '^has not ticked for [1-9][0-9]+ s: ' AND tick_age >= interval '10 s', false) FROM turn_liveness.stat}),
	'stat says that it is stopped');
kill 'CONT', $pid;
says_nothing();
ok($node->poll_query_until('postgres', q{SELECT tick_age < interval '2 s' FROM turn_liveness.stat}), 'it ticks again');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.enabled = off');
ok($node->poll_query_until('postgres', q{SELECT worker_state = 'disabled' AND tick_age IS NULL FROM turn_liveness.stat}), 'none runs: none ticks');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.enabled');
$pid = wait_worker($node);

unlike(slurp_file($node->logfile), qr/lock timeout/, 'without a word in the log');
$hold->quit;
$node->stop;
done_testing();
