# pg_stat_activity says what each of our processes does, and stat which step of the
# worker is kept waiting: every text is seen, each while something holds it up.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use TurnLiveness;

# no standby by that name: a commit with synchronous_commit = on waits
my $node = new_node('main', q{
turn_liveness.reconnect_window = 0
turn_liveness.claim_timeout = '30s'
synchronous_standby_names = 'nobody'
synchronous_commit = local
autovacuum = off
}, streaming => 1);
$node->safe_psql('postgres', 'CREATE TABLE public.plain (i integer)');
my $hold = session($node);
my $watch = session($node);
my $other = session($node);
$other->query_safe('SET synchronous_commit = on');
my $other_pid = backend_pid($other);
my $prepared = 0;
my %seen;

sub activity
{
	return $node->safe_psql('postgres',
		q{SELECT query || CASE WHEN wait_event_type = 'Lock' THEN ' waits' ELSE '' END FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'});
}

sub idle
{
	return wait_until('the worker is idle',
		sub { $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND state = 'idle'}) });
}

# What does not wait for a lock, but is left for the next time.
sub problem
{
	return $node->safe_psql('postgres', 'SELECT worker_problem FROM turn_liveness.stat_row()');
}

# While $before holds a lock, $trigger gives the worker something to do.  Whatever else
# it may have been about to do at that moment: then once more.
sub shows
{
	my ($what, $before, $trigger, $after) = @_;

	$seen{$what} = 1;
	foreach my $round (1 .. 5)
	{
		# what comes every ten seconds has just been
		idle();
		advance($node, '11 s');
		idle();
		$before->();
		$trigger->();
		my $end = time + 20 * $round;
		my $found = 0;
		until ($found || time > $end)
		{
			$found = activity() eq "$what waits" || problem() =~ /waits for a lock in step "$what"/ or usleep(20_000);
		}
		my $last = activity();
		$after ? $after->() : $hold->query_safe('ROLLBACK');
		return pass("what it shows: $what") if $found;
		note "round $round: $last";
	}
	return fail("what it shows: $what");
}

sub lock_table
{
	my ($table) = @_;
	return sub { $hold->query_safe("BEGIN; LOCK TABLE $table IN ACCESS EXCLUSIVE MODE") };
}
sub end_worker { $watch->query_safe(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'}) }
sub passes { my ($time) = @_; return sub { $watch->query_safe("DO \$\$ BEGIN PERFORM public.tl_advance('$time'); END \$\$") } }

# nothing is kept without a turn
arm($node, 'live', 'm1', q{admission => '20d', silence => '20d', duration => '20d'});
shows('looking for the extension', sub { $hold->query_safe('BEGIN; DROP EXTENSION turn_liveness CASCADE') }, \&end_worker);
wait_worker($node);
shows('looking at the tables', lock_table('turn_liveness.turn'), \&end_worker);
wait_worker($node);
shows('looking at the owed turns', lock_table('turn_liveness.turn'),
	sub { $prepared++; $watch->query_safe("BEGIN; INSERT INTO public.plain VALUES (1); PREPARE TRANSACTION 'p$prepared'; COMMIT PREPARED 'p$prepared'") });
shows('failing lapsed turns', lock_table('turn_liveness.reply'),
	sub { $prepared++; $watch->query_safe("SELECT turn_liveness.arm_turn('lapses', 'm$prepared', admission => '1ms', silence => '1ms')") });
{
	my $attached;
	shows('failing the turns of ended sessions',
		sub {
			$attached = session($node);
			$attached->query_safe(q{SELECT turn_liveness.arm_turn('attached', 'm} . ++$prepared . q{'), turn_liveness.attach_worker('attached')});
			$hold->query_safe('BEGIN; LOCK TABLE turn_liveness.turn IN ACCESS EXCLUSIVE MODE');
		},
		sub { $attached->quit });
}
# notifications are sent one transaction after the other, and that one waits for a standby
shows('notifying',
	sub {
		$other->{stdin} .= "BEGIN; INSERT INTO public.plain VALUES (1); NOTIFY other; COMMIT;\n";
		$other->{run}->pump_nb;
		$node->poll_query_until('postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $other_pid");
	},
	sub { $watch->query_safe(q{SELECT turn_liveness.reject_turn('rejected', 'm} . ++$prepared . q{', '{}', 'no')}) },
	sub { $watch->query_safe("SELECT pg_cancel_backend($other_pid)"); $other->query('SELECT 1') });
sub claim
{
	$node->safe_psql('postgres', q{SELECT turn_liveness.reject_turn('claimed', 'm} . ++$prepared . q{', '{"platform": "claimed"}', 'no')});
	$node->safe_psql('postgres', q{SELECT count(*) FROM turn_liveness.claim_replies('gw', platforms => '{claimed}')});
}
shows('parking claimed replies', sub { claim(); lock_table('turn_liveness.delivery')->() }, passes('2 s'));
shows('looking for replies that are due again',
	sub {
		claim();
		advance($node, '2 s');
		$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM turn_liveness.delivery WHERE gateway IS NOT NULL AND parked_until IS NULL')
		  or die 'the claim is not parked';
		lock_table('turn_liveness.delivery')->();
	},
	passes('31 s'));
shows('retention', lock_table('turn_liveness.late_reply'), passes('11 s'));
shows('looking at the ids of replies',
	sub { $hold->query_safe('BEGIN; ALTER SEQUENCE turn_liveness.reply_id_seq OWNER TO CURRENT_USER') }, passes('11 s'));
shows('looking for subscriptions', lock_table('pg_catalog.pg_subscription'), passes('11 s'));

my $source = join '', map { slurp_file($_) } glob "$FindBin::RealBin/../../src/worker/*.c";
my %texts = map { $_ => 1 } $source =~ /(?:xact_begin\("|^\t\[[A-Z_]+\] = \{")([^"]*)"/mg;
is(join("\n", sort keys %seen), join("\n", sort keys %texts), 'no text was forgotten');
ok(idle(), 'in the end it is idle');
is($node->safe_psql('postgres', q{SELECT datname, usename IS NOT NULL, application_name FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'}),
	'postgres|t|turn_liveness worker', 'whose, and in which database');

# --- the launcher

$hold->query_safe('BEGIN; LOCK TABLE pg_catalog.pg_database IN ACCESS EXCLUSIVE MODE');
# a new launcher reads it
$hold->query_safe(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'turn_liveness launcher'});
my $launcher = q{SELECT query FROM pg_stat_activity WHERE backend_type = 'turn_liveness launcher'};
ok(wait_until('the launcher looks', sub { $hold->query_safe("SELECT pg_stat_clear_snapshot(); $launcher") =~ /reading the list of databases/ }),
	'the launcher: reading the list of databases');
$hold->query_safe('ROLLBACK');
wait_worker($node);
ok($node->poll_query_until('postgres', "SELECT ($launcher) = 'workers running: 1'"), 'the launcher: workers running');

unlike(slurp_file($node->logfile), qr{PANIC|TRAP|signal 6|signal 11}, 'nothing crashed');

# --- a lock that no session gives up does not keep it from ending

$watch->query_safe(q{BEGIN; LOCK TABLE turn_liveness.turn, turn_liveness.late_reply IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'forever'});
$_->quit foreach $hold, $watch, $other;
ok(idle(), 'the worker is idle');
# (a stop that takes for ever ends the test)
$node->stop('fast');
pass('the server shuts down while a prepared transaction has a lock that the worker wants');
done_testing();
