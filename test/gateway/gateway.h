/*
 * gateway.h
 *		The reference gateway: clients' streams over HTTP on one side, the
 *		database on the other, worker processes below.
 *
 * One thread, one loop (gateway.c).  Nothing that has to survive is kept here:
 * what is owed and what was answered stands in the database, so any number of
 * these processes may run against one database, and each may die at any time.
 *
 *	gateway.c	options, the loop, what happens when
 *	db.c		every SQL statement: arm, reject, stop, beat, read, claim, ack
 *	http.c		the URLs (libmicrohttpd speaks HTTP)
 *	streams.c	the clients' streams and their cursors
 *	workers.c	worker processes and their signs of life
 */
#ifndef GATEWAY_H
#define GATEWAY_H

#include <poll.h>

#include <libpq-fe.h>
#include <microhttpd.h>

#include "util.h"

typedef struct Options
{
	int			port;			/* 0: one that is free */
	const char *name;			/* of this gateway, in claims */
	const char *worker;			/* path of the worker's program */
	const char *guardrail;		/* texts that match it are refused */
	const char *push_file;		/* where pushed replies go, NULL = stdout */
	const char *platforms;		/* text[] of the platforms pushed to, or NULL */
	int			beat_ms;		/* between two heartbeats calls */
	int			poll_ms;		/* between two looks without a notification */
} Options;

extern Options options;

/* gateway.c */
extern void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* db.c */
typedef struct Message
{
	char	   *id;
	char	   *id_json;		/* the same, quoted for JSON */
	char	   *text;
	char	   *mode;			/* what the worker shall do (for demo and tests) */
	char	   *routing;
	char	   *admission;
	char	   *silence;
	char	   *duration;
	bool		attach;			/* the worker ties itself to its session */
	bool		own_beats;		/* the worker beats by itself */
	bool		rejected;		/* the guardrail's verdict */
} Message;

/* what became of a call for a client */
typedef enum DbStatus
{
	DB_OK,
	DB_REFUSED,					/* the caller's fault: class 22 or 54 */
	DB_FAILED,					/* anything else the server said */
	DB_AWAY						/* no connection: try again */
} DbStatus;

extern bool db_connect(void);
extern int	db_listen_fd(void);
extern bool db_notified(void);
extern const char *db_error(void);

extern DbStatus db_parse_message(const char *conversation, const char *body, Message *message);
extern DbStatus db_arm(const char *conversation, const Message *message, char **result);
extern DbStatus db_reject(const char *conversation, const Message *message, char **result);
extern DbStatus db_fail(const char *deployment, const char *message_id, const char *error,
						const char *code, char **result);
extern PGresult *db_heartbeats(const char *deployments, const char *message_ids);
extern PGresult *db_read(const char *conversations, const char *cursors);
extern bool db_ack(const char *ids);
extern PGresult *db_claim(void);
extern void db_release(const char *ids, const char *error);

/* columns of db_read() and db_claim() */
enum
{
	REPLY_ID, REPLY_CONVERSATION, REPLY_PLATFORM, REPLY_PAYLOAD, REPLY_IS_ERROR, REPLY_COMPLETE, REPLY_ATTEMPT
};

/* http.c */
extern struct MHD_Daemon *http_start(void);
extern void http_run(void);
extern int	http_port(void);
extern int	http_poll_fd(void);
extern int	http_timeout(int most);
extern void http_stop(void);

/* streams.c */
extern struct MHD_Response *stream_open(struct MHD_Connection *connection, const char *conversation,
										const char *last_event_id);
extern void streams_want(const char *conversation);
extern void streams_look(void);
extern bool streams_look_again(void);
extern bool streams_ack(void);
extern void streams_ping(void);
extern void streams_close(void);
extern int	streams_count(void);

/* workers.c */
extern pid_t worker_start(const char *deployment, const Message *message);
extern bool worker_has(const char *deployment, const char *message_id);
extern void worker_abandon(const char *deployment, const char *message_id);
extern int	workers_poll_fds(struct pollfd **fds, int used);
extern void workers_read(const struct pollfd *fds, int nfds);
extern void workers_reap(void);
extern bool workers_bury(void);
extern bool workers_beat(void);
extern void workers_forget(void);
extern void workers_release(void);

#endif							/* GATEWAY_H */
