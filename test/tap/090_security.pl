# Logged in as each role that was granted something: everything else is
# refused, whatever the session sets, shadows or creates.  (The functions and
# columns of each role one by one are in sql/privileges.sql.)

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node('main', '');
$node->safe_psql(
	'postgres', q{
CREATE ROLE gateway LOGIN;
CREATE ROLE worker LOGIN;
CREATE ROLE monitor LOGIN;
CREATE ROLE nobody_special LOGIN;
SELECT turn_liveness.grant_gateway('gateway'), turn_liveness.grant_worker('worker'), turn_liveness.grant_monitor('monitor');
GRANT CREATE ON SCHEMA public TO PUBLIC;
SELECT turn_liveness.arm_turn('d', 'm1', '{"conversationId": "c", "secret": "routing"}', admission => '1h');
SELECT turn_liveness.arm_turn('d', 'm2', '{"conversationId": "c"}');
SELECT turn_liveness.commit_terminal_reply('d', '{m2}', '{"content": "secret"}');
SELECT turn_liveness.commit_terminal_reply('d', '{m2}', '{"content": "secret, late"}');
});
my @roles = qw(gateway worker monitor nobody_special);

# The SQLSTATE of a statement in a session of the role, '' if it succeeds.
sub sqlstate
{
	my ($role, $sql) = @_;
	my ($stdout, $stderr) = ('', '');
	$node->psql('postgres', $sql, stdout => \$stdout, stderr => \$stderr,
		extra_params => [ '-U', $role, '-v', 'VERBOSITY=sqlstate', '-v', 'ON_ERROR_STOP=1' ]);
	return $stderr =~ /(?:ERROR|FATAL):\s+(\w{5})/ ? $1 : '';
}

# --- every function, of all roles: called with nulls, only EXECUTE decides

my %may = map { $_ => { map { $_ => 1 } split /\n/, $node->safe_psql('postgres',
			"SELECT p.oid::regproc FROM pg_proc p WHERE p.pronamespace = 'turn_liveness'::regnamespace AND has_function_privilege('$_', p.oid, 'EXECUTE')") } } @roles;
is(scalar keys %{ $may{nobody_special} }, 0, 'who was granted nothing may call nothing');
my @functions = map { [ split /\|/ ] } split /\n/, $node->safe_psql('postgres', q{
SELECT p.oid::regproc, (SELECT coalesce(string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY n), '') FROM unnest(p.proargtypes) WITH ORDINALITY a(t, n))
FROM pg_proc p WHERE p.pronamespace = 'turn_liveness'::regnamespace AND p.prorettype <> 'trigger'::regtype ORDER BY 1});
cmp_ok(scalar @functions, '>', 25, 'all functions: ' . @functions);
foreach my $role (@roles)
{
	my @wrong;
	foreach my $function (@functions)
	{
		my ($name, $args) = @$function;
		my $state = sqlstate($role, "SELECT $name($args)");
		# a type of the schema cannot even be named by a role that may not use it
		push @wrong, "$name: $state" if ($state eq '42501') == exists $may{$role}{$name};
	}
	is("@wrong", '', "$role calls what it was granted, and nothing else");
}

# --- every table, sequence and view, in every way

my @relations = map { [ split /\|/ ] } split /\n/, $node->safe_psql('postgres',
	q{SELECT oid::regclass, relkind FROM pg_class WHERE relnamespace = 'turn_liveness'::regnamespace AND relkind IN ('r', 'v', 'S') ORDER BY 1});
foreach my $role (@roles)
{
	my @done;
	foreach my $relation (@relations)
	{
		my ($name, $kind) = @$relation;
		my @ways = $kind eq 'S' ? ("SELECT nextval('$name')", "SELECT setval('$name', 1)", "SELECT last_value FROM $name")
		  : ("INSERT INTO $name DEFAULT VALUES", "DELETE FROM $name", "LOCK TABLE $name IN ACCESS EXCLUSIVE MODE", "DROP " . ($kind eq 'v' ? 'VIEW' : 'TABLE') . " $name CASCADE",
			"CREATE RULE r AS ON SELECT TO $name DO INSTEAD NOTHING", "COMMENT ON COLUMN $name.deployment IS 'x'");
		push @ways, "TABLE $name", "COPY $name TO STDOUT", "TRUNCATE $name", "CREATE INDEX ON $name ((1))", "CREATE TRIGGER t BEFORE INSERT ON $name FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
		  "ALTER TABLE $name DISABLE TRIGGER ALL", "ALTER TABLE $name ENABLE ROW LEVEL SECURITY"
		  if $kind eq 'r';
		push @ways, "SELECT x FROM $name x" if $kind eq 'v' && $role ne 'gateway' && $name !~ /\.stat$/;
		push @ways, "SELECT * FROM $name LIMIT 1" if $kind eq 'v' && $role !~ /gateway|monitor/;
		foreach my $way (@ways)
		{
			push @done, $way if sqlstate($role, "BEGIN; $way; ROLLBACK") !~ /^(42501|42703|42P17|55000)$/;
		}
	}
	is(join('; ', @done), '', "$role: our relations are closed");
	is(sqlstate($role, $_), '42501', "$role: $_")
	  foreach 'CREATE TABLE turn_liveness.x ()', 'CREATE FUNCTION turn_liveness.f() RETURNS integer LANGUAGE sql AS \'SELECT 1\'',
	  'ALTER EXTENSION turn_liveness UPDATE', 'DROP EXTENSION turn_liveness', 'ALTER SCHEMA turn_liveness RENAME TO x',
	  'ALTER FUNCTION turn_liveness.heartbeat(text, text[], integer[]) SECURITY DEFINER',
	  q{CREATE FUNCTION public.mine(interval) RETURNS void AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C};
	my $pid = worker_pid($node);
	is(sqlstate($role, "SELECT pg_terminate_backend($pid)"), '42501', "$role: the worker's process");
}

# --- our settings

my @settings = split /\n/, $node->safe_psql('postgres', q{SELECT name FROM pg_settings WHERE name LIKE 'turn\_liveness.%' ORDER BY 1});
cmp_ok(scalar @settings, '>', 20, 'all settings: ' . @settings);
foreach my $role (@roles)
{
	my @done;
	foreach my $name (@settings)
	{
		push @done, grep { sqlstate($role, $_) !~ /^(42501|55P02)$/ } "SET $name TO DEFAULT", "ALTER ROLE $role SET $name TO '1'",
		  "SELECT set_config('$name', '1', false)", "ALTER SYSTEM SET $name TO '1'";
	}
	is(join('; ', @done), '', "$role sets none of them");
	is(sqlstate($role, q{SET turn_liveness.made_up = 1}), '42602', "$role: nor one that does not exist");
}

# --- shadows: a role's own schema in front, with everything we use

my $shadows = q{
CREATE TEMP TABLE turn (deployment text, message_id text);
CREATE TEMP TABLE reply (LIKE turn);
CREATE TEMP TABLE delivery (LIKE turn);
CREATE TEMP SEQUENCE reply_id_seq;
};
foreach my $role (qw(gateway worker monitor))
{
	my $evil = "evil_$role";
	$node->safe_psql('postgres', "CREATE SCHEMA $evil AUTHORIZATION $role");
	$node->safe_psql('postgres', qq{
CREATE FUNCTION $evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'caught'; END \$\$;
CREATE FUNCTION $evil.eq("char", "char") RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'caught'; END \$\$;
CREATE FUNCTION $evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'caught'; END \$\$;
CREATE OPERATOR $evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = $evil.eq);
CREATE OPERATOR $evil.= (LEFTARG = "char", RIGHTARG = "char", FUNCTION = $evil.eq);
CREATE OPERATOR $evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = $evil.eq);
CREATE OPERATOR $evil.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = $evil.eq);
CREATE OPERATOR $evil.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = $evil.eq);
CREATE FUNCTION $evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'caught'; END \$\$;
CREATE FUNCTION $evil.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'caught'; END \$\$;
CREATE TABLE $evil.turn (deployment text);
CREATE TABLE $evil.reply (deployment text);
GRANT USAGE ON SCHEMA $evil TO PUBLIC;
}, extra_params => [ '-U', $role ]);
}
my %work = (
	gateway => q{turn_liveness.arm_turn('g', 'm1', '{"conversationId": "g"}')::text || turn_liveness.heartbeat('g') || turn_liveness.commit_terminal_reply('g', '{m1}', '{"content": "x"}')::text
		|| (SELECT max(state) FROM turn_liveness.read_replies('{g}')) || (SELECT count(*) FROM turn_liveness.claim_replies('gw', '{g}')) || (SELECT max(t.state) FROM turn_liveness.turns t) || (SELECT count(s) FROM turn_liveness.stat s)},
	worker => q{turn_liveness.heartbeat('d') || turn_liveness.has_live_turn('d', 'm1')::text || turn_liveness.commit_terminal_reply('d', '{m3}', '{}')::text},
	monitor => q{(SELECT count(t.deadline) FROM turn_liveness.turns t)::pg_catalog.text || (SELECT count(r.state) > 0 FROM turn_liveness.replies r) || (SELECT s.worker_state FROM turn_liveness.stat s)},
);
my %result = (gateway => 'armed1wondue1waiting1', worker => '1trueunknown', monitor => '1truerunning');
foreach my $role (qw(gateway worker monitor))
{
	is( $node->safe_psql('postgres',
			"$shadows SET search_path = evil_$role, pg_temp, pg_catalog; SELECT $work{$role}; RESET search_path;",
			extra_params => [ '-U', $role ]) =~ s/\s+//gr,
		$result{$role}, "$role: works as ever among shadows");
	isnt($node->psql('postgres', "SET search_path = evil_$role, pg_catalog; SELECT 'a'::text = 'a'::text", extra_params => [ '-U', $role ]),
		0, "$role: which would be seen");
}

# the worker's process is not led astray by what the database sets for sessions
my $pid = worker_pid($node);
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET search_path = evil_gateway, pg_temp, pg_catalog; ALTER DATABASE postgres SET default_transaction_read_only = on');
$node->safe_psql('template1', "SELECT pg_terminate_backend($pid)");
my $clean = 'SET search_path = pg_catalog; SET default_transaction_read_only = off;';
ok( wait_until(
		'another worker',
		sub { $node->safe_psql('template1', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker' AND pid <> $pid") eq '1' }),
	'a worker under hostile settings');
$node->safe_psql('postgres', "$clean SELECT turn_liveness.arm_turn('hostile', 'm1', admission => '1ms', silence => '1ms')");
ok( wait_until(
		'the turn is failed',
		sub { $node->safe_psql('postgres', "$clean SELECT count(*) FROM turn_liveness.reply WHERE deployment = 'hostile'") eq '1' }),
	'sweeps all the same');
unlike(slurp_file($node->logfile), qr/turn_liveness worker.*ERROR/, 'without an error');

$node->stop;
done_testing();
