# Every verdict is right: 100,000 deployments beat from several connections
# while turns come and go, and each answer is compared with the truth.
#
# The truth: each churner alone arms and ends the turns of its own deployments,
# so it knows what is owed there after each of its commits.  Beaters beat the
# same deployments meanwhile; of those that no churner changes they know the truth,
# too.  The real worker sweeps all the time.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $SECONDS = 20;
my $DEPLOYMENTS = 100_000;
my $CHURNERS = 3;
my $OWN = 400;
my $LEAST = 501;	# checks that each session makes, however slow the machine is


my $node = new_node(
	'main', q{
turn_liveness.lease_capacity = 150000
turn_liveness.mass_silence_hold = 0
max_wal_size = 4GB
});

$node->safe_psql(
	'postgres', q{
-- what was wrong, and how much was checked
CREATE TABLE public.wrong (who text, what text, deployment text, expected int, got int);
CREATE TABLE public.checked (who text, n bigint, zeros bigint);

-- d = deployment: arms, ends, rolls back, and after each commit beats and compares
CREATE PROCEDURE public.churn(who int, own int, seconds int, at_least int) LANGUAGE plpgsql AS $$
DECLARE
	owed int[] := array_fill(0, ARRAY[own]);		-- turns of each
	serial int[] := array_fill(0, ARRAY[own]);		-- next message, per deployment
	done int[] := array_fill(0, ARRAY[own]);		-- ended up to here
	until timestamptz := clock_timestamp() + seconds * interval '1 second';
	d int; o int; s int; e int; kind int; got int; n bigint := 0; zeros bigint := 0;
	name text; verdict text;
BEGIN
	WHILE clock_timestamp() < until OR n < at_least OR zeros <= 50 LOOP
		d := 1 + floor(random() * own);
		name := format('churn%s_%s', who, d);
		s := serial[d]; e := done[d]; o := s - e;
		kind := floor(random() * 12);
		IF kind < 4 OR o = 0 THEN							-- arm one, or some
			FOR i IN 1 .. 1 + floor(random() * 3)::int LOOP
				s := s + 1;
				verdict := turn_liveness.arm_turn(name, s::text, admission => '1h', silence => '1h');
				IF verdict <> 'armed' THEN
					INSERT INTO public.wrong VALUES ('churn', 'arm ' || verdict, name, o, s);
				END IF;
			END LOOP;
		ELSIF kind < 7 THEN									-- end the oldest
			e := e + 1;
			verdict := turn_liveness.commit_terminal_reply(name, ARRAY[e::text], '{}');
			IF verdict <> 'won' THEN
				INSERT INTO public.wrong VALUES ('churn', 'commit ' || verdict, name, o, e);
			END IF;
		ELSIF kind = 7 THEN									-- end all of them
			IF turn_liveness.fail_deployment(name) <> o THEN
				INSERT INTO public.wrong VALUES ('churn', 'fail_deployment', name, o, NULL);
			END IF;
			e := s;
		ELSIF kind = 8 THEN									-- end one in a savepoint that is rolled back
			BEGIN
				PERFORM turn_liveness.commit_terminal_reply(name, ARRAY[(e + 1)::text], '{}');
				PERFORM turn_liveness.heartbeat(name);
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		ELSIF kind = 9 THEN									-- arm one in a savepoint that is rolled back, end another for good
			BEGIN
				PERFORM turn_liveness.arm_turn(name, (s + 1)::text, admission => '1h', silence => '1h');
				PERFORM turn_liveness.heartbeat(name);
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
			e := e + 1;
			PERFORM turn_liveness.commit_terminal_reply(name, ARRAY[e::text], '{}');
		ELSIF kind = 10 THEN								-- do it all, then roll back
			PERFORM turn_liveness.arm_turn(name, (s + 1)::text, admission => '1h', silence => '1h');
			PERFORM turn_liveness.commit_terminal_reply(name, ARRAY[(e + 1)::text], '{}');
			PERFORM turn_liveness.heartbeat(name);
			ROLLBACK;
		ELSE												-- arm and end in one transaction
			s := s + 1;
			PERFORM turn_liveness.arm_turn(name, s::text, admission => '1h', silence => '1h');
			e := e + 1;
			PERFORM turn_liveness.discharge_turn(name, e::text);
		END IF;
		COMMIT;
		serial[d] := s; done[d] := e; o := s - e;

		-- by itself, twice: a probe and what was remembered
		FOR i IN 1 .. 2 LOOP
			got := turn_liveness.heartbeat(name);
			n := n + 1;
			IF got = 0 THEN zeros := zeros + 1; END IF;
			IF got <> o THEN
				INSERT INTO public.wrong VALUES ('churn', 'heartbeat', name, o, got);
			END IF;
		END LOOP;
		-- the oldest that is owed, the last that has ended
		IF o > 0 AND turn_liveness.heartbeat(name, ARRAY[(e + 1)::text, s::text]) <> (CASE WHEN o > 1 THEN 2 ELSE 1 END) THEN
			INSERT INTO public.wrong VALUES ('churn', 'named, owed', name, o, NULL);
		END IF;
		IF e > 0 AND turn_liveness.heartbeat(name, ARRAY[e::text]) <> 0 THEN
			INSERT INTO public.wrong VALUES ('churn', 'named, ended', name, o, NULL);
		END IF;
		n := n + 2;
		COMMIT;
	END LOOP;
	-- all of them once more
	FOR d IN 1 .. own LOOP
		name := format('churn%s_%s', who, d);
		got := turn_liveness.heartbeat(name);
		n := n + 1;
		IF got <> serial[d] - done[d] THEN
			INSERT INTO public.wrong VALUES ('churn', 'at the end', name, serial[d] - done[d], got);
		END IF;
	END LOOP;
	INSERT INTO public.checked VALUES ('churn', n, zeros);
END $$;

-- 100,000 that owe one turn each, some that owe nothing, and those that churn
CREATE PROCEDURE public.beat_batches(who int, beaters int, deployments int, churners int, own int, seconds int, at_least int) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + seconds * interval '1 second';
	batch text[]; nothing text[]; churning text[]; n bigint := 0; got text[]; at int := who;
BEGIN
	nothing := ARRAY(SELECT 'nothing' || i FROM generate_series(1, 20) i);
	churning := ARRAY(SELECT format('churn%s_%s', c, i) FROM generate_series(1, churners) c, generate_series(1, own) i);
	LOOP
		-- every beaters-th batch of a thousand, in turn
		batch := ARRAY(SELECT 'live' || (1000 * at + i) FROM generate_series(1, 1000) i);
		got := ARRAY(SELECT b.deployment FROM turn_liveness.heartbeats(batch || nothing || churning) b);
		COMMIT;
		n := n + 1020;
		-- which of those that churn owe nothing is not known here
		got := ARRAY(SELECT g FROM unnest(got) g WHERE g NOT LIKE 'churn%');
		IF got <> nothing THEN
			INSERT INTO public.wrong SELECT 'beat', 'batch', g, NULL, NULL FROM unnest(got) g WHERE g <> ALL (nothing);
			INSERT INTO public.wrong SELECT 'beat', 'nothing', g, NULL, NULL FROM unnest(nothing) g WHERE g <> ALL (got);
			COMMIT;
		END IF;
		at := (at + beaters) % (deployments / 1000);
		EXIT WHEN clock_timestamp() > until AND n > 1020 * (deployments / 1000 / beaters);
	END LOOP;
	INSERT INTO public.checked VALUES ('beat', n, 0);
END $$;

-- turns that no worker answers, so that the sweep runs among all of them; each is
-- owed until it is ended by exactly one error
CREATE PROCEDURE public.lapse(seconds int, at_least int) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + seconds * interval '1 second';
	n int := 0; got int; ended bool;
BEGIN
	WHILE clock_timestamp() < until OR n < at_least LOOP
		n := n + 1;
		PERFORM turn_liveness.arm_turn('lapse' || n % 50, n::text, admission => '100ms', silence => '100ms');
		COMMIT;
		-- either it is owed, or it has ended by then: never neither
		got := turn_liveness.heartbeat('lapse' || n % 50, ARRAY[n::text]);
		COMMIT;
		IF got = 0 THEN
			-- the sweep that took it may still be committing: a session that waits for it sees the end
			IF turn_liveness.commit_terminal_reply('lapse' || n % 50, ARRAY[n::text], '{}') = 'won' THEN
				INSERT INTO public.wrong VALUES ('lapse', 'neither', 'lapse' || n % 50, 1, 0);
			END IF;
			COMMIT;
		END IF;
		-- not faster than the worker ends them, or their leases take the room of the others
		WHILE n % 1000 = 0 AND clock_timestamp() < until
			AND (SELECT count(*) > 10000 FROM turn_liveness.turn WHERE deployment ~ '^lapse' AND outcome IS NULL) LOOP
			PERFORM pg_sleep(0.02);
			COMMIT;
		END LOOP;
	END LOOP;
	INSERT INTO public.checked VALUES ('lapse', n, 0);
END $$;
});

# In portions: each is a transaction of its own.
foreach my $part (0 .. 9)
{
	$node->safe_psql('postgres',
		    "SELECT count(turn_liveness.arm_turn('live' || ($part * $DEPLOYMENTS / 10 + i), 'm', admission => '1h', silence => '1h'))"
		  . " FROM generate_series(1, $DEPLOYMENTS / 10) i");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM turn_liveness.turn'), $DEPLOYMENTS, '100,000 deployments');

my @sessions;
foreach my $call (
	(map { "CALL public.churn($_, $OWN, $SECONDS, $LEAST)" } 1 .. $CHURNERS),
	(map { "CALL public.beat_batches($_, 2, $DEPLOYMENTS, $CHURNERS, $OWN, $SECONDS, $LEAST)" } 0 .. 1),
	"CALL public.lapse($SECONDS, $LEAST)")
{
	my $session = session($node);
	$session->{stdin} .= "$call;\nSELECT 'through';\n";
	push @sessions, $session;
	$session->{run}->pump_nb;
}
foreach my $session (@sessions)
{
	like($session->query_until(qr/through/, ''), qr/through/, 'a session is through');
	is($session->{stderr} =~ s/background_psql.*\n?//r, '', 'without an error');
	$session->quit;
}

diag $node->safe_psql('postgres', 'SELECT * FROM public.wrong LIMIT 20')
  if $node->safe_psql('postgres', 'SELECT count(*) FROM public.wrong') != 0;
note $node->safe_psql('postgres', 'SELECT who, sum(n), sum(zeros) FROM public.checked GROUP BY 1 ORDER BY 1');
is($node->safe_psql('postgres', 'SELECT count(*) FROM public.wrong'), 0, 'every verdict was right');
is($node->safe_psql('postgres',
		"SELECT count(*), count(*) FILTER (WHERE n > 500), count(*) FILTER (WHERE who = 'churn' AND zeros > 50) FROM public.checked"),
	(2 + $CHURNERS + 1) . '|' . (2 + $CHURNERS + 1) . '|' . $CHURNERS, 'and there were many, of both kinds');
cmp_ok($node->safe_psql('postgres', "SELECT sum(n) FROM public.checked WHERE who = 'beat'"),
	'>=', $DEPLOYMENTS, 'each of the 100,000 was beaten');
is(failures($node, 'live%'), 0, 'none of them was failed');
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM turn_liveness.turn WHERE deployment LIKE 'lapse%' AND outcome IS NULL"),
	'all that lapsed were failed');
is($node->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT 1 FROM turn_liveness.reply, unnest(message_ids) m GROUP BY deployment, m HAVING count(*) > 1) x'),
	0, 'nothing was answered twice');
is($node->safe_psql('postgres',
		q{SELECT count(*) FROM (SELECT deployment, message_id FROM turn_liveness.turn WHERE outcome IS NOT NULL
			EXCEPT SELECT deployment, unnest(message_ids) FROM turn_liveness.reply) x}),
	0, 'and what has ended was answered');
is($node->safe_psql('postgres', 'SELECT sweep_errors, beats_in_rows FROM turn_liveness.stat_row()'),
	'0|0', 'no error in the sweep, and room for all');

$node->stop;
done_testing();
