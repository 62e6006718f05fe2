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

#include "storage/lmgr.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "replies/read.h"
#include "shared/clock.h"
#include "shared/counters.h"
#include "store/reply_row.h"

/* a reply that the claim took */
typedef struct Claimed
{
	int64		reply_id;		/* first: see tl_compare_ids */
	text	   *conversation;
	int32		attempt;
} Claimed;

/* one call of claim_replies */
typedef struct Claim
{
	text	   *gateway;
	int64		max;
	int64		now;
	int64		timeout;		/* when the claim is over */
	TlRel		deliveries;
	TupleTableSlot *slot;
	Snapshot	snapshot;		/* of one round, as the picks */
	TlPicks		picks;
	bool		by_age;			/* the walk offers ids in ascending order */
	HTAB	   *passed_over;	/* ids that others hold */
	int64		npassed_over;	/* 0: there is no such table yet */
	Claimed    *claimed;
	int64		n;
} Claim;

PG_FUNCTION_INFO_V1(turn_liveness_claim_replies);

/* Offer a row of a walk, if it is due and none of those that others hold. */
static TlStep
offer(TupleTableSlot *row, void *arg)
{
	Claim	   *claim = arg;
	bool		isnull;
	int64		id = DatumGetInt64(slot_getattr(row, DELIVERY_REPLY_ID, &isnull));

	if (DatumGetTimestampTz(slot_getattr(row, DELIVERY_DUE_AT, &isnull)) > claim->now)
		return claim->by_age ? TL_STEP_PASS : TL_STEP_END;
	if (claim->npassed_over > 0 &&
		hash_search(claim->passed_over, &id, HASH_FIND, NULL) != NULL)
		return TL_STEP_PASS;
	return tl_picks_add(&claim->picks, id, &row->tts_tid) || !claim->by_age ?
		TL_STEP_TAKE : TL_STEP_END;
}

/*
 * Claim one reply, or mark it dead if it has been claimed max_attempts times.
 * False: another transaction holds it or has changed it.
 */
static bool
take(Claim *claim, TlPick *pick)
{
	TlDelivery	d;
	Claimed    *claimed = &claim->claimed[claim->n];
	int32		attempt;

	if (!tl_rel_try_lock(&claim->deliveries, &pick->tid, claim->snapshot, claim->slot))
		return false;
	tl_rel_check_visible(&claim->deliveries, claim->slot);
	tl_delivery_decode(claim->slot, &d);
	attempt = tl_delivery_attempt(&d);
	if (attempt >= tl_max_attempts)
		tl_row_set(&d, DELIVERY_STATE, CharGetDatum(TL_DELIVERY_DEAD));
	else
	{
		tl_row_set(&d, DELIVERY_ATTEMPT, Int32GetDatum(attempt + 1));
		tl_row_set(&d, DELIVERY_DUE_AT, TimestampTzGetDatum(claim->timeout));
		tl_row_set(&d, DELIVERY_GATEWAY, PointerGetDatum(claim->gateway));
		tl_row_set(&d, DELIVERY_CLAIMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	}
	if (tl_rel_update(&claim->deliveries, &pick->tid, claim->snapshot, d.values, d.nulls) != TM_Ok)
		return false;
	if (attempt >= tl_max_attempts)
	{
		tl_counter_add(TL_COUNT_DEAD, 1);
		return true;
	}
	claimed->reply_id = pick->reply_id;
	claimed->conversation = DatumGetTextPCopy(tl_row_value(&d, DELIVERY_CONVERSATION_ID));
	claimed->attempt = attempt + 1;
	claim->n++;
	tl_counter_add(TL_COUNT_CLAIMS, 1);
	if (attempt > 0)
		tl_counter_add(TL_COUNT_REDELIVERIES, 1);
	return true;
}

static void
pass_over(Claim *claim, int64 reply_id)
{
	HASHCTL		ctl = {.keysize = sizeof(int64), .entrysize = sizeof(int64)};

	ctl.hcxt = CurrentMemoryContext;
	if (claim->npassed_over++ == 0)
		claim->passed_over = hash_create("turn_liveness passed over", 256, &ctl,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	(void) hash_search(claim->passed_over, &reply_id, HASH_ENTER, NULL);
}

/*
 * Pick the oldest due replies and take them.  Other gateways claim the oldest
 * too: the claim passes over what they hold and picks as many more.  False: it
 * has enough, or nothing is left.
 *
 * Ids ascend within a conversation and within the replies of a platform that
 * were never claimed, so each walk ends at the first that is too young.  A
 * platform's others stand in the order of the time since when they are due:
 * the walk offers those that have waited longest.
 */
static bool
take_due(Claim *claim, TlCursor *conversations, int nconversations,
		 TlCursor *platforms, int nplatforms)
{
	TlPicks    *picks = &claim->picks;
	int64		i;

	memset(picks, 0, sizeof(*picks));
	picks->want = claim->max - claim->n + claim->npassed_over;
	claim->snapshot = tl_latest_snapshot();
	claim->by_age = true;
	tl_walk(&claim->deliveries, TL_IDX_DELIVERY_OPEN_CONVERSATION, claim->snapshot,
			BTGreaterStrategyNumber, conversations, nconversations, picks->want, offer, claim);

	/* no cursor: `after` is the least int8, and that is -infinity too */
	tl_walk(&claim->deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, claim->snapshot,
			BTEqualStrategyNumber, platforms, nplatforms, picks->want, offer, claim);
	claim->by_age = false;
	tl_walk(&claim->deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, claim->snapshot,
			BTGreaterStrategyNumber, platforms, nplatforms, picks->want, offer, claim);
	tl_picks_settle(picks);

	claim->claimed = repalloc_huge(claim->claimed, (claim->n + picks->n) * sizeof(Claimed));
	for (i = 0; i < picks->n && claim->n < claim->max; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!take(claim, &picks->items[i]))
			pass_over(claim, picks->items[i].reply_id);
	}
	ExecClearTuple(claim->slot);
	UnregisterSnapshot(claim->snapshot);
	if (picks->items != NULL)
		pfree(picks->items);
	return picks->n == picks->want && claim->n < claim->max;
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
	qsort(claim->claimed, claim->n, sizeof(Claimed), tl_compare_ids);

	tl_rel_open(&replies, TL_REPLY, false);
	snapshot = tl_latest_snapshot();
	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_int8(&scan, 2, BTEqualStrategyNumber, 0);
	tl_scan_begin(&scan, &replies, TL_IDX_REPLY_KEY, snapshot);
	for (i = 0; i < claim->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (tl_scan_find(&scan, PointerGetDatum(claim->claimed[i].conversation),
						 Int64GetDatum(claim->claimed[i].reply_id)))
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
	TlCursor   *conversations;
	int			nconversations;
	TlCursor   *platforms;
	int			nplatforms;

	tl_check_writable("claim_replies()");
	claim.gateway = tl_arg_name(fcinfo, 0, "gateway");
	if (PG_ARGISNULL(1) && PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("conversations and platforms must not both be null"),
				 errhint("Name the conversations or the platforms that this gateway serves.")));
	conversations = tl_arg_cursors(fcinfo, 1, "conversations", -1, &nconversations);
	platforms = tl_arg_cursors(fcinfo, 2, "platforms", -1, &nplatforms);
	claim.max = tl_arg_max_replies(fcinfo, 3);

	InitMaterializedSRF(fcinfo, 0);
	if (claim.max == 0 || nconversations + nplatforms == 0)
		return (Datum) 0;

	claim.now = tl_clock_now();
	claim.timeout = claim.now + tl_claim_timeout * TL_MS;
	claim.claimed = palloc(0);
	/* read at the end, but locked in the order of DROP EXTENSION */
	LockRelationOid(tl_table_oid(TL_REPLY), AccessShareLock);
	tl_rel_open(&claim.deliveries, TL_DELIVERY, true);
	claim.slot = table_slot_create(claim.deliveries.rel, NULL);
	while (take_due(&claim, conversations, nconversations, platforms, nplatforms))
		;
	ExecDropSingleTupleTableSlot(claim.slot);
	tl_rel_close(&claim.deliveries);

	if (claim.n > 0)
	{
		tl_xact_due_again(claim.timeout);
		return_claimed((ReturnSetInfo *) fcinfo->resultinfo, &claim);
	}
	return (Datum) 0;
}
