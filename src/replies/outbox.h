/*
 * outbox.h
 *		Storing what ends turns: replies, and the late ones.
 */
#ifndef TL_OUTBOX_H
#define TL_OUTBOX_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "shared/shmem.h"
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

/* the outbox, open for as long as a function writes to it */
typedef struct TlOutbox
{
	TlRel		replies;
	TlRel		deliveries;
	Oid			sequence;
	uint64		stored[TL_NCOUNTERS];	/* turns that were ended, by counter */
} TlOutbox;

extern void tl_outbox_open(TlOutbox *outbox, bool discharged);
extern int64 tl_outbox_store(TlOutbox *outbox, const TlReply *reply, int64 now);
/* also adds the turns that were stored to the counters */
extern void tl_outbox_close(TlOutbox *outbox);

/* keep a reply that was not delivered; an equal one is kept once */
extern void tl_outbox_keep_late(const text *deployment, text **ids, int nids,
								const text *conversation, Jsonb *payload, bool lost,
								const pg_uuid_t *request);

#endif							/* TL_OUTBOX_H */
