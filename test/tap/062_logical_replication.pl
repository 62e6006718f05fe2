# Logical replication, as the README says it: a publication of all tables takes
# ours along, and the subscriber sweeps what it receives; one without our
# schema leaves both servers alone.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TurnLiveness;

my $publisher = new_node('publisher', "wal_level = logical\n", streaming => 1);
my $subscriber = new_node('subscriber', '');
$_->safe_psql('postgres', 'CREATE TABLE public.job (id integer PRIMARY KEY)') foreach $publisher, $subscriber;
my $conninfo = $publisher->connstr . ' dbname=postgres';

sub published
{
	my ($publication) = @_;
	return $publisher->safe_psql('postgres',
		"SELECT string_agg(DISTINCT schemaname, ',' ORDER BY schemaname) FROM pg_publication_tables WHERE pubname = '$publication'");
}

# --- named tables, or a schema: nothing of ours goes

$publisher->safe_psql('postgres', 'CREATE PUBLICATION named FOR TABLES IN SCHEMA public');
is(published('named'), 'public', 'a publication of another schema has none of our tables');
arm($publisher, 'here', 'm1', q{admission => '1s', silence => '1s'});
is(wait_ended($publisher, 'here', 'm1'), 'WORKER_NEVER_STARTED sweep', 'a turn ends in the publisher');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION named CONNECTION '$conninfo' PUBLICATION named");
$subscriber->wait_for_subscription_sync($publisher, 'named');
$publisher->safe_psql('postgres', 'INSERT INTO public.job VALUES (1)');
arm($publisher, 'here', 'm2', q{admission => '1h', silence => '1h'});
$publisher->wait_for_catchup('named');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM public.job'), '1', 'the other tables are replicated');
is($subscriber->safe_psql('postgres', 'SELECT (SELECT count(*) FROM turn_liveness.turn), (SELECT count(*) FROM turn_liveness.reply)'),
	'0|0', 'ours are not');
is(arm($subscriber, 'here', 'm2'), 'armed', 'the subscriber has turns of its own');
is($subscriber->safe_psql('postgres', q{SELECT turn_liveness.commit_terminal_reply('here', '{m2}', '{"content": "there"}')}), 'won', 'and ends them');
is(owed($publisher), '1', 'of which the publisher knows nothing');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION named');

# --- a publication that leaves out what is deleted: a turn that a sweep ends is updated

$publisher->safe_psql('postgres', q{CREATE PUBLICATION archive FOR TABLE turn_liveness.turn WITH (publish = 'insert, update')});
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION archive CONNECTION '$conninfo' PUBLICATION archive WITH (copy_data = false)");
$subscriber->wait_for_subscription_sync($publisher, 'archive');
arm($publisher, 'archived', "m$_", q{admission => '1s', silence => '1s'}) foreach 1 .. 3;
is(wait_ended($publisher, 'archived', "m$_"), 'WORKER_NEVER_STARTED sweep', "m$_ ends in the publisher") foreach 1 .. 3;
ok( $subscriber->poll_query_until('postgres', q{SELECT count(*) = 3 FROM turn_liveness.turn WHERE deployment = 'archived' AND outcome = 'e'}),
	'and in the subscriber');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION archive');
$publisher->safe_psql('postgres', 'DROP PUBLICATION archive');

# --- all tables: the subscriber gets our turns, and sweeps them

$publisher->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES');
is(published('everything'), 'public,turn_liveness', 'a publication of all tables has ours');
my $other = new_node('other', "turn_liveness.restore_grace = '1s'\n");
$other->safe_psql('postgres', 'CREATE TABLE public.job (id integer PRIMARY KEY)');
$other->safe_psql('postgres', "CREATE SUBSCRIPTION everything CONNECTION '$conninfo' PUBLICATION everything");
$other->wait_for_subscription_sync($publisher, 'everything');
arm($publisher, 'sent', 'm1', q{admission => '30 min', silence => '30 min'});
$publisher->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('sent')});
arm($publisher, 'kept', 'm1', q{admission => '20 d', silence => '20 d', duration => '20 d'});
ok( $other->poll_query_until('postgres', q{SELECT count(*) = 2 FROM turn_liveness.turn WHERE deployment IN ('sent', 'kept')}),
	'the rows of the turns arrive');

my $unwanted = wait_until(
	'the subscriber fails a turn of the publisher',
	sub {
		$publisher->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('sent')});
		advance($other, '10 min');
		return ends($other, 'sent', 'm1') ne '';
	});
ok($unwanted, 'the subscriber sweeps what it received, whose worker beats elsewhere');
is(ends($publisher, 'sent', 'm1'), '', 'in the publisher it lives');
is($publisher->safe_psql('postgres', q{SELECT turn_liveness.heartbeat('sent')}), '1', 'and is owed');

# both take ids from sequences of their own
my $start = -s $other->logfile;
my $id = $other->safe_psql('postgres', q{SELECT reply_id FROM turn_liveness.reply WHERE deployment = 'sent'});
note "the subscriber gave the id $id";
$publisher->safe_psql('postgres', "SELECT turn_liveness.reject_turn('reject' || i, 'm', '{}', 'no') FROM generate_series(1, $id) i");
$other->wait_for_log(qr/(?:duplicate key value violates unique constraint|already exists in unique index) "(?:reply|delivery)_/, $start);
pass('replication stops where both gave the same id to a reply');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|signal 6|signal 11/, $_->name . ': nothing crashed') foreach $publisher, $subscriber, $other;

$_->stop foreach $other, $subscriber, $publisher;
done_testing();
