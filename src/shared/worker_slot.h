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
 * worker that runs there ends first.  Cannot fail, so that it may be called
 * after a commit.
 */
extern void tl_worker_want(Oid dboid);
/* the same, once this prepared transaction is committed */
extern void tl_worker_want_prepared(Oid dboid, uint64 name);
extern void tl_worker_end_prepared(uint64 name, bool commit);

/*
 * Called by a worker: make this process the worker of the database.  It exits
 * if the database has a worker or is excluded.  NULL: there is no slot, or,
 * where one is to be made, no room for it.
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
