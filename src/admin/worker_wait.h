/*
 * worker_wait.h
 *		What the worker of a database waits for, in words.
 */
#ifndef TL_WORKER_WAIT_H
#define TL_WORKER_WAIT_H

#include "shared/database.h"

/*
 * NULL when it waits for nothing that lasts.  The caller has a copy of the slot
 * of a worker that runs, and holds no lock.
 */
extern const char *tl_worker_wait(const TlWorkerSlot *slot);

#endif							/* TL_WORKER_WAIT_H */
