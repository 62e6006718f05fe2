# The rescue window, with the real worker: what lapses is offered in time, told of,
# taken by exactly one, and failed at the window's end if no caller takes it.

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
listen_addresses = '127.0.0.1'
turn_liveness.mass_silence_hold = 0
turn_liveness.reconnect_window = 0
autovacuum = off
});
no_pauses($node);

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}

# A turn of a worker that has taken it: ten minutes of silence, then an hour in
# which it is offered.
sub running
{
	my ($deployment, $times) = @_;
	arm($node, $deployment, 'm', $times // q{admission => '20 h', silence => '10 min', duration => '20 h', rescue => '1 h'});
	sql("SELECT turn_liveness.start_turn('$deployment', 'm', 'w1')");
	return;
}

# State, generation and code of a turn that is owed
sub state_of
{
	my ($deployment) = @_;
	return sql("SELECT concat_ws(' ', state, generation, error_code) FROM turn_liveness.turns WHERE deployment = '$deployment'");
}

# Until the worker has offered it
sub wait_offered
{
	my ($on, $deployment) = @_;
	return $on->poll_query_until('postgres',
		"SELECT error_code IS NOT NULL FROM turn_liveness.turns WHERE state = 'lapsed' AND deployment = '$deployment'");
}

# The names of the deployments that a rescue takes, and with what they would have failed
sub rescued
{
	return sql(q{SELECT coalesce(string_agg(concat_ws(' ', deployment, message_id, generation, error_code), ', ' ORDER BY deployment), '') FROM turn_liveness.rescue_turns()});
}

# --- in time

my $listener = TurnLiveness::Socket->new($node);
$listener->query('LISTEN turn_liveness');
my $latest;
foreach my $what ('lapse', 'end of the window')
{
	in_time(
		$node, 0.1, 0,
		"the $what is told within 100 ms",
		sub {
			my ($try) = @_;
			my ($window, $key) = $what eq 'lapse' ? ('1 h', 'lapsed') : ('300 ms', 'conversations');
			my @names = map { substr($what, 0, 1) . "$try-$_" } 1 .. 11;
			my $list = "'" . join("','", @names) . "'";
			my $lost_before = sql('SELECT extract(epoch FROM clock_timestamp() - turn_liveness.clock_now())');
			# the first starts when the last was armed; each lapses at a time of its own
			my %due = map { split /\|/ } split /\n/, sql(
				join(';', map { my $ms = 500 + 73 * ++$latest % 803; "SELECT FROM turn_liveness.arm_turn('$_', 'm', silence => '$ms ms', rescue => '$window'), turn_liveness.start_turn('$_', 'm')" } @names)
				  . "; SELECT deployment, extract(epoch FROM deadline) FROM turn_liveness.turns WHERE error_code IS NULL AND deployment IN ($list)") =~ s/^\n+//r;
			my $at = $listener->told($key, @names);
			if ($what eq 'lapse')
			{
				# a busy machine armed the last when the first had been offered: this try tells nothing
				return 99 if keys %due < @names;
			}
			else
			{
				is(sql("SELECT count(*) FROM turn_liveness.replies WHERE error_code = 'WORKER_UNRESPONSIVE' AND deployment IN ($list)"),
					11, 'all have failed');
				# the window begins when the sweep has found the lapse
				%due = map { split /\|/ } split /\n/, sql(
					"SELECT deployment, extract(epoch FROM clock_timestamp() + (lapsed + rescue_ms * interval '1 ms' - turn_liveness.clock_now())) FROM turn_liveness.turn WHERE deployment IN ($list)");
				# a late tick has moved the ends of the windows: this try tells nothing
				my $lost = sql('SELECT extract(epoch FROM clock_timestamp() - turn_liveness.clock_now())') - $lost_before;
				return 99 if abs($lost) > 0.002;
			}
			my @late = sort { $a <=> $b } map { $at->{$_} - $due{$_} } @names;
			note 'seconds after it: ', join ' ', map { sprintf '%.4f', $_ } @late;
			cmp_ok($late[0], '>=', -0.005, 'none before it (a few milliseconds for two clocks)');
			return $late[-1] > 2 ? $late[-1] : median(@late);
		});
}
is(sql(q{SELECT count(*) FROM turn_liveness.turns WHERE deployment LIKE 'l%' AND state = 'lapsed' AND error_code = 'WORKER_UNRESPONSIVE'}) % 11,
	0, 'what lapsed and was not taken is owed');
sql('SELECT count(*) FROM turn_liveness.rescue_turns(1000)');
sql(q{SELECT count(turn_liveness.discharge_turn(deployment, 'm')) FROM turn_liveness.turns});

# --- a lapse, a rescue, a late sign of life

my $told = session($node);
$told->query_safe('LISTEN turn_liveness');
running('quiet');
advance($node, '9 min');
worker_looked($node);
is(state_of('quiet'), 'running 1', 'it runs until its deadline');
is(rescued(), '', 'and there is nothing to take');
advance($node, '2 min');
ok(notified($told, qr/"lapsed":\["quiet"\]/), 'then its deployment is told');
is(state_of('quiet'), 'lapsed 1 WORKER_UNRESPONSIVE', 'it is offered');
is(sql(q{SELECT turn_liveness.has_live_turn('quiet', 'm')}), 'f', 'and not live');
advance($node, '55 min');
worker_looked($node);
is(state_of('quiet'), 'lapsed 1 WORKER_UNRESPONSIVE', 'until its window ends');
advance($node, '6 min');
is(wait_ended($node, 'quiet', 'm'), 'WORKER_UNRESPONSIVE sweep', 'then it fails as without a window');
is(sql(q{SELECT turn_liveness.commit_terminal_reply('quiet', '{m}', '{}', '{1}')}), 'lost', 'and a late answer is lost');

running('revived');
advance($node, '11 min');
ok(wait_offered($node, 'revived'), 'one is offered');
is(sql(q{SELECT turn_liveness.heartbeat('revived', '{m}', '{1}')}), '1', 'its worker beats');
is(state_of('revived'), 'running 1', 'that revives it');
is(rescued(), '', 'so no caller gets it');
advance($node, '9 min');
worker_looked($node);
is(state_of('revived'), 'running 1', 'for its whole silence deadline');
$told->query('SELECT 1');
advance($node, '2 min');
ok(notified($told, qr/"lapsed":\["revived"\]/), 'it lapses again, and that is told again');
advance($node, '55 min');
worker_looked($node);
is(state_of('revived'), 'lapsed 1 WORKER_UNRESPONSIVE', 'with a whole window');
is(rescued(), 'revived m 2 WORKER_UNRESPONSIVE', 'in which a caller takes it');
is(state_of('revived'), 'waiting 2', 'then it waits for its next worker');
is(sql(q{SELECT turn_liveness.heartbeat('revived', '{m}', '{1}')}), '0', 'the earlier one is told to give up');
is(sql(q{SELECT turn_liveness.commit_terminal_reply('revived', '{m}', '{"content": "old"}', '{1}')}), 'stale', 'its answer is not delivered');
is(sql(q{SELECT turn_liveness.start_turn('revived', 'm', 'w2')}), '2', 'the next worker starts');
is(sql(q{SELECT turn_liveness.commit_terminal_reply('revived', '{m}', '{"content": "new"}', '{2}')}), 'won', 'and answers');

# Of what was taken and never started, the admission of the new generation lapses.
arm($node, 'waits', 'm', q{admission => '10 min', silence => '5 min', rescue => '1 h'});
advance($node, '11 min');
ok(wait_offered($node, 'waits'), 'one that never started is offered');
is(rescued(), 'waits m 2 WORKER_NEVER_STARTED', 'and taken');
advance($node, '11 min');
ok(wait_offered($node, 'waits'), 'its next worker does not start either: offered again');
is(rescued(), 'waits m 3 WORKER_NEVER_STARTED', 'and taken again');
is(sql(q{SELECT turn_liveness.fail_turn('waits', 'm', 'three workers did not start', 'GIVEN_UP')}), 'won', 'by a caller who has seen enough');

# --- no window for the duration limit, and for fail_deployment

running('long', q{admission => '10 min', silence => '10 min', duration => '10 min', rescue => '1 h'});
advance($node, '11 min');
is(wait_ended($node, 'long', 'm'), 'TURN_TOO_LONG sweep', 'the duration limit knows no window');
running('cut', q{admission => '10 min', silence => '5 min', duration => '30 min', rescue => '1 h'});
advance($node, '6 min');
ok(wait_offered($node, 'cut'), 'one is offered');
advance($node, '25 min');
is(wait_ended($node, 'cut', 'm'), 'TURN_TOO_LONG sweep', 'and ends at its duration limit all the same');
running('stopped');
advance($node, '11 min');
ok(wait_offered($node, 'stopped'), 'one is offered');
is(sql(q{SELECT turn_liveness.fail_deployment('stopped')}), '1', 'fail_deployment ends it');
is(ends($node, 'stopped', 'm'), 'WORKER_DIED fail', 'at once');

# --- a lost session

foreach my $deployment ('lost', 'lost-not-taken')
{
	running($deployment);
	my $worker = session($node);
	$worker->query_safe(qq{SELECT turn_liveness.attach_worker('$deployment')});
	kill 'KILL', client_pid($worker);
	eval { $worker->quit };
	ok(notified($told, qr/"lapsed":\["$deployment"\]/), "$deployment: a session ends, and that is told");
	is(state_of($deployment), 'lapsed 1 WORKER_DIED', "$deployment: its turn is offered at once");
}
is(sql(q{SELECT deployment, generation, error_code FROM turn_liveness.rescue_turns(1)}), 'lost|2|WORKER_DIED', 'the one that lapsed first is taken');
advance($node, '61 min');
is(wait_ended($node, 'lost-not-taken', 'm'), 'WORKER_DIED session', 'the other fails at its window\'s end');
is(state_of('lost'), 'waiting 2', 'and not that which was taken');
is(sql(q{SELECT turn_liveness.discharge_turn('lost', 'm')}), 't', 'which ends otherwise');

# --- many callers at once: each turn goes to one, with its job

sub offer_many
{
	my ($prefix, $n, $window) = @_;
	$window //= '1 h';
	sql("SELECT count(turn_liveness.arm_turn('$prefix' || i, 'm', admission => '20 h', silence => '10 min', rescue => '$window', duration => '20 h')) FROM generate_series(1, $n) i;"
		  . "SELECT count(turn_liveness.start_turn('$prefix' || i, 'm')) FROM generate_series(1, $n) i");
	# what is written in bulk is looked for once a second
	wait_clock($node, 2.5);
	# a busy worker looks later, and gives them their time from then on; what has lapsed
	# it may be about to offer, and a window of two minutes would pass with the next step
	wait_until(
		'they are offered',
		sub {
			my ($offered, $live) = split /\|/, sql("SELECT count(*) FILTER (WHERE t.lapsed IS NOT NULL), count(*) FILTER (WHERE v.state <> 'lapsed')"
				  . " FROM turn_liveness.turn t JOIN turn_liveness.turns v USING (deployment, message_id) WHERE t.outcome IS NULL AND deployment LIKE '$prefix%'");
			return 1 if $offered == $n;
			advance($node, '11 min') if $live == $n;
			worker_looked($node);
			return 0;
		}) or die 'they are not offered';
	return;
}

# Eight sessions; each one rolls every second of its transactions back.
sub rescuers
{
	my ($rounds) = @_;
	my $script = $node->basedir . '/rescue.sql';
	open my $file, '>', $script or die $!;
	print $file q{
\set n :n + 1
BEGIN;
INSERT INTO public.job SELECT deployment, message_id, generation FROM turn_liveness.rescue_turns(3);
\if :n % 2
ROLLBACK;
\else
COMMIT;
\endif
};
	close $file;
	my $out = '';
	my $run = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', $rounds, '-D', 'n=0', '-f', $script, $node->connstr('postgres') ],
		'<', \undef, '>&', \$out);
	return sub { $run->finish or diag $out; return $run->result == 0 };
}

sql('CREATE TABLE public.job (deployment text, message_id text, generation int)');
offer_many('many', 500);
my $before = sql('SELECT rescued FROM turn_liveness.stat');
ok(rescuers(100)->(), 'eight sessions take 500 turns');
sql('INSERT INTO public.job SELECT deployment, message_id, generation FROM turn_liveness.rescue_turns(1000)');
is(sql('SELECT count(*), count(DISTINCT deployment), min(generation), max(generation) FROM public.job'),
	'500|500|2|2', 'each is taken once, under its next generation');
is(sql(q{SELECT state, generation, count(*) FROM turn_liveness.turns WHERE deployment LIKE 'many%' GROUP BY 1, 2}), 'waiting|2|500', 'none is lost');
cmp_ok(sql('SELECT rescued FROM turn_liveness.stat') - $before, '>=', 750, 'and many were taken, rolled back, and taken again');
sql(q{SELECT count(turn_liveness.discharge_turn(deployment, 'm')) FROM turn_liveness.turns WHERE deployment LIKE 'many%'; TRUNCATE public.job});

# More than one letter of the sweep's holds: their windows end in time all the same.
offer_many('short', 500, '2 min');
wait_clock($node, 2.5);
advance($node, '3 min');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 500 FROM turn_liveness.reply WHERE deployment LIKE 'short%' AND error_code = 'WORKER_UNRESPONSIVE'}),
	'500 turns are offered at once: a window of two minutes ends for all of them');

# The window ends while they do: each is taken, or failed.
offer_many('end', 500);
my $finish = rescuers(30);
$node->poll_query_until('postgres', 'SELECT count(*) > 50 FROM public.job') or die 'none is taken';
advance($node, '61 min');
ok($finish->(), 'eight sessions while the window ends');
ok( wait_until(
		'all are taken or failed',
		sub { advance($node, '1 min'); sql(q{SELECT count(*) FROM turn_liveness.turns WHERE deployment LIKE 'end%' AND state = 'lapsed' AND generation = 1}) == 0 }),
	'the window of the others ends');
is( sql(q{
SELECT count(*), count(*) FILTER (WHERE j.deployment IS NULL = (t.generation = 1)), count(*) FILTER (WHERE j.deployment IS NULL = coalesce(t.outcome = 'e' AND r.n = 1, false))
FROM turn_liveness.turn t
LEFT JOIN (SELECT deployment FROM public.job GROUP BY 1 HAVING count(*) = 1) j USING (deployment)
LEFT JOIN (SELECT deployment, count(*) AS n FROM turn_liveness.reply WHERE error_code = 'WORKER_UNRESPONSIVE' AND generation = 1 GROUP BY 1) r USING (deployment)
WHERE t.deployment LIKE 'end%'}),
	'500|500|500', 'each is taken once, or has failed once');
cmp_ok(sql('SELECT count(*) FROM public.job'), '>', 50, 'some were taken');

$_->quit foreach $told;
$node->stop;

# --- what holds a failure holds the offer: a start of the server

# pauses are found here
$node = new_node(
	'held', q{
turn_liveness.turn_deadline = '10 min'
turn_liveness.mass_silence_hold = '20 min'
autovacuum = off
max_worker_processes = 20
});

# The turn is not offered for nine more minutes of silence, and is after that.  A
# pause that a busy machine makes of itself gives it another ten.
sub offered_after_grace
{
	my ($deployment, $what) = @_;
	advance($node, '9 min');
	worker_looked($node);
	is(state_of($deployment), 'running 1', "$what: it has a whole silence deadline");
	is(rescued(), '', "$what: there is nothing to take");
	ok( wait_until('it is offered', sub { advance($node, '2 min'); worker_looked($node); return state_of($deployment) =~ /^lapsed 1 W/ }),
		"$what: then it is offered");
	is(rescued(), "$deployment m 2 WORKER_UNRESPONSIVE", "$what: and taken");
	sql("SELECT turn_liveness.discharge_turn('$deployment', 'm')");
	return;
}

# One is offered, one was revived by a beat, one has just beaten: what the server has lost
# with its memory could have revived each of them.
running($_, q{admission => '10 min', silence => '10 min', duration => '20 h', rescue => '1 h'}) foreach qw(offered revived);
ok( wait_until('they are offered', sub { advance($node, '3 min'); worker_looked($node); return state_of('offered') . state_of('revived') =~ /^(lapsed 1 W\w+){2}$/ }),
	'start: two are offered');
is(sql(q{SELECT turn_liveness.heartbeat('revived', '{m}', '{1}')}), '1', 'start: a beat');
is(state_of('revived'), 'running 1', 'start: revives one');
running('runs', q{admission => '10 min', silence => '10 min', duration => '20 h', rescue => '1 h'});
advance($node, '4 min');
$node->stop('immediate');
$node->start;
wait_worker($node);
is(rescued(), '', 'start: there is nothing to take');
advance($node, '8 min');
worker_looked($node);
is(rescued(), '', 'start: for a silence deadline');
is(state_of($_), 'waiting 1', "start: $_ waits for a beat") foreach qw(offered revived runs);
is(sql(q{SELECT turn_liveness.heartbeat('revived', '{m}', '{1}')}), '1', 'start: which one gets');
# that one beats on: after a pause that a busy machine makes all lapse at once
ok( wait_until(
		'they are offered',
		sub {
			advance($node, '2 min');
			worker_looked($node);
			sql(q{SELECT turn_liveness.heartbeat('revived', '{m}', '{1}')});
			return state_of('offered') . state_of('runs') =~ /^(lapsed 1 W\w+){2}$/;
		}),
	'start: then the others are offered');
is(rescued(), 'offered m 2 WORKER_UNRESPONSIVE, runs m 2 WORKER_UNRESPONSIVE', 'start: and taken');
is(state_of('revived'), 'running 1', 'start: one lives');
sql(q{SELECT count(turn_liveness.discharge_turn(deployment, 'm')) FROM turn_liveness.turns});

# --- a pause of the worker

running('paused');
advance($node, '9 min');
my $pid = worker_pid($node);
kill 'STOP', $pid;
wall_clock_passes(3);
kill 'CONT', $pid;
ok($node->poll_query_until('postgres', q{SELECT grace LIKE '%pause%' FROM turn_liveness.stat_row()}), 'pause: it is noted');
offered_after_grace('paused', 'pause');

# --- sweep = off

$told = session($node);
$told->query_safe('LISTEN turn_liveness');
running('off');
sql('ALTER DATABASE postgres SET turn_liveness.sweep = off');
$node->poll_query_until('postgres', 'SELECT NOT sweep_enabled FROM turn_liveness.stat_row()') or die 'the sweep goes on';
advance($node, '11 min');
sql(q{SELECT turn_liveness.reject_turn('round', 'm', '{}', 'x')});
my $heard = '';
ok(wait_until('a round', sub { $heard .= $told->query('SELECT 1'); $heard =~ /"round"/ }), 'sweep = off: the worker goes on');
is(state_of('off'), 'lapsed 1', 'sweep = off: a lapse is shown, without a code');
is(rescued(), '', 'sweep = off: and not offered');
unlike($heard, qr/"lapsed":\["/, 'sweep = off: nor told of');
sql('ALTER DATABASE postgres RESET turn_liveness.sweep');
$node->poll_query_until('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat_row()') or die 'the sweep stays off';
offered_after_grace('off', 'sweep = on again');
ok(notified($told, qr/"lapsed":\["off"\]/), 'sweep = on again: and told of');

# --- mass silence

sql(q{
SELECT count(turn_liveness.arm_turn('mass' || i, 'm', admission => '20 h', duration => '20 h', rescue => '1 h')) FROM generate_series(1, 20) i;
SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'mass' || i FROM generate_series(1, 20) i))});
advance($node, '15 min');
advance($node, '1 s');
is(rescued(), '', 'mass silence: nothing is offered');
is(sql(q{SELECT count(*) FROM turn_liveness.turns WHERE deployment LIKE 'mass%' AND error_code IS NULL}), '20', 'mass silence: none of 20');
like(sql('SELECT grace FROM turn_liveness.stat_row()'), qr/mass silence/, 'mass silence: a rescue is no sign of a worker');
is(sql(q{SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'mass' || i FROM generate_series(1, 10) i))}), '0', 'mass silence: half of them beat again');
ok( wait_until(
		'the others are offered',
		sub {
			advance($node, '3 min');
			sql(q{SELECT count(*) FROM turn_liveness.heartbeats(ARRAY(SELECT 'mass' || i FROM generate_series(1, 10) i))});
			worker_looked($node);
			return sql(q{SELECT count(*) FROM turn_liveness.turns WHERE deployment LIKE 'mass%' AND error_code IS NOT NULL}) == 10;
		}),
	'mass silence: the others are offered in the end');
is(sql(q{SELECT count(*), min(substr(deployment, 5)::int) FROM turn_liveness.rescue_turns()}), '10|11', 'mass silence: just those');
$told->quit;
$node->stop;

# --- without preload: a session sweeps

$node = new_node('bare', "autovacuum = off\n", preload => 0);
$told = session($node);
$told->query_safe('LISTEN turn_liveness');
running('bare');
running('bare-beats');
running('bare-ends');
advance($node, '9 min');
is(sql('SELECT turn_liveness.sweep_expired_turns()') . state_of('bare'), '0running 1', 'without preload: it runs');
advance($node, '2 min');
is(sql('SELECT turn_liveness.sweep_expired_turns()'), '0', 'without preload: a session sweeps, and fails none');
ok(notified($told, qr/payload "\{\}"/), 'without preload: it tells');
is(state_of('bare'), 'lapsed 1 WORKER_UNRESPONSIVE', 'without preload: but offers what has lapsed');
is(sql(q{SELECT turn_liveness.heartbeat('bare-beats', '{m}', '{1}')}), '1', 'without preload: one beats, in its row');
is(sql('SELECT deployment, generation FROM turn_liveness.rescue_turns(1)'), 'bare|2', 'without preload: one is taken');
is(rescued() . state_of('bare-beats'), 'bare-ends m 2 WORKER_UNRESPONSIVErunning 1', 'without preload: another, and not the one that is alive');

# A look for what can be taken leaves no trace in what was revived.
running('polled');
advance($node, '11 min');
sql(q{SELECT turn_liveness.heartbeat('bare-beats', '{m}', '{1}'), turn_liveness.sweep_expired_turns()});
is(sql(q{SELECT turn_liveness.heartbeat('polled', '{m}', '{1}')}) . state_of('polled'), '1running 1', 'without preload: one is revived');
advance($node, '6 min');
is(rescued(), '', 'without preload: and not taken');
advance($node, '6 min');
sql(q{SELECT turn_liveness.heartbeat('bare-beats', '{m}', '{1}'), turn_liveness.sweep_expired_turns()});
is(state_of('polled'), 'lapsed 1 WORKER_UNRESPONSIVE', 'without preload: it lapses again after its silence deadline');
sql(q{SELECT turn_liveness.discharge_turn('polled', 'm')});

# Generations in rows
sql(q{SELECT turn_liveness.start_turn(d, 'm') FROM unnest('{bare,bare-ends}'::text[]) d});
advance($node, '9 min');
sql(q{SELECT turn_liveness.heartbeat('bare', '{m}', '{2}'), turn_liveness.heartbeat('bare-beats', '{m}', '{1}')});
is(sql(q{SELECT turn_liveness.heartbeat('bare', '{m}', '{1}'), turn_liveness.heartbeat('bare-ends', '{m}', '{1}')}), '0|0', 'without preload: beats of earlier holders say 0');
advance($node, '2 min');
is(sql('SELECT turn_liveness.sweep_expired_turns()') . state_of('bare-ends'), '0lapsed 2 WORKER_UNRESPONSIVE', 'without preload: and are nothing');

# Where beats go to rows, a beat may have met a row that another transaction held and
# rolled back: the turn gets its time again, and is offered then.
is(sql('BEGIN; SELECT deployment, generation FROM turn_liveness.rescue_turns(1); ROLLBACK'), 'bare-ends|3', 'without preload: one is taken, and that rolls back');
is(rescued() . sql('SELECT turn_liveness.sweep_expired_turns()') . state_of('bare-ends'), '0running 2', 'without preload: it may have beaten meanwhile');
advance($node, '11 min');
sql(q{SELECT turn_liveness.heartbeat('bare', '{m}', '{2}'), turn_liveness.heartbeat('bare-beats', '{m}', '{1}')});
is(sql('SELECT turn_liveness.sweep_expired_turns()') . state_of('bare-ends'), '0lapsed 2 WORKER_UNRESPONSIVE', 'without preload: it is offered again');
advance($node, '61 min');
sql(q{SELECT turn_liveness.heartbeat('bare', '{m}', '{2}'), turn_liveness.heartbeat('bare-beats', '{m}', '{1}')});
is(sql('SELECT turn_liveness.sweep_expired_turns()'), '1', 'without preload: a window ends');
is(ends($node, 'bare-ends', 'm'), 'WORKER_UNRESPONSIVE sweep', 'without preload: and its turn fails');
is(sql('SELECT string_agg(deployment, \',\' ORDER BY 1) FROM turn_liveness.turns'), 'bare,bare-beats', 'without preload: no other');
$told->quit;
$node->stop;
done_testing();
