#!/usr/bin/env perl
#
# slices.pl POSTMASTER CORES SLICE WARM SECONDS OUT COMMAND...
# slices.pl POSTMASTER
#
# The second form prints how many microseconds of CPU the server has used, by
# processes that have ended and by those that run.
#
# The first runs the pgbench commands, each of them some shell line, at the same time, but
# lets only one of them go on: after each SLICE seconds it stops that one and
# continues another, in an order that is drawn anew in each cycle.  So their
# sessions stay warm, and a machine that gets slower gets slower for all.  After
# WARM seconds for each it counts SECONDS for each.
#
# If CORES is not 0, each command runs once on each of so many cores that this
# process may use, and its
# sessions on the same core as it: how often the kernel moves a session is
# chance, and weighs more than a short call.
#
# OUT.1.1, OUT.1.2 ... get what the commands print.  Prints a line for each:
# transactions a second in its own slices, and the microseconds of the server's
# CPU for one of them.

use strict;
use warnings;
use IO::Handle;
use List::Util qw(max min shuffle sum0);
use POSIX qw(sysconf _SC_CLK_TCK WNOHANG);
use Time::HiRes qw(sleep time);

my ($postmaster, $cores, $slice, $warm, $seconds, $out, @commands) = @ARGV;
my $tick = sysconf(_SC_CLK_TCK);
my @ways;	# each with its processes: pid, out

# Send a signal to all processes of these ways, each with its children.
sub signal
{
	my ($signal, @to) = @_;

	kill $signal, map { -$_->{pid} } map { @{ $_->{processes} } } @to;
}
# Whatever happens, no stopped process is left behind.
sub end_all
{
	signal($_, @ways) for 'TERM', 'CONT';
	waitpid $_->{pid}, 0 for map { @{ $_->{processes} } } @ways;
	@ways = ();
}
$SIG{$_} = sub { end_all(); exit 1 }
  for qw(INT TERM HUP);
END { my $status = $?; end_all(); $? = $status }

sub server_us
{
	my $us = 0;

	for my $dir (glob '/proc/[0-9]*')
	{
		open my $f, '<', "$dir/stat" or next;
		next unless (<$f> // '') =~ /^(\d+) .*\) \S (\d+) (.*)/ && ($1 == $postmaster || $2 == $postmaster);
		$us += sum0((split ' ', $3)[ 11, 12 ]) * 1e6 / $tick if $1 == $postmaster;
		$us += (split ' ', <$f>)[0] / 1000 if open $f, '<', "$dir/schedstat";
	}
	return $us;
}

if (!@commands)
{
	printf "%.0f\n", server_us();
	exit;
}

# The numbers of the cores that this process may use
sub my_cores
{
	open my $f, '<', '/proc/self/status' or die "no /proc: $!\n";
	my ($list) = map { /^Cpus_allowed_list:\s*(\S+)/ } <$f>;

	return map { /(\d+)-(\d+)/ ? $1 .. $2 : $_ } split /,/, $list;
}

# The seconds of the spans of WAY that lie between two points in time
sub active
{
	my ($way, $from, $to) = @_;

	return sum0 map { max(0, min($to, $_->[1]) - max($from, $_->[0])) } @{ $way->{spans} };
}

sub tail_of
{
	my ($process) = @_;

	return "$process->{out}: " . `tail -n 5 $process->{out}`;
}

sub start
{
	my ($command, $file, $core) = @_;
	my $pid = fork // die "cannot fork: $!\n";

	if ($pid == 0)
	{
		setpgrp;
		$ENV{PGAPPNAME} = 'core ' . ($core // 'any');
		open STDOUT, '>', $file or die;
		open STDERR, '>&', \*STDOUT or die;
		exec '/bin/bash', '-c', 'exec ' . (defined $core ? "taskset -c $core " : '') . $command or die;
	}
	return { pid => $pid, out => $file };
}

for my $i (0 .. $#commands)
{
	my @cores = $cores ? (my_cores())[ 0 .. $cores - 1 ] : undef;
	push @ways, { spans => [], us => 0, processes => [] };
	push @{ $ways[-1]{processes} },
	  start($commands[$i], join('.', $out, $i + 1, ($_ // 0) + 1), $_) for @cores;
}
# All connect before the first is stopped: the first report comes a second after
# the last session.
for my $process (map { @{ $_->{processes} } } @ways)
{
	until (`cat $process->{out} 2>&1` =~ /^progress:/m)
	{
		die tail_of($process) if waitpid($process->{pid}, WNOHANG) != 0;
		sleep 0.02;
	}
}
if ($cores)
{
	for (`psql -X -q -A -t -c "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'core %'"`)
	{
		/^(\d+)\|core (\d+)$/ && system("taskset -cp $2 $1 >/dev/null") == 0 or die "cannot give a session its core: $_";
	}
}
signal('STOP', @ways);

my $counted;
for my $part ([ 0, $warm ], [ 1, $seconds ])
{
	my ($count, $each) = @$part;
	$counted = time;
	for (1 .. $each / $slice + 0.5)
	{
		for my $way (shuffle @ways)
		{
			my $us = server_us();
			signal('CONT', $way);
			my $from = time;
			sleep $slice;
			signal('STOP', $way);
			push @{ $way->{spans} }, [ $from, time ];
			$way->{us} += server_us() - $us if $count;
		}
	}
}
# What a process has counted it says with the time: what lies between its first
# report since and its last.
for my $way (@ways)
{
	my $all = 0;
	for my $process (@{ $way->{processes} })
	{
		die 'a command ended early: ' . tail_of($process) if waitpid($process->{pid}, WNOHANG) != 0;
		open my $f, '<', $process->{out} or die;
		my ($first, $last, $n);
		while (<$f>)
		{
			my ($at, $tps) = /^progress: ([\d.]+) s, ([\d.]+) tps/ or next;
			next if $at < $counted;
			$n += $tps * ($at - $last) if $last;
			$first //= $at;
			$last = $at;
		}
		die "$process->{out}: too short\n" unless $n;
		$all += $n / active($way, $first, $last);
	}
	printf "%.6g %.6g\n", $all, $way->{us} / ($all * active($way, $counted, time));
}
STDOUT->flush;
