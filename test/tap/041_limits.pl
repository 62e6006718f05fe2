# Where room ends: long names and texts, more attached deployments than there is
# memory for, more late replies than are kept.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my ($limits) = slurp_file("$FindBin::RealBin/../../README.md") =~ /^## Limits\n(.*?)^## /ms;
my ($names) = $limits =~ /^\| deployment, message id, gateway, `conversationId`, `platform` \| 1 \S+ (\d+) bytes \|/m;

my $node = new_node('main', q{
turn_liveness.attach_capacity = 16
turn_liveness.max_reply_size = '1kB'
});

# --- names, texts

my $fits = 'x' x $names;
is($node->safe_psql('postgres', "SELECT turn_liveness.arm_turn('$fits', '$fits', jsonb_build_object('conversationId', '$fits', 'platform', '$fits'))"),
	'armed', "names of $names bytes");
isnt($node->psql('postgres', "SELECT turn_liveness.arm_turn('a', 'm', jsonb_build_object('platform', '${fits}x'))"), 0, 'and no more');
is($node->safe_psql('postgres', "SELECT turn_liveness.arm_turn('a', 'm', jsonb_build_object('organizationId', '$fits')), turn_liveness.arm_turn('b', 'm', jsonb_build_object('organizationId', ''))"),
	'armed|armed', 'an organization of 0 to 255 bytes');
isnt($node->psql('postgres', "SELECT turn_liveness.arm_turn('c', 'm', jsonb_build_object('organizationId', '${fits}x'))"), 0, 'and no more');
my $code = sub {
	my ($sql) = @_;
	my ($stdout, $stderr) = ('', '');
	$node->psql('postgres', $sql, stdout => \$stdout, stderr => \$stderr, extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	return $stderr =~ /ERROR:\s+(\w{5})/ ? $1 : $stdout;
};
is($code->(q{SELECT turn_liveness.fail_turn('a', 'm', repeat('x', 1025))}), '54000', 'an error is at most max_reply_size');
is($code->(q{SELECT turn_liveness.mark_provider_failed('a', 'c', repeat('x', 1025))}), '54000', 'so is a reason');
is($code->(q{SET turn_liveness.max_reply_size = '1MB'; SELECT turn_liveness.mark_provider_failed('a', 'c', repeat('x', 8193))}), '54000', 'which has a limit of its own');
is($code->("SELECT turn_liveness.fail_turn('a', 'm', 'x', '${fits}x')"), '22023', 'an error code is at most 255 bytes');
is($code->("SELECT turn_liveness.fail_turn('a', 'm', 'x', '')"), '22023', 'and at least one');
is($code->("SELECT turn_liveness.fail_turn('a', 'm', 'x', '$fits')"), 'won', 'no less');
is($code->(q{SELECT turn_liveness.arm_turn('days', 'm1', duration => '24 d', silence => '24 d', admission => '24 d')}), 'armed', '24 days');
is($code->(q{SELECT turn_liveness.arm_turn('days', 'm2', duration => '25 d')}), '22023', 'and no more');
is($code->(q{SELECT turn_liveness.release_replies('gw', '{1}', '1 day')}), '0', 'a delay of a day');
is($code->(q{SELECT turn_liveness.release_replies('gw', '{1}', '1 day 1 ms')}), '22023', 'and no more');

# --- attached deployments

is($code->(q{SELECT max(turn_liveness.attach_worker('a' || i)) = pg_backend_pid() FROM generate_series(1, 4) i}), 't', 'a session attaches a quarter of attach_capacity');
is($code->(q{SELECT turn_liveness.attach_worker('a' || i) FROM generate_series(1, 5) i}), '53400', 'and no more');

# --- late replies

$node->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.max_late_replies = 3; SELECT pg_reload_conf()');
ok($node->poll_query_until('postgres', q{SHOW turn_liveness.max_late_replies}, 3), 'a limit of three');
my $late = q{SELECT turn_liveness.commit_terminal_reply('late', '{m}', '{"content": "%d"}'); SELECT pg_stat_force_next_flush();};
is($code->(sprintf($late, $_) . "SELECT count(*) FROM turn_liveness.late_replies"), "unknown\n\n$_", "late reply $_ is kept") foreach 1 .. 3;
is($code->(sprintf($late, $_) . "SELECT count(*) FROM turn_liveness.late_replies"), "unknown\n\n3", "late reply $_ is not") foreach 4, 5;
is($node->safe_psql('postgres', 'SELECT unknown, late_dropped FROM turn_liveness.stat'), '5|2', 'all are counted');
is(scalar(() = slurp_file($node->logfile) =~ /late replies of database "postgres" are not kept/g), 1, 'and the log says so once a minute');
is($code->(q{SELECT turn_liveness.arm_turn('late', 'm'), turn_liveness.commit_terminal_reply('late', '{m}', '{}')}), 'armed|won', 'a turn that is owed is answered all the same');

$node->safe_psql('postgres', 'ALTER SYSTEM SET turn_liveness.max_late_replies = 10; SELECT pg_reload_conf()');
ok($node->poll_query_until('postgres', q{SHOW turn_liveness.max_late_replies}, 10), 'a limit of ten');
my $kept = 'SELECT count(*) FROM turn_liveness.late_replies';
my $burst = session($node);
$burst->query_safe(q{BEGIN; DO $$BEGIN FOR i IN 1 .. 100 LOOP PERFORM turn_liveness.commit_terminal_reply('late', '{m0}', jsonb_build_object('content', i)); END LOOP; END$$});
is($burst->query_safe($kept), 10, 'one transaction keeps no more');
$node->safe_psql('postgres', sprintf $late, 6);
is($burst->query_safe("COMMIT; $kept"), 10, 'nor does another one meanwhile');
$burst->quit;
$node->stop('immediate');
$node->start;
is($code->(sprintf($late, 7) . $kept), "lost\n\n10", 'after a crash they count as before');
advance($node, '25 h');
ok($node->poll_query_until('postgres', "$kept", 0), 'retention removes them');
is($code->(sprintf($late, 8) . $kept), "lost\n\n1", 'and makes room');

# --- what the README says of ids, indexes and columns of a DBA's

$node->safe_psql('postgres', q{
CREATE TABLE public.own (id bigserial, note text);
CREATE INDEX own_index ON turn_liveness.turn (conversation_id);
ALTER TABLE turn_liveness.turn ADD COLUMN own text;
SELECT turn_liveness.arm_turn('own', m, '{"conversationId": "own"}') FROM unnest('{m1,m2}'::text[]) m;
UPDATE turn_liveness.turn SET own = 'mine' WHERE deployment = 'own'});
is($node->safe_psql('postgres', q{
INSERT INTO public.own (note) VALUES ('x');
SELECT turn_liveness.commit_terminal_reply('own', '{m1}', '{}');
SELECT lastval() = currval('public.own_id_seq'), currval('public.own_id_seq')}), "won\nf|1", 'lastval() is ours afterwards, currval() is not');
is($node->safe_psql('postgres', q{SELECT string_agg(message_id || ' ' || coalesce(own, 'NULL'), ', ' ORDER BY message_id) FROM turn_liveness.turn WHERE deployment = 'own'}),
	'm1 NULL, m2 mine', 'an update by us sets a column of a DBA to NULL');
is($node->safe_psql('postgres', q{SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM turn_liveness.turn WHERE conversation_id = 'own'}),
	'2', 'an index of a DBA is kept up to date');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$node->stop;

done_testing();
