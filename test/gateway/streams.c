/*
 * streams.c
 *		The clients' streams (server-sent events) and their cursors.
 *
 * A stream is sent what read_replies() gives past its own cursor, whichever
 * gateway held the client before or acknowledged: the cursor is the last id
 * that the client saw, and the client brings it along (Last-Event-ID).
 *
 * Of the events that make up one reply only the last carries the id.  A client
 * that was cut off in the middle of them gets them all again.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway.h"

/* a stream whose client does not read is given no more than about this */
#define MOST_UNSENT (1024 * 1024)

typedef struct Stream
{
	struct Stream *next;
	struct MHD_Connection *connection;
	char	   *conversation;
	int64_t		cursor;			/* the last reply that went into the buffer */
	bool		wanted;			/* look for replies past the cursor */
	bool		suspended;		/* waits for something to send */
	Buffer		out;
	size_t		sent;			/* bytes of it that libmicrohttpd took */
	Buffer		unacked;		/* ids in the buffer that a stream acknowledges */
} Stream;

static Stream *streams = NULL;
static Buffer acks;				/* ids that were sent and not acknowledged yet */
static bool look_again = false; /* a new stream, or more to read */
static bool closing = false;

static void
stream_wake(Stream *stream)
{
	if (!stream->suspended)
		return;
	stream->suspended = false;
	MHD_resume_connection(stream->connection);
}

/*
 * libmicrohttpd asks for bytes when all that it was given before are with the
 * kernel: then, and not before, what they said counts as sent.
 */
static ssize_t
stream_read(void *cls, uint64_t pos, char *data, size_t most)
{
	Stream	   *stream = cls;
	size_t		len = stream->out.len - stream->sent;

	(void) pos;
	if (len == 0)
	{
		if (stream->unacked.len > 0)
		{
			buffer_add(&acks, stream->unacked.data, stream->unacked.len);
			buffer_clear(&stream->unacked);
		}
		buffer_clear(&stream->out);
		stream->sent = 0;
		if (closing)
			return MHD_CONTENT_READER_END_OF_STREAM;
		stream->suspended = true;
		MHD_suspend_connection(stream->connection);
		return 0;
	}

	if (len > most)
		len = most;
	memcpy(data, stream->out.data + stream->sent, len);
	stream->sent += len;
	return len;
}

static void
stream_free(void *cls)
{
	Stream	   *stream = cls;

	for (Stream **link = &streams; *link != NULL; link = &(*link)->next)
	{
		if (*link == stream)
		{
			*link = stream->next;
			break;
		}
	}
	buffer_free(&stream->out);
	buffer_free(&stream->unacked);
	free(stream->conversation);
	free(stream);
}

/* a new stream; without a usable Last-Event-ID it is given all that is kept */
struct MHD_Response *
stream_open(struct MHD_Connection *connection, const char *conversation, const char *last_event_id)
{
	Stream	   *stream = xcalloc(sizeof(Stream));
	struct MHD_Response *response;
	char	   *end;

	stream->connection = connection;
	stream->conversation = xstrdup(conversation);
	if (last_event_id != NULL)
	{
		long long	cursor = strtoll(last_event_id, &end, 10);

		if (end != last_event_id && *end == '\0' && cursor > 0 && cursor < LLONG_MAX)
			stream->cursor = cursor;
	}
	look_again = true;
	stream->wanted = true;
	buffer_printf(&stream->out, "retry: 1000\n: %s\n\n", options.name);
	stream->next = streams;
	streams = stream;

	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 * 1024, stream_read, stream, stream_free);
	MHD_add_response_header(response, "Content-Type", "text/event-stream");
	MHD_add_response_header(response, "Cache-Control", "no-cache");
	MHD_add_response_header(response, "X-Accel-Buffering", "no");
	return response;
}

/* look for replies of this conversation, or (NULL) of all */
void
streams_want(const char *conversation)
{
	for (Stream *stream = streams; stream != NULL; stream = stream->next)
	{
		if (conversation == NULL || strcmp(conversation, stream->conversation) == 0)
			stream->wanted = true;
	}
}

static void
stream_event(Stream *stream, const char *event, const char *data)
{
	buffer_printf(&stream->out, "event: %s\ndata: %s\n", event, data);
}

/*
 * One reply, or an update of a turn that goes on.  JSON as PostgreSQL writes it
 * has no line break, so it is one line of data.  The browser's EventSource keeps
 * an event named "error" to itself; "agent-error" is the one that a page can hear.
 */
static void
stream_send(Stream *stream, PGresult *rows, int row)
{
	const char *id = PQgetvalue(rows, row, REPLY_ID);
	const char *payload = PQgetvalue(rows, row, REPLY_PAYLOAD);
	const char *outcome = PQgetvalue(rows, row, REPLY_OUTCOME);

	if (strcmp(outcome, "update") == 0)
		stream_event(stream, "update", payload);
	else
	{
		if (strcmp(outcome, "error") == 0)
		{
			stream_event(stream, "error", payload);
			buffer_printf(&stream->out, "\n");
			stream_event(stream, "agent-error", payload);
		}
		else
			stream_event(stream, "message", payload);
		buffer_printf(&stream->out, "\n");
		stream_event(stream, "complete", PQgetvalue(rows, row, REPLY_COMPLETE));
	}
	buffer_printf(&stream->out, "id: %s\n\n", id);

	/*
	 * What is pushed to a platform is acknowledged by the gateway that pushed it:
	 * a client that looks on is no delivery.
	 */
	if (strcmp(PQgetvalue(rows, row, REPLY_PLATFORM), "api") == 0)
		buffer_printf(&stream->unacked, "%s,", id);
	stream->cursor = strtoll(id, NULL, 10);
	stream_wake(stream);
}

/*
 * One read for all streams that want one.  Tabs of one conversation may stand at
 * different places: what one of them needs, another may have had.
 */
void
streams_look(void)
{
	Buffer		conversations = {0};
	Buffer		cursors = {0};
	PGresult   *rows = NULL;

	look_again = false;
	for (Stream *stream = streams; stream != NULL; stream = stream->next)
	{
		char		number[32];

		if (!stream->wanted || stream->out.len > MOST_UNSENT)
			continue;
		snprintf(number, sizeof(number), "%lld", (long long) stream->cursor);
		array_add(&conversations, stream->conversation);
		array_add(&cursors, number);
	}

	if (conversations.len > 0)
		rows = db_read(array_end(&conversations), array_end(&cursors));
	for (int i = 0; rows != NULL && i < PQntuples(rows); i++)
	{
		int64_t		id = strtoll(PQgetvalue(rows, i, REPLY_ID), NULL, 10);

		for (Stream *stream = streams; stream != NULL; stream = stream->next)
		{
			if (stream->wanted && stream->cursor < id && stream->out.len <= MOST_UNSENT &&
				strcmp(stream->conversation, PQgetvalue(rows, i, REPLY_CONVERSATION)) == 0)
				stream_send(stream, rows, i);
		}
	}

	/* an answer shorter than asked for was everything */
	if (rows != NULL && PQntuples(rows) < 100)
	{
		for (Stream *stream = streams; stream != NULL; stream = stream->next)
			stream->wanted = stream->wanted && stream->out.len > MOST_UNSENT;
	}
	else if (rows != NULL)
		look_again = true;
	PQclear(rows);
	buffer_free(&conversations);
	buffer_free(&cursors);
}

/* the last look did not see everything */
bool
streams_look_again(void)
{
	return look_again;
}

/* tells the database what was sent; kept and told again if that fails */
bool
streams_ack(void)
{
	Buffer		ids = {0};

	if (acks.len == 0)
		return true;
	buffer_printf(&ids, "{%.*s}", (int) acks.len - 1, acks.data);
	if (db_ack(ids.data))
		buffer_clear(&acks);
	buffer_free(&ids);
	return acks.len == 0;
}

/* a line that means nothing: it finds the clients that went away */
void
streams_ping(void)
{
	for (Stream *stream = streams; stream != NULL; stream = stream->next)
	{
		if (!stream->suspended)
			continue;
		buffer_printf(&stream->out, ": ping\n\n");
		stream_wake(stream);
	}
}

void
streams_close(void)
{
	closing = true;
	for (Stream *stream = streams; stream != NULL; stream = stream->next)
		stream_wake(stream);
}

int
streams_count(void)
{
	int			count = 0;

	for (Stream *stream = streams; stream != NULL; stream = stream->next)
		count++;
	return count;
}
