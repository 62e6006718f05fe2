# What the README says of the settings, sentence by sentence; and its table
# against pg_settings, both ways.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use TurnLiveness;

my $readme = slurp_file("$FindBin::RealBin/../../README.md");
my ($part) = $readme =~ /^## Settings\n(.*?)^## /ms;
$part =~ s/\x{e2}\x{80}\x{93}/-/g;    # an en dash, in bytes

# --- the table and the server

my %ms = (ms => 1, s => 1000, min => 60_000, h => 3_600_000, d => 86_400_000);
my %kb = (kB => 1, MB => 1024);
my $longest = 2**31 - 1;

# A value of the table as pg_settings has it; a size or a time has the unit that it names.
sub plain
{
	my ($text, $unit) = @_;
	$text =~ s/[`,]//g;
	return $text unless $text =~ /^([\d.]+) ?(\w*)$/;
	my ($number, $suffix) = ($1, $2);
	return $number if $suffix eq '';
	return $number * $ms{$suffix} if $unit eq 'ms' && $ms{$suffix};
	return $number * $kb{$suffix} if $unit eq 'kB' && $kb{$suffix};
	return "$text is no $unit";
}

my $node = new_node('main', q{
turn_liveness.log_failures = on
turn_liveness.retention = '9 d'
});
my %server;
foreach my $line (split /\n/, $node->safe_psql('postgres', q{
SELECT substr(name, 15), boot_val, coalesce(unit, ''), context, vartype, coalesce(min_val, ''), coalesce(max_val, '')
FROM pg_settings WHERE name LIKE 'turn\_liveness.%'}))
{
	my ($name, @row) = split /\|/, $line, -1;
	@{ $server{$name} }{qw(default unit context type min max)} = @row;
}
my %readme;
while ($part =~ /^\| `(\w+)` \| (.*?) ?\| (.*?) ?\| (.*?) \|$/mg)
{
	die "$1 stands there twice" if $readme{$1};
	@{ $readme{$1} }{qw(default range text)} = ($2, $3, $4);
}
is(join(',', sort keys %readme), join(',', sort keys %server), 'every setting is in the table, and nothing else');
foreach my $name (sort keys %readme)
{
	my ($said, $has) = ($readme{$name}, $server{$name});

	next unless $has;
	my ($default, $unit) = ($has->{default}, $has->{unit});

	# the texts are too long for the table
	$default = '' if $name =~ /^message_/;
	is(plain($said->{default}, $unit), $default, "$name: the default");
	is($has->{context}, $said->{text} =~ /^\*\*restart\.\*\*/ ? 'postmaster' : 'superuser', "$name: who may set it, and when");
	if ($has->{type} eq 'bool')
	{
		is($said->{range}, '', "$name: on or off");
		next;
	}
	if ($has->{type} eq 'string')
	{
		like($said->{range}, qr/^(?:not empty|0 - 63 bytes)$/, "$name: a text");
		next;
	}
	my ($min, $max) = $said->{range} =~ /^([\d,]+(?: \w+)?) -(?: ([\d,]+(?: \w+)?))?$/ or fail("$name: a range");
	is(plain($min, $unit), $has->{min}, "$name: the least");
	is(defined $max ? plain($max, $unit) : $longest, $has->{max}, "$name: the most");
	is($unit, $said->{default} =~ / (?:kB|MB)$/ ? 'kB' : $said->{default} =~ / (?:ms|s|min|h|d)$/ ? 'ms' : '', "$name: the unit");
}
cmp_ok($longest, '>=', 24 * $ms{d}, 'the most is 24 days');
cmp_ok($longest, '<', 25 * $ms{d}, 'and no more');
is($node->safe_psql('postgres', 'SET turn_liveness.turn_deadline = 1500; SHOW turn_liveness.turn_deadline'),
	'1500ms', 'a bare number is milliseconds');
is($node->safe_psql('postgres', 'SET turn_liveness.max_reply_size = 15; SHOW turn_liveness.max_reply_size'),
	'15kB', 'of a size it is kB');

# --- which role may set

$node->safe_psql('postgres', 'CREATE ROLE setter LOGIN; CREATE ROLE other LOGIN; GRANT SET ON PARAMETER turn_liveness.turn_deadline TO setter');
is($node->safe_psql('postgres', q{SET turn_liveness.turn_deadline = '5s'; SHOW turn_liveness.turn_deadline}, extra_params => [ '-U', 'setter' ]),
	'5s', 'a role that was granted SET ON PARAMETER sets that one');
isnt($node->psql('postgres', q{SET turn_liveness.sweep = off}, extra_params => [ '-U', 'setter' ]), 0, 'and no other');
isnt($node->psql('postgres', q{SET turn_liveness.turn_deadline = '5s'}, extra_params => [ '-U', 'other' ]), 0, 'nobody else does');

# --- when they are read

$node->safe_psql('postgres', q{
SET turn_liveness.admission_deadline = '7 min'; SET turn_liveness.turn_deadline = '6 min'; SET turn_liveness.max_turn_duration = '8 min';
SELECT turn_liveness.arm_turn('armed', 'm1');
RESET turn_liveness.admission_deadline; RESET turn_liveness.turn_deadline; RESET turn_liveness.max_turn_duration;
SELECT turn_liveness.arm_turn('armed', 'm2')});
is($node->safe_psql('postgres', q{SELECT string_agg(concat_ws(' ', message_id, admission_ms / 1000, silence_ms / 1000, duration_ms / 1000), ', ' ORDER BY 1) FROM turn_liveness.turn WHERE deployment = 'armed'}),
	'm1 420 360 480, m2 180 60 14400', 'times of a turn are read when it is armed, in the session that arms');

# What the worker does goes by its own settings, whatever the session has.
is($node->safe_psql('postgres', q{
SET turn_liveness.sweep = off; SET turn_liveness.message_never_started = 'mine';
SELECT turn_liveness.arm_turn('session', 'm', admission => '1ms', silence => '1ms')}), 'armed', 'a session with settings of its own');
is(wait_ended($node, 'session', 'm'), 'WORKER_NEVER_STARTED sweep', 'the worker sweeps by its own');
is($node->safe_psql('postgres', q{SELECT payload->>'error' FROM turn_liveness.replies WHERE deployment = 'session'}),
	$server{message_never_started}{default}, 'with its own text');
foreach my $change (
	[ 'postgresql.conf', sub { $node->append_conf('postgresql.conf', "turn_liveness.message_never_started = '$_[0]'"); $node->reload } ],
	[ 'ALTER SYSTEM', sub { $node->safe_psql('postgres', "ALTER SYSTEM SET turn_liveness.message_never_started = '$_[0]'"); $node->reload } ],
	[ 'ALTER DATABASE', sub { $node->safe_psql('postgres', "ALTER DATABASE postgres SET turn_liveness.message_never_started = '$_[0]'") } ])
{
	my ($how, $code) = @$change;

	# turns that lapse one after the other tell when it changed
	in_time(
		$node, 1, 8,
		"$how: a running worker takes it up within a second",
		sub {
			my ($round) = @_;
			my $text = "by $how, $round";
			my $n = 0;
			my $start = time;
			$code->($text);
			wait_until(
				"a new text $text",
				sub {
					my $d = "$text " . ++$n;
					arm($node, $d, 'm', q{admission => '1ms', silence => '1ms'});
					wait_ended($node, $d, 'm');
					return $node->safe_psql('postgres', "SELECT payload->>'error' FROM turn_liveness.replies WHERE deployment = '$d'") eq $text;
				}) or die 'the new text does not come';
			return time - $start;
		});
}

# --- a pair that contradicts itself

my $log = slurp_file($node->logfile);
# (ALTER DATABASE brought other workers)
my @said_by = $log =~ /\[(\d+)\] turn_liveness worker LOG:  "turn_liveness.undelivered_retention" is shorter than "turn_liveness.retention", using the longer time/g;
my %once = map { $_ => 1 } @said_by;
cmp_ok(scalar @said_by, '>', 0, 'undelivered_retention below retention is logged');
is(scalar @said_by, scalar keys %once, 'once by a worker');
my $start = -s $node->logfile;
$node->safe_psql('postgres', q{
SET turn_liveness.max_turn_duration = '1 min';
SELECT turn_liveness.arm_turn('pair', m) FROM unnest('{m1,m2,m3}'::text[]) m});
$log = slurp_file($node->logfile, $start);
is(scalar(() = $log =~ /"turn_liveness.max_turn_duration" is shorter than "turn_liveness.admission_deadline", using the longer time/g),
	1, 'max_turn_duration below a deadline is logged once in a session');
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT duration_ms::text, ',') FROM turn_liveness.turn WHERE deployment = 'pair'}),
	'180000', 'and the longer time holds');

# --- memory

my %memory = map { split /\|/ } split /\n/,
  $node->safe_psql('postgres', q{SELECT name, allocated_size FROM pg_shmem_allocations WHERE name LIKE 'turn_liveness%'});
my ($database) = $readme{database_capacity}{text} =~ /(\d+) kB each/;
my $sum = 0;
$sum += $_ foreach values %memory;
my ($all) = $part =~ /All shared memory of the extension takes\s+(\d+) MB at the defaults/;
my ($leases) = $readme{lease_capacity}{text} =~ /The default takes (\d+) MB/;
my ($attached) = $readme{attach_capacity}{text} =~ /(\d+) bytes each/;
note join ', ', map { "$_ $memory{$_}" } sort keys %memory;
cmp_ok(abs($sum / 1e6 - $all), '<', 0.75, "all of it is $all MB: $sum") or diag explain \%memory;
cmp_ok(abs($memory{'turn_liveness leases'} / 1e6 - $leases), '<', 1, "leases are $leases MB");
cmp_ok($memory{'turn_liveness leases'} / $server{lease_capacity}{default}, '<=', 72 + 1, 'at most 72 bytes for a lease');
is(int($memory{'turn_liveness'} / $server{database_capacity}{default} / 1000 + 0.5), $database, "a database is $database kB");
is(int($memory{'turn_liveness attached sessions'} / $server{attach_capacity}{default}), $attached, "attached ones are $attached bytes each");

# --- without preload

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
is($node->safe_psql('postgres', q{
SELECT turn_liveness.clock_now() IS NOT NULL;
SELECT string_agg(name, ',' ORDER BY name) FROM (SELECT unnest(string_to_array('} . join(',', sort keys %readme) . q{', ',')) AS name EXCEPT SELECT substr(name, 15) FROM pg_settings WHERE name LIKE 'turn\_liveness.%') x}),
	"t\nattach_capacity,database_capacity,lease_capacity", 'the last three exist only with preload');
my @rows = $part =~ /^\| `(\w+)` \|/mg;
is("@rows[-3 .. -1]", 'lease_capacity attach_capacity database_capacity', 'which are the last three of the table');

$node->stop;
done_testing();
