# A server whose sessions and workers can be stopped within what they do to a row
# of "turn".

package SlowHeap;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use TurnLiveness;

our @EXPORT = qw(slow_node);

# The server, and a folder: a process that is about to delete a row waits while
# the file "delete" is there, with "delete.waits" beside it; one that is about to
# fetch a row through an index does so for the file that its setting
# slow_heap.at_fetch names.  No worker runs in database "postgres".
sub slow_node
{
	my ($name, $settings) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my ($include) = map { s/\s+$//r } `$ENV{PG_CONFIG} --includedir-server`;

	system('cc', '-shared', '-fPIC', "-I$include", '-o', "$dir/slow_heap.so", dirname(__FILE__) . '/slow_heap.c') == 0
	  or die 'this test needs a C compiler';
	my $node = new_node($name, "slow_heap.at_delete = '$dir/delete'\n$settings");
	$node->safe_psql('postgres', qq{
CREATE FUNCTION slow_handler(internal) RETURNS table_am_handler AS '$dir/slow_heap' LANGUAGE C;
UPDATE pg_am SET amhandler = 'slow_handler'::regproc WHERE amname = 'heap';
ALTER DATABASE postgres SET turn_liveness.enabled = off});
	$node->restart;
	return ($node, $dir);
}

1;
