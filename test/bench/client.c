/*
 * client.c
 *		What pgbench cannot do.
 *
 *	client listen N CHANNEL...
 *		N sessions that listen on these channels and read what comes, until a
 *		signal ends it.
 *	client latency N
 *		N times: a session attaches itself as the worker of a turn and ends;
 *		prints in milliseconds how long until a listener was woken for that
 *		turn's conversation, and how long a commit took.
 */
#include <libpq-fe.h>
#include <poll.h>
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

static int
listeners(int n, char **channels)
{
	PGconn	  **conns = calloc(n, sizeof *conns);
	struct pollfd *fds = calloc(n, sizeof *fds);
	int			i;

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
	for (;;)
	{
		if (poll(fds, n, -1) < 0)
			return 1;
		for (i = 0; i < n; i++)
		{
			PGnotify   *notify;

			if (!fds[i].revents)
				continue;
			if (!PQconsumeInput(conns[i]))
				return 0;		/* the server was stopped */
			while ((notify = PQnotifies(conns[i])) != NULL)
				PQfreemem(notify);
		}
	}
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
		/* at no fixed moment of anybody's period */
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

int
main(int argc, char **argv)
{
	if (argc >= 4 && strcmp(argv[1], "listen") == 0)
		return listeners(atoi(argv[2]), argv + 3);
	if (argc == 3 && strcmp(argv[1], "latency") == 0)
		return latency(atoi(argv[2]));
	fprintf(stderr, "usage: client listen N CHANNEL... | latency N\n");
	return 2;
}
