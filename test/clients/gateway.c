/*
 * gateway.c
 *		The whole gateway side in C (libpq), and a worker, in one process.
 *
 * PGHOST and so on name the server. POOL_HOST and POOL_PORT, if given, name a
 * pooler in transaction mode before it: everything goes through that but LISTEN
 * and attach_worker, which need a session. Wants a table my_jobs (payload jsonb).
 *
 *		cc gateway.c -o gateway $(pkg-config --cflags --libs libpq)
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libpq-fe.h>

static PGconn *db;				/* statements: through the pooler */
static PGconn *session;			/* the worker's session: direct */
static PGconn *listener;		/* the gateway's ear: direct */
static char conversation[100];
static char ids[sizeof(conversation) + 2];	/* {conversation}: a text[] with one element */

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	exit(1);
}

static PGconn *
connect_to(const char *host, const char *port)
{
	const char *const keys[] = {"host", "port", NULL};
	const char *const values[] = {host, port, NULL};
	PGconn	   *conn = PQconnectdbParams(keys, values, 0);

	if (PQstatus(conn) != CONNECTION_OK)
		die("connection", PQerrorMessage(conn));
	return conn;
}

/*
 * PQexecParams sends parse, bind and execute in one go, which a pooler in
 * transaction mode keeps together. PQprepare would leave a statement behind on a server
 * that the next execution may not meet.
 */
static PGresult *
query(PGconn *conn, const char *sql, int n, const char *const *args)
{
	PGresult   *result = PQexecParams(conn, sql, n, NULL, args, NULL, NULL, 0);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		die(sql, PQerrorMessage(conn));
	return result;
}

#define QUERY(conn, sql, ...) \
	query(conn, sql, sizeof((const char *[]) {__VA_ARGS__}) / sizeof(char *), (const char *[]) {__VA_ARGS__})

/* The one value of a statement must be this. */
static void
expect(PGresult *result, const char *what, const char *want)
{
	const char *got = PQntuples(result) == 1 ? PQgetvalue(result, 0, PQnfields(result) - 1) : "no row";

	if (strcmp(got, want) != 0)
		die(what, got);
	PQclear(result);
}

/* Gateway: a message has come. Owed and enqueued together, or neither. */
static void
dispatch(const char *message_id, const char *platform)
{
	PQclear(query(db, "BEGIN", 0, NULL));
	expect(QUERY(db, "SELECT turn_liveness.arm_turn($1, $2, jsonb_build_object("
				 "'conversationId', $1::text, 'platform', $3::text, 'userId', 'u1'))",
				 conversation, message_id, platform), "arm", "armed");
	PQclear(QUERY(db, "INSERT INTO my_jobs VALUES (jsonb_build_object('messageId', $1::text))", message_id));
	PQclear(query(db, "COMMIT", 0, NULL));
}

/* Worker: the answer, under the generation that start_turn gave. */
static PGresult *
commit(const char *message_ids, const char *reply)
{
	return QUERY(db, "SELECT turn_liveness.commit_terminal_reply($1, $2, $3, '{1}')",
				 conversation, message_ids, reply);
}

/*
 * Gateway: what a stream has not seen yet; cursor is its Last-Event-ID. Where
 * there is nothing, wait until a notification says that there may be something.
 */
static PGresult *
read_replies(const char *cursor)
{
	for (;;)
	{
		PGresult   *result = QUERY(db, "SELECT reply_id, coalesce(payload->>'errorCode', payload->>'content') "
								   "FROM turn_liveness.read_replies($1, $2)", ids, cursor);
		struct pollfd fd = {PQsocket(listener), POLLIN, 0};
		PGnotify   *notify = NULL;

		if (PQntuples(result) > 0)
			return result;
		PQclear(result);

		/* {} means look; do read the JSON where names may have quotes in them */
		while ((notify = PQnotifies(listener)) == NULL ||
			   (strcmp(notify->extra, "{}") != 0 && strstr(notify->extra, conversation) == NULL))
		{
			if (notify == NULL && (poll(&fd, 1, 10000) <= 0 || !PQconsumeInput(listener)))
				die("notification", "none");
			PQfreemem(notify);
		}
		PQfreemem(notify);
	}
}

/*
 * Gateway: push what no other replica has claimed, and acknowledge it. Claim no
 * more than can be sent within claim_timeout. Returns how many.
 */
static int
push(void)
{
	PGresult   *claimed = query(db, "SELECT reply_id, payload FROM turn_liveness.claim_replies"
								"('gateway-c', platforms => '{slack-c}', max_replies => 10)", 0, NULL);
	int			n = PQntuples(claimed);
	char		id[32];
	int			i;

	for (i = 0; i < n; i++)
	{
		snprintf(id, sizeof(id), "{%s}", PQgetvalue(claimed, i, 0));
		/* send PQgetvalue(claimed, i, 1); if that fails, release_replies */
		expect(QUERY(db, "SELECT turn_liveness.ack_replies('gateway-c', $1)", id), "ack", "1");
	}
	PQclear(claimed);
	return n;
}

int
main(void)
{
	PGresult   *reply;
	char		pid[32];
	char		cursor[32];
	int			i;

	snprintf(conversation, sizeof(conversation), "tenant-1/c-%d", (int) getpid());
	snprintf(ids, sizeof(ids), "{%s}", conversation);
	db = connect_to(getenv("POOL_HOST"), getenv("POOL_PORT"));
	session = connect_to(NULL, NULL);
	listener = connect_to(NULL, NULL);

	/* LISTEN first, then read */
	PQclear(query(listener, "LISTEN turn_liveness", 0, NULL));
	dispatch("m1", "web");

	/* worker: its session's end would be its death, so it must be a real one */
	snprintf(pid, sizeof(pid), "%d", PQbackendPID(session));
	expect(QUERY(session, "SELECT turn_liveness.attach_worker($1)", conversation), "attach", pid);

	/* worker: it takes the turn, unless another has it; a second delivery of the job finds it taken */
	expect(QUERY(db, "SELECT turn_liveness.start_turn($1, 'm1', 'worker-1')", conversation), "start", "1");
	expect(QUERY(db, "SELECT turn_liveness.start_turn($1, 'm1', 'worker-2')", conversation), "start again", "");

	/* worker: every few seconds, a beat that names its turn and its generation; 0 means give up */
	for (i = 0; i < 12; i++)
		expect(QUERY(db, "SELECT turn_liveness.heartbeat($1, '{m1}', '{1}')", conversation), "beat", "1");

	expect(commit("{m1}", "{\"content\": \"42\"}"), "commit", "won");
	expect(commit("{m1}", "{\"content\": \"42\"}"), "the same again", "won");
	expect(commit("{m1}", "{\"content\": \"43\"}"), "another", "lost");

	/* gateway: to the stream */
	reply = read_replies("{0}");
	snprintf(cursor, sizeof(cursor), "{%s}", PQgetvalue(reply, 0, 0));
	expect(reply, "read", "42");
	expect(QUERY(db, "SELECT turn_liveness.ack_replies('gateway-c', $1)", cursor), "ack", "1");

	/*
	 * Stopped by the user: the client hears it, and the worker with its next beat.
	 * reject_turn, because the stop may come before the arm, which then says answered.
	 */
	dispatch("m2", "web");
	expect(QUERY(db, "SELECT turn_liveness.reject_turn($1, 'm2', jsonb_build_object('conversationId', $1::text), "
				 "'Stopped.', 'CANCELLED')", conversation), "stop", "won");
	expect(QUERY(db, "SELECT turn_liveness.heartbeat($1, '{m2}')", conversation), "beat", "0");
	expect(read_replies(cursor), "read", "CANCELLED");

	/* pushed: one replica alone sends */
	dispatch("m3", "slack-c");
	expect(commit("{m3}", "{\"content\": \"42\"}"), "commit", "won");
	if (push() != 1 || push() != 0)
		die("push", "not once");

	expect(QUERY(session, "SELECT turn_liveness.detach_worker($1)", conversation), "detach", "t");
	PQfinish(listener);
	PQfinish(session);
	PQfinish(db);
	return 0;
}
