# Turns that wait for a human, and messages before the last, through whatever a
# server goes through.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $settings = q{
listen_addresses = '127.0.0.1'
turn_liveness.mass_silence_hold = 0
turn_liveness.reconnect_window = 0
autovacuum = off
};
my $node = new_node('main', $settings, streaming => 1, wall_clock => 1);
no_pauses($node);
my $listener = TurnLiveness::Socket->new($node);
$listener->query('LISTEN turn_liveness');

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('postgres', $query);
}

# State, generation and reason of a turn that is owed
sub state_of
{
	my ($deployment) = @_;
	return sql("SELECT concat_ws(' ', state, generation, reason) FROM turn_liveness.turns WHERE deployment = '$deployment'");
}

# A turn that its worker has taken, and that waits then
sub suspended
{
	my ($deployment, $max_wait, $times) = @_;
	$times //= q{admission => '10 min', silence => '10 min', duration => '30 min'};
	arm($node, $deployment, 'm', $times);
	is( sql("SELECT turn_liveness.start_turn('$deployment', 'm', 'w1'), turn_liveness.suspend_turn('$deployment', 'm', '$max_wait', 'approve it', 1)"),
		'1|t', "$deployment: it waits");
	return;
}

# --- in time

my $ms = 0;
in_time(
	$node, 0.1, 0,
	'the end of a wait is told within 100 ms',
	sub {
		my ($try) = @_;
		my @names = map { "expires$try-$_" } 1 .. 11;
		my %due = map { split /\|/ } split /\n/, sql(
			join(';', map { $ms = 500 + ($ms + 73) % 803; "SELECT FROM turn_liveness.arm_turn('$_', 'm'), turn_liveness.suspend_turn('$_', 'm', '$ms ms')" } @names)
			  . q{; SELECT deployment, extract(epoch FROM deadline) FROM turn_liveness.turns WHERE deployment IN ('} . join("','", @names) . "')") =~ s/^\n+//r;
		my $at = $listener->told('conversations', @names);
		my @late = sort { $a <=> $b } map { $at->{$_} - $due{$_} } @names;
		note 'seconds after it: ', join ' ', map { sprintf '%.4f', $_ } @late;
		cmp_ok($late[0], '>=', -0.005, 'none before it (a few milliseconds for two clocks)');
		return $late[-1] > 2 ? $late[-1] : median(@late);
	});
is(ends($node, 'expires1-1', 'm'), 'WAIT_EXPIRED sweep', 'with the code');
is(sql(q{SELECT payload->>'error', payload->>'errorCode', generation FROM turn_liveness.replies WHERE deployment = 'expires1-1'}),
	'Your request waited too long for an answer and was ended.|WAIT_EXPIRED|1', 'and the text');

# --- neither beats, nor a session, nor the time of its duration

arm($node, 'waits', 'm', q{admission => '20 min', silence => '10 min', duration => '35 min'});
my $worker = session($node);
is($worker->query_safe(q{SELECT turn_liveness.start_turn('waits', 'm', 'w1')}), '1', 'a worker takes it');
$worker->query_safe(q{SELECT turn_liveness.attach_worker('waits')});
advance($node, '9 min');
is($worker->query_safe(q{SELECT turn_liveness.suspend_turn('waits', 'm', '5 h', 'approve it', 1)}), 't', 'and has it wait');
kill 'KILL', client_pid($worker);
eval { $worker->quit };
$worker = session($node);
arm($node, 'dies', 'm', q{admission => '20 h', silence => '1 h', duration => '20 h'});
$worker->query_safe(q{SELECT turn_liveness.attach_worker('dies')});
$worker->quit;
is(wait_ended($node, 'dies', 'm'), 'WORKER_DIED session', 'a later death is through');
is(state_of('waits'), 'suspended 1 approve it', 'the end of its session does not fail it');
advance($node, '4 h');
worker_looked($node);
is(state_of('waits'), 'suspended 1 approve it', 'nor silence, nor its duration');
is(sql(q{SELECT turn_liveness.has_live_turn('waits', 'm')}), 't', 'it is live');
is(sql(q{SELECT turn_liveness.resume_turn('waits', 'm')}), 't', 'the wait is over');
is(state_of('waits'), 'waiting 2', 'it waits for a worker');
is(sql(q{SELECT turn_liveness.heartbeat('waits', '{m}', '{1}')}), '0', 'a late beat of the old one says 0');
is(state_of('waits'), 'waiting 2', 'and starts nothing');
advance($node, '9 min');
is(sql(q{SELECT turn_liveness.heartbeat('waits', '{m}', '{1}')}), '0', 'nor does one later');
is(sql(q{SELECT first_beat IS NULL AND last_beat IS NULL FROM turn_liveness.turns WHERE deployment = 'waits'}), 't', 'it is not recorded');
is(sql(q{SELECT turn_liveness.start_turn('waits', 'm', 'w2')}), '2', 'the next one takes it');
advance($node, '9 min');
is(sql(q{SELECT turn_liveness.heartbeat('waits', '{m}', '{2}')}), '1', 'and beats');
advance($node, '2 min');
worker_looked($node);
is(state_of('waits'), 'running 2', '29 min of its duration have passed, the wait apart');
advance($node, '7 min');
is(wait_ended($node, 'waits', 'm'), 'TURN_TOO_LONG sweep', '36 min: it is over');

# The late beat alone saves nothing.
suspended('late', '1 h');
sql(q{SELECT turn_liveness.resume_turn('late', 'm')});
foreach my $round (1 .. 3)
{
	advance($node, '3 min');
	is(sql(q{SELECT turn_liveness.heartbeat('late', '{m}', '{1}')}), '0', "beat $round of the old holder");
}
advance($node, '2 min');
is(wait_ended($node, 'late', 'm'), 'WORKER_NEVER_STARTED sweep', 'the turn lapses by the admission of its new generation');

# One that is offered may be had to wait, too
suspended('offered', '10 min', q{admission => '10 min', silence => '10 min', duration => '20 h', rescue => '1 h'});
is(sql(q{SELECT turn_liveness.resume_turn('offered', 'm')}), 't', 'resumed');
advance($node, '11 min');
$node->poll_query_until('postgres', q{SELECT state = 'lapsed' AND error_code IS NOT NULL FROM turn_liveness.turns WHERE deployment = 'offered'});
is(state_of('offered'), 'lapsed 2', 'it is offered');
is(sql(q{SELECT turn_liveness.suspend_turn('offered', 'm', '3 h')}), 't', 'its worker has it wait after all');
advance($node, '2 h');
worker_looked($node);
is(state_of('offered') . sql('SELECT count(*) FROM turn_liveness.rescue_turns()'), 'suspended 20', 'it waits, and is not offered any more');
advance($node, '61 min');
is(wait_ended($node, 'offered', 'm'), 'WAIT_EXPIRED sweep', 'until its wait ends');
$listener->reset;

# --- starts of the server

# Time passes for the server's wall clock too, by which the next run is anchored.
step_wall_clock($node, sql('SELECT extract(epoch FROM turn_liveness.clock_now() - clock_timestamp())'));
sub time_passes
{
	my ($minutes) = @_;
	advance($node, "$minutes min");
	step_wall_clock($node, 60 * $minutes);
	return;
}

# From here on a pause may give some more time, for each start of the server forgets
# no_pauses(): the clock is moved on until the turn has failed.
sub expires
{
	my ($deployment, $what) = @_;
	ok( wait_until('the wait ends', sub { time_passes(5); worker_looked($node); return ends($node, $deployment, 'm') ne '' }),
		"$what: a wait ends");
	is(ends($node, $deployment, 'm'), 'WAIT_EXPIRED sweep', "$what: with its code");
	return;
}

# The server was started anew, 30 min after a wait of two hours and one of 40 min began
sub goes_on
{
	my ($n, $what) = @_;
	wait_worker($node);
	no_pauses($node) if $n == 1;
	is(state_of("long$n"), 'suspended 1 approve it', "$what: it waits");
	is(state_of("brief$n"), 'suspended 1 approve it', "$what: so does the other");
	is(sql("SELECT turn_liveness.start_turn('long$n', 'm', 'w2') IS NULL"), 't', "$what: and is no worker's");
	is(sql("SELECT turn_liveness.suspend_turn('long$n', 'm', '3 h', 'x', 2)"), 'f', "$what: its generation is the same");
	time_passes(5);
	worker_looked($node);
	is(state_of("brief$n"), 'suspended 1 approve it', "$what: no wait is shorter than it was");
	expires("brief$n", $what);
	is(state_of("long$n"), 'suspended 1 approve it', "$what: the longer one goes on");
	is(sql("SELECT turn_liveness.resume_turn('long$n', 'm')"), 't', "$what: and ends");
	is(sql("SELECT turn_liveness.heartbeat('long$n', '{m}', '{1}'), turn_liveness.start_turn('long$n', 'm', 'w2')"), '0|2', "$what: the next generation takes it");
	# ten of its thirty minutes had passed before the wait
	sql("SELECT turn_liveness.heartbeat('long$n', '{m}', '{2}')");
	foreach my $minutes (14, 18, 22, 26)
	{
		time_passes(4);
		is(sql("SELECT turn_liveness.heartbeat('long$n', '{m}', '{2}')"), '1', "$what: $minutes min of its duration");
	}
	my $rounds = 0;
	ok( wait_until('it is over',
			sub { $rounds++; time_passes(3); sql("SELECT turn_liveness.heartbeat('long$n', '{m}', '{2}')"); worker_looked($node); return ends($node, "long$n", 'm') ne '' }),
		"$what: and no more");
	# what is before a crash may have been downtime, which does not count
	cmp_ok($rounds, '<=', 2, "$what: just the rest") if $n == 1;
	is(ends($node, "long$n", 'm'), 'TURN_TOO_LONG sweep', "$what: which ends it");
	return;
}

sub suspend_two
{
	my ($n) = @_;
	arm($node, "long$n", 'm', q{admission => '20 min', silence => '5 min', duration => '30 min'});
	time_passes(10);
	sql("SELECT turn_liveness.start_turn('long$n', 'm', 'w1'), turn_liveness.suspend_turn('long$n', 'm', '2 h', 'approve it')");
	suspended("brief$n", '40 min', q{admission => '20 min', silence => '5 min', duration => '30 min'});
	time_passes(30);
	return;
}

suspend_two(1);
$node->restart;
goes_on(1, 'fast restart');
suspend_two(2);
$node->stop('immediate');
$node->start;
goes_on(2, 'crash');

# --- a standby is promoted

suspend_two(3);
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
own_wall_clock($standby);
$standby->init_from_backup($node, 'base', has_streaming => 1);
step_wall_clock($standby, $node->{tl_offset});
$standby->start;
sql(q{SELECT turn_liveness.arm_turn('after', 'm'), turn_liveness.suspend_turn('after', 'm', '20 h')});
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT state FROM turn_liveness.turns WHERE deployment = 'after'}), 'suspended', 'a standby shows that it waits');
my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, 'postgres' ], 'and a dump has it');
$node->stop('immediate');
$standby->promote;
$node = $standby;
$node->{tl_preload} = 1;
goes_on(3, 'promotion');
is(state_of('after'), 'suspended 1', 'promotion: what was replicated waits');
$node->stop;

# --- a dump is restored elsewhere

$node = new_node('elsewhere', "$settings\nturn_liveness.restore_grace = '1 h'\n", extension => 0, wall_clock => 1);
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'postgres', $dump ], 'restored elsewhere');
$node->safe_psql('postgres', q{
CREATE OR REPLACE FUNCTION public.tl_advance(interval) RETURNS void
	AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT});
wait_worker($node);
# rows that came by COPY are looked for once a second: the grace counts from then
wait_clock($node, 2.5);
advance($node, '50 min');
worker_looked($node);
is(state_of('brief3'), 'suspended 1 approve it', 'restore: its wait would have ended, and the grace has not');
expires('brief3', 'restore');
is(state_of('long3'), 'suspended 1 approve it', 'restore: the longer wait goes on');
is(sql(q{SELECT turn_liveness.resume_turn('long3', 'm'), turn_liveness.heartbeat('long3', '{m}', '{1}'), turn_liveness.start_turn('long3', 'm')}), 't|0|2',
	'restore: and ends');
is(state_of('after'), 'suspended 1', 'restore: so does another');
$node->stop;

# --- updates: exactly once by cursor, in order, none after the terminal one, under
# load and through a crash

$node = new_node('updates', $settings);
my $turns = 300;
my $conversations = 10;
sql(qq{
CREATE TABLE public.posted (id bigint PRIMARY KEY, turn int);
SELECT count(turn_liveness.arm_turn('u' || i, 'm', jsonb_build_object('conversationId', 'c' || i % $conversations), admission => '10 h', duration => '10 h')) FROM generate_series(1, $turns) i});

my %script = (
	post => q{
\set turn random(1, :turns)
INSERT INTO public.posted SELECT id, :turn FROM turn_liveness.post_update('u' || :turn, 'm', '{"content": "x"}') id WHERE id IS NOT NULL;
},
	undo => q{
\set turn random(1, :turns)
BEGIN;
SELECT turn_liveness.post_update('u' || :turn, 'm', '{"content": "rolled back"}');
ROLLBACK;
},
	end => q{
\set turn random(1, :ending)
SELECT turn_liveness.commit_terminal_reply('u' || :turn, '{m}', '{"content": "end"}');
});
my @scripts;
foreach my $name (sort keys %script)
{
	my $file = $node->basedir . "/$name.sql";
	append_to_file($file, $script{$name});
	push @scripts, '-f', $file . '@' . ($name eq 'post' ? 8 : 1);
}

# What a client reads, each conversation past its own cursor
my @cursor = (0) x $conversations;
my @read;
sub read_on
{
	my $cursors = join ',', @cursor;
	foreach my $line (split /\n/, sql("SELECT substr(conversation_id, 2), reply_id, outcome FROM turn_liveness.read_replies(ARRAY(SELECT 'c' || i FROM generate_series(0, $conversations - 1) i), '{$cursors}', 10000)"))
	{
		my ($conversation, $id) = split /\|/, $line;
		push @read, "$conversation $id";
		$cursor[$conversation] = $id;
	}
	return scalar @read;
}

# Until there is nothing more; returns how many were read in all
sub read_all
{
	my $count = -1;
	$count = @read while read_on() > $count;
	return $count;
}

# The load posts to all turns, and ends only the first ones, so many
sub load
{
	my ($transactions, $ending) = @_;
	my $out = '';
	return (\$out, IPC::Run::start(
		[ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', $transactions, '-D', "turns=$turns", '-D', "ending=$ending", @scripts, $node->connstr('postgres') ],
		'<', \undef, '>&', \$out));
}
# half of the turns are left to post to, however late the client reads
my ($out, $run) = load(100_000, $turns / 2);
ok(wait_until('some are read', sub { read_on() > 300 }), 'updates: a client reads while others post');
$node->stop('immediate');
eval { $run->finish };
unlike($$out, qr/ERROR:  (?!.*(?:terminat|shut))/, 'updates: no error but the end of the server') or diag $$out;
$node->start;
my $before = read_all();
($out, $run) = load(150, $turns);
read_on() while $run->pumpable && (eval { $run->pump_nb; 1 });
ok($run->finish, 'updates: they go on after a crash') or diag $$out;
cmp_ok(read_all(), '>', $before, 'updates: and are read on');
sql("SELECT count(turn_liveness.commit_terminal_reply('u' || i, '{m}', '{\"content\": \"end\"}')) FROM generate_series(1, $turns) i");
read_all();
my %there = map { $_ => 1 } split /\n/, sql(q{SELECT substr(conversation_id, 2) || ' ' || reply_id FROM turn_liveness.reply});
my %seen;
$seen{$_}++ foreach @read;
is(scalar(grep { !$seen{$_} } keys %there), 0, 'updates: each is read');
is(scalar(grep { !$there{$_} } keys %seen), 0, 'updates: and nothing else');
is(scalar(grep { $_ > 1 } values %seen), 0, 'updates: none twice');
is(sql(q{SELECT count(*) FROM (SELECT reply_id FROM turn_liveness.reply WHERE outcome = 'u') r FULL JOIN public.posted p ON p.id = r.reply_id WHERE r.reply_id IS NULL OR p.id IS NULL}),
	'0', 'updates: each is there just if its transaction was committed');
is( sql(q{SELECT count(*), count(*) FILTER (WHERE t.outcome = 'a' AND t.reply_id > coalesce((SELECT max(id) FROM public.posted p WHERE p.turn = substr(t.deployment, 2)::int), 0)) FROM turn_liveness.turn t}),
	"$turns|$turns", 'updates: the terminal reply of each turn has a greater id than its updates');
cmp_ok(sql('SELECT count(*) FROM public.posted'), '>', 300, 'updates: there were many');
is(sql(q{SELECT count(*) FROM turn_liveness.reply r, turn_liveness.turn t WHERE r.outcome = 'u' AND r.reply_id = t.last_update}) > 0, 1, 'updates: a turn knows its latest');
is(sql(q{SELECT turn_liveness.post_update('u1', 'm', '{}') IS NULL}), 't', 'updates: none of a turn that has ended');

# --- an update in a transaction that is prepared

sql(q{SELECT turn_liveness.arm_turn('p' || i, 'm', '{"conversationId": "p"}', admission => '4 h') FROM generate_series(1, 2) i});
my $first = sql(q{SELECT turn_liveness.post_update('p1', 'm', '{"content": "1"}')});
sql(q{BEGIN; SELECT turn_liveness.post_update('p1', 'm', '{"content": "2"}'); PREPARE TRANSACTION 'update'});
sql(q{SELECT turn_liveness.post_update('p2', 'm', '{"content": "3"}')});
my $contents = qq{SELECT string_agg(payload->>'content', ',' ORDER BY reply_id) FROM turn_liveness.read_replies('{p}', '{$first}')};
is(sql($contents), '', 'prepared: a cursor does not pass it');
is($node->psql('postgres', q{SET lock_timeout = '1 ms'; SELECT turn_liveness.commit_terminal_reply('p1', '{m}', '{"content": "end"}')}, stderr => \my $err), 3, 'prepared: an answer waits');
like($err, qr/lock timeout/, 'prepared: for its turn');
$node->stop('immediate');
$node->start;
is(sql($contents), '', 'prepared: nor after a crash');
sql(q{COMMIT PREPARED 'update'});
is(sql($contents), '2,3', 'prepared: committed, both are read, in order');
sql(q{BEGIN; SELECT turn_liveness.post_update('p1', 'm', '{"content": "gone"}'); PREPARE TRANSACTION 'update'});
sql(q{SELECT turn_liveness.post_update('p2', 'm', '{"content": "4"}')});
is(sql($contents), '2,3', 'prepared: a second one');
sql(q{ROLLBACK PREPARED 'update'});
is(sql($contents), '2,3,4', 'prepared: rolled back, it never was');
is(sql(q{SELECT turn_liveness.commit_terminal_reply('p1', '{m}', '{"content": "end"}')}), 'won', 'prepared: the answer comes');
is(sql($contents), '2,3,4,end', 'prepared: last');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 6|signal 11/, 'nothing crashed');
$node->stop;
done_testing();
