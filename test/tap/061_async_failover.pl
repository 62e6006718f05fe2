# What asynchronous replication can lose in a failover, as the README says it:
# a lost arm, a lost election, and how gateways repair it; and what the
# setting that it names saves.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

sub standby_of
{
	my ($primary, $name) = @_;
	$primary->backup("for_$name");
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($primary, "for_$name", has_streaming => 1);
	$standby->start;
	$primary->wait_for_catchup($standby);
	return $standby;
}

# The standby receives nothing more, and so lags behind by what follows.
sub cut
{
	my ($primary, $standby) = @_;
	$standby->safe_psql('postgres', q{ALTER SYSTEM SET primary_conninfo = ''});
	$standby->reload;
	$primary->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_replication')
	  or die 'the standby goes on';
	return;
}

sub reads
{
	my ($node, $conversation) = @_;
	return $node->safe_psql('postgres',
		"SELECT string_agg(coalesce(payload->>'content', payload->>'errorCode'), ',' ORDER BY reply_id) FROM turn_liveness.read_replies('{$conversation}')");
}

my $times = q{admission => '10 min', silence => '10 min'};

# --- asynchronous: the last commits are lost

my $primary = new_node('primary', '', streaming => 1);
arm($primary, 'kept', 'm1', $times);
arm($primary, 'over', 'm1', $times);
arm($primary, 'answered', 'm1', $times);
arm($primary, 'failed', 'm1', $times);
arm($primary, 'discharged', 'm1', $times);
$primary->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('over', '{m1}', '{"content": "before"}')});
my $standby = standby_of($primary, 'standby');
cut($primary, $standby);

# All of this is told to its callers, and some of it to the clients.
is($primary->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('answered', '{m1}', '{"content": "42"}')}),
	'won', 'an answer that the standby does not get');
is($primary->safe_psql('postgres', q{SELECT turn_liveness.fail_turn('failed', 'm1', 'x', 'CANCELLED')}), 'won', 'an error');
is($primary->safe_psql('postgres', q{SELECT turn_liveness.discharge_turn('discharged', 'm1')}), 't', 'a discharge');
is(arm($primary, 'lost', 'm1', $times), 'armed', 'an arm');
is(reads($primary, 'answered'), '42', 'the client has seen the answer');
$primary->stop('immediate');
$standby->promote;
wait_worker($standby);

is($standby->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('lost')}), '0', 'a lost arm: nobody owes the answer any more');
is($standby->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('lost', '{m1}', '{"content": "x"}')}),
	'unknown', 'and who gives one is told so');
is($standby->safe_psql('postgres', q{SELECT string_agg(deployment, ',' ORDER BY deployment) FROM turn_liveness.turns}),
	'answered,discharged,failed,kept', 'a lost election, or discharge: the turn is owed again');
is(reads($standby, 'answered'), '', 'its reply is not there');
advance($standby, '11 min');
ok( wait_until(
		'they are failed',
		sub { advance($standby, '1 min'); $standby->safe_psql('postgres', 'SELECT count(*) FROM turn_liveness.turns') == 0 }),
	'nobody answers it: it ends a second time');
is(reads($standby, 'answered'), 'WORKER_UNRESPONSIVE', 'otherwise than the client has seen');
is(ends($standby, 'answered', 'm1'), 'WORKER_UNRESPONSIVE sweep', 'and once in this server');

# Each gateway arms the turns of its open streams again.
is(arm($standby, 'lost', 'm1', $times), 'armed', 'armed repairs a lost arm');
is($standby->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('lost', '{m1}', '{"content": "x"}')}), 'won', 'which is answered then');
is(arm($standby, 'over', 'm1', $times), 'answered', 'answered: it was not lost, and has ended');
is(reads($standby, 'over'), 'before', 'the answer is read');
is(arm($standby, 'again', 'm1', $times), 'armed', 'a turn');
is(arm($standby, 'again', 'm1', $times), 'pending', 'pending: it was not lost');
$standby->stop;

# --- with the setting: no client was told what is lost

my $first = new_node('first', '', streaming => 1);
my $second = standby_of($first, 'second');
$first->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'second'});
$first->reload;
$first->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'})
  or die 'no synchronous standby';
is($first->safe_psql('postgres', 'SHOW synchronous_commit'), 'on', 'synchronous_commit = on is the default of the server');
arm($first, $_, 'm1', $times) foreach qw(answered waits local_answer);
is($first->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('answered', '{m1}', '{"content": "42"}')}), 'won', 'won');
cut($first, $second);

# on: a session that arms or answers waits; with off and local it does not, and hears what can be lost
my %waiting = (
	arm => q{SELECT turn_liveness.arm_turn('waits_arm', 'm1')},
	answer => q{SELECT turn_liveness.commit_terminal_reply('waits', '{m1}', '{"content": "43"}')},
	cancelled => q{SELECT turn_liveness.arm_turn('cancelled', 'm1')});
my %session;
my %pid;
foreach my $what (sort keys %waiting)
{
	$session{$what} = session($first);
	my $pid = $pid{$what} = backend_pid($session{$what});
	$session{$what}->{stdin} .= "$waiting{$what};\n\\echo told $what\n";
	$session{$what}->{run}->pump_nb;
	ok($first->poll_query_until('postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid"),
		"on: $what waits for the standby");
}
is($first->safe_psql('postgres', q{SET synchronous_commit = local; SELECT turn_liveness.arm_turn('local', 'm1')}), 'armed', 'local: an arm does not wait');
is($first->safe_psql('postgres', q{SET synchronous_commit = off; SELECT turn_liveness.arm_turn('off', 'm1')}), 'armed', 'off: nor does it');
is($first->safe_psql('postgres', q{SET synchronous_commit = local; SELECT turn_liveness.commit_terminal_reply('local_answer', '{m1}', '{"content": "44"}')}),
	'won', 'nor an answer');
$_->{run}->pump_nb, unlike($_->{stdout}, qr/^(?:armed|won)$/m, 'whoever waits was told nothing') foreach values %session;
my $cancelled = delete $session{cancelled};
$first->safe_psql('postgres', "SELECT pg_cancel_backend($pid{cancelled})");
ok(wait_until('the cancelled wait is told', sub { $cancelled->{run}->pump_nb; $cancelled->{stdout} =~ /^armed$/m }), 'a wait that is cancelled is told armed');
like($cancelled->{stderr}, qr/WARNING:  canceling wait for synchronous replication/, 'with a warning');
$first->stop('immediate');
eval { $_->quit } foreach $cancelled, values %session;
$second->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
$second->promote;
wait_worker($second);

is(reads($second, 'answered'), '42', 'on: the answer that was told is there');
is(arm($second, 'answered', 'm1'), 'answered', 'and its end');
is($second->safe_psql('postgres', q{SELECT string_agg(deployment, ',' ORDER BY deployment) FROM turn_liveness.turns}),
	'local_answer,waits', 'every arm that was told is there; local: the answer is lost');
is(arm($second, $_, 'm1', $times), 'armed', "$_: the arm is lost") foreach qw(local off cancelled);
is($second->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('waits', '{m1}', '{"content": "43"}')}), 'won', 'who was told nothing asks again');
is( $second->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) s'),
	'0', 'no turn has two ends');
unlike(slurp_file($second->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$second->stop;

done_testing();
