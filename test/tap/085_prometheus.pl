# Prometheus: the exporter's metrics, the rules and their unit tests, and that the
# dashboard and the rules ask for nothing that the exporter does not tell.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $dir = "$FindBin::RealBin/../monitoring";
my ($rules, $tests, $queries) = map { slurp_file("$dir/$_") } qw(rules.yaml rules_test.yaml queries.yaml);
my $dashboard = decode_json(slurp_file("$dir/dashboard.json"));

sub program
{
	my ($name) = @_;
	return (grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/bin')[0];
}

# --- the rules

my %recorded = map { $_ => 1 } $rules =~ /^  - record: (\S+)$/mg;
my @alerts = $rules =~ /^  - alert: (\S+)$/mg;
cmp_ok(scalar @alerts, '>=', 12, 'there are alerts: ' . @alerts);
foreach my $alert (@alerts)
{
	like($tests, qr/^  - eval_time: \S+\n    alertname: $alert\n    exp_alerts:\n    - exp_labels: /m, "$alert: a unit test sees it fire");
	like($tests, qr/alertname: $alert, exp_alerts: \[\]/, '... and one sees that it does not');
}
my $promtool = program('promtool');
SKIP:
{
	skip 'promtool is not installed', 2 unless $promtool;
	command_ok([ $promtool, 'check', 'rules', "$dir/rules.yaml" ], 'promtool checks the rules');
	command_ok([ $promtool, 'test', 'rules', "$dir/rules_test.yaml" ], 'and their unit tests pass');
}

# --- the metrics

my $exporter = program('prometheus-postgres-exporter');
unless ($exporter)
{
	note 'prometheus-postgres-exporter is not installed';
	done_testing();
	exit;
}

my $node = new_node('main', "autovacuum = off\nturn_liveness.attach_capacity = 64");
$node->safe_psql(
	'postgres', q{
CREATE ROLE monitor LOGIN;
SELECT turn_liveness.grant_monitor('monitor');
SELECT count(turn_liveness.arm_turn('d', 'm' || i, '{"platform": "web"}', admission => '1 h', silence => '1 h')) FROM generate_series(1, 7) i;
SELECT turn_liveness.arm_turn('never', 'm1', '{"platform": "slack"}', admission => '1 s', silence => '1 s');
SELECT turn_liveness.fail_turn('d', 'm1', 'x', 'CANCELLED');
SELECT count(turn_liveness.reject_turn('prom', m, '{"platform": "prom"}', 'no')) FROM unnest('{m1,m2}'::text[]) m;
SELECT turn_liveness.commit_terminal_reply('d', '{m2}', '{"content": "42"}');
SELECT turn_liveness.heartbeat('d', '{m3}');
});
wait_until('it has failed', sub { advance($node, '2 s'); ends($node, 'never', 'm1') ne '' });
my $attached = session($node);
$attached->query_safe(q{SELECT count(turn_liveness.attach_worker('a' || i)) FROM generate_series(1, 16) i});

my $port = PostgreSQL::Test::Cluster::get_free_port();
my ($out, $err) = ('', '');
my $run;
{
	local $ENV{DATA_SOURCE_NAME} = sprintf('host=%s port=%s user=monitor dbname=postgres sslmode=disable', $node->host, $node->port);
	$run = IPC::Run::start(
		[ $exporter, '--disable-default-metrics', '--disable-settings-metrics', "--extend.query-path=$dir/queries.yaml", "--web.listen-address=127.0.0.1:$port" ],
		'<', \undef, '>', \$out, '2>', \$err);
}

# Everything that it tells, and each value by its name and labels
my ($metrics, %value) = ('');

sub scrape
{
	my $response = HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/metrics");
	$metrics = $response->{content} // '';
	%value = ();
	while ($metrics =~ /^(turn_liveness\w*)\{(.*?)\} (\S+)$/mg)
	{
		my ($name, $labels, $value) = ($1, $2, $3);
		$labels = join(',', grep { !/^(server|datname)=/ } split /,(?=\w+=")/, $labels);
		$value{ $labels ? "$name\{$labels}" : $name } = $value;
	}
	return $response->{success} && %value;
}

# Until a metric has that value
sub shows
{
	my ($name, $value, $what) = @_;
	return ok(wait_until("$name is $value", sub { scrape() && ($value{$name} // '') eq $value }), $what) || diag $metrics;
}

ok(wait_until('the exporter answers', \&scrape), 'the exporter answers');
my %expected = (
	'turn_liveness_worker_up' => 1,
	'turn_liveness_sweep_enabled' => 1,
	'turn_liveness_lease_capacity' => 131072,
	'turn_liveness_attach_capacity' => 64,
	'turn_liveness_attach_used' => 16,
	'turn_liveness_turns_owed' => 5,
	'turn_liveness_armed' => 8,
	'turn_liveness_answered' => 1,
	'turn_liveness_failed_turns{code="stopped"}' => 1,
	'turn_liveness_failed_turns{code="rejected"}' => 2,
	'turn_liveness_failed_turns{code="WORKER_NEVER_STARTED"}' => 1,
	'turn_liveness_failed_turns{code="WORKER_UNRESPONSIVE"}' => 0,
	'turn_liveness_owed_turns{platform="web",state="running"}' => 1,
	'turn_liveness_owed_turns{platform="web",state="waiting"}' => 4,
	'turn_liveness_owed_overdue_seconds{platform="web",state="waiting"}' => 0,
	'turn_liveness_undelivered_replies{platform="prom",state="due"}' => 2,
	'turn_liveness_worker_has_problem{problem=""}' => 0,
	'turn_liveness_hold_active{cause="sweep off"}' => 0,
	'turn_liveness_notification_queue_usage' => 0,
);
is($value{$_}, $expected{$_}, $_) or diag $err foreach sort keys %expected;
# the worker ticks each second; one scrape or two find it late when the machine stalls
my @ages = map { wait_until('the exporter answers', \&scrape); $value{'turn_liveness_tick_age_seconds'} // 99 } 1 .. 5;
cmp_ok(median(@ages), '<', 10, 'turn_liveness_tick_age_seconds') or diag "@ages";

my (%told, $group, @missing);
foreach my $line (split /\n/, $queries)
{
	$group = $1 if $line =~ /^(\w+):/;
	next unless $line =~ /^    - (\w+): \{usage: "(?:GAUGE|COUNTER)"/;
	my $name = "${group}_$1";
	push @missing, $name unless $metrics =~ /^$name\{/m;
	$told{$name} = 1;
}
is("@missing", '', 'every metric of the file comes out');

# --- what the rules and the panels ask for

my %asks = map { ("rules.yaml: $_" => $_) } $rules =~ /^    expr: (.*)$/mg;
foreach my $panel (@{ $dashboard->{panels} })
{
	$asks{"panel $panel->{title}: $_->{expr}"} = $_->{expr} foreach @{ $panel->{targets} };
}
my (%asked, @unknown);
foreach my $where (sort keys %asks)
{
	foreach my $name ($asks{$where} =~ s/"[^"]*"//gr =~ /\b(turn_liveness[\w:]*)/g)
	{
		$asked{$name} = 1;
		push @unknown, "$where: $name" unless $told{$name} || $recorded{$name};
	}
}
is(join("\n", @unknown), '', 'the rules and the panels ask for what there is: ' . keys(%asked) . ' names');
is(join(' ', grep { !$asked{$_} } sort keys %told, keys %recorded), '', 'and leave nothing of it out');
is(join(' ', grep { !/^TurnLiveness/ } @alerts), '', 'names of alerts');

# --- what changes

$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.sweep = off');
shows('turn_liveness_sweep_enabled', 0, 'the sweep is off');
shows('turn_liveness_hold_active{cause="sweep off"}', 1, 'which holds failures back');
arm($node, 'late', 'm1', q{'{"platform": "web"}', admission => '1 s', silence => '1 s'});
advance($node, '1 min');
ok( wait_until('it is overdue', sub { scrape() && ($value{'turn_liveness_owed_overdue_seconds{platform="web",state="lapsed"}'} // 0) > 50 }),
	'a turn is overdue');
my $hold = session($node);
$hold->query_safe(q{BEGIN; SELECT turn_liveness.fail_turn('late', 'm1', 'x')});
shows('turn_liveness_turns_blocked', 1, 'an open transaction holds it');
$hold->query_safe('ROLLBACK; BEGIN; LOCK TABLE turn_liveness.reply IN SHARE MODE');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET turn_liveness.sweep');
ok(wait_until('a step waits', sub { scrape() && $value{'turn_liveness_worker_has_problem{problem="waits for a lock in step \\"failing lapsed turns\\""}'} }),
	'a step of the worker waits: the metric has no number that changes');
$hold->query_safe('ROLLBACK');
shows('turn_liveness_worker_has_problem{problem=""}', 0, 'then no more');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET turn_liveness.enabled = off');
shows('turn_liveness_worker_up', 0, 'no worker');
shows('turn_liveness_worker_has_problem{problem="turn_liveness.enabled is off"}', 1, 'and why');
is($value{'turn_liveness_tick_age_seconds'}, 'NaN', 'none ticks');

$run->pump_nb;
$run->kill_kill(grace => 5);
# this exporter is older than 17, which moved some columns elsewhere
$err =~ s/^.*name=bgwriter .*\n//mg;
unlike($err, qr/level=(error|warn)/, 'the exporter has no complaint');
$_->quit foreach $hold, $attached;
$node->stop;
done_testing();
