/*
 * delivery_row.c
 *		Rows of the table delivery: from columns to a struct, and back.
 */
#include "base/turn_liveness.h"

#include "utils/timestamp.h"

#include "store/delivery_row.h"

void
tl_delivery_decode(TupleTableSlot *slot, TlDelivery *d)
{
	slot_getallattrs(slot);
	memcpy(d->values, slot->tts_values, sizeof(d->values));
	memcpy(d->nulls, slot->tts_isnull, sizeof(d->nulls));
	d->reply_id = DatumGetInt64(tl_delivery_value(d, DELIVERY_REPLY_ID));
	d->state = DatumGetChar(tl_delivery_value(d, DELIVERY_STATE));
	d->attempt = DatumGetInt32(tl_delivery_value(d, DELIVERY_ATTEMPT));
	d->due = DatumGetTimestampTz(tl_delivery_value(d, DELIVERY_DUE_AT));
	d->kept = DatumGetTimestampTz(tl_delivery_value(d, DELIVERY_KEPT_AT));
}

/*
 * The columns alone: a caller that goes on with the struct sets its field too.
 */
void
tl_delivery_set(TlDelivery *d, int att, Datum value)
{
	d->values[att - 1] = value;
	d->nulls[att - 1] = false;
}

void
tl_delivery_set_null(TlDelivery *d, int att)
{
	d->values[att - 1] = (Datum) 0;
	d->nulls[att - 1] = true;
}
