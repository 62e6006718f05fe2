#!/usr/bin/perl
#
# pairs.pl [--check]
#
# Write specs/pair_*.spec from pair.spec.in: one spec for each call that is open
# while another session makes every other call. --check writes nothing, and fails
# where a spec is not what would be written.

use strict;
use warnings;
use File::Basename qw(dirname);

# name => what is open, the call, and whether its turn is owed (and has lapsed) before
my $conversation = q{jsonb_build_object('conversationId', 'c')};
my %pair = (
	beat => [ 'A beat in an open transaction: it is soft, no session waits for it and no rollback undoes it.', q{heartbeat('d', ARRAY['t'])}, 1 ],
	discharge => [ 'discharge_turn is open.', q{discharge_turn('d', 't')}, 1 ],
	fail => [ 'fail_turn is open.', q{fail_turn('d', 't', 'failed by one', 'ONE')}, 1 ],
	fail_deployment => [ 'fail_deployment is open.', q{fail_deployment('d')}, 1 ],
	mark => [ 'mark_provider_failed is open.', q{mark_provider_failed('d', 'MARK1', 'one')}, 1 ],
	new_arm => [ 'The first arm of a turn is open.', qq{arm_turn('d', 't', $conversation)}, 0 ],
	new_reject => [ 'reject_turn is open on a turn that was never armed.', qq{reject_turn('d', 't', $conversation, 'rejected by one')}, 0 ],
	rearm => [ 'A re-arm is open on a turn that had lapsed.', q{arm_turn('d', 't')}, 1 ],
	reject => [ 'reject_turn is open on a turn that is owed.', qq{reject_turn('d', 't', $conversation, 'rejected by one')}, 1 ],
	reply => [ 'A reply is open on a turn that has lapsed.', q{commit_terminal_reply('d', ARRAY['t'], jsonb_build_object('content', 'one'))}, 1 ],
	sweep => [ 'A sweep is open that failed a turn.', q{sweep_expired_turns()}, 1 ],
);
my $owed = <<"END";
setup	{ DO \$\$ BEGIN PERFORM turn_liveness.arm_turn('d', 't', $conversation); END \$\$; }
setup	{ DO \$\$ BEGIN PERFORM tl_advance('10 min'); END \$\$; }
END

my $check = "@ARGV" eq '--check';
my $stale = 0;
chdir dirname($0) or die $!;

sub slurp
{
	my ($name) = @_;
	open(my $fh, '<', $name) or return '';
	local $/;
	return scalar <$fh>;
}

my $template = slurp('pair.spec.in');
my %written;
foreach my $name (sort keys %pair)
{
	my ($what, $call, $is_owed) = @{ $pair{$name} };
	my $file = "specs/pair_$name.spec";
	my $spec = $template;

	$spec =~ s/\@WHAT\@/$what/;
	$spec =~ s/\@CALL\@/SELECT turn_liveness.$call/;
	$spec =~ s/\@OWED\@/$is_owed ? $owed : ''/e;
	$written{$file} = 1;
	next if slurp($file) eq $spec;
	if ($check)
	{
		print "$file is not what pairs.pl writes\n";
		$stale++;
		next;
	}
	open(my $fh, '>', $file) or die "$file: $!";
	print $fh $spec;
	close($fh) or die "$file: $!";
}
foreach my $file (grep { !$written{$_} } glob('specs/pair_*.spec'))
{
	print "$file is none of pairs.pl's\n";
	$stale++;
}
exit($stale ? 1 : 0);
