/*
 * election.h
 *		Taking a turn from owed to ended, once.
 */
#ifndef TL_ELECTION_H
#define TL_ELECTION_H

#include "replies/outbox.h"
#include "store/turn_row.h"

/*
 * Store the terminal record of one turn that this transaction has locked, or
 * inserted (22023: bad address), and make the turn ended; the caller writes the
 * row.  Without an error the record is a discharge; without a verdict the turn
 * was never armed.  From here on the transaction's commit is flushed.
 */
extern void tl_turn_end(TlOutbox *outbox, TlTurn *turn, const TlVerdict *verdict, int64 now,
						const text *error, const text *error_code, char decided_by);

#endif							/* TL_ELECTION_H */
