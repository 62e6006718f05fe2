/*
 * sweep_row.h
 *		Deciding about one turn that may have lapsed.
 */
#ifndef TL_SWEEP_ROW_H
#define TL_SWEEP_ROW_H

#include "nodes/pg_list.h"
#include "storage/block.h"
#include "storage/itemptr.h"

#include "replies/outbox.h"

typedef enum TlSweepStatus
{
	TL_SWEEP_GONE,				/* not owed any more, or not there */
	TL_SWEEP_FAILED,
	TL_SWEEP_LIVE,				/* look again at look_us */
	TL_SWEEP_BUSY				/* an open transaction holds it: look again soon */
} TlSweepStatus;

/* a row that may have lapsed, and what became of it */
typedef struct TlSweepItem
{
	ItemPointerData tid;
	int64		seen;			/* when it was first seen, if it became visible late */
	int64		died;			/* its session ended then; 0 = no */
	TlSweepStatus status;
	bool		unmarked;		/* no beat was missing when it was looked at first */
	int64		look_us;
} TlSweepItem;

/* what the rows of a batch share */
typedef struct TlSweep
{
	TlRel		turns;
	TlOutbox	outbox;
	TupleTableSlot *slot;
	BlockNumber nblocks;
	bool		move_check;		/* see tl_sweep_items */
	bool		alone;			/* no worker serves the database */
	List	   *lines;			/* for the log, once the batch is done */
	MemoryContext context;		/* of the batch */
} TlSweep;

/* decide about a row, and say in the item what became of it */
extern void tl_sweep_row(TlSweep *sweep, TlSweepItem *item);

#endif							/* TL_SWEEP_ROW_H */
