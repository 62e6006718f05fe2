# Whatever dies, and whenever: an armed turn is owed or ended, and ends once.  What is flushed
# when: 016.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node(
	'main', q{
checkpoint_timeout = 1h
autovacuum = off
});

sub commit_reply
{
	my ($deployment, $message) = @_;
	return $node->safe_psql('postgres',
		"SELECT turn_liveness.commit_terminal_reply('$deployment', '{$message}', '{\"content\": \"x\"}')");
}

sub wait_back
{
	wait_server($node, 'SELECT true') or die 'the server does not come back';
	wait_worker($node);
	return;
}

sub stop_at_once
{
	$node->stop('immediate');
	$node->start;
	wait_back();
	return;
}

# --- a backend is killed in the middle of an election

foreach my $fate ('answered', 'silent')
{
	my $session = session($node);
	my $start;

	arm($node, "kill-$fate", 'm', $fate eq 'silent' ? q{admission => '10 min', silence => '10 min'} : q{admission => '1h'});
	is($session->query_safe("BEGIN; SELECT turn_liveness.commit_terminal_reply('kill-$fate', '{m}', '{}')"),
		'won', "$fate: an election is won, not committed");
	$start = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time() || backend_start::text'
		  . " FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
	kill 'KILL', backend_pid($session);
	ok(wait_server($node,
			"SELECT pg_postmaster_start_time() || backend_start::text <> '$start'"
			  . " FROM pg_stat_activity WHERE backend_type = 'checkpointer'"),
		"$fate: its backend is killed, the server recovers");
	wait_back();
	eval { $session->quit };

	if ($fate eq 'answered')
	{
		is($node->safe_psql('postgres',
				"SELECT count(*) FROM turn_liveness.turns WHERE deployment = 'kill-answered'"),
			1, 'answered: the turn is still owed');
		is(ends($node, 'kill-answered', 'm'), '', 'answered: nothing of the reply is there');
		is(commit_reply('kill-answered', 'm'), 'won', 'answered: the next one wins');
		is(commit_reply('kill-answered', 'm'), 'won', 'answered: repeated, the same');
		is($node->safe_psql('postgres',
				"SELECT turn_liveness.fail_turn('kill-answered', 'm', 'late')"),
			'lost', 'answered: and it is the only one');
		is(ends($node, 'kill-answered', 'm'), 'answer reply', 'answered: one terminal reply');
	}
	else
	{
		wait_until('it is failed', sub { advance($node, '11 min'); ends($node, 'kill-silent', 'm') ne '' });
		is(ends($node, 'kill-silent', 'm'), 'WORKER_UNRESPONSIVE sweep',
			'silent: the turn ends by itself, once');
	}
}

# Killed after the election row was written by others' calls too
foreach my $call (
	q{turn_liveness.fail_turn('kill-call', 'm', 'e')},
	q{turn_liveness.fail_deployment('kill-call')},
	q{turn_liveness.discharge_turn('kill-call', 'm')},
	q{turn_liveness.reject_turn('kill-call', 'm', '{}', 'e')})
{
	my $session = session($node);
	my $start;

	arm($node, 'kill-call', 'm', q{admission => '1h'});
	$session->query_safe("BEGIN; SELECT $call");
	$start = backend_pid($session);
	kill 'KILL', $start;
	$node->wait_for_log(qr/\(PID $start\) was terminated by signal 9/);
	$node->wait_for_log(qr/PID $start\) was terminated by signal 9.*database system is ready to accept connections/s);
	wait_back();
	eval { $session->quit };
	is(arm($node, 'kill-call', 'm'), 'pending', "still owed after a crash in $call");
}
is($node->safe_psql('postgres', "SELECT turn_liveness.fail_deployment('kill-call')"),
	1, 'and ends once');

# --- everything that there can be, through an immediate and a fast restart

sub make_all
{
	my ($p) = @_;
	$node->safe_psql(
		'postgres', qq{
SELECT turn_liveness.arm_turn('$p', m, '{"conversationId": "$p", "platform": "$p"}', admission => '1h', silence => '1h')
FROM unnest('{owed,beaten,answered,failed,marked,discharged,delivered}'::text[]) m;
SELECT turn_liveness.heartbeat('$p', '{beaten}');
SELECT turn_liveness.commit_terminal_reply('$p', '{answered}', '{}');
SELECT turn_liveness.commit_terminal_reply('$p', '{answered}', '{"late": true}');
SELECT turn_liveness.fail_turn('$p', 'failed', 'e', 'C');
SELECT turn_liveness.discharge_turn('$p', 'discharged');
SELECT turn_liveness.mark_provider_failed('$p', 'QUOTA', 'no money');
SELECT turn_liveness.commit_terminal_reply('$p', '{delivered}', '{}');
SELECT turn_liveness.ack_replies('g', ARRAY(SELECT reply_id FROM turn_liveness.read_replies('{$p}') WHERE message_ids = '{delivered}'));
});
	return state_of($p);
}

sub state_of
{
	my ($p) = @_;
	return $node->safe_psql(
		'postgres', qq{
SELECT message_id, error_code, reason FROM turn_liveness.turns WHERE deployment = '$p' ORDER BY 1;
SELECT reply_id, message_ids, outcome, error_code, decided_by, state, payload FROM turn_liveness.replies WHERE deployment = '$p' ORDER BY 1;
SELECT count(*) FROM turn_liveness.late_replies WHERE deployment = '$p'});
}

my $before = make_all('immediate');
stop_at_once();
is(state_of('immediate'), $before, 'an immediate shutdown and recovery changes nothing');
$before = make_all('fast');
$node->restart;
wait_back();
no_pauses($node);
is(state_of('fast'), $before, 'a fast restart changes nothing');

# --- two-phase commit, with the worker on

my $listener = session($node);
$listener->query_safe('LISTEN turn_liveness');

# A sweep leaves a prepared election alone; its COMMIT tells the listener.

foreach my $end (qw(commit rollback))
{
	$node->safe_psql(
		'postgres', qq{
SELECT turn_liveness.arm_turn('prep-$end', 'held', '{"conversationId": "c-$end"}', admission => '20 min', silence => '20 min');
BEGIN;
SELECT turn_liveness.commit_terminal_reply('prep-$end', '{held}', '{}');
PREPARE TRANSACTION 'p-$end'});
}
advance($node, '21 min');
ok($node->poll_query_until('postgres', 'SELECT turns_lapsed >= 2 FROM turn_liveness.stat'),
	'lapsed turns that prepared transactions hold are counted');
arm($node, 'other', 'm', q{admission => '50ms'});
wait_ended($node, 'other', 'm');
advance($node, '2s');
arm($node, 'other', 'm2', q{admission => '50ms'});
wait_ended($node, 'other', 'm2');
is(ends($node, 'prep-commit', 'held') . ends($node, 'prep-rollback', 'held'),
	'', 'the sweep skips them, and serves others');
unlike($listener->query('SELECT 1'), qr/c-commit|c-rollback/, 'nobody was told of them');
$node->safe_psql('postgres', "COMMIT PREPARED 'p-commit'");
ok(notified($listener, qr/payload "(\{\}|[^\n]*c-commit)/), 'COMMIT PREPARED: the listener is told');
is(ends($node, 'prep-commit', 'held'), 'answer reply', 'COMMIT PREPARED: the reply is the end');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'p-rollback'");
is(wait_ended($node, 'prep-rollback', 'held'), 'WORKER_NEVER_STARTED sweep',
	'ROLLBACK PREPARED: the sweep decides');

# Through a crash
$node->safe_psql(
	'postgres', q{
SELECT turn_liveness.arm_turn('prep-crash', 'm', admission => '20 min', silence => '20 min');
BEGIN;
SELECT turn_liveness.commit_terminal_reply('prep-crash', '{m}', '{}');
PREPARE TRANSACTION 'p-crash'});
$listener->quit;
stop_at_once();
ok( wait_until(
		'it has lapsed',
		sub { advance($node, '21 min'); $node->safe_psql('postgres', 'SELECT turns_lapsed >= 1 FROM turn_liveness.stat') eq 't' }),
	'a prepared election outlives a crash, and holds its turn');
is(ends($node, 'prep-crash', 'm'), '', 'nothing has ended it');
$node->safe_psql('postgres', "COMMIT PREPARED 'p-crash'");
is(ends($node, 'prep-crash', 'm'), 'answer reply', 'committed after the crash, it is the end');

# An arm that becomes visible late is not failed at once, but after the shorter of
# its deadlines since it was seen.
sub lapses_late
{
	my ($deployment) = @_;

	is($node->safe_psql('postgres', "SELECT state FROM turn_liveness.turns WHERE deployment = '$deployment'"),
		'waiting', "$deployment: live when it becomes visible, an hour after the arm");
	advance($node, '8 min');
	ok(worker_looked($node), "$deployment: the worker has looked");
	is(ends($node, $deployment, 'm'), '', "$deployment: not failed at once");
	ok(wait_until('it is failed', sub { advance($node, '3 min'); ends($node, $deployment, 'm') ne '' }),
		"$deployment: it lapses in the end");
	is(ends($node, $deployment, 'm'), 'WORKER_NEVER_STARTED sweep', "$deployment: as one that never started");
	return;
}
$node->safe_psql(
	'postgres', q{
BEGIN;
SELECT turn_liveness.arm_turn('prep-arm', 'm', admission => '10 min', silence => '1 h');
PREPARE TRANSACTION 'p-arm'});
advance($node, '1h');
$node->safe_psql('postgres', "COMMIT PREPARED 'p-arm'");
lapses_late('prep-arm');

# So is one that a long transaction made.
my $session = session($node);
$session->query_safe("BEGIN; SELECT turn_liveness.arm_turn('long-arm', 'm', admission => '10 min', silence => '1 h')");
advance($node, '1h');
$session->query_safe('COMMIT');
lapses_late('long-arm');
$session->quit;

# A prepared arm that is rolled back was never there.
$node->safe_psql(
	'postgres', q{
BEGIN;
SELECT turn_liveness.arm_turn('prep-none', 'm', admission => '50ms');
PREPARE TRANSACTION 'p-none';
ROLLBACK PREPARED 'p-none'});
is($node->safe_psql('postgres', "SELECT turn_liveness.commit_terminal_reply('prep-none', '{m}', '{}')"),
	'unknown', 'a prepared arm that is rolled back was never there');

is($node->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) x'),
	0, 'nothing was answered twice');
$node->stop;
done_testing();
