/*
 * claim.c
 *		claim_replies: due replies, for one gateway alone.
 *
 * What is due and to which gateway stands at the top of delivery.c.  A claim
 * waits for no other transaction: it passes over the replies that another one
 * holds and takes the next instead.  Its cost is that of the names it is given
 * and of the rows that it returns, not of what is due elsewhere: one descent of
 * an index for each name, no walk goes on once enough older rows are known, and
 * a claim of platforms begins where the last one ended (claim_start.c).
 */
#include "base/turn_liveness.h"

#include "storage/lmgr.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "replies/claim_start.h"
#include "replies/read.h"
#include "shared/clock.h"
#include "shared/database.h"
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
	/* of one round */
	Snapshot	snapshot;
	TlPicks		picks;
	int64		first_end;		/* when one of those that are not due will be */
	/* by the last round, as others held them */
	int64		passed_over;
	Claimed    *claimed;
	int64		n;
} Claim;

PG_FUNCTION_INFO_V1(turn_liveness_claim_replies);

/* Pick a row of a walk if it is due. */
static TlStep
judge(TupleTableSlot *row, void *arg)
{
	Claim	   *claim = arg;
	bool		isnull;
	int64		due;

	/* parked ones stand in the order of that time; it is the last column */
	if (!claim->picks.by_age &&
		DatumGetTimestampTz(slot_getattr(row, DELIVERY_PARKED_UNTIL, &isnull)) > claim->now)
		return TL_STEP_END;
	due = DatumGetTimestampTz(slot_getattr(row, DELIVERY_DUE_AT, &isnull));
	if (due <= claim->now)
		return TL_STEP_TAKE;
	claim->first_end = Min(claim->first_end, due);
	return TL_STEP_PASS;
}

/* Walk the platforms from that id on. */
static void
walk_platforms(Claim *claim, TlIndex index, const TlCursors *platforms, int64 after)
{
	int			i;

	for (i = 0; i < platforms->n; i++)
		platforms->items[i].after = after;
	tl_walk(&claim->deliveries, index, claim->snapshot, platforms, &claim->picks, judge, claim);
}

/*
 * Claim one reply, or mark it dead if it has been claimed max_attempts times.
 * False: another transaction holds it or has changed it.
 */
static bool
take(Claim *claim, TlPick *pick)
{
	TlDelivery	d;
	int32		attempt;
	bool		dead;

	if (!table_tuple_fetch_row_version(claim->deliveries.rel, &pick->tid, claim->snapshot,
									   claim->slot))
		return false;
	tl_rel_check_visible(&claim->deliveries, claim->slot);
	tl_delivery_decode(claim->slot, &d);
	attempt = tl_delivery_attempt(&d);
	dead = attempt >= tl_max_attempts;
	if (dead)
	{
		tl_row_set(&d, DELIVERY_IS_OPEN, BoolGetDatum(false));
		tl_row_set_null(&d, DELIVERY_PARKED_UNTIL);
	}
	else
	{
		/* a first claim leaves it alone, and so makes no entry in any index */
		if (!tl_row_isnull(&d, DELIVERY_PARKED_UNTIL))
			tl_row_set(&d, DELIVERY_PARKED_UNTIL, TimestampTzGetDatum(claim->timeout));
		tl_row_set(&d, DELIVERY_ATTEMPT, Int32GetDatum(attempt + 1));
		tl_row_set(&d, DELIVERY_DUE_AT, TimestampTzGetDatum(claim->timeout));
		tl_row_set(&d, DELIVERY_GATEWAY, PointerGetDatum(claim->gateway));
		tl_row_set(&d, DELIVERY_CLAIMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
		claim->claimed[claim->n] = (Claimed) {
			.reply_id = pick->reply_id, .attempt = attempt + 1,
			.conversation = DatumGetTextPCopy(tl_row_value(&d, DELIVERY_CONVERSATION_ID))
		};
	}
	if (tl_rel_update_unless_held(&claim->deliveries, &pick->tid, claim->snapshot,
								  d.values, d.nulls) != TM_Ok)
		return false;
	claim->n += !dead;
	tl_counter_add(dead ? TL_COUNT_DEAD : TL_COUNT_CLAIMS, 1);
	tl_counter_add(TL_COUNT_REDELIVERIES, !dead && attempt > 0);
	return true;
}

/*
 * Pick the oldest due replies and take them.  Other gateways claim the oldest
 * too: the claim passes over what they hold, and picks more the next time.  The
 * twofold makes the rounds few where many gateways claim.  False: it has
 * enough, or nothing is left.
 *
 * Ids ascend within a conversation and within the replies of a platform that
 * are not parked, so each walk ends at the first that is too young.  Parked
 * ones stand in the order of the time since when they are due: the walk offers
 * those that have waited longest.  Nothing is due then that has an id up to
 * that of the last one taken; or at all, if there were fewer than wanted.
 */
static bool
take_due(Claim *claim, const TlCursors *conversations, const TlCursors *platforms)
{
	TlPicks    *picks = &claim->picks;
	uint64		posts = tl_database() == NULL ? 0 : tl_due_posts(tl_database());
	int64		after;
	int64		held = PG_INT64_MAX;
	int64		settled;
	int64		i;

	*picks = (TlPicks) {.want = claim->max - claim->n + 2 * claim->passed_over, .by_age = true};
	claim->passed_over = 0;
	claim->first_end = claim->timeout;
	claim->snapshot = tl_latest_snapshot();
	after = tl_claim_start(platforms, claim->now, posts);
	tl_walk(&claim->deliveries, TL_IDX_DELIVERY_KEY, claim->snapshot, conversations, picks,
			judge, claim);
	walk_platforms(claim, TL_IDX_DELIVERY_OPEN_PLATFORM, platforms, after);

	/* the least int8 is -infinity, too */
	picks->by_age = false;
	walk_platforms(claim, TL_IDX_DELIVERY_PARKED, platforms, PG_INT64_MIN);

	claim->claimed = repalloc_huge(claim->claimed, (claim->n + picks->n) * sizeof(Claimed));
	for (i = 0; i < picks->n && claim->n < claim->max; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (take(claim, &picks->items[i]))
			continue;
		claim->passed_over++;
		held = Min(held, picks->items[i].reply_id);
	}
	UnregisterSnapshot(claim->snapshot);
	settled = i == picks->n && i < picks->want ? PG_INT64_MAX : picks->items[i - 1].reply_id;
	tl_claim_remember(Min(settled, held - 1), claim->first_end);
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
	tl_reply_scan(&scan, &replies, snapshot);
	for (i = 0; i < claim->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (tl_reply_find(&scan, claim->claimed[i].reply_id, claim->claimed[i].conversation))
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
	TlCursors	conversations;
	TlCursors	platforms;

	tl_check_writable("claim_replies()");
	claim.gateway = tl_arg_name(fcinfo, 0, "gateway");
	if (PG_ARGISNULL(1) && PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("conversations and platforms must not both be null"),
				 errhint("Name the conversations or the platforms that this gateway serves.")));
	conversations = tl_arg_cursors(fcinfo, 1, "conversations", -1);
	platforms = tl_arg_cursors(fcinfo, 2, "platforms", -1);
	claim.max = tl_arg_max_replies(fcinfo, 3);

	InitMaterializedSRF(fcinfo, 0);
	if (claim.max == 0 || conversations.n + platforms.n == 0)
		return (Datum) 0;

	claim.claimed = palloc(0);
	/* read at the end, but locked in the order of DROP EXTENSION */
	LockRelationOid(tl_table_oid(TL_REPLY), AccessShareLock);
	tl_rel_open(&claim.deliveries, TL_DELIVERY, true);
	/* the locks of both tables may have kept the session waiting */
	claim.now = tl_clock_now();
	claim.timeout = claim.now + tl_claim_timeout * TL_MS;
	claim.slot = table_slot_create(claim.deliveries.rel, NULL);
	while (take_due(&claim, &conversations, &platforms))
		;
	ExecDropSingleTupleTableSlot(claim.slot);
	tl_rel_close(&claim.deliveries);

	if (claim.n > 0)
	{
		tl_xact_claimed(claim.timeout, claim.claimed, claim.n, sizeof(Claimed));
		return_claimed((ReturnSetInfo *) fcinfo->resultinfo, &claim);
	}
	return (Datum) 0;
}
