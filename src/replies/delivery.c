/*
 * delivery.c
 *		From stored to delivered: claim, acknowledge, release, put back.
 *
 * A reply is open, delivered or dead (delivery.state).  An open one is claimed
 * while it names a gateway and due is ahead, so a claim that is not
 * acknowledged is over without anybody writing that down; due = DT_NOBEGIN is due
 * since it was stored.  The gateway of a claim that has timed out stays named:
 * it may still say that it delivered.
 *
 * Rules that hold in this file:
 *
 * - Everything is judged under the latest snapshot, not the transaction's, and
 *   above READ COMMITTED only if the transaction's own snapshot shows the row
 *   too (40001).
 * - A claim waits for nobody: what somebody else holds it passes over, and
 *   takes the next instead.  The others wait for the row that they name, in
 *   the order of ids, and then look at it again.
 * - Times are the liveness clock's; timestamps are only shown.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
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
#include "store/reply_row.h"
#include "commit/xact.h"

#define MAX_DELAY			(24 * 60 * 60 * TL_SECOND)
#define MAX_DEFAULT_DELAY	(5 * 60 * TL_SECOND)
#define MAX_LAST_ERROR		1000	/* bytes; the rest of a longer one is cut off */

typedef enum Change
{
	ACKNOWLEDGE,
	RELEASE,
	RETRY
} Change;

/* what the functions that name their replies do with each */
typedef struct Request
{
	Change		change;
	text	   *gateway;
	int64		now;
	int64		delay;			/* -1: by the number of attempts */
	text	   *error;
} Request;

static int	change_each(const Request *request, const int64 *ids, int n);
static bool decide(const Request *request, TlDelivery *d);
static void note(const Request *request, const TlDelivery *d);
static int64 *arg_ids(FunctionCallInfo fcinfo, int argno, const char *name, int *n);
static void tell_due_again(TlRel *deliveries, TlScan *scan, Snapshot snapshot,
						   TupleTableSlot *slot);

PG_FUNCTION_INFO_V1(turn_liveness_ack_replies);
PG_FUNCTION_INFO_V1(turn_liveness_release_replies);
PG_FUNCTION_INFO_V1(turn_liveness_retry_dead_reply);

void
tl_delivery_decode(TupleTableSlot *slot, TlDelivery *d)
{
	slot_getallattrs(slot);
	memcpy(d->values, slot->tts_values, sizeof(d->values));
	memcpy(d->nulls, slot->tts_isnull, sizeof(d->nulls));
	d->reply_id = DatumGetInt64(d->values[DELIVERY_REPLY_ID - 1]);
	d->state = DatumGetChar(d->values[DELIVERY_STATE - 1]);
	d->attempt = DatumGetInt32(d->values[DELIVERY_ATTEMPT - 1]);
	d->due = DatumGetTimestampTz(d->values[DELIVERY_DUE_AT - 1]);
}

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

/*
 * Acknowledge, release, put back: the caller names the replies.
 */

static int
compare_ids(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* Sorted, each once; NULL elements name nothing. */
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

/* Returns for how many the change was due and made. */
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
			switch (result)
			{
				case TM_Ok:
					note(request, &d);
					changed++;
					break;
				case TM_Updated:
				case TM_Deleted:
					if (IsolationUsesXactSnapshot())
						tl_serialization_failure();

					/* somebody was faster: judge what it is now */
					look_again = true;
					i--;
					break;
				default:
					elog(ERROR, "unexpected result of an update of the delivery of reply " INT64_FORMAT ": %d",
						 d.reply_id, (int) result);
			}
		}
		tl_scan_end(&scan);
		UnregisterSnapshot(snapshot);
	}
	tl_rel_close(&deliveries);
	return changed;
}

/* Is the row in the state that the change is for?  Then make it. */
static bool
decide(const Request *request, TlDelivery *d)
{
	text	   *holder = NULL;
	bool		mine = false;
	int64		delay;

	if (d->state != (request->change == RETRY ? TL_DELIVERY_DEAD : TL_DELIVERY_OPEN))
		return false;
	if (!d->nulls[DELIVERY_GATEWAY - 1] && request->gateway != NULL)
	{
		holder = DatumGetTextPP(d->values[DELIVERY_GATEWAY - 1]);
		mine = tl_compare_texts(&holder, &request->gateway) == 0;
	}

	switch (request->change)
	{
		case ACKNOWLEDGE:
			/* once timed out it is still mine, until another one takes it */
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
			delay = request->delay;
			if (delay < 0)
			{
				int64		longest = Max(MAX_DEFAULT_DELAY, tl_retry_delay * TL_MS);
				int			i;

				delay = tl_retry_delay * TL_MS;
				for (i = 1; i < d->attempt && delay < longest; i++)
					delay *= 2;
				delay = Min(delay, longest);
			}
			if (d->attempt >= tl_max_attempts)
			{
				d->state = TL_DELIVERY_DEAD;
				tl_delivery_set(d, DELIVERY_STATE, CharGetDatum(d->state));
			}
			d->due = request->now + delay;
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

/* What a change that was made leads to, once it is committed. */
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
		tl_xact_reply(DatumGetTextPP(d->values[DELIVERY_CONVERSATION_ID - 1]),
					  DatumGetTextPP(d->values[DELIVERY_PLATFORM - 1]));
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
					 errhint("An interval without a unit is seconds.")));
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

/*
 * Platforms are few: from each to the next through the index.
 */
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
 * Due again.
 */

/* One row of the walk: tell of it, or bury it. */
static void
tell_due_again(TlRel *deliveries, TlScan *scan, Snapshot snapshot,
			   TupleTableSlot *slot)
{
	TlDelivery	d;
	ItemPointerData tid = scan->slot->tts_tid;

	tl_delivery_decode(scan->slot, &d);
	if (d.attempt < tl_max_attempts)
	{
		tl_xact_reply(DatumGetTextPP(d.values[DELIVERY_CONVERSATION_ID - 1]),
					  DatumGetTextPP(d.values[DELIVERY_PLATFORM - 1]));
		return;
	}

	/* if somebody holds it, he claims or acknowledges it just now */
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
			tl_xact_reply(DatumGetTextPP(d.values[DELIVERY_CONVERSATION_ID - 1]),
						  DatumGetTextPP(d.values[DELIVERY_PLATFORM - 1]));
	}
	tl_scan_end(&scan);
}

int64
tl_delivery_due_again(int64 after, int64 until)
{
	TlRel		deliveries;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	text	   *platform = NULL;
	int64		next = PG_INT64_MAX;

	tl_rel_open(&deliveries, TL_DELIVERY, true);
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
				next = Min(next, due);
				break;
			}
			tell_due_again(&deliveries, &scan, snapshot, slot);
		}
		tl_scan_end(&scan);
	}

	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	tl_rel_close(&deliveries);
	return next;
}
