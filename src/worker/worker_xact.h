/*
 * worker_xact.h
 *		The steps of the worker.
 */
#ifndef TL_WORKER_XACT_H
#define TL_WORKER_XACT_H

#include "shared/database.h"

/*
 * Begin a transaction in which our tables are there.  False: they are not, or are those of
 * another extension, and none is open.
 */
extern bool tl_worker_xact_begin(const char *what);
extern void tl_worker_xact_end(void);
/* a step found the extension dropped */
extern bool tl_worker_xact_extension_gone(void);
/* and another one created */
extern bool tl_worker_xact_extension_recreated(void);

extern void tl_worker_xact_reset(void);
/* returns how many rows were looked at: more than none, and there may be more */
extern int	tl_step_fail_lapsed(TlDatabase *db);
extern void tl_step_fail_dead(TlDatabase *db);
/* when fail_dead has something to do (liveness clock) */
extern int64 tl_step_next_death_look(void);
extern void tl_step_look_for_subscriptions(TlDatabase *db);

#endif							/* TL_WORKER_XACT_H */
