/*
 * worker_xact.h
 *		How a step of the worker begins, ends, or fails.
 */
#ifndef TL_WORKER_XACT_H
#define TL_WORKER_XACT_H

#include "shared/database.h"

/*
 * Begin a transaction in which our tables are there.  False: they are not, or are
 * those of another extension, and none is open.
 */
extern bool tl_worker_xact_begin(const char *what);
extern void tl_worker_xact_end(void);
/* RUNNING, until a step found the extension dropped: NONE, or WANTED by a new one */
extern TlWorkerState tl_worker_xact_extension(void);
/*
 * Called in a PG_CATCH block: report the current error, clean up after it as the
 * main loop of a backend does, and continue in the given memory context.
 */
extern void tl_worker_recover(MemoryContext context);

#endif							/* TL_WORKER_XACT_H */
