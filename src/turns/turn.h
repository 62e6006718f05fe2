/*
 * turn.h
 *		Making, judging, changing and ending the row of a turn.
 */
#ifndef TL_TURN_H
#define TL_TURN_H

#include "replies/outbox.h"
#include "store/turn_row.h"

/*
 * a new row, armed now, with the intervals of the settings; 22023 for an
 * address that a sweep would fail on
 */
extern void tl_turn_make(TlTurn *turn, text *deployment, text *message_id, Jsonb *routing);
/*
 * When an owed turn lapses, and why.  The caller has read the clock first, so
 * each pause is known; a sweep may have seen the row first at "seen".
 */
extern void tl_turn_judge(const TlTurn *turn, int64 now, int64 seen, TlVerdict *verdict);
/*
 * When the turn is to fail because the session that attached at one time ended
 * at the other; PG_INT64_MAX if that session was not its worker's, or the
 * deployment has beaten since.  The caller has read the clock first.
 */
extern int64 tl_turn_dies(const TlTurn *turn, int64 attached, int64 died);
/* before the row is rewritten: its times become times of this run */
extern void tl_turn_adopt(TlTurn *turn, int64 seen);
/* lock an owed turn; unmarked: no beat is missing (true: do not look) */
extern TM_Result tl_turn_lock(TlRel *turns, TlTurn *turn, Snapshot snapshot, bool wait,
							  int64 seen, bool *unmarked);
/*
 * Take the row of an owed turn (tl_rel_take) in place of a lock; false: lock
 * it.  If the turn ends, tl_turn_rows_put_back() puts the row back, and
 * tl_turn_put_back() if it stays owed.
 */
extern bool tl_turn_take(TlRel *turns, TlTurn *turn, Snapshot snapshot, bool *unmarked);
extern void tl_turn_put_back(TlRel *turns, TlTurn *turn);
/* write a row that this transaction has locked, or inserted, or just armed */
extern void tl_turn_write(TlRel *turns, TlTurn *turn, Snapshot snapshot, bool armed);

/* what a callback did with the turn: whether its row is to be written */
typedef enum TlTurnChange
{
	TL_TURN_KEPT,
	TL_TURN_CHANGED,
	TL_TURN_ARMED				/* changed, and armed again */
} TlTurnChange;

/* judges a turn, once, and may change it if it is owed: it is locked then */
typedef TlTurnChange (*TlTurnCallback) (TlTurn *turn, void *arg);
/*
 * Find a turn, lock it if it is owed, have it judged, and write what was
 * changed; false if there is no such turn.  With a fence, the generation that
 * the caller holds, a turn of a later one is not locked: the callback keeps it.
 */
extern bool tl_turn_change(TlRel *turns, const text *deployment, const TlTurnName *name,
						   int32 fence, TlTurnCallback callback, void *arg);

/* NULL for a turn that was armed without, or has ended */
extern Jsonb *tl_turn_routing(const TlTurn *turn);
/*
 * What the turn tells its reply: where it goes, its holder, and, with a
 * verdict, its times; all else is zero.
 */
extern void tl_turn_address(TlReply *reply, const TlTurn *turn, const TlVerdict *verdict,
							int64 now);

/* a turn that this transaction ends, with its terminal record */
typedef struct TlEnding
{
	TlTurn	   *turn;
	text	   *message_id;
	TlReply		reply;
} TlEnding;

/*
 * Make the terminal record of a turn that this transaction has locked or
 * inserted.  Without an error the record is a discharge; without a verdict the
 * turn was never armed.
 */
extern void tl_ending_make(TlEnding *ending, TlTurn *turn, const TlVerdict *verdict, int64 now,
						   const text *error, const text *error_code, char decided_by);
/*
 * Store the records, and make their turns ended; the caller writes the rows.
 * Order and number are those of tl_outbox_store.  From here on the
 * transaction's commit is flushed.
 */
extern void tl_turns_end(TlOutbox *outbox, TlEnding *endings, int n, int64 now);

#endif							/* TL_TURN_H */
