/*
 * read.c
 *		read_replies: the replies of some conversations past a cursor.
 *
 * It takes and changes nothing, and works on a standby.
 *
 * The last id that a reader has seen is a safe cursor.  Ids come before the
 * commit, so a larger one can be visible before a smaller one; but within a
 * conversation the index entries are made in the order of ids (src/README.md,
 * "The cursor").  So the function walks each conversation in that order under
 * a dirty snapshot, which shows rows whose insert is still open, and the walk
 * ends at the first row that is not certain: open, or committed after our own
 * snapshot was taken.  The walk passes over rows of transactions that rolled
 * back.  The row itself is the evidence, so this holds for prepared
 * transactions too.
 *
 * Discharged records have no reply: the walk passes over them.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_type.h"
#include "lib/qunique.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "replies/read.h"
#include "shared/clock.h"
#include "store/reply_row.h"

#define DEFAULT_MAX_REPLIES	100

/* a walk over the conversations of one call */
typedef struct Reading
{
	TlRel		replies;
	SnapshotData dirty;
	TlPicks		picks;
} Reading;

PG_FUNCTION_INFO_V1(turn_liveness_read_replies);

int
tl_compare_ids(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

bool
tl_picks_add(TlPicks *picks, int64 reply_id, ItemPointer tid)
{
	if (picks->n == 2 * picks->want)
		tl_picks_settle(picks);
	if (picks->bound != 0 && reply_id >= picks->bound)
		return false;
	if (picks->n == picks->size)
	{
		picks->size = Min(Max(64, 2 * picks->size), 2 * picks->want);
		picks->items = picks->items == NULL ? palloc(picks->size * sizeof(TlPick)) :
			repalloc_huge(picks->items, picks->size * sizeof(TlPick));
	}
	picks->items[picks->n].reply_id = reply_id;
	picks->items[picks->n++].tid = *tid;
	return true;
}

void
tl_picks_settle(TlPicks *picks)
{
	if (picks->n > 1)
		qsort(picks->items, picks->n, sizeof(TlPick), tl_compare_ids);
	picks->n = qunique(picks->items, picks->n, sizeof(TlPick), tl_compare_ids);
	picks->n = Min(picks->n, picks->want);
	if (picks->n == picks->want)
		picks->bound = picks->items[picks->n - 1].reply_id;
}

int
tl_arg_max_replies(FunctionCallInfo fcinfo, int argno)
{
	int			max = PG_ARGISNULL(argno) ? DEFAULT_MAX_REPLIES : PG_GETARG_INT32(argno);

	if (max < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_replies must not be negative")));
	return max;
}

void
tl_put_reply(ReturnSetInfo *rsinfo, TupleTableSlot *reply, const char *state, int32 attempt)
{
	/* the first columns are those of the table */
	Datum		values[REPLY_PAYLOAD + 3];
	bool		nulls[REPLY_PAYLOAD + 3] = {false};
	text	   *state_text = cstring_to_text(state);
	int			i;

	for (i = 0; i < REPLY_PAYLOAD; i++)
		values[i] = slot_getattr(reply, i + 1, &nulls[i]);
	values[i++] = PointerGetDatum(state_text);
	values[i++] = Int32GetDatum(attempt);
	values[i] = slot_getattr(reply, REPLY_CREATED_AT, &nulls[i]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	pfree(state_text);
}

static int
compare_cursors(const void *a, const void *b)
{
	const TlCursor *left = a;
	const TlCursor *right = b;
	int			result = tl_compare_texts(&left->name, &right->name);

	return result != 0 ? result : tl_compare_ids(&left->after, &right->after);
}

/*
 * Of a name that stands there twice the smaller cursor counts.  A name that no
 * row can have is like one that has no rows: one bad element must not keep a
 * gateway from serving the rest of its streams.
 */
TlCursor *
tl_arg_cursors(FunctionCallInfo fcinfo, int argno, const char *name, int after, int *n)
{
	int			nnames;
	text	  **names = tl_arg_text_array(fcinfo, argno, name, &nnames);
	TlCursor   *cursors = palloc_extended(Max(nnames, 1) * sizeof(TlCursor), MCXT_ALLOC_HUGE);
	Datum	   *ids = NULL;
	bool	   *nulls;
	int			known = 0;
	int			i;

	if (after >= 0 && !PG_ARGISNULL(after))
	{
		int			count;

		deconstruct_array(tl_arg_array(fcinfo, after, "after"), INT8OID, sizeof(int64),
						  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ids, &nulls, &count);
		if (count != nnames)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s and after must have the same number of elements", name),
					 errdetail("They have %d and %d.", nnames, count),
					 errhint("Give each conversation its own cursor; NULL reads from the beginning.")));
	}
	for (i = 0; i < nnames; i++)
	{
		if (names[i] == NULL || !tl_name_is_valid(names[i]))
			continue;
		cursors[known].name = names[i];
		cursors[known++].after = ids == NULL || nulls[i] ? PG_INT64_MIN : DatumGetInt64(ids[i]);
	}
	if (known > 1)
		qsort(cursors, known, sizeof(TlCursor), compare_cursors);
	*n = qunique(cursors, known, sizeof(TlCursor), tl_compare_texts);
	return cursors;
}

void
tl_walk(TlRel *r, TlIndex index, Snapshot snapshot, StrategyNumber strategy,
		const TlCursor *cursors, int n, int64 max, TlWalkRow row, void *arg)
{
	TlScan		scan = {0};
	int			i;

	if (n == 0)
		return;
	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_int8(&scan, 2, strategy, 0);
	tl_scan_begin(&scan, r, index, snapshot);
	for (i = 0; i < n; i++)
	{
		bool		found = tl_scan_find(&scan, PointerGetDatum(cursors[i].name),
										 Int64GetDatum(cursors[i].after));
		int64		taken = 0;

		while (found && taken < max)
		{
			TlStep		step = row(scan.slot, arg);

			CHECK_FOR_INTERRUPTS();
			if (step == TL_STEP_END)
				break;
			taken += step == TL_STEP_TAKE;
			found = taken < max && tl_scan_next(&scan, ForwardScanDirection);
		}
	}
	tl_scan_end(&scan);
}

static bool
is_discharged(TupleTableSlot *row)
{
	bool		isnull;

	return DatumGetChar(slot_getattr(row, REPLY_OUTCOME, &isnull)) == TL_OUTCOME_DISCHARGED;
}

/*
 * Under SERIALIZABLE: a scan under a dirty snapshot takes no predicate locks,
 * so a walk goes over the same ranges under the transaction's snapshot, which
 * does.  A walk that finds max replies has covered all that the result can
 * hold.
 */
static TlStep
cover(TupleTableSlot *row, void *arg)
{
	return is_discharged(row) ? TL_STEP_PASS : TL_STEP_TAKE;
}

/*
 * Offer a reply; the walk ends at the first that the dirty snapshot showed and
 * that is open, or that our own snapshot does not show.
 */
static TlStep
offer(TupleTableSlot *row, void *arg)
{
	Reading    *reading = arg;
	bool		isnull;

	if (TransactionIdIsValid(reading->dirty.xmin) ||
		!tl_rel_shows(&reading->replies, row, GetActiveSnapshot()))
		return TL_STEP_END;
	if (is_discharged(row))
		return TL_STEP_PASS;
	return tl_picks_add(&reading->picks,
						DatumGetInt64(slot_getattr(row, REPLY_REPLY_ID, &isnull)),
						&row->tts_tid) ? TL_STEP_TAKE : TL_STEP_END;
}

/*
 * The state of a reply, as the view replies shows it.  NULL: the snapshot shows
 * no row, or one in a state that the table's CHECK constraint would refuse.
 */
static const char *
find_state(TlScan *scan, int64 reply_id, int64 now, int32 *attempt)
{
	TlDelivery	d;

	scan->keys[0].sk_argument = Int64GetDatum(reply_id);
	tl_scan_restart(scan);
	if (!tl_scan_next(scan, ForwardScanDirection))
		return NULL;
	tl_delivery_decode(scan->slot, &d);
	*attempt = tl_delivery_attempt(&d);
	switch (tl_delivery_state(&d))
	{
		case TL_DELIVERY_OPEN:
			return tl_row_isnull(&d, DELIVERY_GATEWAY) || tl_delivery_due(&d) <= now ?
				"due" : "claimed";
		case TL_DELIVERY_DONE:
			return "delivered";
		case TL_DELIVERY_DEAD:
			return "dead";
	}
	return NULL;
}

/* Put the replies that were picked into the result. */
static void
return_picked(ReturnSetInfo *rsinfo, Reading *reading)
{
	int64		now = tl_clock_now();
	TupleTableSlot *slot = table_slot_create(reading->replies.rel, NULL);
	Snapshot	latest;
	TlScan		in_snapshot = {0};
	TlScan		in_latest;
	TlRel		deliveries;
	int64		i;

	tl_rel_open(&deliveries, TL_DELIVERY, false);
	latest = tl_latest_snapshot();
	tl_scan_key_int8(&in_snapshot, 1, BTEqualStrategyNumber, 0);
	in_latest = in_snapshot;
	tl_scan_begin(&in_snapshot, &deliveries, TL_IDX_DELIVERY_KEY, GetActiveSnapshot());
	tl_scan_begin(&in_latest, &deliveries, TL_IDX_DELIVERY_KEY, latest);
	for (i = 0; i < reading->picks.n; i++)
	{
		TlPick	   *pick = &reading->picks.items[i];
		const char *state;
		int32		attempt;

		CHECK_FOR_INTERRUPTS();

		/* the walk has judged it already, and our snapshot keeps it there */
		if (!table_tuple_fetch_row_version(reading->replies.rel, &pick->tid, SnapshotAny, slot))
			continue;

		/* what this very statement stored is not in its snapshot */
		state = find_state(&in_snapshot, pick->reply_id, now, &attempt);
		if (state == NULL)
			state = find_state(&in_latest, pick->reply_id, now, &attempt);
		if (state != NULL)
			tl_put_reply(rsinfo, slot, state, attempt);
	}
	tl_scan_end(&in_latest);
	tl_scan_end(&in_snapshot);
	tl_rel_close(&deliveries);
	UnregisterSnapshot(latest);
	ExecDropSingleTupleTableSlot(slot);
}

Datum
turn_liveness_read_replies(PG_FUNCTION_ARGS)
{
	Reading		reading = {0};
	int			max = tl_arg_max_replies(fcinfo, 2);
	TlCursor   *cursors;
	int			n;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("conversations must not be null"),
				 errhint("Name the conversations whose replies to read.")));
	cursors = tl_arg_cursors(fcinfo, 0, "conversations", 1, &n);
	InitMaterializedSRF(fcinfo, 0);
	if (n == 0 || max == 0)
		return (Datum) 0;

	tl_rel_open(&reading.replies, TL_REPLY, false);
	InitDirtySnapshot(reading.dirty);
	reading.picks.want = max;
	if (IsolationIsSerializable())
		tl_walk(&reading.replies, TL_IDX_REPLY_KEY, GetActiveSnapshot(),
				BTGreaterStrategyNumber, cursors, n, max, cover, NULL);
	tl_walk(&reading.replies, TL_IDX_REPLY_KEY, &reading.dirty,
			BTGreaterStrategyNumber, cursors, n, max, offer, &reading);
	tl_picks_settle(&reading.picks);
	if (reading.picks.n > 0)
		return_picked((ReturnSetInfo *) fcinfo->resultinfo, &reading);
	tl_rel_close(&reading.replies);
	return (Datum) 0;
}
