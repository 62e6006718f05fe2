/*
 * election.h
 *		Taking a turn from owed to ended, once.
 */
#ifndef TL_ELECTION_H
#define TL_ELECTION_H

#include "outbox.h"
#include "turn.h"

typedef enum TlElection
{
	TL_WON,
	TL_LOST,					/* it has ended */
	TL_UNKNOWN					/* there is no such turn */
} TlElection;

/* a turn that was won: copied, so it outlives the scan */
typedef struct TlWon
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
} TlWon;

/*
 * End this row, which was read as owed.  TM_Ok: won is filled; other results
 * as of table_tuple_update.
 */
extern TM_Result tl_elect_row(TlRel *turns, TlTurn *turn, Snapshot snapshot,
							  char outcome, const pg_uuid_t *request,
							  const TlVerdict *verdict, int64 now, TlWon *won);
extern void tl_store_error(TlOutbox *outbox, const text *deployment, TlWon *won,
						   const text *error, const text *error_code,
						   char decided_by, int64 now);
extern void tl_count_failure(const text *error_code);
/* for LOG lines: what the setting asks for */
extern void tl_log_failure(const text *deployment, const text *message_id,
						   const char *code, const char *decided_by);

#endif							/* TL_ELECTION_H */
