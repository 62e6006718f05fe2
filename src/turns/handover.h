/*
 * handover.h
 *		Giving a turn to another worker.
 */
#ifndef TL_HANDOVER_H
#define TL_HANDOVER_H

#include "store/turn_row.h"

/*
 * Begin the next generation of an owed turn that this transaction has locked:
 * it waits for a worker as if armed now.  The caller writes it as armed.
 */
extern void tl_turn_hand_over(TlTurn *turn);

#endif							/* TL_HANDOVER_H */
