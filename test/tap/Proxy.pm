# What the tests of several servers share: a proxy database over PL/Proxy, and
# its nodes.

package Proxy;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TurnLiveness;

our @EXPORT = qw(need_plproxy new_proxy node_option of_node at_proxy fails_with);

# Ends the test where PL/Proxy is not there.
sub need_plproxy
{
	my ($sharedir) = map { chomp; $_ } `pg_config --sharedir`;
	my ($major) = `pg_config --version` =~ /(\d+)/;
	plan skip_all => "PL/Proxy (Debian: postgresql-$major-plproxy) is not installed"
	  unless -e "$sharedir/extension/plproxy.control";
	return;
}

# How the proxy reaches a node.
sub node_option
{
	my ($i, $node) = @_;
	return "p$i '" . "host=" . $node->host . ' port=' . $node->port . " dbname=postgres'";
}

# A database "proxy" in that server, over these nodes; with the roles gw and wk,
# which are there already.
sub new_proxy
{
	my ($server, $options, @nodes) = @_;
	my $i = 0;
	$server->safe_psql('postgres', 'CREATE DATABASE proxy');
	$server->command_ok(
		[   'psql', '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1', '-d', $server->connstr('proxy'),
			'-f', "$FindBin::RealBin/../../sql/install/turn_liveness_proxy.sql" ],
		'the file is loaded');
	$server->safe_psql('proxy', "CREATE SERVER turn_liveness FOREIGN DATA WRAPPER plproxy OPTIONS ("
		  . join(', ', $options, map { node_option($i++, $_) } @nodes) . ");\n"
		  . "CREATE USER MAPPING FOR PUBLIC SERVER turn_liveness;\n"
		  . "SELECT turn_liveness.grant_gateway('gw'), turn_liveness.grant_worker('wk')");
	return;
}

# So many names that live on that node.
sub of_node
{
	my ($server, $node, $count, $prefix) = @_;
	return split /\n/, $server->safe_psql('proxy',
		"SELECT c FROM (SELECT '$prefix' || i AS c FROM generate_series(1, 1000) i) x"
		  . " WHERE turn_liveness.node_of(c) = $node LIMIT $count");
}

# What a new session of the role gets; with warnings and errors where wanted.
sub at_proxy
{
	my ($server, $sql, $role) = @_;
	my ($rc, $out, $err) = $server->psql('proxy', $sql, extra_params => [ '-U', $role // 'gw' ]);
	return wantarray ? ($out, $err) : $err =~ /ERROR/ ? $err : $out;
}

sub fails_with
{
	my ($server, $sql, $state, $pattern, $what) = @_;
	my ($rc, $out, $err) = $server->psql('proxy', $sql,
		extra_params => [ '-U', 'gw', '-v', 'VERBOSITY=verbose' ]);
	like($err, qr/ERROR:  $state: .*$pattern/s, $what);
	return;
}

1;
