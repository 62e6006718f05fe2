# What the TAP tests share: servers with the extension, the liveness clock,
# and short names for what they ask all the time.

package TurnLiveness;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use IO::Select;
use IO::Socket::INET;
use InitOnce;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  new_node add_extension worker_pid wait_worker advance own_wall_clock step_wall_clock no_pauses clock_us wait_clock
  wait_until wait_server wait_alone arm ends wait_ended owed failures session backend_pid client_pid
  notified median psql_takes in_time worker_looked two_rounds wall_clock_passes
  wall_clock_shim turn_lines
);

# A server that is up, with the extension in database "postgres".  The settings
# are lines of postgresql.conf; options: streaming, start, extension; wall_clock:
# the test can step its wall clock; preload => 0: without our library, where the
# wall clock is the liveness clock, and advance() steps it.
sub new_node
{
	my ($name, $settings, %option) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$option{preload} //= 1;
	$option{wall_clock} //= !$option{preload};
	own_wall_clock($node) if $option{wall_clock};
	$node->{tl_preload} = $option{preload};
	$node->init(allows_streaming => $option{streaming} // 0);
	$node->append_conf('postgresql.conf', <<"END");
shared_preload_libraries = '@{[ $option{preload} ? 'turn_liveness' : '' ]}'
max_prepared_transactions = 10
restart_after_crash = on
log_line_prefix = '%m [%p] %b %q%a '
log_statement = 'none'
turn_liveness.log_failures = off
$settings
END
	if ($option{start} // 1)
	{
		$node->start;
		add_extension($node) if $option{extension} // 1;
	}
	return $node;
}

sub add_extension
{
	my ($node, $db) = @_;
	$db //= 'postgres';
	$node->safe_psql(
		$db, q{
CREATE EXTENSION turn_liveness;
CREATE OR REPLACE FUNCTION public.tl_advance(interval) RETURNS void
	AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT;
});
	wait_worker($node, $db) if $node->{tl_preload} // 1;
	return;
}

sub worker_pid
{
	my ($node, $db) = @_;
	return $node->safe_psql($db // 'postgres',
		"SELECT pid FROM pg_stat_activity"
		  . " WHERE backend_type = 'turn_liveness worker' AND datname = current_database()");
}

# Until a worker has taken the database over; another one than $not.
sub wait_worker
{
	my ($node, $db, $not) = @_;
	$not ||= 0;
	$node->poll_query_until(
		$db // 'postgres',
		"SELECT worker_state = 'running' AND worker_pid <> $not FROM turn_liveness.stat_row()")
	  or die 'the worker does not come up';
	return worker_pid($node, $db);
}

sub advance
{
	my ($node, $interval, $db) = @_;
	$db //= 'postgres';
	return step_wall_clock($node, $node->safe_psql($db, "SELECT extract(epoch FROM interval '$interval')"))
	  unless $node->{tl_preload} // 1;
	$node->safe_psql($db, "SELECT public.tl_advance('$interval')");
	return;
}

# Gives a server that was not made by new_node() a wall clock of its own, before
# it is started.
sub own_wall_clock
{
	my ($node) = @_;
	return TurnLiveness::WallClock::wind($node);
}

# The wall clock of a server that has its own goes on by that many seconds more,
# for all its processes at once, or back; the server may be down.
sub step_wall_clock
{
	my ($node, $seconds) = @_;
	$node->{tl_offset} += $seconds;
	$node->{tl_step}->(int $node->{tl_offset});
	return;
}

# From here on no late tick of the worker is a pause, which would give all turns
# another turn deadline: for tests of the deadlines themselves, on a busy machine.
sub no_pauses
{
	my ($node, $db) = @_;
	$node->safe_psql($db // 'postgres', q{
CREATE OR REPLACE FUNCTION public.tl_no_pauses() RETURNS void
	AS '$libdir/turn_liveness', 'turn_liveness_clock_no_pauses' LANGUAGE C;
SELECT public.tl_no_pauses()});
	return;
}

# The liveness clock in microseconds since 2000.
sub clock_us
{
	my ($node, $db) = @_;
	return $node->safe_psql($db // 'postgres',
		"SELECT (1e6 * extract(epoch FROM turn_liveness.clock_now() - '2000-01-01 UTC'))::bigint");
}

# Until that much time has passed on the liveness clock.  This is no call that
# counts as a sign that the path to the database is alive.
sub wait_clock
{
	my ($node, $seconds, $since, $db) = @_;
	$since //= clock_us($node, $db);
	$node->poll_query_until($db // 'postgres',
		"SELECT turn_liveness.clock_now() >= '2000-01-01 UTC'::timestamptz"
		  . " + ($since + 1000000 * $seconds) * interval '1 microsecond'")
	  or die 'the liveness clock stands still';
	return;
}

# Until the code returns true.
sub wait_until
{
	my ($what, $code) = @_;
	my $end = Time::HiRes::time() + $PostgreSQL::Test::Utils::timeout_default;

	while (1)
	{
		return 1 if $code->();
		last if Time::HiRes::time() > $end;
		usleep(50_000);
	}
	diag "gave up waiting until $what";
	return 0;
}

# Until a server that goes down meanwhile, or comes back, says t.  A psql that cannot
# connect ends before it has read its query, which is an error of the pipe.
sub wait_server
{
	my ($node, $query) = @_;
	return wait_until("the server says: $query", sub { return (eval { ($node->psql('postgres', $query))[1] } // '') eq 't' });
}

# Until no client is in any database but $db, which asks: a session of a test may end
# late, and a command that wants another database for itself would wait for it.
sub wait_alone
{
	my ($node, $db) = @_;
	$node->poll_query_until($db // 'postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname <> current_database()")
	  or die 'a session stays in another database';
	return;
}

# Until the worker has looked at all that had lapsed when this was called: a turn
# that lapses at this moment, in a deployment of its own, has been failed.
my $probes = 0;

sub worker_looked
{
	my ($node, $db) = @_;
	my $probe = 'probe' . ++$probes;
	$db //= 'postgres';
	$node->safe_psql($db, "SELECT turn_liveness.arm_turn('$probe', 'm', admission => '1ms', silence => '1ms')");
	return $node->poll_query_until($db,
		"SELECT count(*) = 1 FROM turn_liveness.reply WHERE deployment = '$probe' AND error_code = 'WORKER_NEVER_STARTED'");
}

# Until a round of the worker that began after this was called has ended; $listener
# is a session that listens.
my $bells = 0;

sub two_rounds
{
	my ($node, $listener) = @_;

	foreach (1 .. 2)
	{
		my $bell = 'bell' . ++$bells;
		$node->safe_psql('postgres', "SELECT turn_liveness.reject_turn('$bell', 'm', '{}', 'ding')");
		notified($listener, qr/$bell"/) or die 'the worker does not notify';
	}
	return;
}

# Seconds that one call of psql takes on this machine at this moment.
sub psql_takes
{
	my ($node) = @_;
	my $start = Time::HiRes::time();
	$node->safe_psql('postgres', 'SELECT 1');
	return Time::HiRes::time() - $start;
}

# For the few promises that are a time.  A busy machine is late now and then, a
# program that breaks its promise is late always: of several tries one must
# hold.  $code does it once and returns the seconds that it took; what it spends
# on calls of psql ($calls of them) is measured beside it and allowed for.
sub in_time
{
	my ($node, $seconds, $calls, $what, $code) = @_;
	my @took;

	foreach my $round (1 .. 10)
	{
		my $took = $code->($round);
		my $allowed = $seconds + ($calls ? $calls * psql_takes($node) : 0);
		return pass($what) if $took <= $allowed;
		push @took, sprintf '%.3f s (%.3f s allowed)', $took, $allowed;
	}
	diag 'it took ', join ', ', @took;
	return fail($what);
}

# For tests that stop processes: how long they stay stopped is what they test.
sub wall_clock_passes
{
	my ($seconds) = @_;
	my $end = Time::HiRes::time() + $seconds;
	usleep(50_000) while Time::HiRes::time() < $end;
	return;
}

# arm($node, deployment, message, 'admission => ...')
sub arm
{
	my ($node, $deployment, $message, $times) = @_;
	$times = $times ? ", $times" : '';
	return $node->safe_psql('postgres',
		"SELECT turn_liveness.arm_turn('$deployment', '$message'$times)");
}

# How a turn ended: "code decided_by" for each terminal reply; empty: it has not.
sub ends
{
	my ($node, $deployment, $message) = @_;
	return $node->safe_psql(
		'postgres',
		"SELECT string_agg(coalesce(error_code, outcome) || ' ' || decided_by, ', ' ORDER BY reply_id)"
		  . " FROM turn_liveness.replies"
		  . " WHERE deployment = '$deployment' AND '$message' = ANY (message_ids)");
}

sub wait_ended
{
	my ($node, $deployment, $message) = @_;
	$node->poll_query_until('postgres',
		"SELECT count(*) > 0 FROM turn_liveness.reply"
		  . " WHERE deployment = '$deployment' AND '$message' = ANY (message_ids)");
	return ends($node, $deployment, $message);
}

sub owed
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		'SELECT count(*) FROM turn_liveness.turn WHERE outcome IS NULL');
}

# How many terminal errors there are (like a pattern of deployments).
sub failures
{
	my ($node, $like) = @_;
	$like //= '%';
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM turn_liveness.reply WHERE outcome = 'e' AND deployment LIKE '$like'");
}

# The log from there on.  Several turns that a sweep fails or offers share a message:
# each line of it has the message's beginning here.
sub turn_lines
{
	my ($node, $start) = @_;
	my $log = slurp_file($node->logfile, $start);
	1 while $log =~ s/^(\d.*? LOG:  )((?:failed|offered) turn .*)\n\t(?=(?:failed|offered) turn )/$1$2\n$1/mg;
	return $log;
}

# A psql session that stays; it goes on after an error.
sub session
{
	my ($node, $db) = @_;
	my $session = $node->background_psql($db // 'postgres', on_error_stop => 0);
	$session->set_query_timer_restart;
	return $session;
}

sub backend_pid
{
	my ($session) = @_;
	return $session->query_safe('SELECT pg_backend_pid()');
}

sub client_pid
{
	my ($session) = @_;
	return $session->{run}->{KIDS}[0]{PID};
}

# Until a session that listens has been told something that matches.
sub notified
{
	my ($session, $pattern) = @_;
	my $seen = '';

	my $found = wait_until(
		"a notification like $pattern",
		sub {
			$seen .= $session->query('SELECT 1') . "\n";
			return $seen =~ $pattern;
		});
	diag "seen: $seen" unless $found;
	return $found;
}

# The library of wall_clock.c.  Returns its path and a function that sets the
# offset in seconds, at once for all processes; nothing without a compiler.
sub wall_clock_shim
{
	my ($dir) = @_;
	my $set = sub {
		open my $file, '+<', "$dir/offset" or die $!;
		syswrite $file, pack('q', $_[0]);
		close $file;
	};

	open my $file, '>', "$dir/offset" or die $!;
	close $file;
	$set->(0);
	return
	  if system('cc', '-shared', '-fPIC', '-o', "$dir/wall_clock.so", dirname(__FILE__) . '/wall_clock.c', '-ldl') != 0;
	return ("$dir/wall_clock.so", $set);
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return $sorted[ $#sorted / 2 ];
}

# A server with a wall clock of its own, for as long as it is started from here.

package TurnLiveness::WallClock;

our @ISA = ('PostgreSQL::Test::Cluster');

sub wind
{
	my ($node) = @_;
	mkdir $node->basedir;
	($node->{tl_shim}, $node->{tl_step}) = TurnLiveness::wall_clock_shim($node->basedir);
	die 'the wall clock needs a C compiler' unless $node->{tl_shim};
	$node->{tl_offset} = 0;
	return bless $node, __PACKAGE__;
}

# Call a method of the server's under its wall clock.
sub with_clock
{
	my ($node, $method, @args) = @_;
	local $ENV{LD_PRELOAD} = $node->{tl_shim};
	local $ENV{WALL_CLOCK_OFFSET} = $node->basedir . '/offset';
	return PostgreSQL::Test::Cluster->can($method)->($node, @args);
}

sub start { my ($node, @args) = @_; return with_clock($node, 'start', @args) }
sub restart { my ($node, @args) = @_; return with_clock($node, 'restart', @args) }

# A connection over TCP that speaks just enough of the protocol to be reset.

package TurnLiveness::Socket;

sub new
{
	my ($class, $node) = @_;
	my $user = getpwuid($<);
	my $socket = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $node->port) or die "cannot connect: $!";
	my $self = bless { socket => $socket }, $class;
	my $body = pack('N', 196608) . "user\0$user\0database\0postgres\0\0";

	$socket->syswrite(pack('N', 4 + length $body) . $body);
	$self->read_until('Z');
	return $self;
}

sub read_bytes
{
	my ($self, $n) = @_;
	my $data = '';
	while (length $data < $n)
	{
		$self->{socket}->sysread($data, $n - length $data, length $data)
		  or die 'the server closed the connection';
	}
	return $data;
}

# Messages until one of that type; returns the values of data rows.
sub read_until
{
	my ($self, $until) = @_;
	my @values;

	while (1)
	{
		my ($type, $length) = unpack('aN', $self->read_bytes(5));
		my $body = $self->read_bytes($length - 4);
		die "server: $body" if $type eq 'E';
		push @values, unpack('x2 N/a', $body) if $type eq 'D';
		return @values if $type eq $until;
	}
	return;
}

sub query
{
	my ($self, $sql) = @_;
	$self->{socket}->syswrite('Q' . pack('N', 5 + length $sql) . "$sql\0");
	return ($self->read_until('Z'))[0];
}

# The list of the payload ("conversations", "lapsed") in which a session that
# listens is told of each of these names, and when: until it was told of all.
sub told
{
	my ($self, $list, @names) = @_;
	my %missing = map { $_ => 1 } @names;
	my %at;
	my $ready = IO::Select->new($self->{socket});

	while (%missing)
	{
		$ready->can_read($PostgreSQL::Test::Utils::timeout_default)
		  or die "not told of $list: ", join ' ', sort keys %missing;
		my ($type, $length) = unpack('aN', $self->read_bytes(5));
		my $body = $self->read_bytes($length - 4);
		next unless $type eq 'A' && $body =~ /"$list":\[(.*?)\]/;
		my $told = $1;
		foreach my $name (grep { $told =~ /"\Q$_\E"/ } keys %missing)
		{
			$at{$name} = Time::HiRes::time();
			delete $missing{$name};
		}
	}
	return \%at;
}

# The peer sees a reset, not an end of file.
sub reset
{
	my ($self) = @_;
	setsockopt($self->{socket}, Socket::SOL_SOCKET, Socket::SO_LINGER, pack('ii', 1, 0))
	  or die "setsockopt: $!";
	close($self->{socket});
	return;
}

1;
