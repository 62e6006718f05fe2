/*
 * turn.h
 *		Making, judging and changing the row of a turn.
 */
#ifndef TL_TURN_H
#define TL_TURN_H

#include "store/turn_row.h"

/*
 * A new row, armed now.  Checks the address (22023), so that no sweep can fail
 * on it later.
 */
extern void tl_turn_make(TlTurn *turn, text *deployment, text *message_id, Jsonb *routing,
						 int32 admission_ms, int32 silence_ms, int32 duration_ms);

/*
 * When an owed turn lapses, and why, by its row, the leases and the grace that
 * is in force.  The caller has read the clock first, so each pause that the
 * clock has left is known; a sweep may have seen the row first at "seen".
 */
extern void tl_turn_judge(const TlTurn *turn, int64 now, int64 seen, TlVerdict *verdict);

/* before the row is rewritten: its times become times of this run */
extern void tl_turn_adopt(TlTurn *turn, int64 seen);

/* may a beat have met the row while a transaction held it that rolled back? */
extern bool tl_turn_beat_may_be_missing(const TlTurn *turn);

/* write a row that this transaction has locked, or inserted, or just armed */
extern void tl_turn_write(TlRel *turns, TlTurn *turn, Snapshot snapshot, bool armed);

/* what a callback did with the turn, so whether its row is to be written */
typedef enum TlTurnChange
{
	TL_TURN_KEPT,
	TL_TURN_CHANGED,
	TL_TURN_ARMED				/* changed, and armed again */
} TlTurnChange;

/*
 * Judges the turn, and may change it.  It is called once.  An owed turn is
 * locked by then; one that has ended must not be changed.
 */
typedef TlTurnChange (*TlTurnCallback) (TlTurn *turn, void *arg);

/*
 * Find a turn by its key, lock it, have it judged, and write what was changed.
 * False if there is no such turn.
 */
extern bool tl_turn_change(TlRel *turns, const text *deployment, const text *message_id,
						   TlTurnCallback callback, void *arg);

#endif							/* TL_TURN_H */
