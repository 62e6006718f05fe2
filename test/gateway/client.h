/*
 * client.h
 *		A client of the gateway, as small as it can be: it opens a stream over a
 *		socket and reads its lines, and it posts.  For the demo.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "util.h"

typedef struct Client
{
	int			fd;
	bool		open;			/* the stream's head is there */
	Buffer		in;				/* bytes that are no whole line yet */
	Buffer		event;			/* of the event that is coming in */
	Buffer		data;
	Buffer		id;
	void	   *owner;
} Client;

typedef void (*ClientEvent) (Client *client, const char *event, const char *data, const char *id);

/* opens the stream of a conversation */
extern void client_open(Client *client, int port, const char *conversation);

/* reads what is there, calls back for each whole event; false: the stream ended */
extern bool client_read(Client *client, ClientEvent callback);
extern void client_close(Client *client);

/* posts a body and waits for the response; returns its status and its body */
extern int	client_post(int port, const char *path, const char *body, Buffer *response);

#endif							/* CLIENT_H */
