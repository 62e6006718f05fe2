# Without shared_preload_libraries: no worker, beats in rows, and any
# session sweeps: here one of ours, and pg_cron's.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node('main', "autovacuum = off\nturn_liveness.claim_timeout = '1 h'\n", preload => 0);
my $session = session($node);
sub sql
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}

sub state_of
{
	my ($deployment) = @_;
	return sql("SELECT state FROM turn_liveness.turns WHERE deployment = '$deployment'");
}

is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'turn_liveness%'}), 0, 'no process of ours');
is(sql('SELECT worker_problem FROM turn_liveness.stat'),
	'turn_liveness is not in shared_preload_libraries', 'stat tells why');

# --- attach_worker is what does not work

my ($out, $err) = ('', '');
my $status = $node->psql('postgres', q{\set VERBOSITY verbose
SELECT turn_liveness.attach_worker('d')}, stdout => \$out, stderr => \$err);
like($err, qr/ERROR:  55000: /, 'attach_worker: 55000');
like($err, qr/HINT: .*shared_preload_libraries/, 'attach_worker: the hint names the setting');
is(sql(q{SELECT turn_liveness.detach_worker('d')}), 'f', 'detach_worker: nothing was attached');

# --- a session loads the library whole, whenever it is cancelled

{
	# each of these is a warning when the library is loaded
	local $ENV{PGOPTIONS} = join ' ', map { "-cturn_liveness.n$_=1" } 1 .. 300;
	# the time-out may hit the first ROLLBACK too, and ends with it
	$node->psql('postgres', q{
BEGIN;
SET LOCAL statement_timeout = '1ms';
SELECT turn_liveness.clock_now();
ROLLBACK;
ROLLBACK;
SELECT turn_liveness.has_live_turn('d', 'none')}, on_error_stop => 0, stdout => \$out, stderr => \$err);
	like($out, qr/^f$/m, 'a session that is cancelled while it loads the library goes on');
	unlike($err, qr/redefine/, 'and defines the settings once');
}

# --- everything else does

is(arm($node, 'd', 'a', q{admission => '1h', silence => '10 min'}), 'armed', 'armed');
is(arm($node, 'd', 'a', q{admission => '1h', silence => '10 min'}), 'pending', 'pending');
is(arm($node, 'd', 'b', q{admission => '1h', silence => '10 min'}), 'armed', 'armed');
is(sql(q{SELECT turn_liveness.has_live_turn('d', 'a')}), 't', 'has_live_turn');
is(sql(q{SELECT turn_liveness.heartbeat('d')}), 2, 'a beat tells what is owed');
is(sql(q{SELECT string_agg(state, ',') FROM turn_liveness.turns WHERE deployment = 'd'}), 'waiting,waiting', 'and starts none of two');
is(sql(q{SELECT turn_liveness.heartbeat('d', '{a,none}')}), 1, 'a beat by name');
is(sql(q{SELECT string_agg(message_id || ' ' || state, ',' ORDER BY message_id) FROM turn_liveness.turns WHERE deployment = 'd'}),
	'a running,b waiting', 'starts that one');
is(sql(q{SELECT * FROM turn_liveness.heartbeats('{d,none,d,d,NULL}', '{a,x,NULL,gone,a}')}),
	"none|x\nd|gone\n|a", 'heartbeats returns what owes nothing');
is(sql(q{SELECT turn_liveness.commit_terminal_reply('d', '{a}', '{"content": "x"}')}), 'won', 'won');
is(sql(q{SELECT turn_liveness.commit_terminal_reply('d', '{a}', '{"content": "x"}')}), 'won', 'repeated: won');
is(sql(q{SELECT turn_liveness.commit_terminal_reply('d', '{a}', '{"content": "y"}')}), 'lost', 'lost');
is(sql(q{SELECT turn_liveness.commit_terminal_reply('d', '{z}', '{"content": "y"}')}), 'unknown', 'unknown');
is(sql(q{SELECT count(*) FROM turn_liveness.late_replies}), 2, 'late ones are kept');
is(arm($node, 'd', 'a'), 'answered', 'answered');
is(sql(q{SELECT turn_liveness.fail_turn('d', 'b', 'e', 'CANCELLED')}), 'won', 'fail_turn');
is(sql(q{SELECT turn_liveness.heartbeat('d')}), 0, 'nothing is owed');
is(sql(q{SELECT turn_liveness.reject_turn('d', 'r', '{}', 'no')}), 'won', 'reject_turn');
arm($node, 'd', 'c');
is(sql(q{SELECT turn_liveness.discharge_turn('d', 'c')}), 't', 'discharge_turn');
arm($node, 'd', 'f');
is(sql(q{SELECT turn_liveness.fail_deployment('d')}), 1, 'fail_deployment');
is(sql(q{SELECT count(*) FROM turn_liveness.read_replies('{d}')}), 4, 'read_replies');
is(sql(q{SELECT count(*) FROM turn_liveness.claim_replies('g', platforms => '{api}')}), 4, 'claim_replies');
is(sql(q{SELECT turn_liveness.ack_replies('g', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE state = 'claimed' ORDER BY 1 LIMIT 3))}), 3, 'ack_replies');
is(sql(q{SELECT turn_liveness.release_replies('g', ARRAY(SELECT reply_id FROM turn_liveness.replies WHERE state = 'claimed'), '0')}), 1, 'release_replies');
is(sql(q{SELECT count(*) FROM turn_liveness.claim_replies('h', conversations => '{d}')}), 1, 'claimed again');
sql(q{SELECT turn_liveness.stat_reset()});

# --- a session sweeps: fails, and notifies

arm($node, 'lives', 'm', q{admission => '1 d', duration => '1 d'});
is(sql('SELECT turn_liveness.sweep_expired_turns()'), 0, 'nothing has lapsed yet');
my $listener = session($node);
$listener->query_safe('LISTEN turn_liveness');
arm($node, 'swept', 'm', q{'{"conversationId": "c-swept"}', admission => '200ms'});
ok($node->poll_query_until('postgres', 'SELECT turn_liveness.sweep_expired_turns() = 1'), 'a session sweeps');
is(ends($node, 'swept', 'm'), 'WORKER_NEVER_STARTED sweep', 'it fails what has lapsed');
is(ends($node, 'lives', 'm'), '', 'and nothing else');
ok(notified($listener, qr/payload "(\{\}|[^\n]*c-swept)/), 'and tells the listener');

# Beats keep turns alive; the clock is driven by the test.
arm($node, 'beats', 'm', q{admission => '1h', silence => '10 min'});
arm($node, 'silent', 'm', q{admission => '1h', silence => '10 min'});
sql(q{SELECT turn_liveness.heartbeats('{beats,silent}')});
foreach my $round (1 .. 3)
{
	advance($node, '6 min');
	is(sql(q{SELECT turn_liveness.heartbeat('beats')}), 1, "beat $round");
	sql('SELECT turn_liveness.sweep_expired_turns()');
}
is(ends($node, 'beats', 'm'), '', 'beats in rows keep a turn alive');
is(ends($node, 'silent', 'm'), 'WORKER_UNRESPONSIVE sweep', 'silence fails one');
advance($node, '11 min');
is(state_of('beats'), 'lapsed', 'lapsed');
is(sql(q{SELECT turn_liveness.heartbeat('beats')}), 1, 'a beat before the sweep');
is(sql('SELECT turn_liveness.sweep_expired_turns()'), 0, 'revives it');
is(state_of('beats'), 'running', 'so it runs');

# The duration limit, a withheld beat, the most in one call
arm($node, 'long', 'm', q{admission => '10 min', silence => '10 min', duration => '12 min'});
sql(q{SELECT turn_liveness.heartbeat('long')});
advance($node, '6 min');
sql(q{SELECT turn_liveness.heartbeat('long'), turn_liveness.heartbeat('beats')});
advance($node, '7 min');
sql('SELECT turn_liveness.sweep_expired_turns()');
is(ends($node, 'long', 'm'), 'TURN_TOO_LONG sweep', 'the duration limit');
sql(q{SELECT turn_liveness.heartbeat('beats')});
is(sql(q{SELECT turn_liveness.mark_provider_failed('beats', 'QUOTA', 'no money')}), 1, 'marked');
advance($node, '6 min');
is(sql(q{SELECT turn_liveness.heartbeat('beats')}), 1, 'beats');
advance($node, '6 min');
sql('SELECT turn_liveness.sweep_expired_turns()');
is(ends($node, 'beats', 'm'), 'QUOTA sweep', 'a withheld beat');
sql(q{SELECT count(turn_liveness.arm_turn('many' || i, 'm', admission => '10 min')) FROM generate_series(1, 50) i});
advance($node, '11 min');
is(sql('SELECT turn_liveness.sweep_expired_turns(20)'), 20, 'no more than was asked for');
is(sql('SELECT turn_liveness.sweep_expired_turns()'), 30, 'then the rest');

# Several sessions sweep at once; each turn ends once.
sql(q{SELECT count(turn_liveness.arm_turn('race' || i, 'm', admission => '10 min')) FROM generate_series(1, 2000) i});
advance($node, '11 min');
my @sweepers = map { session($node) } 1 .. 3;
$_->{stdin} .= "SELECT turn_liveness.sweep_expired_turns(10000);\n" foreach @sweepers;
my $sum = 0;
$sum += $_->query_until(qr/^(\d+)$/m, '') =~ s/\D//gr foreach @sweepers;
is($sum, 2000, 'three sweepers at once: each turn is failed by one');
is(sql(q{SELECT count(*) FROM turn_liveness.reply WHERE deployment LIKE 'race%'}), 2000, 'once');
$_->quit foreach @sweepers;

# An open transaction holds its turn.
$session->query_safe(q{BEGIN; SELECT turn_liveness.arm_turn('held', 'm', admission => '10 min'); COMMIT});
$session->query_safe(q{BEGIN; SELECT turn_liveness.commit_terminal_reply('held', '{m}', '{}')});
advance($node, '11 min');
is(sql(q{SET lock_timeout = '60s'; SELECT turn_liveness.sweep_expired_turns()}), 0, 'a turn in an open election is skipped');
$session->query_safe('ROLLBACK');
# a beat could not be written meanwhile, so it may get its time once more
advance($node, '11 min');
my $after = sql('SELECT turn_liveness.sweep_expired_turns()');
advance($node, '11 min');
$after += sql('SELECT turn_liveness.sweep_expired_turns()');
is($after, 1, 'and failed after its rollback');

# --- a sweep that takes long: its commit stamps what it offered, and that is to be had

arm($node, 'slow', 'm', q{admission => '10 min', silence => '10 min', rescue => '1h'});
advance($node, '11 min');
$session->query_safe('BEGIN');
$session->query_safe('SELECT turn_liveness.sweep_expired_turns()');
advance($node, '1 s');
$session->query_safe('COMMIT');
is(sql(q{SELECT lapsed IS NOT NULL AND seen IS NOT NULL FROM turn_liveness.turn WHERE deployment = 'slow'}), 't', 'a slow sweep: offered, and stamped');
is(sql(q{SELECT count(*) FROM turn_liveness.rescue_turns() WHERE deployment = 'slow'}), 1, 'a slow sweep: taken');

# --- a restart: one whole turn deadline for all

arm($node, 'restart', 'm', q{admission => '10 min', silence => '10 min'});
sql(q{SELECT turn_liveness.heartbeat('restart')});
$_->quit foreach $session, $listener;
$node->stop;
step_wall_clock($node, 15 * 60);
$node->start;
is(sql('SELECT turn_liveness.sweep_expired_turns()'), 0, 'after a restart no turn is failed at once');
advance($node, '8 min');
is(sql('SELECT turn_liveness.sweep_expired_turns()'), 0, 'nor before one turn deadline has passed');
advance($node, '3 min');
is(sql('SELECT turn_liveness.sweep_expired_turns()'), 1, 'but after it');
is(ends($node, 'restart', 'm'), 'WORKER_UNRESPONSIVE sweep', 'WORKER_UNRESPONSIVE');

is(sql('SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) x'),
	0, 'nothing was answered twice');
$node->stop;

# --- pg_cron drives the sweep

my ($sharedir) = map { chomp; $_ } `pg_config --sharedir`;
SKIP:
{
	skip 'this server has no pg_cron (Debian package postgresql-15-cron)', 1
	  unless -e "$sharedir/extension/pg_cron.control";

	my $cron = new_node(
		'cron', q{
shared_preload_libraries = 'pg_cron'
cron.database_name = 'postgres'
cron.use_background_workers = on
autovacuum = off
}, extension => 0, wall_clock => 1);

	$cron->safe_psql('postgres', 'CREATE EXTENSION turn_liveness; CREATE EXTENSION pg_cron');
	note $cron->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'pg_cron'});
	$cron->safe_psql('postgres',
		q{SELECT cron.schedule('sweep', '* * * * *', 'SELECT turn_liveness.sweep_expired_turns()')});
	my $told = session($cron);
	$told->query_safe('LISTEN turn_liveness');
	arm($cron, 'crond', 'm', q{'{"conversationId": "c-crond"}', admission => '100ms'});
	arm($cron, 'lives', 'm', q{admission => '1h'});

	# Cron's unit is the minute: three seconds before a full one
	step_wall_clock($cron, (57 - time) % 60);
	ok($cron->poll_query_until('postgres', q{SELECT count(*) = 1 FROM turn_liveness.reply}),
		'pg_cron: the sweep fails what has lapsed');
	is(ends($cron, 'crond', 'm'), 'WORKER_NEVER_STARTED sweep', 'pg_cron: as it should');
	is(owed($cron), 1, 'pg_cron: nothing else');
	ok(notified($told, qr/payload "(\{\}|[^\n]*c-crond)/), 'pg_cron: and tells the listener');
	ok($cron->poll_query_until('postgres',
			q{SELECT count(*) > 0 FROM cron.job_run_details WHERE status = 'succeeded' AND command LIKE '%sweep_expired_turns%'}),
		'pg_cron: its own record says so');
	$told->quit;
	$cron->stop;
}

done_testing();
