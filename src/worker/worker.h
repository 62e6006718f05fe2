/*
 * worker.h
 *		The background worker of one database.
 */
#ifndef TL_WORKER_H
#define TL_WORKER_H

#include "utils/palloc.h"

/* report the current error and clean up after it, as the main loop of a backend does */
extern void tl_worker_recover(MemoryContext context);

extern PGDLLEXPORT void tl_worker_main(Datum arg);

#endif							/* TL_WORKER_H */
