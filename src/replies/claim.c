/*
 * claim.c
 *		claim_replies: due replies, for one gateway alone.
 *
 * What is due and to which gateway stands at the top of delivery.c.  A claim
 * waits for no other transaction: it passes over the replies that another one
 * holds and takes the next instead.  Its cost is that of the names it is given
 * and of the rows that it returns, not of what is due elsewhere: one descent of
 * an index for each name, and no walk goes on once enough older rows are known.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "shared/counters.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "replies/delivery.h"
#include "replies/read.h"
#include "shared/clock.h"

/* a reply that the claim took */
typedef struct Claimed
{
	int64		reply_id;
	text	   *conversation;
	int32		attempt;
} Claimed;

/* one call of claim_replies */
typedef struct Claim
{
	text	   *gateway;
	text	  **conversations;	/* sorted, each once */
	int			nconversations;
	text	  **platforms;		/* likewise */
	int			nplatforms;
	int64		max;
	int64		now;
	int64		timeout;		/* when the claim is over */
	TlRel		deliveries;
	TupleTableSlot *slot;
	HTAB	   *passed_over;	/* ids that others hold; NULL: none */
	Claimed    *claimed;
	int64		n;
	int64		size;
	int			again;			/* of those, had been claimed before */
	int			dead;			/* found with no attempt left */
} Claim;

static int	known_names(text **names, int n);
static bool is_passed_over(const Claim *claim, int64 reply_id);
static void offer_conversations(Claim *claim, Snapshot snapshot, TlPicks *picks);
static void offer_platforms(Claim *claim, bool again, Snapshot snapshot, TlPicks *picks);
static bool take(Claim *claim, const TlPick *pick, Snapshot snapshot);
static void pass_over(Claim *claim, int64 reply_id);
static void take_due(Claim *claim);
static void return_claimed(ReturnSetInfo *rsinfo, Claim *claim);

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

static bool
is_passed_over(const Claim *claim, int64 reply_id)
{
	return claim->passed_over != NULL &&
		hash_search(claim->passed_over, &reply_id, HASH_FIND, NULL) != NULL;
}

/*
 * Offer the due replies of the conversations.  Ids ascend within a
 * conversation, so each walk ends at the first that is too young.
 */
static void
offer_conversations(Claim *claim, Snapshot snapshot, TlPicks *picks)
{
	TlScan		scan = {0};
	bool		isnull;
	int			i;

	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	for (i = 0; i < claim->nconversations; i++)
	{
		CHECK_FOR_INTERRUPTS();
		scan.keys[0].sk_argument = PointerGetDatum(claim->conversations[i]);
		if (i == 0)
			tl_scan_begin(&scan, &claim->deliveries, TL_IDX_DELIVERY_OPEN_CONVERSATION, snapshot);
		else
			tl_scan_restart(&scan);
		while (tl_scan_next(&scan, ForwardScanDirection))
		{
			int64		id = DatumGetInt64(slot_getattr(scan.slot, DELIVERY_REPLY_ID, &isnull));
			int64		due = DatumGetTimestampTz(slot_getattr(scan.slot, DELIVERY_DUE_AT, &isnull));

			CHECK_FOR_INTERRUPTS();
			if (due > claim->now || is_passed_over(claim, id))
				continue;
			if (!tl_picks_add(picks, id, &scan.slot->tts_tid))
				break;
		}
	}
	if (claim->nconversations > 0)
		tl_scan_end(&scan);
}

/*
 * Offer the due replies of the platforms that were never claimed, or those that
 * are due again.  Ids ascend within the first, so each walk ends at the first
 * that is too young.  The others stand in the order of the time since when they
 * are due: the walk offers the replies that have waited longest.
 */
static void
offer_platforms(Claim *claim, bool again, Snapshot snapshot, TlPicks *picks)
{
	TlScan		scan = {0};
	bool		isnull;
	int			i;

	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	if (again)
	{
		tl_scan_key_int8(&scan, 2, BTGreaterStrategyNumber, DT_NOBEGIN);
		tl_scan_key_int8(&scan, 2, BTLessEqualStrategyNumber, claim->now);
	}
	else
		tl_scan_key_int8(&scan, 2, BTEqualStrategyNumber, DT_NOBEGIN);
	for (i = 0; i < claim->nplatforms; i++)
	{
		int64		offered = 0;

		scan.keys[0].sk_argument = PointerGetDatum(claim->platforms[i]);
		if (i == 0)
			tl_scan_begin(&scan, &claim->deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, snapshot);
		else
			tl_scan_restart(&scan);
		while (tl_scan_next(&scan, ForwardScanDirection))
		{
			int64		id = DatumGetInt64(slot_getattr(scan.slot, DELIVERY_REPLY_ID, &isnull));

			CHECK_FOR_INTERRUPTS();
			if (is_passed_over(claim, id))
				continue;
			if (!tl_picks_add(picks, id, &scan.slot->tts_tid) && !again)
				break;
			if (++offered >= picks->want)
				break;
		}
	}
	if (claim->nplatforms > 0)
		tl_scan_end(&scan);
}

/*
 * Claim one reply, or mark it dead if it has been claimed max_attempts times.
 * False: another transaction holds it or has changed it.
 */
static bool
take(Claim *claim, const TlPick *pick, Snapshot snapshot)
{
	TlDelivery	d;
	ItemPointerData tid = pick->tid;
	Claimed    *claimed;

	if (!tl_rel_try_lock(&claim->deliveries, &tid, snapshot, claim->slot, LockTupleNoKeyExclusive))
		return false;
	tl_rel_check_visible(&claim->deliveries, claim->slot);
	tl_delivery_decode(claim->slot, &d);
	if (d.attempt >= tl_max_attempts)
		tl_delivery_set(&d, DELIVERY_STATE, CharGetDatum(TL_DELIVERY_DEAD));
	else
	{
		tl_delivery_set(&d, DELIVERY_ATTEMPT, Int32GetDatum(d.attempt + 1));
		tl_delivery_set(&d, DELIVERY_DUE_AT, TimestampTzGetDatum(claim->timeout));
		tl_delivery_set(&d, DELIVERY_GATEWAY, PointerGetDatum(claim->gateway));
		tl_delivery_set(&d, DELIVERY_CLAIMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	}
	if (tl_rel_update(&claim->deliveries, &tid, snapshot, d.values, d.nulls) != TM_Ok)
		return false;
	if (d.attempt >= tl_max_attempts)
	{
		claim->dead++;
		return true;
	}

	if (claim->n == claim->size)
	{
		claim->size = Max(64, 2 * claim->size);
		claim->claimed = claim->claimed == NULL ? palloc(claim->size * sizeof(Claimed)) :
			repalloc_huge(claim->claimed, claim->size * sizeof(Claimed));
	}
	claimed = &claim->claimed[claim->n++];
	claimed->reply_id = d.reply_id;
	claimed->conversation = DatumGetTextPCopy(tl_delivery_value(&d, DELIVERY_CONVERSATION_ID));
	claimed->attempt = d.attempt + 1;
	if (d.attempt > 0)
		claim->again++;
	return true;
}

static void
pass_over(Claim *claim, int64 reply_id)
{
	if (claim->passed_over == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(int64);
		ctl.entrysize = sizeof(int64);
		ctl.hcxt = CurrentMemoryContext;
		claim->passed_over = hash_create("turn_liveness passed over", 256, &ctl,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(claim->passed_over, &reply_id, HASH_ENTER, NULL);
}

/*
 * Pick the oldest due replies and take them.  Other gateways claim the oldest
 * too: the claim passes over what they hold and picks as many more, until it
 * has enough or nothing is left.
 */
static void
take_due(Claim *claim)
{
	bool		more = true;

	claim->slot = table_slot_create(claim->deliveries.rel, NULL);
	while (more && claim->n < claim->max)
	{
		int64		wanted = claim->max - claim->n +
			(claim->passed_over ? hash_get_num_entries(claim->passed_over) : 0);
		Snapshot	snapshot = tl_latest_snapshot();
		TlPicks		picks;
		int64		i;

		tl_picks_init(&picks, wanted);
		offer_conversations(claim, snapshot, &picks);
		offer_platforms(claim, false, snapshot, &picks);
		offer_platforms(claim, true, snapshot, &picks);
		tl_picks_settle(&picks);

		for (i = 0; i < picks.n && claim->n < claim->max; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (!take(claim, &picks.items[i], snapshot))
				pass_over(claim, picks.items[i].reply_id);
		}
		more = picks.n == wanted;
		ExecClearTuple(claim->slot);
		UnregisterSnapshot(snapshot);
		pfree(picks.items);
	}
	ExecDropSingleTupleTableSlot(claim->slot);
}

static int
compare_claimed(const void *a, const void *b)
{
	int64		left = ((const Claimed *) a)->reply_id;
	int64		right = ((const Claimed *) b)->reply_id;

	return left < right ? -1 : left > right;
}

/* Put the replies that were taken into the result, oldest first. */
static void
return_claimed(ReturnSetInfo *rsinfo, Claim *claim)
{
	TlRel		replies;
	TlScan		scan = {0};
	Snapshot	snapshot;
	int64		i;

	/* a later round may have found older ones */
	qsort(claim->claimed, claim->n, sizeof(Claimed), compare_claimed);

	tl_rel_open(&replies, TL_REPLY, false);
	snapshot = tl_latest_snapshot();
	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_int8(&scan, 2, BTEqualStrategyNumber, 0);
	for (i = 0; i < claim->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		scan.keys[0].sk_argument = PointerGetDatum(claim->claimed[i].conversation);
		scan.keys[1].sk_argument = Int64GetDatum(claim->claimed[i].reply_id);
		if (i == 0)
			tl_scan_begin(&scan, &replies, TL_IDX_REPLY_KEY, snapshot);
		else
			tl_scan_restart(&scan);
		if (tl_scan_next(&scan, ForwardScanDirection))
			tl_put_reply(rsinfo, scan.slot, "claimed", claim->claimed[i].attempt);
	}
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	tl_rel_close(&replies);
}

Datum
turn_liveness_claim_replies(PG_FUNCTION_ARGS)
{
	Claim		claim = {0};

	tl_check_writable("claim_replies()");
	claim.gateway = tl_arg_name(fcinfo, 0, "gateway");
	if (PG_ARGISNULL(1) && PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("conversations and platforms must not both be null"),
				 errhint("Name the conversations or the platforms that this gateway serves.")));
	claim.conversations = tl_arg_text_array(fcinfo, 1, "conversations", &claim.nconversations);
	claim.nconversations = known_names(claim.conversations, claim.nconversations);
	claim.platforms = tl_arg_text_array(fcinfo, 2, "platforms", &claim.nplatforms);
	claim.nplatforms = known_names(claim.platforms, claim.nplatforms);
	claim.max = tl_arg_max_replies(fcinfo, 3);

	InitMaterializedSRF(fcinfo, 0);
	if (claim.max == 0 || (claim.nconversations == 0 && claim.nplatforms == 0))
		return (Datum) 0;

	claim.now = tl_clock_now();
	claim.timeout = claim.now + tl_claim_timeout * TL_MS;
	tl_rel_open(&claim.deliveries, TL_DELIVERY, true);
	take_due(&claim);
	tl_rel_close(&claim.deliveries);

	if (claim.dead > 0)
		tl_counter_add(TL_COUNT_DEAD, claim.dead);
	if (claim.n > 0)
	{
		tl_counter_add(TL_COUNT_CLAIMS, claim.n);
		tl_counter_add(TL_COUNT_REDELIVERIES, claim.again);
		tl_xact_due_again(claim.timeout);
		return_claimed((ReturnSetInfo *) fcinfo->resultinfo, &claim);
	}
	return (Datum) 0;
}
