/*
 * demo.c
 *		The main job on real processes: two gateways, workers that die in every
 *		way, clients that hold streams.  Shows what each client saw, and when.
 *
 * The clients' streams are on one gateway, the workers belong to the other; both
 * push to the same platform.  Fails if a client saw anything but exactly one
 * terminal event, or another client's.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "client.h"

#define MOST_MS 30000			/* then something hangs */

typedef struct Scenario
{
	const char *name;			/* the conversation and the message id */
	const char *body;			/* what the client sends */
	const char *sees;			/* what the client must see */
	const char *happens;		/* shown, with the time of the event */
	int			signal;			/* for the worker, once it has beaten */

	Client		client;
	pid_t		worker;
	bool		beats;
	int64_t		event_at;		/* when it was sent, killed, stopped, ... */
	int64_t		seen_at;		/* when the client saw the end */
	char		saw[64];
	int			ends;			/* terminal events that the client saw */
	bool		marked;			/* saw the end of the marker */
	char		election[16];	/* what the worker was told */
} Scenario;

enum
{
	ANSWERED, KILLED, HUNG, NEVER, LATE, REJECTED, PUSHED, NSCENARIOS
};

static Scenario scenarios[NSCENARIOS] = {
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
	[PUSHED] = {.name = "pushed", .happens = "answered; two gateways claim",
	.body = "\"text\": \"hello\", \"platform\": \"slack\""}
};

typedef struct Gateway
{
	pid_t		pid;
	int			fd;				/* its standard output */
	int			port;
	bool		connected;
	Buffer		in;
} Gateway;

static Gateway gateways[2];		/* the first holds the streams, the second the workers */
static int64_t started_at;
static bool wrong = false;

static void
complain(const char *format,...)
{
	va_list		args;

	wrong = true;
	va_start(args, format);
	fputs("  WRONG: ", stdout);
	vprintf(format, args);
	va_end(args);
	fputc('\n', stdout);
}

/* whatever happens, no process of ours stays behind */
static void
clean_up(void)
{
	for (int i = 0; i < NSCENARIOS; i++)
	{
		if (scenarios[i].worker > 0)
			kill(scenarios[i].worker, SIGKILL);
	}
	for (int i = 0; i < 2; i++)
	{
		if (gateways[i].pid > 0)
			kill(gateways[i].pid, SIGTERM);
	}
	for (int i = 0; i < 2; i++)
	{
		if (gateways[i].pid > 0)
			waitpid(gateways[i].pid, NULL, 0);
	}
}

static void
gateway_start(Gateway *gateway, const char *program, const char *name)
{
	Buffer		option = {0};
	int			fds[2];

	buffer_printf(&option, "--name=%s", name);
	if (pipe2(fds, O_CLOEXEC) < 0)
		die("pipe: %s", strerror(errno));
	fflush(stdout);
	gateway->pid = fork();
	if (gateway->pid == 0)
	{
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		dup2(fds[1], STDOUT_FILENO);
		execl(program, program, "--port=0", option.data, "--beat-ms=200", "--push=slack", NULL);
		fprintf(stderr, "cannot run %s: %s\n", program, strerror(errno));
		_exit(127);
	}
	if (gateway->pid < 0)
		die("fork: %s", strerror(errno));
	close(fds[1]);
	gateway->fd = fds[0];
	buffer_free(&option);
}

static Scenario *
find_scenario(const char *name)
{
	for (int i = 0; i < NSCENARIOS; i++)
	{
		if (strcmp(scenarios[i].name, name) == 0)
			return &scenarios[i];
	}
	return NULL;
}

/* the event that the client waits for; from here its milliseconds count */
static void
happened(Scenario *scenario)
{
	scenario->event_at = now_ms();
}

/* one line of the timeline, when the outcome is there */
static void
show(Scenario *scenario)
{
	scenario->seen_at = now_ms();
	printf("  %-9s  %-38s at %5d ms    %-27s after %4d ms\n", scenario->name, scenario->happens,
		   (int) (scenario->event_at - started_at), scenario->saw, (int) (scenario->seen_at - scenario->event_at));
	fflush(stdout);
}

/* what a gateway or a worker writes for the user to watch */
static void
gateway_line(Gateway *gateway, char *line)
{
	char		deployment[64];
	char		message_id[64];
	char		word[64];
	int			pid;

	if (sscanf(line, "listening on 127.0.0.1:%d", &gateway->port) == 1)
		return;
	if (strcmp(line, "connected to the database") == 0)
		gateway->connected = true;
	else if (sscanf(line, "worker %d %63s", &pid, word) == 2 && strcmp(word, "beats") == 0)
	{
		for (int i = 0; i < NSCENARIOS; i++)
			scenarios[i].beats = scenarios[i].beats || scenarios[i].worker == pid;
	}
	else if (sscanf(line, "worker %d %63s %63s election %63s", &pid, deployment, message_id, word) == 4)
	{
		Scenario   *scenario = find_scenario(deployment);

		if (scenario == NULL)
			return;
		snprintf(scenario->election, sizeof(scenario->election), "%.15s", word);
		if (scenario == &scenarios[LATE])
			printf("  %-9s  %-38s at %5d ms    nothing more: the election is %s\n", "", "its worker answers after all",
				   (int) (scenario->event_at - started_at), scenario->election);
	}
	else if (sscanf(line, "push %63s %*s attempt %*s %63s", word, deployment) == 2)
	{
		Scenario   *scenario = find_scenario(deployment);

		if (scenario == NULL || strstr(line, "\"messageId\": \"marker\"") != NULL)
			return;
		scenario->ends++;
		snprintf(scenario->saw, sizeof(scenario->saw), "push by gateway %s", gateway == &gateways[0] ? "A" : "B");
		show(scenario);
	}
}

static void
gateway_read(Gateway *gateway)
{
	char		bytes[4096];
	ssize_t		len = read(gateway->fd, bytes, sizeof(bytes));
	char	   *line;
	char	   *end;

	if (len <= 0)
		die("a gateway ended");
	buffer_add(&gateway->in, bytes, len);
	line = gateway->in.data;
	while ((end = strchr(line, '\n')) != NULL)
	{
		*end = '\0';
		gateway_line(gateway, line);
		line = end + 1;
	}
	len = gateway->in.data + gateway->in.len - line;
	memmove(gateway->in.data, line, len + 1);
	gateway->in.len = len;
}

/* the text of a member of a JSON object, good enough for our own names */
static void
json_text(const char *json, const char *key, char *value, size_t size)
{
	Buffer		pattern = {0};
	const char *found;

	buffer_printf(&pattern, "\"%s\": \"", key);
	found = strstr(json, pattern.data);
	found = found == NULL ? "" : found + pattern.len;
	snprintf(value, size, "%.*s", (int) strcspn(found, "\""), found);
	buffer_free(&pattern);
}

static void
client_event(Client *client, const char *event, const char *data, const char *id)
{
	Scenario   *scenario = client->owner;
	char		conversation[64];
	char		message_id[64];
	char		code[32];
	bool		last = strcmp(event, "complete") == 0;

	json_text(data, "conversationId", conversation, sizeof(conversation));
	json_text(data, "messageId", message_id, sizeof(message_id));
	if (strcmp(conversation, scenario->name) != 0)
		complain("the client of \"%s\" was sent something of \"%s\": %s", scenario->name, conversation, data);
	if (last != (id != NULL))
		complain("of the events of a reply the last one, and no other, carries an id: %s", event);

	if (strcmp(message_id, "marker") == 0)
	{
		scenario->marked = scenario->marked || last;
		return;
	}
	if (strcmp(event, "message") == 0)
		snprintf(scenario->saw, sizeof(scenario->saw), "message");
	else if (strcmp(event, "agent-error") == 0)
	{
		json_text(data, "errorCode", code, sizeof(code));
		snprintf(scenario->saw, sizeof(scenario->saw), "error %s", code);
	}
	if (last && scenario->ends++ == 0)
		show(scenario);
}

/*
 * Waits for something, then takes everything that came.  Given to poll() as a
 * timeout is only how long the whole demo may take.
 */
static void
wait_for_news(void)
{
	struct pollfd fds[2 + NSCENARIOS];
	int64_t		left = started_at + MOST_MS - now_ms();

	for (int i = 0; i < 2; i++)
		fds[i] = (struct pollfd) {gateways[i].fd, POLLIN, 0};
	for (int i = 0; i < NSCENARIOS; i++)
		fds[2 + i] = (struct pollfd) {scenarios[i].client.fd > 0 ? scenarios[i].client.fd : -1, POLLIN, 0};
	if (left <= 0 || poll(fds, 2 + NSCENARIOS, (int) left) <= 0)
	{
		for (int i = 0; i < NSCENARIOS; i++)
		{
			if (scenarios[i].ends == 0)
				printf("  WRONG: \"%s\": %s, and nothing was heard of it\n", scenarios[i].name, scenarios[i].happens);
		}
		die("the demo was not over after %d s", MOST_MS / 1000);
	}
	for (int i = 0; i < 2; i++)
	{
		if (fds[i].revents != 0)
			gateway_read(&gateways[i]);
	}
	for (int i = 0; i < NSCENARIOS; i++)
	{
		if (fds[2 + i].revents != 0 && !client_read(&scenarios[i].client, client_event))
			die("the stream of \"%s\" ended", scenarios[i].name);
	}
}

static void
send_message(Scenario *scenario)
{
	Buffer		path = {0};
	Buffer		body = {0};
	Buffer		response = {0};
	const char *worker;
	int			status;

	buffer_printf(&path, "/message/%s", scenario->name);
	buffer_printf(&body, "{\"messageId\": \"%s\", %s}", scenario->name, scenario->body);
	happened(scenario);
	status = client_post(gateways[1].port, path.data, body.data, &response);
	if (status != 202)
		die("the gateway refused \"%s\": %d %s", scenario->name, status, response.len > 0 ? response.data : "");
	worker = strstr(response.data, "\"worker\": ");
	scenario->worker = worker == NULL ? 0 : atoi(worker + strlen("\"worker\": "));
	buffer_free(&path);
	buffer_free(&body);
	buffer_free(&response);
}

static char *
query(PGconn *conn, const char *sql, const char *argument)
{
	PGresult   *result = PQexecParams(conn, sql, argument == NULL ? 0 : 1, NULL, &argument, NULL, NULL, 0);
	char	   *value;

	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) == 0)
		die("%s: %s", sql, PQresultErrorMessage(result));
	value = xstrdup(PQgetvalue(result, 0, 0));
	PQclear(result);
	return value;
}

/*
 * Everything that a client may still be sent was committed before this reply,
 * and replies of one conversation come in order: when the client has this one,
 * it has them all.
 */
static void
send_marker(PGconn *conn, const Scenario *scenario)
{
	char	   *election;

	free(query(conn, "SELECT turn_liveness.arm_turn($1, 'marker', jsonb_build_object('conversationId', $1::text))", scenario->name));
	election = query(conn, "SELECT turn_liveness.commit_terminal_reply($1, '{marker}', '{\"finalText\": \"marker\"}')",
					 scenario->name);
	if (strcmp(election, "won") != 0)
		complain("the marker of \"%s\": %s", scenario->name, election);
	free(election);
}

static void
check(PGconn *conn)
{
	char	   *value;
	int			clients = 0;
	int			ends = 0;

	for (int i = 0; i < NSCENARIOS; i++)
	{
		Scenario   *scenario = &scenarios[i];
		if (i != PUSHED)
		{
			clients++;
			ends += scenario->ends;
			if (strcmp(scenario->saw, scenario->sees) != 0)
				complain("the client of \"%s\" saw \"%s\"", scenario->name, scenario->saw);
		}
		if (scenario->ends != 1)
			complain("\"%s\" ended %d times", scenario->name, scenario->ends);
	}
	value = query(conn, "SELECT string_agg(attempt::text, ' ') FROM turn_liveness.replies "
				  "WHERE conversation_id = 'pushed' AND platform = 'slack'", NULL);
	if (strcmp(value, "1") != 0)
		complain("attempts to push: %s", value);
	free(value);
	value = query(conn, "SELECT count(*) FROM turn_liveness.late_replies WHERE deployment = 'late'", NULL);
	if (strcmp(value, "1") != 0)
		complain("%s late replies were kept", value);
	free(value);
	value = query(conn, "SELECT count(*) FROM turn_liveness.turns", NULL);
	if (strcmp(value, "0") != 0)
		complain("%s turns are still owed", value);
	free(value);
	printf("\n%d clients, %d terminal events; 1 push; 1 late answer kept; %.1f s\n", clients, ends,
		   (now_ms() - started_at) / 1000.0);
}

int
main(int argc, char **argv)
{
	PGconn	   *conn = PQconnectdb("application_name=demo");
	bool		over = false;

	if (argc != 2)
		die("usage: demo GATEWAY");
	if (PQstatus(conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(conn));
	started_at = now_ms();
	atexit(clean_up);
	gateway_start(&gateways[0], argv[1], "gateway-a");
	gateway_start(&gateways[1], argv[1], "gateway-b");
	while (!gateways[0].connected || !gateways[1].connected)
		wait_for_news();
	printf("Gateway A holds the clients' streams, gateway B runs the workers.\n\n"
		   "  %-9s  %-38s %-14s  %s\n", "message", "what happens", "", "its client sees");

	for (int i = 0; i < PUSHED; i++)
	{
		scenarios[i].client.owner = &scenarios[i];
		client_open(&scenarios[i].client, gateways[0].port, scenarios[i].name);
		while (!scenarios[i].client.open)
			wait_for_news();
	}
	for (int i = 0; i < NSCENARIOS; i++)
		send_message(&scenarios[i]);

	/* a worker is hit when the database has had its first beat */
	while (!over)
	{
		over = true;
		for (int i = 0; i < NSCENARIOS; i++)
		{
			Scenario   *scenario = &scenarios[i];

			if (scenario->beats && scenario->signal != 0)
			{
				kill(scenario->worker, scenario->signal);
				happened(scenario);
				scenario->signal = 0;
			}
			over = over && scenario->ends > 0;
		}
		if (scenarios[LATE].beats && scenarios[LATE].ends == 0)
		{
			happened(&scenarios[LATE]);
			scenarios[LATE].beats = false;
		}
		if (scenarios[LATE].ends > 0 && scenarios[LATE].worker > 0 && scenarios[LATE].election[0] == '\0')
		{
			kill(scenarios[LATE].worker, SIGUSR1);
			scenarios[LATE].worker = 0;
			happened(&scenarios[LATE]);
		}
		over = over && scenarios[LATE].election[0] != '\0';
		if (!over)
			wait_for_news();
	}
	if (strcmp(scenarios[LATE].election, "lost") != 0)
		complain("the late answer: %s", scenarios[LATE].election);

	for (int i = 0; i < PUSHED; i++)
		send_marker(conn, &scenarios[i]);
	for (int i = 0; i < PUSHED; i++)
	{
		while (!scenarios[i].marked)
			wait_for_news();
	}
	check(conn);
	PQfinish(conn);
	return wrong ? 1 : 0;
}
