/*
 * cluster.c
 *		The demo over three servers and a proxy: a node's workers die, then a
 *		whole node, which is started again.  Shows what each client saw, and when.
 *
 *	cluster GATEWAY NODE
 *
 * The gateways and the workers know the proxy alone, through PGHOST and so on.
 * "NODE stop 0" kills the server of node 0, "NODE start 0" starts it again.
 * Fails if a client saw anything but exactly one terminal event, or if a turn of
 * another node felt it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demo.h"

#define OUTAGE_MS 4000			/* longer than STEADY and PUSHED may be silent */

enum
{
	ANSWERED, STEADY, KILLED, HUNG, RESCUED, THROUGH, LOST, DURING, PUSHED, REFUSED, NSCENARIOS
};

/* the name is completed so that the conversation lives on the node */
Scenario	scenarios[] = {
	[ANSWERED] = {.name = "answered", .sees = "message", .happens = "node 2: its worker answers",
	.body = "\"text\": \"hello\""},
	[STEADY] = {.name = "steady", .sees = "message", .happens = "node 2: its worker answers at last",
	.body = "\"mode\": \"wait\", \"silence\": \"3 s\""},
	[KILLED] = {.name = "killed", .sees = "error WORKER_DIED", .happens = "node 1: SIGKILL to its worker",
	.body = "\"mode\": \"hang\"", .signal = SIGKILL},
	[HUNG] = {.name = "hung", .sees = "error WORKER_UNRESPONSIVE", .happens = "node 1: SIGSTOP (silence: 1 s)",
	.body = "\"mode\": \"hang\", \"silence\": \"1 s\"", .signal = SIGSTOP},
	[RESCUED] = {.name = "rescued", .sees = "message", .happens = "node 1: SIGKILL (silence: 1 s; rescue)",
	.body = "\"text\": \"hello\", \"mode\": \"wait\", \"silence\": \"1 s\", \"rescue\": \"30 s\"", .signal = SIGKILL},
	[THROUGH] = {.name = "through", .sees = "message", .happens = "node 0 is back: its worker answers",
	.body = "\"mode\": \"wait\", \"silence\": \"60 s\""},
	[LOST] = {.name = "lost", .sees = "error WORKER_DIED", .happens = "node 0 is down: SIGKILL to its worker",
	.body = "\"mode\": \"hang\", \"silence\": \"60 s\""},
	[DURING] = {.name = "during", .sees = "message", .happens = "node 1, while node 0 is down",
	.body = "\"text\": \"hello\""},
	[PUSHED] = {.name = "pushed", .happens = "node 2, while node 0 is down",
	.body = "\"text\": \"hello\", \"platform\": \"slack\""},
	[REFUSED] = {.name = "refused", .sees = "message", .happens = "node 0 is back: its client sends again",
	.body = "\"text\": \"hello\""}
};

const int	nscenarios = NSCENARIOS;
const char *const gateway_poll = "--poll-ms=200";	/* LISTEN at the proxy hears nothing */

static const int lives_on[NSCENARIOS] = {2, 2, 1, 1, 1, 0, 0, 1, 2, 0};

/* a name of that conversation's own which hashes to its node */
static void
choose_name(PGconn *conn, int i)
{
	char		node[16];
	char	   *suffix;
	Buffer		sql = {0};
	Buffer		name = {0};

	snprintf(node, sizeof(node), "%d", lives_on[i]);
	buffer_printf(&sql, "SELECT min(n) FROM generate_series(1, 99) n WHERE turn_liveness.node_of('%s' || n) = $1::integer",
				  scenarios[i].name);
	suffix = query(conn, sql.data, node);
	buffer_printf(&name, "%s%s", scenarios[i].name, suffix);
	scenarios[i].name = name.data;
	free(suffix);
	buffer_free(&sql);
}

static void
node(const char *program, const char *verb)
{
	Buffer		command = {0};

	buffer_printf(&command, "%s %s 0", program, verb);
	if (system(command.data) != 0)
		die("%s failed", command.data);
	buffer_free(&command);
	printf("  %-9s  node 0: %-30s at %5d ms\n", "--", verb[2] == 'o' ? "its server is killed" : "its server is started again",
		   (int) (now_ms() - started_at));
}

/* all but those that are sent while node 0 is down */
static void
send_first(void)
{
	for (int i = 0; i < DURING; i++)
		send_message(&scenarios[i]);
}

/* the workers of node 1 are hit once all of them have beaten; true when what came of it is over */
static bool
drive_workers(void)
{
	Scenario   *rescued = &scenarios[RESCUED];

	if (rescued->step == 0 && scenarios[KILLED].beats && scenarios[HUNG].beats && rescued->beats)
	{
		for (int i = KILLED; i <= RESCUED; i++)
		{
			kill(scenarios[i].worker, scenarios[i].signal);
			happened(&scenarios[i], NULL);
		}
		rescued->beats = false;
		rescued->step++;
	}
	else if (rescued->step == 1 && rescued->workers == 2 && rescued->beats)
	{
		kill(rescued->worker, SIGUSR1);
		happened(rescued, "node 1: its second worker answers");
		rescued->step++;
	}
	return scenarios[ANSWERED].ends > 0 && scenarios[KILLED].ends > 0 && scenarios[HUNG].ends > 0 &&
		rescued->ends > 0 && scenarios[STEADY].beats && scenarios[THROUGH].beats && scenarios[LOST].beats;
}

/* node 0 is down for longer than a turn of node 2 may be silent */
static void
drive_outage(const char *program)
{
	int64_t		since;

	node(program, "stop");
	since = now_ms();
	kill(scenarios[LOST].worker, SIGKILL);
	happened(&scenarios[LOST], NULL);
	send_message(&scenarios[DURING]);
	send_message(&scenarios[PUSHED]);
	if (try_message(&scenarios[REFUSED]) != 503)
		complain("a message for the node that is down was not refused with 503");
	while (scenarios[DURING].ends == 0 || scenarios[PUSHED].ends == 0 || now_ms() - since < OUTAGE_MS)
		wait_for_news(100);
	if (scenarios[STEADY].ends > 0 || scenarios[THROUGH].ends > 0 || scenarios[LOST].ends > 0)
		complain("a turn ended while node 0 was down");
	node(program, "start");

	kill(scenarios[THROUGH].worker, SIGUSR1);
	happened(&scenarios[THROUGH], NULL);
	kill(scenarios[STEADY].worker, SIGUSR1);
	happened(&scenarios[STEADY], NULL);
	while (try_message(&scenarios[REFUSED]) != 202)
		wait_for_news(100);
}

static bool
all_ended(void)
{
	for (int i = 0; i < NSCENARIOS; i++)
	{
		if (scenarios[i].ends == 0)
			return false;
	}
	return true;
}

static void
check(PGconn *conn)
{
	int			good = check_clients();

	expect(conn, "the nodes that answer", "SELECT count(*) FROM turn_liveness.stat", NULL, "3");
	expect(conn, "turns still owed", "SELECT count(*) FROM turn_liveness.turns", NULL, "0");
	expect(conn, "ids given out twice", "SELECT count(*) - count(DISTINCT reply_id) FROM turn_liveness.replies", NULL, "0");
	expect(conn, "attempts to push", "SELECT string_agg(attempt::text, ' ') FROM turn_liveness.replies "
		   "WHERE conversation_id = $1 AND platform = 'slack'", scenarios[PUSHED].name, "1");
	expect(conn, "the generation that answered after the rescue",
		   "SELECT generation FROM turn_liveness.get_turn($1, $1) WHERE state = 'answer'", scenarios[RESCUED].name, "2");

	if (wrong)
		printf("\nWRONG: %d of %d clients saw exactly one terminal event\n", good, NSCENARIOS - 1);
	else
		printf("\n%d clients on 3 nodes, each saw exactly one terminal event; 1 push; 3 workers and 1 node killed; %.1f s\n",
			   good, (now_ms() - started_at) / 1000.0);
}

int
main(int argc, char **argv)
{
	PGconn	   *conn;

	if (argc != 3)
		die("usage: cluster GATEWAY NODE");
	conn = ask_connect();
	for (int i = 0; i < NSCENARIOS; i++)
		choose_name(conn, i);
	begin(argv[1], "Three nodes behind a proxy. Gateway A holds the clients' streams, gateway B runs the workers.");
	open_streams();
	send_first();
	while (!drive_workers())
		wait_for_news(-1);
	drive_outage(argv[2]);
	while (!all_ended())
		wait_for_news(-1);

	for (int i = 0; i < NSCENARIOS; i++)
	{
		if (i == PUSHED)
			continue;
		send_marker(conn, &scenarios[i]);
		while (!scenarios[i].marked)
			wait_for_news(-1);
	}
	check(conn);
	PQfinish(conn);
	return wrong ? 1 : 0;
}
