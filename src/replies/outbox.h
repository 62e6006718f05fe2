/*
 * outbox.h
 *		Making and storing the replies of workers.
 */
#ifndef TL_OUTBOX_H
#define TL_OUTBOX_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "base/catalog.h"
#include "shared/database.h"
#include "store/rel.h"

/* one terminal record, or update */
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
	char		decided_by;		/* 0: an update */
	int32		generation;		/* of the first turn */
	const text *worker;			/* or NULL */
	TimestampTz armed_at;		/* the three: 0 = none */
	TimestampTz first_beat;
	TimestampTz last_beat;
	int64		id;				/* since it was stored */
} TlReply;

/* so many are stored at once, at most */
#define TL_OUTBOX_GROUP	64

/* the outbox, open while a function writes to it; zeroed: not open yet */
typedef struct TlOutbox
{
	bool		is_open;
	TlRel		replies;
	TlRel		deliveries;
	uint32		counts[TL_NCOUNTERS];	/* of what was stored */
} TlOutbox;

/* open it, unless it is open; it stays so in the current memory context */
extern void tl_outbox_open(TlOutbox *outbox);
/*
 * store replies that are due now, or were discharged: at most TL_OUTBOX_GROUP,
 * in the order of their conversations (tl_compare_texts); they get their ids
 */
extern void tl_outbox_store(TlOutbox *outbox, TlReply *const *replies, int n, int64 now);
/* are the tables of an outbox that is open plain?  see tl_rel_is_plain() */
extern bool tl_outbox_is_plain(const TlOutbox *outbox);
/* close it if it is open, and count what was stored */
extern void tl_outbox_close(TlOutbox *outbox);

/* reply_id.c: the id of a reply that is being stored */
extern int64 tl_reply_id_next(void);
/* for the worker: move the sequence on where it does not fit this server */
extern void tl_reply_id_settle(void);
/* why an id would not fit, or NULL */
extern const char *tl_reply_id_problem(void);

/* copied.c: is that all that the sequence has of this server's own life? */
extern bool tl_copied_since(XLogRecPtr lsn);

/* payload.c */
extern Jsonb *tl_payload_error(Jsonb *routing, const text *message_id, int32 generation,
							   const text *error, const text *error_code);
/* the caller's reply, completed for the turns that it won */
extern Jsonb *tl_payload_reply(Jsonb *reply, Jsonb *routing, text **won, int nwon,
							   int32 generation);
/* the same of a message that ends no turn */
extern Jsonb *tl_payload_update(Jsonb *update, Jsonb *routing, const text *message_id,
								int32 generation);
/* does it count as an error?  its code, if it has one */
extern bool tl_payload_is_error(Jsonb *reply, text **error_code);
/* a digest of the call: equal for an equal one, whatever its timestamp */
extern pg_uuid_t *tl_payload_request(const text *deployment, text **ids, int nids, Jsonb *reply);

/* late_reply.c; columns of the table */
enum
{
	TL_LATE_DIGEST = 1, TL_LATE_DEPLOYMENT, TL_LATE_MESSAGE_IDS, TL_LATE_CONVERSATION_ID,
	TL_LATE_PAYLOAD, TL_LATE_VERDICT, TL_LATE_CREATED_AT, TL_LATE_KEPT_AT,
	TL_LATE_NATTS = TL_LATE_KEPT_AT
};
/* keep an equal one once; beyond the limits it is counted and logged only */
extern void tl_late_reply_keep(const text *deployment, text **ids, int nids,
							   const text *conversation, Jsonb *payload, TlElection verdict,
							   const pg_uuid_t *request);

#endif							/* TL_OUTBOX_H */
