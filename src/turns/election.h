/*
 * election.h
 *		Taking a turn from owed to ended, once.
 */
#ifndef TL_ELECTION_H
#define TL_ELECTION_H

#include "replies/outbox.h"
#include "store/turn_row.h"

typedef enum TlElection
{
	TL_WON,
	TL_LOST,					/* it has ended */
	TL_UNKNOWN					/* there is no such turn */
} TlElection;

/* a turn that was won: copied, so it outlives the scan */
typedef struct TlElected
{
	text	   *message_id;
	int			position;		/* of the id in the caller's list */
	text	   *conversation;
	text	   *platform;
	text	   *organization;	/* or NULL */
	Jsonb	   *routing;		/* or NULL */
	text	   *mark_code;		/* provider's failure, or NULL */
	text	   *mark_reason;
	TimestampTz armed_at;
	TimestampTz first_beat;
	TimestampTz last_beat;
} TlElected;

/*
 * End this row, which was read as owed.  TM_Ok: won is filled; other results
 * as of table_tuple_update.
 */
extern TM_Result tl_elect_row(TlRel *turns, TlTurn *turn, Snapshot snapshot,
							  char outcome, const pg_uuid_t *request,
							  const TlVerdict *verdict, int64 now, TlElected *won);
/*
 * One candidate of an election that waits its turn.  If the turn has ended,
 * same_request says whether an equal call did it, and conversation is set unless
 * it was; either may be NULL.
 */
extern TlElection tl_elect(TlRel *turns, const text *deployment, const text *message_id,
						   char outcome, const pg_uuid_t *request, TlElected *won,
						   text **conversation, bool *same_request);

#endif							/* TL_ELECTION_H */
