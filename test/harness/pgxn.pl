#!/usr/bin/perl
#
# pgxn.pl [ARCHIVE.zip]   (in the top directory)
#
# Holds META.json to PGXN's specification of it, version 1.0.0, and the archive
# to what PGXN wants of one. Prints a line for each breach.

use strict;
use warnings;
use JSON::PP;

my ($archive) = @ARGV;
my @against;

my $version = qr/(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?/;
my $range = qr/(?:(?:[=!]=|[<>]=?)\s*)?$version/;
my $term = qr{[^/\\\s[:cntrl:]]{2,}};
my $tag = qr{[^/\\[:cntrl:]]{2,255}};
my $uri = qr{[a-z][a-z0-9+.-]*:\S+};
my $text = qr/.+/s;
my $path = qr{(?!/)(?!(?:.*/)?\.\.(?:/|$)).+};
my $license = join '|', qw(agpl_3 apache_1_1 apache_2_0 artistic_1 artistic_2 bsd freebsd gfdl_1_2
  gfdl_1_3 gpl_1 gpl_2 gpl_3 lgpl_2_1 lgpl_3_0 mit mozilla_1_0 mozilla_1_1 openssl perl_5 postgresql
  qpl_1_0 ssleay sun zlib open_source restricted unrestricted unknown);

# What each part may be: a pattern of a text; a function that judges a text; an
# object with these keys, "!" before one that must be there; [hash => rule of the
# keys, rule of the values]; [list => rule], and with "or list" one such value
# too; [either => rule of a text or a list, rule of an object].
my $prereqs = [ hash => $term, sub { $_[0] eq '0' || $_[0] =~ /^$range(?:,\s*$range)*$/ } ];
my %phase = map { $_ => $prereqs } qw(requires recommends suggests conflicts);
my %rule = (
	'!name' => $term,
	'!version' => $version,
	'!abstract' => $text,
	'!maintainer' => [ 'or list' => $text ],
	'!license' => [ either => [ 'or list' => qr/$license/ ], [ hash => $text, $uri ] ],
	'!provides' => [ hash => $term,
		{ '!file' => $path, '!version' => $version, abstract => $text, docfile => $path } ],
	'!meta-spec' => { '!version' => qr/1\.0\.\d+/, url => qr{https?://pgxn\.org/meta/spec\.txt} },
	description => $text,
	generated_by => $text,
	release_status => qr/stable|testing|unstable/,
	tags => [ list => $tag ],
	no_index => { file => [ 'or list' => $path ], directory => [ 'or list' => $path ] },
	prereqs => { map { $_ => \%phase } qw(configure build test runtime develop) },
	resources => {
		homepage => $uri,
		bugtracker => { web => $uri, mailto => qr/\S+@\S+/ },
		repository => { url => $uri, web => $uri, type => qr/[a-z]+/ } });

# Whether a value keeps a rule; else the breach is noted, under the value's name.
sub keeps
{
	my ($name, $value, $rule) = @_;
	my $before = @against;

	if (ref $rule eq 'HASH')
	{
		return breach($name, 'is no object') if ref $value ne 'HASH';
		my %known = map { s/^!//r => $rule->{$_} } keys %$rule;
		foreach my $key (sort keys %$value)
		{
			next if $key =~ /^x_./i;
			if ($known{$key}) { keeps("$name.$key", $value->{$key}, $known{$key}) }
			else { breach("$name.$key", 'is not in the specification') }
		}
		/^!(.*)/ && !exists $value->{$1} && breach("$name.$1", 'is missing') foreach sort keys %$rule;
		breach($name, 'is empty') if !%$value;
	}
	elsif (ref $rule eq 'ARRAY')
	{
		my ($kind, @rules) = @$rule;
		if ($kind eq 'either')
		{
			return keeps($name, $value, $rules[ ref $value eq 'HASH' ? 1 : 0 ]);
		}
		return keeps($name, $value, $rules[0]) if $kind eq 'or list' && !ref $value;
		if ($kind eq 'hash')
		{
			return breach($name, 'is no object') if ref $value ne 'HASH';
			breach($name, 'is empty') if !%$value;
			foreach my $key (sort keys %$value)
			{
				keeps("the key $key of $name", $key, $rules[0]);
				keeps("$name.$key", $value->{$key}, $rules[1]);
			}
		}
		else
		{
			return breach($name, 'is no list') if ref $value ne 'ARRAY';
			breach($name, 'is empty') if !@$value;
			my %seen;
			$seen{$_}++ && breach($name, "has $_ twice") foreach @$value;
			keeps("$name\[$_]", $value->[$_], $rules[0]) foreach 0 .. $#$value;
		}
	}
	elsif (ref $value || !defined $value
		|| !(ref $rule eq 'CODE' ? $rule->($value) : $value =~ /^(?:$rule)$/))
	{
		breach($name, 'is not what the specification wants: ' . encode_json([$value]));
	}
	return @against == $before;
}

sub breach
{
	push @against, join(' ', @_);
	return 0;
}

# The names of an archive's files, from its directory at the end
sub names
{
	my ($zip) = @_;
	open(my $fh, '<:raw', $zip) or die "$zip: $!\n";
	my $all = do { local $/; <$fh> };
	my ($count, $at) = unpack 'x10 v x4 V', substr($all, rindex($all, "PK\5\6"));
	my @names;
	foreach (1 .. $count)
	{
		my ($name, $extra, $comment) = unpack 'x28 v v v', substr($all, $at, 46);
		push @names, substr($all, $at + 46, $name);
		$at += 46 + $name + $extra + $comment;
	}
	return @names;
}

open(my $fh, '<', 'META.json') or die "META.json: $!\n";
my $meta = eval { local $/; decode_json(<$fh>) };
keeps('META.json', $meta, \%rule) if $meta || !breach('META.json', "is no JSON: $@");

my %files;
if ($archive && !@against)
{
	my $top = "$meta->{name}-$meta->{version}";
	breach($archive, "is not called $top.zip") if $archive !~ m{(?:^|/)\Q$top\E\.zip$};
	foreach my $file (names($archive))
	{
		breach($archive, "has $file outside $top/") if $file !~ m{^\Q$top\E/};
		$files{ $file =~ s{^\Q$top\E/}{}r } = 1;
	}
	$files{$_} || breach($archive, "lacks $_") foreach qw(META.json README.md LICENSE CHANGELOG.md Makefile);
}
foreach my $extension (values %{ ref $meta eq 'HASH' && $meta->{provides} || {} })
{
	foreach my $file (grep { defined } @$extension{qw(file docfile)})
	{
		breach('META.json', "names $file, which is not there") if !-e $file;
		breach($archive, "lacks $file") if %files && !$files{$file};
	}
}

print "$_\n" foreach @against;
exit @against ? 1 : 0;
