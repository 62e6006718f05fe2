# Gateway.pm
#
# For the Perl tests: gateways as processes, and clients that hold a stream over
# a socket. Nothing here waits for a time to pass: it reads until what it waits
# for has come, and a test that waits in vain dies after the usual time-out.

package Gateway;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use IO::Select;
use JSON::PP;
use PostgreSQL::Test::Utils;

my $source = dirname(abs_path(__FILE__));
my $programs;

# Escapes a conversation's name for a URL.
sub escape
{
	my ($name) = @_;
	$name =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge;
	return $name;
}

# Builds the programs once for each test script, away from the sources.
sub programs
{
	return $programs if defined $programs;
	$programs = "$PostgreSQL::Test::Utils::tmp_check/gateway_$$";
	my @make = ('make', '-s', '-C', $source, "OUT=$programs", 'all');
	push @make, "PG_CONFIG=$ENV{PG_CONFIG}" if $ENV{PG_CONFIG};
	delete local $ENV{MAKEFLAGS};
	delete local $ENV{MAKELEVEL};
	system(@make) == 0 or croak "cannot build the gateway";
	return $programs;
}

# Makes the database "postgres" of the node ready for gateways.
sub install
{
	my ($class, $node) = @_;
	$node->safe_psql('postgres', 'CREATE EXTENSION turn_liveness');
	$node->safe_psql('postgres', PostgreSQL::Test::Utils::slurp_file("$source/schema.sql"));
	return;
}

# Starts a gateway of the database "postgres" of the node and waits until it
# listens and has its connections.
sub start
{
	my ($class, $node, $name, @options) = @_;
	my $program = programs() . '/gateway';

	my $self = bless {
		name   => $name,
		buffer => '',
		lines  => [],
		seen   => [],
		http   => HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default)
	}, $class;

	pipe(my $out, my $in) or croak "pipe: $!";
	my $pid = fork() // croak "fork: $!";
	if ($pid == 0)
	{
		@ENV{qw(PGHOST PGPORT PGDATABASE)} = ($node->host, $node->port, 'postgres');
		open STDOUT, '>&', $in;
		close $in;
		exec $program, '--port=0', "--name=$name", '--beat-ms=200', @options;
		die "cannot run $program: $!";
	}
	close $in;
	$self->{pid} = $pid;
	$self->{out} = $out;
	($self->{port}) = $self->wait_for(qr/^listening on 127\.0\.0\.1:(\d+)$/);
	$self->wait_for(qr/^connected to the database$/);
	return $self;
}

# Reads the gateway's lines until one matches; gives what was captured. A line
# is seen once.
sub wait_for
{
	my ($self, $regex) = @_;
	my $select = IO::Select->new($self->{out});

	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (1)
	{
		while (defined(my $line = shift @{ $self->{lines} }))
		{
			push @{ $self->{seen} }, $line;
			print "# $self->{name}: $line\n";
			if (my @found = $line =~ $regex)
			{
				return wantarray ? @found : $found[0];
			}
		}
		until ($select->can_read(1))    # a signal ends the wait too
		{
			croak "$self->{name} never said $regex" if time > $end;
		}
		sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer})
		  or croak "$self->{name} ended and never said $regex";
		while ($self->{buffer} =~ s/^([^\n]*)\n//)
		{
			push @{ $self->{lines} }, $1;
		}
	}
}

# Everything that it wrote, until it ended.
sub rest
{
	my ($self) = @_;
	1 while sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer});
	return @{ $self->{seen} }, @{ $self->{lines} }, split /\n/, $self->{buffer};
}

# Posts a message; gives the response with its body decoded.
sub post
{
	my ($self, $path, $body) = @_;
	my $response = $self->{http}->post("http://127.0.0.1:$self->{port}$path",
		{ content => defined $body ? encode_json($body) : '' });
	$response->{json} = eval { decode_json($response->{content}) };
	return $response;
}

# Sends a message; gives the worker's process id. "on => 1": not before the
# database has had the worker's first beat.
sub send_message
{
	my ($self, $conversation, $id, %body) = @_;
	my $started = delete $body{on};
	my $response = $self->post('/message/' . escape($conversation), { messageId => $id, %body });
	croak "$self->{name} refused $id: $response->{status} $response->{content}"
	  unless $response->{status} == 202;
	$self->wait_for(qr/^worker $response->{json}{worker} beats$/) if $started;
	return $response->{json}{worker};
}

# Ends it: SIGKILL unless told otherwise.
sub end
{
	my ($self, $signal) = @_;
	return unless $self->{pid};
	kill $signal // 'KILL', $self->{pid};
	waitpid delete $self->{pid}, 0;
	return $?;
}

sub DESTROY
{
	my ($self) = @_;
	local $?;
	$self->end('TERM');
	return;
}

package Gateway::Client;

use strict;
use warnings;

use Carp;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;

# A client of one conversation. It keeps what it saw when it changes gateways.
sub new
{
	my ($class, $gateway, $conversation) = @_;
	my $self = bless {
		conversation => $conversation,
		ends         => {},               # how often each message ended
		saw          => {},               # 'message' or the code, for each message
		updates      => {},               # the updates of each message
		wrong        => []
	}, $class;
	$self->connect_to($gateway);
	return $self;
}

sub connect_to
{
	my ($self, $gateway) = @_;
	my $id = defined $self->{last_id} ? "Last-Event-ID: $self->{last_id}\r\n" : '';

	$self->{socket} = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $gateway->{port}) or croak "cannot connect: $!";
	$self->{buffer} = '';
	syswrite $self->{socket},
		'GET /stream/'
	  . Gateway::escape($self->{conversation})
	  . " HTTP/1.0\r\nAccept: text/event-stream\r\n$id\r\n";
	$self->more until $self->{buffer} =~ s/^HTTP\S+ 200 .*?\r\n\r\n//s;
	return;
}

# the connection is cut, and what was not read yet is lost
sub cut
{
	my ($self) = @_;
	close delete $self->{socket};
	$self->{buffer} = '';
	return;
}

# Waits for more bytes; false when the stream has ended.
sub more
{
	my ($self) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	# a child that is stopped or ends sends a signal, which ends the wait too
	until (IO::Select->new($self->{socket})->can_read(1))
	{
		croak "the client of $self->{conversation} heard nothing more" if time > $end;
	}
	my $len = sysread $self->{socket}, $self->{buffer}, 65536, length $self->{buffer};
	return $len;
}

# Takes one event and gives its name, or undef when the stream has ended.
sub event
{
	my ($self) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (1)
	{
		# the gateway's pings are no events
		croak "the client of $self->{conversation} waits in vain" if time > $end;
		while ($self->{buffer} =~ s/^(.*?)\n\n//s)
		{
			my %field = map { /^(\w+): (.*)/ ? ($1 => $2) : () } split /\n/, $1;
			next unless defined $field{data};
			$self->note(\%field);
			return $field{event};
		}
		return undef unless $self->more;
	}
}

sub note
{
	my ($self, $field) = @_;
	my $data = decode_json($field->{data});
	my $name = $data->{conversationId};

	utf8::encode($name);
	push @{ $self->{wrong} }, "of $name: $field->{data}" if $name ne $self->{conversation};
	push @{ $self->{wrong} }, "id at $field->{event}"
	  if defined $field->{id} xor $field->{event} =~ /^(complete|update)$/;
	$self->{last_id} = $field->{id} if defined $field->{id};
	if ($field->{event} eq 'update')
	{
		push @{ $self->{wrong} }, "update after the end: $field->{data}" if $self->{ends}{ $data->{messageId} };
		push @{ $self->{updates}{ $data->{messageId} } }, $data;
	}
	foreach my $message (@{ $data->{processedMessageIds} })
	{
		$self->{saw}{$message} = 'message' if $field->{event} eq 'message';
		$self->{saw}{$message} = $data->{errorCode} if $field->{event} eq 'agent-error';
		$self->{ends}{$message}++ if $field->{event} eq 'complete';
	}
	return;
}

# Reads until a message has so many updates; gives the last of them.
sub update
{
	my ($self, $message, $count) = @_;
	until (@{ $self->{updates}{$message} // [] } >= $count)
	{
		defined $self->event or croak "the stream ended before update $count of $message";
	}
	return $self->{updates}{$message}[ $count - 1 ];
}

# Reads until a message has ended; gives what the client saw of it.
sub outcome
{
	my ($self, $message) = @_;
	until ($self->{ends}{$message})
	{
		defined $self->event or croak "the stream ended before $message";
	}
	return $self->{saw}{$message};
}

1;
