/*
 * worker_slot.h
 *		The worker of a database, as the other processes see it.
 */
#ifndef TL_WORKER_SLOT_H
#define TL_WORKER_SLOT_H

#include "shared/database.h"

#define TL_WORKER_RETRY		(5 * TL_SECOND)	/* after a worker that failed */

/* something changed there: a worker begins, after one that runs; cannot fail */
extern void tl_worker_want(Oid dboid);
/* the same, once this prepared transaction is committed */
extern void tl_worker_want_prepared(Oid dboid, uint64 name);
extern void tl_worker_end_prepared(uint64 name, bool commit);

/*
 * Make this process the worker of the database; it exits if there is one, or
 * the database is excluded.  NULL: there is no slot, or no room to make one.
 */
extern TlDatabase *tl_worker_publish(Oid dboid, bool make);
/* called by the worker when it has begun to serve the database */
extern void tl_worker_set_running(TlDatabase *db);
/* called by the worker, which may have no slot, when it exits */
extern void tl_worker_withdraw(TlDatabase *db, TlWorkerState state, bool failed);

/* no worker starts there until then; one that is there ends: its pid, or 0 */
extern pid_t tl_worker_exclude(Oid dboid, int64 until_us);
/* dropped: the database is gone, and so is its slot */
extern void tl_worker_readmit(Oid dboid, bool dropped);

#endif							/* TL_WORKER_SLOT_H */
