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

our @EXPORT = qw(need_plproxy new_proxy not_its_own node_option of_node at_proxy fails_with);

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

# The blocks of SQL that the README shows.
sub of_readme
{
	my ($section) = slurp_file("$FindBin::RealBin/../../README.md") =~ /^### PL\/Proxy\n(.*?)^##? /ms;
	return $section =~ /^ *```sql\n(.*?)^ *```$/gms;
}

# A database "proxy" in that server, over these nodes, made as the README says.
sub new_proxy
{
	my ($server, $timeout, @nodes) = @_;
	my $i = 0;
	my ($sql) = of_readme();
	my $options = join(', ', map { node_option($i++, $_) } @nodes);

	$server->safe_psql('postgres', 'CREATE DATABASE proxy');
	$server->command_ok(
		[   'psql', '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1', '-d', $server->connstr('proxy'),
			'-f', "$FindBin::RealBin/../../sql/install/turn_liveness_proxy.sql" ],
		'the file is loaded');
	$sql =~ s/\bp0 .*?'\);/$options);/s and $sql =~ s/query_timeout '5'/query_timeout '$timeout'/
	  or die "the README has another server: $sql";
	$sql =~ s/^CREATE ROLE .*?\n//gm if $server->safe_psql('postgres', "SELECT 1 FROM pg_roles WHERE rolname = 'my_worker'");
	is( $server->safe_psql('proxy', $sql),
		join("\n", '|', map { "$_|running|" } 0 .. $#nodes),
		'the nodes are named, roles are granted, as the README says');
	return;
}

# What each node deletes of the other's when their number was doubled to four.
sub not_its_own
{
	my ($node) = @_;
	return (of_readme())[1] =~ s/\$k/$node/gr;
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
	my ($rc, $out, $err) = $server->psql('proxy', $sql, extra_params => [ '-U', $role // 'my_gateway' ]);
	return wantarray ? ($out, $err) : $err =~ /ERROR/ ? $err : $out;
}

sub fails_with
{
	my ($server, $sql, $state, $pattern, $what) = @_;
	my ($rc, $out, $err) = $server->psql('proxy', $sql,
		extra_params => [ '-U', 'my_gateway', '-v', 'VERBOSITY=verbose' ]);
	like($err, qr/ERROR:  $state: .*$pattern/s, $what);
	return;
}

1;
