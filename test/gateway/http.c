/*
 * http.c
 *		The URLs of the reference gateway.  libmicrohttpd speaks HTTP.
 *
 *	GET  /							a page that shows one conversation
 *	GET  /health					200, or 503 while the database is away
 *	GET  /stream/<conversation>		the events of a conversation
 *	POST /message/<conversation>	a message for the worker, a JSON object
 *	POST /answer/<conversation>/<id>	the answer to a worker's question, {"text": ...}
 *	POST /stop/<conversation>/<id>	the user does not want to wait any longer
 *
 * There is no log-in here: a gateway of yours decides first which user may see
 * which conversation.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway.h"

#define MOST_BODY (64 * 1024)

/* a request whose body is still coming */
typedef struct Request
{
	Buffer		body;
	bool		too_long;
} Request;

static const char page[] =
#include "page.inc"
;

static struct MHD_Daemon *http = NULL;

static enum MHD_Result
respond(struct MHD_Connection *connection, unsigned status, const char *type, const char *text)
{
	struct MHD_Response *response;
	enum MHD_Result result;

	response = MHD_create_response_from_buffer(strlen(text), (void *) text, MHD_RESPMEM_MUST_COPY);
	MHD_add_response_header(response, "Content-Type", type);
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
respond_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
	return respond(connection, status, "text/plain; charset=utf-8", text);
}

/* what a failed statement means to the client */
static enum MHD_Result
respond_failure(struct MHD_Connection *connection, DbStatus status)
{
	if (status == DB_REFUSED)
		return respond_text(connection, MHD_HTTP_BAD_REQUEST, db_error());
	if (status == DB_AWAY)
		return respond_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "the database is away, try again\n");
	return respond_text(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "the database could not do that\n");
}

/*
 * A message comes in.  Refuse it, or arm and then dispatch it: whatever happens
 * after the arm, the client hears of it on the stream.
 */
static enum MHD_Result
post_message(struct MHD_Connection *connection, const char *conversation, const char *body)
{
	Message		message;
	DbStatus	status;
	char	   *result = NULL;
	Buffer		reply = {0};
	pid_t		pid = 0;
	enum MHD_Result sent;

	status = db_parse_message(conversation, body, &message);
	if (status == DB_OK)
		status = message.rejected ? db_reject(conversation, &message, &result) :
			dispatch_message(conversation, &message, &result, &pid);
	if (status != DB_OK)
	{
		free(result);
		message_free(&message);
		return respond_failure(connection, status);
	}

	buffer_printf(&reply, "{\"messageId\": %s, \"result\": \"%s\", \"worker\": %d}\n", message.id_json,
				  message.rejected ? "rejected" : result ? result : "pending", (int) pid);
	sent = respond(connection, MHD_HTTP_ACCEPTED, "application/json", reply.data);
	buffer_free(&reply);
	free(result);
	message_free(&message);
	return sent;
}

/*
 * The client's answer to a question: the turn goes on with another worker, here,
 * wherever the one was that asked.  A second answer finds that it does not wait.
 */
static enum MHD_Result
post_answer(struct MHD_Connection *connection, const char *conversation, const char *message_id, const char *body)
{
	bool		resumed;
	pid_t		pid = 0;
	DbStatus	status = dispatch_answer(conversation, message_id, body, &resumed, &pid);
	Buffer		reply = {0};
	enum MHD_Result sent;

	if (status != DB_OK)
		return respond_failure(connection, status);
	buffer_printf(&reply, "{\"result\": \"%s\", \"worker\": %d}\n", resumed ? "resumed" : "not waiting", (int) pid);
	sent = respond(connection, resumed ? MHD_HTTP_OK : MHD_HTTP_CONFLICT, "application/json", reply.data);
	buffer_free(&reply);
	return sent;
}

/*
 * The user's stop is a terminal error like any other.  A worker of this gateway
 * is told at once, one elsewhere learns it from its next beat.
 */
static enum MHD_Result
post_stop(struct MHD_Connection *connection, const char *conversation, const char *message_id)
{
	char	   *result = NULL;
	DbStatus	status = db_fail(conversation, message_id, "Stopped by the user.", "CANCELLED", &result);
	Buffer		reply = {0};
	enum MHD_Result sent;

	if (status != DB_OK)
		return respond_failure(connection, status);
	worker_abandon(conversation, message_id);
	buffer_printf(&reply, "{\"result\": \"%s\"}\n", result);
	sent = respond(connection, MHD_HTTP_OK, "application/json", reply.data);
	buffer_free(&reply);
	free(result);
	return sent;
}

static enum MHD_Result
get_health(struct MHD_Connection *connection)
{
	Buffer		text = {0};
	bool		database = db_listen_fd() >= 0;
	enum MHD_Result sent;

	buffer_printf(&text, "{\"database\": %s, \"streams\": %d}\n", database ? "true" : "false", streams_count());
	sent = respond(connection, database ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "application/json", text.data);
	buffer_free(&text);
	return sent;
}

static enum MHD_Result
get(struct MHD_Connection *connection, const char *url)
{
	struct MHD_Response *response;
	enum MHD_Result result;

	if (strcmp(url, "/") == 0)
		return respond(connection, MHD_HTTP_OK, "text/html; charset=utf-8", page);
	if (strcmp(url, "/health") == 0)
		return get_health(connection);
	if (strncmp(url, "/stream/", 8) != 0 || url[8] == '\0')
		return respond_text(connection, MHD_HTTP_NOT_FOUND, "no such page\n");
	if (strlen(url + 8) > 255)
		return respond_text(connection, MHD_HTTP_BAD_REQUEST, "the name of a conversation has at most 255 bytes\n");

	response = stream_open(connection, url + 8,
						   MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Last-Event-ID"));
	result = MHD_queue_response(connection, MHD_HTTP_OK, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
post(struct MHD_Connection *connection, const char *url, const char *body)
{
	bool		answer = strncmp(url, "/answer/", 8) == 0;
	const char *rest = url + (answer ? 8 : 6);
	const char *slash;
	char	   *conversation;
	enum MHD_Result result;

	if (strncmp(url, "/message/", 9) == 0)
		return post_message(connection, url + 9, body);
	if ((!answer && strncmp(url, "/stop/", 6) != 0) || (slash = strrchr(rest, '/')) == NULL)
		return respond_text(connection, MHD_HTTP_NOT_FOUND, "no such page\n");

	conversation = xstrdup(rest);
	conversation[slash - rest] = '\0';
	result = answer ? post_answer(connection, conversation, slash + 1, body) :
		post_stop(connection, conversation, slash + 1);
	free(conversation);
	return result;
}

/* called when the head of a request is there, for each part of its body, and at its end */
static enum MHD_Result
handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
	   const char *version, const char *data, size_t *size, void **state)
{
	Request    *request = *state;

	(void) cls;
	(void) version;
	if (request == NULL)
	{
		*state = xcalloc(sizeof(Request));
		return MHD_YES;
	}
	if (*size > 0)
	{
		request->too_long = request->too_long || request->body.len + *size > MOST_BODY;
		if (!request->too_long)
			buffer_add(&request->body, data, *size);
		*size = 0;
		return MHD_YES;
	}

	if (request->too_long)
		return respond_text(connection, MHD_HTTP_CONTENT_TOO_LARGE, "the message is too long\n");
	if (strcmp(method, MHD_HTTP_METHOD_GET) == 0)
		return get(connection, url);
	if (strcmp(method, MHD_HTTP_METHOD_POST) == 0)
		return post(connection, url, request->body.len > 0 ? request->body.data : "{}");
	return respond_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET or POST\n");
}

static void
completed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode code)
{
	Request    *request = *state;

	(void) cls;
	(void) connection;
	(void) code;
	if (request == NULL)
		return;
	buffer_free(&request->body);
	free(request);
	*state = NULL;
}

/* listens on the loopback interface; the loop polls http_poll_fd() */
struct MHD_Daemon *
http_start(void)
{
	struct sockaddr_in address = {0};

	address.sin_family = AF_INET;
	address.sin_port = htons(options.port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	http = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG,
							options.port, NULL, NULL, handle, NULL,
							MHD_OPTION_SOCK_ADDR, (struct sockaddr *) &address,
							MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u,
							MHD_OPTION_CONNECTION_LIMIT, 20000u,
							MHD_OPTION_NOTIFY_COMPLETED, completed, NULL,
							MHD_OPTION_END);
	return http;
}

int
http_port(void)
{
	return MHD_get_daemon_info(http, MHD_DAEMON_INFO_BIND_PORT)->port;
}

int
http_poll_fd(void)
{
	return MHD_get_daemon_info(http, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

/* milliseconds until libmicrohttpd wants to run again, at most so many */
int
http_timeout(int most)
{
	MHD_UNSIGNED_LONG_LONG timeout;

	if (MHD_get_timeout(http, &timeout) == MHD_YES && timeout < (MHD_UNSIGNED_LONG_LONG) most)
		return (int) timeout;
	return most;
}

void
http_run(void)
{
	MHD_run(http);
}

/* lets the streams end and goes */
void
http_stop(void)
{
	streams_close();
	MHD_run(http);
	MHD_run(http);
	MHD_stop_daemon(http);
}
