# The screen for a person at a terminal (turn_liveness_overview.sql), and the story
# of one turn: why did it fail, on which worker, after how long?

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $file = "$FindBin::RealBin/../../sql/install/turn_liveness_overview.sql";
my $node = new_node('main', q{
turn_liveness.mass_silence_hold = 0
turn_liveness.claim_timeout = '30 min'
turn_liveness.max_attempts = 2
turn_liveness.undelivered_retention = '20 d'
autovacuum = off
});
no_pauses($node);
$node->safe_psql('postgres', q{CREATE ROLE monitor LOGIN; SELECT turn_liveness.grant_monitor('monitor')});
my @wide;

sub sql { return $node->safe_psql('postgres', $_[0]) }

# The screen, each run of blanks one, and its widest line noted
sub screen
{
	my ($stdout, $stderr) = ('', '');
	IPC::Run::run([ 'psql', '-X', '-U', 'monitor', '-d', $node->connstr('postgres'), '-f', $file ], '<', \undef, '>', \$stdout, '2>', \$stderr);
	die $stderr if $stderr ne '';
	my @lines = split /\n/, $stdout;
	push @wide, grep { length > 120 } @lines;
	cmp_ok(scalar @lines, '<=', 50, 'it is one screen: ' . @lines . ' lines');
	return $stdout =~ s/ +/ /gr;
}

# --- a quiet system

my $screen = screen();
like($screen, qr/^ TURN_LIVENESS database postgres, 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d *$/m, 'where and when');
like($screen, qr/^worker running, process \d+, ticked \d\.\d s ago *$/m, 'the worker is well');
like($screen, qr/^turns 0 owed, 0 lapsed, 0 of these held by transactions *$/m, 'nothing is owed');
unlike($screen, qr/PROBLEM/, 'and there is no problem');

# --- a night

# failed: one silent worker, one that never came, one that a gateway ended
my $times = q{admission => '5 min', silence => '3 min'};
arm($node, 'conv-7', 'm1', qq{'{"platform": "web", "conversationId": "c-7"}', $times});
arm($node, 'conv-8', $_, qq{'{"platform": "slack"}', $times}) foreach qw(m1 m2);
arm($node, 'conv-9', 'm1');
arm($node, 'dead', 'm1', qq{'{"platform": "telegram"}', $times});
sql(q{SELECT turn_liveness.start_turn('conv-7', 'm1', 'w2'), turn_liveness.fail_turn('conv-9', 'm1', 'x', 'GUARDRAIL')});
sql(q{SELECT turn_liveness.commit_terminal_reply('dead', '{m1}', '{"content": "42"}')});
sql(q{SELECT turn_liveness.release_replies('push-1', array_agg(reply_id), '0 s', 'HTTP 410') FROM turn_liveness.claim_replies('push-1', platforms => '{telegram}')}) foreach 1, 2;
advance($node, '6 min');
wait_ended($node, 'conv-7', 'm1');
ok(wait_until('the others have failed', sub { failures($node, 'conv-8') == 2 }), 'turns have failed');
# the test moves the liveness clock, and not the wall clock that this column shows
sql(q{UPDATE turn_liveness.reply SET armed_at = created_at - interval '6 min 10 s' WHERE decided_by = 's'});
sql(q{SELECT count(*) FROM turn_liveness.claim_replies('gone', platforms => '{slack}', max_replies => 1)});
advance($node, '31 min');
sql(q{SELECT count(*) FROM turn_liveness.claim_replies('slow', ARRAY['c-7'])});

# owed: running, waiting, withheld, suspended, offered, and held open
arm($node, "run$_", 'm1', q{admission => '1 d', silence => '1 d', duration => '1 d'}) foreach 1 .. 9;
sql(q{SELECT turn_liveness.start_turn('run' || i, 'm1', 'w' || i % 2) FROM generate_series(1, 7) i});
sql(q{SELECT turn_liveness.suspend_turn('run7', 'm1', '1 d', 'approve the payment', 1), turn_liveness.mark_provider_failed('run6', 'PROVIDER', 'is down')});
arm($node, 'offered', 'm1', q{admission => '1 s', silence => '1 s', rescue => '1 d', duration => '1 d'});
arm($node, $_, 'm1', q{admission => '1 s', silence => '1 s'}) foreach qw(open prepared);
my $hold = session($node);
$hold->query_safe(q{SET application_name = 'batch job'; BEGIN; SELECT turn_liveness.fail_turn('open', 'm1', 'x')});
my $holder = backend_pid($hold);
sql(q{BEGIN; SELECT turn_liveness.fail_turn('prepared', 'm1', 'x'); PREPARE TRANSACTION 'p'});
advance($node, '2 min');
ok($node->poll_query_until('postgres', q{SELECT turns_blocked = 2 FROM turn_liveness.stat}), 'two are held open');
ok($node->poll_query_until('postgres', q{SELECT error_code IS NOT NULL FROM turn_liveness.turns WHERE deployment = 'offered'}), 'one is offered');

$screen = screen();
like($screen, qr/^turns 12 owed, 3 lapsed, 2 of these held by transactions *$/m, 'how many are owed');
like($screen, qr/^since \S+ \S+ 17 armed, 1 answered, 6 failed, 0 discharged, 1 dead replies *$/m, 'what happened: calls, as in pg_stat');
like($screen, qr/^running api 5 \S+ \S+ 0 *$/m, 'owed by state and platform');
like($screen, qr/^lapsed api 3 \S+ -00:0\d:\d\d 2 *$/m, 'which of these are overdue');
like($screen, qr/^WORKER_NEVER_STARTED 2 \d\d:\d\d:\d\d conv-8 m[12] 1 sweep 00:06:10 *\n \d\d:\d\d:\d\d conv-8 m[12] 1 sweep 00:06:10 *$/m, 'what failed in the last hour and why');
like($screen, qr/^GUARDRAIL 1 \d\d:\d\d:\d\d conv-9 m1 1 fail 00:00:\d\d *$/m, 'by whom');
like($screen, qr/^turn held open open m1 1 00:0[12]:\d\d process $holder \S+ batch job *$/m, 'which process holds what');
like($screen, qr/^turn held open prepared m1 1 00:0[12]:\d\d a prepared transaction *$/m, 'or which prepared transaction');
like($screen, qr/^replies dead telegram 1 \S+ claimed 2 times at most, HTTP 410 *$/m, 'what is dead, and why');
like($screen, qr/^claims timed out gone 1 \S+ it claimed and did not acknowledge *$/m, 'which gateway claimed and went');
like($screen, qr/^worker w0 3 turns \S+ \S+ *\nworker w1 3 turns/m, 'which worker holds how many');
like($screen, qr/^human approve the payment 1 turns wait \S+ *$/m, 'what waits for a human');
like($screen, qr/^rescue was with \(no name\) 1 turns offered \S+ *$/m, 'what is offered');
like($screen, qr/^gateway slow 1 replies claimed \S+ *$/m, 'which gateway holds a reply');

sql('GRANT pg_read_all_stats TO monitor');
like(screen(), qr/^turn held open open m1 .* batch job idle in transaction *$/m, 'a role that may read all of pg_stat_activity sees what it does');

# --- why did this turn fail, on which worker, after how long?

my ($code, $worker, $after, $silent) =
  $screen =~ /^(WORKER_\w+) 1 \S+ conv-7 m1 (\S+) 1 sweep 00:0(\d):\d\d 00:0(\d):\d\d *$/m;
is("$code $worker", 'WORKER_UNRESPONSIVE w2', 'the screen says why, and on which worker');
ok($after >= 3 && $after <= 9 && $silent >= 3 && $silent <= 9, "after how many minutes: $after, of which silent: $silent");
like(sql(q{SELECT state, error_code, worker, generation, decided_by, round(extract(epoch FROM ended_at - armed_at) / 60), round(extract(epoch FROM ended_at - last_beat) / 60), reason, delivery_state FROM turn_liveness.get_turn('conv-7', 'm1')}),
	qr/^error\|WORKER_UNRESPONSIVE\|w2\|1\|sweep\|[3-9]\|[3-9]\|[^|]+\|claimed$/, 'and one query the rest');

# --- on a bad day it is one screen too

sql(q{
SELECT turn_liveness.arm_turn(repeat('d', 200) || i, repeat('m', 200) || j, jsonb_build_object('platform', 'p' || i || repeat('p', 200)), admission => '1 d', duration => '1 d') FROM generate_series(1, 12) i, generate_series(1, 2) j;
SELECT turn_liveness.start_turn(repeat('d', 200) || i, repeat('m', 200) || 1, 'w' || i || repeat('w', 200)) FROM generate_series(1, 12) i;
SELECT turn_liveness.suspend_turn(repeat('d', 200) || i, repeat('m', 200) || 2, '1 h', 'r' || i || repeat('r', 200)) FROM generate_series(1, 12) i;
SELECT turn_liveness.reject_turn('bad' || i, repeat('m', 200) || j, jsonb_build_object('platform', 'q' || i || repeat('q', 200)), 'x', 'CODE' || i || repeat('x', 200)) FROM generate_series(1, 12) i, generate_series(1, 3) j;
SELECT count(c) FROM generate_series(1, 12) i, LATERAL turn_liveness.claim_replies('g' || i || repeat('g', 200), platforms => ARRAY['q' || i || repeat('q', 200)]) c;
});
$screen = screen();
like($screen, qr/^gateway g\d+gg/m, 'with something of each kind');
sql(q{ALTER DATABASE postgres SET turn_liveness.enabled = off});
ok($node->poll_query_until('postgres', q{SELECT worker_state = 'disabled' FROM turn_liveness.stat}), 'the worker is off');
like(screen(), qr/^worker disabled *\nPROBLEM turn_liveness.enabled is off *$/m, 'that is told');
is(join("\n", @wide), '', 'no line is wider than 120 columns');

$hold->query_safe('ROLLBACK');
$hold->quit;
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p'});
$node->stop;
done_testing();
