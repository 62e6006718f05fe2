/*
 * delivery.h
 *		Rows of the table delivery.
 */
#ifndef TL_DELIVERY_H
#define TL_DELIVERY_H

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
	Datum		values[DELIVERY_NATTS];
	bool		nulls[DELIVERY_NATTS];
} TlDelivery;

extern void tl_delivery_decode(TupleTableSlot *slot, TlDelivery *d);
extern void tl_delivery_set(TlDelivery *d, int att, Datum value);
extern void tl_delivery_set_null(TlDelivery *d, int att);

/* the first platform after this one (NULL: of all) that has open ones; frees this one */
extern text *tl_delivery_next_platform(TlRel *deliveries, text *platform, Snapshot snapshot);

/*
 * For the sweep: tell the listeners what became due again after one time and
 * until the other; returns when the next one will, PG_INT64_MAX for never.
 */
extern int64 tl_delivery_due_again(int64 after, int64 until);

#endif							/* TL_DELIVERY_H */
