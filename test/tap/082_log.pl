# What the server log is told of bad days: each line names the database, has an
# errcode, and does not come more often than a DBA can read.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

# as Debian has it, which names no database for a process in the background
my $node = new_node('main', q{
log_line_prefix = '%m [%p] %b %e %q%u@%d '
turn_liveness.lease_capacity = 16
turn_liveness.retention = '1 min'
turn_liveness.undelivered_retention = '10 min'
turn_liveness.max_attempts = 1
turn_liveness.log_failures = on
});
$node->safe_psql('postgres', 'CREATE DATABASE app');
add_extension($node, 'app');

sub app { return $node->safe_psql('app', $_[0]) }

sub logged
{
	my ($since, $pattern) = @_;
	my @lines = slurp_file($node->logfile, $since) =~ /^(.*$pattern.*)$/mg;
	return @lines;
}

# --- replies that no gateway fetched

my $start = -s $node->logfile;
app(q{
SELECT turn_liveness.reject_turn('d', 'web' || i, '{"platform": "web"}', 'no') FROM generate_series(1, 3) i;
SELECT turn_liveness.reject_turn('d', 'slack', '{"platform": "slack"}', 'no'), turn_liveness.reject_turn('d', 'dead', '{"platform": "slack"}', 'no');
SELECT turn_liveness.reject_turn('d', 'delivered', '{"platform": "web", "conversationId": "c"}', 'no');
SELECT turn_liveness.ack_replies('gw', array_agg(reply_id)) FROM turn_liveness.claim_replies('gw', '{c}');
SELECT turn_liveness.release_replies('gw', array_agg(reply_id)) FROM turn_liveness.replies WHERE message_ids = '{dead}';
});
ok( wait_until(
		'what was not delivered expires',
		sub { app(q{SELECT public.tl_advance('11 min')}); app('SELECT count(*) FROM turn_liveness.reply') == 0 }),
	'undelivered replies go in the end');
is(app('SELECT expired_undelivered FROM turn_liveness.stat'), '5', 'those that nobody got are counted');
is(join("\n", sort map { s/^.*LOG:  //r } logged($start, ' expired in database ')),
	qq{2 undelivered replies of platform "slack" expired in database "app"\n3 undelivered replies of platform "web" expired in database "app"},
	'and logged by platform');
like($_, qr/ turn_liveness worker 01000 LOG:  /, 'with an errcode') foreach logged($start, ' expired in database ');
like(slurp_file($node->logfile, $start), qr/expired in database "app"\n.*HINT:  Look at "last_error"/, 'and a hint');

# --- no room for beats

$start = -s $node->logfile;
app(q{
SELECT count(turn_liveness.arm_turn('b' || i, 'm', admission => '1h', silence => '1h')) FROM generate_series(1, 40) i;
SELECT count(turn_liveness.heartbeat('b' || i)) FROM generate_series(1, 40) i, generate_series(1, 5);
});
cmp_ok(app('SELECT beats_in_rows FROM turn_liveness.stat'), '>', 10, 'many beats find no room');
my @full = logged($start, 'memory for beats is full');
is(scalar @full, 1, 'one line');
like($full[0], qr/ 53400 .*LOG:  shared memory for beats is full; beats of database "app" are written to the table$/, 'with database and errcode');

# --- a turn that cannot be failed

# How often the worker has met an error
sub errors { return app('SELECT sweep_errors FROM turn_liveness.stat_row()') }

app(q{
CREATE FUNCTION public.poison(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN IF $1 = 'bad' THEN RAISE 'this row is poisoned'; END IF; RETURN $1; END $$;
CREATE INDEX poison ON turn_liveness.reply (public.poison(deployment));
});
$start = -s $node->logfile;
my $since_us = clock_us($node, 'app');
my $errors = errors();
app(q{SELECT turn_liveness.arm_turn('bad', 'm', admission => '1ms', silence => '1ms')});
$node->wait_for_log(qr/could not fail the turn/, $start);
# a turn that lapses meanwhile has the worker look again and again
foreach my $round (1 .. 5)
{
	app("SELECT public.tl_advance('5 s'); SELECT turn_liveness.arm_turn('good$round', 'm', admission => '1ms', silence => '1ms')");
	$node->poll_query_until('app', "SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'good$round'");
}
cmp_ok(errors() - $errors, '<=', 1 + (clock_us($node, 'app') - $since_us) / 60e6, 'a turn that cannot be failed is tried once a minute');
my $tries = errors();
ok(wait_until('it is tried again', sub { app(q{SELECT public.tl_advance('61 s')}); errors() > $tries }), 'and again in the next');
my @bad = logged($start, 'could not fail the turn');
cmp_ok(scalar @bad, '<=', errors() - $errors, 'the log is told of each try once at most');
like($bad[0], qr/ P0001 LOG:  could not fail the turn at row \(\d+,\d+\) of turn_liveness\.turn in database "app": this row is poisoned$/, 'with database, errcode and reason');
app('DROP INDEX turn_liveness.poison');
app(q{SELECT public.tl_advance('61 s')});
ok($node->poll_query_until('app', q{SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'bad'}), 'it is failed when it can be');

# --- an error of a whole round, again and again

# (the worker may meet it before this session's client hears of the change)
$start = -s $node->logfile;
app('ALTER TABLE turn_liveness.reply RENAME TO elsewhere');
my $since = time;
$errors = errors();
app(q{SELECT turn_liveness.arm_turn('homeless', 'm', admission => '1ms', silence => '1ms')});
# The worker tells the log once a minute, by a clock that no test moves: it meets the
# error more often than such minutes have passed, and the log has no more lines.
ok(wait_until('the error comes again', sub { errors() - $errors > 3 + (time - $since) / 60 }), 'the worker fails in round after round');
my @same = logged($start, ' turn_liveness worker .*ERROR: ');
cmp_ok(scalar @same, '<=', 1 + (time - $since) / 60, 'the log is told once a minute') or diag join "\n", @same;
like($same[0], qr/ turn_liveness worker 55000 ERROR:  table "turn_liveness.reply" does not exist$/, 'what is wrong');
like(slurp_file($node->logfile, $start), qr/CONTEXT:  turn_liveness worker in database "app"\n/, 'and in which database');
app('ALTER TABLE turn_liveness.elsewhere RENAME TO reply');
ok($node->poll_query_until('app', q{SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'homeless'}), 'then it goes on');

# another error is news
$start = -s $node->logfile;
app('ALTER INDEX turn_liveness.delivery_parked RENAME TO elsewhere');
app(q{SELECT turn_liveness.release_replies('gw', array_agg(reply_id), '1 ms') FROM turn_liveness.claim_replies('gw', '{none}')});
ok( wait_until(
		'the next error is reported',
		sub { app(q{SELECT public.tl_advance('10 s')}); logged($start, 'index "turn_liveness.delivery_parked" does not exist') > 0 }),
	'another error is reported at once');
app('ALTER INDEX turn_liveness.elsewhere RENAME TO delivery_parked');

# --- a worker that meets an error in its first round

my $missing = 'index "turn_liveness.turn_owed_check" does not exist';
my $starts = app('SELECT worker_starts FROM turn_liveness.stat_row()');
my $pid = worker_pid($node, 'app');

$start = -s $node->logfile;
app('ALTER INDEX turn_liveness.turn_owed_check RENAME TO elsewhere');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok(wait_until('the new one says so', sub { logged($start, $missing) > 0 }), 'a worker that cannot read the turns says so');
my @told = slurp_file($node->logfile, $start) =~ /^.* turn_liveness worker 55000 ERROR:  \Q$missing\E\n.*HINT:  .*\n.*CONTEXT:  turn_liveness worker in database "app"$/mg;
cmp_ok(scalar @told, '>', 0, 'the log names what is missing, and the database');
ok(wait_worker($node, 'app'), 'and stays');
my $serves = worker_pid($node, 'app');
isnt($serves, $pid, 'it is a new one');
app('ALTER INDEX turn_liveness.elsewhere RENAME TO turn_owed_check');
app(q{SELECT turn_liveness.arm_turn('mended', 'm', admission => '1ms', silence => '1ms')});
ok($node->poll_query_until('app', q{SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'mended'}), 'turns are failed again once it is mended');
is(worker_pid($node, 'app'), $serves, 'by the same worker');
is(app("SELECT worker_starts - $starts FROM turn_liveness.stat_row()"), '1', 'which has started once');
is(app('SELECT worker_problem FROM turn_liveness.stat_row()'), '', 'and has no problem any more');

# --- an index that the sweep of ended sessions needs, and that of lapsed turns does not

$errors = app('SELECT sweep_errors FROM turn_liveness.stat_row()');
app(q{SELECT turn_liveness.arm_turn('ended', 'm')});
app('ALTER INDEX turn_liveness.turn_owed_deployment RENAME TO elsewhere');
app(q{SELECT turn_liveness.attach_worker('ended')});
ok($node->poll_query_until('app', "SELECT sweep_errors > $errors FROM turn_liveness.stat_row()"), 'turns of ended sessions cannot be failed');
app(q{SELECT turn_liveness.arm_turn('lapsed', 'm', admission => '1ms', silence => '1ms')});
ok($node->poll_query_until('app', q{SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'lapsed'}), 'what lapses is failed all the same');
app('ALTER INDEX turn_liveness.elsewhere RENAME TO turn_owed_deployment');
ok($node->poll_query_until('app', q{SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'ended'}), 'and those of ended sessions once it is mended');

# --- a worker that cannot even begin: no session gets into its database

my $inside = session($node, 'app');
my $version = $node->data_dir . '/base/' . app(q{SELECT oid FROM pg_database WHERE datname = 'app'}) . '/PG_VERSION';
my $refused = 'turn_liveness worker \S+ FATAL:  ';

$start = -s $node->logfile;
rename $version, "$version.away" or die $!;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($serves)");
ok(wait_until('two have failed', sub { logged($start, $refused) >= 2 }), 'a worker that cannot begin is tried again');
my @failed = map { /^(\S+ [\d:.]+) / ? $node->safe_psql('postgres', "SELECT extract(epoch FROM timestamptz '$1')") : () } logged($start, $refused);
cmp_ok($failed[1] - $failed[0], '>=', 4.9, 'not before five seconds');
is($inside->query_safe('SELECT worker_problem FROM turn_liveness.stat_row()'), 'the last worker ended with an error: look at the server log', 'stat says why there is none');
rename "$version.away", $version or die $!;
$node->reload;
ok(wait_worker($node, 'app'), 'mended, and reloaded: it serves again');
is($inside->query_safe('SELECT worker_problem FROM turn_liveness.stat_row()'), '', 'and no problem any more');
$inside->quit;

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$node->stop;
done_testing();
