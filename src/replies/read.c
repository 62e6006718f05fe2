/*
 * read.c
 *		read_replies: the replies of some conversations past a cursor.
 *
 * It takes and changes nothing, and works on a standby.
 *
 * The last id that a reader has seen is a safe cursor.  Ids come before the
 * commit, so a larger one can be visible before a smaller one; but within a
 * conversation the index entries are made in the order of ids (src/README.md,
 * "The cursor").  So the function takes the ids of each conversation from the
 * entries of its deliveries, in that order: those of open ones and the others
 * stand apart, and it merges them.  It looks each reply up under a dirty
 * snapshot, which shows rows whose insert is still open, and the walk ends at
 * the first reply that is not certain: open, or committed after our own
 * snapshot was taken.  The row itself is the evidence, so this holds for
 * prepared transactions too.
 *
 * An entry counts whatever became of its row: a session that acknowledges or
 * retries a reply meanwhile moves it from one part to the other, and each
 * version that our snapshot may show has its entry.  The walk passes over
 * entries of transactions that rolled back, and of discharged records.
 */
#include "base/turn_liveness.h"

#include "lib/qunique.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "replies/read.h"
#include "shared/clock.h"
#include "store/reply_row.h"

#define DEFAULT_MAX_REPLIES	100
#define MAX_LOOKS			10		/* behind the cursor of a stream */

/* a walk over the ids of a conversation's open deliveries, or of the others */
typedef struct Ids
{
	TlScan		scan;
	bool		found;
	int64		id;				/* where it stands */
} Ids;

/* a walk over the conversations of one call */
typedef struct Reading
{
	TlRel		replies;
	TlRel		deliveries;
	SnapshotData dirty;
	TlScan		by_id;			/* replies, under the dirty snapshot */
	TupleTableSlot *slot;
	TlScan		last;			/* the last entry of a conversation */
	Ids			ids[2];
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

/* Sort them, drop what was found twice, keep the oldest. */
static void
settle(TlPicks *picks)
{
	if (picks->n > 1)
		qsort(picks->items, picks->n, sizeof(TlPick), tl_compare_ids);
	picks->n = qunique(picks->items, picks->n, sizeof(TlPick), tl_compare_ids);
	picks->n = Min(picks->n, picks->want);
	if (picks->n == picks->want)
		picks->bound = picks->items[picks->n - 1].reply_id;
}

/* Pick a row if it is among the oldest.  False: no later one of the walk is. */
static bool
pick(TlPicks *picks, int64 reply_id, const ItemPointerData *tid, bool is_open)
{
	if (picks->n == 2 * picks->want)
		settle(picks);
	if (picks->bound != 0 && reply_id >= picks->bound)
		return !picks->by_age;
	if (picks->n == picks->size)
	{
		picks->size = Max(64, 2 * picks->size);
		picks->items = picks->items == NULL ? palloc(picks->size * sizeof(TlPick)) :
			repalloc_huge(picks->items, picks->size * sizeof(TlPick));
	}
	picks->items[picks->n++] = (TlPick) {.reply_id = reply_id, .tid = *tid, .is_open = is_open};
	return true;
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
	Datum		values[REPLY_PAYLOAD + 4];
	bool		nulls[REPLY_PAYLOAD + 4] = {false};
	bool	   *last = &nulls[REPLY_PAYLOAD + 3];
	char		outcome = DatumGetChar(slot_getattr(reply, REPLY_OUTCOME, last));

	tl_row_get(reply, values, nulls, REPLY_PAYLOAD);
	values[REPLY_PAYLOAD] = CStringGetTextDatum(outcome == TL_OUTCOME_ANSWER ? "answer" :
												outcome == TL_OUTCOME_UPDATE ? "update" : "error");
	values[REPLY_PAYLOAD + 1] = CStringGetTextDatum(state);
	values[REPLY_PAYLOAD + 2] = Int32GetDatum(attempt);
	values[REPLY_PAYLOAD + 3] = slot_getattr(reply, REPLY_CREATED_AT, last);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
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
TlCursors
tl_arg_cursors(FunctionCallInfo fcinfo, int argno, const char *name, int after)
{
	int			nnames;
	text	  **names = tl_arg_text_array(fcinfo, argno, name, &nnames);
	TlCursors	cursors = {.n = 0};
	Datum	   *ids = NULL;
	bool	   *nulls;
	int			i;

	cursors.items = palloc_extended(Max(nnames, 1) * sizeof(TlCursor), MCXT_ALLOC_HUGE);
	if (after >= 0 && !PG_ARGISNULL(after))
	{
		int			count = tl_arg_elements(fcinfo, after, "after", &ids, &nulls);

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
		cursors.items[cursors.n].name = names[i];
		cursors.items[cursors.n++].after = ids == NULL || nulls[i] ? PG_INT64_MIN :
			DatumGetInt64(ids[i]);
	}
	qsort(cursors.items, cursors.n, sizeof(TlCursor), compare_cursors);
	cursors.n = qunique(cursors.items, cursors.n, sizeof(TlCursor), tl_compare_texts);
	return cursors;
}

void
tl_walk(TlRel *deliveries, TlIndex index, Snapshot snapshot, const TlCursors *cursors,
		TlPicks *picks, TlWalkRow row, void *arg)
{
	TlScan		scan = {0};
	int			i;

	if (cursors->n == 0)
		return;
	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	if (index == TL_IDX_DELIVERY_KEY)
		tl_scan_key_bool(&scan, 2, true);
	tl_scan_key_int8(&scan, scan.nkeys + 1, BTGreaterStrategyNumber, 0);
	tl_scan_begin(&scan, deliveries, index, snapshot);
	for (i = 0; i < cursors->n; i++)
	{
		bool		found = tl_scan_find(&scan, PointerGetDatum(cursors->items[i].name),
										 Int64GetDatum(cursors->items[i].after));
		int64		taken = 0;

		while (found)
		{
			TlStep		step = row(scan.slot, arg);
			bool		isnull;
			int64		id = DatumGetInt64(slot_getattr(scan.slot, DELIVERY_REPLY_ID, &isnull));

			CHECK_FOR_INTERRUPTS();
			if (step == TL_STEP_END ||
				(step == TL_STEP_TAKE &&
				 (!pick(picks, id, &scan.slot->tts_tid, true) || ++taken == picks->want)))
				break;
			found = tl_scan_next(&scan, ForwardScanDirection);
		}
	}
	tl_scan_end(&scan);
	settle(picks);
}

/*
 * The walk ends at the first reply that the dirty snapshot shows and that is
 * open, or that our own snapshot does not show.
 */
static TlStep
judge(Reading *reading, int64 id, const text *conversation)
{
	TupleTableSlot *row = reading->by_id.slot;
	bool		isnull;

	if (!tl_reply_find(&reading->by_id, id, conversation))
		return TL_STEP_PASS;

	/* a look-up under a dirty snapshot takes no predicate lock, this does */
	if (IsolationIsSerializable())
		(void) table_tuple_fetch_row_version(reading->replies.rel, &row->tts_tid,
											 GetActiveSnapshot(), reading->slot);
	if (TransactionIdIsValid(reading->dirty.xmin) ||
		!tl_rel_shows(&reading->replies, row, GetActiveSnapshot()))
		return TL_STEP_END;
	return DatumGetChar(slot_getattr(row, REPLY_OUTCOME, &isnull)) == TL_OUTCOME_DISCHARGED ?
		TL_STEP_PASS : TL_STEP_TAKE;
}

/* Stand on the next entry of a part of a conversation. */
static void
stand(Ids *ids, bool found)
{
	ids->found = found;
	if (found)
		ids->id = DatumGetInt64(tl_scan_entry(&ids->scan, 3));
}

/*
 * Most streams have all that is theirs, and it was delivered: the last entries
 * of the conversation tell, for those of open deliveries come after the others.
 * Up to MAX_LOOKS open ones may be behind the cursor: the index learns which of
 * them were delivered since.
 */
static bool
has_news(Reading *reading, const TlCursor *cursor)
{
	TlScan	   *scan = &reading->last;
	Datum		name = PointerGetDatum(cursor->name);
	bool		found = tl_scan_find_entry(scan, name, name, BackwardScanDirection);
	int			looks = 0;

	while (found && DatumGetInt64(tl_scan_entry(scan, 3)) <= cursor->after)
	{
		if (!DatumGetBool(tl_scan_entry(scan, 2)))
			return false;
		if (looks++ == MAX_LOOKS)
			break;
		tl_scan_look(scan);
		found = tl_scan_next_entry(scan, BackwardScanDirection);
	}
	return found;
}

/* Walk one conversation in the order of ids, until enough rows are known. */
static void
walk_conversation(Reading *reading, const TlCursor *cursor)
{
	TlPicks    *picks = &reading->picks;
	Ids		   *ids = reading->ids;
	int64		taken = 0;
	int			i;

	if (!has_news(reading, cursor))
		return;
	for (i = 0; i < 2; i++)
		stand(&ids[i], tl_scan_find_entry(&ids[i].scan, PointerGetDatum(cursor->name),
										  Int64GetDatum(cursor->after), ForwardScanDirection));
	while (ids[0].found || ids[1].found)
	{
		int64		id = Min(ids[0].found ? ids[0].id : PG_INT64_MAX,
							 ids[1].found ? ids[1].id : PG_INT64_MAX);
		bool		is_open = ids[0].found && ids[0].id == id;
		bool		is_moved = is_open && ids[1].found && ids[1].id == id;
		TlStep		step = judge(reading, id, cursor->name);

		if (step == TL_STEP_END ||
			(step == TL_STEP_TAKE &&
			 (!pick(picks, id, &reading->by_id.slot->tts_tid, is_open && !is_moved) ||
			  ++taken == picks->want)))
			break;

		/* each version of a delivery that was written anew has an entry */
		for (i = 0; i < 2; i++)
			while (ids[i].found && ids[i].id == id)
			{
				CHECK_FOR_INTERRUPTS();
				if (is_moved || step == TL_STEP_PASS)
					tl_scan_look(&ids[i].scan);
				stand(&ids[i], tl_scan_next_entry(&ids[i].scan, ForwardScanDirection));
			}
	}
}

/*
 * Pick the oldest replies past their cursors.  The scans over entries have our
 * own snapshot, and take predicate locks on what they pass; the row of a reply
 * decides.
 */
static void
walk_all(Reading *reading, const TlCursors *cursors)
{
	int			i;

	InitDirtySnapshot(reading->dirty);
	tl_reply_scan(&reading->by_id, &reading->replies, &reading->dirty);
	reading->slot = table_slot_create(reading->replies.rel, NULL);
	tl_scan_key_text(&reading->last, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_begin(&reading->last, &reading->deliveries, TL_IDX_DELIVERY_KEY, GetActiveSnapshot());
	for (i = 0; i < 2; i++)
	{
		TlScan	   *scan = &reading->ids[i].scan;

		tl_scan_key_text(scan, 1, BTEqualStrategyNumber, (Datum) 0);
		tl_scan_key_bool(scan, 2, i == 0);
		tl_scan_key_int8(scan, 3, BTGreaterStrategyNumber, 0);
		tl_scan_begin(scan, &reading->deliveries, TL_IDX_DELIVERY_KEY, GetActiveSnapshot());
	}
	for (i = 0; i < cursors->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		walk_conversation(reading, &cursors->items[i]);
	}
	settle(&reading->picks);
	for (i = 0; i < 2; i++)
		tl_scan_end(&reading->ids[i].scan);
	tl_scan_end(&reading->last);
	tl_scan_end(&reading->by_id);
}

const char *
tl_find_delivery_state(TlScan *scan, const text *conversation, int64 reply_id, bool is_open,
					   int64 now, int32 *attempt)
{
	TlDelivery	d;

	if (!tl_delivery_find(scan, conversation, reply_id, is_open))
		return NULL;
	tl_delivery_decode(scan->slot, &d);
	*attempt = tl_delivery_attempt(&d);
	return tl_delivery_is_done(&d) ? "delivered" :
		tl_delivery_is_dead(&d) ? "dead" :
		tl_row_isnull(&d, DELIVERY_GATEWAY) || tl_delivery_due(&d) <= now ? "due" : "claimed";
}

/* Put the replies that were picked into the result. */
static void
return_picked(ReturnSetInfo *rsinfo, Reading *reading)
{
	int64		now = tl_clock_now();
	TupleTableSlot *slot = reading->slot;
	TlScan		scan = {0};
	int64		i;

	tl_delivery_scan(&scan, &reading->deliveries, GetActiveSnapshot());
	for (i = 0; i < reading->picks.n; i++)
	{
		TlPick	   *pick = &reading->picks.items[i];
		const char *state;
		int32		attempt;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();

		/* the walk has judged it already, and our snapshot keeps it there */
		if (!table_tuple_fetch_row_version(reading->replies.rel, &pick->tid, SnapshotAny, slot))
			continue;
		state = tl_find_delivery_state(&scan, tl_reply_conversation(slot, &isnull),
									   pick->reply_id, pick->is_open, now, &attempt);
		if (state != NULL)
			tl_put_reply(rsinfo, slot, state, attempt);
	}
	tl_scan_end(&scan);
}

Datum
turn_liveness_read_replies(PG_FUNCTION_ARGS)
{
	Reading		reading = {.picks = {.want = tl_arg_max_replies(fcinfo, 2), .by_age = true}};
	TlCursors	cursors;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("conversations must not be null"),
				 errhint("Name the conversations whose replies to read.")));
	cursors = tl_arg_cursors(fcinfo, 0, "conversations", 1);
	InitMaterializedSRF(fcinfo, 0);
	if (cursors.n == 0 || reading.picks.want == 0)
		return (Datum) 0;

	/* the statement's snapshot, with what the statement itself has stored */
	PushCopiedSnapshot(GetActiveSnapshot());
	UpdateActiveSnapshotCommandId();
	tl_rel_open(&reading.replies, TL_REPLY, false);
	tl_rel_open(&reading.deliveries, TL_DELIVERY, false);
	walk_all(&reading, &cursors);
	if (reading.picks.n > 0)
		return_picked((ReturnSetInfo *) fcinfo->resultinfo, &reading);
	ExecDropSingleTupleTableSlot(reading.slot);
	tl_rel_close(&reading.deliveries);
	tl_rel_close(&reading.replies);
	PopActiveSnapshot();
	return (Datum) 0;
}
