# The counters of stat: they cost the hot path no lock, and lose nothing.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# --- no lock: nothing tells that from outside, so the source is read

my $src = "$FindBin::RealBin/../../src";
my $counters = slurp_file("$src/shared/database.c");
$counters =~ s{/\*.*?\*/}{}gs;

# Every function that the body of this one calls.
sub calls
{
	my ($function) = @_;
	my ($body) = $counters =~ /^\Q$function\E\([^)]*\)\n\{\n(.*?)^\}/ms or die "no function $function";
	my %names = map { $_ => 1 } grep { !/^(?:if|for|while|return|sizeof)$/ } $body =~ /\b(\w+)\s*\(/g;
	return join(' ', sort keys %names);
}
is(calls('tl_counter_add'), 'pg_atomic_fetch_add_u64 tl_database', 'counting is one atomic instruction');
is(calls('tl_counter_read'), 'pg_atomic_read_u64', 'reading takes no lock either');
like(slurp_file("$src/shared/database.h"),
	qr/^tl_database\(void\)\n\{\n\treturn tl_my_database != NULL \? tl_my_database : tl_database_look_up\(\);\n\}/m,
	'the place is looked up once in a session');
my @others;
foreach my $file (glob("$src/*/*.c"))
{
	my $text = slurp_file($file);
	push @others, "$file: $_" foreach grep { /->counters\[/ && !/pg_atomic_\w+_u64\(/ } split /\n/, $text;
}
is("@others", '', 'nothing else touches them');

# --- and none is lost

my $node = new_node('main', '');
my ($clients, $rounds) = (8, 200);
my $script = $node->basedir . '/load.sql';
append_to_file($script, q{
\set n :client_id * 1000000 + random(1, 1000000000) * 100000000
SELECT turn_liveness.arm_turn('d' || :n, 'm', '{"conversationId": "load"}');
SELECT turn_liveness.heartbeat('d' || :n);
SELECT turn_liveness.heartbeats(ARRAY['d' || :n], ARRAY['m']);
SELECT turn_liveness.commit_terminal_reply('d' || :n, '{m}', '{}');
SELECT turn_liveness.commit_terminal_reply('d' || :n, '{m}', '{"content": "late"}');
});
$node->command_ok([ 'pgbench', '-n', '-M', 'prepared', '-c', $clients, '-t', $rounds, '-f', $script, $node->connstr('postgres') ], 'sessions at once');
my $all = $clients * $rounds;
is($node->safe_psql('postgres', 'SELECT armed, answered, late, beats FROM turn_liveness.stat'), join('|', $all, $all, $all, 2 * $all), 'every call is counted, once');
is($node->safe_psql('postgres', 'SELECT claims, acknowledged FROM turn_liveness.stat'), '0|0', 'and nothing else');

# --- a call counts, as it does in pg_stat: what is rolled back too, and what is prepared

my $columns = 'SELECT armed, answered, discharged FROM turn_liveness.stat';
$node->safe_psql('postgres', 'SELECT turn_liveness.stat_reset()');
$node->safe_psql('postgres', q{
BEGIN;
SELECT turn_liveness.arm_turn('counted', 'm' || i) FROM generate_series(1, 3) i;
SAVEPOINT s;
SELECT turn_liveness.commit_terminal_reply('counted', '{m1,m2}', '{}');
ROLLBACK TO s;
SELECT turn_liveness.discharge_turn('counted', 'm3');
ROLLBACK});
is($node->safe_psql('postgres', $columns), '3|2|1', 'what is rolled back was counted');
$node->safe_psql('postgres', q{
BEGIN;
SELECT turn_liveness.arm_turn('counted', 'm' || i) FROM generate_series(1, 3) i;
SELECT turn_liveness.commit_terminal_reply('counted', '{m1}', '{}');
PREPARE TRANSACTION 'count'});
is($node->safe_psql('postgres', $columns), '6|3|1', 'what is prepared is counted at once');
$node->safe_psql('postgres', "COMMIT PREPARED 'count'");
is($node->safe_psql('postgres', $columns), '6|3|1', 'and not again when it is committed');

$node->stop;
done_testing();
