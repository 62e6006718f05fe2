# Many sessions arm, fail and reject the same few turns at the same time: none meets an
# error, and each turn ends once.  Before that, an arm is stopped when it has read the
# index, and looks for the row after another session has replaced it: it finds neither
# version, and must look again.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use SlowHeap;
use TurnLiveness;

{
	my ($node, $dir) = slow_node('looked', '');
	my $arm = q{SELECT 'found ' || turn_liveness.arm_turn('d', 'm')};

	is($node->safe_psql('postgres', $arm), 'found armed', 'a turn is armed');
	my $session = session($node);
	$session->query_safe("SET slow_heap.at_fetch = '$dir/fetch'");
	append_to_file("$dir/fetch", '');
	$session->{stdin} .= "$arm;\n\\echo ended :SQLSTATE\n";
	wait_until('an arm has read the index', sub { $session->{run}->pump_nb; -e "$dir/fetch.waits" });
	is($node->safe_psql('postgres', q{SELECT turn_liveness.fail_turn('d', 'm', 'x')}), 'won', 'the turn is failed');
	unlink "$dir/fetch";
	like($session->query_until(qr/ended \w+/, ''), qr/found answered/, 'the arm finds that it has ended');
	$session->quit;
	$node->stop;
}

my $node = new_node('main', "turn_liveness.log_failures = off\n");

# three turns that change each hundredth of a second
my $turn = q{'e', :k || '-' || (extract(epoch from now()) * 100)::bigint};
my $script = "$PostgreSQL::Test::Utils::tmp_check/same_turn.sql";
append_to_file($script, <<"X");
\\set k random(1, 3)
SELECT turn_liveness.arm_turn($turn, '{"conversationId": "c"}');
SELECT turn_liveness.fail_turn($turn, 'x');
SELECT turn_liveness.arm_turn($turn, '{"conversationId": "c"}');
SELECT turn_liveness.reject_turn($turn, '{"conversationId": "c"}', 'x');
X
$node->command_checks_all(
	[ 'pgbench', '-n', '-M', 'prepared', '-c', '24', '-j', '2', '-t', '300', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	0,
	[qr/actually processed: 7200\/7200/],
	[qr/^(?!.*ERROR)/s],
	'24 sessions arm, fail and reject three turns');
# armed in one hundredth of a second, and to be rejected in the next one
$node->safe_psql('postgres', q{SELECT turn_liveness.fail_deployment('e', 'x')});
is($node->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY m HAVING count(*) > 1) x'),
	0, 'none ended twice');
is($node->safe_psql('postgres',
		q{SELECT count(*) FROM (SELECT message_id FROM turn_liveness.turn EXCEPT SELECT unnest(message_ids) FROM turn_liveness.reply) x}),
	0, 'each has its reply');

$node->stop;
done_testing();
