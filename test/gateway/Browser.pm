# Browser.pm
#
# A headless Chromium for the page's test, steered through the pipe that it
# offers for that (--remote-debugging-pipe): JSON messages, each ended by a zero
# byte, on descriptors 3 and 4.

package Browser;

use strict;
use warnings;

use Carp;
use IO::Select;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;

my $program = '/usr/bin/chromium';

sub installed
{
	return -x $program;
}

sub start
{
	my ($class) = @_;
	my $home = PostgreSQL::Test::Utils::tempdir();
	my $log = "$PostgreSQL::Test::Utils::tmp_check/chromium_$$.log";

	pipe(my $commands_out, my $commands_in) or croak "pipe: $!";
	pipe(my $answers_out, my $answers_in) or croak "pipe: $!";
	my $pid = fork() // croak "fork: $!";
	if ($pid == 0)
	{
		# first out of the way, then to the numbers that are expected
		my $in = POSIX::dup2(fileno $commands_out, 20);
		my $out = POSIX::dup2(fileno $answers_in, 21);
		POSIX::dup2($in, 3);
		POSIX::dup2($out, 4);
		POSIX::close($_) foreach (20, 21);
		open STDOUT, '>', $log;
		open STDERR, '>&', \*STDOUT;
		@ENV{qw(HOME XDG_CONFIG_HOME XDG_CACHE_HOME TMPDIR)} = ($home) x 4;
		exec $program, qw(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
		  --disable-background-networking --disable-component-update --disable-sync
		  --disable-dev-shm-usage --remote-debugging-pipe), "--user-data-dir=$home/profile", 'about:blank'
		  or POSIX::_exit(127);
	}
	close $commands_out;
	close $answers_in;
	return bless {
		pid    => $pid,
		in     => $commands_in,
		out    => $answers_out,
		buffer => '',
		calls  => 0,
		log    => $log
	}, $class;
}

# One command and its result; what else is told meanwhile is passed over.
sub call
{
	my ($self, $method, $params, $session) = @_;
	my $id = ++$self->{calls};
	my $message = { id => $id, method => $method, params => $params // {} };
	$message->{sessionId} = $session if defined $session;
	my $text = encode_json($message) . "\0";

	local $SIG{PIPE} = 'IGNORE';
	syswrite($self->{in}, $text) == length $text or croak "cannot tell the browser: $!";
	my $select = IO::Select->new($self->{out});
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (1)
	{
		while ($self->{buffer} =~ s/^([^\0]*)\0//)
		{
			my $answer = decode_json($1);
			next unless ($answer->{id} // 0) == $id;
			croak "$method: $answer->{error}{message}" if $answer->{error};
			return $answer->{result};
		}
		until ($select->can_read(1))    # a signal ends the wait too
		{
			croak "the browser did not answer $method" if time > $end;
		}
		sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer})
		  or croak 'the browser ended: ' . PostgreSQL::Test::Utils::slurp_file($self->{log});
	}
}

# Opens a page in a tab of its own and waits until it is loaded.
sub open_page
{
	my ($self, $url) = @_;
	my $target = $self->call('Target.createTarget', { url => 'about:blank' })->{targetId};
	my $session = $self->call('Target.attachToTarget', { targetId => $target, flatten => \1 })->{sessionId};
	my $page = bless { browser => $self, session => $session }, 'Browser::Page';

	$self->call('Page.enable', {}, $session);
	my $result = $self->call('Page.navigate', { url => $url }, $session);
	croak "$url: $result->{errorText}" if $result->{errorText};
	$page->run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))");
	return $page;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	eval { $self->call('Browser.close') };
	close $self->{in};
	waitpid delete $self->{pid}, 0;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local $?;
	return unless $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid delete $self->{pid}, 0;
	return;
}

package Browser::Page;

use strict;
use warnings;

use Carp;

# The value of a JavaScript expression; a promise is waited for.
sub run
{
	my ($self, $expression) = @_;
	my $result = $self->{browser}->call('Runtime.evaluate',
		{ expression => $expression, awaitPromise => \1, returnByValue => \1 }, $self->{session});
	croak "$expression: " . ($result->{exceptionDetails}{exception}{description} // 'failed')
	  if $result->{exceptionDetails};
	return $result->{result}{value};
}

1;
