/*
 * demo.c
 *		The main job on real processes: two gateways, workers that die in every
 *		way, clients that hold streams.  Shows what each client saw, and when.
 *
 * The clients' streams are on one gateway, the workers belong to the other; both
 * push to the same platform, and both take over turns whose workers died.  Fails
 * if a client saw anything but exactly one terminal event, or another client's.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demo.h"

enum
{
	ANSWERED, KILLED, HUNG, NEVER, LATE, REJECTED, HANDED, ASKED, PUSHED, NSCENARIOS
};

Scenario	scenarios[] = {
	[ANSWERED] = {.name = "answered", .sees = "message", .happens = "its worker answers",
	.body = "\"text\": \"hello\""},
	[KILLED] = {.name = "killed", .sees = "error WORKER_DIED", .happens = "SIGKILL to its worker",
	.body = "\"mode\": \"hang\", \"attach\": true", .signal = SIGKILL},
	[HUNG] = {.name = "hung", .sees = "error WORKER_UNRESPONSIVE", .happens = "SIGSTOP to its worker (silence: 1 s)",
	.body = "\"mode\": \"hang\", \"silence\": \"1 s\"", .signal = SIGSTOP},
	[NEVER] = {.name = "never", .sees = "error WORKER_NEVER_STARTED", .happens = "no worker ever starts (admission: 2 s)",
	.body = "\"mode\": \"never\", \"admission\": \"2 s\""},
	[LATE] = {.name = "late", .sees = "error WORKER_UNRESPONSIVE", .happens = "its worker falls silent (silence: 1 s)",
	.body = "\"mode\": \"late\", \"silence\": \"1 s\""},
	[REJECTED] = {.name = "rejected", .sees = "error GUARDRAIL", .happens = "a guardrail refuses it",
	.body = "\"text\": \"something forbidden\""},
	[HANDED] = {.name = "handed", .sees = "message", .happens = "its worker posts an update",
	.body = "\"text\": \"hello\", \"mode\": \"wait\", \"attach\": true, \"silence\": \"5 s\", \"rescue\": \"20 s\""},
	[ASKED] = {.name = "asked", .sees = "message", .happens = "its worker asks, and ends",
	.body = "\"text\": \"pay\", \"mode\": \"ask\""},
	[PUSHED] = {.name = "pushed", .happens = "answered; two gateways claim",
	.body = "\"text\": \"hello\", \"platform\": \"slack\""}
};

const int	nscenarios = NSCENARIOS;
const char *const gateway_poll = "--poll-ms=5000";

/*
 * The worker is killed when its client has seen what it does; the next worker,
 * of whichever gateway was first to take the turn, goes on and answers.
 */
static void
drive_handed(Scenario *scenario)
{
	if (scenario->step == 0 && scenario->beats)
	{
		kill(scenario->worker, SIGUSR2);
		happened(scenario, NULL);
		scenario->step++;
	}
	else if (scenario->step == 1 && scenario->updates == 1)
	{
		kill(scenario->worker, SIGKILL);
		scenario->worker = 0;
		scenario->beats = false;
		happened(scenario, "SIGKILL to its worker (rescue: 20 s)");
		scenario->step++;
	}
	else if (scenario->step == 2 && scenario->workers == 2 && scenario->beats)
	{
		kill(scenario->worker, SIGUSR2);
		happened(scenario, "its second worker posts an update");
		scenario->step++;
	}
	else if (scenario->step == 3 && scenario->updates == 2)
	{
		kill(scenario->worker, SIGUSR1);
		happened(scenario, "its second worker answers");
		scenario->step++;
	}
}

/* the client answers through the gateway that holds its stream, not the worker's */
static void
drive_asked(Scenario *scenario)
{
	Buffer		response = {0};
	int			status;

	if (!scenario->asked)
		return;
	scenario->asked = false;
	happened(scenario, "its client says yes, another answers");
	status = client_post(gateways[0].port, "/answer/asked/asked", "{\"text\": \"yes\"}", &response);
	if (status != 200)
		complain("the client's yes: %d %s", status, response.len > 0 ? response.data : "");
	buffer_free(&response);
}

/* the worker beats once; when its turn has failed, it answers after all */
static void
drive_late(Scenario *scenario)
{
	if (scenario->step == 0 && scenario->beats)
	{
		happened(scenario, NULL);
		scenario->step++;
	}
	else if (scenario->step == 1 && scenario->ends > 0)
	{
		kill(scenario->worker, SIGUSR1);
		happened(scenario, "its worker answers after all");
		scenario->step++;
	}
	else if (scenario->step == 2 && scenario->election[0] != '\0')
	{
		char		saw[64];

		snprintf(saw, sizeof(saw), "nothing more: it has %s", scenario->election);
		show(scenario, saw);
		scenario->step++;
	}
}

/* goes on with each story; true when all of them are over */
static bool
drive(void)
{
	bool		over = true;

	drive_handed(&scenarios[HANDED]);
	drive_asked(&scenarios[ASKED]);
	drive_late(&scenarios[LATE]);
	for (int i = 0; i < NSCENARIOS; i++)
	{
		Scenario   *scenario = &scenarios[i];

		/* a worker is hit when the database has had its first beat */
		if (scenario->beats && scenario->signal != 0)
		{
			kill(scenario->worker, scenario->signal);
			happened(scenario, NULL);
			scenario->signal = 0;
		}
		over = over && scenario->ends > 0;
	}
	return over && scenarios[LATE].step == 3;
}

static void
check(PGconn *conn)
{
	Buffer		worker = {0};
	int			good = check_clients();
	int			updates = 0;

	for (int i = 0; i < NSCENARIOS; i++)
		updates += scenarios[i].updates;
	if (updates != 3)
		complain("the clients saw %d updates", updates);
	if (strcmp(scenarios[LATE].election, "lost") != 0)
		complain("the late answer: %s", scenarios[LATE].election);
	if (scenarios[HANDED].rescues != 1 || scenarios[HANDED].workers != 2)
		complain("%d rescues, %d workers", scenarios[HANDED].rescues, scenarios[HANDED].workers);

	buffer_printf(&worker, "worker %d", (int) scenarios[HANDED].worker);
	expect(conn, "the worker that answered after the hand-over",
		   "SELECT worker FROM turn_liveness.get_turn($1, $1) WHERE generation = 2 AND state = 'answer'",
		   "handed", worker.data);
	expect(conn, "the answer to what was asked",
		   "SELECT payload->>'finalText' FROM turn_liveness.get_turn($1, $1) WHERE generation = 2", "asked",
		   "You said: pay: yes");
	expect(conn, "attempts to push", "SELECT string_agg(attempt::text, ' ') FROM turn_liveness.replies "
		   "WHERE conversation_id = $1 AND platform = 'slack'", "pushed", "1");
	expect(conn, "late replies kept", "SELECT count(*) FROM turn_liveness.late_replies WHERE deployment = $1",
		   "late", "1");
	expect(conn, "turns still owed", "SELECT count(*) FROM turn_liveness.turns", NULL, "0");
	buffer_free(&worker);

	if (wrong)
		printf("\nWRONG: %d of %d clients saw exactly one terminal event\n", good, PUSHED);
	else
		printf("\n%d clients, each saw exactly one terminal event; %d updates; 1 hand-over; 1 approval; "
			   "1 push; 1 late answer kept; %.1f s\n", good, updates, (now_ms() - started_at) / 1000.0);
}

int
main(int argc, char **argv)
{
	PGconn	   *conn;

	if (argc != 2)
		die("usage: demo GATEWAY");
	conn = ask_connect();
	begin(argv[1], "Gateway A holds the clients' streams, gateway B runs the workers.");
	open_streams();
	for (int i = 0; i < NSCENARIOS; i++)
		send_message(&scenarios[i]);

	while (!drive())
		wait_for_news(-1);

	for (int i = 0; i < PUSHED; i++)
		send_marker(conn, &scenarios[i]);
	for (int i = 0; i < PUSHED; i++)
	{
		while (!scenarios[i].marked)
			wait_for_news(-1);
	}
	check(conn);
	PQfinish(conn);
	return wrong ? 1 : 0;
}
