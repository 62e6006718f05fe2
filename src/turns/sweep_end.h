/*
 * sweep_end.h
 *		Ending the turns that a batch of the sweep fails.
 */
#ifndef TL_SWEEP_END_H
#define TL_SWEEP_END_H

#include "turns/turn.h"

/* the turns of a batch that fail */
typedef struct TlSweepEnd
{
	MemoryContext context;		/* of the batch */
	struct TlFailing **list;
	int			n;
	int			max;			/* room in the list */
} TlSweepEnd;

/* begin a list of so many at most, which the context keeps */
extern void tl_sweep_end_begin(TlSweepEnd *end, MemoryContext context, int max);
/* list a copy of a turn that the batch has locked, or taken (tl_turn_take) */
extern void tl_sweep_end_add(TlSweepEnd *end, const TlTurn *turn, const TlVerdict *verdict,
							 TlCode lapse, int64 now, bool taken);
/* end them all; each group resets the context that it works in */
extern void tl_sweep_end(TlSweepEnd *end, TlRel *turns, TlOutbox *outbox, Snapshot snapshot,
						 MemoryContext of_group);
/* the error code of a turn that fails so */
extern text *tl_sweep_end_code(const TlTurn *turn, TlCode lapse);

#endif							/* TL_SWEEP_END_H */
