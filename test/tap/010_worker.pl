# The background worker: it is there wherever the extension is, sweeps and
# notifies by itself, comes back from whatever ends it, and is in time.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# (no mass-silence hold: ten deployments fall silent below)
my $node = new_node('main', 'turn_liveness.mass_silence_hold = 0', extension => 0);
my $turn = 0;

# --- where it is

$node->safe_psql('postgres', 'CREATE DATABASE other');
# (one looks whether the extension is there, and leaves)
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'"),
	'no worker where the extension is not');
add_extension($node);
my $pid = worker_pid($node);
like($pid, qr/^\d+$/, 'one worker in the database of CREATE EXTENSION');
ok(wait_until('there is none elsewhere', sub { worker_pid($node, 'other') eq '' }), 'and none in another database');
add_extension($node, 'other');
like(worker_pid($node, 'other'), qr/^\d+$/, 'a second database gets a worker of its own');
is(worker_pid($node), $pid, 'the first one is left alone');

# --- it sweeps and notifies without being asked

my $listener = session($node);
$listener->query_safe('LISTEN turn_liveness');
arm($node, 'lonely', 'm', q{'{"conversationId": "c-lonely"}', admission => '200ms'});
ok(notified($listener, qr/"turn_liveness" with payload "[^"]*\{.*c-lonely/),
	'a listener is told of a turn that nobody answered');
is(ends($node, 'lonely', 'm'), 'WORKER_NEVER_STARTED sweep', 'it was failed by the worker');

$node->safe_psql('other', "SELECT turn_liveness.arm_turn('lonely', 'm', admission => '200ms')");
ok($node->poll_query_until('other', 'SELECT count(*) = 1 FROM turn_liveness.reply'),
	'so it is in the other database');
is(failures($node), 1, 'each worker keeps to its own');

# --- notifications are bounded: names as long as they may be, of characters that take several
# bytes, or several more once JSON has escaped them

my ($bound) = slurp_file("$FindBin::RealBin/../../README.md") =~ /^\| notification payload \| ([\d,]+) bytes \|$/m;
$bound =~ tr/,//d;
$node->safe_psql('postgres', q{CREATE DATABASE names ENCODING 'UTF8' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'});
add_extension($node, 'names');
$node->safe_psql('names', q{
CREATE TABLE public.name AS
SELECT i % 10 AS batch, i || repeat(c, (100 + i * 7 % 150) / octet_length(c)) AS conversation,
	'p' || i || repeat(c, (20 + i * 11 % 230) / octet_length(c)) AS platform
FROM generate_series(1, 600) i,
	LATERAL (SELECT (ARRAY['x', U&'\00E9', U&'\6F22', U&'\+01F600', '"', '\', E'\n', E'\x01', '/', U&'\2028'])[1 + i / 10 % 10]) AS of (c);
CREATE TABLE public.told (batch int, payload text);
});
my $reader = session($node, 'names');
$reader->query_safe('LISTEN turn_liveness');
$reader->query('SELECT 1');
foreach my $batch (0 .. 9)
{
	$node->safe_psql('names', qq{
SELECT count(turn_liveness.reject_turn('names', conversation, jsonb_build_object('conversationId', conversation, 'platform', platform), 'no'))
FROM public.name WHERE batch = $batch});
	my $told = wait_until(
		"each name of batch $batch is told, or {}",
		sub {
			my @payloads = $reader->query('SELECT 1') =~ /with payload "(.*)" received from server process with PID/g;
			$node->safe_psql('names', "INSERT INTO public.told VALUES ($batch, \$told\$$_\$told\$)") foreach @payloads;
			return $node->safe_psql('names', qq{
SELECT EXISTS (SELECT FROM public.told WHERE batch = $batch AND payload = '{}') OR NOT EXISTS (
	SELECT conversation FROM public.name WHERE batch = $batch
	EXCEPT SELECT jsonb_array_elements_text(payload::jsonb -> 'conversations') FROM public.told WHERE batch = $batch) AND NOT EXISTS (
	SELECT platform FROM public.name WHERE batch = $batch
	EXCEPT SELECT jsonb_array_elements_text(payload::jsonb -> 'platforms') FROM public.told WHERE batch = $batch)}) eq 't';
		});
	ok($told, "each name of batch $batch is told, or {}");
}
my ($payloads, $longest) = split /\|/, $node->safe_psql('names',
	q{SELECT count(*), max(octet_length(payload)) FROM public.told WHERE payload <> '{}'});
cmp_ok($longest, '<=', $bound, "no payload of $payloads is longer than $bound bytes");
cmp_ok($longest, '>', $bound - 200, 'and the room is used');
cmp_ok($payloads, '>', 30, 'names were told');
is($node->safe_psql('names', q{
SELECT count(*) FROM (SELECT jsonb_array_elements_text(payload::jsonb -> 'conversations') FROM public.told
	EXCEPT SELECT conversation FROM public.name) x}), 0, 'and no others');
$reader->quit;

# --- in time: 21 turns, each with a deadline of its own; half of them beat

my ($earliest, $latest);
in_time(
	$node, 0.1, 0,
	'a turn is failed within 100 ms of its deadline',
	sub {
		my ($try) = @_;
		$node->safe_psql(
			'postgres', qq{
SELECT turn_liveness.arm_turn('t$try-' || i, 'm', admission => 500 * '1ms'::interval + i * '73ms'::interval)
FROM generate_series(1, 11) i;
SELECT turn_liveness.arm_turn('b$try-' || i, 'm', admission => '1h', silence => 500 * '1ms'::interval + i * '73ms'::interval)
FROM generate_series(1, 10) i;
SELECT turn_liveness.heartbeat('b$try-' || i) FROM generate_series(1, 10) i});
		$node->poll_query_until('postgres',
			"SELECT count(*) = 21 FROM turn_liveness.reply WHERE deployment ~ '^[tb]$try-'")
		  or die 'they do not lapse';
		my @late = split /\n/, $node->safe_psql(
			'postgres', qq{
SELECT extract(epoch FROM r.created_at - CASE WHEN t.deployment LIKE 't%'
		THEN t.armed_at + t.admission_ms * '1ms'::interval
		ELSE r.last_beat + t.silence_ms * '1ms'::interval END)
FROM turn_liveness.turn t JOIN turn_liveness.reply r USING (deployment)
WHERE deployment ~ '^[tb]$try-'});
		note 'seconds after the deadline: ', join(' ', @late);
		is(scalar @late, 21, 'all lapsed');
		($earliest, $latest) = (sort { $a <=> $b } @late)[ 0, -1 ];
		cmp_ok($earliest, '>=', -0.005, 'none before it (a few milliseconds for two clocks)');
		return $latest > 2 ? $latest : median(@late);
	});
cmp_ok($latest, '<=', 2, 'none long after it');

# An earlier deadline that appears wakes it: its next one was far away.
arm($node, 'far', 'm', q{admission => '1h'});
arm($node, 'near', 'm', q{admission => '50ms'});
is(wait_ended($node, 'near', 'm'), 'WORKER_NEVER_STARTED sweep', 'an earlier deadline wakes it');
is(ends($node, 'far', 'm'), '', 'the later one waits');

# --- one bad row: an index that a superuser made raises for one deployment

$pid = worker_pid($node);
my $failed = 'SELECT failed_never_started FROM turn_liveness.stat_row()';
my $before = $node->safe_psql('postgres', $failed);
$node->safe_psql(
	'postgres', q{
CREATE FUNCTION public.poison(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF $1 = 'bad' THEN RAISE 'this row is poisoned'; END IF;
	RETURN $1;
END $$;
CREATE INDEX poison ON turn_liveness.reply (public.poison(deployment));
SELECT turn_liveness.arm_turn(d, 'm', admission => '300ms')
FROM unnest('{good1,good2,bad,good3,good4}'::text[]) d});
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 4 FROM turn_liveness.reply WHERE deployment LIKE 'good%'"),
	'one bad row does not keep the others from being failed');
ok($node->poll_query_until('postgres', 'SELECT sweep_errors > 0 FROM turn_liveness.stat_row()'),
	'the error is counted');
$node->wait_for_log(qr/could not fail the turn at row .*poisoned/);
is(ends($node, 'bad', 'm'), '', 'the bad one is still owed');
is($node->safe_psql('postgres', $failed) - $before, 4, 'each that was failed is counted once');
arm($node, 'good5', 'm', q{admission => '100ms'});
is(wait_ended($node, 'good5', 'm'), 'WORKER_NEVER_STARTED sweep', 'a later one is served too');
$node->safe_psql('postgres', 'DROP INDEX turn_liveness.poison');
advance($node, '61s');
is(wait_ended($node, 'bad', 'm'), 'WORKER_NEVER_STARTED sweep',
	'once the reason is gone the bad one is failed too');
is(worker_pid($node), $pid, 'by the same worker');

# --- an error that is not a row's

$node->safe_psql('postgres', 'ALTER TABLE turn_liveness.reply RENAME TO elsewhere');
arm($node, 'homeless', 'm', q{admission => '100ms'});
ok($node->poll_query_until('postgres',
		'SELECT sweep_errors > 2 FROM turn_liveness.stat_row()'),
	'a table is missing: errors');
$node->safe_psql('postgres', 'ALTER TABLE turn_liveness.elsewhere RENAME TO reply');
advance($node, '61s');
is(wait_ended($node, 'homeless', 'm'), 'WORKER_NEVER_STARTED sweep',
	'the worker recovers by itself');

# --- errors in turn: a later one must not read what an earlier one freed

my $log_start = -s $node->logfile;
my $since = time;
$pid = worker_pid($node);
foreach my $missing ('TABLE reply', 'TABLE delivery', 'TABLE reply', 'TABLE delivery')
{
	my ($kind, $name) = split / /, $missing;
	my $errors = $node->safe_psql('postgres', 'SELECT sweep_errors FROM turn_liveness.stat_row()');
	$node->safe_psql('postgres', "ALTER $kind turn_liveness.$name RENAME TO elsewhere");
	arm($node, 'in turn', ++$turn, q{admission => '100ms'});
	ok($node->poll_query_until('postgres', "SELECT sweep_errors > $errors + 1 FROM turn_liveness.stat_row()"),
		"errors without $name");
	$node->safe_psql('postgres', "ALTER $kind turn_liveness.elsewhere RENAME TO $name");
	is(wait_ended($node, 'in turn', $turn), 'WORKER_NEVER_STARTED sweep', 'and the worker goes on');
}
is(worker_pid($node), $pid, 'the same worker');
my $told = () = slurp_file($node->logfile, $log_start) =~ /ERROR:  table "turn_liveness\.\w+" does not exist/g;
cmp_ok($told, '<=', 1 + (time - $since) / 60, 'the log is told once a minute');

# --- it is ended

$pid = worker_pid($node);
arm($node, 'orphan', 'm', q{admission => '300ms'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
isnt(wait_worker($node, 'postgres', $pid), $pid, 'after pg_terminate_backend there is another one');
is(wait_ended($node, 'orphan', 'm'), 'WORKER_NEVER_STARTED sweep',
	'it fails what lapsed meanwhile');
ok(notified($listener, qr/payload "(\{\}|[^\n]*orphan)/), 'and tells the listener');
is(worker_pid($node, 'other') =~ /^\d+$/, 1, 'the other worker went on');

# Again and again: it is not given up.
foreach my $round (1 .. 3)
{
	$pid = worker_pid($node);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_worker($node, 'postgres', $pid);
}
arm($node, 'orphan', 'again', q{admission => '100ms'});
is(wait_ended($node, 'orphan', 'again'), 'WORKER_NEVER_STARTED sweep', 'ended three times more');

# A cancel is no end.
$pid = worker_pid($node);
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
arm($node, 'orphan', 'cancelled', q{admission => '100ms'});
is(wait_ended($node, 'orphan', 'cancelled'), 'WORKER_NEVER_STARTED sweep', 'it survives a cancel');

# --- SIGHUP

$pid = worker_pid($node);
$node->append_conf('postgresql.conf', "turn_liveness.message_never_started = 'nobody came'");
$node->reload;
my $round = 0;
ok( wait_until(
		'a new text is in use',
		sub {
			$round++;
			arm($node, 'hup', $round, q{admission => '20ms'});
			wait_ended($node, 'hup', $round);
			return $node->safe_psql('postgres',
				"SELECT payload->>'error' FROM turn_liveness.reply WHERE deployment = 'hup' AND message_ids = '{$round}'"
			) eq 'nobody came';
		}),
	'a reload reaches the worker');
is(worker_pid($node), $pid, 'without another one');

$node->append_conf('postgresql.conf', 'turn_liveness.enabled = off');
$node->reload;
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'"),
	'enabled = off ends the workers');
$node->append_conf('postgresql.conf', 'turn_liveness.enabled = on');
$node->reload;
wait_worker($node);
wait_worker($node, 'other');
arm($node, 'enabled', 'm', q{admission => '100ms'});
is(wait_ended($node, 'enabled', 'm'), 'WORKER_NEVER_STARTED sweep', 'enabled = on brings them back');

# --- a turn that has ended is watched no more, also where its deployment goes on beating

sub sweeps { return $node->safe_psql('postgres', 'SELECT sweeps FROM turn_liveness.stat_row()') }

two_rounds($node, $listener);
my $sweeps = sweeps();
$node->safe_psql('postgres', <<'END');
SELECT count(turn_liveness.arm_turn('over' || i, 'm')) FROM generate_series(1, 20) i;
SELECT count(turn_liveness.heartbeat('over' || i)) FROM generate_series(1, 10) i;
SELECT count(turn_liveness.commit_terminal_reply('over' || i, '{m}', '{}')) FROM generate_series(1, 15) i;
SELECT count(turn_liveness.discharge_turn('over' || i, 'm')) FROM generate_series(16, 20) i;
BEGIN;
SELECT turn_liveness.arm_turn('over', 'm');
SELECT turn_liveness.commit_terminal_reply('over', '{m}', '{}');
COMMIT;
END
advance($node, '10 min');
two_rounds($node, $listener);
is(sweeps(), $sweeps, 'rows of turns that have ended are not looked at when they would have lapsed');
$node->safe_psql('postgres', <<'END');
SELECT turn_liveness.arm_turn('not-over', i::text) FROM generate_series(1, 3) i;
BEGIN;
SAVEPOINT s;
SELECT turn_liveness.commit_terminal_reply('not-over', '{1}', '{}');
ROLLBACK TO s;
SELECT turn_liveness.commit_terminal_reply('not-over', '{2}', '{}');
COMMIT;
BEGIN;
SELECT turn_liveness.commit_terminal_reply('not-over', '{3}', '{}');
ROLLBACK;
END
advance($node, '10 min');
two_rounds($node, $listener);
is($node->safe_psql('postgres',
		"SELECT array_agg(outcome ORDER BY message_id) FROM turn_liveness.turn WHERE deployment = 'not-over'"),
	'{e,a,e}', 'an end that is rolled back is none: the worker is in time');
is(sweeps(), $sweeps + 1, 'with one look at all three');

# --- after a notification that names many the worker gathers for notify_interval

sub answer_of
{
	my ($name, $others) = @_;
	$node->safe_psql('postgres', <<"END");
BEGIN;
SELECT count(turn_liveness.arm_turn(d, 'm')) FROM (SELECT '$name' || CASE WHEN i > 1 THEN '-' || i ELSE '' END AS d FROM generate_series(1, $others) i) x;
SELECT count(turn_liveness.commit_terminal_reply(d, '{m}', '{}')) FROM (SELECT '$name' || CASE WHEN i > 1 THEN '-' || i ELSE '' END AS d FROM generate_series(1, $others) i) x;
COMMIT;
END
	return;
}
$node->append_conf('postgresql.conf', "turn_liveness.notify_interval = '10 min'");
$node->reload;
my $gathered = 0;
ok( wait_until(
		'the worker has the new interval',
		sub {
			my $name = 'gathered' . ++$gathered;

			advance($node, '11 min');
			answer_of("$name-first", 30);
			notified($listener, qr/$name-first/);
			answer_of("$name-second", 1);
			worker_looked($node);
			worker_looked($node);
			return $listener->query('SELECT 1') !~ /$name-second/;
		}),
	'what comes after a notification waits');
advance($node, '11 min');
ok(notified($listener, qr/gathered$gathered-second/), 'and is told when the interval is over');
$node->append_conf('postgresql.conf', "turn_liveness.notify_interval = '20 ms'");
$node->reload;

# --- the extension goes

$node->safe_psql('other', 'DROP EXTENSION turn_liveness');
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND datname = 'other'"),
	'DROP EXTENSION ends the worker');
add_extension($node, 'other');
$node->safe_psql('other', "SELECT turn_liveness.arm_turn('again', 'm', admission => '100ms')");
ok($node->poll_query_until('other', 'SELECT count(*) = 1 FROM turn_liveness.reply'),
	'CREATE EXTENSION once more brings it back');

is($node->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) x'),
	0, 'nothing was answered twice');

$listener->quit;
$node->stop;
done_testing();
