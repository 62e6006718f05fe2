#!/usr/bin/perl
#
# run.pl [NAME...]
#
# Break the C code on purpose, one line at a time, and see the tests catch it.
#
# Each file *.mutant here says what it breaks, changes one place of one source
# file, and names the tests that must fail then, the fastest first:
#
#	# What goes wrong for whom.
#	--- src/rules/deadline.c
#	-what stands there now, once in the file: a part of a line, or whole lines
#	+what stands there instead
#	tests: sql/deadline.sql test/isolation/specs/order.spec
#
# The harness has copied the tree and built it.  As many copies as there are
# processors are made of that; in each, one mutant after the other is built (one
# object file) and tested by the suites of "make test".  Before that the same
# tests run on the unchanged code, where they must pass.
#
# A mutant that its tests do not catch has survived, which is a failure, as is
# one that does not fit the sources any more, or does not compile.  The last
# line says "N passed, N failed".

use strict;
use warnings;
use Cwd qw(getcwd);
use File::Basename qw(basename);
use Time::HiRes qw(time);

# seconds: for one mutant; and for what a test waits that a mutant makes wait in vain
use constant { ENOUGH => 400, PATIENCE => 40 };

my $tmp = $ENV{TL_TMP} or die "start it by \"make mutants\"\n";
my $top = getcwd();
my @make = ('make', '-s', "PG_CONFIG=$ENV{TL_PG_CONFIG}", 'with_llvm=no');

sub slurp
{
	my ($name) = @_;
	open(my $file, '<', $name) or die "$name: $!\n";
	local $/;
	return scalar <$file>;
}

sub spew
{
	my ($name, $text) = @_;
	open(my $file, '>', $name) or die "$name: $!\n";
	print $file $text;
	close($file) or die "$name: $!\n";
	return;
}

# --- the mutants

sub read_mutant
{
	my ($path) = @_;
	my $text = slurp($path);
	my %mutant = (name => basename($path, '.mutant'), error => '');

	($mutant{file}) = $text =~ /^--- (.+)/m;
	# lines that stand next to each other, however they are indented
	$mutant{old} = join('\s+', map { quotemeta } $text =~ /^-(?!--)\s*(.+)/mg) || undef;
	($mutant{new}) = $text =~ /^\+\s*(.*)/m;
	($mutant{tests}) = $text =~ /^tests: (.+)/m;
	if (grep { !defined $mutant{$_} } qw(file old new tests))
	{
		$mutant{error} = 'it lacks its file, a line before, one after, or its tests';
	}
	elsif (!-e $mutant{file})
	{
		$mutant{error} = "there is no $mutant{file}";
	}
	else
	{
		my $times = () = slurp($mutant{file}) =~ /$mutant{old}/g;
		$mutant{error} = "what it changes stands $times times in $mutant{file}" if $times != 1;
		my @missing = grep { !-e } split ' ', $mutant{tests};
		$mutant{error} = "there is no @missing" if @missing;
	}
	return \%mutant;
}

my @paths = @ARGV ? map { "test/mutants/$_.mutant" } @ARGV : sort glob('test/mutants/*.mutant');
my @mutants = map { read_mutant($_) } @paths;
my %tests = map { $_->{tests} => 1 } grep { !$_->{error} } @mutants;
my @unchanged = map { { name => 'unchanged', error => '', tests => $_ } } sort keys %tests;

# --- the copies

sub run
{
	my ($log, @command) = @_;
	my $pid = fork() // die "fork: $!\n";

	if ($pid == 0)
	{
		open(STDOUT, '>>', $log) or die "$log: $!\n";
		open(STDERR, '>&', \*STDOUT) or die "$log: $!\n";
		exec(@command) or exit 127;
	}
	waitpid($pid, 0);
	return $?;
}

# A copy of the tree, with its objects, and of what is installed, beside it.
sub make_lane
{
	my ($number) = @_;
	my $lane = "$tmp/lane$number";

	mkdir $lane or die "$lane: $!\n";
	run("$lane/copy.log", 'cp', '-a', $top, "$tmp/inst", $lane) == 0
	  or die slurp("$lane/copy.log");
	spew("$lane/temp.conf", slurp($ENV{TL_CONF}) =~ s/\Q$tmp\E\/inst/$lane\/inst/gr);
	return $lane;
}

sub build
{
	my ($lane) = @_;
	my $status = run("$lane/log", @make, '-C', "$lane/tree", 'all');

	return $status == 0 &&
	  run("$lane/log", @make, '-C', "$lane/tree", 'install', "DESTDIR=$lane/inst") == 0;
}

# Which test files failed, from what the suites print; and how many tests did.
sub failures
{
	my ($log) = @_;
	my $suite = '';
	my @failed;
	my $count;

	foreach my $line (split /\n/, slurp($log))
	{
		$suite = $1 if $line =~ /^=== (\w+)/;
		push @failed, "$suite $1"
		  if $line =~ /^(?:test|   ) +(\S+) +\.\.\. (?:FAILED|failed)/ ||
		  $line =~ /^not ok \d+ +[-+] (\S+)/ ||
		  $line =~ m{^test/\w+/(\S+)\.(?:pl|sql) +\(Wstat};
		$count = $1 if $line =~ /^\d+ passed, (\d+) failed/;
	}
	return ($count, @failed);
}

sub verdict
{
	my ($lane, $mutant, $i) = @_;
	my $file = defined $mutant->{file} ? "$lane/tree/$mutant->{file}" : undef;
	my ($was, $status, $count, @failed);

	return ('error', $mutant->{error}) if $mutant->{error};
	unlink "$lane/log";
	if ($file)
	{
		$was = slurp($file);
		spew($file, $was =~ s/$mutant->{old}/$mutant->{new}/r);
	}
	if (build($lane))
	{
		chdir "$lane/tree" or die $!;
		local $ENV{TL_TMP} = $lane;
		local $ENV{TL_CONF} = "$lane/temp.conf";
		local $ENV{TESTS} = $mutant->{tests};
		local $ENV{PROVE_FLAGS} = '-j1';
		local $ENV{PG_TEST_TIMEOUT_DEFAULT} = $file ? PATIENCE : 180;
		local $ENV{PGISOLATIONTIMEOUT} = $file ? PATIENCE / 4 : 60;
		$status = run("$lane/log", 'timeout', '-k', 10, ENOUGH, 'bash', 'test/harness/inside.sh', 'test');
		($count, @failed) = failures("$lane/log");
	}
	spew($file, $was) if $file;
	run("$lane/keep.log", 'cp', "$lane/log", "$tmp/$i.log");
	return ('error', 'it does not compile') if !defined $status;
	return ('error', 'no verdict in time') if !defined $count;
	return ($count > 0 ? 'caught' : 'passed', join(', ', @failed) || "$count tests");
}

# --- all of them: the unchanged code first

my @todo = (@unchanged, @mutants);
my $lanes = $ENV{JOBS} || `nproc`;
$lanes = @todo if $lanes > @todo;
pipe(my $tickets, my $counter) or die "pipe: $!\n";
pipe(my $results, my $report) or die "pipe: $!\n";
syswrite($counter, pack('S', $_)) foreach 0 .. $#todo;
close($counter);

foreach my $number (1 .. $lanes)
{
	next if fork() // die "fork: $!\n";
	close($results);
	my $lane = make_lane($number);
	# a read of the pipe gets all of one number
	while (sysread($tickets, my $ticket, 2))
	{
		my $i = unpack('S', $ticket);
		my $start = time();
		my ($verdict, $why) = eval { verdict($lane, $todo[$i], $i) };

		($verdict, $why) = ('error', $@ =~ s/\n.*//sr) if $@;
		syswrite($report, sprintf("%d\t%s\t%.0f\t%s\n", $i, $verdict, time() - $start, $why));
		chdir $top or die $!;
	}
	exit 0;
}
close($report);

my %count = (caught => 0, passed => 0);
while (my $line = <$results>)
{
	chomp $line;
	my ($i, $verdict, $seconds, $why) = split /\t/, $line, 4;
	my ($name, $tests) = @{ $todo[$i] }{qw(name tests)};

	if ($i < @unchanged)
	{
		$count{passed} += $verdict eq 'passed';
		next if $verdict eq 'passed';
		$verdict = 'error' if $verdict eq 'caught';
		$why = "without a mutant: $why of $tests";
	}
	elsif ($verdict eq 'passed')
	{
		$verdict = 'SURVIVED';
		$why = "not caught by $tests";
	}
	$count{$verdict}++;
	printf "%-8s %-26s %4d s  %s\n", $verdict, $name, $seconds, $why;
	STDOUT->flush();
	print slurp("$tmp/$i.log") if $verdict eq 'error' && -e "$tmp/$i.log";
}
1 while wait() != -1;

# what left no verdict has failed too
my $failed = @mutants - $count{caught} + @unchanged - $count{passed};
printf "# their tests pass without them: %d of %d\n", $count{passed}, scalar @unchanged;
print "$count{caught} passed, $failed failed\n";
exit($failed != 0);
