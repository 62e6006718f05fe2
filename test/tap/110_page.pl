# The page of the reference gateway in a headless Chromium: where the spinner
# was, the user sees the answer, or the error.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../gateway";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Browser;
use Gateway;

plan skip_all => 'Chromium (Debian: chromium) is not installed' unless Browser::installed();

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'turn_liveness'");
$node->start;
Gateway->install($node);

my $gateway = Gateway->start($node, 'A');
my $browser = Browser->start;

# The user writes a message; gives what stands where the outcome will be.
sub write_message
{
	my ($page, $text) = @_;
	return $page->run(
		"document.getElementById('text').value = '$text'; document.querySelector('form').requestSubmit();"
		  . "document.querySelector('#messages li:last-child').lastChild.className");
}

# Waits until the spinner of the last message is gone; gives what is there then.
sub outcome
{
	my ($page) = @_;
	return $page->run(
		q{new Promise(done => {
			const outcome = document.querySelector('#messages li:last-child').lastChild;
			const look = () => outcome.className === 'spinner' || done(outcome.className + ': ' + outcome.textContent);
			new MutationObserver(look).observe(outcome, { attributes: true, childList: true });
			look();
		})});
}

# The worker of the next message of this conversation, which beats. The worker of
# another message may have beaten before it answered.
sub beating_worker
{
	my ($conversation) = @_;
	my $worker = $gateway->wait_for(qr/^worker (\d+) started for $conversation /);
	$gateway->wait_for(qr/^worker $worker beats$/);
	return $worker;
}

my $url = "http://127.0.0.1:$gateway->{port}/?conversation=";
my $page = $browser->open_page($url . 'answers');
is(write_message($page, 'hello'), 'spinner', 'a message that was sent has a spinner');
is(outcome($page), 'answer: You said: hello', 'the answer appears where the spinner was');

$page = $browser->open_page($url . 'hangs&mode=hang&silence=60s');
is(write_message($page, 'hello'), 'spinner', 'a message whose worker hangs has a spinner');
my $worker = beating_worker('hangs');
is($page->run("document.querySelectorAll('.spinner').length"), 1, 'the spinner turns while the worker lives');
kill 'KILL', $worker;
like(outcome($page), qr/^error: .* \(WORKER_DIED\)$/, 'the worker is killed: the error appears where the spinner was');
is($page->run("document.querySelectorAll('.spinner, li button').length"), 0, 'no spinner is left');

# (not many pages: a browser has six connections to a server, and each page keeps one)
my $hangs = $page;
$page = $browser->open_page($url . 'stops&mode=hang&silence=1s');
write_message($page, 'once more');
$worker = beating_worker('stops');
kill 'STOP', $worker;
like(outcome($page), qr/^error: .* \(WORKER_UNRESPONSIVE\)$/, 'the worker is stopped: so does this error');
kill 'KILL', $worker;

my $stops = $page;
$page = $hangs;
write_message($page, 'and stopped');
beating_worker('hangs');
$page->run("document.querySelector('#messages li:last-child button').click()");
like(outcome($page), qr/^error: .* \(CANCELLED\)$/, 'the button stops the turn');

# Updates stand above the spinner, which goes on until the one terminal event.

# Waits until the last message has so many updates; gives the last one's text.
sub update
{
	my ($page, $count) = @_;
	return $page->run(
		qq{new Promise(done => {
			const look = () => {
				const updates = document.querySelectorAll('#messages li:last-child .update');
				if (updates.length === $count) done(updates[$count - 1].textContent);
			};
			new MutationObserver(look).observe(document.getElementById('messages'), { childList: true, subtree: true });
			look();
		})});
}

# What the user sees of the last message: updates, spinners, ends that came.
sub state_of
{
	my ($page) = @_;
	return $page->run(
		q{(li => [li.querySelectorAll('.update').length, li.querySelectorAll('.spinner').length, li.dataset.ends || 0].join(' '))
			(document.querySelector('#messages li:last-child'))});
}

$page = $stops;
$page->run('query.set("mode", "wait"); query.set("silence", "60s")');
write_message($page, 'hello');
$worker = beating_worker('stops');
foreach my $step (1, 2)
{
	kill 'USR2', $worker;
	is(update($page, $step), "step $step of generation 1", "update $step appears");
	is(state_of($page), "$step 1 0", '... and the spinner turns');
}
kill 'USR1', $worker;
is(outcome($page), 'answer: You said: hello', 'the answer takes the spinner\'s place');
is(state_of($page), '2 0 1', '... after one terminal event');

$page->run('query.set("mode", "ask")');
write_message($page, 'pay');
is(update($page, 1), 'pay: shall I? yes no', 'a question appears, with its answers');
is(state_of($page), '1 1 0', '... and the spinner turns');
$page->run("document.querySelector('#messages li:last-child .update button').click()");
is(outcome($page), 'answer: You said: pay: yes', 'the user agrees: another worker answers');
is(state_of($page), '1 0 1', '... after one terminal event');
is($page->run("document.querySelectorAll('li button').length"), 0, '... and no button is left');

# A second tab has the same, and the page finds its way to the next gateway.

my $tab = $browser->open_page($url . 'answers');
is( $tab->run(
		q{new Promise(done => {
			const look = () => document.querySelector('.answer') && done(document.querySelectorAll('#messages li').length);
			new MutationObserver(look).observe(document.getElementById('messages'), { childList: true, subtree: true });
			look();
		})}),
	1, 'a tab that is opened later shows the conversation');

$page = $browser->open_page($url . 'moves&mode=wait&silence=1s');
write_message($page, 'hello');
$worker = beating_worker('moves');
my $port = $gateway->{port};
# the gateway first, or it may see its worker's end and say so itself
$gateway->end;
kill 'KILL', $worker;
$gateway = Gateway->start($node, 'B', "--port=$port");
like(outcome($page), qr/^error: .* \(WORKER_UNRESPONSIVE\)$/, 'the gateway dies with its worker: the page hears of it from the next');

$browser->stop;
is($gateway->end('TERM'), 0, 'the gateway ends when told to');

done_testing();
