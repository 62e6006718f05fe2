# A claim of platforms begins where the session's last one ended, and misses no
# reply that its snapshot shows, at no instant (see also the isolation tests).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $library = PostgreSQL::Test::Utils::tempdir() . '/slow_commit.so';
my ($include) = map { s/\s+$//r } `$ENV{PG_CONFIG} --includedir-server`;
system('cc', '-shared', '-fPIC', "-I$include", '-o', $library, "$FindBin::RealBin/slow_commit.c") == 0
  or die 'this test needs a C compiler';

my $node = new_node('main', "turn_liveness.database_capacity = 1");
my $turn = 0;

sub storing { $turn++; return "SELECT turn_liveness.reject_turn('d$turn', 'm', '{}', 'no')" }
sub claiming { return q{SELECT coalesce(string_agg(deployment, ',' ORDER BY reply_id), 'none') FROM turn_liveness.claim_replies('gw', platforms => '{api}')} }

# --- visible, and the session's commit has not come to its end

my $gateway = session($node);
is($gateway->query_safe(claiming()), 'none', 'nothing is due');
my $writer = session($node);
my $go_on = PostgreSQL::Test::Utils::tempdir() . '/go_on';
my $store = storing();
$writer->query_safe("SELECT turn_liveness.clock_now(); LOAD '$library'");
$writer->{stdin} .= "BEGIN; SET LOCAL slow_commit.go_on = '$go_on'; $store; COMMIT;\n";
$writer->{run}->pump_nb;
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM turn_liveness.replies WHERE state = 'due'"), 'a reply is visible, while its commit goes on');
is($gateway->query_safe(claiming()), "d$turn", 'it is claimed at once');
append_to_file($go_on, '');
$writer->query('SELECT 1');
is($gateway->query_safe(claiming()), 'none', 'and once');
$writer->quit;

# --- a session that found no slot of shared memory for its database, and goes
# on with its statement when there is one

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION turn_liveness');
$writer = session($node, 'other');
my $holder = session($node, 'other');
$holder->query_safe('SELECT pg_advisory_lock(1)');
my ($first, $second) = (storing(), storing());
s/^SELECT/PERFORM/ foreach $first, $second;
$writer->{stdin} .= "DO \$\$ BEGIN $first; COMMIT; PERFORM pg_advisory_lock(1); $second; COMMIT; PERFORM pg_advisory_unlock(1); END \$\$;\n";
$writer->{run}->pump_nb;
ok($node->poll_query_until('other', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}), 'it has stored a reply, without a slot');
$gateway->quit;
$node->safe_psql('other', 'DROP DATABASE postgres');
wait_worker($node, 'other');
$gateway = session($node, 'other');
is($gateway->query_safe(claiming()), 'd' . ($turn - 1), 'a gateway claims it, with one');
is($gateway->query_safe(claiming()), 'none', 'and remembers that there is no other');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
ok($node->poll_query_until('other', q{SELECT count(*) = 2 FROM turn_liveness.replies}), 'the other session stores another');
is($gateway->query_safe(claiming()), "d$turn", 'which is claimed at once');

done_testing();
