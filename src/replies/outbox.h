/*
 * outbox.h
 *		Storing the replies that end turns.
 */
#ifndef TL_OUTBOX_H
#define TL_OUTBOX_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "shared/database.h"
#include "store/rel.h"

/* one terminal record */
typedef struct TlReply
{
	const text *deployment;
	text	  **message_ids;
	int			nids;
	const text *conversation;
	const text *platform;
	const text *organization;	/* or NULL */
	Jsonb	   *payload;		/* NULL: discharged */
	char		outcome;
	const text *error_code;		/* or NULL */
	char		decided_by;
	TimestampTz armed_at;		/* the three: 0 = none */
	TimestampTz first_beat;
	TimestampTz last_beat;
} TlReply;

/* the outbox, open while a function writes to it; zeroed: not open yet */
typedef struct TlOutbox
{
	bool		is_open;
	TlRel		replies;
	TlRel		deliveries;
	Oid			sequence;
	uint32		counts[TL_NCOUNTERS];	/* of what was stored */
} TlOutbox;

/*
 * Open it, unless it is open; discharged: for records that are delivered
 * already. It stays open in the current memory context.
 */
extern void tl_outbox_open(TlOutbox *outbox, bool discharged);
/* store a reply that is due now, or was discharged; returns its id */
extern int64 tl_outbox_store(TlOutbox *outbox, const TlReply *reply, int64 now);
/* close it if it is open, and count what was stored */
extern void tl_outbox_close(TlOutbox *outbox);

#endif							/* TL_OUTBOX_H */
