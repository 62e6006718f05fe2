/*
 * worker.h
 *		What the files of the launcher and of the workers offer each other.
 */
#ifndef TL_WORKER_H
#define TL_WORKER_H

#include "shared/database.h"

/* launcher.c: from _PG_init, when preloaded and not in a binary upgrade */
extern void tl_launcher_register(void);

/* process.c: connect to a database, or to none, as a process of this kind */
extern void tl_process_connect(Oid dboid, const char *kind);
/* between two rounds: end if told to; true if the configuration was re-read */
extern bool tl_process_handle_signals(int exit_code);

/* A step of a round, in a transaction of its own. */
typedef struct TlStep
{
	const char *name;			/* shows in pg_stat_activity and stat */
	int64		(*work) (int64 now);	/* returns next; 0: it found a lock */
	bool		essential;		/* it waits for locks, the others do not */
	uint32		tables;			/* bits of TlTable: only if they are free */
	int64		next;			/* not before (liveness clock) */
} TlStep;

/*
 * worker_xact.c: try this step.  False if it was not done: then an error was
 * reported, or it found a lock, and it is to be tried again at step->next.
 */
extern bool tl_worker_step(TlStep *step, int64 now);

/*
 * Begin a transaction in which our tables are there.  False if the extension
 * has gone, or another one has come: then no transaction is open.
 */
extern bool tl_worker_xact_begin(const char *step);
extern void tl_worker_xact_end(void);
/* RUNNING, until a step found the extension dropped: NONE, or WANTED anew */
extern TlWorkerState tl_worker_extension;

/* worker_round.c: before the first round */
extern void tl_worker_round_begin(void);
/* one round; returns when to be called again (liveness clock) */
extern int64 tl_worker_round(TlDatabase *db);

#endif							/* TL_WORKER_H */
