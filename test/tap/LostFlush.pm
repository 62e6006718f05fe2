# A server on a disk that loses what was not flushed: lost_flush.c says how.  It
# is lossy for as long as it is started from here.

package LostFlush;

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Find qw(find);
use PostgreSQL::Test::Cluster;

our @ISA = ('PostgreSQL::Test::Cluster');

# For a server that new_node() has made and not started.
sub mount
{
	my ($node) = @_;
	my $disk = $node->basedir . '/disk';

	mkdir $disk or die "$disk: $!";
	mkdir "$disk/journal" or die "$disk/journal: $!";
	system('cc', '-shared', '-fPIC', '-O1', '-o', "$disk/lost_flush.so",
		dirname(__FILE__) . '/lost_flush.c', '-ldl') == 0
	  or die 'the lossy disk needs a C compiler';
	$node->append_conf('postgresql.conf', "fsync = on\nwal_sync_method = fdatasync");
	$node->{lossy_disk} = $disk;
	return bless $node, __PACKAGE__;
}

sub start
{
	my ($node, @args) = @_;
	local $ENV{LD_PRELOAD} = "$node->{lossy_disk}/lost_flush.so";
	local $ENV{LOST_FLUSH_DATA} = abs_path($node->data_dir);
	local $ENV{LOST_FLUSH_JOURNAL} = "$node->{lossy_disk}/journal";
	return $node->SUPER::start(@args);
}

# The power fails: no process of the server writes any more, and each file is as
# it was when it was flushed last.  Returns how many writes were lost, of the WAL
# and of other files.
sub lose_power
{
	my ($node) = @_;
	my %lost = (wal => 0, other => 0);
	my %path;

	$node->stop('immediate');
	find({
			no_chdir => 1,
			wanted => sub { my ($dev, $ino) = lstat; $path{"$dev-$ino"} = $_ if -f _ }
		},
		abs_path($node->data_dir));
	foreach my $journal (glob("$node->{lossy_disk}/journal/*"))
	{
		my ($key) = $journal =~ m{([^/]+)$};
		my @records = read_journal($journal);

		unlink $journal or die "$journal: $!";
		# a file that has lost its name meanwhile is gone
		next unless defined $path{$key} && @records;
		undo($path{$key}, @records);
		$lost{ $path{$key} =~ m{/pg_wal/} ? 'wal' : 'other' } += @records;
	}
	return \%lost;
}

# [offset, length of the file, old bytes] of each write, in their order
sub read_journal
{
	my ($path) = @_;
	my @records;

	open my $journal, '<:raw', $path or die "$path: $!";
	while (read($journal, my $head, 24))
	{
		my ($offset, $length, $size) = unpack('q3', $head);
		my $old = '';

		(read($journal, $old, $size) // -1) == $size or die "$path ends early" if $size > 0;
		push @records, [ $offset, $length, $old ];
	}
	close $journal;
	return @records;
}

sub undo
{
	my ($path, @records) = @_;

	open my $file, '+<:raw', $path or die "$path: $!";
	foreach my $record (reverse @records)
	{
		my ($offset, $length, $old) = @$record;

		if ($old ne '')
		{
			sysseek($file, $offset, 0) // die "$path: $!";
			(syswrite($file, $old) // -1) == length $old or die "$path: $!";
		}
		truncate($file, $length) or die "$path: $!";
	}
	close $file or die "$path: $!";
	return;
}

1;
