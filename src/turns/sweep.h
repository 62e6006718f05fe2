/*
 * sweep.h
 *		Failing the turns that have lapsed.
 */
#ifndef TL_SWEEP_H
#define TL_SWEEP_H

#include "turns/sweep_row.h"

/*
 * Decide about these rows, in the current transaction; returns how many
 * failed, at most max.  A row that raises an error is logged and left busy.
 * move_check: note in a row that lives when to look at it next, for sessions
 * that find rows by that.
 */
extern int	tl_sweep_items(TlSweepItem *items, int nitems, int max, bool move_check);
/* fail the turns of deployments whose last session ended before that time */
extern int	tl_sweep_deaths(int64 before, int max);

#endif							/* TL_SWEEP_H */
