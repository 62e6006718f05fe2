#!/usr/bin/perl
#
# The version lives in turn_liveness.control; hold the other places to it. Hold the sources to the rules
# of test/README.md. Run from the top directory.

use strict;
use warnings;
use File::Basename qw(dirname);
use File::Find qw(find);
use JSON::PP;
use Test::More;

sub slurp
{
	my ($name) = @_;
	open(my $fh, '<', $name) or return undef;
	local $/;
	return scalar <$fh>;
}

my ($version) =
  slurp('turn_liveness.control') =~ /^default_version\s*=\s*'([^']+)'/m;
like($version, qr/^\d+\.\d+(\.\d+)?$/, 'turn_liveness.control has a version');

# PGXN wants three numbers, an extension's version has two.
my $semver = $version =~ /^\d+\.\d+$/ ? "$version.0" : $version;

# A version is reached by its own script or by updates from an older one.
ok( -e "sql/install/turn_liveness--$version.sql"
	  || glob("sql/install/turn_liveness--*--$version.sql"),
	"there is a script for $version");

like(slurp('CHANGELOG.md') // '',
	qr/^## \Q$version\E\b/m, "CHANGELOG.md has a heading for $version");

my $meta = eval { decode_json(slurp('META.json')) } // {};
is($@, '', 'META.json is JSON');
is($meta->{version}, $semver, 'META.json: version');
is($meta->{provides}{turn_liveness}{version},
	$semver, 'META.json: provides version');
is(`$^X test/harness/pgxn.pl`, '', 'META.json is as PGXN specifies it');
ok($meta->{provides}{turn_liveness}{docfile}, 'META.json: provides docfile');
like(slurp('src/packaging/debian/changelog'), qr/\Aturn-liveness \(\Q$semver\E-\d+\) /,
	'the version of the Debian package');

# --- the sources

# Each folder of src/ includes only from itself and from those before it;
# src/turn_liveness.c includes from all.
my @folders = qw(base rules shared store commit replies turns admin worker);
my $rank = 0;
my %rank = map { $_ => $rank++ } @folders;
my @sources = sort(glob('src/*.[ch] src/*/*.[ch]'));
my %includes;    # of a file, its header and implementation being one
my (@upward, @long, @wide, @words);

sub columns
{
	my ($line) = @_;
	1 while $line =~ s/\t/' ' x (4 - $-[0] % 4)/e;
	return length $line;
}

foreach my $file (@sources)
{
	my $folder = dirname($file) =~ s{^src/?}{}r;
	my $unit = $file =~ s/\.[ch]$//r;
	my $in_comment = 0;
	my @lines = split /\n/, slurp($file);

	push @long, "$file: " . @lines if @lines > 500;
	foreach my $n (1 .. @lines)
	{
		my $line = $lines[ $n - 1 ];

		if ($line =~ m{^#include "((\w+)/\w+)\.h"} && -e "src/$1.h")
		{
			$includes{$unit}{"src/$1"} = 1 if $unit ne "src/$1";
			push @upward, "$file:$n: $1"
			  if $folder ne '' && ($rank{$2} // 99) > ($rank{$folder} // -1);
		}
		my $is_comment = $in_comment || $line =~ m{^\s*/\*};
		$in_comment = 1 if $line =~ m{/\*(?!.*\*/)};
		$in_comment = 0 if $line =~ m{\*/\s*$};
		$is_comment ||= $line =~ m{\*/\s*$};
		push @wide, "$file:$n" if $is_comment && columns($line) > 80;
	}
}
find(
	{
		no_chdir => 1,
		wanted => sub {
			$File::Find::prune = 1 if m{/(?:results|tmp_check|node_modules|__pycache__)$};
			return unless -f && (/\.(?:c|h|js|mjs|p[lmy]|sh|spec|sql)$/ || m{/run$});
			my $lines = () = slurp($_) =~ /\n/g;
			push @long, "$_: $lines" if $lines > 500;
		}
	},
	'test', glob('sql/*.sql'));
foreach my $file (@sources, glob('src/*.md sql/install/*.sql test/gateway/*.[ch] test/bench/*.c'))
{
	my $n = 0;
	foreach my $line (split /\n/, slurp($file))
	{
		$n++;
		push @words, "$file:$n: $1" if $line =~ /\b(nobody|somebody|anybody|whoever|whom?)\b/i;
	}
}

# The files that are on a way back to themselves.
my (%state, @circles);

sub visit
{
	my ($unit, @way) = @_;
	foreach my $next (sort keys %{ $includes{$unit} // {} })
	{
		my $state = $state{$next} // '';
		my ($at) = grep { $way[$_] eq $next } 0 .. $#way;
		push @circles, join(' -> ', @way[ $at .. $#way ], $next) if $state eq 'open';
		next if $state;
		$state{$next} = 'open';
		visit($next, @way, $next);
		$state{$next} = 'done';
	}
	return;
}
foreach my $unit (sort keys %includes)
{
	next if $state{$unit};
	$state{$unit} = 'open';
	visit($unit, $unit);
	$state{$unit} = 'done';
}

sub holds
{
	my ($name, @against) = @_;
	is(join("\n", @against), '', $name);
	return;
}
cmp_ok(scalar @sources, '>', 50, 'the sources are there: ' . @sources . ' files');
holds('src/: each folder includes only from itself and those below it', @upward);
holds('src/: no files include each other in a circle', @circles);
holds('no source, script or test has more than 500 lines', @long);
holds('src/: no comment goes past column 80', @wide);
holds('each sentence has a named actor', @words);
is(`$^X test/isolation/pairs.pl --check`, '', 'the isolation specs pair_* are what test/isolation/pairs.pl writes');

done_testing();
