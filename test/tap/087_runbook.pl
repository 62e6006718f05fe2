# The runbook: a chapter for each alert, and each of its queries shows what it says
# in the situation that it is for.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $dir = "$FindBin::RealBin/../monitoring";
my $runbook = slurp_file("$dir/RUNBOOK.md");

# --- its chapters and their queries

my (%queries, %asked);
while ($runbook =~ /^### (TurnLiveness\w+)\n(.*?)(?=^##|\z)/msg)
{
	my ($alert, $text) = ($1, $2);
	$queries{$alert} = [ map { s/^  //mgr } $text =~ /^ *```sql\n(.*?)^ *```/msg ];
	# one without a query sends the reader to another chapter
	ok(@{ $queries{$alert} } || $text =~ /\]\(#turnliveness\w+\)/, "$alert: a query");
	like($text, qr/\*\*The client|\(#turnliveness\w+\)/, "$alert: what it means to the client");
}
my $rules = slurp_file("$dir/rules.yaml");
is(join(' ', sort keys %queries), join(' ', sort $rules =~ /^  - alert: (\S+)$/mg), 'a chapter for each alert');
is(join(' ', sort map { lc } keys %queries), join(' ', sort $rules =~ /RUNBOOK\.md#(\w+)/g), 'which the alert names');
my %chapter = map { lc($_) => 1 } keys %queries;
is(join(' ', grep { !$chapter{$_} } $runbook =~ /\]\(#(\w+)\)/g), '', 'and no link leads nowhere');

my $node = new_node('main', q{
turn_liveness.turn_deadline = '10 min'
turn_liveness.mass_silence_hold = '20 min'
turn_liveness.lease_capacity = 32
turn_liveness.attach_capacity = 16
turn_liveness.max_attempts = 2
max_worker_processes = 20
autovacuum = off
}, streaming => 1);

sub role_for
{
	my ($db) = @_;
	$node->safe_psql($db, q{SELECT turn_liveness.grant_monitor('oncall')});
	return;
}

$node->safe_psql('postgres', q{CREATE ROLE oncall LOGIN; GRANT pg_read_all_stats TO oncall});
role_for('postgres');

# What each block of a chapter says: of all, or of the blocks that are named
sub look
{
	my ($alert, %option) = @_;
	my $where = $option{node} // $node;
	my @said;

	foreach my $n ($option{blocks} ? @{ $option{blocks} } : 0 .. $#{ $queries{$alert} })
	{
		my $block = $queries{$alert}[$n] // die "$alert has no block $n";
		my $role = $block =~ /^-- as a superuser/ ? $where->safe_psql('postgres', 'SELECT current_user') : 'oncall';

		$asked{"$alert $n"} = 1;
		push @said, $where->safe_psql($option{db} // 'postgres', $block, extra_params => [ '-U', $role ]);
	}
	return join "\n", @said;
}

# Until a chapter says that
sub says
{
	my ($alert, $pattern, $what, %option) = @_;
	my $said;
	return ok(wait_until($what, sub { ($said = look($alert, %option)) =~ $pattern }), "$alert: $what") || diag $said;
}

# --- the worker

says('TurnLivenessNoMetrics', qr/^running\|$/m, 'all is well', blocks => [0]);
my $worker = worker_pid($node);
kill 'STOP', $worker;
says('TurnLivenessClockStopped', qr/^$worker\|00:(?!00:0[0-2])\d\d:\d\d/, 'the worker is stopped');
kill 'CONT', $worker;
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.enabled = off');
says('TurnLivenessWorkerDown', qr/^disabled\|turn_liveness.enabled is off\|\d+$/, 'there is no worker');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.enabled');
$worker = wait_worker($node);
no_pauses($node);
says('TurnLivenessDatabaseRefused', qr/^postgres\|$worker\|./, 'which databases are served');
says('TurnLivenessNodeIds', qr/^0\|\d+\|0$/, 'the ids are of the node');

my $hold = session($node);
my $holder = backend_pid($hold);
$hold->query_safe(q{SET application_name = 'migration'; BEGIN; LOCK TABLE turn_liveness.reply IN SHARE MODE});
arm($node, 'locked', 'm', q{admission => '1ms', silence => '1ms'});
says('TurnLivenessWorkerProblem',
	qr/^waits for a lock in step "failing lapsed turns" since \d+ s: "turn_liveness.reply", held by process $holder\n$holder\|turn_liveness.reply\|ShareLock\|\w+\|migration\|idle in transaction\|/m,
	'which session holds which lock');
$hold->query_safe('ROLLBACK');

# a table that is not as installed
my $errors = $node->safe_psql('postgres', 'SELECT sweep_errors FROM turn_liveness.stat_row()');
$node->safe_psql('postgres', 'ALTER INDEX turn_liveness.turn_owed_deployment RENAME TO elsewhere');
arm($node, 'ended', 'm');
my $session = session($node);
$session->query_safe(q{SELECT turn_liveness.attach_worker('ended')});
$session->quit;
says('TurnLivenessSweepErrors', qr/^(\d+)\|[^|]*\|(?(?{ $1 > $errors + 2 })|(?!))/, 'the errors of its rounds');
$node->safe_psql('postgres', 'ALTER INDEX turn_liveness.elsewhere RENAME TO turn_owed_deployment');
is(wait_ended($node, 'ended', 'm'), 'WORKER_DIED session', 'undone: it goes on');

# --- turns that are not failed

$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.sweep = off');
says('TurnLivenessSweepOff', qr/^f\|sweep off[^\n]*\npostgres\|all roles\|\{.*turn_liveness.sweep=off\}$/m, 'where it was turned off');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.sweep');
wait_until('it is on', sub { $node->safe_psql('postgres', 'SELECT sweep_enabled FROM turn_liveness.stat') eq 't' });

arm($node, $_, 'm', q{admission => '1 min', silence => '1 min'}) foreach qw(open prepared);
$hold->query_safe(q{SET application_name = 'slow worker'; BEGIN; SELECT turn_liveness.commit_terminal_reply('open', '{m}', '{}')});
$node->safe_psql('postgres', q{BEGIN; SELECT turn_liveness.commit_terminal_reply('prepared', '{m}', '{}'); PREPARE TRANSACTION 'of a coordinator'});
advance($node, '2 min');
says('TurnLivenessTurnsHeld', qr/^open\|m\|\|[^|]+\|$holder\|\w+\|slow worker\|\|idle in transaction\|20/m, 'an open transaction');
like(look('TurnLivenessTurnsHeld'), qr/^prepared\|m\|\|[^|]+\|0\|+\n(?:.*\n)*of a coordinator\|\w+\|20/m, 'TurnLivenessTurnsHeld: a prepared one');
$hold->query_safe('COMMIT');
$node->safe_psql('postgres', q{COMMIT PREPARED 'of a coordinator'});

# a row that cannot be written
$node->safe_psql('postgres', q{
CREATE FUNCTION public.poison(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN IF $1 = 'bad' THEN RAISE 'this row is poisoned'; END IF; RETURN $1; END $$;
CREATE INDEX poison ON turn_liveness.reply (public.poison(deployment))});
arm($node, 'bad', 'm', q{'{"platform": "web"}', admission => '1ms', silence => '1ms'});
$node->wait_for_log(qr/could not fail the turn/);
says('TurnLivenessTurnsOverdue', qr/^bad\|m\|web\|lapsed\|20[^|]+\|00:/m, 'a turn that cannot be failed', blocks => [0]);
$node->safe_psql('postgres', q{DROP INDEX turn_liveness.poison; SELECT turn_liveness.fail_turn('bad', 'm', 'x')});

# --- how turns end

arm($node, 'silent', 'm', q{'{"platform": "slack"}', admission => '1 h', silence => '1 s'});
$node->safe_psql('postgres', q{SELECT turn_liveness.start_turn('silent', 'm', 'w2')});
wait_until('it has failed', sub { advance($node, '2 s'); ends($node, 'silent', 'm') ne '' });
says('TurnLivenessTurnsFail', qr/^WORKER_UNRESPONSIVE\|w2\|slack\|1\|20[^|]+\|20[^|]+\|\d[^|]+\|00:0\d:\d\d/m, 'which worker, where, for how long silent');
$node->safe_psql('postgres', q{SELECT turn_liveness.release_replies('push-1', array_agg(reply_id), '1 h', 'HTTP 500') FROM turn_liveness.claim_replies('push-1', platforms => '{slack}')});
says('TurnLivenessPushStuck', qr/^\d+\|silent\|slack\|due\|1\|[^|]*\|20[^|]+\|20[^|]+\|HTTP 500$/m, 'how often it was tried, and what the platform said');
advance($node, '61 min');
$node->safe_psql('postgres', q{SELECT turn_liveness.release_replies('push-1', array_agg(reply_id), '1 h', 'HTTP 500') FROM turn_liveness.claim_replies('push-1', platforms => '{slack}')});
says('TurnLivenessDeadReplies', qr/^\d+\|slack\|silent\|2\|[^|]*\|20[^|]+\|HTTP 500$/m, 'what is dead');

# --- what fills up

$node->safe_psql('postgres', q{
SELECT count(turn_liveness.arm_turn('b' || i, 'm', admission => '1 d', duration => '1 d')) FROM generate_series(1, 60) i;
SELECT count(turn_liveness.heartbeat('b' || i)) FROM generate_series(1, 60) i});
says('TurnLivenessLeasesNearFull', qr/^(?:2[6-9]|3\d)\|32\|(?:[89]\d|100)\|\d+\|[1-9]\d*$/, 'leases are full');
$node->safe_psql('postgres', q{SELECT count(turn_liveness.discharge_turn('b' || i, 'm')) FROM generate_series(1, 60) i});
my @attached = map { session($node) } 1 .. 4;
$_->query_safe(q{SET application_name = 'agent'; SELECT count(turn_liveness.attach_worker('a' || i || pg_backend_pid())) FROM generate_series(1, 4) i}) foreach @attached;
says('TurnLivenessAttachNearFull', qr/^16\|16\|100\n(?:.*\n)*\w+\|agent\|\|4$/m, 'so is the table of attached ones');
$_->quit foreach @attached;

my $listener = session($node);
$listener->query_safe(q{LISTEN elsewhere});
$listener->query_safe(q{SET application_name = 'deaf'; BEGIN; SELECT txid_current()});
$node->safe_psql('postgres', q{SELECT count(pg_notify('elsewhere', i || repeat('x', 7000))) FROM generate_series(1, 1000) i});
says('TurnLivenessNotificationQueue', qr/^(?:0\.0*[1-9]|[\d.]+e-\d+)\d*\n(?:.*\n)*\d+\|postgres\|\w+\|deaf\|idle in transaction\|20/m, 'which listener reads nothing');
$listener->query_safe('ROLLBACK');
$listener->quit;

# --- copies

arm($node, 'copied', 'm', q{admission => '1 min', silence => '1 min'});
$hold->quit;
wait_alone($node, 'template1');
$node->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
wait_worker($node, 'copy');
ok( wait_until('its deadline is that of a copy',
		sub { look('TurnLivenessTurnsOverdue', db => 'copy', blocks => [1]) =~ /^waiting\|1\|/m }),
	'a copy has the turn');
is($node->safe_psql('copy', q{SELECT deadline - clock_timestamp() BETWEEN interval '8 min' AND interval '11 min' FROM turn_liveness.turns WHERE deployment = 'copied'}),
	't', 'TurnLivenessTurnsOverdue: a copied turn has ten minutes');

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
says('TurnLivenessWorkerDown', qr/^none\|the server is a standby\|/, 'a standby', node => $standby);
my $overview = "$FindBin::RealBin/../../sql/install/turn_liveness_overview.sql";
like((run_command([ 'psql', '-X', '-U', 'oncall', '-d', $standby->connstr('postgres'), '-f', $overview ]))[0],
	qr/^PROBLEM +the server is a standby *$/m, 'the overview works there too');
$standby->stop('immediate');

# SQL that is older than the library: its stat has fewer columns
$node->safe_psql('copy', q{
ALTER EXTENSION turn_liveness DROP VIEW turn_liveness.stat;
DROP VIEW turn_liveness.stat;
CREATE FUNCTION turn_liveness.older_row(OUT worker_state text, OUT worker_pid integer, OUT worker_problem text)
	AS '$libdir/turn_liveness', 'turn_liveness_stat_row' LANGUAGE C STABLE;
CREATE VIEW turn_liveness.stat AS SELECT * FROM turn_liveness.older_row();
GRANT SELECT ON turn_liveness.stat TO oncall});
my ($code, $out, $err) = $node->psql('copy', "\\set VERBOSITY verbose\n" . $queries{TurnLivenessNoMetrics}[0], extra_params => [ '-U', 'oncall' ]);
like($err, qr/ 55000: .*HINT:  Run ALTER EXTENSION turn_liveness UPDATE/s, 'TurnLivenessNoMetrics: SQL that is older than the library');
says('TurnLivenessNoMetrics', qr/^turn_liveness\|\d+\.\d+$/, 'which version the SQL has', db => 'copy', blocks => [1]);

# --- the workers' path is cut; last, for each call is a sign of life

$node->safe_psql('postgres', 'CREATE DATABASE outage');
add_extension($node, 'outage');
role_for('outage');
$node->safe_psql('outage', q{
SELECT count(turn_liveness.arm_turn('d' || i, 'm', admission => '1 h')) FROM generate_series(1, 20) i;
SELECT count(turn_liveness.start_turn('d' || i, 'm', 'w' || i % 2)) FROM generate_series(1, 20) i;
SELECT count(turn_liveness.heartbeat('d' || i)) FROM generate_series(1, 20) i});
advance($node, '15 min', 'outage');
advance($node, '1 s', 'outage');
says('TurnLivenessMassSilence', qr/^[^|\n]*mass silence[^|\n]*\|.*\n(?:.*\n)*w0\|10\|20[^|]+\nw1\|10\|20[^|]+$/, 'all fell silent at once', db => 'outage');
is($node->safe_psql('outage', q{SELECT count(*) FROM turn_liveness.reply}), '0', 'none of them has failed');

my @all = map { my $alert = $_; map { "$alert $_" } 0 .. $#{ $queries{$alert} } } sort keys %queries;
is(join("\n", grep { !$asked{$_} } @all), '', 'every query was asked');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$node->stop;
done_testing();
