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

# How many times 2^32 ids have gone by
sub jumps
{
	my ($id) = @_;
	return $id >> 32;
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

# --- a base backup that starts by itself, without a new timeline; and copies of it

my $origin = new_node('origin', '', streaming => 1);
$origin->enable_archiving;
$origin->restart;
answer($origin, 5);
$origin->safe_psql('postgres', 'CREATE DATABASE second TEMPLATE postgres');
$origin->backup('plain');
answer($origin, 5);
$point = $origin->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
$seen = answer($origin, 50);
$origin->safe_psql('postgres', 'SELECT pg_switch_wal()');
$origin->stop;

# A server from that backup; the settings are lines of postgresql.conf
sub restored
{
	my ($name, $settings, %option) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init_from_backup($origin, 'plain', %option);
	$node->append_conf('postgresql.conf', "archive_mode = off\n$settings");
	$node->start;
	return $node;
}

my $copy = restored('copy', '');
is(hears($copy, $seen), 'm' . $count, 'a copy: ids go on rising');
$largest = answer($copy, 1);
is(jumps($largest), 1, 'a copy: they move on once');
$copy->restart;
is(answer($copy, 1), $largest + 1, 'a copy that is started again goes on from there');
$copy->stop('immediate');
$copy->start;
is(jumps(answer($copy, 1)), 1, 'after a crash, too');
ok($copy->poll_query_until('second', "SELECT last_value = 2::bigint ^ 32 FROM turn_liveness.reply_id_seq"), 'the worker moves the ids of a database that no session uses');
$copy->stop;

# without a worker, one that crashes before it gives out an id, and in its second
# database again, once the first has moved on
my $crashed = restored('crashed', 'turn_liveness.enabled = off');
$crashed->stop('immediate');
$crashed->start;
is(hears($crashed, $seen), 'm' . $count, 'a copy that crashes before its ids move on: they do, afterwards');
$crashed->stop('immediate');
$crashed->start;
$largest = answer($crashed, 1);
is(jumps($largest), 1, 'and not again');
is($crashed->safe_psql('second', q{SELECT last_value < 100 FROM turn_liveness.reply_id_seq}), 't', 'another database has not moved yet');
is($crashed->safe_psql('second', q{SELECT turn_liveness.reject_turn('d', 'm', '{}', 'x'); SELECT max(reply_id) > 2::bigint ^ 32 FROM turn_liveness.reply}), "won\nt", 'and does so in the run in which it gives out its first');

# a copy of the copy
$crashed->backup('again');
answer($crashed, 5);
my $grandchild = PostgreSQL::Test::Cluster->new('grandchild');
$grandchild->init_from_backup($crashed, 'again');
$grandchild->start;
$crashed->stop;
is(jumps(answer($grandchild, 1)), 2, 'a copy of a copy moves on once more');
$grandchild->stop;

# without preload
my $plain = restored('plain', "shared_preload_libraries = ''");
is(hears($plain, $seen), 'm' . $count, 'a copy without preload: ids go on rising');
$plain->restart;
is(jumps(answer($plain, 1)), 1, 'once');
$plain->stop;

# --- a recovery to a point in time

my $past = restored('past', "recovery_target_lsn = '$point'\nrecovery_target_action = 'promote'\nshared_preload_libraries = ''", has_restoring => 1, standby => 0);
$past->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
cmp_ok($past->safe_psql('postgres', 'SELECT max(reply_id) FROM turn_liveness.reply'), '<', $seen, 'a point in time at which the last replies were not yet');
is(hears($past, $seen), 'm' . $count, 'ids go on rising, without preload too');
$past->append_conf('postgresql.conf', "shared_preload_libraries = 'turn_liveness'");
$past->restart;
is(jumps(answer($past, 1)), 1, 'once');
$past->stop;

# --- the same where the sequence is ahead of its timeline, as after a step by hand

# As answer(), whose first id is beyond what was seen
sub rises
{
	my ($node, $seen, $what) = @_;
	my $first = $count + 1;
	my $last = answer($node, 60);
	cmp_ok($node->safe_psql('postgres', "SELECT reply_id FROM turn_liveness.replies WHERE message_ids[1] = 'm$first'"), '>', $seen, $what);
	return $last;
}

my $one = new_node('one', "wal_keep_size = '1GB'\narchive_mode = off\n", streaming => 1);
my $by_one = $one->safe_psql('postgres', "SELECT setval('turn_liveness.reply_id_seq', 1::bigint << 40)");
$seen = rises($one, $by_one, 'ahead');
$one->backup('ahead');
my $two = PostgreSQL::Test::Cluster->new('two');
$two->init_from_backup($one, 'ahead', has_streaming => 1);
$two->start;
$one->wait_for_catchup($two, 'replay', $one->lsn('insert'));
$one->stop;
$two->promote;
$seen = rises($two, $seen, 'ahead, and promoted');

# the first follows, and has given out none of its ids from here on
$one->enable_streaming($two);
$one->start;
$seen = rises($two, $seen, 'and goes on');
$two->wait_for_catchup($one, 'replay', $two->lsn('insert'));
$one->stop;
$one->backup_fs_cold('demoted');
$seen = rises($two, $seen, 'and on');
# where the last record is that of the sequence
($point) = $two->safe_psql('postgres', "SELECT setval('turn_liveness.reply_id_seq', nextval('turn_liveness.reply_id_seq')) || ' ' || pg_current_wal_insert_lsn()") =~ / (.*)/;
$seen = rises($two, $seen, 'and on again');
$two->stop('immediate');
$one->start;
$one->promote;
my $of_one = rises($one, $seen, 'the first, promoted in its turn: beyond what the second gave out');
$one->restart;
is(jumps(answer($one, 1)), jumps($of_one), 'and its ids move on once');

# another standby of the second, as it was a moment before; it knows that there is a third timeline
$two->start;
my $three = PostgreSQL::Test::Cluster->new('three');
$three->init_from_backup($one, 'demoted');
$three->append_conf('postgresql.conf', "recovery_target_lsn = '$point'\nrecovery_target_inclusive = off\nrecovery_target_action = 'promote'\nrecovery_target_timeline = '2'");
append_to_file($three->data_dir . '/pg_wal/00000003.history', slurp_file($one->data_dir . '/pg_wal/00000003.history'));
$three->start;
$three->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
is($three->safe_psql('postgres', 'SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)'), '00000004', 'two timelines begin in the second');
my $of_three = rises($three, $seen, 'the ids of the other go on, too');
isnt(jumps($of_three), jumps($of_one), 'and are none of those of the first');
$_->stop foreach $one, $two, $three;

# --- a sequence that does not fit its node

my $node = new_node('nodes', '');
wait_worker($node);
my $problem = 'SELECT worker_problem FROM turn_liveness.stat';
my $altering = session($node);
$altering->query_safe('BEGIN; ALTER SEQUENCE turn_liveness.reply_id_seq OWNED BY NONE');
my $log_start = -s $node->logfile;
$node->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.node = 3');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT ($problem) LIKE 'the ids of replies are not yet those of turn_liveness.node 3: %'"), 'stat says that the ids are not those of the node');
$altering->query_safe('ROLLBACK');
ok($node->poll_query_until('postgres', "SELECT last_value = 3 * 2::bigint ^ 44 FROM turn_liveness.reply_id_seq"), 'the worker mends it');
like(slurp_file($node->logfile, $log_start), qr/LOG:  the ids of replies of database "postgres" go on after 52776558133248\n.*DETAIL:  The last one was 0\./, 'and says so');
ok($node->poll_query_until('postgres', "SELECT ($problem) IS NULL"), 'then all is well');
is($node->safe_psql('postgres', "SELECT setval('turn_liveness.reply_id_seq', 7); SELECT turn_liveness.reject_turn('n', 'm', '{}', 'x'); SELECT reply_id - 3 * 2::bigint ^ 44 FROM turn_liveness.reply"),
	"7\nwon\n1", 'a sequence that was set back, as by a restore, is mended before the next id');
$node->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.node = 2');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT ($problem) LIKE 'the ids of replies are those of node 3, and cannot go back to those of turn_liveness.node 2: %'"), 'a node that is lowered is not mended, and stat says what to do');
$node->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.node = 4');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT ($problem) IS NULL AND last_value = 4 * 2::bigint ^ 44 FROM turn_liveness.reply_id_seq"), 'which mends it');

# a sequence that keeps ids for a session, or counts otherwise, is refused
foreach my $change ('CACHE 20', 'INCREMENT 2', 'CYCLE', 'MAXVALUE 1000000000000000', 'SET UNLOGGED')
{
	$node->safe_psql('postgres', "ALTER SEQUENCE turn_liveness.reply_id_seq $change");
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT turn_liveness.reject_turn('n', 'm2', '{}', 'x')", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($err, qr/55000: sequence "turn_liveness.reply_id_seq" has other parameters/, "$change is refused");
	my ($mend) = $err =~ /HINT:  (.*)/;
	is($node->safe_psql('postgres', $problem), 'the sequence of the ids of replies has other parameters than it was installed with', 'stat says so');
	$node->safe_psql('postgres', $mend);
	is($node->safe_psql('postgres', "SELECT turn_liveness.reject_turn('n', '$change', '{}', 'x')"), 'won', 'the hint mends it');
}
# what the README says to do where it cannot be told
my ($by_hand) = slurp_file("$FindBin::RealBin/../../README.md") =~ /^(SELECT setval\(.*?;)$/ms;
my $before = $node->safe_psql('postgres', 'SELECT last_value FROM turn_liveness.reply_id_seq');
$node->safe_psql('postgres', $by_hand);
is($node->safe_psql('postgres', "SELECT turn_liveness.reject_turn('n', 'by hand', '{}', 'x'); SELECT max(reply_id) > $before + 16 * (1::bigint << 32), max(reply_id) < 5 * (1::bigint << 44) FROM turn_liveness.reply"),
	"won\nt|t", 'moved by hand');
$altering->quit;

# --- a server that must not be asked: sessions that run hear it, and the worker sweeps nothing

my $session = session($node);
is($session->query_safe(q{SELECT turn_liveness.arm_turn('a', 'm', admission => '1 h', silence => '30 min')}), 'armed', 'armed');
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
			# of another deployment: until the session has the setting, its beats count
			$session->query("SELECT turn_liveness.heartbeat('b')");
			return ($session->{stderr} // '') =~ /does not accept/;
		}),
	'a session that runs is refused its beat');
is($refused->($node, "SELECT turn_liveness.arm_turn('a', 'm2')"), 'refused', 'an arm, too');
# a pause would give it time again
no_pauses($node);
advance($node, '2 h');
is($node->safe_psql('postgres', "SELECT state FROM turn_liveness.get_turn('a', 'm')"), 'lapsed', 'a turn lapses');
is(owed($node), 1, 'and is not failed');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET turn_liveness.accept');
$node->reload;
ok(wait_until('accepted', sub { $refused->($node, "SELECT turn_liveness.heartbeat('b')") ne 'refused' }), 'accepted again');
# the turn deadline counts from where the worker has the setting
worker_looked($node);
advance($node, '20 min');
worker_looked($node);
is(owed($node), 1, 'a turn deadline for each');
advance($node, '11 min');
is(wait_ended($node, 'a', 'm'), 'WORKER_NEVER_STARTED sweep', 'and then it fails');
$node->stop;
done_testing();
