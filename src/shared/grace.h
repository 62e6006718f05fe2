/*
 * grace.h
 *		What holds lapses back for a whole database.
 */
#ifndef TL_GRACE_H
#define TL_GRACE_H

#include "rules/deadline.h"

/* a worker called: the path of the workers to the database lives */
extern void tl_grace_note_call(void);
extern void tl_grace_note_call_at(int64 now);
/* what is in force now */
extern void tl_grace_get(TlGrace *grace);
/*
 * for sweeps, the worker at least once a second: watch for mass silence and
 * sweep = off
 */
extern void tl_grace_watch(int64 now);

#endif							/* TL_GRACE_H */
