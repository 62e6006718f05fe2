# Several gateways, one database, real processes and real sockets: whatever
# dies, each client sees exactly one terminal event for each of its messages,
# and nothing of another client's.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../gateway";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Gateway;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', q{
shared_preload_libraries = 'turn_liveness'
turn_liveness.reconnect_window = 0
});
$node->start;
Gateway->install($node);

my @clients;

# A client that is asked at the end what it saw.
sub client
{
	my ($gateway, $conversation) = @_;
	push @clients, Gateway::Client->new($gateway, $conversation);
	return $clients[-1];
}

# Everything that a client may be sent was committed before this reply.
sub send_marker
{
	my ($conversation) = @_;
	$node->safe_psql('postgres',
		    "SELECT turn_liveness.arm_turn(\$c\$$conversation\$c\$, 'marker',"
		  . " jsonb_build_object('conversationId', \$c\$$conversation\$c\$::text));"
		  . "SELECT turn_liveness.commit_terminal_reply(\$c\$$conversation\$c\$, '{marker}', '{}')");
	return;
}

my $gate_a = Gateway->start($node, 'A');
my $gate_b = Gateway->start($node, 'B');

# The stream is on A, the worker on B.

my $client = client($gate_a, 'one');
$gate_b->send_message('one', 'plain', text => 'hello');
is($client->outcome('plain'), 'message', 'an answer reaches the client on another replica');

my $worker = $gate_b->send_message('one', 'attached', mode => 'hang', attach => \1, on => 1);
kill 'KILL', $worker;
is($client->outcome('attached'), 'WORKER_DIED', 'an attached worker is killed');

$worker = $gate_b->send_message('one', 'child', mode => 'hang', on => 1);
kill 'KILL', $worker;
is($client->outcome('child'), 'WORKER_DIED', 'a worker is killed that only its gateway watches');

$gate_b->send_message('one', 'crash', mode => 'crash');
is($client->outcome('crash'), 'WORKER_DIED', 'a worker crashes');

$worker = $gate_b->send_message('one', 'stopped', mode => 'hang', silence => '2 s', on => 1);
kill 'STOP', $worker;
is($client->outcome('stopped'), 'WORKER_UNRESPONSIVE', 'a worker is stopped');
kill 'CONT', $worker;
$gate_b->wait_for(qr/^worker $worker one stopped abandons/);
pass('it abandons its turn when it runs again');

$gate_b->send_message('one', 'never', mode => 'never', admission => '500 ms');
is($client->outcome('never'), 'WORKER_NEVER_STARTED', 'no worker starts');

$worker = $gate_b->send_message('one', 'late', mode => 'late', silence => '500 ms', on => 1);
is($client->outcome('late'), 'WORKER_UNRESPONSIVE', 'a worker falls silent');
kill 'USR1', $worker;
is(scalar $gate_b->wait_for(qr/^worker $worker one late election (\w+)/), 'lost', 'its late answer loses');

$gate_b->send_message('one', 'rejected', text => 'something forbidden');
is($client->outcome('rejected'), 'GUARDRAIL', 'a guardrail refuses a message');

$worker = $gate_b->send_message('one', 'cancelled', mode => 'hang', on => 1);
is($gate_a->post('/stop/one/cancelled')->{json}{result}, 'won', 'the user stops a turn through another replica');
is($client->outcome('cancelled'), 'CANCELLED', 'the client sees it');
$gate_b->wait_for(qr/^worker $worker one cancelled abandons/);
pass('the worker learns it from its beat');

my $broken = Gateway->start($node, 'E', '--worker=/nonexistent');
$broken->send_message('one', 'no program', attach => \1);
is($client->outcome('no program'), 'WORKER_STARTUP_FAILED', 'a worker whose program is missing');
$broken->end('TERM');

# The same message sent again is no second turn.

my $response = $gate_a->post('/message/one', { messageId => 'plain', text => 'hello' });
is("@{$response->{json}}{qw(result worker)}", 'answered 0', 'a message that was answered is not dispatched again');

# ... nor is it while its worker is alive here; through another replica it is a
# hand-over, and the worker before gives up.

$worker = $gate_b->send_message('one', 'sent again', mode => 'wait', on => 1);
$response = $gate_b->post('/message/one', { messageId => 'sent again', mode => 'wait' });
is("@{$response->{json}}{qw(result worker)}", 'pending 0', 'a message whose worker is alive stays with it');
my $second = $gate_a->send_message('one', 'sent again', mode => 'wait', on => 1);
$gate_b->wait_for(qr/^worker $worker one sent again abandons/);
pass('a worker whose turn was handed over learns it from its beat');
kill 'USR1', $second;
is($client->outcome('sent again'), 'message', 'the one that has it answers');

# Updates reach the client as they come, before the answer.

$worker = $gate_b->send_message('one', 'steps', mode => 'wait', on => 1);
foreach my $step (1 .. 3)
{
	kill 'USR2', $worker;
	is($client->update('steps', $step)->{text}, "step $step of generation 1", "update $step reaches the client");
}
kill 'USR1', $worker;
is($client->outcome('steps'), 'message', '... and the answer after them');
is(scalar @{ $client->{updates}{steps} }, 3, '... each of them once');

# The rescue window: a turn whose worker died goes to another one, wherever that
# is. Gives the process that has taken the turn's generation.
sub taken_by
{
	my ($message, $generation) = @_;
	$node->poll_query_until('postgres',
		"SELECT worker IS NOT NULL AND generation = $generation FROM turn_liveness.get_turn('one', '$message')")
	  or die "generation $generation of $message was never taken";
	return $node->safe_psql('postgres', "SELECT substr(worker, 8) FROM turn_liveness.get_turn('one', '$message')");
}

my %rescue = (attach => \1, rescue => '10 min');
$worker = $gate_b->send_message('one', 'rescued', mode => 'wait', on => 1, %rescue);
kill 'USR2', $worker;
$client->update('rescued', 1);
kill 'KILL', $worker;
$second = taken_by('rescued', 2);
isnt($second, $worker, 'a worker is killed: another one takes its turn');
kill 'USR2', $second;
is($client->update('rescued', 2)->{generation}, 2, '... posts an update under the next generation');
kill 'USR1', $second;
is($client->outcome('rescued'), 'message', '... and answers');

# Its session is gone, it is not: what it does after all is stale.
$worker = $gate_b->send_message('one', 'stale', mode => 'late', on => 1, %rescue);
kill 'STOP', $worker;
$node->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'worker $worker'");
$second = taken_by('stale', 2);
kill 'USR1', $worker;
kill 'CONT', $worker;
is(scalar $gate_b->wait_for(qr/^worker $worker one stale election (\w+)/), 'stale', 'an answer of the worker before is stale');
kill 'USR1', $second;
is($client->outcome('stale'), 'message', '... and the turn is answered by the one that has it');
is($node->safe_psql('postgres', "SELECT verdict FROM turn_liveness.late_replies WHERE message_ids = '{stale}'"),
	'stale', '... the other answer is kept');

# a worker that beats by itself is fenced as well
$worker = $gate_b->send_message('one', 'own beats', mode => 'wait', beat => 'self', %rescue);
is(taken_by('own beats', 1), $worker, 'a worker that beats by itself takes its turn');
$second = $gate_a->send_message('one', 'own beats', mode => 'wait', beat => 'self', %rescue);
$gate_b->wait_for(qr/^worker $worker one own beats abandons/);
is(taken_by('own beats', 2), $second, '... gives up when another has it');
kill 'USR1', $second;
is($client->outcome('own beats'), 'message', '... and that one answers');

$gate_b->send_message('one', 'crashes', mode => 'crash', %rescue);
is($client->outcome('crashes'), 'WORKER_DIED', 'a turn whose workers crash again and again is failed');
is($node->safe_psql('postgres', "SELECT generation FROM turn_liveness.get_turn('one', 'crashes')"),
	'4', '... by the gateway that has seen enough of them');

# another program's turn, which no gateway can dispatch
my $foreign = client($gate_a, 'foreign');
$node->safe_psql('postgres',
	q{SELECT turn_liveness.arm_turn('foreign', 'turn', '{"conversationId": "foreign"}', admission => '1 ms', rescue => '10 min')});
is($foreign->outcome('turn'), 'WORKER_NEVER_STARTED', 'a turn that no gateway knows is failed, not left');

# A worker asks the client and ends; another one goes on with the answer.

$worker = $gate_b->send_message('one', 'asked', text => 'pay', mode => 'ask', attach => \1);
is($client->update('asked', 1)->{question}, 'pay: shall I?', 'a worker asks the client');
$gate_b->wait_for(qr/^worker $worker one asked asks/);
is($node->safe_psql('postgres', "SELECT state FROM turn_liveness.get_turn('one', 'asked')"), 'suspended', '... and the turn waits');
$response = $gate_a->post('/answer/one/asked', { text => 'yes' });
is("$response->{status} $response->{json}{result}", '200 resumed', 'the client answers through another replica');
is($client->outcome('asked'), 'message', '... and is answered');
is( $node->safe_psql('postgres', "SELECT payload->>'finalText' FROM turn_liveness.get_turn('one', 'asked')"),
	'You said: pay: yes', '... by a worker that has the message and the answer');
$response = $gate_a->post('/answer/one/asked', { text => 'no' });
is("$response->{status} $response->{json}{result}", '409 not waiting', 'a second answer comes too late');

$gate_b->send_message('one', 'unheard', mode => 'ask', wait => '100 ms');
is($client->outcome('unheard'), 'WAIT_EXPIRED', 'a question that is not answered in time');
$gate_b->send_message('one', 'stopped-question', mode => 'ask');
$client->update('stopped-question', 1);
$gate_a->post('/stop/one/stopped-question');
is($client->outcome('stopped-question'), 'CANCELLED', 'the user stops a turn that waits');

# A browser that looks on is no delivery: a reply for a platform waits for the
# gateway that pushes it.

my $looker = client($gate_a, 'push');
$gate_b->send_message('push', 'push 0', text => 'hello', platform => 'slack');
is($looker->outcome('push 0'), 'message', 'a stream shows what is meant for a platform');
$gate_b->send_message('push', 'not pushed', text => 'hello');
$looker->outcome('not pushed');
$node->poll_query_until('postgres',
	"SELECT state = 'delivered' FROM turn_liveness.replies WHERE message_ids = '{not pushed}'")
  or die 'a stream did not acknowledge';
is( $node->safe_psql('postgres', "SELECT state FROM turn_liveness.replies WHERE message_ids = '{push 0}'"),
	'due', '... and leaves it due');

# Replica B dies with its workers.

my @workers = (
	$gate_b->send_message('one', 'b attached', mode => 'hang', attach => \1, on => 1),
	$gate_b->send_message('two', 'b silent', mode => 'hang', silence => '1 s', on => 1),
	$gate_b->send_message('one', 'b rescued', mode => 'wait', on => 1, %rescue));
kill 'KILL', $gate_b->{pid}, @workers;
$gate_b->end;
my $other = client($gate_a, 'two');
is($client->outcome('b attached'), 'WORKER_DIED', 'a gateway dies with its workers, one of them attached');
is($other->outcome('b silent'), 'WORKER_UNRESPONSIVE', '... and one for a client that comes later');

kill 'USR1', taken_by('b rescued', 2);
is($client->outcome('b rescued'), 'message', '... and one whose turn the other gateway takes over');

# Replica A dies, the clients go to C with their Last-Event-ID.

my $gate_c = Gateway->start($node, 'C', '--push=slack');
$gate_a->send_message('one', 'before', text => 'hello');
is($client->outcome('before'), 'message', 'an answer before the gateway of the streams dies');
my $cut = client($gate_a, 'cut');
$gate_c->send_message('cut', 'half', text => 'hello');
is($cut->event, 'message', 'a client has a message');
$cut->cut;
is($cut->{ends}{half}, undef, '... and is cut off before it is complete');
$gate_a->end;
is($client->event, undef, 'the gateway of the streams dies');
$gate_c->send_message('one', 'meanwhile', text => 'hello');
$gate_c->wait_for(qr/ one meanwhile election won/);
$_->connect_to($gate_c) foreach ($client, $cut, $other, $looker, $foreign);
is($client->outcome('meanwhile'), 'message', 'the client finds on another what it missed');
is($cut->outcome('half'), 'message', 'the one that was cut off gets the whole reply again');

# The database restarts in the middle.

my $waiting = $gate_c->send_message('one', 'over restart', mode => 'wait', on => 1);
my $attached = $gate_c->send_message('one', 'over restart, attached', mode => 'wait', attach => \1, on => 1);
my $dying = $gate_c->send_message('two', 'dies meanwhile', mode => 'hang', attach => \1, admission => '3 s', silence => '3 s', on => 1);
$gate_c->send_message('one', 'asked-before', text => 'wait for me', mode => 'ask');
$client->update('asked-before', 1);
$node->stop('fast');
$gate_c->wait_for(qr/^lost the database/);
kill 'KILL', $dying;
is($gate_c->post('/message/one', { messageId => 'down' })->{status}, 503, 'no message is taken while the database is away');
$node->start;
$gate_c->wait_for(qr/^connected to the database/);
kill 'USR1', $waiting, $attached;
is($client->outcome('over restart'), 'message', 'a worker answers after the restart');
is($client->outcome('over restart, attached'), 'message', '... an attached one too');
is($other->outcome('dies meanwhile'), 'WORKER_UNRESPONSIVE', 'one that died while the database was away is found');
$gate_c->send_message('one', 'down', text => 'hello');
is($client->outcome('down'), 'message', 'the message that was refused is taken now');

$node->stop('immediate');
$node->start;
$gate_c->wait_for(qr/^connected to the database/);
is($gate_c->post('/answer/one/asked-before', { text => 'yes' })->{json}{result}, 'resumed', 'a question outlives restart and crash');
is($client->outcome('asked-before'), 'message', '... and so does its turn');
$gate_c->send_message('one', 'after crash', text => 'hello');
is($client->outcome('after crash'), 'message', 'all goes on after a crash of the server');

# Tabs, and names that look alike.

my $gate_d = Gateway->start($node, 'D', '--push=slack');
my @names = ('tab', 'tab/1', 'Tab', 'tab 1', '{tab}', 'tab,"x"', "t\xc3\xa4b", 'tab\\');
foreach my $name (@names)
{
	client($_, $name) foreach ($gate_c, $gate_c, $gate_d);
}
foreach my $name (@names)
{
	$gate_c->send_message($name, 'first', text => $name);
	$gate_d->send_message($name, 'second', text => $name, mode => 'crash');
}
my @tabs = @clients[ -3 * @names .. -1 ];
foreach my $tab (@tabs)
{
	$tab->outcome($_) foreach ('first', 'second');
}
is(scalar(grep { $_->{saw}{first} eq 'message' && $_->{saw}{second} eq 'WORKER_DIED' } @tabs),
	3 * @names, 'three tabs each of conversations with names that look alike');

# D is stopped for a while: then it has the replies of all of them in one read.
kill 'STOP', $gate_d->{pid};
$gate_c->send_message($_, 'third', text => 'hello') foreach @names;
$_->outcome('third') foreach (@tabs[ grep { $_ % 3 != 2 } 0 .. $#tabs ]);
kill 'CONT', $gate_d->{pid};
$_->outcome('third') foreach @tabs;
is(scalar(grep { $_->{saw}{third} eq 'message' } @tabs), 3 * @names, 'a replica that was stopped for a while catches up');

# Pushes: one replica sends, whichever clients look on.

foreach my $i (1 .. 20)
{
	($i % 2 ? $gate_c : $gate_d)->send_message('push', "push $i", text => 'hello', platform => 'slack');
}
$looker->outcome("push $_") foreach (1 .. 20);
$node->poll_query_until('postgres',
	"SELECT count(*) = 21 FROM turn_liveness.replies WHERE platform = 'slack' AND state = 'delivered'")
  or die 'replies were not pushed';

# Nothing more comes, and no client saw anything twice or of others.

send_marker($_) foreach (do { my %seen; grep { !$seen{$_}++ } map { $_->{conversation} } @clients });
$_->outcome('marker') foreach @clients;
foreach my $one (@clients)
{
	my @bad = grep { $one->{ends}{$_} != 1 } sort keys %{ $one->{ends} };
	is("@bad@{$one->{wrong}}", '', "the client of $one->{conversation} saw each end once, and only its own");
}
is( $node->safe_psql('postgres', 'SELECT count(*) FROM turn_liveness.turns'),
	'0', 'no turn is owed');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM turn_liveness.replies r, unnest(r.message_ids) m WHERE r.outcome <> 'update' GROUP BY r.deployment, m HAVING count(*) > 1"),
	'', 'no turn has two terminal replies');
ok( $node->poll_query_until('postgres',
		"SELECT bool_and(state = 'delivered') FROM turn_liveness.replies"),
	'what was sent is acknowledged');

is($_->end('TERM'), 0, "gateway $_->{name} ends when told to") foreach ($gate_c, $gate_d);
my %pushed;
foreach my $line ($gate_c->rest, $gate_d->rest)
{
	$pushed{$1}++ if $line =~ /^push slack .*"messageId": "(push \d+)"/;
}
is(join(',', sort { $a <=> $b } values %pushed), join(',', (1) x 21), 'each reply was pushed once, by one of two replicas');

done_testing();
