# pg_upgrade with turns in flight, from this major to itself.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $contents = q{
SELECT t.* FROM turn_liveness.turn t ORDER BY deployment, message_id;
SELECT r.* FROM turn_liveness.reply r ORDER BY reply_id;
SELECT d.* FROM turn_liveness.delivery d ORDER BY reply_id;
SELECT l.* FROM turn_liveness.late_reply l ORDER BY digest;
SELECT last_value, is_called FROM turn_liveness.reply_id_seq;
};

my $old = new_node('old', '');
$old->safe_psql(
	'postgres', q{
CREATE ROLE gateway LOGIN;
CREATE ROLE of_two_kinds;
SELECT turn_liveness.grant_gateway('gateway'), turn_liveness.grant_worker('of_two_kinds'), turn_liveness.grant_gateway('of_two_kinds');
SELECT turn_liveness.arm_turn('short', 'm1', admission => '10 min', silence => '5 min');
SELECT turn_liveness.arm_turn('long', 'm1', '{"conversationId": "c1"}', admission => '3 h', silence => '3 h');
SELECT turn_liveness.arm_turn('answered', 'm1', '{"conversationId": "c2"}');
SELECT turn_liveness.commit_terminal_reply('answered', '{m1}', '{"content": "42"}');
SELECT turn_liveness.commit_terminal_reply('answered', '{m1}', '{"content": "late"}');
CREATE DATABASE second;
});
add_extension($old, 'second');
$old->safe_psql('second', "SELECT turn_liveness.arm_turn('second', 'm1', admission => '1ms', silence => '1ms')");
ok( $old->poll_query_until('second', 'SELECT count(*) = 1 FROM turn_liveness.reply'),
	'a second database, where a turn has failed');
advance($old, '1 min');
$old->stop;

# --- in binary-upgrade mode nothing of ours runs

my $socket = $old->host;
my $log = $old->basedir . '/upgrade.log';
command_ok(
	[ 'pg_ctl', '-w', '-D', $old->data_dir, '-l', $log, '-o', '-b -p ' . $old->port, 'start' ],
	'a server in binary-upgrade mode');
$old->_update_pid(1);
is( $old->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'turn_liveness%'}),
	'0', 'no process of ours in binary-upgrade mode');
isnt($old->safe_psql('postgres', 'SELECT worker_state FROM turn_liveness.stat'), 'running', 'stat agrees');
isnt($old->safe_psql('postgres', 'SELECT worker_problem FROM turn_liveness.stat'), '', 'and says why');
advance($old, '2 min');
is($old->safe_psql('postgres', 'SELECT state FROM turn_liveness.turns WHERE deployment = \'short\''),
	'waiting', 'a start of the server gives a turn deadline in this mode too');
advance($old, '20 min');
is($old->safe_psql('postgres', 'SELECT state FROM turn_liveness.turns WHERE deployment = \'short\''),
	'lapsed', 'but a turn can lapse');
is($old->safe_psql('postgres', "CREATE DATABASE third; SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'turn_liveness%'"),
	'0', 'and no worker comes to fail it');
is(ends($old, 'short', 'm1'), '', 'nobody did');
my $before = $old->safe_psql('postgres', $contents);
$old->stop;
unlike(slurp_file($log), qr/turn_liveness (worker|launcher)/, 'nor is any in the log');

# --- pg_upgrade

# it looks for libraries in the server's own directory, and 18 has no other way to it
if ($old->pg_version >= 18 && !-e $old->config_data('--pkglibdir') . '/turn_liveness.so')
{
	note 'no pg_upgrade: not installed where it looks';
	done_testing();
	exit 0;
}

my $new = new_node('new', '', start => 0);
mkdir $new->basedir . '/work';
chdir $new->basedir . '/work';
command_ok(
	[
		'pg_upgrade', '--no-sync', '--retain', '-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $old->config_data('--bindir'), '-B', $new->config_data('--bindir'),
		'-s', $new->host, '-p', $old->port, '-P', $new->port
	],
	'pg_upgrade');
my @logs = glob($new->data_dir . '/pg_upgrade_output.d/*/log/*server*.log');
isnt(scalar @logs, 0, 'it kept the logs of its servers');
unlike(join('', map { slurp_file($_) } @logs), qr/turn_liveness (worker|launcher)/, 'where no worker appears');

$new->start;
wait_worker($new);
is($new->safe_psql('postgres', $contents), $before, 'everything is there');
wait_worker($new, 'second');
is($new->safe_psql('second', "SELECT error_code FROM turn_liveness.replies"),
	'WORKER_NEVER_STARTED', 'also in the second database, whose worker runs too');

# another system: turns of the old one are left alone for restore_grace
wait_clock($new, 2.5);    # the worker sees them
advance($new, '9 min');
ok(worker_looked($new), 'the worker has looked within restore_grace');
is($new->safe_psql('postgres', 'SELECT turns_lapsed FROM turn_liveness.stat'), '0', 'nothing lapses within it');
is($new->safe_psql('postgres', "SELECT turn_liveness.heartbeat('short')"), '1', 'a beat');
advance($new, '4 min');
ok(worker_looked($new), 'the worker has looked after it');
is(ends($new, 'short', 'm1'), '', 'a beat gives a turn deadline');
# (a pause of a busy machine would give it another)
ok( wait_until(
		'the turn is failed',
		sub { advance($new, '2 min'); ends($new, 'short', 'm1') eq 'WORKER_UNRESPONSIVE sweep' }),
	'then it is failed');
is($new->safe_psql('postgres', "SELECT state FROM turn_liveness.turns WHERE deployment = 'long'"),
	'waiting', 'the other one waits');

my @gateway = (extra_params => [ '-U', 'gateway' ]);
is( $new->safe_psql('postgres', "SELECT turn_liveness.commit_terminal_reply('long', '{m1}', '{}')", @gateway),
	'won', 'the gateway goes on with its grants');
is( $new->safe_psql('postgres', q{
SELECT turn_liveness.revoke_gateway('of_two_kinds');
SELECT has_function_privilege('of_two_kinds', 'turn_liveness.arm_turn'::regproc, 'EXECUTE'),
	has_function_privilege('of_two_kinds', 'turn_liveness.start_turn'::regproc, 'EXECUTE')}),
	"\nf|t", 'a worker that was a gateway, too, is one after a revoke');
is($new->safe_psql('postgres', "SELECT turn_liveness.arm_turn('answered', 'm1')", @gateway),
	'answered', 'what had ended has ended');
is( $new->safe_psql('postgres', "SELECT payload->>'content' FROM turn_liveness.read_replies('{c2}')", @gateway),
	'42', 'what was not delivered is read');
is( $new->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) s'),
	'0', 'nobody has two ends');

$new->stop;
chdir $FindBin::RealBin;
done_testing();
