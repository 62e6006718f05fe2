/*
 * db.c
 *		Everything that the reference gateway says to the database.
 *
 * Two connections: one that LISTENs and does nothing else, and one for
 * statements, each a transaction of its own.  A server that restarts takes both
 * away; db_connect() brings them back, LISTEN first and then a look at
 * everything, so that nothing falls between the two.
 *
 * JSON is read and written by the server: this file knows no JSON.
 */
#include <stdlib.h>
#include <string.h>

#include "gateway.h"

static PGconn *listener = NULL;
static PGconn *session = NULL;
static Buffer last_error;

/* columns in the order of the enum in gateway.h */
#define REPLY_COLUMNS \
	"reply_id, conversation_id, platform, payload, outcome, " \
	"jsonb_build_object('messageId', payload->'messageId', 'conversationId', conversation_id, " \
	"'processedMessageIds', message_ids), attempt "

static void
db_forget(void)
{
	PQfinish(listener);
	PQfinish(session);
	listener = session = NULL;
}

static PGconn *
connect_one(void)
{
	static const char *const keys[] = {"application_name", "connect_timeout", NULL};
	const char *const values[] = {options.name, "2", NULL};
	PGconn	   *conn = PQconnectdbParams(keys, values, 0);

	if (PQstatus(conn) == CONNECTION_OK)
	{
		/* the loop waits for its statements, so none may wait for a lock for long */
		PQclear(PQexec(conn, "SET statement_timeout = '5s'"));
		return conn;
	}
	PQfinish(conn);
	return NULL;
}

/*
 * True if both connections stand.  The parameters come from PGHOST and so on.
 * The channel has a setting; a server that does not know it has the default.
 */
bool
db_connect(void)
{
	PGresult   *result;
	char	   *channel;
	Buffer		listen = {0};

	if (listener != NULL && PQstatus(listener) == CONNECTION_OK &&
		session != NULL && PQstatus(session) == CONNECTION_OK)
		return true;
	if (listener != NULL)
		say("lost the database");
	db_forget();

	listener = connect_one();
	if (listener == NULL)
		return false;
	result = PQexec(listener, "SELECT coalesce(current_setting('turn_liveness.notify_channel', true), 'turn_liveness')");
	if (PQresultStatus(result) == PGRES_TUPLES_OK && PQgetvalue(result, 0, 0)[0] != '\0')
	{
		channel = PQescapeIdentifier(listener, PQgetvalue(result, 0, 0), PQgetlength(result, 0, 0));
		buffer_printf(&listen, "LISTEN %s", channel);
		PQfreemem(channel);
		PQclear(PQexec(listener, listen.data));
		buffer_free(&listen);
	}
	PQclear(result);
	if (PQstatus(listener) == CONNECTION_OK)
		session = connect_one();
	if (session == NULL)
	{
		db_forget();
		return false;
	}
	say("connected to the database");
	want_everything();
	workers_forget();
	return true;
}

int
db_listen_fd(void)
{
	return listener == NULL ? -1 : PQsocket(listener);
}

const char *
db_error(void)
{
	return last_error.data;
}

/*
 * One statement.  NULL: the connection is gone, or the statement failed; then
 * status, if wanted, says which.
 */
static PGresult *
db_query(DbStatus *status, const char *sql, int nparams, const char *const *params)
{
	PGresult   *result;
	const char *code;

	buffer_clear(&last_error);
	if (status != NULL)
		*status = DB_AWAY;
	if (session == NULL)
	{
		buffer_printf(&last_error, "no connection to the database");
		return NULL;
	}
	result = PQexecParams(session, sql, nparams, NULL, params, NULL, NULL, 0);
	if (PQresultStatus(result) == PGRES_TUPLES_OK)
	{
		if (status != NULL)
			*status = DB_OK;
		return result;
	}

	buffer_printf(&last_error, "%s", PQresultErrorMessage(result));
	code = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	if (PQstatus(session) == CONNECTION_OK)
	{
		if (status != NULL && code != NULL)
		{
			/* 08: behind a proxy, the server of this turn is away */
			*status = strncmp(code, "22", 2) == 0 || strncmp(code, "54", 2) == 0 ? DB_REFUSED :
				strncmp(code, "08", 2) == 0 ? DB_AWAY : DB_FAILED;
		}
		if (code == NULL || strncmp(code, "22", 2) != 0)
			say("the database says: %s", last_error.data);
	}
	PQclear(result);
	return NULL;
}

/* a statement that gives one value, or no row and thus NULL */
static DbStatus
db_value(const char *sql, int nparams, const char *const *params, char **value)
{
	DbStatus	status;
	PGresult   *result = db_query(&status, sql, nparams, params);

	*value = result == NULL || PQntuples(result) == 0 ? NULL : xstrdup(PQgetvalue(result, 0, 0));
	PQclear(result);
	return status;
}

/*
 * BEGIN, COMMIT or ROLLBACK.  The server answers a COMMIT of a transaction that
 * failed with ROLLBACK, which is no success.
 */
static bool
db_command(const char *command)
{
	PGresult   *result;
	bool		done;

	if (session == NULL)
		return false;
	result = PQexec(session, command);
	done = result != NULL && strcmp(PQcmdStatus(result), command) == 0;
	PQclear(result);
	return done;
}

bool
db_begin(void)
{
	return db_command("BEGIN");
}

/* false: perhaps committed, if the connection has gone */
bool
db_commit(void)
{
	return db_command("COMMIT");
}

void
db_rollback(void)
{
	db_command("ROLLBACK");
}

/*
 * Takes what was notified: marks the streams it names, and tells the loop if
 * there is something to claim or to rescue.  A payload that names nothing, or is
 * no JSON (any role may send one), means: look at everything.
 */
void
db_notified(void)
{
	PGnotify   *note;

	if (listener == NULL)
		return;
	PQconsumeInput(listener);
	while ((note = PQnotifies(listener)) != NULL)
	{
		const char *params[] = {note->extra};
		PGresult   *names = db_query(NULL,
									 "SELECT k, n FROM unnest('{conversations,platforms,lapsed}'::text[]) k, "
									 "jsonb_array_elements_text($1::jsonb->k) n",
									 1, params);

		if (names == NULL || PQntuples(names) == 0)
			want_everything();
		for (int i = 0; names != NULL && i < PQntuples(names); i++)
		{
			if (PQgetvalue(names, i, 0)[0] == 'c')
				streams_want(PQgetvalue(names, i, 1));
			else if (PQgetvalue(names, i, 0)[0] == 'p')
				want_push();
			else
				want_rescue();
		}
		PQclear(names);
		PQfreemem(note);
	}
}

static char *
column(PGresult *row, int number)
{
	return PQgetisnull(row, 0, number) ? NULL : xstrdup(PQgetvalue(row, 0, number));
}

/*
 * What a client sent.  mode, attach, beat and the times are for the demo and the
 * tests: a gateway of yours would know them by itself.  The client's answer to a
 * worker's question was added to the message: the next worker goes on with both.
 */
DbStatus
db_parse_message(const char *conversation, const char *body, Message *message)
{
	const char *params[] = {conversation, body, options.guardrail};
	DbStatus	status;
	PGresult   *row;

	memset(message, 0, sizeof(Message));
	row = db_query(&status,
				   "SELECT m.id, to_json(m.id), coalesce(b->>'text', '') || coalesce(': ' || (b->>'answer'), ''), "
				   "CASE WHEN b ? 'answer' THEN 'answer' ELSE coalesce(b->>'mode', 'answer') END, "
				   "jsonb_strip_nulls(jsonb_build_object('conversationId', $1::text, 'platform', b->'platform', "
				   "'channelId', b->'channelId', 'userId', b->'userId', 'teamId', b->'teamId', "
				   "'organizationId', b->'organizationId')), "
				   "b->>'admission', b->>'silence', b->>'duration', b->>'rescue', b->>'wait', "
				   "b || jsonb_build_object('messageId', m.id), "
				   "coalesce((b->>'attach')::boolean, false), coalesce(b->>'beat' = 'self', false), "
				   "coalesce(b->>'text' ~* $3, false) "
				   "FROM (SELECT $2::jsonb) j(b), "
				   "LATERAL (SELECT coalesce(b->>'messageId', gen_random_uuid()::text)) m(id) "
				   "WHERE jsonb_typeof(b) = 'object'", 3, params);
	if (row != NULL && PQntuples(row) == 0)
	{
		buffer_printf(&last_error, "the message must be a JSON object");
		status = DB_REFUSED;
	}
	else if (row != NULL)
	{
		message->id = column(row, 0);
		message->id_json = column(row, 1);
		message->text = column(row, 2);
		message->mode = column(row, 3);
		message->routing = column(row, 4);
		message->admission = column(row, 5);
		message->silence = column(row, 6);
		message->duration = column(row, 7);
		message->rescue = column(row, 8);
		message->wait = column(row, 9);
		message->body = column(row, 10);
		message->attach = PQgetvalue(row, 0, 11)[0] == 't';
		message->own_beats = PQgetvalue(row, 0, 12)[0] == 't';
		message->rejected = PQgetvalue(row, 0, 13)[0] == 't';
	}
	PQclear(row);
	return status;
}

void
message_free(Message *message)
{
	free(message->id);
	free(message->id_json);
	free(message->body);
	free(message->text);
	free(message->mode);
	free(message->routing);
	free(message->admission);
	free(message->silence);
	free(message->duration);
	free(message->rescue);
	free(message->wait);
	memset(message, 0, sizeof(Message));
}

/*
 * From here on the client is owed an answer, whatever becomes of this process.
 * The message is kept in the same transaction, for the gateway that may have to
 * give it to another worker.
 */
DbStatus
db_arm(const char *conversation, const Message *message, char **result)
{
	const char *params[] = {conversation, message->id, message->routing,
	message->admission, message->silence, message->duration, message->rescue, message->body};

	return db_value("WITH kept AS (INSERT INTO gateway_message VALUES ($1, $2, $8::jsonb) ON CONFLICT DO NOTHING) "
					"SELECT turn_liveness.arm_turn($1, $2, $3, $4, $5, $6, $7)", 8, params, result);
}

DbStatus
db_reject(const char *conversation, const Message *message, char **result)
{
	const char *params[] = {conversation, message->id, message->routing};

	return db_value("SELECT turn_liveness.reject_turn($1, $2, $3, 'Message rejected: blocked by policy', 'GUARDRAIL')",
					3, params, result);
}

DbStatus
db_fail(const char *deployment, const char *message_id, const char *error, const char *code, char **result)
{
	const char *params[] = {deployment, message_id, error, code};

	return db_value("SELECT turn_liveness.fail_turn($1, $2, $3, $4)", 4, params, result);
}

/*
 * A worker died, and its turn with it, unless the turn is another worker's by
 * now or waits for the client.  As a reply the error is fenced by the generation.
 * A worker that died before it took the turn (generation: NULL) has none: then
 * no other worker may have taken the turn either.
 */
DbStatus
db_fail_worker(const char *deployment, const char *message_id, const char *generation,
			   const char *error, const char *code, char **result)
{
	const char *params[] = {deployment, message_id, generation, error, code};

	return db_value("SELECT turn_liveness.commit_terminal_reply($1, ARRAY[$2], "
					"jsonb_build_object('error', $4::text, 'errorCode', $5::text), ARRAY[t.generation]) "
					"FROM turn_liveness.get_turn($1, $2) t "
					"WHERE t.state IN ('waiting', 'running', 'withheld', 'lapsed') "
					"AND CASE WHEN $3::integer IS NULL THEN t.worker IS NULL ELSE t.generation = $3 END",
					5, params, result);
}

/*
 * Takes turns that lapsed within their rescue window, each alone among all
 * gateways, and lets them go again if the caller's transaction rolls back.
 */
PGresult *
db_rescue(void)
{
	return db_query(NULL,
					"SELECT r.deployment, r.message_id, r.generation, r.error_code, m.body "
					"FROM turn_liveness.rescue_turns(10) r LEFT JOIN gateway_message m USING (deployment, message_id)",
					0, NULL);
}

/*
 * The client answered a worker's question: the wait is over, and the answer is
 * kept with the message.  Gives the message, or NULL if the turn does not wait.
 */
DbStatus
db_resume(const char *deployment, const char *message_id, const char *answer, char **body)
{
	const char *params[] = {deployment, message_id, answer};

	return db_value("WITH turn AS MATERIALIZED (SELECT turn_liveness.resume_turn($1, $2) AS resumed) "
					"UPDATE gateway_message m SET body = m.body || jsonb_build_object('answer', $3::jsonb->'text') "
					"FROM turn WHERE resumed AND m.deployment = $1 AND m.message_id = $2 RETURNING m.body",
					3, params, body);
}

/*
 * One call for all workers, each beat with its turn's name and generation.  The
 * rows are the turns that are over, or another worker's.
 */
PGresult *
db_heartbeats(const char *deployments, const char *message_ids, const char *generations)
{
	const char *params[] = {deployments, message_ids, generations};

	return db_query(NULL, "SELECT deployment, message_id FROM turn_liveness.heartbeats($1, $2, $3)", 3, params);
}

/*
 * Streams read: it changes nothing, so any replica and any tab may.  A
 * conversation that is open in several tabs is read from the least cursor.
 */
PGresult *
db_read(const char *conversations, const char *cursors)
{
	const char *params[] = {conversations, cursors};

	return db_query(NULL,
					"WITH s AS (SELECT c, min(a) AS a FROM unnest($1::text[], $2::bigint[]) u(c, a) GROUP BY c) "
					"SELECT " REPLY_COLUMNS "FROM turn_liveness.read_replies("
					"(SELECT array_agg(c ORDER BY c) FROM s), (SELECT array_agg(a ORDER BY c) FROM s))",
					2, params);
}

bool
db_ack(const char *ids)
{
	const char *params[] = {options.name, ids};
	DbStatus	status;

	PQclear(db_query(&status, "SELECT turn_liveness.ack_replies($1, $2)", 2, params));
	return status == DB_OK;
}

/* pushes claim: one replica alone has these, once this has returned */
PGresult *
db_claim(void)
{
	const char *params[] = {options.name, options.platforms};

	return db_query(NULL, "SELECT " REPLY_COLUMNS "FROM turn_liveness.claim_replies($1, NULL, $2)", 2, params);
}

void
db_release(const char *ids, const char *error)
{
	const char *params[] = {options.name, ids, error};

	PQclear(db_query(NULL, "SELECT turn_liveness.release_replies($1, $2, NULL, $3)", 3, params));
}
