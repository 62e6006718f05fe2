# The person on call: each question of the README answered by the query that
# stands there; the log; pg_stat_activity.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $top = "$FindBin::RealBin/../..";
my $node = new_node('main', q{
turn_liveness.log_failures = on
turn_liveness.undelivered_retention = '20d'
turn_liveness.retention = '20d'
turn_liveness.claim_timeout = '30 min'
log_line_prefix = '%m [%p] %b %e '
});
$node->safe_psql(
	'postgres', q{
CREATE ROLE gateway LOGIN;
CREATE ROLE monitor LOGIN;
SELECT turn_liveness.grant_gateway('gateway'), turn_liveness.grant_monitor('monitor');
});

# --- the README's questions

my ($part) = slurp_file("$top/README.md") =~ /^### Monitoring\n(.*?)^### /ms;
my %query;
while ($part =~ /^-- ([^\n]+\?)\n(.*?;\n)(?=\n|```)/msg)
{
	$query{$1} = $2;
}
cmp_ok(scalar keys %query, '>=', 10, 'the README has its questions');
my %asked;

sub ask
{
	my ($words, $role) = @_;
	my @found = grep { /$words/ } sort keys %query;
	die "the README has not one question: $words" unless @found == 1;
	$asked{ $found[0] } = 1;
	return $node->safe_psql('postgres', $query{ $found[0] }, extra_params => [ '-U', $role // 'monitor' ]);
}

# Is the worker up?
my $worker = worker_pid($node);
is(ask('Is the worker up'), "running||$worker", 'the worker is up');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.enabled = off');
ok(wait_until('the worker is off', sub { ask('Is the worker up') eq 'disabled|turn_liveness.enabled is off|' }),
	'it is not, and why');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.enabled');
wait_worker($node);

# How many failed?
my $log_start = -s $node->logfile;
arm($node, 'never', 'm1', q{'{"platform": "slack"}', admission => '1s', silence => '1s'});
arm($node, 'silent', $_, q{'{"platform": "web"}', admission => '1h', silence => '1s'}) for qw(m1 m2);
$node->safe_psql('postgres', q{SELECT turn_liveness.start_turn('silent', 'm1', 'w2'), turn_liveness.heartbeat('silent', '{m2}')});
arm($node, 'stopped', 'm1');
$node->safe_psql('postgres', q{SELECT turn_liveness.fail_turn('stopped', 'm1', 'x', 'CANCELLED')});
wait_until('all have failed', sub { advance($node, '2 s'); failures($node) == 4 });
like( ask('How many turns failed'),
	qr/\AWORKER_UNRESPONSIVE\|web\|silent\|2\|[^|]+\|[^|]+\n(?=.*^CANCELLED\|api\|stopped\|1\|)(?=.*^WORKER_NEVER_STARTED\|slack\|never\|1\|).*\z/ms,
	'by code, platform and deployment');

is(ask('each worker'), "|2|0|3\nw2|1|0|1", 'and by worker');

my $log = turn_lines($node, $log_start);
is(scalar(() = $log =~ /failed turn "/g), 3, 'one line in the log for each turn that the worker failed');
like($log, qr/ turn_liveness worker 01000 LOG:  failed turn "m1" of deployment "never" \(conversation "never", platform "slack", generation 1\): WORKER_NEVER_STARTED, waited for [\d.]+ s of 1\.0 s, armed [\d.]+ s ago, decided by sweep in database "postgres"\n/,
	'with code, names, database');
my ($sample) = $part =~ /`(failed turn .*?)`/s;
$sample =~ s/\s+/ /g;
$sample = quotemeta($sample) =~ s/conv\\-7/silent/gr =~ s/app/postgres/r =~ s/\d+\\\.\d/[\\d.]+/gr;
like($log, qr/$sample/, 'as the README shows it');
$log_start = -s $node->logfile;
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.log_failures = off');
ok( wait_until(
		'no more lines',
		sub {
			my $start = -s $node->logfile;
			my $d = 'quiet' . int(rand(1e9));
			arm($node, $d, 'm1', q{admission => '1ms', silence => '1ms'});
			wait_ended($node, $d, 'm1');
			slurp_file($node->logfile, $start) !~ /failed turn/;
		}),
	'log_failures = off');

# States, and a hold
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.sweep = off');
ok(wait_until('sweep is off', sub { ask('grace or a hold') =~ /^f\|sweep off\b[^|]*\|\|0$/ }), 'a hold is in force');
arm($node, 'w', $_, q{'{"platform": "slack"}', admission => '1h', silence => '1h'}) for qw(m1 m2);
arm($node, 'r', 'm1', q{'{"platform": "web"}', admission => '1h', silence => '1h'});
arm($node, 'p', 'm1', q{'{"platform": "web"}', admission => '1h', silence => '1h'});
arm($node, 'l', 'm1', q{'{"platform": "web"}', admission => '1s', silence => '1s'});
$node->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('r'), turn_liveness.mark_provider_failed('p', 'c', 'r')});
advance($node, '2 s');
is(join("\n", sort map { s/\|[^|]*$//r } split /\n/, ask('How many turns are owed')),
	"slack|waiting|2\nweb|lapsed|1\nweb|running|1\nweb|withheld|1", 'how many are owed');
like(ask('grace or a hold'), qr/^f\|sweep off\b[^|]*\|\|1$/, 'a lapsed turn is shown');
$node->safe_psql('postgres', q{SELECT turn_liveness.start_turn('r', 'm1', 'w3'), turn_liveness.suspend_turn('r', 'm1', '1 h', 'approve it', 1)});
is(join("\n", map { join '|', (split /\|/, $_, -1)[ 0 .. 4, 6 .. 8 ] } split /\n/, ask('wait for a human')),
	"l|m1|lapsed|1||||\nr|m1|suspended|1|w3||approve it|", 'what is lapsed, and what waits for whom');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.sweep');
ok(wait_until('sweep is on', sub { ask('grace or a hold') =~ /^t\|[^|]*sweep on again\b[^|]*\|20[^|]+\|\d$/ }), 'then its grace, and until when');
ok(wait_until('the grace is over', sub { advance($node, '61 s'); ask('grace or a hold') =~ /^t\|\|\|/ }), 'and none');

# Delivery: the wall clock is moved by hand
$node->safe_psql(
	'postgres', q{
DELETE FROM turn_liveness.reply; DELETE FROM turn_liveness.delivery;
SELECT turn_liveness.reject_turn('stuck', m, '{"platform": "slack"}', 'no') FROM unnest('{m1,m2}'::text[]) m;
SELECT turn_liveness.reject_turn('fresh', 'm1', '{"platform": "web"}', 'no');
UPDATE turn_liveness.reply SET created_at = now() - interval '5 min' WHERE deployment = 'stuck';
});
like(ask('stuck'), qr/^slack\|2\|00:(?:0[5-9]|[1-5]\d):[\d.]+\|0\|$/, 'stuck replies');
$node->safe_psql('postgres', q{SELECT count(*) FROM turn_liveness.claim_replies('bad', platforms => '{slack}')});
advance($node, '31 min');
$node->safe_psql('postgres', q{SELECT count(*) FROM turn_liveness.claim_replies('slow', platforms => '{web}')});
is(join("\n", sort map { s/\|[^|]*$//r } split /\n/, ask('claims and does not')), "bad|0|2\nslow|1|0", 'who claims and does not acknowledge');

# --- a lot that was delivered

$node->safe_psql(
	'postgres', q{
DELETE FROM turn_liveness.reply; DELETE FROM turn_liveness.delivery;
SELECT count(turn_liveness.arm_turn('bulk' || i, 'm' || i % 50, jsonb_build_object('conversationId', 'c' || i % 1000), admission => '1 d', duration => '1 d')) FROM generate_series(1, 21000) i;
SELECT count(turn_liveness.commit_terminal_reply('bulk' || i, ARRAY['m' || i % 50], '{"content": "x"}')) FROM generate_series(1, 21000) i;
SELECT turn_liveness.ack_replies('gw', array_agg(reply_id)) FROM turn_liveness.reply;
UPDATE turn_liveness.reply SET armed_at = created_at - interval '10 s', first_beat = created_at - interval '9 s' WHERE reply_id % 20 <> 0;
UPDATE turn_liveness.reply SET armed_at = created_at - interval '100 s', first_beat = created_at - interval '50 s' WHERE reply_id % 20 = 0;
UPDATE turn_liveness.delivery d SET delivered_at = r.created_at + interval '2 s' FROM turn_liveness.reply r WHERE r.reply_id = d.reply_id;
SELECT turn_liveness.arm_turn('conv-7', 'm1'), turn_liveness.start_turn('conv-7', 'm1', 'w2');
SELECT turn_liveness.commit_terminal_reply('conv-7', '{m1}', '{"content": "42"}', '{1}');
SELECT turn_liveness.ack_replies('gw', array_agg(reply_id)) FROM turn_liveness.read_replies('{conv-7}');
ANALYZE turn_liveness.reply, turn_liveness.delivery, turn_liveness.turn;
});
is(ask('p50 and p99'), '{00:00:01,00:00:50}|{00:00:10,00:01:40}|{00:00:02,00:00:02}', 'p50 and p99');
like(ask('one message', 'gateway'), qr/^answer\|1\|w2\|20[^|]*\|20[^|]*\|20[^|]*\|\|20[^|]*\|\|\|reply\|\d+\|\{.*"content": "42".*\|\|delivered$/, 'the story of one message');
my $plan = $node->safe_psql('postgres', q{EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM turn_liveness.replies WHERE conversation_id = 'conv-7'}, extra_params => [ '-U', 'gateway' ]);
unlike($plan, qr/Seq Scan/, 'by indexes alone');
like($plan, qr/Index Scan/, 'an index look-up');
my @buffers = $plan =~ /Buffers: shared hit=(\d+)/;
# its conversation has one reply; another shape of the plan would read all 21,000
cmp_ok($buffers[0], '<', 3000, "and reads little: $buffers[0] pages") or diag $plan;
# what is open stands apart from all that was delivered
foreach my $state (qw(due claimed dead))
{
	unlike($node->safe_psql('postgres', "EXPLAIN SELECT * FROM turn_liveness.replies WHERE state = '$state'", extra_params => [ '-U', 'gateway' ]), qr/Seq Scan|delivery_pkey/, "what is $state is found without a look at what was delivered");
}
foreach my $sql (
	q{SELECT * FROM turn_liveness.turns WHERE deployment = 'w' AND message_id = 'm1'},
	q{SELECT * FROM turn_liveness.late_replies WHERE deployment = 'w'},
	q{SELECT * FROM turn_liveness.replies WHERE conversation_id = 'c7'})
{
	unlike($node->safe_psql('postgres', "SET enable_seqscan = off; EXPLAIN $sql", extra_params => [ '-U', 'gateway' ]), qr/Seq Scan/, "an index for: $sql");
}
is(join(', ', sort keys %asked), join(', ', sort keys %query), 'every question of the README was asked');

# --- pg_stat_activity

ok($node->poll_query_until('postgres', q{SELECT state = 'idle' AND query = 'workers running: 1' FROM pg_stat_activity WHERE backend_type = 'turn_liveness launcher'}),
	'what the launcher does');
like($node->safe_psql('postgres', q{SELECT state, datname, query, backend_xmin FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'}),
	qr/^(idle|active)\|postgres\|\w.*$/, 'what the worker does');
my $lock = session($node);
$lock->query_safe('BEGIN; LOCK TABLE turn_liveness.late_reply, turn_liveness.delivery IN ACCESS EXCLUSIVE MODE');
arm($node, 'held', 'm1', q{admission => '1ms', silence => '1ms'});
ok( $node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND state = 'active' AND query IN ('failing lapsed turns', 'retention') AND wait_event_type = 'Lock'}),
	'and what holds it up');
$lock->query_safe('ROLLBACK');
$lock->quit;
is(wait_ended($node, 'held', 'm1'), 'WORKER_NEVER_STARTED sweep', 'until it goes on');
ok( $node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND state = 'idle' AND backend_xmin IS NULL}),
	'then it is idle');

$node->stop;
done_testing();
