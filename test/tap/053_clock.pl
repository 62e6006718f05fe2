# What becomes of the times of a turn in all that can happen to a server and to a
# database: the clock is stored nowhere, and each case has its floor.
#
# Deadlines are hours, and the tests drive both the liveness clock and the wall
# clock, so that what the machine takes is nothing.  due_in() asks the view when
# a turn would lapse; some cases ask the worker too.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $HOUR = 3600;
my $MARGIN = 600;		# what the machine may take in a case
my $settings = q{
turn_liveness.mass_silence_hold = 0
turn_liveness.turn_deadline = '2 h'
autovacuum = off
checkpoint_timeout = 1h
};
my $node = new_node('main', $settings, wall_clock => 1, streaming => 1);
no_pauses($node);

sub sql
{
	my ($query, $db) = @_;
	return $node->safe_psql($db // 'postgres', $query);
}

# The server has started.  A late tick of a busy machine is no pause here, but
# where the test makes pauses of its own.
sub started
{
	wait_worker($node);
	no_pauses($node);
	return;
}

# Armed for 5 hours of admission and 2 hours of silence, unless told otherwise.
sub armed
{
	my ($deployment, $times, $db) = @_;
	$times //= "admission => '5 h', silence => '2 h', duration => '10 h'";
	sql("SELECT turn_liveness.arm_turn('$deployment', 'm', $times)", $db);
	return;
}

sub beat
{
	my ($deployment, $db) = @_;
	return sql("SELECT turn_liveness.heartbeat('$deployment', '{m}')", $db);
}

# An hour in which the server runs is one of both clocks.
sub hours_pass
{
	my ($hours, $db) = @_;
	step_wall_clock($node, $hours * $HOUR);
	advance($node, "$hours h", $db);
	return;
}

# The turn lapses in about that many hours, by the view.
sub due_in
{
	my ($deployment, $hours, $what, $db) = @_;
	my $left = sql("SELECT extract(epoch FROM deadline - clock_timestamp()) FROM turn_liveness.turns WHERE deployment = '$deployment'", $db);
	return ok(abs($left - $hours * $HOUR) < $MARGIN, "$what: due in $hours h")
	  || diag 'due in ' . $left / $HOUR . ' h';
}

sub state_of
{
	my ($deployment, $db) = @_;
	return sql("SELECT state FROM turn_liveness.turns WHERE deployment = '$deployment'", $db);
}

# The worker has looked at all, and the turn is still owed.
sub spared
{
	my ($deployment, $what, $db) = @_;
	ok(worker_looked($node, $db), "$what: the worker has looked");
	return isnt(state_of($deployment, $db), '', "$what: it is owed");
}

sub end_all
{
	my ($db) = @_;
	sql('TRUNCATE turn_liveness.turn, turn_liveness.reply, turn_liveness.delivery, turn_liveness.late_reply', $db);
	return;
}

sub session_ends
{
	my ($session, $what) = @_;
	my $pid = backend_pid($session);
	$session->quit;
	return ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), "$what ends");
}

sub server_pids
{
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	return ($postmaster, split ' ', `ps -o pid= --ppid $postmaster`);
}

# --- the server goes and comes back: admission and duration go on, without the
# downtime; beats are lost, so all have a turn deadline from the start

foreach my $how ('fast', 'immediate')
{
	armed($_) foreach qw(waits runs marked);
	armed('long', "admission => '3 h', silence => '1 h', duration => '3 h'");
	armed('late', "admission => '1 h', silence => '2 h'");
	is(beat('runs') . beat('long'), '11', "$how: two have beaten");
	sql("SELECT turn_liveness.mark_provider_failed('marked', 'X', 'x')");
	hours_pass(0.95);
	sql('CHECKPOINT');
	$node->stop($how);
	step_wall_clock($node, 7 * $HOUR);
	$node->start;
	started();
	due_in('waits', 4, "$how: admission goes on");
	due_in('runs', 4, "$how: whether one had beaten is not known any more");
	due_in('marked', 4, "$how: a mark's deadline goes on");
	due_in('late', 2, "$how: one turn deadline from the start, also for a short rest of admission");
	is(beat('runs'), 1, "$how: a beat");
	due_in('runs', 2, "$how: and a turn deadline after it");
	hours_pass(0.75), beat('long') foreach 1, 2;
	due_in('long', 0.5, "$how: the duration goes on");
	spared('late', "$how, within a turn deadline");
	hours_pass(0.75);
	is(wait_ended($node, 'long', 'm'), 'TURN_TOO_LONG sweep', "$how: it ends by its duration");
	is(wait_ended($node, 'late', 'm'), 'WORKER_UNRESPONSIVE sweep', "$how: the other by its silence");
	end_all();
}

# After a crash nothing tells when the server went down: it may be more, never less.
sql('CHECKPOINT');
armed('waits');
hours_pass(1);
$node->stop('immediate');
step_wall_clock($node, 7 * $HOUR);
$node->start;
started();
due_in('waits', 5, 'long after the last checkpoint: at most all of its admission');

# Rows that are rewritten after the start keep their floors.
armed('again', "admission => '2 h', silence => '1 h', duration => '2 h'");
armed('clear', "admission => '1 h', silence => '1 h'");
armed('mark', "admission => '2 h', silence => '2 h'");
hours_pass(1.9);
sql(q{SELECT turn_liveness.mark_provider_failed('waits', 'X', 'x')});
$node->restart;
started();
sql(q{SELECT turn_liveness.clear_provider_failed('waits')});
due_in('waits', 3.1, 'a mark that was cleared after the start');
sql(q{SELECT turn_liveness.arm_turn('again', 'm', admission => '1 h', silence => '1 h')});
due_in('again', 1, 'armed again after the start: a turn deadline for its duration too');
hours_pass(0.9);
sql(q{SELECT turn_liveness.mark_provider_failed('mark', 'X', 'x')});
due_in('mark', 1.1, 'a mark that came after the start freezes the deadline as it stands');
end_all();

# --- the wall clock steps while the server runs, and is wrong when it starts

armed('waits');
foreach my $hours (10, -10)
{
	step_wall_clock($node, $hours * $HOUR);
	due_in('waits', 5, "a step of the wall clock by $hours h");
	spared('waits', "a step of the wall clock by $hours h");
}
hours_pass(1);
foreach my $case ([ 10, 4 ], [ -10, 2.5 ], [ -10, 5 ])
{
	my ($hours, $left) = @$case;
	my $what = "started with a wall clock $hours h off";
	$node->stop('fast');
	step_wall_clock($node, $hours * $HOUR);
	$node->start;
	started();
	due_in('waits', $left, $what);
	hours_pass(1.5);
	spared('waits', "$what, within a turn deadline");
}
end_all();

# --- a transaction is open long after its arm, or prepared

my $short = "admission => '1 h', silence => '2 h', duration => '10 h'";
my $open = session($node);
$open->query_safe("BEGIN; SELECT turn_liveness.arm_turn('open', 'm', $short)");
hours_pass(0.95);
$open->query_safe('COMMIT');
$open->quit;
due_in('open', 1, 'a long open arm has its time from its commit');
hours_pass(0.5);
spared('open', 'a long open arm');

sql("BEGIN; SELECT turn_liveness.arm_turn('prepared', 'm', $short); PREPARE TRANSACTION 'p'");
sql("BEGIN; SELECT turn_liveness.arm_turn('over a start', 'm', $short); PREPARE TRANSACTION 's'");
hours_pass(3);
sql("COMMIT PREPARED 'p'");
is(sql("SELECT seen FROM turn_liveness.turn WHERE deployment = 'prepared'"), 'infinity', 'prepared: no sweep has seen it');
due_in('prepared', 1, 'prepared: it has its time from its first sight');
spared('prepared', 'prepared');
$node->restart;
started();
hours_pass(3);
sql("COMMIT PREPARED 's'");
# rows that come without mail are looked for once a second
wait_clock($node, 3);
due_in('over a start', 2, 'prepared, over a start: a turn deadline from its first sight');
spared('over a start', 'prepared, over a start');
hours_pass(1.5);
spared('over a start', 'prepared, over a start, within it');
hours_pass(1);
is(wait_ended($node, 'over a start', 'm'), 'WORKER_UNRESPONSIVE sweep', 'and not longer');
end_all();

# --- a database is copied: its turns are turns of another place

sql('CREATE DATABASE template_1');
add_extension($node, 'template_1');
my $brief = "admission => '2 min', silence => '2 min'";
armed($_, $brief, 'template_1') foreach qw(beats marked cleared again);
sql("BEGIN; SELECT turn_liveness.arm_turn('stamped', 'm', $brief); PREPARE TRANSACTION 't'; COMMIT PREPARED 't'", 'template_1');
is(sql('SELECT sum(turn_liveness.heartbeat(deployment)) FROM turn_liveness.turns', 'template_1'), 5, 'a copy: all have beaten');
is(sql('SELECT turn_liveness.sweep_expired_turns()', 'template_1'), 0, 'a copy: a sweep');
sql('UPDATE turn_liveness.turn SET seen = turn_liveness.clock_now() WHERE seen IS NOT NULL', 'template_1');
sql('CREATE DATABASE copy TEMPLATE template_1');
wait_worker($node, 'copy');
no_pauses($node, 'copy');
sql('SELECT count(turn_liveness.heartbeat(deployment)) FROM turn_liveness.turns', 'template_1');
spared('beats', 'a copy', 'copy');
advance($node, '3 min', 'copy');
sql(q{SELECT turn_liveness.mark_provider_failed(d, 'X', 'x') FROM unnest('{marked,cleared}'::text[]) d;
SELECT turn_liveness.clear_provider_failed('cleared');
SELECT turn_liveness.arm_turn('again', 'm', admission => '3 h', silence => '3 h')}, 'copy');
advance($node, '3 min', 'copy');
spared($_, 'a copy, within restore_grace', 'copy') foreach qw(beats marked cleared again stamped);
is(sql('SELECT turn_liveness.sweep_expired_turns()', 'copy'), 0, 'a copy: nor does a session find one that has lapsed');
is(sql(q{SELECT string_agg(DISTINCT state, ',') FROM turn_liveness.turns WHERE deployment <> 'marked'}, 'copy'), 'waiting', 'a copy: the beats are not theirs');
is(beat('beats', 'copy'), 1, 'a copy: a beat');
advance($node, '1 min', 'copy');
spared('beats', 'a copy, within a turn deadline of its beat', 'copy');
advance($node, '15 min', 'copy');
ok($node->poll_query_until('copy', q{SELECT string_agg(deployment, ',') = 'again' FROM turn_liveness.turns}),
	'a copy: then they are failed, but for the one that was armed again');

# --- another extension in the same database

sql('CREATE DATABASE anew');
add_extension($node, 'anew');
my $old = session($node, 'anew');
armed('d', undef, 'anew');
$old->query_safe("SELECT turn_liveness.heartbeat('d'), turn_liveness.attach_worker('d')");
is(sql(q{
BEGIN;
DROP EXTENSION turn_liveness;
CREATE EXTENSION turn_liveness;
SELECT turn_liveness.arm_turn('d', 'm2');
ROLLBACK;
SELECT state FROM turn_liveness.turns}, 'anew'), "armed\nrunning", 'a rolled-back CREATE EXTENSION takes no beats');
my $worker = worker_pid($node, 'anew');
sql('BEGIN; DROP EXTENSION turn_liveness; CREATE EXTENSION turn_liveness; COMMIT', 'anew');
my $new = session($node, 'anew');
armed('d', undef, 'anew');
$new->query_safe("SELECT turn_liveness.attach_worker('d')");
is(state_of('d', 'anew'), 'waiting', 'another extension: the beats of the last one are not its');
wait_worker($node, 'anew', $worker);
session_ends($old, 'another extension: a session that was attached to the last one');
advance($node, '1 min', 'anew');
spared('d', 'another extension: the end of a session that was attached to the last one', 'anew');
$new->query_safe("SELECT turn_liveness.heartbeat('d')");
$new->quit;
ok(wait_until('the death is seen', sub { advance($node, '1 min', 'anew'); sql('SELECT count(*) FROM turn_liveness.reply', 'anew') > 1 }),
	'the end of its own one is a death');

# --- the rows are restored in place, in the same run

armed('waits');
armed('runs');
armed('lapses', "admission => '1 h', silence => '1 h'");
is(beat('runs'), 1, 'in place: one has beaten');
my $dump = $node->basedir . '/data';
$node->command_ok([ 'pg_dump', '--data-only', '-f', $dump, 'postgres' ], 'in place: a dump');
sql('TRUNCATE turn_liveness.turn, turn_liveness.reply, turn_liveness.delivery, turn_liveness.late_reply');
hours_pass(1.5);
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'postgres' ], 'in place: restored');
due_in('waits', 3.5, 'in place: a turn of this run as it was');
is(state_of('runs'), 'running', 'in place: with its beats');
wait_clock($node, 3);
spared('lapses', 'in place: what is overdue has its time from its first sight');
hours_pass(0.75);
spared('lapses', 'in place: within it');
hours_pass(0.5);
is(wait_ended($node, 'lapses', 'm'), 'WORKER_NEVER_STARTED sweep', 'in place: and not more');
end_all();

# --- pauses, and sweep = off, after a crash

armed('before', "admission => '2 h', silence => '2 h'");
sql('CHECKPOINT');
$node->stop('immediate');
$node->start;
$worker = wait_worker($node);    # pauses count from here
armed('after', "admission => '2 h', silence => '2 h'");
foreach my $what ('a pause', 'sweep is on again')
{
	is(beat('before') . beat('after'), '11', "$what: both beat");
	hours_pass(1.9);
	due_in($_, 0.1, "$what: before it, armed $_ the crash") foreach qw(before after);
	if ($what eq 'a pause')
	{
		my @pids = server_pids();
		kill 'STOP', @pids;
		wall_clock_passes(4.5);
		kill 'CONT', reverse @pids;
		ok($node->poll_query_until('postgres', q{SELECT grace ~ 'pause' FROM turn_liveness.stat}), "$what: is seen");
	}
	else
	{
		sql('ALTER SYSTEM SET turn_liveness.sweep = off');
		$node->reload;
		ok($node->poll_query_until('postgres', 'SELECT NOT sweep_enabled FROM turn_liveness.stat'), 'sweep is off');
		hours_pass(1);
		is(state_of('before') . state_of('after'), 'lapsedlapsed', 'sweep is off: both lapse');
		sql('ALTER SYSTEM RESET turn_liveness.sweep');
		$node->reload;
		ok($node->poll_query_until('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat'), 'sweep is on');
	}
	due_in($_, 2, "$what: a whole turn deadline, armed $_ the crash") foreach qw(before after);
	spared($_, "$what: armed $_ the crash") foreach qw(before after);
}
end_all();

# --- beats while the clock stands still, for its worker is stopped

$worker = worker_pid($node);
armed('handed over');
is(beat('handed over'), 1, 'it has beaten');
armed('another');
my $dying = session($node);
armed('attached');
$dying->query_safe(q{SELECT turn_liveness.attach_worker('attached')});
kill 'STOP', $worker;
my $at = 0;
ok(wait_until('the clock stands', sub { my $was = $at; $at = clock_us($node); $was == $at }), 'the clock stands still');
armed('beaten', "admission => '1 h', silence => '5 h', duration => '10 h'");
is(beat('beaten') . beat('handed over'), '11', 'standing: beats');
is(sql(q{SELECT turn_liveness.arm_turn('handed over', 'm')}), 'pending', 'standing: armed again');
is(state_of('beaten'), 'running', 'standing: a beat after the arm counts');
is(sql(q{SELECT state, first_beat, last_beat FROM turn_liveness.turns WHERE deployment = 'handed over'}), 'waiting||',
	'standing: a beat before the arm does not');
is(sql(q{SELECT turn_liveness.heartbeat('another'); SELECT turn_liveness.arm_turn('another', 'next')}), "1\narmed", 'standing: a beat, then an arm');
is(sql(q{SELECT last_beat FROM turn_liveness.turns WHERE message_id = 'next'}), '', 'standing: which that beat does not cover');
is(sql(q{SELECT turn_liveness.fail_deployment('another')}), 2, 'standing: failed');
is(sql(q{SELECT turn_liveness.sweep_expired_turns()}), '0', 'standing: a session sweeps');
session_ends($dying, 'standing: a session');
is(beat('attached'), 1, 'standing: and its deployment beats');
kill 'CONT', $worker;
ok($node->poll_query_until('postgres', "SELECT turn_liveness.clock_now() > '2000-01-01 UTC'::timestamptz + $at * interval '1 us'"), 'the clock goes on');
due_in('beaten', 5, 'the beat is kept');
is(state_of('handed over'), 'waiting', 'and the arm waits for its own');
advance($node, '1 min');
spared('attached', 'a beat after the end of the session');

# a turn that lapses on the two seconds that the clock goes on without a tick; a busy
# machine stops the worker too late now and then, or makes a pause: then another turn
my $quick = session($node);
my ($edge, $edges);
ok( wait_until(
		'the worker is stopped shortly before a turn lapses',
		sub {
			$edge = 'edge' . ++$edges;
			armed($edge, "admission => '1 h', silence => '1 h'");
			$quick->query_safe("SELECT public.tl_advance(deadline - clock_timestamp() - interval '1.5 s') FROM turn_liveness.turns WHERE deployment = '$edge'");
			kill 'STOP', $worker;
			return 1 if $quick->query_safe("SELECT state = 'waiting' AND deadline < clock_timestamp() + interval '2 s' FROM turn_liveness.turns WHERE deployment = '$edge'") eq 't';
			kill 'CONT', $worker;
			return 0;
		}),
	'the worker is stopped before a turn lapses');
ok($node->poll_query_until('postgres', "SELECT state = 'lapsed' FROM turn_liveness.turns WHERE deployment = '$edge'"), 'a turn lapses while the worker is stopped');
wall_clock_passes(4);
sql('SELECT turn_liveness.sweep_expired_turns()');
kill 'CONT', $worker;
$quick->quit;
spared($edge, 'a session that sweeps before the worker ticks knows of the pause');
end_all();

# --- a stall in which the clock goes on is no pause

ok( wait_until(
		'a stall that is none',
		sub {
			advance($node, '3 h');
			kill 'STOP', $worker;
			wall_clock_passes(1.6);
			kill 'CONT', $worker;
			advance($node, '1 ms');
			return sql(q{SELECT coalesce(grace, 'none') FROM turn_liveness.stat}) eq 'none';
		}),
	'a short stall postpones no failure');

# --- times of beats by the wall clock, after a pause of the whole server

armed('paused', "admission => '1 h', silence => '1 h'");
my @beat = split /\|/, sql(q{SELECT extract(epoch FROM clock_timestamp()), turn_liveness.heartbeat('paused', '{m}'), extract(epoch FROM clock_timestamp())});
my @pids = server_pids();
kill 'STOP', @pids;
wall_clock_passes(5);
kill 'CONT', reverse @pids;
advance($node, '1 ms');
# the machine sleeps: its monotonic clock stands still too
step_wall_clock($node, 8 * $HOUR);
advance($node, '1 ms');
foreach my $view ('turns', 'replies')
{
	foreach my $which ('first_beat', 'last_beat')
	{
		my $shown = sql("SELECT extract(epoch FROM $which) FROM turn_liveness.$view WHERE deployment = 'paused'");
		ok($shown > $beat[0] - 0.1 && $shown < $beat[2] + 0.1, "$view: $which is right by the wall clock")
		  || diag "$shown, beaten from $beat[0] to $beat[2]";
	}
	sql(q{SELECT turn_liveness.fail_turn('paused', 'm', 'stopped')});
}

# --- a standby reads, and takes over

$node->restart;		# its clock is the wall clock's again
started();
$node->backup('base');
armed('waits');
hours_pass(1);
armed('waits as long', "admission => '4 h', silence => '2 h', duration => '10 h'");
my $standby = PostgreSQL::Test::Cluster->new('standby');
own_wall_clock($standby);
step_wall_clock($standby, $node->{tl_offset});
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT deployment, state, deadline FROM turn_liveness.turns ORDER BY 1}),
	"waits|waiting|\nwaits as long|waiting|", 'a standby shows its turns, without a deadline');
$node->stop('immediate');
$node = $standby;
$node->promote;
started();
due_in('waits', 4, 'a promotion: admission goes on');
due_in('waits as long', 4, 'a promotion: admission goes on');
hours_pass(1.9);
spared('waits', 'a promotion');
$node->stop;

done_testing();
