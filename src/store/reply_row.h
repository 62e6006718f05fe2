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
	REPLY_NATTS = REPLY_CREATED_AT
};

enum
{
	DELIVERY_REPLY_ID = 1,
	DELIVERY_KEPT_AT,			/* when it was stored */
	DELIVERY_CONVERSATION_ID,
	DELIVERY_PLATFORM,
	DELIVERY_STATE,
	DELIVERY_ATTEMPT,
	/* -infinity: since it was stored; done: since then */
	DELIVERY_DUE_AT,
	DELIVERY_GATEWAY,			/* holds it, or did until the claim timed out */
	DELIVERY_CLAIMED_AT,
	DELIVERY_DELIVERED_AT,
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
#define tl_delivery_state(d)	DatumGetChar(tl_row_value(d, DELIVERY_STATE))
#define tl_delivery_attempt(d)	DatumGetInt32(tl_row_value(d, DELIVERY_ATTEMPT))
#define tl_delivery_id(d)		DatumGetInt64(tl_row_value(d, DELIVERY_REPLY_ID))
#define tl_delivery_due(d)		DatumGetTimestampTz(tl_row_value(d, DELIVERY_DUE_AT))
#define tl_delivery_kept(d)		DatumGetTimestampTz(tl_row_value(d, DELIVERY_KEPT_AT))

#endif							/* TL_REPLY_ROW_H */
