/*
 * watch.c
 *		What the demo starts and watches: gateways as processes, whose lines it
 *		reads, and clients, which count what their streams bring.
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

#include "demo.h"

#define MOST_MS 180000			/* then something hangs */

Gateway		gateways[2];
int64_t		started_at;
bool		wrong = false;

void
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
	for (int i = 0; i < nscenarios; i++)
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
		execl(program, program, "--port=0", option.data, "--beat-ms=200", "--push=slack", gateway_poll, NULL);
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
	for (int i = 0; i < nscenarios; i++)
	{
		if (strcmp(scenarios[i].name, name) == 0)
			return &scenarios[i];
	}
	return NULL;
}

/* the client waits for this event: from here its milliseconds count */
void
happened(Scenario *scenario, const char *happens)
{
	scenario->event_at = now_ms();
	if (happens != NULL)
		scenario->happens = happens;
}

/* one line of the timeline: an event, and what came of it */
void
show(const Scenario *scenario, const char *saw)
{
	printf("  %-9s  %-38s at %5d ms    %-32s after %4d ms\n", scenario->name, scenario->happens,
		   (int) (scenario->event_at - started_at), saw, (int) (now_ms() - scenario->event_at));
	fflush(stdout);
}

/* what a gateway or a worker writes for the user to watch */
static void
gateway_line(Gateway *gateway, char *line)
{
	Scenario   *scenario;
	char		deployment[64];
	char		word[64];
	char		saw[64];
	int			pid;

	if (sscanf(line, "listening on 127.0.0.1:%d", &gateway->port) == 1)
		return;
	if (strcmp(line, "connected to the database") == 0)
		gateway->connected = true;
	else if (sscanf(line, "worker %d started for %63s", &pid, deployment) == 2)
	{
		scenario = find_scenario(deployment);
		if (scenario == NULL)
			return;
		scenario->worker = pid;
		scenario->beats = false;
		scenario->workers++;
	}
	else if (sscanf(line, "worker %d %63s", &pid, word) == 2 && strcmp(word, "beats") == 0)
	{
		for (int i = 0; i < nscenarios; i++)
			scenarios[i].beats = scenarios[i].beats || scenarios[i].worker == pid;
	}
	else if (sscanf(line, "worker %*d %63s %*s election %63s", deployment, word) == 2)
	{
		scenario = find_scenario(deployment);
		if (scenario != NULL)
			snprintf(scenario->election, sizeof(scenario->election), "%.15s", word);
	}
	else if (sscanf(line, "rescued %63s %*s generation %d", deployment, &pid) == 2)
	{
		scenario = find_scenario(deployment);
		if (scenario == NULL)
			return;
		snprintf(saw, sizeof(saw), "nothing: gateway %s takes it over", gateway == &gateways[0] ? "A" : "B");
		scenario->rescues++;
		show(scenario, saw);
	}
	else if (sscanf(line, "push %63s %*s %*s attempt %*s %63s", word, deployment) == 2)
	{
		scenario = find_scenario(deployment);
		if (scenario == NULL || strstr(line, "\"messageId\": \"marker\"") != NULL)
			return;
		scenario->ends++;
		snprintf(scenario->saw, sizeof(scenario->saw), "push by gateway %s", gateway == &gateways[0] ? "A" : "B");
		show(scenario, scenario->saw);
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
	char		text[32];
	bool		update = strcmp(event, "update") == 0;
	bool		last = strcmp(event, "complete") == 0;

	json_text(data, "conversationId", conversation, sizeof(conversation));
	json_text(data, "messageId", message_id, sizeof(message_id));
	if (strcmp(conversation, scenario->name) != 0)
		complain("the client of \"%s\" was sent something of \"%s\": %s", scenario->name, conversation, data);
	if ((last || update) != (id != NULL))
		complain("of the events of a reply the last one, and no other, carries an id: %s", event);

	if (strcmp(message_id, "marker") == 0)
	{
		scenario->marked = scenario->marked || last;
		return;
	}
	if (scenario->ends > 0)
		complain("the client of \"%s\" was sent \"%s\" after the end", scenario->name, event);
	if (update)
	{
		json_text(data, "question", text, sizeof(text));
		scenario->asked = text[0] != '\0';
		if (!scenario->asked)
			json_text(data, "text", text, sizeof(text));
		scenario->updates++;
		snprintf(scenario->saw, sizeof(scenario->saw), "update \"%s\"", text);
		show(scenario, scenario->saw);
	}
	else if (strcmp(event, "message") == 0)
		snprintf(scenario->saw, sizeof(scenario->saw), "message");
	else if (strcmp(event, "agent-error") == 0)
	{
		json_text(data, "errorCode", text, sizeof(text));
		snprintf(scenario->saw, sizeof(scenario->saw), "error %s", text);
	}
	if (last && scenario->ends++ == 0)
		show(scenario, scenario->saw);
}

/*
 * Waits for something, at most that many milliseconds unless that is -1, then
 * takes everything that came.  The whole demo may take MOST_MS.
 */
void
wait_for_news(int most)
{
	struct pollfd fds[2 + nscenarios];
	int64_t		left = started_at + MOST_MS - now_ms();
	int			count = 0;

	for (int i = 0; i < 2; i++)
		fds[i] = (struct pollfd) {gateways[i].fd, POLLIN, 0};
	for (int i = 0; i < nscenarios; i++)
		fds[2 + i] = (struct pollfd) {scenarios[i].client.fd > 0 ? scenarios[i].client.fd : -1, POLLIN, 0};
	if (left > 0)
		count = poll(fds, 2 + nscenarios, most >= 0 && most < left ? most : (int) left);
	if (count == 0 && most >= 0 && most < left)
		return;
	if (count <= 0)
	{
		for (int i = 0; i < nscenarios; i++)
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
	for (int i = 0; i < nscenarios; i++)
	{
		if (fds[2 + i].revents != 0 && !client_read(&scenarios[i].client, client_event))
			die("the stream of \"%s\" ended", scenarios[i].name);
	}
}

/* starts both gateways, and waits until they are connected to the database */
void
begin(const char *program, const char *title)
{
	started_at = now_ms();
	atexit(clean_up);
	gateway_start(&gateways[0], program, "gateway-a");
	gateway_start(&gateways[1], program, "gateway-b");
	while (!gateways[0].connected || !gateways[1].connected)
		wait_for_news(-1);
	printf("%s\n\n  %-9s  %-38s %-14s  %s\n", title, "message", "what happens", "", "its client sees");
}

/* opens the stream of each client */
void
open_streams(void)
{
	for (int i = 0; i < nscenarios; i++)
	{
		if (scenarios[i].sees == NULL)
			continue;
		scenarios[i].client.owner = &scenarios[i];
		client_open(&scenarios[i].client, gateways[0].port, scenarios[i].name);
		while (!scenarios[i].client.open)
			wait_for_news(-1);
	}
}

/* the number of clients that saw exactly one terminal event */
int
check_clients(void)
{
	int			good = 0;

	for (int i = 0; i < nscenarios; i++)
	{
		Scenario   *scenario = &scenarios[i];

		if (scenario->ends != 1)
			complain("\"%s\" ended %d times", scenario->name, scenario->ends);
		if (scenario->sees == NULL)
			continue;
		good += scenario->ends == 1;
		if (strcmp(scenario->saw, scenario->sees) != 0)
			complain("the client of \"%s\" saw \"%s\"", scenario->name, scenario->saw);
	}
	return good;
}
