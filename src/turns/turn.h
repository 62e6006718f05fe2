/*
 * turn.h
 *		Making the row of a turn, and changing it.
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
 * Judges the turn, and may change it: true if its row is to be written.  It is
 * called once.  An owed turn is locked by then; one that has ended must not be
 * changed.
 */
typedef bool (*TlTurnCallback) (TlTurn *turn, void *arg);

/*
 * Find a turn by its key, lock it, have it judged, and write what was changed.
 * False if there is no such turn.
 */
extern bool tl_turn_change(TlRel *turns, const text *deployment, const text *message_id,
						   TlTurnCallback callback, void *arg);

/* write a row that this transaction has locked, or inserted */
extern void tl_turn_write(TlRel *turns, TlTurn *turn, Snapshot snapshot);

#endif							/* TL_TURN_H */
