/*
 * sweep_row.h
 *		Deciding about one turn that may have lapsed.
 */
#ifndef TL_SWEEP_ROW_H
#define TL_SWEEP_ROW_H

#include "nodes/pg_list.h"
#include "storage/block.h"

#include "replies/outbox.h"
#include "turns/sweep.h"

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

extern void tl_sweep_row(TlSweep *sweep, TlSweepItem *item);

#endif							/* TL_SWEEP_ROW_H */
