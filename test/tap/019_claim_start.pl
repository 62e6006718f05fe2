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

my $node = new_node('main', "turn_liveness.database_capacity = 1\nturn_liveness.claim_timeout = 10min\nturn_liveness.max_attempts = 1000000");
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

# --- COMMIT PREPARED that fails: no announcement of its session stays behind.
# What a session remembers shows in that it does not hear of a change behind its
# back, for a second at most: the change comes from a session that is open already.

my $hand = session($node);

sub behind
{
	return q{BEGIN; ALTER TABLE turn_liveness.delivery DISABLE TRIGGER foreign_change;
		UPDATE turn_liveness.delivery SET due_at = '-infinity', parked_until = NULL WHERE reply_id = (SELECT min(reply_id) FROM turn_liveness.delivery);
		ALTER TABLE turn_liveness.delivery ENABLE ALWAYS TRIGGER foreign_change; COMMIT};
}

sub remembers
{
	my ($what) = @_;

	ok( wait_until(
			"claims begin where the last one ended: $what",
			sub {
				$gateway->query_safe(claiming());
				$hand->query_safe(behind());
				return $gateway->query_safe(claiming()) eq 'none';
			}),
		"claims begin where the last one ended: $what");
	return;
}

my $failing = session($node);
remembers('at first');
$failing->query('SELECT turn_liveness.clock_now(); BEGIN; SAVEPOINT s');
like(($node->psql('postgres', q{COMMIT PREPARED 'none'}))[2], qr/does not exist/, 'there is no such transaction');
remembers('after an error');
$failing->query(q{COMMIT PREPARED 'none'});
$failing->query('ROLLBACK TO s');
remembers('after an error in a savepoint');
$failing->query(q{SELECT txid_current(); PREPARE TRANSACTION 'p'});
$failing->quit;
remembers('after the session that failed has ended');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p'});

# --- where there is a subscription, no session remembers, from its creation on

$node->safe_psql('postgres', q{CREATE SUBSCRIPTION s CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)});
$gateway->query_safe(claiming());
$node->safe_psql('postgres', behind());
is($gateway->query_safe(claiming()), 'd1', 'a change of which no claim is told is seen at once');
$node->safe_psql('postgres', q{ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s});

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
$_->quit foreach $gateway, $hand;
wait_alone($node, 'other');
$node->safe_psql('other', 'DROP DATABASE postgres');
wait_worker($node, 'other');
$gateway = session($node, 'other');
is($gateway->query_safe(claiming()), 'd' . ($turn - 1), 'a gateway claims it, with one');
is($gateway->query_safe(claiming()), 'none', 'and remembers that there is no other');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
ok($node->poll_query_until('other', q{SELECT count(*) = 2 FROM turn_liveness.replies}), 'the other session stores another');
is($gateway->query_safe(claiming()), "d$turn", 'which is claimed at once');

done_testing();
