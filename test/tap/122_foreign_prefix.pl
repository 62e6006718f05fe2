# The files of the extension in a directory of their own, as the image
# "extension" of src/packaging/Containerfile holds them: a server of 18 or later
# that is told the directory preloads the library, starts the worker and creates
# the extension from there.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my ($version) = `pg_config --version` =~ /(\d+)/;
plan skip_all => "PostgreSQL $version has no extension_control_path" if $version < 18;

# What the image's COPY lines take, from where "make install" has put it
my $containerfile = slurp_file("$FindBin::RealBin/../../src/packaging/Containerfile");
my %copied = $containerfile =~ m{^COPY --from=build /out(/usr/\S+/) /(\S+)/$}mg;
my %place = (
	'/usr/lib/postgresql/${PG_MAJOR}/lib/' => '--pkglibdir',
	'/usr/share/postgresql/${PG_MAJOR}/extension/' => '--sharedir');
is(join(' ', sort values %copied), 'lib share/extension', 'the image has two directories');

my $image = PostgreSQL::Test::Utils::tempdir;
my $installed = defined $ENV{TL_TMP} ? "$ENV{TL_TMP}/inst" : '';
foreach my $from (sort keys %copied)
{
	chomp(my $dir = `pg_config $place{$from}`);
	$dir .= '/extension' if $place{$from} eq '--sharedir';
	system_or_bail('mkdir', '-p', "$image/$copied{$from}");
	system_or_bail('cp', '-R', glob("$installed$dir/turn_liveness*"), "$image/$copied{$from}");
}

my $node = new_node('main', qq{
extension_control_path = '$image/share:\$system'
dynamic_library_path = '$image/lib:\$libdir'
});
like(slurp_file("/proc/$_/maps"), qr{ \Q$image\E/lib/turn_liveness\.so$}m, 'the library is loaded from there')
  foreach worker_pid($node);

$node->safe_psql('postgres', q{
SELECT turn_liveness.arm_turn('d', 'm1'), turn_liveness.start_turn('d', 'm1', 'worker-a')});
no_pauses($node);
advance($node, '70 s');
is(wait_ended($node, 'd', 'm1'), 'WORKER_UNRESPONSIVE sweep', 'a turn whose worker falls silent fails');

$node->restart;
wait_worker($node);
is($node->safe_psql('postgres', q{SELECT turn_liveness.arm_turn('d', 'm1')}),
	'answered', 'the server restarts with it');

# Without the paths there is none.
$node->stop;
$node->append_conf('postgresql.conf', "extension_control_path = '\$system'\ndynamic_library_path = '\$libdir'");
chomp(my $libdir = `pg_config --pkglibdir`);
SKIP:
{
	skip 'the library is installed in this server too', 1 if -e "$libdir/turn_liveness.so";
	is($node->start(fail_ok => 1), 0, 'and does not without the paths');
}

done_testing();
