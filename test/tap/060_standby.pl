# A standby reads and nothing else; its promotion starts a worker, with a
# grace; and a failover with synchronous replication ends no turn twice.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# The SQLSTATE of a statement, '' if it succeeds.
sub sqlstate
{
	my ($node, $sql, @params) = @_;
	my ($stdout, $stderr) = ('', '');
	my $result = $node->psql('postgres', $sql, stdout => \$stdout, stderr => \$stderr,
		extra_params => [ '-v', 'VERBOSITY=sqlstate', @params ]);
	return $result == 0 ? '' : $stderr =~ /ERROR:\s+(\w{5})/ ? $1 : $stderr;
}

# stat tells of the start for one turn deadline
my $primary = new_node('primary', "turn_liveness.turn_deadline = '10 min'", streaming => 1);
$primary->safe_psql(
	'postgres', q{
CREATE ROLE gateway LOGIN;
CREATE ROLE monitor LOGIN;
SELECT turn_liveness.grant_gateway('gateway'), turn_liveness.grant_monitor('monitor');
SELECT turn_liveness.arm_turn('waits', 'm1', admission => '100 min', silence => '50 min', duration => '1 d');
SELECT turn_liveness.arm_turn('runs', 'm1', admission => '100 min', silence => '50 min', duration => '1 d');
SELECT turn_liveness.heartbeat('runs', '{m1}');
SELECT turn_liveness.arm_turn('ends', m, '{"conversationId": "c1", "platform": "web"}') FROM unnest('{m1,m2}'::text[]) m;
SELECT turn_liveness.commit_terminal_reply('ends', '{m1}', '{"content": "42"}'), turn_liveness.fail_turn('ends', 'm2', 'stopped', 'CANCELLED');
SELECT turn_liveness.commit_terminal_reply('ends', '{m1}', '{"content": "late"}');
});
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

# --- a hot standby reads

my @gateway = (extra_params => [ '-U', 'gateway' ]);
is( $standby->safe_psql('postgres', 'SELECT deployment, message_id, platform, armed_at < now(), state FROM turn_liveness.turns ORDER BY 1', @gateway),
	$standby->safe_psql('postgres', q{SELECT 'runs', 'm1', 'api', true, state FROM turn_liveness.turns WHERE deployment = 'runs'}) . "\n"
	  . $standby->safe_psql('postgres', q{SELECT 'waits', 'm1', 'api', true, state FROM turn_liveness.turns WHERE deployment = 'waits'}),
	'turns');
is( $standby->safe_psql('postgres', 'SELECT message_ids, outcome, error_code, state, due_at <= now() FROM turn_liveness.replies ORDER BY reply_id', @gateway),
	"{m1}|answer||due|t\n{m2}|error|CANCELLED|due|t", 'replies');
is($standby->safe_psql('postgres', 'SELECT verdict, payload->>\'content\' FROM turn_liveness.late_replies', @gateway),
	'lost|late', 'late_replies');
is($standby->safe_psql('postgres', 'SELECT turns_owed, worker_state, worker_problem, worker_pid FROM turn_liveness.stat', @gateway),
	'2|none|the server is a standby|', 'stat');
is( $standby->safe_psql('postgres', 'SELECT count(deployment) FROM turn_liveness.turns', extra_params => [ '-U', 'monitor' ]),
	'2', 'the monitor reads there too');
is($standby->safe_psql('postgres', q{SELECT message_ids, payload->>'content', state FROM turn_liveness.read_replies('{c1}')}, @gateway),
	"{m1}|42|due\n{m2}||due", 'read_replies reads');
my $cursor = $standby->safe_psql('postgres', q{SELECT min(reply_id) FROM turn_liveness.read_replies('{c1}')});
is($standby->safe_psql('postgres', "SELECT message_ids FROM turn_liveness.read_replies('{c1}', '{$cursor}')"),
	'{m2}', 'past a cursor too');
is($standby->safe_psql('postgres', q{SELECT state, generation, payload->>'content' FROM turn_liveness.get_turn('ends', 'm1')}, @gateway), 'answer|1|42', 'get_turn reads');
is($standby->safe_psql('postgres', q{SELECT state, generation FROM turn_liveness.get_turn('waits', 'm1')}, @gateway), 'waiting|1', 'of an owed one too');
is(sqlstate($standby, q{SELECT turn_liveness.has_live_turn('waits', 'm1')}), '25006', 'has_live_turn knows no beats there: 25006');

# --- and nothing else: every function of ours that is volatile, by the list

my %call = (
	arm_turn => q{'x', 'm1'},
	heartbeat => q{'runs'},
	heartbeats => q{'{runs,waits}'},
	start_turn => q{'runs', 'm1'},
	commit_terminal_reply => q{'runs', '{m1}', '{}'},
	post_update => q{'runs', 'm1', '{}'},
	suspend_turn => q{'runs', 'm1', '1 h'},
	resume_turn => q{'runs', 'm1'},
	rescue_turns => '',
	fail_turn => q{'runs', 'm1', 'x'},
	fail_deployment => q{'runs'},
	reject_turn => q{'runs', 'm3', '{}', 'x'},
	discharge_turn => q{'runs', 'm1'},
	mark_provider_failed => q{'runs', 'c', 'r'},
	clear_provider_failed => q{'runs'},
	attach_worker => q{'runs'},
	detach_worker => q{'runs'},
	sweep_expired_turns => '',
	claim_replies => q{'gw', '{c1}'},
	ack_replies => q{'gw', '{1}'},
	release_replies => q{'gw', '{1}'},
	retry_dead_reply => '1',
	change_privileges => q{'GRANT', 'monitor', 'monitor'},
	grant_gateway => q{'monitor'},
	grant_worker => q{'monitor'},
	grant_monitor => q{'monitor'},
	revoke_gateway => q{'monitor'},
	revoke_worker => q{'monitor'},
	revoke_monitor => q{'monitor'},
);
my @volatile = split /\n/, $standby->safe_psql('postgres',
	q{SELECT proname FROM pg_proc WHERE pronamespace = 'turn_liveness'::regnamespace AND provolatile = 'v'
	  AND proname NOT IN ('has_live_turn', 'stat_reset', 'foreign_change') ORDER BY 1});
is(join(',', sort keys %call), join(',', sort @volatile), 'no function is forgotten');
foreach my $function (@volatile)
{
	is(sqlstate($standby, "SELECT turn_liveness.$function($call{$function})"), '25006', "$function on a standby: 25006");
}
is(sqlstate($standby, q{SELECT turn_liveness.heartbeat('runs', '{m1}')}), '25006', 'so does a beat for a turn');
is(sqlstate($standby, q{SELECT turn_liveness.heartbeat('none')}), '25006', 'so does one for nothing');
is(sqlstate($standby, 'LISTEN turn_liveness'), '25006', 'and LISTEN');
is( $standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'turn_liveness%'}),
	'0', 'no process of ours');
# --- promotion

arm($primary, 'quiet', 'm1', q{admission => '100 min', silence => '50 min', duration => '1 d'});
$primary->safe_psql('postgres', q{SELECT turn_liveness.start_turn('quiet', 'm1')});
$primary->wait_for_catchup($standby);
$primary->stop('immediate');
$standby->promote;
my $pid = wait_worker($standby);
ok($pid, 'a worker runs after the promotion');
ok( $standby->poll_query_until('postgres', q{SELECT grace ~ 'server start' FROM turn_liveness.stat}),
	'with the grace of a start');
advance($standby, '40 min');
is($standby->safe_psql('postgres', 'SELECT turn_liveness.sweep_expired_turns()'), '0', 'nothing has lapsed');
is($standby->safe_psql('postgres', q{SELECT string_agg(deployment, ',' ORDER BY deployment) FROM turn_liveness.turns}),
	'quiet,runs,waits', 'all live within one turn deadline');
is($standby->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('runs', '{m1}')}, @gateway), '1', 'a worker beats');
advance($standby, '40 min');
is(ends($standby, 'runs', 'm1'), '', 'and is not failed');
is(ends($standby, 'quiet', 'm1'), '', 'nor is one that had been started, and has not beaten since: it waits for a worker again');
ok( wait_until(
		'the turn is failed',
		sub { advance($standby, '30 min'); ends($standby, 'runs', 'm1') eq 'WORKER_UNRESPONSIVE sweep' }),
	'until it is silent');
is(wait_ended($standby, 'quiet', 'm1'), 'WORKER_UNRESPONSIVE sweep', 'until its admission deadline');
is(wait_ended($standby, 'waits', 'm1'), 'WORKER_UNRESPONSIVE sweep', 'who never beat after the promotion is unresponsive');
is($standby->safe_psql('postgres', q{SELECT turn_liveness.arm_turn('ends', 'm1')}), 'answered', 'what had ended has ended');
$standby->stop;

# --- a failover with synchronous replication, in the middle of the work

my $first = new_node('first', q{
synchronous_commit = remote_apply
}, streaming => 1);
$first->backup('base');
my $second = PostgreSQL::Test::Cluster->new('second');
$second->init_from_backup($first, 'base', has_streaming => 1);
$second->start;
$first->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'second'});
$first->reload;
ok( $first->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'}),
	'a synchronous standby');
is($first->safe_psql('postgres', 'SHOW synchronous_commit'), 'remote_apply', 'remote_apply');

# Each client arms, answers, and writes down what it was told; on its own side.
my $dir = $first->basedir;
my $script = "$dir/client.sql";
append_to_file($script, <<'END');
SELECT format('SELECT turn_liveness.arm_turn(%L, %L, %L, admission => %L, silence => %L);', 's' || n, 'm1', '{"conversationId": "sync"}', '500ms', '500ms'),
	CASE WHEN n % 20 = 0 THEN 'SELECT pg_sleep(0.5);' ELSE ';' END,
	format('SELECT %L, turn_liveness.commit_terminal_reply(%L, %L, %L);', 's' || n, 's' || n, '{m1}', '{"content": "answer"}')
FROM generate_series(:from, :from + 99999) n \gexec
END
my @clients;
foreach my $client (1 .. 4)
{
	push @clients, IPC::Run::start(
		[ 'psql', '-X', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-v', "from=${client}00000", '-d', $first->connstr('postgres'), '-f', $script ],
		'>', "$dir/client$client.out", '2>', "$dir/client$client.err");
}
ok( $first->poll_query_until('postgres',
		q{SELECT count(*) FILTER (WHERE outcome = 'a') > 200 AND count(*) FILTER (WHERE outcome = 'e') > 20 FROM turn_liveness.reply}),
	'turns are answered, and failed by the worker');
$first->stop('immediate');
$second->promote;
$_->finish for @clients;
wait_worker($second);

my %told;
foreach my $client (1 .. 4)
{
	foreach my $line (split /\n/, slurp_file("$dir/client$client.out"))
	{
		my ($deployment, $verdict) = $line =~ /^(s\d+)\|(\w+)$/ or next;
		$told{$deployment} = $verdict;
	}
}
my @won = grep { $told{$_} eq 'won' } keys %told;
my @lost = grep { $told{$_} eq 'lost' } keys %told;
cmp_ok(scalar @won, '>', 100, 'clients were told won: ' . @won);
cmp_ok(scalar @lost, '>', 10, 'or lost: ' . @lost);
is(scalar(grep { $_ !~ /^(won|lost)$/ } values %told), 0, 'and nothing else');
my $list = sub { join(',', map { "'$_'" } @_) };
is( $second->safe_psql('postgres',
		"SELECT count(*) FROM turn_liveness.replies WHERE deployment IN (${\ $list->(@won)}) AND outcome = 'answer'"),
	scalar @won, 'each answer that won is on the new primary');
is( $second->safe_psql('postgres',
		"SELECT count(*) FROM turn_liveness.replies WHERE deployment IN (${\ $list->(@lost)}) AND error_code = 'WORKER_NEVER_STARTED'"),
	scalar @lost, 'each that lost has the error there');

# whatever was in the air: the answers are given again, and the worker sweeps
my $again = $second->safe_psql('postgres',
	q{SELECT string_agg(DISTINCT turn_liveness.commit_terminal_reply(deployment, '{m1}', '{"content": "answer"}')::text, ',') FROM turn_liveness.turn}
);
like($again, qr/won/, 'the answers once more: ' . $again);
advance($second, '10 min');
ok($second->poll_query_until('postgres', 'SELECT count(*) = 0 FROM turn_liveness.turn WHERE outcome IS NULL'),
	'nothing is owed');
is( $second->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) s'),
	'0', 'no turn has two ends');
is( $second->safe_psql('postgres',
		'SELECT count(*) FROM turn_liveness.turn t WHERE NOT EXISTS (SELECT FROM turn_liveness.reply r WHERE r.deployment = t.deployment AND t.message_id = ANY (r.message_ids))'),
	'0', 'and each has one');
unlike(slurp_file($second->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$second->stop;

done_testing();
