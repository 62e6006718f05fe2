# Several servers, of which callers choose one by a hash: doubled from one to two
# by a physical copy, as the README says, while turns are live.

use strict;
use warnings;

use Digest::SHA qw(sha256);
use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my ($chapter) = slurp_file("$FindBin::RealBin/../../README.md") =~ /^### Doubling\n(.*?)^##/ms;
my @blocks = $chapter =~ /^```sql\n(.*?)^```/msg;
is(scalar @blocks, 3, 'the README has the three steps');

# the deadlines are longer than all that this test does
my @servers = (new_node('server0', "turn_liveness.turn_deadline = '10 min'\nturn_liveness.admission_deadline = '30 min'", streaming => 1));
my @names = map { "tenant-$_/c" } 1 .. 24;

sub place
{
	my ($name) = @_;
	return unpack('C', sha256($name =~ s{/.*}{}sr)) & (@servers - 1);
}

# The values of a query in each server, for its own of these names, as $names.
sub each_of
{
	my ($query, @of) = @_;
	my @values;
	foreach my $n (0 .. $#servers)
	{
		my $mine = join ',', grep { place($_) == $n } @of;
		my $sql = $query =~ s/\$names/unnest('{$mine}'::text[]) c/r;
		push @values, split /\n/, $servers[$n]->safe_psql('postgres', $sql);
	}
	return @values;
}

my $arm = q{SELECT turn_liveness.arm_turn(c || '/agent', 'm%d', jsonb_build_object('conversationId', c)) FROM $names};
my $start = q{SELECT turn_liveness.start_turn(c || '/agent', 'm%d') FROM $names};
my $beat = q{SELECT turn_liveness.heartbeat(c || '/agent', '{m%d}', '{1}') FROM $names};
my $commit = q{SELECT turn_liveness.commit_terminal_reply(c || '/agent', '{m%d}', '{}', '{1}') FROM $names};
my $read = q{SELECT r.reply_id || ' ' || r.conversation_id FROM $names, turn_liveness.read_replies(ARRAY[c]) r};

# one turn of each conversation has ended, one is live, one waits
each_of(sprintf($_, 1), @names) foreach $arm, $start, $commit;
each_of(sprintf($_, 2), @names) foreach $arm, $start, $beat;
each_of(sprintf($arm, 3), @names);
my @before = each_of($read, @names);
is(scalar @before, 24, 'a reply for each');

# --- from one to two

$servers[0]->backup('copy');
my $new = PostgreSQL::Test::Cluster->new('server1');
$new->init_from_backup($servers[0], 'copy', has_streaming => 1);
$new->append_conf('postgresql.conf', "turn_liveness.node = 1\nturn_liveness.accept = off");
$new->start;

$servers[0]->safe_psql('postgres', $blocks[0]);
my $refused = sub { my ($rc, $out, $err) = $servers[0]->psql('postgres', sprintf(q{SELECT turn_liveness.heartbeat('tenant-1/c/agent')})); return $err =~ /does not accept/ };
ok(wait_until('refused', $refused), 'callers are refused, and try again');
$servers[0]->wait_for_catchup($new, 'replay', $servers[0]->lsn('insert'));
$new->promote;
wait_worker($new);
push @servers, $new;
foreach my $n (0 .. $#servers)
{
	$servers[$n]->safe_psql('postgres', $blocks[1] =~ s/<servers>/scalar @servers/ger =~ s/<node>/$n/gr);
}
$new->append_conf('postgresql.conf', 'turn_liveness.accept = on');
$new->reload;
$servers[0]->safe_psql('postgres', $blocks[2]);
ok(wait_until('accepted', sub { !$refused->() }), 'the old server accepts again');
ok(wait_until('accepted', sub { my ($rc) = $new->psql('postgres', q{SELECT turn_liveness.heartbeat('x')}); return $rc == 0 }), 'so does the new one');

# --- nothing was lost, nothing is there twice

is(join(',', sort { $a cmp $b } each_of($read, @names)), join(',', sort { $a cmp $b } @before), 'each reply is where its readers look');
is(eval { my $sum = 0; $sum += $_->safe_psql('postgres', q{SELECT count(*) FROM turn_liveness.turn WHERE outcome IS NULL}) foreach @servers; $sum }, 48, 'each turn is owed once');
isnt($_->safe_psql('postgres', q{SELECT count(*) FROM turn_liveness.turns}), 48, 'and not all on one') foreach @servers;
is(join(',', each_of(sprintf($beat, 2), @names)), join(',', (1) x 24), 'each worker hears that its turn is owed');
is(join(',', each_of(sprintf($start, 3), @names)), join(',', (1) x 24), 'those that waited start');
is(join(',', each_of(sprintf($commit, $_), @names)), join(',', ('won') x 24), "each answer m$_ has won") foreach 2, 3;
my @after = each_of($read, @names);
my %ids = map { (split)[0] => 1 } @after;
is(scalar keys %ids, 72, 'three replies for each, with an id of its own');
foreach my $reply (@after)
{
	my ($id, $name) = split / /, $reply;
	next if grep { $_ eq $reply } @before;
	fail("id $id of node " . place($name)) if $id >> 44 != place($name);
}
is(eval { my $sum = 0; $sum += failures($_) foreach @servers; $sum }, 0, 'and none has failed');
$_->stop foreach @servers;
done_testing();
