/*
 * claim.c
 *		claim_replies: due replies, for one gateway alone.
 *
 * What is due and to whom stands at the top of delivery.c.  A claim waits for
 * nobody: what somebody else holds it passes over, and takes the next instead.
 * Its cost is that of the names it is given and of the rows that it returns,
 * not of what is due elsewhere: one descent of an index for each name, and no
 * walk goes on once enough older rows are known.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "shared/clock.h"
#include "replies/delivery.h"
#include "base/guc.h"
#include "replies/read.h"
#include "commit/xact.h"

/* what claim_replies was asked for */
typedef struct Filter
{
	text	  **conversations;
	int			nconversations;
	text	  **platforms;
	int			nplatforms;
} Filter;

/* what claim_replies got */
typedef struct Claimed
{
	int64		reply_id;
	text	   *conversation;
	int32		attempt;
} Claimed;

static int	known_names(text **names, int n);
static void offer_due(TlRel *deliveries, const Filter *filter, HTAB *passed_over,
					  int64 now, Snapshot snapshot, TlPicks *picks);
static void return_claimed(ReturnSetInfo *rsinfo, Claimed *claimed, int64 n);

PG_FUNCTION_INFO_V1(turn_liveness_claim_replies);

/*
 * A name that no row can have is like any other that has no rows: one bad
 * element must not keep a gateway from serving the rest of its streams.
 */
static int
known_names(text **names, int n)
{
	int			known = 0;
	int			kept = 0;
	int			i;

	for (i = 0; i < n; i++)
		if (names[i] != NULL && tl_name_is_valid(names[i]))
			names[known++] = names[i];
	if (known > 1)
		qsort(names, known, sizeof(text *), tl_compare_texts);
	for (i = 0; i < known; i++)
		if (kept == 0 || tl_compare_texts(&names[kept - 1], &names[i]) != 0)
			names[kept++] = names[i];
	return kept;
}

/*
 * The due rows of a filter.  Ids ascend within a conversation and within what
 * was never claimed of a platform, so those walks end at the first that is too
 * young.  What is due again stands in the order of the time since when: there
 * the ones that have waited longest are offered.
 */
static void
offer_due(TlRel *deliveries, const Filter *filter, HTAB *passed_over, int64 now,
		  Snapshot snapshot, TlPicks *picks)
{
	TlScan		scan = {0};
	int			round;
	int			i;
	bool		isnull;

	if (filter->nconversations > 0)
	{
		tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
		for (i = 0; i < filter->nconversations; i++)
		{
			CHECK_FOR_INTERRUPTS();
			scan.keys[0].sk_argument = PointerGetDatum(filter->conversations[i]);
			if (i == 0)
				tl_scan_begin(&scan, deliveries, TL_IDX_DELIVERY_OPEN_CONVERSATION, snapshot);
			else
				tl_scan_restart(&scan);
			while (tl_scan_next(&scan, ForwardScanDirection))
			{
				int64		id = DatumGetInt64(slot_getattr(scan.slot, DELIVERY_REPLY_ID, &isnull));
				int64		due = DatumGetTimestampTz(slot_getattr(scan.slot, DELIVERY_DUE_AT, &isnull));

				CHECK_FOR_INTERRUPTS();
				if (due > now)
					continue;
				if (passed_over && hash_search(passed_over, &id, HASH_FIND, NULL))
					continue;
				if (!tl_picks_add(picks, id, &scan.slot->tts_tid))
					break;
			}
		}
		tl_scan_end(&scan);
	}

	for (round = 0; round < 2 && filter->nplatforms > 0; round++)
	{
		bool		again = (round == 1);

		memset(&scan, 0, sizeof(scan));
		tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
		if (again)
		{
			tl_scan_key_int8(&scan, 2, BTGreaterStrategyNumber, DT_NOBEGIN);
			tl_scan_key_int8(&scan, 2, BTLessEqualStrategyNumber, now);
		}
		else
			tl_scan_key_int8(&scan, 2, BTEqualStrategyNumber, DT_NOBEGIN);
		for (i = 0; i < filter->nplatforms; i++)
		{
			int64		offered = 0;

			scan.keys[0].sk_argument = PointerGetDatum(filter->platforms[i]);
			if (i == 0)
				tl_scan_begin(&scan, deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, snapshot);
			else
				tl_scan_restart(&scan);
			while (tl_scan_next(&scan, ForwardScanDirection))
			{
				int64		id = DatumGetInt64(slot_getattr(scan.slot, DELIVERY_REPLY_ID, &isnull));

				CHECK_FOR_INTERRUPTS();
				if (passed_over && hash_search(passed_over, &id, HASH_FIND, NULL))
					continue;
				if (!tl_picks_add(picks, id, &scan.slot->tts_tid) && !again)
					break;
				if (++offered >= picks->want)
					break;
			}
		}
		tl_scan_end(&scan);
	}
}

Datum
turn_liveness_claim_replies(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *gateway;
	Filter		filter;
	int			max;
	int64		now;
	int64		due;
	TlRel		deliveries;
	TupleTableSlot *slot;
	HTAB	   *passed_over = NULL;
	Claimed    *claimed = NULL;
	int64		size = 0;
	int64		n = 0;
	int			again = 0;
	int			dead = 0;

	tl_check_writable("claim_replies()");
	gateway = tl_arg_name(fcinfo, 0, "gateway");
	if (PG_ARGISNULL(1) && PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("conversations and platforms must not both be null"),
				 errhint("Name the conversations or the platforms that this gateway serves.")));
	filter.conversations = tl_arg_text_array(fcinfo, 1, "conversations", &filter.nconversations);
	filter.nconversations = known_names(filter.conversations, filter.nconversations);
	filter.platforms = tl_arg_text_array(fcinfo, 2, "platforms", &filter.nplatforms);
	filter.nplatforms = known_names(filter.platforms, filter.nplatforms);
	max = tl_arg_max_replies(fcinfo, 3);

	InitMaterializedSRF(fcinfo, 0);
	if (max == 0 || (filter.nconversations == 0 && filter.nplatforms == 0))
		return (Datum) 0;

	now = tl_clock_now();
	due = now + tl_claim_timeout * TL_MS;
	tl_rel_open(&deliveries, TL_DELIVERY, true);
	slot = table_slot_create(deliveries.rel, NULL);

	/*
	 * Other gateways claim the oldest too.  What they hold is passed over, and
	 * we look again for as many more, until nothing is left.
	 */
	for (;;)
	{
		int64		wanted = max - n + (passed_over ? hash_get_num_entries(passed_over) : 0);
		Snapshot	snapshot = tl_latest_snapshot();
		TlPicks		picks;
		int64		i;

		tl_picks_init(&picks, wanted);
		offer_due(&deliveries, &filter, passed_over, now, snapshot, &picks);
		tl_picks_settle(&picks);

		for (i = 0; i < picks.n && n < max; i++)
		{
			TlDelivery	d;
			bool		is_dead = false;
			bool		mine;

			CHECK_FOR_INTERRUPTS();
			mine = tl_rel_try_lock(&deliveries, &picks.items[i].tid, snapshot, slot,
								   LockTupleNoKeyExclusive);
			if (mine)
			{
				tl_rel_check_visible(&deliveries, slot);
				tl_delivery_decode(slot, &d);
				is_dead = d.attempt >= tl_max_attempts;
				if (is_dead)
					tl_delivery_set(&d, DELIVERY_STATE, CharGetDatum(TL_DELIVERY_DEAD));
				else
				{
					tl_delivery_set(&d, DELIVERY_ATTEMPT, Int32GetDatum(d.attempt + 1));
					tl_delivery_set(&d, DELIVERY_DUE_AT, TimestampTzGetDatum(due));
					tl_delivery_set(&d, DELIVERY_GATEWAY, PointerGetDatum(gateway));
					tl_delivery_set(&d, DELIVERY_CLAIMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
				}
				mine = tl_rel_update(&deliveries, &picks.items[i].tid, snapshot,
									 d.values, d.nulls) == TM_Ok;
			}

			if (!mine)
			{
				if (passed_over == NULL)
				{
					HASHCTL		ctl;

					ctl.keysize = sizeof(int64);
					ctl.entrysize = sizeof(int64);
					ctl.hcxt = CurrentMemoryContext;
					passed_over = hash_create("turn_liveness passed over", 256, &ctl,
											  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
				}
				(void) hash_search(passed_over, &picks.items[i].reply_id, HASH_ENTER, NULL);
			}
			else if (is_dead)
				dead++;
			else
			{
				if (n == size)
				{
					size = Max(64, 2 * size);
					claimed = claimed == NULL ? palloc(size * sizeof(Claimed)) :
						repalloc_huge(claimed, size * sizeof(Claimed));
				}
				claimed[n].reply_id = d.reply_id;
				claimed[n].conversation = DatumGetTextPCopy(d.values[DELIVERY_CONVERSATION_ID - 1]);
				claimed[n].attempt = d.attempt + 1;
				n++;
				if (d.attempt > 0)
					again++;
			}
		}

		ExecClearTuple(slot);
		UnregisterSnapshot(snapshot);
		pfree(picks.items);
		if (n >= max || picks.n < wanted)
			break;
	}

	ExecDropSingleTupleTableSlot(slot);
	tl_rel_close(&deliveries);

	if (dead > 0)
		tl_counter_add(TL_COUNT_DEAD, dead);
	if (n > 0)
	{
		tl_counter_add(TL_COUNT_CLAIMS, n);
		tl_counter_add(TL_COUNT_REDELIVERIES, again);
		tl_xact_due_again(due);
		return_claimed(rsinfo, claimed, n);
	}
	return (Datum) 0;
}

static int
compare_claimed(const void *a, const void *b)
{
	int64		left = ((const Claimed *) a)->reply_id;
	int64		right = ((const Claimed *) b)->reply_id;

	return left < right ? -1 : left > right;
}

static void
return_claimed(ReturnSetInfo *rsinfo, Claimed *claimed, int64 n)
{
	TlRel		replies;
	TlScan		scan = {0};
	Snapshot	snapshot;
	int64		i;

	/* a later round may have found older ones */
	qsort(claimed, n, sizeof(Claimed), compare_claimed);

	tl_rel_open(&replies, TL_REPLY, false);
	snapshot = tl_latest_snapshot();
	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, PointerGetDatum(claimed[0].conversation));
	tl_scan_key_int8(&scan, 2, BTEqualStrategyNumber, claimed[0].reply_id);
	tl_scan_begin(&scan, &replies, TL_IDX_REPLY_KEY, snapshot);
	for (i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (i > 0)
		{
			scan.keys[0].sk_argument = PointerGetDatum(claimed[i].conversation);
			scan.keys[1].sk_argument = Int64GetDatum(claimed[i].reply_id);
			tl_scan_restart(&scan);
		}
		if (tl_scan_next(&scan, ForwardScanDirection))
			tl_put_reply(rsinfo, scan.slot, "claimed", claimed[i].attempt);
	}
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	tl_rel_close(&replies);
}
