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
 *	db.c		every SQL statement: arm, reject, stop, rescue, resume, beat, read, claim, ack
 *	http.c		the URLs (libmicrohttpd speaks HTTP)
 *	dispatch.c	from a turn that is owed to a worker that has it
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
extern void want_push(void);
extern void want_rescue(void);
extern void want_everything(void);

/* db.c */
typedef struct Message
{
	char	   *id;
	char	   *id_json;		/* the same, quoted for JSON */
	char	   *body;			/* all that the client sent, as it is kept */
	char	   *text;
	char	   *mode;			/* what the worker shall do (for demo and tests) */
	char	   *routing;
	char	   *admission;
	char	   *silence;
	char	   *duration;
	char	   *rescue;			/* for so long another worker may take it over */
	char	   *wait;			/* for so long a worker's question stands */
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
extern void db_notified(void);
extern const char *db_error(void);
extern bool db_begin(void);
extern bool db_commit(void);
extern void db_rollback(void);

extern DbStatus db_parse_message(const char *conversation, const char *body, Message *message);
extern void message_free(Message *message);
extern DbStatus db_arm(const char *conversation, const Message *message, char **result);
extern DbStatus db_reject(const char *conversation, const Message *message, char **result);
extern DbStatus db_fail(const char *deployment, const char *message_id, const char *error,
						const char *code, char **result);
extern DbStatus db_fail_worker(const char *deployment, const char *message_id, const char *generation,
							   const char *error, const char *code, char **result);
extern PGresult *db_rescue(void);
extern DbStatus db_resume(const char *deployment, const char *message_id, const char *answer, char **body);
extern PGresult *db_heartbeats(const char *deployments, const char *message_ids, const char *generations);
extern PGresult *db_read(const char *conversations, const char *cursors);
extern bool db_ack(const char *ids);
extern PGresult *db_claim(void);
extern void db_release(const char *ids, const char *error);

/* columns of db_read() and db_claim() */
enum
{
	REPLY_ID, REPLY_CONVERSATION, REPLY_PLATFORM, REPLY_PAYLOAD, REPLY_OUTCOME, REPLY_COMPLETE, REPLY_ATTEMPT
};

/* columns of db_rescue() */
enum
{
	LAPSED_DEPLOYMENT, LAPSED_MESSAGE_ID, LAPSED_GENERATION, LAPSED_ERROR_CODE, LAPSED_BODY
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

/* dispatch.c */
extern DbStatus dispatch_message(const char *conversation, const Message *message, char **result, pid_t *pid);
extern DbStatus dispatch_answer(const char *conversation, const char *message_id, const char *answer,
								bool *resumed, pid_t *pid);
extern void dispatch_lapsed(void);

/* workers.c */
typedef struct Worker Worker;

extern Worker *worker_start(const char *deployment, const Message *message);
extern pid_t worker_go(Worker *worker);
extern void worker_cancel(Worker *worker);
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
