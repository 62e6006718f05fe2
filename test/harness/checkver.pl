#!/usr/bin/perl
#
# The version lives in turn_liveness.control; hold the other places to it, and
# META.json to what PGXN asks for (meta-spec 1.0.0). Run from the top directory.

use strict;
use warnings;
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
is($meta->{'meta-spec'}{version}, '1.0.0', 'META.json: meta-spec');
for my $key (qw(name abstract maintainer license))
{
	ok($meta->{$key}, "META.json: $key");
}
for my $key (qw(file docfile))
{
	my $file = $meta->{provides}{turn_liveness}{$key} // '';
	ok($file ne '' && -e $file, "META.json: provides $key exists ($file)");
}

done_testing();
