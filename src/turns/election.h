/*
 * election.h
 *		Taking a turn from owed to ended, once.
 */
#ifndef TL_ELECTION_H
#define TL_ELECTION_H

#include "replies/outbox.h"
#include "store/turn_row.h"

/*
 * What an owed turn tells its reply.  The reply lacks its message ids,
 * payload, outcome, error code and decider.
 */
typedef struct TlElected
{
	TlReply		reply;
	text	   *message_id;
	Jsonb	   *routing;		/* or NULL */
} TlElected;

/* read it from a row that this transaction has locked (22023: bad address) */
extern void tl_elected_read(TlElected *elected, const TlTurn *turn,
							const TlVerdict *verdict, int64 now);
/*
 * Make the turn ended.  The caller has stored its reply and writes the row;
 * from here on the transaction's commit is flushed and told of.
 */
extern void tl_turn_end(TlTurn *turn, char outcome, const pg_uuid_t *request, int64 reply_id);

#endif							/* TL_ELECTION_H */
