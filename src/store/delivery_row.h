/*
 * delivery_row.h
 *		Rows of the table delivery.
 */
#ifndef TL_DELIVERY_ROW_H
#define TL_DELIVERY_ROW_H

#include "store/rel.h"

enum
{
	DELIVERY_REPLY_ID = 1,
	DELIVERY_STATE,
	DELIVERY_ATTEMPT,
	DELIVERY_DUE_AT,
	DELIVERY_KEPT_AT,
	DELIVERY_CONVERSATION_ID,
	DELIVERY_PLATFORM,
	DELIVERY_GATEWAY,
	DELIVERY_CLAIMED_AT,
	DELIVERY_DELIVERED_AT,
	DELIVERY_LAST_ERROR,
	DELIVERY_NATTS = DELIVERY_LAST_ERROR
};

/* a row as it was read; values point into the slot it came from */
typedef struct TlDelivery
{
	int64		reply_id;
	char		state;
	int32		attempt;
	int64		due;			/* DT_NOBEGIN: since it was stored */
	int64		kept;			/* retention counts from here */
	Datum		values[DELIVERY_NATTS];
	bool		nulls[DELIVERY_NATTS];
} TlDelivery;

#define tl_delivery_value(d, att)	((d)->values[(att) - 1])
/* does a gateway hold it, or did one until the claim timed out? */
#define tl_delivery_has_gateway(d)	(!(d)->nulls[DELIVERY_GATEWAY - 1])

extern void tl_delivery_decode(TupleTableSlot *slot, TlDelivery *d);
extern void tl_delivery_set(TlDelivery *d, int att, Datum value);
extern void tl_delivery_set_null(TlDelivery *d, int att);

#endif							/* TL_DELIVERY_ROW_H */
