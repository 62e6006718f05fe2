/*
 * delivery.c
 *		From stored to delivered: acknowledge, release, put back, due again.
 *
 * A reply is open, delivered or dead.  An open one is claimed
 * while it names a gateway and its due time is ahead, so a claim that is not
 * acknowledged ends without a write; -infinity (DT_NOBEGIN) is due since it was
 * stored.  The gateway of a claim that has timed out stays named: that gateway
 * may still say that it delivered.  Delayed replies, and claims that last, are
 * parked: an index in the order of their due times holds them (parking.c).
 *
 * Rules that hold in this file and in claim.c:
 *
 * - Functions judge everything under the latest snapshot, not the
 *   transaction's, and above READ COMMITTED only if the transaction's own
 *   snapshot shows the row too (40001).
 * - A claim waits for no other transaction.  The other functions wait for the
 *   rows that their caller names, in the order of ids, and then look again.
 * - Times are the liveness clock's; timestamps that are only shown are the wall
 *   clock's.
 */
#include "base/turn_liveness.h"

#include "lib/qunique.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "replies/delivery.h"
#include "replies/read.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "store/reply_row.h"

#define MAX_DELAY			(24 * 60 * 60 * TL_SECOND)
#define MAX_DEFAULT_DELAY	(5 * 60 * TL_SECOND)
#define MAX_LAST_ERROR		1000	/* bytes; a longer one is cut */

/* what ack_replies, release_replies and retry_dead_reply do with each reply */
typedef struct Request Request;
struct Request
{
	int64	   *ids;			/* sorted, each once */
	int			n;
	TlRel		replies;
	TlRel		deliveries;
	TlScan		by_id;			/* of replies */
	TlScan		scan;			/* of deliveries */
	Snapshot	snapshot;		/* of both */
	bool		of_open;		/* the change is for open ones */
	text	   *gateway;
	int64		now;
	int64		delay;			/* -1: by the number of attempts */
	text	   *error;
	/* make the change in the row; false if it is not in the state for it */
	bool		(*change) (const Request *request, TlDelivery *d);
	int			changed;
};

PG_FUNCTION_INFO_V1(turn_liveness_ack_replies);
PG_FUNCTION_INFO_V1(turn_liveness_release_replies);
PG_FUNCTION_INFO_V1(turn_liveness_retry_dead_reply);

/* The arguments that two functions share; NULL elements name nothing. */
static void
gateway_and_ids(FunctionCallInfo fcinfo, Request *request)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	int			i;

	request->gateway = tl_arg_name(fcinfo, 0, "gateway");
	n = tl_arg_elements(fcinfo, 1, "reply_ids", &elements, &nulls);
	request->ids = palloc(Max(n, 1) * sizeof(int64));
	for (i = 0; i < n; i++)
		if (!nulls[i])
			request->ids[request->n++] = DatumGetInt64(elements[i]);
	qsort(request->ids, request->n, sizeof(int64), tl_compare_ids);
	request->n = qunique(request->ids, request->n, sizeof(int64), tl_compare_ids);
}

/* The listeners of its conversation and platform look after the commit. */
static void
note_due(const TlDelivery *d)
{
	tl_xact_reply(DatumGetTextPP(tl_row_value(d, DELIVERY_CONVERSATION_ID)),
				  DatumGetTextPP(tl_row_value(d, DELIVERY_PLATFORM)));
}

/*
 * Change one reply, if it is there and the change is due.  False: another
 * transaction was faster, and the caller judges what that one made of the row.
 */
static bool
change_one(Request *request, int64 id)
{
	TlScan	   *scan = &request->scan;
	TlDelivery	d;

	CHECK_FOR_INTERRUPTS();
	if (!tl_delivery_find_by_id(scan, &request->by_id, id, request->of_open))
		return true;
	tl_rel_check_visible(&request->deliveries, scan->slot);
	tl_delivery_decode(scan->slot, &d);
	if (!request->change(request, &d))
		return true;
	if (tl_rel_update(&request->deliveries, &scan->slot->tts_tid, request->snapshot,
					  d.values, d.nulls, tl_delivery_is_done(&d)) != TM_Ok)
	{
		if (IsolationUsesXactSnapshot())
			tl_serialization_failure();
		return false;
	}

	request->changed++;
	if (tl_delivery_is_done(&d))
		tl_counter_add(TL_COUNT_ACKNOWLEDGED, 1);
	else if (tl_delivery_is_dead(&d))
		tl_counter_add(TL_COUNT_DEAD, 1);
	else if (tl_delivery_due(&d) > request->now)
		tl_xact_due_again(tl_delivery_due(&d));
	else
		note_due(&d);
	return true;
}

/*
 * Change the replies that the caller names, in the order of ids, so that two
 * calls cannot deadlock.  Returns for how many the change was due and made.
 */
static int
change_each(Request *request)
{
	int			i = 0;

	if (request->n == 0)
		return 0;
	tl_rel_open(&request->replies, TL_REPLY, false);
	tl_rel_open(&request->deliveries, TL_DELIVERY, true);
	while (i < request->n)
	{
		/* the session may have waited, for a table or for a row that changed */
		request->snapshot = tl_latest_snapshot();
		request->now = tl_clock_now();
		memset(&request->by_id, 0, sizeof(TlScan));
		memset(&request->scan, 0, sizeof(TlScan));
		tl_reply_scan(&request->by_id, &request->replies, request->snapshot);
		tl_delivery_scan(&request->scan, &request->deliveries, request->snapshot);
		while (i < request->n && change_one(request, request->ids[i]))
			i++;
		tl_scan_end(&request->scan);
		tl_scan_end(&request->by_id);
		UnregisterSnapshot(request->snapshot);
	}
	tl_rel_close(&request->deliveries);
	tl_rel_close(&request->replies);
	return request->changed;
}

/* Does the gateway of the request hold this reply, or did it last? */
static bool
is_mine(const Request *request, const TlDelivery *d)
{
	text	   *holder;

	if (tl_row_isnull(d, DELIVERY_GATEWAY))
		return false;
	holder = DatumGetTextPP(tl_row_value(d, DELIVERY_GATEWAY));
	return tl_compare_texts(&holder, &request->gateway) == 0;
}

/*
 * After a timeout it is still this gateway's, until another one takes it.  No
 * gateway holds a delayed reply, which a stream may have shown.
 */
static bool
acknowledge(const Request *request, TlDelivery *d)
{
	if (!tl_delivery_is_open(d) ||
		(tl_delivery_due(d) > request->now && !tl_row_isnull(d, DELIVERY_GATEWAY) &&
		 !is_mine(request, d)))
		return false;
	tl_row_set(d, DELIVERY_IS_OPEN, BoolGetDatum(false));
	tl_row_set(d, DELIVERY_DUE_AT, TimestampTzGetDatum(request->now));
	tl_row_set_null(d, DELIVERY_PARKED_UNTIL);
	tl_row_set(d, DELIVERY_GATEWAY, PointerGetDatum(request->gateway));
	tl_row_set(d, DELIVERY_DELIVERED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	return true;
}

/*
 * A delay that is not given doubles with each attempt.  A longer one than a
 * caller may give would look like a time of another server: see handle_range().
 */
static bool
release(const Request *request, TlDelivery *d)
{
	int64		first = tl_retry_delay * TL_MS;
	int			doubled = Max(0, Min(tl_delivery_attempt(d) - 1, 20));
	int64		delay = request->delay >= 0 ? request->delay :
		Min(first << doubled, Min(Max(MAX_DEFAULT_DELAY, first), MAX_DELAY));

	if (!tl_delivery_is_open(d) || tl_delivery_due(d) <= request->now || !is_mine(request, d))
		return false;
	tl_row_set(d, DELIVERY_DUE_AT, TimestampTzGetDatum(request->now + delay));
	if (tl_delivery_attempt(d) < tl_max_attempts)
		tl_row_set(d, DELIVERY_PARKED_UNTIL, TimestampTzGetDatum(request->now + delay));
	else
	{
		tl_row_set(d, DELIVERY_IS_OPEN, BoolGetDatum(false));
		tl_row_set_null(d, DELIVERY_PARKED_UNTIL);
	}
	tl_row_set_null(d, DELIVERY_GATEWAY);
	if (request->error != NULL)
		tl_row_set(d, DELIVERY_LAST_ERROR, PointerGetDatum(request->error));
	return true;
}

static bool
retry(const Request *request, TlDelivery *d)
{
	if (!tl_delivery_is_dead(d))
		return false;
	tl_row_set(d, DELIVERY_IS_OPEN, BoolGetDatum(true));
	tl_row_set(d, DELIVERY_ATTEMPT, Int32GetDatum(0));
	tl_row_set(d, DELIVERY_DUE_AT, TimestampTzGetDatum(request->now));
	tl_row_set_null(d, DELIVERY_GATEWAY);
	tl_xact_due(tl_delivery_id(d));
	return true;
}

Datum
turn_liveness_ack_replies(PG_FUNCTION_ARGS)
{
	Request		request = {.change = acknowledge, .of_open = true};

	tl_check_writable("ack_replies()");
	gateway_and_ids(fcinfo, &request);
	PG_RETURN_INT32(change_each(&request));
}

Datum
turn_liveness_release_replies(PG_FUNCTION_ARGS)
{
	Request		request = {.change = release, .of_open = true, .delay = -1};

	tl_check_writable("release_replies()");
	gateway_and_ids(fcinfo, &request);
	if (!PG_ARGISNULL(2))
		request.delay = tl_interval_us(PG_GETARG_INTERVAL_P(2), "delay");
	if (request.delay > MAX_DELAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delay must be at most 1 day"),
				 TL_UNIT_HINT));
	if (!PG_ARGISNULL(3))
	{
		text	   *error = PG_GETARG_TEXT_PP(3);
		int			len = pg_mbcliplen(VARDATA_ANY(error), VARSIZE_ANY_EXHDR(error), MAX_LAST_ERROR);

		/* the row is to stay narrow; an empty one says nothing */
		if (len > 0)
			request.error = cstring_to_text_with_len(VARDATA_ANY(error), len);
	}
	PG_RETURN_INT32(change_each(&request));
}

Datum
turn_liveness_retry_dead_reply(PG_FUNCTION_ARGS)
{
	int64		id = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
	Request		request = {.change = retry, .ids = &id, .n = 1};

	tl_check_writable("retry_dead_reply()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reply_id must not be null")));
	PG_RETURN_BOOL(change_each(&request) > 0);
}

/* Platforms are few: the index leads from each to the next. */
text *
tl_delivery_next_platform(TlRel *deliveries, TlIndex index, text *platform, Snapshot snapshot)
{
	TlScan		scan = {0};
	text	   *next = NULL;
	bool		isnull;

	CHECK_FOR_INTERRUPTS();
	if (platform != NULL)
		tl_scan_key_text(&scan, 1, BTGreaterStrategyNumber, PointerGetDatum(platform));
	tl_scan_begin(&scan, deliveries, index, snapshot);
	if (tl_scan_next(&scan, ForwardScanDirection))
		next = DatumGetTextPCopy(slot_getattr(scan.slot, DELIVERY_PLATFORM, &isnull));
	tl_scan_end(&scan);
	if (platform != NULL)
		pfree(platform);
	return next;
}

/*
 * Handle the parked rows of a platform that are due after one time and until
 * the other: note them for the listeners, or mark them dead after max_attempts
 * claims.  Returns when the next reply is due.
 */
static int64
handle_range(TlRel *deliveries, TlScan *scan, const text *platform, int64 after, int64 until,
			 int64 now)
{
	bool		found = tl_scan_find(scan, PointerGetDatum(platform), Int64GetDatum(after));

	for (; found; found = tl_scan_next(scan, ForwardScanDirection))
	{
		ItemPointer tid = &scan->slot->tts_tid;
		Snapshot	snapshot = scan->scan->xs_snapshot;
		TlDelivery	d;
		bool		dead;

		CHECK_FOR_INTERRUPTS();
		tl_clock_keep_ticking();
		tl_delivery_decode(scan->slot, &d);
		if (tl_delivery_due(&d) > until)
			return tl_delivery_due(&d);
		dead = tl_delivery_due(&d) <= now && tl_delivery_attempt(&d) >= tl_max_attempts;
		tl_row_set_null(&d, DELIVERY_PARKED_UNTIL);
		if (dead)
			tl_row_set(&d, DELIVERY_IS_OPEN, BoolGetDatum(false));
		else if (tl_delivery_due(&d) > now)
		{
			tl_row_set_null(&d, DELIVERY_GATEWAY);
			tl_row_set(&d, DELIVERY_DUE_AT, TimestampTzGetDatum(now));
		}
		else
		{
			note_due(&d);
			continue;
		}

		/* a session that claims or acknowledges may hold it */
		if (tl_rel_update_unless_held(deliveries, tid, snapshot, d.values, d.nulls) != TM_Ok)
			continue;
		if (dead)
		{
			tl_counter_add(TL_COUNT_DEAD, 1);
			continue;
		}
		note_due(&d);
		tl_xact_due(tl_delivery_id(&d));
	}
	return PG_INT64_MAX;
}

bool
tl_delivery_due_again(int64 after, int64 until, bool wait, int64 *next)
{
	int64		never;
	TlRel		deliveries;
	TlScan		scan = {0};
	Snapshot	snapshot;
	text	   *platform = NULL;

	*next = PG_INT64_MAX;
	if (!tl_rel_try_open(&deliveries, TL_DELIVERY, wait))
		return false;
	snapshot = tl_latest_snapshot();
	/* read after the snapshot: no row that it shows has a later time of ours */
	never = tl_clock_now() + MAX_DELAY;
	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_int8(&scan, 2, BTGreaterStrategyNumber, 0);
	tl_scan_begin(&scan, &deliveries, TL_IDX_DELIVERY_PARKED, snapshot);
	while ((platform = tl_delivery_next_platform(&deliveries, TL_IDX_DELIVERY_PARKED,
												 platform, snapshot)) != NULL)
	{
		int64		due = handle_range(&deliveries, &scan, platform, after, until, until);

		*next = Min(*next, due);

		/*
		 * No claim and no delay lasts that long, whatever its session has
		 * set: the row has a time of another server, whose clock was ahead of
		 * ours, and no gateway of this server holds the reply.
		 */
		(void) handle_range(&deliveries, &scan, platform, never, PG_INT64_MAX, until);
	}
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	tl_rel_close(&deliveries);
	return true;
}
