/*
 * worker_xact.h
 *		The transactions of the worker: how a step begins, ends, or fails.
 */
#ifndef TL_WORKER_XACT_H
#define TL_WORKER_XACT_H

#include "storage/lockdefs.h"

#include "shared/database.h"

/*
 * Begin a transaction in which our tables are there; the name of the step shows
 * in pg_stat_activity.  False if the extension has gone, or another one has
 * come: then no transaction is open.
 */
extern bool tl_worker_xact_begin(const char *step);
/* done: as far as the step is concerned; else it is skipped, see below */
extern void tl_worker_xact_end(bool done);

/*
 * The same for a step that must not hold the sweep up.  Such a step begins only
 * if this mode of lock on these tables (bits of TlTable) is free, and waits for
 * any other lock for a moment only, up to and including its commit.
 */
extern bool tl_worker_xact_try_begin(const char *step, LOCKMODE mode, uint32 tables);
/* RUNNING, until a step found the extension dropped: NONE, or WANTED anew */
extern TlWorkerState tl_worker_xact_extension(void);

/*
 * Called in a PG_CATCH block: report the current error, clean up after it as
 * the main loop of a backend does, and continue in the given memory context.  A
 * step that found a lock is skipped instead; NULL for a round.
 */
extern void tl_worker_recover(MemoryContext context, const char *step);

#endif							/* TL_WORKER_XACT_H */
