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

# name => what is open, the call, and what became of its turn before: '' it was
# never armed, else a key of %before
my $conversation = q{jsonb_build_object('conversationId', 'c')};
my $reply = q{commit_terminal_reply('d', ARRAY['t'], jsonb_build_object('content', 'one')};
my %pair = (
	beat => [ 'A beat in an open transaction: it is soft, no session waits for it and no rollback undoes it.', q{heartbeat('d', ARRAY['t'])}, 'lapsed' ],
	discharge => [ 'discharge_turn is open.', q{discharge_turn('d', 't')}, 'lapsed' ],
	fail => [ 'fail_turn is open.', q{fail_turn('d', 't', 'failed by one', 'ONE')}, 'lapsed' ],
	fail_deployment => [ 'fail_deployment is open.', q{fail_deployment('d')}, 'lapsed' ],
	fenced => [ 'A reply of the worker that holds the turn is open.', "$reply, ARRAY[1])", 'taken' ],
	mark => [ 'mark_provider_failed is open.', q{mark_provider_failed('d', 'MARK1', 'one')}, 'lapsed' ],
	new_arm => [ 'The first arm of a turn is open.', qq{arm_turn('d', 't', $conversation)}, '' ],
	new_reject => [ 'reject_turn is open on a turn that was never armed.', qq{reject_turn('d', 't', $conversation, 'rejected by one')}, '' ],
	over => [ 'A worker takes a turn over that another worker has taken.', q{start_turn('d', 't', 'one', true)}, 'taken' ],
	rearm => [ 'A re-arm is open on a turn that had lapsed.', q{arm_turn('d', 't')}, 'lapsed' ],
	reject => [ 'reject_turn is open on a turn that is owed.', qq{reject_turn('d', 't', $conversation, 'rejected by one')}, 'lapsed' ],
	reply => [ 'A reply is open on a turn that has lapsed.', "$reply)", 'lapsed' ],
	rescue => [ 'A rescue of an offered turn is open.', q{rescue_turns()}, 'offered', 'message_id, generation, error_code FROM ' ],
	resume => [ 'resume_turn is open on a suspended turn.', q{resume_turn('d', 't')}, 'suspended' ],
	stale => [ 'A reply of an earlier holder is open: it holds the row, and changes nothing.', "$reply, ARRAY[1])", 'handed' ],
	start => [ 'A worker takes a turn.', q{start_turn('d', 't', 'one')}, 'lapsed' ],
	suspend => [ 'suspend_turn is open.', q{suspend_turn('d', 't', '1 h', 'one')}, 'lapsed' ],
	sweep => [ 'A sweep is open that failed a turn.', q{sweep_expired_turns()}, 'lapsed' ],
	update => [ 'An update is open on a turn that has lapsed.', q{post_update('d', 't', jsonb_build_object('content', 'update by one')) IS NOT NULL AS stored}, 'lapsed' ],
);
my %before = (
	lapsed => [ "arm_turn('d', 't', $conversation)" ],
	taken => [ "arm_turn('d', 't', $conversation)", q{start_turn('d', 't', 'zero')} ],
	handed => [ "arm_turn('d', 't', $conversation)", q{start_turn('d', 't', 'zero')}, q{arm_turn('d', 't')} ],
	suspended => [ "arm_turn('d', 't', $conversation)", q{suspend_turn('d', 't', '1 h', 'zero')} ],
	offered => [ "arm_turn('d', 't', $conversation, rescue => '1 h')" ],
);

# The setup: then ten minutes pass, and what was to lapse has.
sub setup
{
	my ($name) = @_;
	my $do = sub { "setup\t{ DO \$\$ BEGIN @{[ map { qq{PERFORM $_; } } @_ ]}END \$\$; }\n" };

	return '' unless $name;
	return $do->(map { "turn_liveness.$_" } @{ $before{$name} })
	  . $do->(q{tl_advance('10 min')})
	  . ($name eq 'offered' ? $do->('turn_liveness.sweep_expired_turns()') : '');
}

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
	my ($what, $call, $turn, $columns) = @{ $pair{$name} };
	my $file = "specs/pair_$name.spec";
	my $spec = $template;

	$spec =~ s/\@WHAT\@/$what/;
	$spec =~ s/\@CALL\@/'SELECT ' . ($columns \/\/ '') . "turn_liveness.$call"/e;
	$spec =~ s/\@SETUP\@/setup($turn)/e;
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
