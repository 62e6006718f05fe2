# The way out, as the README has it: its statements, in its order, each with
# what the text says of it; and nothing is left.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $top = "$FindBin::RealBin/../..";
my ($part) = slurp_file("$top/README.md") =~ /^## Uninstall\n(.*?)^## /ms;
my @blocks = $part =~ /^```sql\n(.*?)^```\n/msg;
my ($copy) = $part =~ /`(\\copy .*?)`/s;
is(scalar @blocks, 2, 'the README has two statements, which are');
like($blocks[0], qr/turn_liveness\.turns/, 'to wait by');
is($blocks[1], "DROP EXTENSION turn_liveness;\n", 'and to drop');

my $node = new_node('main', q{
turn_liveness.turn_deadline = '50s'
turn_liveness.lease_capacity = 1000
});
$node->safe_psql('postgres', 'CREATE DATABASE second; CREATE ROLE gateway LOGIN; ALTER DATABASE second SET turn_liveness.sweep = off');
add_extension($node, 'second');
foreach my $db (qw(postgres second))
{
	$node->safe_psql($db, 'DROP FUNCTION public.tl_advance');
	$node->safe_psql($db, q{
SELECT turn_liveness.grant_gateway('gateway');
SELECT turn_liveness.arm_turn('d', m, '{"conversationId": "c"}') FROM unnest('{m1,m2}'::text[]) m;
SELECT turn_liveness.commit_terminal_reply('d', '{m1}', '{"content": "42, \"and more\""}');
CREATE TABLE public.job (id integer PRIMARY KEY);
INSERT INTO public.job VALUES (1)});
}
my $dir = $node->basedir;
$node->command_ok([ 'pg_dump', '-f', "$dir/before.sql", 'postgres' ], 'a dump from before');

# --- what is still owed

is($node->safe_psql('postgres', $blocks[0]), '1', 'one turn is still owed');
$node->safe_psql($_, q{SELECT turn_liveness.fail_turn(deployment, message_id, 'We are closing.') FROM turn_liveness.turns}) foreach qw(postgres second);
is($node->safe_psql('postgres', $blocks[0]), '0', 'the rest is failed');

# --- the records

chdir $dir;
$node->safe_psql('postgres', $copy);
my $csv = slurp_file("$dir/replies.csv");
like($csv, qr/\Areply_id,deployment,message_ids,/, 'the records are kept, with a header');
is(scalar(() = $csv =~ /^\d+,d,\{m\d\},c,/mg), 2, 'all of them');
chdir $FindBin::RealBin;

# --- DROP EXTENSION waits for the sessions that use the tables, a dump included

my $dump = session($node);
$dump->query_safe('BEGIN; LOCK TABLE turn_liveness.turn, turn_liveness.reply IN ACCESS SHARE MODE');    # as pg_dump does
my $drop = session($node);
my $pid = backend_pid($drop);
$drop->{stdin} .= $blocks[1] . "\\echo dropped\n";
$drop->{run}->pump_nb;
ok($node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid"),
	'DROP EXTENSION waits for a running pg_dump');
$dump->query_safe('COMMIT');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_extension WHERE extname = 'turn_liveness'}), 'and then drops');
$node->safe_psql('second', $blocks[1]);
$_->quit foreach $dump, $drop;

foreach my $db (qw(postgres second))
{
	is( $node->safe_psql($db, q{
SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'turn_liveness'), (SELECT count(*) FROM pg_proc WHERE probin LIKE '%turn_liveness%'),
	(SELECT count(*) FROM pg_class WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace)), (SELECT count(*) FROM pg_shdepend WHERE refobjid = 'gateway'::regrole AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))}),
		'0|0|0|0', "$db: nothing of it is left in the catalogs");
	is($node->safe_psql($db, 'SELECT count(*) FROM public.job'), '1', "$db: everything else is");
}
ok( $node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'turn_liveness worker'}),
	'no worker runs any more');
$node->safe_psql('postgres', 'DROP ROLE gateway');
pass('a role that had been granted something can be dropped');

# --- dumps

$node->command_ok([ 'pg_dump', '-f', "$dir/after.sql", 'postgres' ], 'a dump from afterwards');
unlike(slurp_file("$dir/after.sql"), qr/turn_liveness/, 'knows nothing of it');
like(slurp_file("$dir/before.sql"), qr/^CREATE EXTENSION IF NOT EXISTS turn_liveness /m, 'one from before creates it');
like(slurp_file("$dir/before.sql"), qr/^COPY turn_liveness\.turn /m, 'and has its data');

# --- preload and settings, restart

my $conf = slurp_file($node->data_dir . '/postgresql.conf');
$conf =~ s/^shared_preload_libraries.*\n//mg;
$conf =~ s/^turn_liveness\..*\n//mg;
# what the harness needs to find the files: they are gone, too
$conf =~ s/^(?:extension_destdir|dynamic_library_path|extension_control_path).*\n//mg;
unlike($conf, qr/turn_liveness/, 'the configuration file has nothing of it any more');
open my $file, '>', $node->data_dir . '/postgresql.conf' or die $!;
print $file $conf;
close $file;
$node->safe_psql('postgres', 'ALTER DATABASE second RESET turn_liveness.sweep');
$node->stop;
my $log_start = -s $node->logfile;
$node->start;
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'turn_liveness%'}), '0', 'no process of it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_shmem_allocations WHERE name LIKE 'turn_liveness%'}), '0', 'no memory');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name LIKE 'turn\_liveness.%'}), '0', 'no setting');
is($node->safe_psql($_, 'SELECT count(*) FROM public.job'), '1', "$_ is as it was") foreach qw(postgres second);
unlike(slurp_file($node->logfile, $log_start), qr/turn_liveness|ERROR|FATAL/, 'and nobody misses it');

$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/after.sql", 'restored' ], 'the later dump can be restored');
SKIP:
{
	skip 'the extension is installed in this server', 1 if -e $node->config_data('--sharedir') . '/extension/turn_liveness.control';
	$node->command_checks_all([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/before.sql", 'restored' ],
		3, [qr/^/], [qr/extension "turn_liveness" is not available|could not open extension control file/], 'the earlier one only where the extension is installed');
}
$node->stop;

# --- make uninstall, of a copy of its own

my $root = "$dir/root";
my @make = ('make', '-s', '-C', $top, 'PG_CONFIG=' . ($ENV{TL_PG_CONFIG} // 'pg_config'), "DESTDIR=$root", 'with_llvm=no');
{
	local %ENV = %ENV;
	delete @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES)};
	command_ok([ @make, 'install' ], 'make install');
	my @files = grep { -f } split /\n/, `find $root -name '*turn_liveness*'`;
	cmp_ok(scalar @files, '>=', 3, 'installs: ' . join ', ', map { s/.*\///r } @files);
	command_ok([ @make, 'uninstall' ], 'make uninstall');
	is(`find $root -type f`, '', 'removes every file');
}

done_testing();
