/*
 * client.c
 *		What pgbench cannot do.
 *
 *	client listen N CHANNEL...
 *		N sessions that listen on these channels and read what comes, until SIGTERM
 *		ends it; then prints how many notifications each received.
 *	client collect N CHANNEL...
 *		The same, and prints what comes: which session, when, the payload.
 *	client latency N
 *		N times: a session attaches itself as the worker of a turn and ends;
 *		prints in milliseconds how long until a listener was woken for that
 *		turn's conversation, and how long a commit took.
 *	client wakeup ours|plain N
 *		N times, with pauses: a transaction inserts a row and commits a reply, or
 *		calls pg_notify; prints in milliseconds how long from its COMMIT until a
 *		listener was woken.
 */
#define _GNU_SOURCE				/* ppoll */
#include <libpq-fe.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 10000

static void
die(const char *what, PGconn *conn)
{
	fprintf(stderr, "bench client: %s: %s\n", what, conn ? PQerrorMessage(conn) : "");
	exit(1);
}

static PGconn *
connect_db(void)
{
	PGconn	   *conn = PQconnectdb("fallback_application_name=bench_client");

	if (PQstatus(conn) != CONNECTION_OK)
		die("connect", conn);
	return conn;
}

static void
run(PGconn *conn, const char *sql)
{
	PGresult   *result = PQexec(conn, sql);

	if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
		die(sql, conn);
	PQclear(result);
}

static void
run_prepared(PGconn *conn, const char *name, const char *value)
{
	PGresult   *result = PQexecPrepared(conn, name, 1, &value, NULL, NULL, 0);

	if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
		die(name, conn);
	PQclear(result);
}

static void
prepare(PGconn *conn, const char *name, const char *sql)
{
	PGresult   *result = PQprepare(conn, name, sql, 0, NULL);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(sql, conn);
	PQclear(result);
}

static double
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000.0 + t.tv_nsec / 1000000.0;
}

static void
listen_on(PGconn *conn, const char *channel)
{
	char		sql[300];

	snprintf(sql, sizeof sql, "LISTEN \"%s\"", channel);
	run(conn, sql);
}

static volatile sig_atomic_t ended = false;

static void
on_sigterm(int signo)
{
	ended = true;
}

static int
listeners(int n, char **channels, bool print)
{
	PGconn	  **conns = calloc(n, sizeof *conns);
	struct pollfd *fds = calloc(n, sizeof *fds);
	long	   *received = calloc(n, sizeof *received);
	long		least,
				most;
	sigset_t	blocked,
				before;
	int			i;

	/* comes while we wait, and at no other time */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigprocmask(SIG_BLOCK, &blocked, &before);
	signal(SIGTERM, on_sigterm);

	for (i = 0; i < n; i++)
	{
		char	  **channel;

		conns[i] = connect_db();
		for (channel = channels; *channel; channel++)
			listen_on(conns[i], *channel);
		fds[i].fd = PQsocket(conns[i]);
		fds[i].events = POLLIN;
	}
	puts("listening");
	fflush(stdout);
	while (!ended)
	{
		if (ppoll(fds, n, NULL, &before) < 0)
			continue;
		for (i = 0; i < n; i++)
		{
			PGnotify   *notify;

			if (!fds[i].revents)
				continue;
			if (!PQconsumeInput(conns[i]))
				return 0;		/* the server was stopped */
			while ((notify = PQnotifies(conns[i])) != NULL)
			{
				received[i]++;
				if (print)
				{
					struct timespec t;

					clock_gettime(CLOCK_REALTIME, &t);
					printf("%d\t%lld.%06ld\t%s\n", i, (long long) t.tv_sec, t.tv_nsec / 1000, notify->extra);
				}
				PQfreemem(notify);
			}
		}
		if (print)
			fflush(stdout);
	}
	least = most = received[0];
	for (i = 1; i < n; i++)
	{
		least = received[i] < least ? received[i] : least;
		most = received[i] > most ? received[i] : most;
	}
	printf("received %ld to %ld\n", least, most);
	return 0;
}

/* Wait for a notification that names the conversation, or says "look". */
static void
wait_for(PGconn *conn, const char *conversation)
{
	char		quoted[64];
	double		end = now_ms() + WAIT_MS;

	snprintf(quoted, sizeof quoted, "\"%s\"", conversation);
	for (;;)
	{
		PGnotify   *notify;
		struct pollfd fd = {PQsocket(conn), POLLIN, 0};

		while ((notify = PQnotifies(conn)) != NULL)
		{
			int			named = strstr(notify->extra, quoted) != NULL || strcmp(notify->extra, "{}") == 0;

			PQfreemem(notify);
			if (named)
				return;
		}
		if (now_ms() >= end)
			die("no wake-up within 10 s", NULL);
		poll(&fd, 1, WAIT_MS);
		if (!PQconsumeInput(conn))
			die("listener", conn);
	}
}

static int
latency(int n)
{
	PGconn	   *gateway = connect_db();
	PGconn	   *listener = connect_db();
	int			i;

	listen_on(listener, "turn_liveness");
	prepare(gateway, "arm", "SELECT turn_liveness.arm_turn($1, 'm')");
	prepare(gateway, "commit", "INSERT INTO bench.commits VALUES ($1)");
	srand(1);
	for (i = 0; i < n; i++)
	{
		PGconn	   *worker = connect_db();
		char		name[32];
		char		sql[100];
		double		start,
					woken,
					committed;

		snprintf(name, sizeof name, "latency%d", i);
		run_prepared(gateway, "arm", name);
		snprintf(sql, sizeof sql, "SELECT turn_liveness.attach_worker('%s')", name);
		run(worker, sql);
		/* at no fixed moment of a process's period */
		usleep(rand() % 20000);

		start = now_ms();
		shutdown(PQsocket(worker), SHUT_RDWR);
		wait_for(listener, name);
		woken = now_ms();
		PQfinish(worker);

		committed = now_ms();
		run_prepared(gateway, "commit", name);
		committed = now_ms() - committed;
		printf("%.3f %.3f\n", woken - start, committed);
	}
	return 0;
}

static int
wakeup(bool ours, int n)
{
	PGconn	   *gateway = connect_db();
	PGconn	   *listener = connect_db();
	int			i;

	listen_on(listener, ours ? "turn_liveness" : "plain");
	prepare(gateway, "insert", "INSERT INTO bench.commits VALUES ($1)");
	prepare(gateway, "arm", "SELECT turn_liveness.arm_turn($1, 'm')");
	/* what says that the conversation has something to read, with the same payload */
	prepare(gateway, "tell", ours ?
			"SELECT turn_liveness.commit_terminal_reply($1, '{m}', '{\"finalText\": \"some text\"}')" :
			"SELECT pg_notify('plain', json_build_object('conversations', json_build_array($1::text), 'platforms', '{api}'::text[])::text)");
	srand(getpid());
	for (i = 0; i < n; i++)
	{
		char		name[48];
		double		start,
					woken;
		PGresult   *result;

		snprintf(name, sizeof name, "wakeup%d-%d", (int) getpid(), i);
		if (ours)
			run_prepared(gateway, "arm", name);
		/* at no fixed moment of a process's period, and after the worker's gathering */
		usleep(10000 + rand() % 20000);

		run(gateway, "BEGIN");
		run_prepared(gateway, "insert", name);
		run_prepared(gateway, "tell", name);
		start = now_ms();
		if (!PQsendQuery(gateway, "COMMIT"))
			die("COMMIT", gateway);
		wait_for(listener, name);
		woken = now_ms();
		while ((result = PQgetResult(gateway)) != NULL)
		{
			if (PQresultStatus(result) != PGRES_COMMAND_OK)
				die("COMMIT", gateway);
			PQclear(result);
		}
		printf("%.3f\n", woken - start);
	}
	return 0;
}

int
main(int argc, char **argv)
{
	if (argc >= 4 && strcmp(argv[1], "listen") == 0)
		return listeners(atoi(argv[2]), argv + 3, false);
	if (argc >= 4 && strcmp(argv[1], "collect") == 0)
		return listeners(atoi(argv[2]), argv + 3, true);
	if (argc == 3 && strcmp(argv[1], "latency") == 0)
		return latency(atoi(argv[2]));
	if (argc == 4 && strcmp(argv[1], "wakeup") == 0)
		return wakeup(strcmp(argv[2], "ours") == 0, atoi(argv[3]));
	fprintf(stderr, "usage: client listen|collect N CHANNEL... | latency N | wakeup ours|plain N\n");
	return 2;
}
