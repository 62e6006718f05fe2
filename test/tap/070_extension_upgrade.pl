# ALTER EXTENSION UPDATE under load, from this version to one that this test
# makes; and a library that is newer than the SQL of a database.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use File::Copy;
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $node = new_node('main', "turn_liveness.log_failures = on\nmax_worker_processes = 20", extension => 0);

# --- a private copy of the scripts, to which others can be added

my $share = $node->config_data('--sharedir');
my $lib = $node->config_data('--pkglibdir');
my $root = $node->basedir . '/install';
my $scripts = "$root$share/extension";
my $from = "$share/extension";
my $setting;

if ($node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'extension_destdir'}))
{
	# Debian's: it leads to the library as well
	my $destdir = $node->safe_psql('postgres', 'SHOW extension_destdir');
	$from = "$destdir$share/extension" if -e "$destdir$share/extension/turn_liveness.control";
	make_path("$root$lib");
	rmdir "$root$lib";
	symlink("$destdir$lib", "$root$lib") or die $!;
	$setting = "extension_destdir = '$root'";
}
elsif ($node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'extension_control_path'}))
{
	my ($first) = split /:/, $node->safe_psql('postgres', 'SHOW extension_control_path');
	$from = "$first/extension" if -e "$first/extension/turn_liveness.control";
	$setting = "extension_control_path = '$root$share:\$system'";
}
else
{
	plan skip_all => 'this server finds extensions only where it is installed';
}
make_path($scripts);
copy($_, $scripts) or die "$_: $!" foreach glob("$from/turn_liveness*");
$node->append_conf('postgresql.conf', $setting);
$node->restart;

# from the file: the view pg_available_extensions does not look into extension_destdir
my ($version) = slurp_file("$scripts/turn_liveness.control") =~ /^default_version\s*=\s*'([^']+)'/m;
is($version, '1.0', 'the version that is installed');
my $script = slurp_file("$scripts/turn_liveness--$version.sql");

sub script
{
	my ($name, $sql) = @_;
	open my $file, '>', "$scripts/turn_liveness--$name.sql" or die $!;
	print $file $sql;
	close $file;
	return;
}

# As a next version would do it: locks first; what is granted to the roles
# that could do the like before.
script("$version--next", q{
LOCK TABLE turn_liveness.turn IN ACCESS EXCLUSIVE MODE;
ALTER TABLE turn_liveness.turn ADD COLUMN note text;
ALTER TABLE turn_liveness.delivery ADD COLUMN weight integer DEFAULT 7;
CREATE INDEX turn_note ON turn_liveness.turn (note) WHERE note IS NOT NULL;
CREATE FUNCTION turn_liveness.next_function() RETURNS integer LANGUAGE sql AS 'SELECT 11';
REVOKE ALL ON FUNCTION turn_liveness.next_function() FROM PUBLIC;
CREATE OR REPLACE FUNCTION turn_liveness.heartbeat(deployment text, message_ids text[] DEFAULT NULL, generations integer[] DEFAULT NULL)
RETURNS integer AS 'MODULE_PATHNAME', 'turn_liveness_heartbeat' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE OR REPLACE VIEW turn_liveness.late_replies AS
	SELECT deployment, message_ids, conversation_id, payload, verdict, created_at, kept_at FROM turn_liveness.late_reply;
DO $$
DECLARE
	role oid;
BEGIN
	FOR role IN SELECT a.grantee FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
		WHERE p.oid = 'turn_liveness.arm_turn'::pg_catalog.regproc AND a.grantee <> p.proowner
	LOOP
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION turn_liveness.next_function() TO %s', role::pg_catalog.regrole);
	END LOOP;
END $$;
});

# --- up, while everybody works

add_extension($node);
$node->safe_psql(
	'postgres', q{
CREATE ROLE gateway LOGIN;
CREATE ROLE worker LOGIN;
CREATE ROLE monitor LOGIN;
SELECT turn_liveness.grant_gateway('gateway'), turn_liveness.grant_worker('worker'), turn_liveness.grant_monitor('monitor');
SELECT turn_liveness.arm_turn('before', m, '{"conversationId": "c1"}', admission => '1h', silence => '1h') FROM unnest('{answered,silent,never}'::text[]) m;
SELECT turn_liveness.arm_turn('attached', 'm1', admission => '1h');
SELECT turn_liveness.heartbeat('before', '{answered,silent}');
});
my $grants = q{
SELECT r, p.oid::regprocedure, has_function_privilege(r, p.oid, 'EXECUTE') FROM pg_proc p, unnest('{gateway,worker,monitor}'::text[]) r
WHERE p.pronamespace = 'turn_liveness'::regnamespace AND p.proname <> 'next_function' ORDER BY 1, 2;
SELECT r, c.oid::regclass, a.attname, has_column_privilege(r, c.oid, a.attname, 'SELECT'), has_table_privilege(r, c.oid, 'SELECT')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attname NOT IN ('note', 'weight', 'kept_at'), unnest('{gateway,worker,monitor}'::text[]) r
WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind IN ('r', 'v') ORDER BY 1, 2, 3;
SELECT r, has_schema_privilege(r, 'turn_liveness', 'USAGE') FROM unnest('{gateway,worker,monitor}'::text[]) r};
my $granted = $node->safe_psql('postgres', $grants);

my $attached = $node->background_psql('postgres', extra_params => [ '-U', 'worker' ]);
$attached->query_safe(q{SELECT turn_liveness.attach_worker('attached')});
$attached->query_safe(q{PREPARE beat AS SELECT turn_liveness.heartbeat('before', '{silent}')});
is($attached->query_safe('EXECUTE beat'), '1', 'a session with a prepared beat');
my $gateway = $node->background_psql('postgres', extra_params => [ '-U', 'gateway' ]);
$gateway->query_safe(q{PREPARE list AS SELECT count(*) FROM turn_liveness.turns WHERE deployment = 'before'});
is($gateway->query_safe('EXECUTE list'), '3', 'and one with a prepared look');

my $load = $node->basedir . '/load.sql';
append_to_file($load, q{
\set n random(1, 1000000000)
SELECT turn_liveness.arm_turn('load' || :n, 'm', '{"conversationId": "load"}');
SELECT turn_liveness.heartbeat('load' || :n, '{m}');
SELECT turn_liveness.commit_terminal_reply('load' || :n, '{m}', '{}');
SELECT turn_liveness.ack_replies('gw', array_agg(reply_id)) FROM turn_liveness.claim_replies('gw', '{load}');
});
my ($out, $err) = ('', '');
# pgbench runs again and again until the test has seen enough, however late it looks
my $stop = $node->basedir . '/stop';
my $pgbench = IPC::Run::start(
	[ 'sh', '-c', 'until [ -e "$0" ]; do "$@" || exit; done', $stop,
		'pgbench', '-n', '-M', 'prepared', '-U', 'gateway', '-c', '4', '-t', '1500', '-f', $load, $node->connstr('postgres') ],
	'<', \undef, '>', \$out, '2>', \$err);
ok($node->poll_query_until('postgres', 'SELECT answered > 40 FROM turn_liveness.stat'), 'the load runs');
my $answered = $node->safe_psql('postgres', 'SELECT answered FROM turn_liveness.stat');
my ($result, $stdout, $stderr) = $node->psql('postgres', "ALTER EXTENSION turn_liveness UPDATE TO 'next'");
is("$result $stderr", '0 ', 'ALTER EXTENSION UPDATE under load');
ok($node->poll_query_until('postgres', "SELECT answered > $answered + 40 FROM turn_liveness.stat"), 'the load goes on');
append_to_file($stop, '');
ok($pgbench->finish, 'without an error') or diag $err;
like($out, qr{number of transactions actually processed: 6000/6000}, 'to its end') or diag "$out$err";
is($node->safe_psql('postgres', q{SELECT extversion FROM pg_extension WHERE extname = 'turn_liveness'}), 'next', 'the version');

is($node->safe_psql('postgres', $grants), $granted, 'every grant survived');
is($attached->query_safe('EXECUTE beat'), '1', 'the prepared beat goes on');
is($gateway->query_safe('EXECUTE list'), '3', 'so does the prepared look');
my @as_gateway = (extra_params => [ '-U', 'gateway' ]);
is($node->safe_psql('postgres', 'SELECT turn_liveness.next_function()', @as_gateway), '11', 'the gateway calls the new function');
isnt($node->psql('postgres', 'SELECT turn_liveness.next_function()', extra_params => [ '-U', 'worker' ]), 0, 'the worker does not');
is( $node->safe_psql('postgres',
		q{SELECT turn_liveness.arm_turn('after', 'm1'), turn_liveness.heartbeat('after'), turn_liveness.commit_terminal_reply('before', '{answered}', '{"content": "42"}')}, @as_gateway),
	'armed|1|won', 'the gateway does what it did');
is($node->safe_psql('postgres', q{SELECT payload->>'content', state FROM turn_liveness.read_replies('{c1}')}, @as_gateway),
	'42|due', 'and reads');
is($node->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('after', '{m1}', '{}')}, extra_params => [ '-U', 'worker' ]),
	'won', 'the worker answers');
is($node->safe_psql('postgres', q{SELECT count(deployment), count(state) FROM turn_liveness.turns}, extra_params => [ '-U', 'monitor' ]),
	'3|3', 'the monitor sees');
is($node->safe_psql('postgres', q{SELECT note FROM turn_liveness.turn WHERE deployment = 'after'}), '', 'rows have the new column');
is($node->safe_psql('postgres', q{SELECT weight FROM turn_liveness.delivery ORDER BY reply_id LIMIT 1}),
	'7', 'what was delivered before has its default');

wait_worker($node);
$attached->quit;
is(wait_ended($node, 'attached', 'm1'), 'WORKER_DIED session', 'the end of a session that was attached before is seen');
ok( wait_until(
		'the silent ones are failed',
		sub { advance($node, '61 min'); ends($node, 'before', 'silent') && ends($node, 'before', 'never') }),
	'the worker goes on too');
is(ends($node, 'before', 'silent') . ', ' . ends($node, 'before', 'never'),
	'WORKER_UNRESPONSIVE sweep, WORKER_NEVER_STARTED sweep', 'turns from before have their end');
is(ends($node, 'before', 'answered'), 'answer reply', 'one each');
$gateway->quit;

# --- SQL that is older than the library: a hint, no crash

my %older = (
	'no index' => sub { $_[0] =~ s/CREATE INDEX delivery_parked .*?;// },
	'no column' => sub { $_[0] =~ s/^\tlast_update\s+bigint,?[^\n]*\n(?=\tPRIMARY KEY \(message_id, deployment\))//m },
	'no statistics' => sub { $_[0] =~ s/OUT worker_starts bigint,// && $_[0] =~ s/s\.worker_starts, // && $_[0] =~ s/^COMMENT ON COLUMN turn_liveness\.stat\.worker_starts.*\n//m },
	'no label' => sub { $_[0] =~ s/'lost', 'stale', 'unknown'/'stale', 'unknown'/ },
	'no table' => sub {
		$_[0] =~ s/^SELECT pg_extension_config_dump\('turn_liveness\.late_reply'.*\n//m
		  && ($_[0] .= "DROP TABLE turn_liveness.late_reply CASCADE;\n");
	},
);
my %repair = (
	'no index' => q{CREATE INDEX delivery_parked ON turn_liveness.delivery (platform, parked_until) WHERE parked_until IS NOT NULL},
	'no column' => 'ALTER TABLE turn_liveness.turn ADD last_update bigint',
	'no label' => q{ALTER TYPE turn_liveness.election ADD VALUE 'lost' BEFORE 'stale'},
	'no table' => join("\n", $script =~ /^(CREATE TABLE turn_liveness\.late_reply \(.*?^\);|CREATE INDEX late_reply_[^;]*;|CREATE VIEW turn_liveness\.late_replies [^;]*;|SELECT pg_extension_config_dump\('turn_liveness\.late_reply'[^;]*;)$/msg),
);
my @calls = (
	q{turn_liveness.arm_turn('d', 'm1', admission => '20 d', silence => '20 d', duration => '20 d')}, q{turn_liveness.arm_turn('d', 'm2')}, q{turn_liveness.heartbeat('d')},
	q{turn_liveness.start_turn('d', 'm1')}, q{turn_liveness.post_update('d', 'm1', '{}')}, q{turn_liveness.suspend_turn('d', 'm1', '1 h')},
	q{turn_liveness.resume_turn('d', 'm1')}, q{turn_liveness.rescue_turns()}, q{turn_liveness.get_turn('d', 'm1')},
	q{turn_liveness.heartbeat('d', '{m1}')}, q{turn_liveness.has_live_turn('d', 'm1')}, q{turn_liveness.mark_provider_failed('d', 'c', 'r')},
	q{turn_liveness.clear_provider_failed('d')}, q{turn_liveness.attach_worker('other')}, q{turn_liveness.detach_worker('other')},
	q{turn_liveness.sweep_expired_turns()}, q{turn_liveness.commit_terminal_reply('d', '{m2}', '{}')},
	q{turn_liveness.commit_terminal_reply('d', '{m2}', '{"late": 1}')}, q{turn_liveness.commit_terminal_reply('d', '{m3}', '{}')},
	q{turn_liveness.read_replies('{d}')}, q{turn_liveness.claim_replies('gw', '{d}')}, q{turn_liveness.ack_replies('gw', '{1}')},
	q{turn_liveness.release_replies('gw', '{2}')}, q{turn_liveness.retry_dead_reply(1)}, q{turn_liveness.reject_turn('d', 'm4', '{}', 'x')},
	q{turn_liveness.discharge_turn('d', 'm5')}, q{turn_liveness.fail_deployment('none')}, q{count(s) FROM turn_liveness.stat s},
	q{count(t.deadline) FROM turn_liveness.turns t}, q{count(r) FROM turn_liveness.replies r}, q{turn_liveness.stat_reset()},
);
foreach my $lack (sort keys %older)
{
	my $old = $script;
	my $db = $lack =~ s/ /_/r;
	ok($older{$lack}->($old), "$lack: a script of an older version");
	script($db, $old);
	script("$db--$version", ($repair{$lack} // 'SELECT 1') . ';');
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE EXTENSION turn_liveness VERSION '$db'");
	$node->safe_psql($db,
		q{CREATE FUNCTION public.tl_advance(interval) RETURNS void AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT});

	my %seen;
	my $hints = 0;
	my @other;
	foreach my $call (@calls)
	{
		my ($result, $stdout, $stderr) =
		  $node->psql($db, "SELECT $call", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
		next if $result == 0;
		if ($stderr =~ /ERROR:  55000:/ && $stderr =~ /HINT: .*ALTER EXTENSION turn_liveness UPDATE/) { $hints++ }
		else { push @other, "$call: $stderr" }
	}
	is("@other", '', "$lack: each call is served or refused with a hint");
	# only retention needs that index
	cmp_ok($hints, '>', 0, "$lack: some are refused ($hints)") if $lack ne 'no index';

	if ($lack eq 'no index')
	{
		my $start = -s $node->logfile;
		wait_worker($node, $db);
		ok( wait_until(
				'the worker complains',
				sub {
					$node->safe_psql($db, q{SELECT public.tl_advance('2 min')});
					slurp_file($node->logfile, $start) =~ /turn_liveness worker.*delivery_parked.*does not exist.*\n.*HINT: .*CREATE INDEX delivery_parked/;
				}),
			"$lack: the worker gives the hint in the log");
	}
	next unless $repair{$lack};

	my $owed = $node->safe_psql($db, 'SELECT count(*) FROM turn_liveness.turn WHERE outcome IS NULL');
	is($node->psql($db, "ALTER EXTENSION turn_liveness UPDATE TO '$version'"), 0, "$lack: the update");
	is($node->safe_psql($db, 'SELECT count(*) FROM turn_liveness.turn WHERE outcome IS NULL'), $owed, "$lack: keeps $owed turns");
	wait_worker($node, $db);
	is( $node->safe_psql($db,
			q{SELECT turn_liveness.arm_turn('u', 'm1'), turn_liveness.heartbeat('u'), turn_liveness.commit_terminal_reply('u', '{m1}', '{}'), turn_liveness.commit_terminal_reply('u', '{m1}', '{"late": 1}')}),
		'armed|1|won|lost', "$lack: then all is well");
	$node->safe_psql($db, q{SELECT turn_liveness.arm_turn('u', 'm2', admission => '1ms', silence => '1ms')});
	ok($node->poll_query_until($db, q{SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = 'u' AND outcome = 'e'}),
		"$lack: and the worker sweeps");
}

# --- SQL that is newer than the library: the server was not restarted

script("$version--early", q{
CREATE TABLE turn_liveness.early ();
CREATE FUNCTION turn_liveness.early() RETURNS integer AS 'MODULE_PATHNAME', 'turn_liveness_early' LANGUAGE C;
});
$node->safe_psql('postgres', 'CREATE DATABASE early');
add_extension($node, 'early');
$node->safe_psql('early', q{SELECT turn_liveness.arm_turn('u', 'm1')});
($result, $stdout, $stderr) = $node->psql('early', "ALTER EXTENSION turn_liveness UPDATE TO 'early'");
like($stderr, qr/ERROR:  could not find function "turn_liveness_early"/, 'an update before the restart fails');
is($node->safe_psql('early', q{SELECT extversion, to_regclass('turn_liveness.early') IS NULL FROM pg_extension WHERE extname = 'turn_liveness'}),
	"$version|t", 'and changes nothing');
is($node->safe_psql('early', q{SELECT turn_liveness.heartbeat('u'), turn_liveness.commit_terminal_reply('u', '{m1}', '{}')}), '1|won', 'all goes on');

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$node->stop;
done_testing();
