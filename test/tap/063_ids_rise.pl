# Ids of replies go on rising through whatever a server goes through: a client's
# cursor never lies ahead of what comes.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $count = 0;

# Answers so many turns of a conversation; returns the largest id.
sub answer
{
	my ($node, $turns) = @_;
	my $from = $count + 1;
	$count += $turns;
	$node->safe_psql('postgres', <<"END");
SELECT count(turn_liveness.arm_turn('c', 'm' || i)) FROM generate_series($from, $count) i;
SELECT count(turn_liveness.commit_terminal_reply('c', ARRAY['m' || i], '{}')) FROM generate_series($from, $count) i;
END
	return $node->safe_psql('postgres', "SELECT max(reply_id) FROM turn_liveness.read_replies('{c}', NULL, 100000)");
}

# What a stream with this cursor hears after one more answer
sub hears
{
	my ($node, $cursor) = @_;
	answer($node, 1);
	return $node->safe_psql('postgres', "SELECT string_agg(message_ids[1], ' ') FROM turn_liveness.read_replies('{c}', '{$cursor}')");
}

my $primary = new_node('primary', "wal_log_hints = on\nwal_keep_size = '1GB'\narchive_mode = off\n", streaming => 1);
my $seen = answer($primary, 10);
cmp_ok($seen, '<', 2**32, 'the first timeline begins at 1');

# --- a standby that lags by 500 replies is promoted

$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
$standby->stop;
$seen = answer($primary, 500);
my $point = $primary->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
$primary->stop;
$standby->start;
$standby->promote;
cmp_ok($standby->safe_psql('postgres', "SELECT max(reply_id) FROM turn_liveness.reply"), '<', $seen, 'what was lost had been seen');
is(hears($standby, $seen), 'm' . $count, 'promoted: a client with the last id that the primary gave out hears the next reply');
my $largest = answer($standby, 3);
cmp_ok($largest, '>', 2**32, 'promoted: its ids are beyond those of the first timeline');

# --- the old primary is rewound, follows, and is promoted itself

$standby->safe_psql('postgres', 'CHECKPOINT');
command_ok(
	[   'pg_rewind', '--no-sync', '--source-server' => $standby->connstr('postgres'),
		'--target-pgdata' => $primary->data_dir, '--config-file' => $primary->data_dir . '/postgresql.conf' ],
	'pg_rewind');
my $port = $primary->port;
$primary->append_conf('postgresql.conf', "port = $port\nunix_socket_directories = '" . $primary->host . "'\nprimary_conninfo = '" . $standby->connstr . "'");
$primary->append_conf('standby.signal', '');
$primary->start;
$standby->wait_for_catchup($primary, 'replay', $standby->lsn('insert')) if $primary->safe_psql('postgres', 'SELECT pg_is_in_recovery()') eq 't';
$primary->promote;
is(hears($primary, $largest), 'm' . $count, 'rewound and promoted: ids go on rising');
cmp_ok(answer($primary, 1), '>', 2 * 2**32, 'by one timeline more');
$primary->stop;
$standby->stop;

# --- a base backup that starts by itself, without a new timeline

my $origin = new_node('origin', '', streaming => 1);
answer($origin, 5);
$origin->backup('plain');
$seen = answer($origin, 50);
$origin->stop;
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($origin, 'plain');
$copy->start;
is(hears($copy, $seen), 'm' . $count, 'a copy: ids go on rising');
$largest = answer($copy, 1);
cmp_ok($largest, '<', 2 * 2**32, 'a copy: they move on once');
$copy->restart;
is(answer($copy, 1), $largest + 1, 'a copy that is started again goes on from there');
$copy->stop;

# --- a server that must not be asked: sessions that run hear it, and the worker sweeps nothing

my $node = new_node('refuses', '');
wait_worker($node);
my $session = session($node);
is($session->query_safe(q{SELECT turn_liveness.arm_turn('a', 'm', admission => '1 h')}), 'armed', 'armed');
my $refused = sub {
	my ($node, $statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $statement, extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	return $err =~ /55000/ ? 'refused' : "rc $rc $out $err";
};
$node->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.accept = off');
$node->reload;
ok( wait_until(
		'the session is refused',
		sub {
			$session->query("SELECT turn_liveness.heartbeat('a')");
			return ($session->{stderr} // '') =~ /does not accept/;
		}),
	'a session that runs is refused its beat');
is($refused->($node, "SELECT turn_liveness.arm_turn('a', 'm2')"), 'refused', 'an arm, too');
advance($node, '2 h');
is($node->safe_psql('postgres', "SELECT state FROM turn_liveness.get_turn('a', 'm')"), 'lapsed', 'a turn lapses');
is(owed($node), 1, 'and is not failed');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET turn_liveness.accept');
$node->reload;
ok(wait_until('accepted', sub { $refused->($node, "SELECT turn_liveness.heartbeat('b')") ne 'refused' }), 'accepted again');
is(owed($node), 1, 'a turn deadline for each');
advance($node, '2 min');
is(wait_ended($node, 'a', 'm'), 'WORKER_NEVER_STARTED sweep', 'and then it fails');
$node->stop;
done_testing();
