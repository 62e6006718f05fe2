/*
 * worker_error.h
 *		How a worker reports an error and goes on.
 */
#ifndef TL_WORKER_ERROR_H
#define TL_WORKER_ERROR_H

#include "utils/palloc.h"

/*
 * Called in a PG_CATCH block: report the current error, clean up after it as
 * the main loop of a backend does, and continue in the given memory context.
 */
extern void tl_worker_recover(MemoryContext context);

#endif							/* TL_WORKER_ERROR_H */
