/*
 * worker_xact.h
 *		The transactions of the worker.
 */
#ifndef TL_WORKER_XACT_H
#define TL_WORKER_XACT_H

#include "storage/lockdefs.h"

#include "shared/database.h"

/* where the steps are noted from now on */
extern void tl_worker_xact_set_slot(TlDatabase *db);

/*
 * Begin a transaction in which our tables are there; the name of the step shows
 * in pg_stat_activity.  False if the extension has gone, or another one has come:
 * then no transaction is open.
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
/* the step could not be done: stat tells of it until it is done */
extern void tl_worker_xact_note_skipped(const char *step);

/* a step found the extension dropped */
extern bool tl_worker_xact_extension_gone(void);
/* and another one created, which wants a worker that begins with it */
extern bool tl_worker_xact_extension_recreated(void);

#endif							/* TL_WORKER_XACT_H */
