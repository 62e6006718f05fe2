# What holds a turn that has lapsed, and what the log says of those that failed: a
# person on call finds the process, the worker, and for how long it was silent.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node('main', q{
turn_liveness.log_failures = on
turn_liveness.mass_silence_hold = 0
turn_liveness.reconnect_window = '4 min'
log_line_prefix = '%m [%p] %b %e '
autovacuum = off
});
no_pauses($node);
$node->safe_psql('postgres', q{CREATE ROLE monitor LOGIN; SELECT turn_liveness.grant_monitor('monitor')});

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}

# State and holder of each turn that is owed, as a monitor sees them
sub blocked
{
	return $node->safe_psql('postgres',
		q{SELECT string_agg(concat_ws(' ', deployment, state, blocked_by), ', ' ORDER BY deployment) FROM turn_liveness.turns},
		extra_params => [ '-U', 'monitor' ]);
}

sub blocked_count
{
	return $node->safe_psql('postgres', 'SELECT turns_lapsed, turns_blocked FROM turn_liveness.stat', extra_params => [ '-U', 'monitor' ]);
}

# --- who holds it

my $times = q{admission => '20 min', silence => '10 min'};
arm($node, $_, 'm', $times) foreach qw(answer savepoint locked prepared lives referred);
arm($node, 'several', 'm', q{admission => '20 min', silence => '20 min'});
my %session = map { $_ => session($node) } qw(answer savepoint locked lives several referrer);
my %pid = map { $_ => backend_pid($session{$_}) } keys %session;
is($session{answer}->query_safe(q{BEGIN; SELECT turn_liveness.commit_terminal_reply('answer', '{m}', '{"content": "42"}')}), 'won', 'an answer, not committed');
is($session{savepoint}->query_safe(q{BEGIN; SAVEPOINT a; SAVEPOINT b; SELECT turn_liveness.post_update('savepoint', 'm', '{}') > 0; RELEASE b}), 't', 'an update in a savepoint');
$session{locked}->query_safe(q{BEGIN; SELECT FROM turn_liveness.turn WHERE deployment = 'locked' FOR UPDATE});
sql(q{BEGIN; SELECT turn_liveness.discharge_turn('prepared', 'm'); PREPARE TRANSACTION 'holder'});
# A lock of the transaction and a change of its savepoint, beside a lock that holds nothing up.
sql(q{SELECT turn_liveness.start_turn('several', 'm')});
$session{referrer}->query_safe(q{BEGIN; SELECT FROM turn_liveness.turn WHERE deployment IN ('several', 'referred') FOR KEY SHARE});
is($session{several}->query_safe(q{BEGIN; SELECT turn_liveness.start_turn('several', 'm') IS NULL; SAVEPOINT a; SELECT turn_liveness.post_update('several', 'm', '{}') > 0; RELEASE a}), "t\nt", 'a lock and a change');
is($session{lives}->query_safe(q{BEGIN; SELECT turn_liveness.arm_turn('lives', 'm', admission => '5 h', duration => '5 h')}), 'pending', 'a turn that is armed again');
is(blocked(), 'answer waiting, lives waiting, locked waiting, prepared waiting, referred waiting, savepoint waiting, several running', 'nothing is told of what has not lapsed');
is(blocked_count(), '0|0', 'nor counted');

my $start = -s $node->logfile;
advance($node, '10 min');
worker_looked($node);
is(blocked(), 'answer waiting, lives waiting, locked waiting, prepared waiting, referred waiting, savepoint waiting, several running', 'before the deadlines');
# The worker finds them held once the clock has been moved on.  The turn of "ruler"
# lapses 20 s after that, or sooner if this call is slow, and the worker fails it within
# a few seconds on its clock: it writes that before it tells of what is held for 30 s.
sql(q{SELECT turn_liveness.arm_turn('ruler', 'm', admission => '680 s', silence => '680 s'); SELECT public.tl_advance('11 min')});
ok( wait_until('the ruler has failed', sub { advance($node, '1 s'); worker_looked($node); ends($node, 'ruler', 'm') ne '' }),
	'20 s later');
is( blocked(),
	"answer lapsed $pid{answer}, lives lapsed $pid{lives}, locked lapsed $pid{locked}, prepared lapsed 0, savepoint lapsed $pid{savepoint}, several lapsed $pid{several}",
	'what has lapsed names the process that holds it, 0 for a prepared transaction');
is(blocked_count(), '6|6', 'and is counted');

is(ends($node, 'referred', 'm'), 'WORKER_NEVER_STARTED sweep', 'a lock that a foreign key takes holds no turn up');

is($node->safe_psql('postgres', q{SELECT string_agg(coalesce(turn_liveness.holder(format('(%s,%s)', b, o)::tid), -1)::text, ',') FROM unnest('{0,1,4294967294,4294967295}'::bigint[]) b, unnest('{0,2000,65535}'::integer[]) o}),
	join(',', (-1) x 12), 'no process holds what is no row');

# --- the log tells it once, when it has lasted for 30 s

sub held_lines
{
	my ($deployment, $log) = @_;
	$log //= slurp_file($node->logfile, $start);
	my @lines = $log =~ /^.* turn_liveness worker 55P03 LOG:  (turn "m" of deployment "$deployment" has lapsed.*\n.*DETAIL:  .*\n.*HINT:  .*)$/mg;
	return map { s/^\S+ \S+ \S+ \S+ .*?(DETAIL|HINT):/$1:/mgr } @lines;
}

# The worker has tried each of them again: it does so once a second.
sub tried_again
{
	wait_clock($node, 2.5);
	worker_looked($node);
	return;
}

my ($until_ruler) = turn_lines($node, $start) =~ /\A(.*) LOG:  failed turn "m" of deployment "ruler" /s or die 'the log has no ruler';
is(scalar(held_lines('\w+', $until_ruler)), 0, 'for 20 s nothing is logged');
advance($node, '11 s');
ok(wait_until('the log tells of each', sub { held_lines('\w+') == 6 }), 'after 30 s the log tells of each');
is_deeply([ held_lines('answer') ],
	[ qq{turn "m" of deployment "answer" has lapsed, but a transaction has held it for 30 s in database "postgres"\nDETAIL:  Process $pid{answer} holds it.\nHINT:  End that transaction, and set "idle_in_transaction_session_timeout" for its role.} ],
	'the process, and what to do');
like((held_lines('savepoint'))[0], qr/^DETAIL:  Process $pid{savepoint} holds it\.$/m, 'of a savepoint the process too');
like((held_lines('prepared'))[0], qr/^DETAIL:  A prepared transaction holds it\.\nHINT:  Commit or roll back the prepared transaction\.$/m, 'of a prepared transaction that it is one');
advance($node, '10 min');
tried_again();
tried_again();
is(scalar(held_lines('\w+')), 6, 'once each, however long it lasts');

# Then each holder decides.
is(blocked_count(), '6|6', 'all of them are held');
$session{$_}->query_safe('COMMIT') foreach qw(answer lives);
$session{$_}->query_safe('ROLLBACK') foreach qw(savepoint locked several referrer);
is(join(', ', map { wait_ended($node, $_, 'm') } qw(savepoint locked several)), 'WORKER_NEVER_STARTED sweep, WORKER_NEVER_STARTED sweep, WORKER_UNRESPONSIVE sweep', 'rolled back: they fail');
is(blocked(), 'lives waiting, prepared lapsed 0', 'committed: one was answered, one lives');
is(ends($node, 'answer', 'm'), 'answer reply', 'with its answer');
$node->safe_psql('postgres', "COMMIT PREPARED 'holder'");
is(blocked() . ' ' . blocked_count(), 'lives waiting 0|0', 'nothing is held any more');

# A holder that comes again is told of again.
arm($node, 'again', 'm', $times);
$session{answer}->query_safe(q{BEGIN; SELECT turn_liveness.fail_turn('again', 'm', 'x')});
advance($node, '21 min');
tried_again();
advance($node, '31 s');
ok(wait_until('the log tells', sub { held_lines('again') == 1 }), 'another turn is told of');
$session{answer}->query_safe('ROLLBACK');
is(wait_ended($node, 'again', 'm'), 'WORKER_NEVER_STARTED sweep', 'and fails when it is let go');

# --- the deadline of a turn whose session has ended

# On the liveness clock: a stall of it moves a deadline as the view shows it.
sub deadline_of
{
	my ($deployment, $since) = @_;
	return $node->safe_psql('postgres',
		"SELECT t.state, round(extract(epoch FROM t.deadline - clock_timestamp() + turn_liveness.clock_now() - $since)), g.deadline - t.deadline < interval '1 s' FROM turn_liveness.turns t, turn_liveness.get_turn(t.deployment, t.message_id) g WHERE t.deployment = '$deployment'");
}

arm($node, $_, 'm', q{admission => '1 h', silence => '10 min'}) foreach qw(lost back);
my $worker = session($node);
$worker->query_safe(q{SELECT turn_liveness.attach_worker(d), turn_liveness.start_turn(d, 'm', 'w1') FROM unnest('{lost,back}'::text[]) d});
my $now = "timestamptz '" . sql('SELECT turn_liveness.clock_now()') . "'";
like(deadline_of('lost', $now), qr/^running\|(?:59\d|600)\|t$/, 'ten minutes of silence');
kill 'KILL', client_pid($worker);
eval { $worker->quit };
ok( $node->poll_query_until('postgres', q{SELECT deadline < clock_timestamp() + interval '5 min' FROM turn_liveness.turns WHERE deployment = 'lost'}),
	'its session ends: that is seen in its deadline');
my ($state, $from_before) = split /\|/, deadline_of('lost', $now);
my (undef, $from_after) = split /\|/, deadline_of('lost', 'turn_liveness.clock_now()');
is($state, 'running', 'it runs');
ok($from_before >= 239 && $from_after <= 240, 'until the reconnect window ends') or diag "$from_before $from_after";
$worker = session($node);
$worker->query_safe(q{SELECT turn_liveness.attach_worker('back')});
like(deadline_of('back', $now), qr/^running\|(?:59\d|600)\|t$/, 'attached again: its silence counts') or diag deadline_of('back', $now);
advance($node, '5 min');
is(wait_ended($node, 'lost', 'm'), 'WORKER_DIED session', 'then it is failed');
is(sql(q{SELECT state FROM turn_liveness.turns WHERE deployment = 'back'}), 'running', 'and not the other');
$worker->query_safe(q{SELECT turn_liveness.detach_worker('back'), turn_liveness.discharge_turn('back', 'm')});

# --- what the log says of a failure

my $number = '\d+\.\d';

# The lines of a deployment, without what stands before and after each
sub told
{
	my ($deployment) = @_;
	return turn_lines($node, $start) =~ /^.* turn_liveness worker 01000 LOG:  ((?:failed|offered) turn "m" of deployment "$deployment" .*?)(?:, decided by \w+ in database "postgres")$/mg;
}

is(scalar(told('lost')), 1, 'one line for a failure');
like((told('lost'))[0], qr/^failed turn "m" of deployment "lost" \(conversation "lost", platform "api", generation 1, worker "w1"\): WORKER_DIED, its session ended, armed $number s ago, started $number s ago$/, 'a lost session');
like(slurp_file($node->logfile, $start), qr/deployment "lost" .*, decided by session in database "postgres"$/m, 'which decided');

# Seconds of silence, and of how much, that a line tells
sub silence_in
{
	my ($line) = @_;
	return $line =~ /, silent for ($number) s of ($number) s, armed/;
}

arm($node, 'silent', 'm', q{'{"conversationId": "c-7", "platform": "slack", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}', admission => '1 h', silence => '10 min', rescue => '5 min'});
sql(q{SELECT turn_liveness.start_turn('silent', 'm', 'w1')});
advance($node, '5 min');
is(sql(q{SELECT turn_liveness.start_turn('silent', 'm', 'w 2', true)}), '2', 'a second worker takes it over');
advance($node, '11 min');
ok(wait_until('it is offered', sub { told('silent') == 1 }), 'an offer is logged');
my $who = 'turn "m" of deployment "silent" \(conversation "c-7", platform "slack", generation 2, worker "w 2", traceparent "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"\): WORKER_UNRESPONSIVE, silent for';
like((told('silent'))[0], qr/^offered $who/, 'with its worker, generation and trace');
my ($silent, $of) = silence_in((told('silent'))[0]);
ok($silent >= 660 && $silent < 900 && $of == 600, "silent for how long, of how much: $silent, $of");
advance($node, '6 min');
is(wait_ended($node, 'silent', 'm'), 'WORKER_UNRESPONSIVE sweep', 'its window ends');
like((told('silent'))[1], qr/^failed $who $number s of 600\.0 s, offered for $number s of 300\.0 s, armed $number s ago, started $number s ago$/, 'it was offered, for how long of how much');
is(sql(q{SELECT generation, worker FROM turn_liveness.replies WHERE deployment = 'silent'}), '2|w 2', 'as the view tells');

arm($node, 'never', 'm', q{admission => '5 min', silence => '5 min'});
arm($node, 'long', 'm', q{admission => '6 min', silence => '6 min', duration => '6 min'});
sql(q{SELECT turn_liveness.start_turn('long', 'm')});
arm($node, 'waits', 'm');
sql(q{SELECT turn_liveness.suspend_turn('waits', 'm', '5 min')});
advance($node, '7 min');
wait_ended($node, $_, 'm') foreach qw(never long waits);
like((told('never'))[0], qr/generation 1\): WORKER_NEVER_STARTED, waited for $number s of 300\.0 s, armed $number s ago$/, 'one that never started');
like((told('long'))[0], qr/generation 1\): TURN_TOO_LONG, took $number s of 360\.0 s, armed $number s ago, started $number s ago$/, 'one that took too long');
like((told('waits'))[0], qr/generation 1\): WAIT_EXPIRED, suspended for $number s, armed $number s ago$/, 'one that waited too long');

$_->quit foreach values %session, $worker;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$node->stop;
done_testing();
