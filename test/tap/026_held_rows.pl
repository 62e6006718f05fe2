# Beats that meet a row in the hands of another transaction, where beats go to
# rows: a beat that was told "owed" is never lost.  And what a commit that waited
# makes visible: no session fails it at that instant.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# No worker: this test sweeps, and drives the clock.
my $node = new_node('main', q{
turn_liveness.enabled = off
turn_liveness.lease_capacity = 16
turn_liveness.mass_silence_hold = 0
autovacuum = off
}, extension => 0);
$node->safe_psql(
	'postgres', q{
CREATE EXTENSION turn_liveness;
CREATE FUNCTION public.tl_advance(interval) RETURNS void
	AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT});

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}
sub sweep { return sql('SELECT turn_liveness.sweep_expired_turns()') }
sub beat
{
	my ($deployment) = @_;
	return sql("SELECT turn_liveness.heartbeat('$deployment', '{m}')");
}

# A turn that lapses 20 min after its last beat.
sub running
{
	my ($deployment) = @_;
	arm($node, $deployment, 'm', q{admission => '20 min', silence => '20 min'});
	is(beat($deployment), 1, "$deployment: it runs");
	return;
}

# Silence is 20 min from here on, and not a minute less; once more of it where a
# sweep cannot tell a trace of this transaction from another one's.
sub lapses_in_20min
{
	my ($deployment, $more) = @_;
	advance($node, '19 min');
	sweep();
	is(ends($node, $deployment, 'm'), '', "$deployment: it lives until then");
	advance($node, '2 min');
	sweep();
	if ($more)
	{
		advance($node, '20 min');
		sweep();
	}
	is(ends($node, $deployment, 'm'), 'WORKER_UNRESPONSIVE sweep', "$deployment: and no longer");
	return;
}

sql(q{SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '3h', silence => '3h')), count(turn_liveness.heartbeat('d' || i)) FROM generate_series(1, 40) i});
is(sql('SELECT leases_used FROM turn_liveness.stat'), 16, 'the leases are used up');
my $holder = session($node);

# --- a session ends; a beat that names one turn, and finds no room, is the deployment's

arm($node, 'd1', 'other', q{admission => '3h', silence => '3h'});
my $worker = session($node);
$worker->query_safe(q{SELECT turn_liveness.attach_worker('d1')});
my $worker_pid = backend_pid($worker);
$worker->quit;
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $worker_pid");
my $in_rows = sql('SELECT beats_in_rows FROM turn_liveness.stat');
is(beat('d1'), 1, 'd1: another session beats');
is(sql('SELECT beats_in_rows FROM turn_liveness.stat') - $in_rows, 1, '... in the row');
advance($node, '1 min');
is(sweep(), 0, 'd1: it is alive');
is(ends($node, 'd1', 'other'), '', '... so is its other turn');

# --- a sweep holds the row, which lives, and commits

running('swept');
advance($node, '10 min');
running('later');
advance($node, '11 min');
is($holder->query_safe('BEGIN; SELECT turn_liveness.sweep_expired_turns()'), 1, 'a sweep fails the one');
advance($node, '1 min');
is(beat('later'), 1, 'a beat of the other, whose row it holds or not');
$holder->query_safe('COMMIT');
lapses_in_20min('later');

running('moved');
advance($node, '10 min');
is(beat('moved'), 1, 'moved: another beat');
advance($node, '11 min');
my $row = q{SELECT ctid FROM turn_liveness.turn WHERE deployment = 'moved'};
my $before = sql($row);
is($holder->query_safe('BEGIN; SELECT turn_liveness.sweep_expired_turns()'), 0, 'a sweep looks, and the turn lives');
isnt($holder->query_safe($row), $before, 'it has moved the row');
is(beat('moved'), 1, 'a beat meanwhile');
$holder->query_safe('COMMIT');
lapses_in_20min('moved', 1);

# --- an election holds the row, and rolls back; then a sweep moves the row

running('rolled');
advance($node, '10 min');
is(beat('rolled'), 1, 'rolled: another beat');
advance($node, '5 min');
is($holder->query_safe(q{BEGIN; SELECT turn_liveness.commit_terminal_reply('rolled', '{m}', '{}')}), 'won', 'an answer');
advance($node, '1 min');
is(beat('rolled'), 1, 'a beat meanwhile');
$holder->query_safe('ROLLBACK');
advance($node, '6 min');
is(sweep(), 0, 'a sweep looks before the deadline');
lapses_in_20min('rolled');

# ... or no sweep looks before the deadline that the beat has moved

running('unread');
advance($node, '10 min');
$holder->query_safe(q{BEGIN; SELECT turn_liveness.discharge_turn('unread', 'm')});
advance($node, '9 min');
is(beat('unread'), 1, 'unread: a beat meanwhile');
$holder->query_safe('ROLLBACK');
advance($node, '5 min');
is(sweep(), 0, 'a sweep looks after the deadline of the beat before');
is(ends($node, 'unread', 'm'), '', 'unread: the beat counts');
lapses_in_20min('unread');

# --- a batch that is done again row by row, for an id of a reply is there already, leaves marks of its own

running("again$_") foreach 1 .. 3;
advance($node, '21 min');
sql(q{INSERT INTO turn_liveness.reply (reply_id, deployment, message_ids, conversation_id, platform, payload, outcome, generation, created_at, kept_at)
SELECT last_value + 2, 'there', '{m}', 'there', 'api', '{}', 'a', 1, now(), now() FROM turn_liveness.reply_id_seq});
my $ids = sql('SELECT last_value FROM turn_liveness.reply_id_seq');
sweep();
cmp_ok(sql('SELECT last_value FROM turn_liveness.reply_id_seq'), '>=', $ids + 5, 'a batch is done again');
is(ends($node, "again$_", 'm'), 'WORKER_UNRESPONSIVE sweep', "again$_: and fails it") foreach 1 .. 3;

# --- an election holds the row, and rolls back; then a mark freezes the deadline

running('marked');
advance($node, '15 min');
$holder->query_safe(q{BEGIN; SELECT turn_liveness.discharge_turn('marked', 'm')});
is(beat('marked'), 1, 'marked: a beat while the turn is discharged');
$holder->query_safe('ROLLBACK');
is(sql(q{SELECT turn_liveness.mark_provider_failed('marked', 'QUOTA', 'no money')}), 1, 'a mark after the rollback');
advance($node, '19 min');
sweep();
is(ends($node, 'marked', 'm'), '', 'the beat counts for the frozen deadline');
advance($node, '2 min');
sweep();
is(ends($node, 'marked', 'm'), 'QUOTA sweep', 'which comes');

# --- another beat holds the row for long, and commits

running('beaten');
is($holder->query_safe(q{BEGIN; SELECT turn_liveness.heartbeat('beaten')}), 1, 'an open beat');
advance($node, '15 min');
is(beat('beaten'), 1, 'another one meanwhile');
$holder->query_safe('COMMIT');
lapses_in_20min('beaten');

# --- ... or for a moment: then the beat is written.  A machine may be too slow
# for a moment, so this tries again.

my $other = session($node);
my $other_pid = backend_pid($other);
# the beat tries for a second, which a call of psql may take to start
my $watcher = session($node);
my $started = '';

# Until a session waits in this way, or has said that it is done.
sub waits_or_done
{
	my ($what, $session, $pid, $waits, $done) = @_;
	wait_until(
		$what,
		sub {
			$session->{run}->pump_nb;
			return $session->{stdout} =~ $done
			  || $watcher->query_safe("SELECT $waits FROM pg_stat_activity WHERE pid = $pid") eq 't';
		});
	return;
}
my $tries_a_row = q{wait_event = 'Extension'};

foreach my $i (1 .. 50)
{
	sql("SELECT turn_liveness.arm_turn('short$i', m, admission => '20 min', silence => '20 min') FROM unnest('{m,n}'::text[]) m");
	$holder->query_safe("BEGIN; SELECT turn_liveness.heartbeat('short$i')");
	$other->{stdin} .= "SELECT 'told ' || turn_liveness.heartbeat('short$i', '{m}');\n";
	waits_or_done('the beat has looked at the row', $other, $other_pid, $tries_a_row, qr/told/);
	$holder->query_safe('COMMIT');
	$other->query_until(qr/told 1/, '');
	$started = sql("SELECT first_beat IS NOT NULL FROM turn_liveness.turns WHERE deployment = 'short$i' AND message_id = 'm'");
	last if $started eq 't';
}
is($started, 't', 'a named beat that meets an open beat of the deployment starts its turn');

# --- a batch that meets a row which is held for long writes its other rows first; and of a turn that
# ends meanwhile it tells.  A machine may be too slow for the batch's second: this tries again.

my $ender = session($node);
my $late = session($node);
my $late_pid = backend_pid($late);
my $told = '';
my $first_beats = 0;
my $tries = 0;
foreach my $i (1 .. 10)
{
	$tries = $i;
	my $before_batch = sql('SELECT beats_in_rows FROM turn_liveness.stat');
	sql("SELECT count(turn_liveness.arm_turn('b$i-' || n, 'm', admission => '20 min', silence => '20 min')) FROM generate_series(1, 300) n");
	$holder->query_safe("BEGIN; SELECT turn_liveness.heartbeat('b$i-1')");
	$ender->query_safe("BEGIN; SELECT turn_liveness.discharge_turn('b$i-290', 'm')");
	$other->{stdin} .= "SELECT 'batch of ' || string_agg(deployment, ',') || '.' FROM turn_liveness.heartbeats('{none}' || ARRAY(SELECT 'b$i-' || n FROM generate_series(1, 300) n ORDER BY n));\n";
	waits_or_done('the batch waits, or is done', $other, $other_pid, $tries_a_row, qr/batch/);
	# a batch that has yet to write the last row meets it in these hands until its end
	$late->{stdin} .= "BEGIN; SELECT 'held ' || deployment FROM turn_liveness.turn WHERE deployment = 'b$i-300' FOR UPDATE;\n";
	waits_or_done('another session has asked for the last row', $late, $late_pid, q{wait_event_type = 'Lock'}, qr/held/);
	$ender->query_safe('COMMIT');
	($told) = $other->query_until(qr/batch of .*\./, '') =~ /batch of (.*)\./;
	$late->query_until(qr/held b$i-300/, '');
	$late->query_safe('ROLLBACK');
	$holder->query_safe('COMMIT');
	$first_beats = sql("SELECT count(*) FROM turn_liveness.turns WHERE deployment ~ '^b$i-' AND first_beat IS NOT NULL");
	is(sql('SELECT beats_in_rows FROM turn_liveness.stat') - $before_batch, 301, 'a batch without a lease');
	last if $told ne 'none' || $first_beats != 299;
}
is($first_beats, 299, '... starts all its turns');
is($told, "none,b$tries-290", '... and tells of the one that has ended');
$_->quit foreach $holder, $other, $watcher, $ender, $late;
$node->stop;

# --- a commit that waits for a standby

foreach my $enabled ('on', 'off')
{
	my $sync = new_node("sync_$enabled", qq{
turn_liveness.enabled = $enabled
synchronous_commit = local
autovacuum = off
}, extension => 0, streaming => 1);
	$sync->safe_psql(
		'postgres', q{
CREATE EXTENSION turn_liveness;
CREATE FUNCTION public.tl_advance(interval) RETURNS void
	AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT});
	if ($enabled eq 'on')
	{
		wait_worker($sync);
		no_pauses($sync);
	}
	$sync->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
	$sync->safe_psql('postgres', 'SELECT pg_reload_conf()');
	$sync->poll_query_until('postgres', 'SHOW synchronous_standby_names', 'nobody') or die 'no setting';

	my $waiter = session($sync);
	my $pid = backend_pid($waiter);
	$waiter->{stdin} .= "SET synchronous_commit = on;\nSELECT turn_liveness.arm_turn('late', 'm', admission => '20 min', silence => '20 min');\nSELECT 'visible';\n";
	$waiter->{run}->pump_nb;
	$sync->poll_query_until('postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid")
	  or die 'the commit does not wait';
	advance($sync, '30 min');
	is($sync->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns(), count(*) FROM turn_liveness.turns'), '0|0', "worker $enabled: not visible yet");
	$sync->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	$sync->poll_query_until('postgres', 'SELECT count(*) = 1 FROM turn_liveness.turn') or die 'it does not become visible';
	is($sync->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), 0, "worker $enabled: a session does not fail it");
	is(ends($sync, 'late', 'm'), '', "worker $enabled: it is owed");
	advance($sync, '25 min');
	$sync->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()') if $enabled eq 'off';
	is(wait_ended($sync, 'late', 'm'), 'WORKER_NEVER_STARTED sweep', "worker $enabled: it is failed in the end");
	$waiter->query_until(qr/visible/, '');
	$waiter->quit;
	$sync->stop;
}

done_testing();
