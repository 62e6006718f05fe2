/*
 * delivery.c
 *		From stored to delivered: acknowledge, release, put back, due again.
 *
 * A reply is open, delivered or dead (delivery.state).  An open one is claimed
 * while it names a gateway and its due time is ahead, so a claim that is not
 * acknowledged ends without a write; -infinity (DT_NOBEGIN) is due since it was
 * stored.  The gateway of a claim that has timed out stays named: that gateway
 * may still say that it delivered.
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

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "shared/counters.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "shared/clock.h"
#include "replies/delivery.h"
#include "base/guc.h"
#include "commit/xact.h"

#define MAX_DELAY			(24 * 60 * 60 * TL_SECOND)
#define MAX_DEFAULT_DELAY	(5 * 60 * TL_SECOND)
#define MAX_LAST_ERROR		1000	/* bytes; a longer one is cut */

typedef enum Change
{
	ACKNOWLEDGE,
	RELEASE,
	RETRY
} Change;

/* what ack_replies, release_replies and retry_dead_reply do with each reply */
typedef struct Request
{
	Change		change;
	text	   *gateway;
	int64		now;
	int64		delay;			/* -1: by the number of attempts */
	text	   *error;
} Request;

static int64 *arg_ids(FunctionCallInfo fcinfo, int argno, const char *name, int *n);
static int	change_each(const Request *request, const int64 *ids, int n);
static int64 default_delay(const TlDelivery *d);
static bool decide(const Request *request, TlDelivery *d);
static void note(const Request *request, const TlDelivery *d);
static void note_due(const TlDelivery *d);
static void handle_due_again(TlRel *deliveries, TlScan *scan, Snapshot snapshot,
							 TupleTableSlot *slot);
static void free_foreign(TlRel *deliveries, const text *platform, int64 now,
						 Snapshot snapshot, TupleTableSlot *slot);

PG_FUNCTION_INFO_V1(turn_liveness_ack_replies);
PG_FUNCTION_INFO_V1(turn_liveness_release_replies);
PG_FUNCTION_INFO_V1(turn_liveness_retry_dead_reply);

static int
compare_ids(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* The ids of an argument, sorted, each once; NULL elements name nothing. */
static int64 *
arg_ids(FunctionCallInfo fcinfo, int argno, const char *name, int *n)
{
	ArrayType  *array = tl_arg_array(fcinfo, argno, name);
	Datum	   *elements;
	bool	   *nulls;
	int64	   *ids;
	int			count;
	int			known = 0;
	int			kept = 0;
	int			i;

	*n = 0;
	if (array == NULL)
		return NULL;
	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &elements, &nulls, &count);
	ids = palloc(Max(count, 1) * sizeof(int64));
	for (i = 0; i < count; i++)
		if (!nulls[i])
			ids[known++] = DatumGetInt64(elements[i]);
	qsort(ids, known, sizeof(int64), compare_ids);
	for (i = 0; i < known; i++)
		if (kept == 0 || ids[kept - 1] != ids[i])
			ids[kept++] = ids[i];
	*n = kept;
	return ids;
}

/*
 * Change the replies that the caller names, in the order of ids, so that two
 * calls cannot deadlock.  Returns for how many the change was due and made.
 */
static int
change_each(const Request *request, const int64 *ids, int n)
{
	TlRel		deliveries;
	int			changed = 0;
	int			i = 0;

	if (n == 0)
		return 0;
	tl_rel_open(&deliveries, TL_DELIVERY, true);
	while (i < n)
	{
		Snapshot	snapshot = tl_latest_snapshot();
		TlScan		scan = {0};
		bool		look_again = false;
		int			first = i;

		tl_scan_key_int8(&scan, 1, BTEqualStrategyNumber, ids[i]);
		tl_scan_begin(&scan, &deliveries, TL_IDX_DELIVERY_KEY, snapshot);
		for (; i < n && !look_again; i++)
		{
			TlDelivery	d;
			ItemPointerData tid;
			TM_Result	result;

			CHECK_FOR_INTERRUPTS();
			if (i > first)
			{
				scan.keys[0].sk_argument = Int64GetDatum(ids[i]);
				tl_scan_restart(&scan);
			}
			if (!tl_scan_next(&scan, ForwardScanDirection))
				continue;
			tl_rel_check_visible(&deliveries, scan.slot);
			tl_delivery_decode(scan.slot, &d);
			if (!decide(request, &d))
				continue;
			tid = scan.slot->tts_tid;
			result = tl_rel_update(&deliveries, &tid, snapshot, d.values, d.nulls);
			if (result == TM_Ok)
			{
				note(request, &d);
				changed++;
				continue;
			}
			Assert(result == TM_Updated || result == TM_Deleted);
			if (IsolationUsesXactSnapshot())
				tl_serialization_failure();

			/* another transaction was faster: judge what it made of the row */
			look_again = true;
			i--;
		}
		tl_scan_end(&scan);
		UnregisterSnapshot(snapshot);
	}
	tl_rel_close(&deliveries);
	return changed;
}

/* The delay of a release that names none: doubled with each attempt. */
static int64
default_delay(const TlDelivery *d)
{
	int64		delay = tl_retry_delay * TL_MS;
	int64		longest = Max(MAX_DEFAULT_DELAY, delay);
	int			i;

	for (i = 1; i < d->attempt && delay < longest; i++)
		delay *= 2;
	return Min(delay, longest);
}

/* If the row is in the state that the change is for, make the change in it. */
static bool
decide(const Request *request, TlDelivery *d)
{
	text	   *holder = NULL;
	bool		mine = false;

	if (d->state != (request->change == RETRY ? TL_DELIVERY_DEAD : TL_DELIVERY_OPEN))
		return false;
	if (tl_delivery_has_gateway(d) && request->gateway != NULL)
	{
		holder = DatumGetTextPP(tl_delivery_value(d, DELIVERY_GATEWAY));
		mine = tl_compare_texts(&holder, &request->gateway) == 0;
	}

	switch (request->change)
	{
		case ACKNOWLEDGE:
			/*
			 * after a timeout it is still this gateway's, until another one
			 * takes it
			 */
			if (!mine && d->due > request->now)
				return false;
			tl_delivery_set(d, DELIVERY_STATE, CharGetDatum(TL_DELIVERY_DONE));
			tl_delivery_set(d, DELIVERY_KEPT_AT, TimestampTzGetDatum(request->now));
			tl_delivery_set(d, DELIVERY_GATEWAY, PointerGetDatum(request->gateway));
			tl_delivery_set(d, DELIVERY_DELIVERED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
			return true;

		case RELEASE:
			if (!mine || d->due <= request->now)
				return false;
			if (d->attempt >= tl_max_attempts)
			{
				d->state = TL_DELIVERY_DEAD;
				tl_delivery_set(d, DELIVERY_STATE, CharGetDatum(d->state));
			}
			d->due = request->now + (request->delay < 0 ? default_delay(d) : request->delay);
			tl_delivery_set(d, DELIVERY_DUE_AT, TimestampTzGetDatum(d->due));
			tl_delivery_set_null(d, DELIVERY_GATEWAY);
			if (request->error != NULL)
				tl_delivery_set(d, DELIVERY_LAST_ERROR, PointerGetDatum(request->error));
			return true;

		case RETRY:
			d->due = request->now;
			tl_delivery_set(d, DELIVERY_STATE, CharGetDatum(TL_DELIVERY_OPEN));
			tl_delivery_set(d, DELIVERY_ATTEMPT, Int32GetDatum(0));
			tl_delivery_set(d, DELIVERY_DUE_AT, TimestampTzGetDatum(d->due));
			tl_delivery_set_null(d, DELIVERY_GATEWAY);
			return true;
	}
	return false;
}

/* What a change leads to once it is committed. */
static void
note(const Request *request, const TlDelivery *d)
{
	if (request->change == ACKNOWLEDGE)
		tl_counter_add(TL_COUNT_ACKNOWLEDGED, 1);
	else if (request->change == RELEASE && d->state == TL_DELIVERY_DEAD)
		tl_counter_add(TL_COUNT_DEAD, 1);
	else if (d->due > request->now)
		tl_xact_due_again(d->due);
	else
		note_due(d);
}

/*
 * The listeners of this conversation and platform are to look after the
 * commit.
 */
static void
note_due(const TlDelivery *d)
{
	tl_xact_reply(DatumGetTextPP(tl_delivery_value(d, DELIVERY_CONVERSATION_ID)),
				  DatumGetTextPP(tl_delivery_value(d, DELIVERY_PLATFORM)));
}

Datum
turn_liveness_ack_replies(PG_FUNCTION_ARGS)
{
	Request		request = {.change = ACKNOWLEDGE};
	int64	   *ids;
	int			n;

	tl_check_writable("ack_replies()");
	request.gateway = tl_arg_name(fcinfo, 0, "gateway");
	ids = arg_ids(fcinfo, 1, "reply_ids", &n);
	request.now = tl_clock_now();
	PG_RETURN_INT32(change_each(&request, ids, n));
}

Datum
turn_liveness_release_replies(PG_FUNCTION_ARGS)
{
	Request		request = {.change = RELEASE, .delay = -1};
	int64	   *ids;
	int			n;

	tl_check_writable("release_replies()");
	request.gateway = tl_arg_name(fcinfo, 0, "gateway");
	ids = arg_ids(fcinfo, 1, "reply_ids", &n);
	if (!PG_ARGISNULL(2))
	{
		request.delay = tl_interval_us(PG_GETARG_INTERVAL_P(2), "delay");
		if (request.delay > MAX_DELAY)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("delay must be at most 1 day"),
					 TL_UNIT_HINT));
	}
	if (!PG_ARGISNULL(3))
	{
		text	   *error = PG_GETARG_TEXT_PP(3);
		int			len = pg_mbcliplen(VARDATA_ANY(error), VARSIZE_ANY_EXHDR(error), MAX_LAST_ERROR);

		/* the row is to stay narrow; an empty one says nothing */
		if (len > 0)
			request.error = cstring_to_text_with_len(VARDATA_ANY(error), len);
	}
	request.now = tl_clock_now();
	PG_RETURN_INT32(change_each(&request, ids, n));
}

Datum
turn_liveness_retry_dead_reply(PG_FUNCTION_ARGS)
{
	Request		request = {.change = RETRY};
	int64		id;

	tl_check_writable("retry_dead_reply()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reply_id must not be null")));
	id = PG_GETARG_INT64(0);
	request.now = tl_clock_now();
	PG_RETURN_BOOL(change_each(&request, &id, 1) > 0);
}

/* Platforms are few: the index leads from each to the next. */
text *
tl_delivery_next_platform(TlRel *deliveries, text *platform, Snapshot snapshot)
{
	TlScan		scan = {0};
	text	   *next = NULL;
	bool		isnull;

	CHECK_FOR_INTERRUPTS();
	if (platform != NULL)
		tl_scan_key_text(&scan, 1, BTGreaterStrategyNumber, PointerGetDatum(platform));
	tl_scan_begin(&scan, deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, snapshot);
	if (tl_scan_next(&scan, ForwardScanDirection))
		next = DatumGetTextPCopy(slot_getattr(scan.slot, DELIVERY_PLATFORM, &isnull));
	tl_scan_end(&scan);
	if (platform != NULL)
		pfree(platform);
	return next;
}

/*
 * Handle one due row: note it for the listeners, or mark a reply dead that was
 * claimed max_attempts times.
 */
static void
handle_due_again(TlRel *deliveries, TlScan *scan, Snapshot snapshot,
				 TupleTableSlot *slot)
{
	TlDelivery	d;
	ItemPointerData tid = scan->slot->tts_tid;

	tl_delivery_decode(scan->slot, &d);
	if (d.attempt < tl_max_attempts)
	{
		note_due(&d);
		return;
	}

	/*
	 * a session that is claiming or acknowledging it may hold it: skip it then
	 */
	if (!tl_rel_try_lock(deliveries, &tid, snapshot, slot, LockTupleNoKeyExclusive))
		return;
	tl_delivery_set(&d, DELIVERY_STATE, CharGetDatum(TL_DELIVERY_DEAD));
	if (tl_rel_update(deliveries, &tid, snapshot, d.values, d.nulls) == TM_Ok)
		tl_counter_add(TL_COUNT_DEAD, 1);
}

/*
 * No claim and no delay lasts that long: the row has a time of another server,
 * whose clock was ahead of ours, and no gateway of this server holds the reply.
 */
static void
free_foreign(TlRel *deliveries, const text *platform, int64 now, Snapshot snapshot,
			 TupleTableSlot *slot)
{
	TlScan		scan = {0};

	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, PointerGetDatum(platform));
	tl_scan_key_int8(&scan, 2, BTGreaterStrategyNumber,
					 now + Max(USECS_PER_DAY, tl_claim_timeout * TL_MS));
	tl_scan_begin(&scan, deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		TlDelivery	d;
		ItemPointerData tid = scan.slot->tts_tid;

		CHECK_FOR_INTERRUPTS();
		tl_delivery_decode(scan.slot, &d);
		if (!tl_rel_try_lock(deliveries, &tid, snapshot, slot, LockTupleNoKeyExclusive))
			continue;
		tl_delivery_set_null(&d, DELIVERY_GATEWAY);
		tl_delivery_set(&d, DELIVERY_DUE_AT, TimestampTzGetDatum(now));
		if (tl_rel_update(deliveries, &tid, snapshot, d.values, d.nulls) == TM_Ok)
			note_due(&d);
	}
	tl_scan_end(&scan);
}

bool
tl_delivery_due_again(int64 after, int64 until, bool wait, int64 *next)
{
	TlRel		deliveries;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	text	   *platform = NULL;

	*next = PG_INT64_MAX;
	if (wait)
		tl_rel_open(&deliveries, TL_DELIVERY, true);
	else if (!tl_rel_open_if_free(&deliveries, TL_DELIVERY, true))
		return false;
	slot = table_slot_create(deliveries.rel, NULL);
	snapshot = tl_latest_snapshot();

	while ((platform = tl_delivery_next_platform(&deliveries, platform, snapshot)) != NULL)
	{
		TlScan		scan = {0};
		bool		isnull;

		free_foreign(&deliveries, platform, until, snapshot, slot);
		tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, PointerGetDatum(platform));
		tl_scan_key_int8(&scan, 2, BTGreaterStrategyNumber, after);
		tl_scan_begin(&scan, &deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, snapshot);
		while (tl_scan_next(&scan, ForwardScanDirection))
		{
			int64		due = DatumGetTimestampTz(slot_getattr(scan.slot, DELIVERY_DUE_AT, &isnull));

			CHECK_FOR_INTERRUPTS();
			if (due > until)
			{
				*next = Min(*next, due);
				break;
			}
			handle_due_again(&deliveries, &scan, snapshot, slot);
		}
		tl_scan_end(&scan);
	}

	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	tl_rel_close(&deliveries);
	return true;
}
