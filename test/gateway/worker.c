/*
 * worker.c
 *		A worker process: takes one message from its gateway, beats, commits one
 *		terminal reply.  Instead of thinking it misbehaves as it is told to.
 *
 *	worker [--attach] [--own-beats] [--interval=MS] MODE DEPLOYMENT MESSAGE_ID
 *
 *	answer	commits its answer at once
 *	wait	beats, and commits its answer at SIGUSR1
 *	late	beats once, falls silent, and commits its answer at SIGUSR1
 *	hang	beats and never answers
 *	crash	beats once and crashes
 *
 * Descriptor 3 is the socket to the gateway: the message's text comes in, ended
 * by a zero byte, later perhaps 'a' (abandon); signs of life go out.  With
 * --own-beats it calls heartbeat() itself, as a worker far from its gateway does.
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

static bool attach = false;
static bool own_beats = false;
static int	interval = 500;
static const char *mode;
static const char *deployment;
static const char *message_id;
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

static PGresult *
query(const char *sql, const char *argument)
{
	const char *params[] = {deployment, message_id, argument};

	return PQexecParams(conn, sql, argument == NULL ? 2 : 3, NULL, params, NULL, NULL, 0);
}

/*
 * Connects, and ties the deployment to the session if that was asked for.  False
 * while the server is away: a worker does not give up its work for that.
 */
static bool
connect_database(void)
{
	PGresult   *result;

	if (conn != NULL && PQstatus(conn) == CONNECTION_OK)
		return true;
	PQfinish(conn);
	conn = PQconnectdb("application_name=worker connect_timeout=2");
	if (PQstatus(conn) != CONNECTION_OK)
		return false;
	if (!attach)
		return true;

	result = query("SELECT turn_liveness.attach_worker($1), $2::text", NULL);
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
		PQclear(query("SELECT turn_liveness.detach_worker($1), $2::text", NULL));
}

/* a sign of life; false: no client waits for us any more */
static bool
beat(void)
{
	PGresult   *result;
	bool		owed = true;

	if (!own_beats)
		return write_all(GATEWAY_FD, "b", 1);
	if (!connect_database())
		return true;
	result = query("SELECT turn_liveness.heartbeat($1, ARRAY[$2])", NULL);
	if (PQresultStatus(result) == PGRES_TUPLES_OK)
		owed = strcmp(PQgetvalue(result, 0, 0), "0") != 0;
	PQclear(result);
	return owed;
}

/*
 * Commits the answer, whatever happens to the connection meanwhile: the same
 * call made again says the same again.
 */
static void
answer(const char *text)
{
	PGresult   *result;
	Buffer		reply = {0};

	buffer_printf(&reply, "You said: %s", text);
	for (;;)
	{
		if (!connect_database())
		{
			/* until the server is back; the gateway's going away ends the wait */
			struct pollfd gateway = {GATEWAY_FD, 0, 0};

			if (poll(&gateway, 1, 100) > 0 && !own_beats)
				exit(1);
			continue;
		}
		result = query("SELECT turn_liveness.commit_terminal_reply($1, ARRAY[$2], "
					   "jsonb_build_object('finalText', $3::text))", reply.data);
		if (PQresultStatus(result) == PGRES_TUPLES_OK)
			break;
		if (PQstatus(conn) == CONNECTION_OK)
			die("worker %d: %s", (int) getpid(), PQresultErrorMessage(result));
		PQclear(result);
	}
	report("election", PQgetvalue(result, 0, 0));
	PQclear(result);
	if (!own_beats)
		write_all(GATEWAY_FD, "d", 1);
	detach();
	exit(0);
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
		{NULL, 0, NULL, 0}
	};
	int			c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
	{
		if (c == 'a')
			attach = true;
		else if (c == 'o')
			own_beats = true;
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

/* the turn is over, and so are we */
static void
abandon(void)
{
	report("abandons", "its turn");
	if (!own_beats)
		write_all(GATEWAY_FD, "d", 1);
	detach();
	exit(0);
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
	sigprocmask(SIG_BLOCK, &set, NULL);
	fds[0] = (struct pollfd) {GATEWAY_FD, POLLIN, 0};
	fds[1] = (struct pollfd) {signalfd(-1, &set, SFD_CLOEXEC), POLLIN, 0};

	parse_options(argc, argv);
	text = receive();
	while (!connect_database())
	{
		if (poll(fds, 1, 100) > 0)
			exit(1);
	}

	for (;;)
	{
		int			timeout = -1;

		if (!silent && now_ms() >= beat_at)
		{
			if (!beat())
				abandon();
			beat_at = now_ms() + interval;
			silent = strcmp(mode, "late") == 0;
			if (strcmp(mode, "answer") == 0)
				answer(text);
			if (strcmp(mode, "crash") == 0)
			{
				setrlimit(RLIMIT_CORE, &no_core);
				abort();
			}
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
		if (fds[1].revents != 0 && strcmp(mode, "hang") != 0)
			answer(text);
		if (fds[0].revents != 0)
		{
			char		byte;
			ssize_t		len = read(GATEWAY_FD, &byte, 1);

			if (len == 1 && byte == 'a' && strcmp(mode, "late") != 0)
				abandon();
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
