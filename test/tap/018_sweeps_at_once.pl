# Sweeps, elections and readers meet in the same few conversations: the worker,
# sessions that sweep, and sessions that commit replies.  None deadlocks, each
# turn ends once, and no reader's cursor misses a reply.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node('main', '');
my $dir = PostgreSQL::Test::Utils::tempdir();
my %scripts = (
	# more than a group; they lapse at once
	arm => [ 1, q{
\set r random(1, 1000000000000)
SELECT count(turn_liveness.arm_turn('d' || i % 7, :client_id || '-' || :r || '-' || i, jsonb_build_object('conversationId', 'c' || i % 6))) FROM generate_series(1, 80) i;
SELECT FROM public.tl_advance('10 min');
} ],
	sweep => [ 3, q{
SELECT turn_liveness.sweep_expired_turns(100);
} ],
	# of several conversations
	reply => [ 3, q{
SELECT turn_liveness.commit_terminal_reply(deployment, array_agg(message_id), '{"content": "done"}')
  FROM (SELECT deployment, message_id FROM turn_liveness.turn WHERE outcome IS NULL LIMIT 10) t GROUP BY deployment;
} ],
	read => [ 2, q{
CALL public.read_on();
} ]);
my @files;

$node->safe_psql('postgres', q{
CREATE TABLE public.cursors AS SELECT 'c' || i AS conversation, 0::bigint AS last, 0::bigint AS seen FROM generate_series(0, 5) i;
CREATE PROCEDURE public.read_on() LANGUAGE plpgsql AS $$
DECLARE c public.cursors; n bigint; ids bigint[];
BEGIN
	SELECT * INTO c FROM public.cursors ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED;
	SELECT array_agg(reply_id ORDER BY reply_id) INTO ids FROM turn_liveness.read_replies(ARRAY[c.conversation], ARRAY[c.last], 1000);
	UPDATE public.cursors SET last = ids[cardinality(ids)], seen = seen + cardinality(ids) WHERE conversation = c.conversation AND ids IS NOT NULL;
END $$});
for my $name (sort keys %scripts)
{
	my ($weight, $sql) = @{ $scripts{$name} };
	my $file = "$dir/$name.sql";

	append_to_file($file, $sql);
	push @files, '-f', "$file\@$weight";
}

$node->command_ok([ 'pgbench', '-n', '-c', 9, '-j', 2, '-t', 50, @files, 'postgres' ],
	'no session fails');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM turn_liveness.turns'), 'all turns end');
is($node->safe_psql('postgres', q{
SELECT count(*) FROM turn_liveness.turn t
 WHERE (SELECT count(*) FROM turn_liveness.reply r WHERE r.deployment = t.deployment AND r.message_ids @> ARRAY[t.message_id]) <> 1}),
	'0', 'each with one reply');
$node->safe_psql('postgres', 'DO $$ BEGIN FOR i IN 1 .. 300 LOOP CALL public.read_on(); END LOOP; END $$');
is($node->safe_psql('postgres', q{
SELECT count(*) FROM public.cursors c WHERE seen <> (SELECT count(*) FROM turn_liveness.reply WHERE conversation_id = c.conversation)}),
	'0', 'no cursor has missed one');
is($node->safe_psql('postgres', 'SELECT sweep_errors FROM turn_liveness.stat'), '0', 'no batch was done again');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'no deadlock');
$node->stop;
done_testing();
