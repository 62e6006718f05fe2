#!/usr/bin/perl
#
# live.pl
#
# What "make monitoring" does, on a running throw-away server that PGHOST, PGPORT
# and PGUSER name: a real exporter and a real Prometheus watch it while turns are
# armed, answered, rescued and failed.  Then the worker is stopped (SIGSTOP), goes
# on, is switched off, and is switched on again: the alerts must fire, and end.
# The dashboard is drawn from what Prometheus has seen: see draw.pl.

use strict;
use warnings;

use FindBin;
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use Time::HiRes qw(sleep time);

my $here = $FindBin::RealBin;
my ($tmp, $out) = @ENV{qw(TL_TMP TL_OUT)};
my $database = 'app';
my @children;
my $failed = 0;
my $began = time;

sub run_program
{
	my ($log, $env, @command) = @_;
	my $pid = fork // die $!;
	if ($pid == 0)
	{
		local @ENV{ keys %$env } = values %$env;
		open STDOUT, '>>', "$tmp/$log.log";
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(127);
	}
	push @children, $pid;
	return $pid;
}

sub sql
{
	my ($sql, $db) = @_;
	open my $psql, '-|', 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $db // $database, '-c', $sql or die $!;
	local $/;
	my $result = <$psql> // '';
	close $psql or die "psql: $sql";
	return $result =~ s/\n\z//r;
}

sub free_port
{
	return IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)->sockport;
}

sub write_file
{
	my ($name, $text) = @_;
	open my $file, '>', $name or die "$name: $!";
	print $file $text;
	close $file;
	return $name;
}

sub note_line { printf "%4d s  %s\n", time - $began, "@_"; return }

END
{
	my $status = $?;
	kill 'TERM', @children;
	waitpid $_, 0 foreach @children;
	$? = $status;
}
$SIG{$_} = sub { exit 1 } foreach qw(INT TERM);
$| = 1;

# --- the database, the exporter, Prometheus

sql("CREATE DATABASE $database", 'postgres');
sql(q{CREATE EXTENSION turn_liveness; CREATE ROLE monitor LOGIN; SELECT turn_liveness.grant_monitor('monitor')});

my ($exporter_port, $port) = (free_port(), free_port());
run_program(
	'exporter',
	{ DATA_SOURCE_NAME => "host=$ENV{PGHOST} port=$ENV{PGPORT} user=monitor dbname=$database sslmode=disable" },
	'prometheus-postgres-exporter', '--disable-default-metrics', '--disable-settings-metrics',
	"--extend.query-path=$here/queries.yaml", "--web.listen-address=127.0.0.1:$exporter_port");
my $config = write_file("$tmp/prometheus.yaml", <<"END");
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ['$here/rules.yaml']
scrape_configs:
- job_name: turn_liveness
  static_configs: [{targets: ['127.0.0.1:$exporter_port']}]
  metric_relabel_configs: [{target_label: server, replacement: 'db1:5432'}]
END
run_program('prometheus', {}, 'prometheus', "--config.file=$config", "--storage.tsdb.path=$tmp/prometheus.data", "--web.listen-address=127.0.0.1:$port");

my $http = HTTP::Tiny->new(timeout => 10);

# What Prometheus says now: the alerts that fire, each with its first label set
sub firing
{
	my $response = $http->get("http://127.0.0.1:$port/api/v1/alerts");
	return unless $response->{success};
	return map { $_->{labels}{alertname} => $_->{annotations}{summary} }
	  grep { $_->{state} eq 'firing' } @{ decode_json($response->{content})->{data}{alerts} };
}

my %seen;

# Until the alert fires, or does no more
sub wait_alert
{
	my ($alert, $wanted, $what) = @_;
	my $end = time + ($ENV{PG_TEST_TIMEOUT_DEFAULT} || 180);
	while (time < $end)
	{
		my %firing = firing();
		note_line("alert $_: $firing{$_}") foreach grep { !$seen{$_}++ } sort keys %firing;
		return note_line("ok: $what") if !exists $firing{$alert} == !$wanted;
		sleep 0.5;
	}
	note_line("not ok: $what");
	$failed++;
	return;
}

# --- turns

my $load = write_file("$tmp/load.sql", <<'END');
\set n random(1, 1000000000)
\set kind random(1, 100)
\set pushed random(0, 2)
SELECT turn_liveness.arm_turn('conv-' || :n, 'm1', jsonb_build_object('platform', CASE :pushed WHEN 0 THEN 'slack' ELSE 'web' END), admission => '8 s', silence => '8 s', rescue => CASE WHEN :kind BETWEEN 9 AND 12 THEN interval '20 s' END);
\if :kind > 6
SELECT turn_liveness.start_turn('conv-' || :n, 'm1', 'worker-' || :client_id);
SELECT turn_liveness.heartbeat('conv-' || :n, '{m1}', '{1}');
\endif
\if :kind = 13
SELECT turn_liveness.suspend_turn('conv-' || :n, 'm1', '15 s', 'approve it', 1);
\endif
\if :kind = 14
SELECT turn_liveness.fail_turn('conv-' || :n, 'm1', 'Stopped.', 'CANCELLED');
\endif
\if :kind > 14
SELECT turn_liveness.post_update('conv-' || :n, 'm1', '{"status": "thinking"}', 1);
\sleep 300 ms
SELECT turn_liveness.commit_terminal_reply('conv-' || :n, '{m1}', '{"content": "42"}', '{1}');
SELECT turn_liveness.commit_terminal_reply(deployment, ARRAY[message_id], '{"content": "rescued"}', ARRAY[generation]) FROM turn_liveness.rescue_turns(1) WHERE :kind < 40;
\endif
SELECT turn_liveness.ack_replies('gateway', array_agg(reply_id)) FROM turn_liveness.claim_replies('gateway', platforms => '{web,slack}', max_replies => 50) HAVING count(*) > 0;
END
run_program('pgbench', {}, 'pgbench', '-n', '-c', 8, '-R', 15, '-T', 900, '-f', $load, $database);
# a push that no gateway takes, and a turn that a transaction holds
sql(q{SELECT turn_liveness.reject_turn('nowhere', 'm1', '{"platform": "telegram"}', 'no')});
sql(q{SELECT turn_liveness.arm_turn('held', 'm1', admission => '1 s', silence => '1 s')});
my $holder = run_program('holder', { PGAPPNAME => 'holder' },
	'psql', '-XAtq', '-d', $database, '-c', q{BEGIN; SELECT turn_liveness.fail_turn('held', 'm1', 'x'); SELECT pg_sleep(900)});
note_line("Prometheus watches database $database");

# --- the worker

my $worker = sub { sql('SELECT worker_pid FROM turn_liveness.stat') };
wait_alert('TurnLivenessTurnsHeld', 1, 'an open transaction that holds a lapsed turn is told of');
kill 'TERM', $holder;
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'}, 'postgres');
wait_alert('TurnLivenessTurnsHeld', 0, 'and no more when it has ended');

my $pid = $worker->();
kill 'STOP', $pid;
note_line("worker $pid is stopped (SIGSTOP)");
wait_alert('TurnLivenessClockStopped', 1, 'the alert for a stopped worker fires');
kill 'CONT', $pid;
wait_alert('TurnLivenessClockStopped', 0, 'and ends when it goes on');

sql("ALTER DATABASE $database SET turn_liveness.enabled = off", 'postgres');
note_line('turn_liveness.enabled is off');
wait_alert('TurnLivenessWorkerDown', 1, 'the alert for a database without a worker fires');
sql("ALTER DATABASE $database RESET turn_liveness.enabled", 'postgres');
wait_alert('TurnLivenessWorkerDown', 0, 'and ends with the next worker');
wait_alert('TurnLivenessPushStuck', 1, 'so does that for a push that no gateway takes');
# none fails while there is no worker, so it may have ended again
wait_alert('TurnLivenessTurnsFail', 1, 'and that for turns that fail') unless $seen{TurnLivenessTurnsFail};

# --- the dashboard

my $svg = "$out/dashboard.svg";
system($^X, "$here/draw.pl", "http://127.0.0.1:$port", int($began), $svg) == 0 or $failed++;
note_line('alerts that were seen: ' . join ' ', sort keys %seen);
print $failed ? "monitoring: $failed FAILED\n" : "monitoring: ok\n";
exit($failed ? 1 : 0);
