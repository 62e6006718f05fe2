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
	"reply_id, conversation_id, platform, payload, coalesce(payload->>'error', '') <> '', " \
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
	streams_want(NULL);
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
			*status = strncmp(code, "22", 2) == 0 || strncmp(code, "54", 2) == 0 ? DB_REFUSED : DB_FAILED;
		if (code == NULL || strncmp(code, "22", 2) != 0)
			say("the database says: %s", last_error.data);
	}
	PQclear(result);
	return NULL;
}

/* a statement that gives one value */
static DbStatus
db_value(const char *sql, int nparams, const char *const *params, char **value)
{
	DbStatus	status;
	PGresult   *result = db_query(&status, sql, nparams, params);

	*value = result == NULL ? NULL : xstrdup(PQgetvalue(result, 0, 0));
	PQclear(result);
	return status;
}

/*
 * Takes what was notified and marks the streams it names.  True if there is
 * something to claim.  A payload that names nothing, or is no JSON (any role
 * may send one), means: look at everything.
 */
bool
db_notified(void)
{
	PGnotify   *note;
	bool		push = false;

	if (listener == NULL)
		return false;
	PQconsumeInput(listener);
	while ((note = PQnotifies(listener)) != NULL)
	{
		const char *params[] = {note->extra};
		PGresult   *names = db_query(NULL,
									 "SELECT true, c FROM jsonb_array_elements_text($1::jsonb->'conversations') c "
									 "UNION ALL "
									 "SELECT false, p FROM jsonb_array_elements_text($1::jsonb->'platforms') p",
									 1, params);

		if (names == NULL || PQntuples(names) == 0)
		{
			streams_want(NULL);
			push = true;
		}
		for (int i = 0; names != NULL && i < PQntuples(names); i++)
		{
			if (PQgetvalue(names, i, 0)[0] == 't')
				streams_want(PQgetvalue(names, i, 1));
			else
				push = true;
		}
		PQclear(names);
		PQfreemem(note);
	}
	return push;
}

/*
 * What a client sent.  mode, attach, beat and the three times are for the demo
 * and the tests: a gateway of yours would know them by itself.
 */
DbStatus
db_parse_message(const char *conversation, const char *body, Message *message)
{
	const char *params[] = {conversation, body, options.guardrail};
	DbStatus	status;
	PGresult   *row;

	memset(message, 0, sizeof(Message));
	row = db_query(&status,
				   "SELECT m.id, to_json(m.id), coalesce(b->>'text', ''), coalesce(b->>'mode', 'answer'), "
				   "jsonb_strip_nulls(jsonb_build_object('conversationId', $1::text, 'platform', b->'platform', "
				   "'channelId', b->'channelId', 'userId', b->'userId', 'teamId', b->'teamId', "
				   "'organizationId', b->'organizationId')), "
				   "b->>'admission', b->>'silence', b->>'duration', "
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
		message->id = xstrdup(PQgetvalue(row, 0, 0));
		message->id_json = xstrdup(PQgetvalue(row, 0, 1));
		message->text = xstrdup(PQgetvalue(row, 0, 2));
		message->mode = xstrdup(PQgetvalue(row, 0, 3));
		message->routing = xstrdup(PQgetvalue(row, 0, 4));
		message->admission = PQgetisnull(row, 0, 5) ? NULL : xstrdup(PQgetvalue(row, 0, 5));
		message->silence = PQgetisnull(row, 0, 6) ? NULL : xstrdup(PQgetvalue(row, 0, 6));
		message->duration = PQgetisnull(row, 0, 7) ? NULL : xstrdup(PQgetvalue(row, 0, 7));
		message->attach = PQgetvalue(row, 0, 8)[0] == 't';
		message->own_beats = PQgetvalue(row, 0, 9)[0] == 't';
		message->rejected = PQgetvalue(row, 0, 10)[0] == 't';
	}
	PQclear(row);
	return status;
}

/*
 * From here on the client is owed an answer, whatever becomes of this process.
 * Committed when this returns: dispatch after it, never before.
 */
DbStatus
db_arm(const char *conversation, const Message *message, char **result)
{
	const char *params[] = {conversation, message->id, message->routing,
	message->admission, message->silence, message->duration};

	return db_value("SELECT turn_liveness.arm_turn($1, $2, $3, $4, $5, $6)", 6, params, result);
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

/* one call for all workers; the rows are the turns that are over */
PGresult *
db_heartbeats(const char *deployments, const char *message_ids)
{
	const char *params[] = {deployments, message_ids};

	return db_query(NULL, "SELECT deployment, message_id FROM turn_liveness.heartbeats($1, $2)", 2, params);
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
