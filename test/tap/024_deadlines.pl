# The rules of time, with the real worker and a clock that the test drives.  The
# deadlines are minutes: what the machine itself takes between two steps is nothing.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TurnLiveness;

my $node = new_node('main', "autovacuum = off\nturn_liveness.mass_silence_hold = 0\n");
no_pauses($node);
my $session = session($node);
my $canaries = 0;

sub sql
{
	my ($query) = @_;
	return $session->query_safe($query);
}

# The worker has looked at all that had lapsed until now.  The session that is there
# asks: what new ones take would come off the time that a turn has left.
sub swept
{
	my $name = 'canary' . ++$canaries;
	sql("SELECT turn_liveness.arm_turn('$name', 'm', admission => '1ms')");
	wait_until('the worker sweeps', sub { sql("SELECT count(*) FROM turn_liveness.reply WHERE deployment = '$name'") > 0 })
	  or die 'the worker does not sweep';
	return;
}

sub pass_time
{
	my ($minutes) = @_;
	sql("SELECT public.tl_advance('$minutes min')");
	swept();
	return;
}

# The state of each turn of a deployment: of those owed, and the codes of the
# others
sub states
{
	my ($deployment) = @_;
	return sql(
		qq{SELECT coalesce(string_agg(m || ' ' || s, ', ' ORDER BY m), '') FROM (
			SELECT message_id AS m, state AS s FROM turn_liveness.turns WHERE deployment = '$deployment'
			UNION ALL
			SELECT unnest(message_ids), coalesce(error_code, outcome) FROM turn_liveness.replies WHERE deployment = '$deployment') x});
}

sub arm_here
{
	my ($deployment, $message, $times) = @_;
	$times = $times ? ", $times" : '';
	return sql("SELECT turn_liveness.arm_turn('$deployment', '$message'$times)");
}

sub beat
{
	my ($deployment, $messages) = @_;
	return sql("SELECT turn_liveness.heartbeat('$deployment'" . ($messages ? ", '{$messages}'" : '') . ')');
}

# --- an address where an earlier version of the row stood, which was looked at
# much later: first of all, while one page holds the whole table

arm_here('address', 'm', q{admission => '60 s', silence => '60 s'});
sql("SELECT turn_liveness.suspend_turn('address', 'm', '1 h')");
my $address = sql("SELECT ctid FROM turn_liveness.turn WHERE deployment = 'address'");
pass_time(1.1);
sql("SELECT turn_liveness.resume_turn('address', 'm')");
sql("SELECT turn_liveness.start_turn('address', 'm')");
for (1 .. 2)
{
	pass_time(0.6);
	sql("SELECT turn_liveness.heartbeat('address', '{m}', '{2}')");
}
$node->safe_psql('postgres', 'VACUUM turn_liveness.turn');
for (1 .. 100)
{
	sql("SELECT turn_liveness.post_update('address', 'm', '{}', 2)");
	last if sql("SELECT ctid FROM turn_liveness.turn WHERE deployment = 'address'") eq $address;
}
is(sql("SELECT ctid FROM turn_liveness.turn WHERE deployment = 'address'"),
	$address, 'the row is back at the address where it was suspended');
pass_time(0.8);
is(sql("SELECT state FROM turn_liveness.turns WHERE deployment = 'address'"), 'running', '... and it lives');
pass_time(0.3);
is(sql("SELECT error_code FROM turn_liveness.replies WHERE deployment = 'address' AND outcome = 'error'"),
	'WORKER_UNRESPONSIVE', '... and fails when it lapses');

# --- a turn of another place that is offered: its window is no longer than armed

arm_here('elsewhere', 'm', q{rescue => '2 min'});
worker_looked($node);
sql("UPDATE turn_liveness.turn SET epoch = (1::bigint << 32) + 1 WHERE deployment = 'elsewhere'");
pass_time(0.1);
worker_looked($node);
pass_time(9);
is(states('elsewhere'), 'm waiting', 'of another place: left alone at first');
pass_time(1.5);
is(states('elsewhere'), 'm lapsed', 'of another place: offered');
pass_time(1);
is(states('elsewhere'), 'm lapsed', '... for its window');
pass_time(1.5);
is(states('elsewhere'), 'm WORKER_UNRESPONSIVE', '... and then failed');

# --- a turn that has lapsed and is held: the 30 s of the log are those of one lapse

my $holder = session($node);
my $hold = q{BEGIN; SELECT 1 FROM turn_liveness.turn WHERE deployment = 'held-twice' FOR UPDATE};
arm_here('held-twice', 'm');
beat('held-twice');
$holder->query_safe($hold);
pass_time(1.1);
is(states('held-twice'), 'm lapsed', 'held: not failed');
beat('held-twice');
$holder->query_safe('ROLLBACK');
pass_time(0.8);
is(states('held-twice'), 'm running', 'held no more, and a beat came');
$holder->query_safe($hold);
my $log = -s $node->logfile;
pass_time(0.3);
is(states('held-twice'), 'm lapsed', 'held again');
unlike(slurp_file($node->logfile, $log), qr/"held-twice" has lapsed, but/, '... and the log waits again');
pass_time(0.6);
like(slurp_file($node->logfile, $log), qr/"held-twice" has lapsed, but a transaction has held it for 30 s/, '... for 30 s');
$holder->query_safe('ROLLBACK');
$holder->quit;
pass_time(0.1);
is(states('held-twice'), 'm WORKER_UNRESPONSIVE', 'held no more: failed');

# --- admission

arm_here('adm', 'm', q{admission => '10 min'});
pass_time(9);
is(states('adm'), 'm waiting', 'admission: waiting before it is over');
pass_time(2);
is(states('adm'), 'm WORKER_NEVER_STARTED', 'admission: never started after it');
arm_here('adm-default', 'm');
pass_time(2);
is(states('adm-default'), 'm waiting', 'admission: 180 s by default');
pass_time(1.1);
is(states('adm-default'), 'm WORKER_NEVER_STARTED', 'admission: not longer');
is(sql(q{SELECT first_beat IS NULL AND last_beat IS NULL FROM turn_liveness.replies WHERE deployment = 'adm'}),
	't', 'admission: no beat is shown');

# --- the turn deadline

arm_here('turn', 'm', q{admission => '1h', silence => '10 min'});
is(sql(q{SELECT round(extract(epoch FROM deadline - armed_at) / 60) FROM turn_liveness.turns WHERE deployment = 'turn'}),
	60, 'the view shows the admission deadline');
foreach my $round (1 .. 4)
{
	is(beat('turn'), 1, "silence: beat $round");
	is(states('turn'), 'm running', "silence: running after beat $round");
	is(sql(q{SELECT round(extract(epoch FROM deadline - last_beat) / 60) FROM turn_liveness.turns WHERE deployment = 'turn'}),
		10, "silence: the deadline after beat $round");
	pass_time(9);
}
is(states('turn'), 'm running', 'silence: each beat gives ten minutes');
pass_time(2);
is(states('turn'), 'm WORKER_UNRESPONSIVE', 'silence: then it is failed');
is(sql(q{SELECT first_beat < last_beat AND last_beat < created_at FROM turn_liveness.replies WHERE deployment = 'turn'}),
	't', 'silence: its beats are shown');

arm_here('default', 'm', q{admission => '1h'});
beat('default', 'm');
pass_time(0.5);
is(states('default'), 'm running', 'silence: 60 s by default');
pass_time(0.6);
is(states('default'), 'm WORKER_UNRESPONSIVE', 'silence: not longer');

# --- times are stored with the turn

my $other = session($node);
$other->query_safe(q{SET turn_liveness.admission_deadline = '10 min'; SET turn_liveness.turn_deadline = '20 min'});
$other->query_safe(q{SELECT turn_liveness.arm_turn('stored', 'short')});
arm_here('stored', 'long', q{admission => '20 min'});
$other->query_safe('RESET ALL');
pass_time(15);
is(states('stored'), 'long waiting, short WORKER_NEVER_STARTED', 'the settings of the arm count');
$other->quit;

# --- the duration limit

arm_here('dur', 'm', q{admission => '10 min', silence => '10 min', duration => '30 min'});
foreach my $round (1 .. 5)
{
	is(beat('dur'), 1, "duration: beat $round");
	pass_time(5);
}
is(states('dur'), 'm running', 'duration: 25 min');
is(arm_here('dur', 'm', q{admission => '10 min', silence => '10 min'}), 'pending', 'duration: armed again');
beat('dur');
pass_time(3);
is(states('dur'), 'm running', 'duration: 28 min');
pass_time(3);
is(states('dur'), 'm TURN_TOO_LONG', 'duration: over, beats or not, armed again or not');
arm_here('dur-wait', 'm', q{admission => '10 min', silence => '5 min', duration => '10 min'});
pass_time(11);
like(states('dur-wait'), qr/^m (TURN_TOO_LONG|WORKER_NEVER_STARTED)$/, 'duration: as long as admission');

# --- a busy worker and those that queue behind it

my $queue = q{admission => '60 min', silence => '10 min'};
sub make_queue
{
	my ($deployment) = @_;
	arm_here($deployment, $_, $queue) foreach 1 .. 3;
	return;
}

# It beats for the turn that it is on, by name.
make_queue('named');
foreach my $round (1 .. 11)
{
	beat('named', 1);
	pass_time(5);
}
is(states('named'), '1 running, 2 waiting, 3 waiting', 'queue: 55 min of named beats start nobody else');
beat('named', 1);
beat('named', 2);
pass_time(6);
is(states('named'), '1 running, 2 running, 3 WORKER_NEVER_STARTED',
	'queue: admission goes on while the worker is busy');
pass_time(5);
is(states('named'), '1 WORKER_UNRESPONSIVE, 2 WORKER_UNRESPONSIVE, 3 WORKER_NEVER_STARTED',
	'queue: a started turn has its turn deadline');

# It beats for the whole deployment too.
make_queue('both');
foreach my $round (1 .. 20)
{
	beat('both', 1);
	is(beat('both'), 3, "queue: 3 owed, round $round");
	pass_time(5);
}
is(states('both'), '1 running, 2 waiting, 3 waiting',
	'queue: beats for the deployment keep the queue alive past its admission');
# now it hangs
pass_time(6);
is(states('both'), '1 WORKER_UNRESPONSIVE, 2 WORKER_NEVER_STARTED, 3 WORKER_NEVER_STARTED',
	'queue: it hangs, all of them end');

# One beat for the deployment shortens no turn's admission.
make_queue('once');
beat('once');
pass_time(30);
is(states('once'), '1 waiting, 2 waiting, 3 waiting', 'queue: one beat for the deployment starts nobody');
pass_time(25);
beat('once');
pass_time(9);
is(states('once'), '1 waiting, 2 waiting, 3 waiting', 'queue: it lengthens their time');
pass_time(2);
is(states('once'), '1 WORKER_NEVER_STARTED, 2 WORKER_NEVER_STARTED, 3 WORKER_NEVER_STARTED',
	'queue: by a turn deadline');

# The only one that is owed is started by it, also when it becomes the only one.
make_queue('last');
beat('last');
sql(q{SELECT turn_liveness.commit_terminal_reply('last', '{1,2}', '{}')});
is(states('last'), '1 answer, 2 answer, 3 waiting', 'queue: one is left');
is(beat('last'), 1, 'queue: the count tells');
is(states('last'), '1 answer, 2 answer, 3 running', 'queue: then a beat for the deployment starts it');
pass_time(11);
is(states('last'), '1 answer, 2 answer, 3 WORKER_UNRESPONSIVE', 'queue: and its turn deadline counts');

# A beat before the arm is nothing, for those that were armed before it is not.
arm_here('before', 1, q{admission => '1h', silence => '10 min'});
beat('before');
arm_here('before', 2, q{admission => '5 min', silence => '10 min'});
is(states('before'), '1 running, 2 waiting', 'a beat before the arm is nothing');
pass_time(6);
is(states('before'), '1 running, 2 WORKER_NEVER_STARTED', 'so it lapses by its admission');

# --- armed again

arm_here('again', 'm', q{admission => '20 min', silence => '10 min'});
beat('again');
pass_time(8);
is(arm_here('again', 'm', q{admission => '20 min', silence => '10 min'}), 'pending', 'hand-over: armed again');
is(states('again'), 'm waiting', 'hand-over: waiting again');
pass_time(11);
is(states('again'), 'm waiting', 'hand-over: its turn deadline is over and does not count');
beat('again', 'm');
is(states('again'), 'm running', 'hand-over: the next worker starts it');
pass_time(11);
is(states('again'), 'm WORKER_UNRESPONSIVE', 'hand-over: then silence counts');

# --- a provider has failed: beats are withheld

# --- a turn of another place: a beat from before its first sight is no sign of its worker

foreach my $deployment ('restored', 'restored-beats')
{
	arm_here($deployment, 'here', q{admission => '1h', silence => '1h'});
	arm_here($deployment, 'm', q{admission => '2 min', silence => '2 min'});
	beat($deployment);
}
worker_looked($node);
sql("UPDATE turn_liveness.turn SET epoch = (1::bigint << 32) + 1 WHERE deployment LIKE 'restored%' AND message_id = 'm'");
pass_time(0.1);
worker_looked($node);
beat('restored-beats');
pass_time(3);
is(states('restored'), 'here waiting, m waiting', 'restored: the deployment had beaten before');
is(states('restored-beats'), 'here waiting, m WORKER_UNRESPONSIVE', 'restored: a beat from after it counts');
pass_time(6);
is(states('restored'), 'here waiting, m waiting', 'restored: for restore_grace');
pass_time(1.5);
is(states('restored'), 'here waiting, m WORKER_UNRESPONSIVE', 'restored: and no longer');
sql("SELECT turn_liveness.discharge_turn(deployment, message_id) FROM turn_liveness.turns WHERE deployment LIKE 'restored%'");

arm_here('quota', 'm', q{admission => '1h', silence => '10 min'});
beat('quota');
pass_time(3);
is(sql(q{SELECT turn_liveness.mark_provider_failed('quota', 'QUOTA', 'no money')}), 1, 'withheld: marked');
is(sql(q{SELECT turn_liveness.mark_provider_failed('quota', 'OTHER', 'later')}) =~ /^[01]$/, 1, 'withheld: twice');
pass_time(3);
is(beat('quota'), 1, 'withheld: a beat tells that it is owed');
is(beat('quota', 'm'), 1, 'withheld: one by name too');
is(states('quota'), 'm withheld', 'withheld: the view shows it');
arm_here('quota', 'new', q{admission => '1h', silence => '10 min'});
beat('quota', 'new');
pass_time(5);
is(states('quota'), 'm QUOTA, new running', 'withheld: at the frozen deadline it is failed, a new one lives');
is(sql(q{SELECT payload->>'error', decided_by FROM turn_liveness.replies WHERE deployment = 'quota' AND error_code = 'QUOTA'}),
	'no money|sweep', 'withheld: with the first mark');

arm_here('cleared', 'm', q{admission => '1h', silence => '10 min'});
beat('cleared');
sql(q{SELECT turn_liveness.mark_provider_failed('cleared', 'QUOTA', 'no money')});
pass_time(6);
is(sql(q{SELECT turn_liveness.clear_provider_failed('cleared')}), 1, 'cleared');
beat('cleared');
pass_time(9);
is(states('cleared'), 'm running', 'cleared: beats extend it again');
pass_time(2);
is(states('cleared'), 'm WORKER_UNRESPONSIVE', 'cleared: and it lapses as ever');

# --- sweep = off for a database

my $listener = session($node);
$listener->query_safe('LISTEN turn_liveness');
my $earlier = session($node);
arm_here('off', 'm1', q{admission => '5 min', silence => '2 min'});
arm_here('off', 'm2', q{admission => '1h', silence => '2 min'});
arm_here('off-long', 'm', q{admission => '5 min', silence => '5 min', duration => '5 min'});
beat('off', 'm2');
in_time(
	$node, 1, 5,
	'sweep = off reaches the worker within a second',
	sub {
		$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.sweep');
		$node->poll_query_until('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat_row()') or die 'the sweep stays off';
		my $since = time;
		$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.sweep = off');
		$node->poll_query_until('postgres', 'SELECT NOT sweep_enabled FROM turn_liveness.stat_row()') or die 'the sweep goes on';
		return time - $since;
	});
advance($node, '10 min');
arm($node, 'off-alive', 'm', q{admission => '1h'});
is($node->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('off-alive', '{m}', '{}')}),
	'won', 'sweep off: elections go on');
ok(notified($listener, qr/off-alive/), 'sweep off: listeners are told');
advance($node, '1 min');
$node->safe_psql('postgres', q{SELECT turn_liveness.arm_turn('off-alive', 'm2'); SELECT turn_liveness.commit_terminal_reply('off-alive', '{m2}', '{}')});
ok(notified($listener, qr/off-alive/), 'sweep off: again, a round later');
is(states('off'), 'm1 lapsed, m2 lapsed', 'sweep off: what lapsed is shown');
is(states('off-long'), 'm lapsed', 'sweep off: the duration limit is held too');
is($node->safe_psql('postgres', q{SELECT turn_liveness.has_live_turn('off', 'm1')}), 'f', 'sweep off: it is not live');
is($node->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), 0, 'sweep off: a session does not sweep either');
is($earlier->query_safe('SELECT turn_liveness.sweep_expired_turns()'), 0, 'sweep off: nor one that connected before');
$earlier->quit;
like($node->safe_psql('postgres', 'SELECT grace FROM turn_liveness.stat_row()'), qr/sweep off/, 'sweep off: stat tells');

# a beat revives what no sweep has taken
is($node->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('off', '{m2}')}), 1, 'sweep off: a lapsed turn beats');
is(states('off'), 'm1 lapsed, m2 running', 'sweep off: and is alive');

# a duration that was shortened below the turn's silence
arm_here('off-short', 'm', q{admission => '10 min', silence => '10 min', duration => '1h'});
sql(q{SELECT turn_liveness.arm_turn('off-short', 'm', duration => '3 min')});

# the end of an attached session is held as well
my $attached = session($node);
foreach my $deployment ('off-attached', 'off-started', 'off-back')
{
	arm_here($deployment, 'm', q{admission => '1h', silence => '2 min'});
	$attached->query_safe("SELECT turn_liveness.attach_worker('$deployment')");
}
beat('off-started');
$attached->quit;
advance($node, '5 min');
$node->safe_psql('postgres', q{SELECT turn_liveness.arm_turn('off-alive', 'm3'); SELECT turn_liveness.commit_terminal_reply('off-alive', '{m3}', '{}')});
ok(notified($listener, qr/off-alive/), 'sweep off: a round later');
is(states('off-attached'), 'm lapsed', 'sweep off: the end of a session fails no turn');
is(sql(q{SELECT state, has_live_turn FROM turn_liveness.get_turn('off-attached', 'm'), turn_liveness.has_live_turn('off-attached', 'm')}),
	'lapsed|f', 'sweep off: which is not live');

# On again
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.sweep');
ok($node->poll_query_until('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat_row()'),
	'sweep on again: it reaches the worker');
is(states('off') . states('off-long'), 'm1 waiting, m2 runningm waiting',
	'sweep on again: each gets time') or diag states('off'), ' ', states('off-long');
pass_time(1.5);
is(states('off') . states('off-long'), 'm1 waiting, m2 runningm waiting', 'sweep on again: one turn deadline (2 min)');
is(states('off-attached') . states('off-started'), 'm waitingm running', 'sweep on again: after the end of a session too');
beat('off-back');
pass_time(0.7);
is(states('off-attached') . states('off-started'), 'm WORKER_DIEDm WORKER_DIED', 'sweep on again: then it has died');
is(states('off-back'), 'm running', 'sweep on again: but for the worker that beat');
is(states('off') . ', ' . states('off-long'),
	'm1 WORKER_NEVER_STARTED, m2 WORKER_UNRESPONSIVE, m waiting', 'sweep on again: and no more; another one has another (5 min)');
pass_time(2.0);
is(states('off-long'), 'm waiting', 'sweep on again: before it is over');
is(states('off-short'), 'm TURN_TOO_LONG', 'sweep on again: no turn deadline is longer than the duration (3 min)');
pass_time(1.0);
is(states('off') . ', ' . states('off-long'),
	'm1 WORKER_NEVER_STARTED, m2 WORKER_UNRESPONSIVE, m TURN_TOO_LONG', 'sweep on again: they are failed with their codes');

arm($node, 'off-later', 'm', q{admission => '200ms'});
is(wait_ended($node, 'off-later', 'm'), 'WORKER_NEVER_STARTED sweep', 'sweep on again: a later turn has its own deadlines');

# --- accept = off: a worker that the server refuses is not dead

my @drained = map { "drained-$_" } qw(gone beats attaches);
$attached = session($node);
foreach my $deployment (@drained)
{
	arm_here($deployment, 'm', q{admission => '1h', silence => '2 min'});
	$attached->query_safe("SELECT turn_liveness.attach_worker('$deployment')");
}
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.accept = off');
ok($node->poll_query_until('postgres', 'SELECT NOT sweep_enabled FROM turn_liveness.stat_row()'), 'accept off: it reaches the worker');
$attached->quit;
foreach my $call ("attach_worker('drained-attaches')", "heartbeat('drained-beats')")
{
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT turn_liveness.$call");
	like($error, qr/55000/, "accept off: refused: $call");
}
advance($node, '5 min');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.accept');
ok($node->poll_query_until('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat_row()'), 'accept on again: it reaches the worker');
pass_time(1.5);
is(join(' ', map { states($_) } @drained), 'm waiting m waiting m waiting', 'accept on again: one turn deadline (2 min)');
beat('drained-beats');
$attached = session($node);
$attached->query_safe(q{SELECT turn_liveness.attach_worker('drained-attaches')});
pass_time(0.7);
is(join(' ', map { states($_) } @drained), 'm WORKER_DIED m running m waiting', 'accept on again: who came back lives');
$attached->query_safe(q{SELECT turn_liveness.detach_worker('drained-attaches')});
$attached->quit;

# --- another database's settings are its own

$node->safe_psql('postgres', 'CREATE DATABASE other');
add_extension($node, 'other');
$node->safe_psql('postgres', 'ALTER DATABASE other SET turn_liveness.sweep = off');
$node->poll_query_until('other', 'SELECT NOT sweep_enabled FROM turn_liveness.stat_row()');
$node->safe_psql('other', q{SELECT turn_liveness.arm_turn('o', 'm', admission => '10ms', silence => '10ms')});
arm($node, 'here', 'm', q{admission => '300ms', silence => '300ms'});
is(wait_ended($node, 'here', 'm'), 'WORKER_NEVER_STARTED sweep', 'off in one database: the other is swept');
is($node->safe_psql('other', 'SELECT state FROM turn_liveness.turns'), 'lapsed', 'it is not');

# --- enabled = off for a database

$node->safe_psql('postgres', 'ALTER DATABASE other RESET turn_liveness.sweep');
$node->safe_psql('postgres', 'ALTER DATABASE other SET turn_liveness.enabled = off');
ok($node->poll_query_until('other', q{SELECT worker_state = 'disabled' FROM turn_liveness.stat_row()}),
	'enabled = off ends the worker of that database');
like(worker_pid($node), qr/^\d+$/, 'the other one stays');
is($node->safe_psql('other', 'SELECT turn_liveness.sweep_expired_turns() + turn_liveness.sweep_expired_turns()') =~ /^[01]$/,
	1, 'a session may sweep');
ok($node->poll_query_until('other',
		'SELECT turn_liveness.sweep_expired_turns() >= 0 AND EXISTS (SELECT FROM turn_liveness.reply)'),
	'and fails what has lapsed');
$node->safe_psql('postgres', 'ALTER DATABASE other RESET turn_liveness.enabled');
wait_worker($node, 'other');
$node->safe_psql('other', q{SELECT turn_liveness.arm_turn('o', 'm2', admission => '10ms', silence => '10ms')});
ok($node->poll_query_until('other', 'SELECT count(*) = 2 FROM turn_liveness.reply'), 'enabled again');

$listener->quit;
$session->quit;
$node->stop;
done_testing();
