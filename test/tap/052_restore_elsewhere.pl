# A dump is restored by a server that has the library and does not preload it:
# everything arrives, and no process sweeps until a session does.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $old = new_node('old', '');
$old->safe_psql(
	'postgres', q{
SELECT turn_liveness.arm_turn('waits', 'm1', '{"conversationId": "c1"}', admission => '30s', silence => '30s');
SELECT turn_liveness.arm_turn('ends', 'm1', '{"conversationId": "c2"}');
SELECT turn_liveness.commit_terminal_reply('ends', '{m1}', '{"content": "42"}');
});
my $dump = $old->basedir . '/dump';
$old->command_ok([ 'pg_dump', '-Fc', '-f', $dump, 'postgres' ], 'a dump');
$old->stop;

my $new = new_node('new', '', preload => 0, extension => 0);
$new->safe_psql('postgres', 'CREATE DATABASE restored');
$new->command_ok([ 'pg_restore', '--exit-on-error', '-j2', '-d', 'restored', $dump ], 'restored without preload');

sub sql { return $new->safe_psql('restored', $_[0]) }

is(sql('SELECT deployment, message_id, state FROM turn_liveness.turns'), 'waits|m1|waiting', 'what is owed is there');
is(sql(q{SELECT payload->>'content', state FROM turn_liveness.read_replies('{c2}')}), '42|due', 'what was not delivered too');
advance($new, '1 min');
is(sql('SELECT turn_liveness.sweep_expired_turns()'), '0', 'the sweep that sees it first declares nobody dead');
advance($new, '9 min');
is(sql('SELECT turn_liveness.sweep_expired_turns()'), '0', 'nor within the grace');
advance($new, '2 min');
is(sql(q{SELECT deployment, state FROM turn_liveness.turns}), 'waits|lapsed', 'after it the turn has lapsed, and nobody sweeps it');
is(sql('SELECT turn_liveness.sweep_expired_turns()'), '1', 'but who is asked to');
is(sql(q{SELECT deployment, error_code FROM turn_liveness.replies WHERE outcome = 'error'}), 'waits|WORKER_UNRESPONSIVE', 'with the error');
is(sql(q{SELECT turn_liveness.arm_turn('ends', 'm1'), turn_liveness.arm_turn('new', 'm1')}), 'answered|armed', 'and it goes on from there');
is(sql(q{SELECT count(*) = count(DISTINCT reply_id) FROM turn_liveness.reply}), 't', 'with ids of its own');

$new->stop;
done_testing();
