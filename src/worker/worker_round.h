/*
 * worker_round.h
 *		What the worker does, round by round.
 */
#ifndef TL_WORKER_ROUND_H
#define TL_WORKER_ROUND_H

#include "shared/database.h"

/* false: there is no extension here */
extern bool tl_worker_round_begin(void);
/* one round; returns when to be called again (liveness clock) */
extern int64 tl_worker_round(TlDatabase *db);

#endif							/* TL_WORKER_ROUND_H */
