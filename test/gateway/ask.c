/*
 * ask.c
 *		What the demos say to a gateway and to the database.
 */
#include <stdlib.h>
#include <string.h>

#include "demo.h"

PGconn *
ask_connect(void)
{
	PGconn	   *conn = PQconnectdb("application_name=demo");

	if (PQstatus(conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(conn));
	return conn;
}

char *
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

/* a query that must give this value */
void
expect(PGconn *conn, const char *what, const char *sql, const char *argument, const char *value)
{
	char	   *found = query(conn, sql, argument);

	if (strcmp(found, value) != 0)
		complain("%s: %s, not %s", what, found, value);
	free(found);
}

/* sends the message to the gateway of the workers: the status of the response */
int
try_message(Scenario *scenario)
{
	Buffer		path = {0};
	Buffer		body = {0};
	Buffer		response = {0};
	int			status;

	buffer_printf(&path, "/message/%s", scenario->name);
	buffer_printf(&body, "{\"messageId\": \"%s\", %s}", scenario->name, scenario->body);
	happened(scenario, NULL);
	status = client_post(gateways[1].port, path.data, body.data, &response);
	buffer_free(&path);
	buffer_free(&body);
	buffer_free(&response);
	return status;
}

void
send_message(Scenario *scenario)
{
	int			status = try_message(scenario);

	if (status != 202)
		die("the gateway refused \"%s\": %d", scenario->name, status);
}

/*
 * Everything that a client may still be sent was committed before this reply,
 * and replies of one conversation come in order: when the client has this one,
 * it has them all.
 */
void
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
