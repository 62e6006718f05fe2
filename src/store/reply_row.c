/*
 * reply_row.c
 *		Finding rows of the tables reply and delivery.
 *
 * A caller knows a reply by its id.  Deliveries stand in the order of
 * (conversation, open or not, id), so that a claim finds the open ones of a
 * conversation without a look at those that were delivered.  So the way to a
 * delivery leads through its reply, which tells the conversation.
 */
#include "base/turn_liveness.h"

#include "base/args.h"
#include "store/reply_row.h"

void
tl_reply_scan(TlScan *s, TlRel *replies, Snapshot snapshot)
{
	tl_scan_key_int8(s, 1, BTEqualStrategyNumber, 0);
	tl_scan_begin(s, replies, TL_IDX_REPLY_KEY, snapshot);
}

bool
tl_reply_find(TlScan *s, int64 reply_id, const text *conversation)
{
	const text *has;
	bool		isnull;

	if (!tl_scan_find(s, Int64GetDatum(reply_id), Int64GetDatum(reply_id)))
		return false;
	has = tl_reply_conversation(s->slot, &isnull);
	return conversation == NULL || tl_compare_texts(&has, &conversation) == 0;
}

void
tl_delivery_scan(TlScan *s, TlRel *deliveries, Snapshot snapshot)
{
	tl_scan_key_text(s, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_bool(s, 2, true);
	tl_scan_key_int8(s, 3, BTEqualStrategyNumber, 0);
	tl_scan_begin(s, deliveries, TL_IDX_DELIVERY_KEY, snapshot);
}

bool
tl_delivery_find(TlScan *s, const text *conversation, int64 reply_id, bool is_open)
{
	int			i;

	for (i = 0; i < 2; i++)
	{
		s->keys[1].sk_argument = BoolGetDatum(i == 0 ? is_open : !is_open);
		if (tl_scan_find(s, PointerGetDatum(conversation), Int64GetDatum(reply_id)))
			return true;
	}
	return false;
}

bool
tl_delivery_find_by_id(TlScan *s, TlScan *replies, int64 reply_id, bool is_open)
{
	bool		isnull;

	return tl_reply_find(replies, reply_id, NULL) &&
		tl_delivery_find(s, tl_reply_conversation(replies->slot, &isnull), reply_id, is_open);
}
