# What the tests of attached sessions share: sessions that hold deployments, and
# how they end.

package Attached;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use Test::More;
use TurnLiveness;

our @EXPORT = qw(attach_on attached arm_long wait_gone kill_client settle is_owed);

my $node;
my $dead = 0;

# All that follows is on this server.
sub attach_on
{
	($node) = @_;
	return;
}

# A session that holds these deployments.
sub attached
{
	my (@deployments) = @_;
	my $session = session($node);
	$session->{server_pid} = backend_pid($session);
	foreach my $deployment (@deployments)
	{
		is($session->query_safe("SELECT turn_liveness.attach_worker('$deployment')"),
			$session->{server_pid}, "$deployment: attach_worker returns the server process's id");
	}
	return $session;
}

# Arms a turn that nothing but a death would fail soon.
sub arm_long
{
	my ($deployment, $message) = @_;
	is(arm($node, $deployment, $message // 'm', q{admission => '20 h', silence => '20 h', duration => '20 h'}),
		'armed', "$deployment: armed");
	return;
}

# Until the server has no such process any more
sub wait_gone
{
	my ($pid) = @_;
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
	return;
}

sub kill_client
{
	my ($session) = @_;
	kill 'KILL', client_pid($session);
	eval { $session->quit };
	wait_gone($session->{server_pid}) if $session->{server_pid};
	return;
}

# So that what a death led to has been done: another death after it is through.
sub settle
{
	my $name = 'settle' . ++$dead;
	my $session = session($node);
	arm($node, $name, 'm', q{admission => '1h'});
	$session->query_safe("SELECT turn_liveness.attach_worker('$name')");
	$session->quit;
	is(wait_ended($node, $name, 'm'), 'WORKER_DIED session', "$name: a later death is through");
	return;
}

sub is_owed
{
	my ($deployment, $message, $what) = @_;
	is( $node->safe_psql('postgres',
			"SELECT count(*) FROM turn_liveness.turns WHERE deployment = '$deployment' AND message_id = '$message'"),
		1, $what);
	return;
}

1;
