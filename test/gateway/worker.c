/*
 * worker.c
 *		A worker process: takes one message from its gateway, beats, commits one
 *		terminal reply.  Instead of thinking it misbehaves as it is told to.
 *
 *	worker [--attach] [--own-beats] [--interval=MS] [--wait=INTERVAL]
 *		   MODE DEPLOYMENT MESSAGE_ID
 *
 *	answer	commits its answer at once
 *	ask		asks the client, lets the turn wait for the answer, and ends
 *	wait	beats, and commits its answer at SIGUSR1
 *	late	beats once, falls silent, and commits its answer at SIGUSR1
 *	hang	beats and never answers
 *	crash	takes its turn and crashes
 *
 * At SIGUSR2 it posts an update, in any mode.  First of all it takes its turn and
 * learns its generation, which fences all that it does: when another worker has
 * the turn by then, its beats say so and its answer is stale.
 *
 * Descriptor 3 is the socket to the gateway: the message's text comes in, ended
 * by a zero byte, later perhaps 'a' (abandon); the generation and signs of life
 * go out.  With --own-beats it calls heartbeat() itself, as a worker far from its
 * gateway does.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "util.h"

#define GATEWAY_FD 3
#define TEXT 25					/* the type's oid */

static bool attach = false;
static bool own_beats = false;
static int	interval = 500;
static const char *wait_for = "1 h";
static const char *mode;
static const char *deployment;
static const char *message_id;
static char generation[16];
static PGconn *conn = NULL;

/* a line for the user to watch, in one piece */
static void
report(const char *what, const char *result)
{
	Buffer		line = {0};

	buffer_printf(&line, "worker %d %s %s %s %s\n", (int) getpid(), deployment, message_id, what, result);
	write_all(STDOUT_FILENO, line.data, line.len);
	buffer_free(&line);
}

/* $1 and $2 are the turn, $3 its generation, $4 the argument, $5 how long it may wait */
static PGresult *
query(const char *sql, const char *argument)
{
	static const Oid types[] = {TEXT, TEXT, TEXT, TEXT, TEXT};
	const char *params[] = {deployment, message_id, generation, argument, wait_for};

	return PQexecParams(conn, sql, 5, types, params, NULL, NULL, 0);
}

/*
 * Connects, and ties the deployment to the session if that was asked for.  False
 * while the server is away: a worker does not give up its work for that.
 */
static bool
connect_database(void)
{
	char		parameters[80];
	PGresult   *result;

	if (conn != NULL && PQstatus(conn) == CONNECTION_OK)
		return true;
	PQfinish(conn);
	snprintf(parameters, sizeof(parameters), "application_name='worker %d' connect_timeout=2", (int) getpid());
	conn = PQconnectdb(parameters);
	if (PQstatus(conn) != CONNECTION_OK)
		return false;
	if (!attach)
		return true;

	result = query("SELECT turn_liveness.attach_worker($1)", NULL);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		fprintf(stderr, "worker %d: %s", (int) getpid(), PQresultErrorMessage(result));
	else if (atoi(PQgetvalue(result, 0, 0)) != PQbackendPID(conn))
		fprintf(stderr, "worker %d: there is a pooler between, attaching is of no use\n", (int) getpid());
	PQclear(result);
	return PQstatus(conn) == CONNECTION_OK;
}

/* no failure follows when this session ends */
static void
detach(void)
{
	if (attach && PQstatus(conn) == CONNECTION_OK)
		PQclear(query("SELECT turn_liveness.detach_worker($1)", NULL));
}

/* the turn is over or another worker's, or it waits: so our part is done */
static void
finish(const char *what, const char *result)
{
	report(what, result);
	if (!own_beats)
		write_all(GATEWAY_FD, "d", 1);
	detach();
	exit(0);
}

/* a sign of life; a worker that hears nothing from the server goes on */
static void
beat(void)
{
	PGresult   *result;
	bool		owed = true;

	if (!own_beats)
	{
		write_all(GATEWAY_FD, "b", 1);
		return;
	}
	if (!connect_database())
		return;
	result = query("SELECT turn_liveness.heartbeat($1, ARRAY[$2], ARRAY[$3::integer])", NULL);
	if (PQresultStatus(result) == PGRES_TUPLES_OK)
		owed = strcmp(PQgetvalue(result, 0, 0), "0") != 0;
	PQclear(result);
	if (!owed)
		finish("abandons", "its turn");
}

/* until the server may be back; the gateway's going away ends the wait */
static void
wait_for_server(void)
{
	struct pollfd gateway = {GATEWAY_FD, 0, 0};

	if (poll(&gateway, 1, 100) > 0 && !own_beats)
		exit(1);
}

/*
 * One statement, whatever happens to the connection meanwhile: it is repeated
 * until the server has answered.  Behind a proxy the server of this turn can be
 * away while the connection stands (class 08).  Gives what it said, or NULL.
 */
static char *
insist(const char *sql, const char *again, const char *argument)
{
	PGresult   *result;
	const char *code;
	char	   *value;

	for (;;)
	{
		if (!connect_database())
		{
			wait_for_server();
			continue;
		}
		result = query(sql, argument);
		if (PQresultStatus(result) == PGRES_TUPLES_OK)
			break;
		code = PQresultErrorField(result, PG_DIAG_SQLSTATE);
		if (code != NULL && strncmp(code, "08", 2) == 0)
			wait_for_server();
		else if (PQstatus(conn) == CONNECTION_OK)
			die("worker %d: %s", (int) getpid(), PQresultErrorMessage(result));
		PQclear(result);
		sql = again;
	}
	value = PQntuples(result) == 0 || PQgetisnull(result, 0, 0) ? NULL : xstrdup(PQgetvalue(result, 0, 0));
	PQclear(result);
	return value;
}

/*
 * Takes the turn.  It has been taken already if the dispatch came twice.  When
 * the connection was lost in between, the worker that took it may be we.
 */
static void
start(void)
{
	Buffer		name = {0};
	Buffer		line = {0};
	char	   *number;

	buffer_printf(&name, "worker %d", (int) getpid());
	number = insist("SELECT turn_liveness.start_turn($1, $2, $4)",
					"SELECT turn_liveness.start_turn($1, $2, $4, true)", name.data);
	if (number == NULL)
		finish("finds", "its turn over or taken");
	snprintf(generation, sizeof(generation), "%s", number);
	buffer_printf(&line, "%s\n", number);
	write_all(GATEWAY_FD, line.data, line.len);
	buffer_free(&name);
	buffer_free(&line);
	free(number);
}

/* commits the answer: the same call made again says the same again */
static void
answer(const char *text)
{
	static const char sql[] = "SELECT turn_liveness.commit_terminal_reply($1, ARRAY[$2], "
		"jsonb_build_object('finalText', $4::text), ARRAY[$3::integer])";
	Buffer		reply = {0};

	buffer_printf(&reply, "You said: %s", text);
	finish("election", insist(sql, sql, reply.data));
}

/*
 * Asks the client and lets the turn wait, in one transaction.  The worker may end
 * then: another one goes on with the answer.  Made again, the call leaves a turn
 * alone that waits already.
 */
static void
ask(const char *text)
{
	static const char sql[] = "SELECT turn_liveness.post_update($1, $2, "
		"jsonb_build_object('question', $4::text), $3::integer) IS NOT NULL "
		"AND turn_liveness.suspend_turn($1, $2, $5::interval, 'approval', $3::integer)";
	static const char again[] = "SELECT t.state = 'suspended' OR (turn_liveness.post_update($1, $2, "
		"jsonb_build_object('question', $4::text), $3::integer) IS NOT NULL "
		"AND turn_liveness.suspend_turn($1, $2, $5::interval, 'approval', $3::integer)) "
		"FROM turn_liveness.get_turn($1, $2) t";
	Buffer		question = {0};
	char	   *waits;

	buffer_printf(&question, "%s: shall I?", text);
	waits = insist(sql, again, question.data);
	finish(waits != NULL && waits[0] == 't' ? "asks" : "abandons", "its turn");
}

/* a word in between, which counts as a sign of life too */
static void
update(void)
{
	static int	step = 0;
	static const char sql[] = "SELECT turn_liveness.post_update($1, $2, "
		"jsonb_build_object('text', $4::text), $3::integer)";
	Buffer		text = {0};
	char	   *id;

	buffer_printf(&text, "step %d of generation %s", ++step, generation);
	id = insist(sql, sql, text.data);
	if (id == NULL)
		finish("abandons", "its turn");
	free(id);
	buffer_free(&text);
}

/* the message's text, as the gateway sent it */
static char *
receive(void)
{
	Buffer		text = {0};
	char		byte;
	ssize_t		len;

	while ((len = read(GATEWAY_FD, &byte, 1)) == 1 && byte != '\0')
		buffer_add(&text, &byte, 1);
	if (len != 1)
		die("worker %d: no message came", (int) getpid());
	return text.data == NULL ? xstrdup("") : text.data;
}

static void
parse_options(int argc, char **argv)
{
	static const struct option known[] = {
		{"attach", no_argument, NULL, 'a'},
		{"own-beats", no_argument, NULL, 'o'},
		{"interval", required_argument, NULL, 'i'},
		{"wait", required_argument, NULL, 'w'},
		{NULL, 0, NULL, 0}
	};
	int			c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
	{
		if (c == 'a')
			attach = true;
		else if (c == 'o')
			own_beats = true;
		else if (c == 'w')
			wait_for = optarg;
		else if (c == 'i' && atoi(optarg) > 0)
			interval = atoi(optarg);
		else
			exit(2);
	}
	if (argc - optind != 3)
		die("worker: MODE, DEPLOYMENT and MESSAGE_ID are needed");
	mode = argv[optind];
	deployment = argv[optind + 1];
	message_id = argv[optind + 2];
}

int
main(int argc, char **argv)
{
	struct pollfd fds[3];
	struct rlimit no_core = {0, 0};
	sigset_t	set;
	char	   *text;
	bool		silent = false;
	int64_t		beat_at = 0;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fds[0] = (struct pollfd) {GATEWAY_FD, POLLIN, 0};
	fds[1] = (struct pollfd) {signalfd(-1, &set, SFD_CLOEXEC), POLLIN, 0};

	parse_options(argc, argv);
	text = receive();
	start();

	/* a beat that its gateway passed on afterwards would say that it lives */
	if (strcmp(mode, "crash") == 0)
	{
		setrlimit(RLIMIT_CORE, &no_core);
		abort();
	}
	for (;;)
	{
		struct signalfd_siginfo info;
		int			timeout = -1;

		if (!silent && now_ms() >= beat_at)
		{
			beat();
			beat_at = now_ms() + interval;
			silent = strcmp(mode, "late") == 0;
			if (strcmp(mode, "answer") == 0)
				answer(text);
			if (strcmp(mode, "ask") == 0)
				ask(text);
		}
		if (!silent)
			timeout = beat_at > now_ms() ? (int) (beat_at - now_ms()) : 0;
		/* an attached worker whose session was taken away attaches again */
		if (!connect_database() && (timeout < 0 || timeout > 100))
			timeout = 100;

		fds[2] = (struct pollfd) {PQsocket(conn), POLLIN, 0};
		if (poll(fds, 3, timeout) < 0 && errno != EINTR)
			die("worker: poll: %s", strerror(errno));
		if (fds[2].revents != 0)
			PQconsumeInput(conn);
		if (fds[1].revents != 0 && read(fds[1].fd, &info, sizeof(info)) == sizeof(info))
		{
			if (info.ssi_signo == SIGUSR2)
				update();
			else if (strcmp(mode, "hang") != 0)
				answer(text);
		}
		if (fds[0].revents != 0)
		{
			char		byte;
			ssize_t		len = read(GATEWAY_FD, &byte, 1);

			if (len == 1 && byte == 'a' && strcmp(mode, "late") != 0)
				finish("abandons", "its turn");
			if (len == 0 && !own_beats)
			{
				/* without its gateway no process beats for it */
				report("lost", "its gateway");
				exit(1);
			}
			if (len == 0)
				fds[0].fd = -1;
		}
	}
}
