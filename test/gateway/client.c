/*
 * client.c
 *		A client of the gateway: reads a stream of events, and posts.
 *
 * It speaks HTTP/1.0, so that a response ends with its connection and is sent
 * as it is, not in chunks.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"

static int
connect_gateway(int port)
{
	struct sockaddr_in address = {0};
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_family = AF_INET;
	address.sin_port = htons(port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
		die("cannot connect to the gateway on port %d: %s", port, strerror(errno));
	return fd;
}

void
client_open(Client *client, int port, const char *conversation)
{
	Buffer		request = {0};

	client->fd = connect_gateway(port);
	buffer_printf(&request, "GET /stream/%s HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n", conversation);
	if (!write_all(client->fd, request.data, request.len))
		die("cannot write to the gateway: %s", strerror(errno));
	buffer_free(&request);
}

void
client_close(Client *client)
{
	if (client->fd > 0)
		close(client->fd);
	buffer_free(&client->in);
	buffer_free(&client->event);
	buffer_free(&client->data);
	buffer_free(&client->id);
	client->fd = -1;
}

/* one line without its end */
static void
client_line(Client *client, char *line, ClientEvent callback)
{
	Buffer	   *field = NULL;
	char	   *value = strchr(line, ':');

	if (!client->open)
	{
		/* of the response's head only the first line and the end matter */
		if (strncmp(line, "HTTP/", 5) == 0 && strstr(line, " 200 ") == NULL)
			die("the gateway refused a stream: %s", line);
		client->open = line[0] == '\0';
		return;
	}
	if (line[0] == '\0')
	{
		if (client->data.len > 0)
			callback(client, client->event.len > 0 ? client->event.data : "message", client->data.data,
					 client->id.len > 0 ? client->id.data : NULL);
		buffer_clear(&client->event);
		buffer_clear(&client->data);
		buffer_clear(&client->id);
		return;
	}
	if (value == NULL || value == line)
		return;

	*value++ = '\0';
	if (*value == ' ')
		value++;
	if (strcmp(line, "event") == 0)
		field = &client->event;
	else if (strcmp(line, "data") == 0)
		field = &client->data;
	else if (strcmp(line, "id") == 0)
		field = &client->id;
	if (field != NULL)
	{
		buffer_clear(field);
		buffer_printf(field, "%s", value);
	}
}

bool
client_read(Client *client, ClientEvent callback)
{
	char		bytes[4096];
	ssize_t		len = read(client->fd, bytes, sizeof(bytes));
	char	   *line;
	char	   *end;

	if (len < 0 && errno == EINTR)
		return true;
	if (len <= 0)
		return false;
	buffer_add(&client->in, bytes, len);

	line = client->in.data;
	while ((end = strchr(line, '\n')) != NULL)
	{
		*end = '\0';
		if (end > line && end[-1] == '\r')
			end[-1] = '\0';
		client_line(client, line, callback);
		line = end + 1;
	}
	len = client->in.data + client->in.len - line;
	memmove(client->in.data, line, len + 1);
	client->in.len = len;
	return true;
}

int
client_post(int port, const char *path, const char *body, Buffer *response)
{
	Buffer		request = {0};
	char		bytes[4096];
	ssize_t		len;
	char	   *head_end;
	int			status = 0;
	int			fd = connect_gateway(port);

	buffer_printf(&request, "POST %s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
				  path, strlen(body), body);
	if (!write_all(fd, request.data, request.len))
		die("cannot write to the gateway: %s", strerror(errno));
	buffer_clear(response);
	while ((len = read(fd, bytes, sizeof(bytes))) > 0)
		buffer_add(response, bytes, len);
	close(fd);
	buffer_free(&request);

	if (response->len > 12 && strncmp(response->data, "HTTP/", 5) == 0)
		status = atoi(response->data + 9);
	head_end = response->data == NULL ? NULL : strstr(response->data, "\r\n\r\n");
	if (head_end != NULL)
	{
		response->len -= head_end + 4 - response->data;
		memmove(response->data, head_end + 4, response->len + 1);
	}
	return status;
}
