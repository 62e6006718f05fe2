# A generation fences what an earlier holder of a turn does, wherever beats are kept: in
# shared memory, in rows where that is full, and in rows without preload.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node;
my $where;

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}

sub beat
{
	my ($deployment, $generation) = @_;
	return sql("SELECT turn_liveness.heartbeat('$deployment', '{m}', '{$generation}')");
}

sub taken
{
	my ($deployment, $worker, $take_over) = @_;
	$take_over = $take_over ? 'true' : 'false';
	return sql("SELECT turn_liveness.start_turn('$deployment', 'm', '$worker', $take_over)");
}

sub arm_here
{
	my ($deployment) = @_;
	is(arm($node, $deployment, 'm', q{admission => '1 h', silence => '20 min', duration => '10 h'}), 'armed', "$where: $deployment");
	return;
}

# State, holder, and how many times ten minutes ago its first and its last beat were
sub shown
{
	my ($deployment) = @_;
	return sql("SELECT state, generation, worker, round(extract(epoch FROM clock_timestamp() - first_beat) / 600), round(extract(epoch FROM clock_timestamp() - last_beat) / 600) FROM turn_liveness.turns WHERE deployment = '$deployment'");
}

# This test sweeps: no worker serves the database.
sub sweep { return sql('SELECT turn_liveness.sweep_expired_turns()') }

sub fences
{
	# --- a worker takes over from another

	arm_here('over');
	is(taken('over', 'w1') . beat('over', 1), '11', "$where: the first worker takes it, and beats");
	advance($node, '10 min');
	is(taken('over', 'w2', 1), '2', "$where: the second takes it over");
	is(shown('over'), 'running|2|w2|0|0', "$where: it runs");
	advance($node, '10 min');
	is(beat('over', 1), '0', "$where: the first one's beat says 0");
	is(beat('over', 3), '0', "$where: so does one of a generation that never was");
	is(sql(q{SELECT * FROM turn_liveness.heartbeats('{over}', '{m}', '{1}')}), 'over|m', "$where: so does a batch");
	is(shown('over'), 'running|2|w2|1|1', "$where: they are not recorded");
	is(sql(q{SELECT count(*) FROM turn_liveness.heartbeats('{over,over}', '{m,m}', '{2,NULL}')}), '0', "$where: the second one's are, and those that name none");
	is(shown('over'), 'running|2|w2|1|0', "$where: that shows");

	advance($node, '19 min');
	is(beat('over', 2), '1', "$where: the second beats");
	advance($node, '19 min');
	is(beat('over', 1) . sweep(), '00', "$where: the first beats on, and the turn lives");
	is(sql(q{SELECT turn_liveness.commit_terminal_reply('over', '{m}', '{"content": "old"}', '{1}')}), 'stale', "$where: its answer is stale");
	is(sql(q{SELECT turn_liveness.post_update('over', 'm', '{}', 1) IS NULL, turn_liveness.suspend_turn('over', 'm', '1 h', NULL, 1)}), 't|f', "$where: neither can it post or suspend");
	advance($node, '2 min');
	is(beat('over', 1) . sweep(), '01', "$where: which saves it from nothing");
	is(ends($node, 'over', 'm'), 'WORKER_UNRESPONSIVE sweep', "$where: 21 min after the second one's beat it is failed");
	is(sql(q{SELECT generation, worker FROM turn_liveness.replies WHERE deployment = 'over'}), '2|w2', "$where: in its name");

	# --- armed again

	arm_here('again');
	is(taken('again', 'w1') . beat('again', 1), '11', "$where: a worker takes it, and beats");
	is(arm($node, 'again', 'm'), 'pending', "$where: armed again");
	is(beat('again', 1), '0', "$where: its worker's beat says 0");
	is(shown('again'), 'waiting|2|||', "$where: and starts nothing");
	is(beat('again', 2), '1', "$where: one of the next generation");
	is(shown('again'), 'running|2||0|0', "$where: starts it");
	is(taken('again', 'w2'), '2', "$where: it takes it then");
	is(taken('again', 'w3'), '', "$where: and no other does");

	# --- a hand-over that is not committed yet, or never

	my $holder = session($node);
	arm_here('open');
	is(taken('open', 'w1'), '1', "$where: a worker takes it");
	is($holder->query_safe(q{BEGIN; SELECT turn_liveness.start_turn('open', 'm', 'w2', true)}), '2', "$where: another takes it over, and does not commit");
	is(beat('open', 1), '1', "$where: the first one's beat says that it is owed");
	is(beat('open', 2), '0', "$where: one of the second, from elsewhere, that it is not");
	$holder->query_safe('COMMIT');
	is(beat('open', 1) . beat('open', 2), '01', "$where: committed, the other way round");
	is($holder->query_safe(q{BEGIN; SELECT turn_liveness.start_turn('open', 'm', 'w3', true), turn_liveness.heartbeat('open', '{m}', '{3}')}), '3|1', "$where: a third takes it over, and beats at once");
	is(beat('open', 2), '1', "$where: the second one's beat says that it is owed");
	$holder->query_safe('ROLLBACK');
	is(beat('open', 3) . beat('open', 2), '01', "$where: rolled back, it is the second one's");
	advance($node, '19 min');
	is(beat('open', 2) . beat('open', 3), '10', "$where: its beats count");
	advance($node, '19 min');
	sweep();
	like(shown('open'), qr/^running\|2\|w2/, "$where: and keep it alive");
	$holder->quit;

	# --- a wait

	is(sql(q{SELECT turn_liveness.suspend_turn('open', 'm', '5 h', 'approve', 2), turn_liveness.resume_turn('open', 'm')}), 't|t', "$where: suspended, and resumed");
	is(beat('open', 2) . sql(q{SELECT state, generation FROM turn_liveness.turns WHERE deployment = 'open'}), '0waiting|3', "$where: a late beat starts nothing");
	is(beat('open', 3), '1', "$where: one of the next generation does");
	is(sql(q{SELECT turn_liveness.commit_terminal_reply('open', '{m}', '{"content": "new"}', '{3}')}), 'won', "$where: which answers");
	is(beat('open', 3), '0', "$where: then nothing is owed");
	return;
}

my $settings = q{
turn_liveness.enabled = off
turn_liveness.mass_silence_hold = 0
autovacuum = off
};
my $extension = q{
CREATE EXTENSION turn_liveness;
CREATE FUNCTION public.tl_advance(interval) RETURNS void
	AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT};

$where = 'shared memory';
$node = new_node('shared', $settings, extension => 0);
sql($extension);
fences();
is(sql('SELECT beats_in_rows FROM turn_liveness.stat'), '0', "$where: no beat went to a row");
$node->stop;

$where = 'full';
$node = new_node('full', "$settings\nturn_liveness.lease_capacity = 16\n", extension => 0);
sql($extension);
sql(q{SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '20 h', silence => '20 h', duration => '20 h')), count(turn_liveness.heartbeat('d' || i)) FROM generate_series(1, 20) i});
is(sql('SELECT leases_used FROM turn_liveness.stat'), '16', "$where: the leases are used up");
my $in_rows = sql('SELECT beats_in_rows FROM turn_liveness.stat');
fences();
cmp_ok(sql('SELECT beats_in_rows FROM turn_liveness.stat') - $in_rows, '>', 10, "$where: the beats went to rows");
$node->stop;

$where = 'without preload';
$node = new_node('bare', "autovacuum = off\n", preload => 0);
fences();
$node->stop;

done_testing();
