# Hand-overs, waits, rescues and updates through crashes: what a caller was told
# is there afterwards, what was not committed never was, and windows and waits go on.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# The WAL writer is kept from flushing what no session asked to be flushed: neither by time nor by volume.
my $node = new_node(
	'main', q{
wal_writer_delay = 10s
wal_writer_flush_after = 1GB
checkpoint_timeout = 1h
autovacuum = off
}, wall_clock => 1);
$node->safe_psql('postgres', 'CREATE TABLE public.job (deployment text, generation int); CREATE TABLE public.control (verb text)');

# One way to die: a backend is killed and the server recovers; or the server stops at once.
sub crash
{
	my ($how, @sessions) = @_;

	if ($how eq 'kill')
	{
		my $pid = backend_pid($sessions[0]);

		kill 'KILL', $pid;
		$node->wait_for_log(qr/PID $pid\) was terminated by signal 9.*database system is ready to accept connections/s);
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	eval { $_->quit } foreach @sessions;
	wait_server($node, 'SELECT true') or die 'the server does not come back';
	wait_worker($node);
	no_pauses($node);
	return;
}

# Time passes on both clocks, so that a run that starts afterwards goes on from there.
sub minutes_pass
{
	my ($minutes) = @_;

	advance($node, "$minutes min");
	step_wall_clock($node, 60 * $minutes);
	return;
}

# What is stored of a deployment's turn: generation, worker and state (a beat of an earlier run is none), its replies.
sub stored
{
	my ($deployment) = @_;
	return $node->safe_psql(
		'postgres', qq{
SELECT concat_ws(' ', (SELECT concat_ws(' ', generation, worker, state) FROM turn_liveness.turns WHERE deployment = '$deployment'),
	(SELECT string_agg(outcome || ':' || (payload ->> 'content'), ' ' ORDER BY reply_id) FROM turn_liveness.replies WHERE deployment = '$deployment'),
	(SELECT string_agg('job:' || generation, ' ') FROM public.job WHERE deployment = '$deployment'))});
}

# An offered turn: it lapses after ten minutes, and is to be had for an hour.
sub offer
{
	my ($deployment, $silence) = @_;

	$silence //= '10 min';
	arm($node, $deployment, 'm', "admission => '10 min', silence => '$silence', rescue => '1 h'");
	minutes_pass(11);
	is_offered($deployment);
	return;
}

sub is_offered
{
	my ($deployment) = @_;

	# the view says lapsed a little before the sweep has offered it
	$node->poll_query_until('postgres',
		"SELECT error_code IS NOT NULL FROM turn_liveness.turns WHERE state = 'lapsed' AND deployment = '$deployment'")
	  or die 'it is not offered';
	return;
}

sub is_ended
{
	my ($deployment) = @_;
	return $node->safe_psql('postgres',
		"SELECT outcome IS NOT NULL FROM turn_liveness.turn WHERE deployment = '$deployment'") eq 't';
}

my $long = q{admission => '3 h', silence => '3 h'};
my $take = "SELECT turn_liveness.start_turn('%s', 'm', 'first')";
my $wait = "SELECT turn_liveness.suspend_turn('%s', 'm', '3 h', 'why')";
# verb => what comes before, the call, its answer, what is stored without it, and with it
my %verb = (
	start => [ [], "SELECT turn_liveness.start_turn('%s', 'm', 'second')", '1', '1 waiting', '1 second waiting' ],
	over => [ [$take], "SELECT turn_liveness.start_turn('%s', 'm', 'second', true)", '2', '1 first waiting', '2 second waiting' ],
	arm => [ [$take], "SELECT turn_liveness.arm_turn('%s', 'm')", 'pending', '1 first waiting', '2 waiting' ],
	suspend => [ [$take], $wait, 't', '1 first waiting', '1 first suspended' ],
	resume => [ [ $take, $wait ], "SELECT turn_liveness.resume_turn('%s', 'm')", 't', '1 first suspended', '2 waiting' ],
	update => [ [$take], "SELECT turn_liveness.post_update('%s', 'm', '{\"content\": \"half\"}') IS NOT NULL", 't', '1 first waiting', '1 first waiting update:half' ],
	# the job and the rescue are one transaction
	rescue => [ undef, "WITH r AS (INSERT INTO public.job SELECT deployment, generation FROM turn_liveness.rescue_turns() RETURNING generation) SELECT * FROM r",
		'2', '1 waiting', '2 waiting job:2' ],
);

# Each verb is told to one caller, whose session does not wait for the disk, and open in another session.
my ($lost, $rounds) = (0, 0);
foreach my $verb (sort keys %verb)
{
	my ($before, $call, $answer, $without, $with) = @{ $verb{$verb} };

	foreach my $how (qw(kill immediate))
	{
		my ($told, $open) = ("$verb-$how-told", "$verb-$how-open");
		my ($teller, $opener);
		my $prepare = sub {
			my ($deployment) = @_;

			if ($before)
			{
				arm($node, $deployment, 'm', $long);
				$node->safe_psql('postgres', sprintf($_, $deployment)) foreach @$before;
			}
			else
			{
				offer($deployment);
			}
		};

		# a rescue takes what there is: the open one first
		$prepare->($open);
		$opener = session($node);
		is($opener->query_safe('BEGIN; ' . sprintf($call, $open)), $answer, "$verb, $how: open");
		$prepare->($told);
		$teller = session($node);
		$teller->query_safe('SET synchronous_commit = off');
		is($teller->query_safe(sprintf($call, $told)), $answer, "$verb, $how: told");
		$teller->query_safe("INSERT INTO public.control VALUES ('$told')");
		crash($how, $opener, $teller);
		is(stored($told), $with, "$verb, $how: what was told is there");
		is(stored($open), $without, "$verb, $how: what was open never was");
		$rounds++;
		$lost++
		  if $node->safe_psql('postgres', "SELECT count(*) FROM public.control WHERE verb = '$told'") == 0;

		# a number that a holder was told is no other holder's
		is($node->safe_psql('postgres', "SELECT turn_liveness.start_turn('$told', 'm', 'third', true)"),
			{ start => 2, over => 3, arm => 2, suspend => 2, resume => 2, update => 2, rescue => 2 }->{$verb},
			"$verb, $how: the next holder's number is its own");
		$node->safe_psql('postgres', "SELECT turn_liveness.discharge_turn('$told', 'm')");

		# and it can be done; a beat that is lost may have revived what was offered: it lapses anew
		if (!$before)
		{
			minutes_pass(11);
			is_offered($open);
		}
		is($node->safe_psql('postgres', sprintf($call, $open)), $answer, "$verb, $how: done afterwards");
		is(stored($open), $with =~ s/(first|second) waiting$/$1 running/r =~ s/waiting update/running update/r,
			"$verb, $how: and stored");
		$node->safe_psql('postgres', "SELECT turn_liveness.discharge_turn('$open', 'm')");
	}
}
cmp_ok($lost, '>', 0, "a plain row that was committed after them was lost in $lost of $rounds rounds");

# A client that has seen an update gets all that comes after it: no id is given again.
{
	my $session = session($node);
	my $reader = session($node);
	my $seen;

	arm($node, 'cursor', 'm', $long);
	$session->query_safe('SET synchronous_commit = off');
	$session->query_safe("SELECT turn_liveness.post_update('cursor', 'm', '{}')") foreach 1 .. 40;
	$seen = $reader->query_safe("SELECT max(reply_id) FROM turn_liveness.read_replies('{cursor}')");
	crash('immediate', $session, $reader);
	$node->safe_psql('postgres', "SELECT turn_liveness.commit_terminal_reply('cursor', '{m}', '{}')");
	is($node->safe_psql('postgres', "SELECT string_agg(outcome, ' ') FROM turn_liveness.read_replies('{cursor}', '{$seen}')"),
		'answer', 'the terminal reply comes after an update that a client had seen');
}

# --- a restart while a turn is offered, or suspended: a beat that went with the server may have
# revived it, so it lapses anew; the wait goes on

foreach my $how (qw(immediate fast))
{
	my $restart = sub {
		# the time since pg_control was written counts as downtime
		$node->safe_psql('postgres', 'CHECKPOINT');
		if ($how eq 'fast')
		{
			$node->restart;
			wait_worker($node);
			no_pauses($node);
		}
		else
		{
			crash($how);
		}
	};
	my $suspend = sub {
		my ($deployment, $silence) = @_;

		arm($node, $deployment, 'm', "admission => '10 min', silence => '$silence'");
		$node->safe_psql('postgres', "SELECT turn_liveness.suspend_turn('$deployment', 'm', '1 h', 'why')");
	};

	offer("offered-$how");
	offer("taken-$how");
	offer("alive-$how");
	$suspend->("waits-$how", '10 min');
	$suspend->("resumed-$how", '10 min');
	minutes_pass(10);
	$restart->();
	is(stored("offered-$how"), '1 waiting', "$how: one silence deadline for what was offered");
	is(stored("waits-$how"), '1 suspended', "$how: still suspended");
	minutes_pass(5);
	is($node->safe_psql('postgres', "SELECT turn_liveness.heartbeat('alive-$how', '{m}', '{1}')"),
		1, "$how: a worker that outlived it beats");
	is(stored("alive-$how"), '1 running', "$how: and its turn is no longer offered");
	is($node->safe_psql('postgres', "SELECT turn_liveness.resume_turn('resumed-$how', 'm')"), 't', "$how: resumed");
	is(stored("resumed-$how"), '2 waiting', "$how: under the next generation");
	is($node->safe_psql('postgres', "SELECT turn_liveness.start_turn('taken-$how', 'm', 'second', true)"), 1, "$how: taken");
	$node->safe_psql('postgres', "SELECT turn_liveness.discharge_turn(d || '-$how', 'm') FROM unnest('{taken,alive,resumed}'::text[]) d");

	# less than an hour since the waits began
	minutes_pass(8);
	is_offered("offered-$how");
	is($node->safe_psql('postgres', "SELECT error_code FROM turn_liveness.get_turn('offered-$how', 'm')"),
		'WORKER_UNRESPONSIVE', "$how: offered again, and whether it had beaten is not known");
	is(stored("waits-$how"), '1 suspended', "$how: the wait goes on");
	minutes_pass(62);
	is(wait_ended($node, "offered-$how", 'm'), 'WORKER_UNRESPONSIVE sweep', "$how: the window ends");
	is(wait_ended($node, "waits-$how", 'm'), 'WAIT_EXPIRED sweep', "$how: the wait ends");

	# at the end of the window, or of the wait: one silence deadline after the start
	$suspend->("end-waits-$how", '20 min');
	offer("end-offered-$how", '20 min');
	minutes_pass(45);
	ok(worker_looked($node), "$how: the worker has looked");
	is(stored("end-offered-$how") . ', ' . stored("end-waits-$how"), '1 lapsed, 1 suspended', "$how: nearly over");
	$restart->();
	minutes_pass(15);
	ok(worker_looked($node), "$how: the worker has looked");
	is(stored("end-offered-$how"), '1 waiting', "$how: in the middle of a silence deadline after the start, not offered");
	ok(!is_ended("end-waits-$how"), "$how: and suspended");
	minutes_pass(10);
	is(wait_ended($node, "end-waits-$how", 'm'), 'WAIT_EXPIRED sweep', "$how: then the wait has ended");
	is_offered("end-offered-$how");
	minutes_pass(62);
	is(wait_ended($node, "end-offered-$how", 'm'), 'WORKER_UNRESPONSIVE sweep', "$how: and the window an hour later");
}

# The wall clock has gone back meanwhile: what began before the start is not taken to begin after it.
offer('ahead');
offer('ahead-alive');
arm($node, 'ahead-waits', 'm', q{silence => '10 min'});
$node->safe_psql('postgres', "SELECT turn_liveness.suspend_turn('ahead-waits', 'm', '1 h')");
$node->stop('immediate');
step_wall_clock($node, -7200);
$node->start;
wait_worker($node);
no_pauses($node);
$node->safe_psql('postgres', "SELECT turn_liveness.heartbeat('ahead-alive', '{m}', '{1}')");
is(stored('ahead-alive'), '1 running', 'clock gone back: a beat revives a turn that was offered');
is(stored('ahead') . ', ' . stored('ahead-waits'), '1 waiting, 1 suspended', 'clock gone back: the others are as after any start');
$node->safe_psql('postgres', "SELECT turn_liveness.discharge_turn('ahead-alive', 'm')");
minutes_pass(11);
is_offered('ahead');
minutes_pass(61);
ok(wait_until('they end', sub { is_ended('ahead') && is_ended('ahead-waits') }),
	'clock gone back: the window and the wait are an hour at most');

is($node->safe_psql('postgres',
		"SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m WHERE outcome <> 'u' GROUP BY deployment, m HAVING count(*) > 1) x"),
	0, 'nothing was answered twice');
$node->stop;
done_testing();
