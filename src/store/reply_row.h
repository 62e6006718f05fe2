/*
 * reply_row.h
 *		Rows of the tables reply and delivery.
 */
#ifndef TL_REPLY_ROW_H
#define TL_REPLY_ROW_H

#include "utils/timestamp.h"

#include "store/rel.h"

enum
{
	REPLY_REPLY_ID = 1, REPLY_DEPLOYMENT, REPLY_MESSAGE_IDS, REPLY_CONVERSATION_ID,
	REPLY_PLATFORM, REPLY_ORGANIZATION_ID, REPLY_PAYLOAD, REPLY_OUTCOME, REPLY_ERROR_CODE,
	REPLY_DECIDED_BY, REPLY_GENERATION, REPLY_WORKER, REPLY_ARMED_AT, REPLY_FIRST_BEAT,
	REPLY_LAST_BEAT, REPLY_CREATED_AT,
	REPLY_KEPT_AT,				/* when it was stored */
	REPLY_NATTS = REPLY_KEPT_AT
};

enum
{
	DELIVERY_REPLY_ID = 1,
	DELIVERY_CONVERSATION_ID,
	DELIVERY_PLATFORM,
	DELIVERY_IS_OPEN,			/* due or claimed */
	DELIVERY_ATTEMPT,
	/* -infinity: since it was stored; done: since then */
	DELIVERY_DUE_AT,
	DELIVERY_GATEWAY,			/* holds it, or did until the claim timed out */
	DELIVERY_CLAIMED_AT,
	DELIVERY_DELIVERED_AT,		/* NULL: open, or dead */
	DELIVERY_LAST_ERROR,
	DELIVERY_PARKED_UNTIL,		/* equals due_at where it is set */
	DELIVERY_NATTS = DELIVERY_PARKED_UNTIL
};

/* a row as it was read; its values point into the slot it came from */
typedef struct TlDelivery
{
	Datum		values[DELIVERY_NATTS];
	bool		nulls[DELIVERY_NATTS];
} TlDelivery;

#define tl_delivery_decode(slot, d)	tl_row_get(slot, (d)->values, (d)->nulls, DELIVERY_NATTS)
#define tl_delivery_is_open(d)	DatumGetBool(tl_row_value(d, DELIVERY_IS_OPEN))
/* delivered or discharged */
#define tl_delivery_is_done(d)	(!tl_delivery_is_open(d) && !tl_row_isnull(d, DELIVERY_DELIVERED_AT))
#define tl_delivery_is_dead(d)	(!tl_delivery_is_open(d) && tl_row_isnull(d, DELIVERY_DELIVERED_AT))
#define tl_delivery_attempt(d)	DatumGetInt32(tl_row_value(d, DELIVERY_ATTEMPT))
#define tl_delivery_id(d)		DatumGetInt64(tl_row_value(d, DELIVERY_REPLY_ID))
#define tl_delivery_due(d)		DatumGetTimestampTz(tl_row_value(d, DELIVERY_DUE_AT))

/* a scan that finds replies by their ids, and one that finds deliveries */
extern void tl_reply_scan(TlScan *s, TlRel *replies, Snapshot snapshot);
extern void tl_delivery_scan(TlScan *s, TlRel *deliveries, Snapshot snapshot);
/* find a reply; false if it is none of the conversation (NULL: any) */
extern bool tl_reply_find(TlScan *s, int64 reply_id, const text *conversation);
/* find the delivery of a reply; the caller expects it open, or not open */
extern bool tl_delivery_find(TlScan *s, const text *conversation, int64 reply_id, bool is_open);
/* the same by the id alone, with a scan of tl_reply_scan */
extern bool tl_delivery_find_by_id(TlScan *s, TlScan *replies, int64 reply_id, bool is_open);
#define tl_reply_conversation(slot, isnull) \
	DatumGetTextPP(slot_getattr(slot, REPLY_CONVERSATION_ID, isnull))

#endif							/* TL_REPLY_ROW_H */
