/*
 * worker_slot.h
 *		The worker of a database, as the other processes see it.
 */
#ifndef TL_WORKER_SLOT_H
#define TL_WORKER_SLOT_H

#include "shared/database.h"

#define TL_WORKER_RETRY		(5 * TL_SECOND)	/* after a worker that failed */

/*
 * Something changed in this database: the launcher starts a worker there, and a
 * worker that runs there ends first.  Cannot fail, so that it may be called after
 * a commit.
 */
extern void tl_worker_want(Oid dboid);

/*
 * Called by a worker: make this process the worker of the database.  Returns
 * false if the database has a worker or is excluded.  *db is the slot, which is
 * made on demand; it is NULL if there is none.
 */
extern bool tl_worker_publish(Oid dboid, bool make, TlDatabase **db);
/* called by the worker when it has begun to serve the database */
extern void tl_worker_set_running(TlDatabase *db);
/* called by the worker when it exits, before it leaves shared memory */
extern void tl_worker_withdraw(TlDatabase *db, TlWorkerState state, bool failed);
/* called by a worker that looked for the extension on behalf of the launcher */
extern void tl_worker_report_look(Oid dboid, TlLookResult result);

/* no worker starts in this database until then, unless readmitted before */
extern void tl_worker_exclude(Oid dboid, int64 until_us);
/* dropped: the database is gone, and so is its slot */
extern void tl_worker_readmit(Oid dboid, bool dropped);
/* until when it is excluded; 0 = it is not.  Caller holds the directory. */
extern int64 tl_worker_excluded_until(Oid dboid);
/* send SIGTERM to the worker, once; returns its pid, 0 if there is none */
extern pid_t tl_worker_terminate(Oid dboid, pid_t *signaled);

/* called by the worker: note a step, and that it begins now; NULL: none */
extern void tl_worker_note_step(TlStep *step, const char *name);
/* since when (monotonic; 0 = there is none), and which; name has TL_STEP_LEN bytes */
extern int64 tl_worker_read_step(TlStep *step, char *name);

#endif							/* TL_WORKER_SLOT_H */
