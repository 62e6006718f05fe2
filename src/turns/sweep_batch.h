/*
 * sweep_batch.h
 *		Failing a batch of turns that have lapsed.
 */
#ifndef TL_SWEEP_BATCH_H
#define TL_SWEEP_BATCH_H

#include "storage/itemptr.h"

typedef enum TlSweepStatus
{
	TL_SWEEP_GONE,				/* not owed any more, or not there */
	TL_SWEEP_FAILED,
	TL_SWEEP_LIVE,				/* look again at look_us */
	TL_SWEEP_DYING,				/* so it is, until its session's end fails it */
	TL_SWEEP_BUSY				/* a transaction holds it: look again soon */
} TlSweepStatus;

/* a row that may have lapsed, and what became of it */
typedef struct TlSweepItem
{
	ItemPointerData tid;
	const TlLeaseKey *turn;		/* that the worker expects there; NULL: any */
	int64		seen;			/* first seen, if it became visible late */
	int64		attached;		/* its session attached then, */
	int64		died;			/* and ended then; 0 = it did not */
	TlSweepStatus status;
	bool		unmarked;		/* no beat was missing at the first look */
	int64		look_us;
	int64		busy_since;		/* it has lapsed, and a transaction holds it */
} TlSweepItem;

/*
 * Decide about these rows in the current transaction; returns how many failed,
 * at most max.  A row that raises an error is logged and left busy.
 * move_check: note in a row that lives when sessions look at it next.
 */
extern int	tl_sweep_items(TlSweepItem *items, int nitems, int max, bool move_check);
/* where no worker serves the database, sessions do all that it does */
extern bool tl_sweep_is_alone(void);

#endif							/* TL_SWEEP_BATCH_H */
