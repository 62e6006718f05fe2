# The power fails, and the disk loses what was not flushed: whatever a caller was
# told is there afterwards, though it has set synchronous_commit = off.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use LostFlush;
use TurnLiveness;

# The WAL goes to the kernel early, for the buffers are small, and is flushed only if a session asks for it, and by the
# WAL writer every ten seconds.
my $node = LostFlush::mount(new_node(
	'main', q{
wal_buffers = 32kB
wal_writer_delay = 10s
wal_writer_flush_after = 1GB
checkpoint_timeout = 1h
autovacuum = off
}, start => 0));
$node->start;
add_extension($node);
$node->safe_psql('postgres', 'CREATE TABLE public.control (round int, filler text); CHECKPOINT');

# Enough WAL to push what was written before out of the buffers, without a flush
my $others = q{INSERT INTO public.control SELECT -1, repeat('x', 1000) FROM generate_series(1, 200)};

# The WAL writer has just flushed: it does not do so again for ten seconds.
sub wal_writer_rests
{
	my ($session) = @_;

	$session->query_safe($others);
	my $lsn = $session->query_safe('SELECT pg_current_wal_lsn()');
	$node->poll_query_until('postgres', "SELECT pg_current_wal_flush_lsn() >= '$lsn'::pg_lsn - 8192")
	  or die 'the WAL writer does not flush';
	return;
}

# --- each call whose caller may rely on it: it is the last that flushes before the power fails

# name, what comes before, the call, what it says, a look afterwards, and what that finds
my @calls = (
	[ 'arm_turn', '', q{arm_turn('d', 'arm', admission => '1h')}, 'armed',
		q{state FROM turn_liveness.get_turn('d', 'arm')}, 'waiting' ],
	[ 'arm_turn again', q{arm_turn('d', 'again', admission => '1h')}, q{arm_turn('d', 'again')}, 'pending',
		q{generation FROM turn_liveness.get_turn('d', 'again')}, 2 ],
	[ 'commit_terminal_reply', q{arm_turn('d', 'won', admission => '1h')},
		q{commit_terminal_reply('d', '{won}', '{"content": "x"}')}, 'won',
		q{message_ids, state FROM turn_liveness.claim_replies('g', '{d}')}, '{won}|claimed' ],
	[ 'post_update', q{arm_turn('d', 'update', admission => '1h')}, q{post_update('d', 'update', '{}') > 0}, 't',
		q{message_ids FROM turn_liveness.claim_replies('g', '{d}') WHERE outcome = 'update'}, '{update}' ],
	[ 'discharge_turn', q{arm_turn('d', 'discharge', admission => '1h')}, q{discharge_turn('d', 'discharge')}, 't',
		q{turn_liveness.arm_turn('d', 'discharge')}, 'answered' ],
	[ 'start_turn', q{arm_turn('d', 'start', admission => '1h')}, q{start_turn('d', 'start', 'w')}, 1,
		q{worker FROM turn_liveness.get_turn('d', 'start')}, 'w' ],
	[ 'suspend_turn', q{arm_turn('d', 'wait', admission => '1h')}, q{suspend_turn('d', 'wait', '1h')}, 't',
		q{state FROM turn_liveness.get_turn('d', 'wait')}, 'suspended' ],
	[ 'resume_turn', '', q{resume_turn('d', 'wait')}, 't',
		q{generation FROM turn_liveness.get_turn('d', 'wait')}, 2 ],
	[ 'mark_provider_failed', q{arm_turn('p', 'm', admission => '1h')}, q{mark_provider_failed('p', 'QUOTA', 'no money')}, 1,
		q{state, error_code FROM turn_liveness.get_turn('p', 'm')}, 'withheld|QUOTA' ],
	[ 'clear_provider_failed', '', q{clear_provider_failed('p')}, 1,
		q{state FROM turn_liveness.get_turn('p', 'm')}, 'waiting' ],
	[ 'rescue_turns', q{arm_turn('lapsed', 'm', admission => '1 min', rescue => '10 days')},
		q{rescue_turns() IS NOT NULL}, 't',
		q{generation FROM turn_liveness.get_turn('lapsed', 'm')}, 2 ]);
my $forgotten = 0;

foreach my $round (0 .. $#calls)
{
	my ($name, $before, $call, $told, $look, $found) = @{ $calls[$round] };
	my $session = session($node);
	my $lost;

	$session->query_safe("SELECT turn_liveness.$before") if $before;
	if ($name eq 'rescue_turns')
	{
		advance($node, '2 min');
		# the sweep has offered it
		$node->poll_query_until('postgres', q{SELECT error_code IS NOT NULL FROM turn_liveness.turns WHERE state = 'lapsed' AND deployment = 'lapsed'});
	}
	$session->query_safe('SET synchronous_commit = off');
	wal_writer_rests($session);
	is($session->query_safe("SELECT turn_liveness.$call"), $told, "$name: told");
	$session->query_safe("INSERT INTO public.control VALUES ($round)");
	$session->query_safe($others);
	$lost = $node->lose_power;
	eval { $session->quit };
	$node->start;
	wait_worker($node);
	is($node->safe_psql('postgres', "SELECT $look"), $found, "$name: it is there when the power is back");
	# on a slow machine the WAL writer may have come round
	$forgotten++
	  if $lost->{wal} > 0 && $node->safe_psql('postgres', "SELECT count(*) FROM public.control WHERE round = $round") == 0;
}
cmp_ok($forgotten, '>', 0, "a row that was committed after it, and written, was lost in $forgotten of " . @calls . ' rounds');

# --- several sessions at once

my (@files, @clients);
foreach my $client (1 .. 4)
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/lost_flush_$client";

	push @files, $file;
	append_to_file("$file.sql", "SET synchronous_commit = off;\n" . join '', map {
			"SELECT 'armed', '$_' FROM turn_liveness.arm_turn('s$client', '$_', admission => '1h');\n"
			  . "SELECT turn_liveness.commit_terminal_reply('s$client', '{$_}', '{\"n\": $_}'), '$_';\n"
	} 1 .. 3000);
	push @clients,
	  IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$file.sql" ],
		'>', "$file.out", '2>', "$file.err");
}
ok($node->poll_query_until('postgres',
		q{SELECT count(*) >= 4 FROM (SELECT deployment FROM turn_liveness.reply WHERE deployment ~ '^s\d$' GROUP BY 1 HAVING count(*) > 25) x}),
	'four sessions arm and answer');
my $lost = $node->lose_power;
eval { $_->finish } foreach @clients;
$node->start;
my $told = 0;
foreach my $client (1 .. 4)
{
	my %told = (armed => [], won => []);

	push @{ $told{ (split /\|/)[0] } }, (split /\|/)[1] foreach split /\n/, slurp_file("$files[$client - 1].out");
	$told += @{ $told{armed} } + @{ $told{won} };
	is($node->safe_psql('postgres', "SELECT count(*) FROM unnest('{" . join(',', @{ $told{armed} })
			. "}'::text[]) m WHERE NOT EXISTS (SELECT FROM turn_liveness.turn WHERE deployment = 's$client' AND message_id = m)"),
		0, "session $client: each arm is there");
	is($node->safe_psql('postgres', "SELECT count(*) FROM unnest('{" . join(',', @{ $told{won} })
			. "}'::text[]) m WHERE (SELECT count(*) FROM turn_liveness.replies WHERE deployment = 's$client' AND message_ids = ARRAY[m]"
			. " AND outcome = 'answer' AND payload ->> 'n' = m) <> 1"),
		0, "session $client: each answer that won is there");
}
cmp_ok($told, '>=', 200, "they were told of $told; the disk lost $lost->{other} writes of other files");
$node->stop;
done_testing();
