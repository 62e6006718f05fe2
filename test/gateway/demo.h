/*
 * demo.h
 *		What the two demos share: demo.c (one server) and cluster.c (three, and a
 *		proxy) have the scenarios, watch.c the gateways and clients and what they
 *		say, ask.c what is said to gateways and database.
 */
#ifndef DEMO_H
#define DEMO_H

#include <libpq-fe.h>

#include "client.h"

typedef struct Scenario
{
	const char *name;			/* the conversation and the message id */
	const char *body;			/* what the client sends */
	const char *sees;			/* what the client must see; NULL: it is pushed, and has no client */
	const char *happens;		/* shown, with the time of the event */
	int			signal;			/* for the worker, once it has beaten */

	Client		client;
	pid_t		worker;			/* the latest one */
	int			workers;		/* how many there were */
	bool		beats;			/* the database has had a beat of it */
	int			step;			/* how far its story has come */
	int64_t		event_at;		/* when it was sent, killed, stopped, ... */
	char		saw[64];
	bool		asked;			/* the latest update is a question */
	int			updates;		/* that the client saw */
	int			rescues;		/* that a gateway said */
	int			ends;			/* terminal events that the client saw */
	bool		marked;			/* saw the end of the marker */
	char		election[16];	/* what the worker was told */
} Scenario;

typedef struct Gateway
{
	pid_t		pid;
	int			fd;				/* its standard output */
	int			port;
	bool		connected;
	Buffer		in;
} Gateway;

/* demo.c or cluster.c */
extern Scenario scenarios[];
extern const int nscenarios;
extern const char *const gateway_poll;	/* an option of the gateways */

/* ask.c */
extern PGconn *ask_connect(void);
extern char *query(PGconn *conn, const char *sql, const char *argument);
extern void expect(PGconn *conn, const char *what, const char *sql, const char *argument, const char *value);
extern int	try_message(Scenario *scenario);
extern void send_message(Scenario *scenario);
extern void send_marker(PGconn *conn, const Scenario *scenario);

/* watch.c */
extern Gateway gateways[2];		/* the first holds the streams, the second the workers */
extern int64_t started_at;
extern bool wrong;

extern void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern void begin(const char *program, const char *title);
extern void open_streams(void);
extern int	check_clients(void);
extern void happened(Scenario *scenario, const char *happens);
extern void show(const Scenario *scenario, const char *saw);
extern void wait_for_news(int most);

#endif							/* DEMO_H */
