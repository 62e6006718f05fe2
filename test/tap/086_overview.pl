# The screen for a person at a terminal (turn_liveness_overview.sql), and the story
# of one turn (why did it fail, on which worker, after how long?), and the log as a
# program reads it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use JSON::PP;
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
turn_liveness.log_failures = on
logging_collector = on
log_destination = jsonlog
log_filename = 'server.log'
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
like($screen, qr/^worker running, process \d+, ticked \d+\.\d s ago *$/m, 'the worker is well');
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
arm($node, $_, 'm1', q{admission => '1 min', silence => '1 min'}) foreach qw(open prepared);
my $hold = session($node);
$hold->query_safe(q{SET application_name = 'batch job'; BEGIN; SELECT turn_liveness.fail_turn('open', 'm1', 'x')});
my $holder = backend_pid($hold);
my $user = sql('SELECT current_user');
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
my $cut = substr("process $holder $user batch job", 0, 50);
like($screen, qr/^turn held open open m1 1 00:0\d:\d\d \Q$cut\E *$/m, 'which process holds what');
like($screen, qr/^turn held open prepared m1 1 00:0\d:\d\d a prepared transaction *$/m, 'or which prepared transaction');
like($screen, qr/^replies dead telegram 1 \S+ claimed 2 times at most, HTTP 410 *$/m, 'what is dead, and why');
like($screen, qr/^claims timed out gone 1 \S+ it claimed and did not acknowledge *$/m, 'which gateway claimed and went');
like($screen, qr/^worker w0 3 turns \S+ \S+ *\nworker w1 3 turns/m, 'which worker holds how many');
like($screen, qr/^human approve the payment 1 turns wait \S+ *$/m, 'what waits for a human');
like($screen, qr/^rescue was with \(no name\) 1 turns offered \S+ *$/m, 'what is offered');
like($screen, qr/^gateway slow 1 replies claimed \S+ *$/m, 'which gateway holds a reply');

sql('GRANT pg_read_all_stats TO monitor');
$cut = substr("process $holder idle in transaction $user batch job", 0, 50);
like(screen(), qr/^turn held open open m1 1 00:0\d:\d\d \Q$cut\E *$/m, 'a role that may read all of pg_stat_activity sees what it does');

# --- why did this turn fail, on which worker, after how long?

my ($code, $worker, $after, $silent) =
  $screen =~ /^(WORKER_\w+) 1 \S+ conv-7 m1 (\S+) 1 sweep 00:0(\d):\d\d 00:0(\d):\d\d *$/m;
is("$code $worker", 'WORKER_UNRESPONSIVE w2', 'the screen says why, and on which worker');
ok($after >= 3 && $after <= 9 && $silent >= 3 && $silent <= 9, "after how many minutes: $after, of which silent: $silent");
like(sql(q{SELECT state, error_code, worker, generation, decided_by, round(extract(epoch FROM ended_at - armed_at) / 60), round(extract(epoch FROM ended_at - last_beat) / 60), reason, delivery_state FROM turn_liveness.get_turn('conv-7', 'm1')}),
	qr/^error\|WORKER_UNRESPONSIVE\|w2\|1\|sweep\|[3-9]\|[3-9]\|[^|]+\|claimed$/, 'and one query the rest');

# --- all that is known of one message

my $readme = slurp_file("$FindBin::RealBin/../monitoring/README.md");
my ($story) = $readme =~ /^## The whole story.*?^```sql\n(.*?)^```/ms;
arm($node, 'conv-7', 'm2', q{'{"platform": "web"}', admission => '1 d', silence => '3 min', rescue => '1 d', duration => '1 d'});
sql(q{SELECT turn_liveness.start_turn('conv-7', 'm2', 'w1'), turn_liveness.post_update('conv-7', 'm2', '{"status": "thinking"}', 1)});
advance($node, '5 min');
# the view says lapsed before the worker has offered it, and error_code after that
ok($node->poll_query_until('postgres', q{SELECT state = 'lapsed' AND error_code IS NOT NULL FROM turn_liveness.turns WHERE deployment = 'conv-7'}), 'a worker falls silent');
sql(q{SELECT turn_liveness.start_turn(deployment, message_id, 'w3') FROM turn_liveness.rescue_turns(10) WHERE deployment = 'conv-7'});
sql(q{SELECT turn_liveness.commit_terminal_reply('conv-7', '{m2}', '{"content": "too late"}', '{1}'), turn_liveness.commit_terminal_reply('conv-7', '{m2}', '{"content": "42"}', '{2}')});
sql(q{SELECT turn_liveness.ack_replies('gateway-a', array_agg(reply_id)) FROM turn_liveness.read_replies('{conv-7}')});
like(sql($story =~ s/'m1'/'m2'/gr),
	qr/\Aanswer\|2\|w3\|[^\n]*"content": "42"[^\n]*\n\d+\|update\|\|\|1\|w1\|[^\n]*\|delivered\|0\|gateway-a\|[^\n]*\n\d+\|answer\|\|reply\|2\|w3\|[^\n]*\|delivered\|0\|gateway-a\|[^\n]*\nstale\|20[^\n]*\z/,
	'both its workers, its update, its answer, the one that came too late, and the delivery');

# --- the log, for a program

my ($expression) = $readme =~ /^## The log.*?^```\n(.*?)^```/ms;
$expression =~ s/\n//g;

# The messages of the log that are about a deployment, each taken apart
sub events
{
	my ($deployment) = @_;
	my @events;
	foreach my $line (map { decode_json($_) } split /\n/, slurp_file($node->data_dir . '/log/server.json'))
	{
		while ($line->{message} =~ /$expression/g)
		{
			my %event = (%+, line => $line);
			push @events, \%event if $event{deployment} =~ s/""/"/gr eq $deployment;
		}
	}
	return @events;
}

my ($event) = events('conv-7');
is(join(' ', map { $event->{$_} // '-' } qw(event message_id conversation_id platform generation worker error_code decided_by database traceparent)),
	'failed m1 c-7 web 1 w2 WORKER_UNRESPONSIVE sweep postgres -', 'which turn, on which worker, why');
ok($event->{silent} >= 180 && $event->{silence} == 180 && $event->{armed} >= $event->{started}, 'after how long');
is(join(' ', map { $event->{line}{$_} } qw(error_severity state_code backend_type)), 'LOG 01000 turn_liveness worker', 'and what PostgreSQL says of it');
ok($event->{line}{pid} && $event->{line}{timestamp}, 'by which process, and when');
is((events('conv-7'))[1]{event}, 'offered', 'an offer likewise');
($event) = events('conv-8');
is(join(' ', map { $event->{$_} // '-' } qw(event worker error_code admission silence started)), 'failed - WORKER_NEVER_STARTED 300.0 - -', 'one that never started');

# names that look like the line itself
my $name = q{d" (conversation "x", platform "y", generation 9, worker "z"): WORKER_DIED, armed 1.0 s ago, decided by session in database "q};
my $trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
sql(qq{SELECT turn_liveness.arm_turn('$name', 'm"1', '{"platform": "\\"", "conversationId": "c\\"\\"", "traceparent": "$trace"}', admission => '1 min', silence => '1 min')});
sql(qq{SELECT turn_liveness.start_turn('$name', 'm"1', '"')});
advance($node, '2 min');
ok(wait_until('it fails', sub { ($event) = events($name) }), 'hostile names');
is(join(' ', map { $event->{$_} } qw(event message_id conversation_id platform generation worker error_code traceparent database)),
	qq{failed m""1 c"""" "" 1 "" WORKER_UNRESPONSIVE $trace postgres}, 'are taken apart all the same');

# turns that one call fails share a message, though a name looks like two lines of it
my $lines = qq{l" in database "x"\nfailed turn "forged" of deployment "};
sql('ALTER DATABASE postgres SET turn_liveness.sweep = off');
my $code = q{X, armed 1.0 s ago, decided by sweep in database "t"} . qq{\n} . q{failed turn "v" of deployment "victim" (conversation "c", platform "p", generation 1): WORKER_DIED};
sql(qq{SELECT count(turn_liveness.arm_turn('many' || i, \$\$$lines\$\$ || i, admission => '1 min', silence => '1 min')) FROM generate_series(1, 60) i});
sql(qq{SELECT turn_liveness.mark_provider_failed('many30', '$code', 'r')});
advance($node, '2 min');
sql('ALTER DATABASE postgres RESET turn_liveness.sweep');
advance($node, '2 min');
ok(wait_until('they fail', sub { owed($node) == 0 or sql(q{SELECT count(*) FROM turn_liveness.reply WHERE deployment LIKE 'many%'}) == 60 }), 'many turns fail');
my @many = map { events("many$_") } 1 .. 60;
is(join(' ', map { $_->{message_id} =~ s/^l"" in database ""x""\nfailed turn ""forged"" of deployment ""//r } @many), join(' ', 1 .. 60), 'the log has a line for each');
is(scalar(events('forged')) + scalar(events('victim')), 0, '... and for no other');
is((events('many30'))[0]{error_code}, $code =~ s/\n/ /r, '... though a code looks like two as well');
my %messages = map { ("$_->{line}{timestamp} $_->{line}{line_num}" => length $_->{line}{message}) } @many;
cmp_ok(scalar(keys %messages), '<', 20, '... in a few messages');
cmp_ok((sort { $b <=> $a } values %messages)[0], '<', 5000, '... none of which is long');

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
