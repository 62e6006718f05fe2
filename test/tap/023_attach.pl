# Deployments that are tied to sessions: the end of the session is the death of
# the worker, unless it said goodbye or comes back in time.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use Attached;
use TurnLiveness;

my $node = new_node(
	'main', q{
listen_addresses = '127.0.0.1'
turn_liveness.reconnect_window = 0
autovacuum = off
});
attach_on($node);

# --- how a session can end, window 0

my %end = (
	'killed client' => \&kill_client,
	'pg_terminate_backend' => sub {
		my ($session) = @_;
		$node->safe_psql('postgres', 'SELECT pg_terminate_backend(' . backend_pid($session) . ')');
		eval { $session->quit };
	},
	'normal disconnect' => sub { $_[0]->quit },
	'FATAL error' => sub {
		my ($session) = @_;
		$session->query(q{SET idle_session_timeout = '10ms'});
		$node->wait_for_log(qr/terminating connection due to idle-session timeout/);
		eval { $session->quit };
	},
	'end in a transaction' => sub {
		my ($session) = @_;
		$session->query_safe(q{BEGIN; SELECT turn_liveness.arm_turn('open', 'm')});
		kill_client($session);
	},
	'end in a failed transaction' => sub {
		my ($session) = @_;
		$session->query('BEGIN; SELECT 1/0');
		kill_client($session);
	});
foreach my $how (sort keys %end)
{
	my $name = $how =~ s/ /-/gr;
	my $session = attached($name);
	arm_long($name);
	$end{$how}->($session);
	is(wait_ended($node, $name, 'm'), 'WORKER_DIED session', "$how: the turn is failed");
}
{
	my $socket = TurnLiveness::Socket->new($node);
	is($socket->query("SELECT turn_liveness.attach_worker('reset')"),
		$socket->query('SELECT pg_backend_pid()'), 'reset: attached');
	arm_long('reset');
	$socket->reset;
	is(wait_ended($node, 'reset', 'm'), 'WORKER_DIED session', 'connection reset: the turn is failed');
}

# --- how soon

in_time(
	$node, 0.1, 0,
	'a death is acted on at once',
	sub {
		my ($try) = @_;
		my @took;
		foreach my $round (1 .. 11)
		{
			my $name = "soon-$try-$round";
			my $socket = TurnLiveness::Socket->new($node);
			$socket->query("SELECT turn_liveness.attach_worker('$name')");
			arm($node, $name, 'm', q{admission => '1h'});
			my $killed = time;
			$socket->reset;
			wait_ended($node, $name, 'm');
			push @took,
			  $node->safe_psql('postgres',
				"SELECT extract(epoch FROM created_at) FROM turn_liveness.reply WHERE deployment = '$name'") - $killed;
		}
		note 'seconds: ', join(' ', map { sprintf '%.4f', $_ } @took);
		return median(@took);
	});

# --- a deliberate stop

my $session = attached('stopped');
arm_long('stopped');
is($session->query_safe("SELECT turn_liveness.detach_worker('stopped')"), 't', 'detached');
is($session->query_safe("SELECT turn_liveness.detach_worker('stopped')"), 'f', 'only once');
is($session->query_safe("SELECT turn_liveness.detach_worker('never')"), 'f', 'not what was never attached');
my $pid = backend_pid($session);
$session->quit;
wait_gone($pid);
settle();
is_owed('stopped', 'm', 'no failure follows');

# --- several deployments on one session

$session = attached('many1', 'many2', 'many3');
arm_long("many$_") foreach 1 .. 3;
$session->query_safe("SELECT turn_liveness.detach_worker('many2')");
kill_client($session);
is(wait_ended($node, "many$_", 'm'), 'WORKER_DIED session', "many$_: dies with the session") foreach 1, 3;
settle();
is_owed('many2', 'm', 'many2: what it had detached does not');

$session = session($node);
$session->query_safe("SELECT count(turn_liveness.attach_worker('crowd' || i)) FROM generate_series(1, 500) i");
$node->safe_psql('postgres',
	"SELECT count(turn_liveness.arm_turn('crowd' || i, m::text, admission => '1h')) FROM generate_series(1, 500) i, generate_series(1, 3) m");
kill_client($session);
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 1500 FROM turn_liveness.reply WHERE deployment LIKE 'crowd%' AND error_code = 'WORKER_DIED'"),
	'500 deployments with three turns each');

# --- several sessions on one deployment

my @sessions = map { attached('shared') } 1 .. 3;
arm_long('shared');
# twice in one session is once
$sessions[0]->query_safe("SELECT turn_liveness.attach_worker('shared')");
kill_client(shift @sessions);
settle();
is_owed('shared', 'm', 'shared: one of three is gone');
$pid = backend_pid($sessions[0]);
$sessions[0]->query_safe("SELECT turn_liveness.detach_worker('shared')");
(shift @sessions)->quit;
wait_gone($pid);
settle();
is_owed('shared', 'm', 'shared: one of three is left');
kill_client(shift @sessions);
is(wait_ended($node, 'shared', 'm'), 'WORKER_DIED session', 'shared: the last one is gone');

# --- an attach is soft

$session = session($node);
$session->query_safe("BEGIN; SELECT turn_liveness.attach_worker('rolled'); ROLLBACK");
arm_long('rolled');
kill_client($session);
is(wait_ended($node, 'rolled', 'm'), 'WORKER_DIED session', 'a rollback does not undo it');

$session = session($node);
$session->query_safe("SELECT turn_liveness.attach_worker('unrolled')");
$session->query_safe("BEGIN; SELECT turn_liveness.detach_worker('unrolled'); ROLLBACK");
arm_long('unrolled');
$pid = backend_pid($session);
kill_client($session);
wait_gone($pid);
settle();
is_owed('unrolled', 'm', 'nor a detach');

# It is no beat.
$session = attached('nobeat');
arm($node, 'nobeat', 'm', q{admission => '10 min'});
is($session->query_safe("SELECT turn_liveness.attach_worker('nobeat')"), backend_pid($session), 'attached again');
advance($node, '11 min');
ok(wait_until('it is failed', sub { advance($node, '1 min'); ends($node, 'nobeat', 'm') ne '' }), 'attached, it waits no longer');
is(ends($node, 'nobeat', 'm'), 'WORKER_NEVER_STARTED sweep', 'attaching is no beat');
$session->quit;

# An answer before the death stands.
$session = attached('answered');
arm_long('answered');
$session->query_safe("SELECT turn_liveness.commit_terminal_reply('answered', '{m}', '{}')");
kill_client($session);
settle();
is(ends($node, 'answered', 'm'), 'answer reply', 'an answer that came before the death is the end');

# One that is committed by another session while the death is being handled
$session = attached('racing');
arm_long('racing');
my $other = session($node);
$other->query_safe("BEGIN; SELECT turn_liveness.commit_terminal_reply('racing', '{m}', '{}')");
kill_client($session);
settle();
is(ends($node, 'racing', 'm'), '', 'an open election: the death waits');
$other->query_safe('COMMIT');
settle();
is(ends($node, 'racing', 'm'), 'answer reply', 'committed, it is the end');

$session = attached('raced');
arm_long('raced');
$other->query_safe("BEGIN; SELECT turn_liveness.commit_terminal_reply('raced', '{m}', '{}')");
kill_client($session);
settle();
$other->query_safe('ROLLBACK');
is(wait_ended($node, 'raced', 'm'), 'WORKER_DIED session', 'rolled back, the death is');
$other->quit;

# A provider's failure goes before.
$session = attached('marked');
arm_long('marked');
$node->safe_psql('postgres', "SELECT turn_liveness.mark_provider_failed('marked', 'QUOTA', 'no money')");
kill_client($session);
is(wait_ended($node, 'marked', 'm'), 'QUOTA session', 'the code of a provider that failed is kept');


# --- the window: ten minutes, over which the test drives the clock

my $windows = 0;
$node->safe_psql('postgres', "ALTER DATABASE postgres SET turn_liveness.reconnect_window = '10 min'");
ok( wait_until(
		'the worker has the new window',
		sub {
			my $name = 'window' . ++$windows;
			my $socket = TurnLiveness::Socket->new($node);
			my $pid = $socket->query("SELECT turn_liveness.attach_worker('$name')");
			arm($node, $name, 'm', q{admission => '1h'});
			$socket->reset;
			wait_gone($pid);
			# a death that is acted on at once is through by then
			advance($node, '1 min');
			advance($node, '1 s');
			return ends($node, $name, 'm') eq '';
		}),
	'with a window of ten minutes a death is not acted on at once');
is_owed("window$windows", 'm', 'a minute later');
advance($node, '7 min');
advance($node, '1 s');
is_owed("window$windows", 'm', 'nor eight minutes later');
advance($node, '2 min');
is(wait_ended($node, "window$windows", 'm'), 'WORKER_DIED session', 'but when the window is over');

# So that what a death led to has been done, its window included.
sub settle_window
{
	my $name = 'settle-window' . ++$windows;
	my $session = session($node);
	arm($node, $name, 'm', q{admission => '20 h', silence => '20 h', duration => '20 h'});
	my $pid = $session->query_safe("SELECT turn_liveness.attach_worker('$name')");
	$session->quit;
	wait_gone($pid);
	advance($node, '1 s');
	advance($node, '11 min');
	is(wait_ended($node, $name, 'm'), 'WORKER_DIED session', "$name: a later death is through");
	return;
}

$session = attached('back-attach');
arm_long('back-attach');
my $kept = attached('back-kept');
arm_long('back-kept');
my $beats = attached('back-beat', 'back-named');
arm_long('back-beat');
arm_long('back-named');
kill_client($session);
kill_client($kept);
kill_client($beats);
$session = attached('back-attach');
is($session->query_safe("SELECT turn_liveness.heartbeat('back-beat')"), 1, 'it beats again');
is($session->query_safe("SELECT turn_liveness.heartbeat('back-named', '{m}')"), 1, 'it beats again by name');
settle_window();
is(ends($node, 'back-kept', 'm'), 'WORKER_DIED session', 'one that does not come back is dead');
is_owed('back-attach', 'm', 'attached again within the window: alive');
is_owed('back-beat', 'm', 'a beat within the window: alive');
is_owed('back-named', 'm', 'a named beat within the window: alive');
kill_client($session);
settle_window();
is(ends($node, 'back-attach', 'm'), 'WORKER_DIED session', 'until that session ends too');

# A turn that is armed after the death is not its business.
$session = attached('after');
arm_long('after', 'before');
$pid = backend_pid($session);
kill_client($session);
wait_gone($pid);
arm_long('after', 'after');
settle_window();
is(ends($node, 'after', 'before'), 'WORKER_DIED session', 'armed before the death: failed');
is_owed('after', 'after', 'armed after it: not');

# One that is armed again after it: the hand-over to another worker
$session = attached('handed');
arm_long('handed');
$pid = backend_pid($session);
kill_client($session);
wait_gone($pid);
is(arm($node, 'handed', 'm', q{admission => '1h'}), 'pending', 'armed again');
settle_window();
is_owed('handed', 'm', 'armed again after the death: not failed');

# --- a hand-over after the attachment: the earlier holder's session says nothing of the new one

$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.reconnect_window');
$session = attached('handed-over');
arm_long('handed-over');
arm_long('handed-over', 'other');
is($session->query_safe("SELECT turn_liveness.start_turn('handed-over', 'm', 'first')"), 1, 'a worker takes the turn');
is($node->safe_psql('postgres', "SELECT turn_liveness.start_turn('handed-over', 'm', 'second', true)"), 2, 'another takes it over');
kill_client($session);
is(wait_ended($node, 'handed-over', 'other'), 'WORKER_DIED session', 'what was not handed over fails with its session');
is_owed('handed-over', 'm', 'the new holder goes on');
$session = attached('handed-over');
kill_client($session);
is(wait_ended($node, 'handed-over', 'm'), 'WORKER_DIED session', 'until a session that attached for it ends');

$session = attached('again');
arm_long('again');
is($session->query_safe("SELECT turn_liveness.arm_turn('again', 'm')"), 'pending', 'handed over');
is($session->query_safe("SELECT turn_liveness.attach_worker('again')"), $session->{server_pid}, 'the same session attaches for it');
kill_client($session);
is(wait_ended($node, 'again', 'm'), 'WORKER_DIED session', 'and its end counts');

# --- a window that a reload makes shorter counts for the deaths that wait for its end

$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.reconnect_window');
$node->safe_psql('postgres', "ALTER SYSTEM SET turn_liveness.reconnect_window = '10 min'");
$node->reload;
my $name;
ok( wait_until(
		'the worker has the window of ten minutes',
		sub {
			$name = 'reload' . ++$windows;
			$session = attached($name);
			arm_long($name);
			kill_client($session);
			wait_gone($session->{server_pid});
			# a death that is acted on at once is through by then
			worker_looked($node);
			worker_looked($node);
			return ends($node, $name, 'm') eq '';
		}),
	'a death that waits for its window');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET turn_liveness.reconnect_window');
$node->reload;
is(wait_ended($node, $name, 'm'), 'WORKER_DIED session', 'a shorter window ends at once');

is($node->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) x'),
	0, 'nothing was answered twice');
$node->stop;
done_testing();
