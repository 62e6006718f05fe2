/*
 * duty.h
 *		What the worker does, round by round.
 */
#ifndef TL_DUTY_H
#define TL_DUTY_H

#include "shmem.h"

/* false: there is no extension here */
extern bool tl_duty_begin(void);
/* one round; returns when to be called again (liveness clock) */
extern int64 tl_duty_round(TlDatabase *db);
/* the extension was dropped */
extern bool tl_duty_is_over(void);
/* and another one created, which wants a worker that starts with it */
extern bool tl_duty_has_heir(void);
/* before the worker ends */
extern void tl_duty_end(void);

#endif							/* TL_DUTY_H */
