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

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "shared/clock.h"
#include "replies/delivery.h"
#include "replies/read.h"
#include "store/reply_row.h"

#define DEFAULT_MAX_REPLIES	100

/* a conversation, and the last id of it that the reader has */
typedef struct Cursor
{
	text	   *conversation;
	int64		after;
} Cursor;

static Cursor *arg_cursors(FunctionCallInfo fcinfo, int *n);
static void lock_ranges(TlRel *replies, const Cursor *cursors, int n, int max);
static void walk_conversations(TlRel *replies, const Cursor *cursors, int n, TlPicks *picks);
static bool is_certain(TlRel *replies, TupleTableSlot *slot, Snapshot dirty);
static bool find_state(TlScan *scan, TlRel *deliveries, int64 reply_id, int64 now,
					   const char **state, int32 *attempt);

PG_FUNCTION_INFO_V1(turn_liveness_read_replies);

void
tl_picks_init(TlPicks *picks, int64 want)
{
	memset(picks, 0, sizeof(*picks));
	picks->want = want;
	picks->size = Min(64, 2 * want);
	picks->items = palloc(picks->size * sizeof(TlPick));
}

/* False: neither this nor any later one is among the oldest. */
bool
tl_picks_add(TlPicks *picks, int64 reply_id, ItemPointer tid)
{
	if (picks->n == picks->size)
	{
		if (picks->size < 2 * picks->want)
		{
			picks->size = Min(2 * picks->size, 2 * picks->want);
			picks->items = repalloc_huge(picks->items, picks->size * sizeof(TlPick));
		}
		else
			tl_picks_settle(picks);
	}
	if (picks->bounded && reply_id >= picks->bound)
		return false;
	picks->items[picks->n].reply_id = reply_id;
	picks->items[picks->n].tid = *tid;
	picks->n++;
	return true;
}

static int
compare_picks(const void *a, const void *b)
{
	int64		left = ((const TlPick *) a)->reply_id;
	int64		right = ((const TlPick *) b)->reply_id;

	return left < right ? -1 : left > right;
}

void
tl_picks_settle(TlPicks *picks)
{
	int64		kept = 0;
	int64		i;

	qsort(picks->items, picks->n, sizeof(TlPick), compare_picks);
	for (i = 0; i < picks->n && kept < picks->want; i++)
		if (kept == 0 || picks->items[kept - 1].reply_id != picks->items[i].reply_id)
			picks->items[kept++] = picks->items[i];
	picks->n = kept;
	if (kept == picks->want)
	{
		picks->bounded = true;
		picks->bound = picks->items[kept - 1].reply_id;
	}
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
	static const int from[] = {
		REPLY_REPLY_ID, REPLY_DEPLOYMENT, REPLY_MESSAGE_IDS, REPLY_CONVERSATION_ID,
		REPLY_PLATFORM, REPLY_ORGANIZATION_ID, REPLY_PAYLOAD, 0, 0, REPLY_CREATED_AT
	};
	Datum		values[lengthof(from)];
	bool		nulls[lengthof(from)];
	text	   *state_text = cstring_to_text(state);
	int			i;

	for (i = 0; i < lengthof(from); i++)
		if (from[i] != 0)
			values[i] = slot_getattr(reply, from[i], &nulls[i]);
	values[7] = PointerGetDatum(state_text);
	nulls[7] = false;
	values[8] = Int32GetDatum(attempt);
	nulls[8] = false;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	pfree(state_text);
}

static int
compare_cursors(const void *a, const void *b)
{
	const Cursor *left = a;
	const Cursor *right = b;
	int			result = tl_compare_texts(&left->conversation, &right->conversation);

	if (result != 0)
		return result;
	return left->after < right->after ? -1 : left->after > right->after;
}

/*
 * The cursors of the arguments, sorted by conversation, each once; of one that
 * is named twice the smaller cursor counts.  A name that no row can have is
 * like one that has no rows.
 */
static Cursor *
arg_cursors(FunctionCallInfo fcinfo, int *n)
{
	int			nnames;
	text	  **names;
	Cursor	   *cursors;
	Datum	   *after = NULL;
	bool	   *nulls = NULL;
	int			known = 0;
	int			kept = 0;
	int			i;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("conversations must not be null"),
				 errhint("Name the conversations whose replies to read.")));
	names = tl_arg_text_array(fcinfo, 0, "conversations", &nnames);
	cursors = palloc_extended(Max(nnames, 1) * sizeof(Cursor), MCXT_ALLOC_HUGE);
	if (!PG_ARGISNULL(1))
	{
		int			count;

		deconstruct_array(tl_arg_array(fcinfo, 1, "after"), INT8OID, sizeof(int64),
						  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &after, &nulls, &count);
		if (count != nnames)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("conversations and after must have the same number of elements"),
					 errdetail("They have %d and %d.", nnames, count),
					 errhint("Give each conversation its own cursor; NULL reads from the beginning.")));
	}

	for (i = 0; i < nnames; i++)
	{
		if (names[i] == NULL || !tl_name_is_valid(names[i]))
			continue;
		cursors[known].conversation = names[i];
		cursors[known].after = after == NULL || nulls[i] ? PG_INT64_MIN : DatumGetInt64(after[i]);
		known++;
	}
	qsort(cursors, known, sizeof(Cursor), compare_cursors);
	for (i = 0; i < known; i++)
		if (kept == 0 ||
			tl_compare_texts(&cursors[kept - 1].conversation, &cursors[i].conversation) != 0)
			cursors[kept++] = cursors[i];
	*n = kept;
	return cursors;
}

/* The row that the dirty snapshot has just shown: is all before it known? */
static bool
is_certain(TlRel *replies, TupleTableSlot *slot, Snapshot dirty)
{
	bool		isnull;
	TransactionId xmin;

	if (TransactionIdIsValid(dirty->xmin))
		return false;
	if (table_tuple_satisfies_snapshot(replies->rel, slot, GetActiveSnapshot()))
		return true;

	/* our own row, of a later command than the snapshot */
	xmin = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));
	return TransactionIdIsCurrentTransactionId(xmin);
}

/*
 * Under SERIALIZABLE: a scan under a dirty snapshot takes no predicate locks,
 * so walk the same ranges under the transaction's snapshot, which does.  A
 * walk that finds max replies has covered all that the result can hold.
 */
static void
lock_ranges(TlRel *replies, const Cursor *cursors, int n, int max)
{
	TlScan		scan = {0};
	bool		isnull;
	int			i;

	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_int8(&scan, 2, BTGreaterStrategyNumber, 0);
	for (i = 0; i < n; i++)
	{
		int			found = 0;

		CHECK_FOR_INTERRUPTS();
		scan.keys[0].sk_argument = PointerGetDatum(cursors[i].conversation);
		scan.keys[1].sk_argument = Int64GetDatum(cursors[i].after);
		if (i == 0)
			tl_scan_begin(&scan, replies, TL_IDX_REPLY_KEY, GetActiveSnapshot());
		else
			tl_scan_restart(&scan);
		while (found < max && tl_scan_next(&scan, ForwardScanDirection))
		{
			CHECK_FOR_INTERRUPTS();
			if (DatumGetChar(slot_getattr(scan.slot, REPLY_OUTCOME, &isnull)) != TL_OUTCOME_DISCHARGED)
				found++;
		}
	}
	tl_scan_end(&scan);
}

/* Offer the replies past each cursor, up to the first that is not certain. */
static void
walk_conversations(TlRel *replies, const Cursor *cursors, int n, TlPicks *picks)
{
	SnapshotData dirty;
	TlScan		scan = {0};
	int			i;

	InitDirtySnapshot(dirty);
	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_int8(&scan, 2, BTGreaterStrategyNumber, 0);
	for (i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		scan.keys[0].sk_argument = PointerGetDatum(cursors[i].conversation);
		scan.keys[1].sk_argument = Int64GetDatum(cursors[i].after);
		if (i == 0)
			tl_scan_begin(&scan, replies, TL_IDX_REPLY_KEY, &dirty);
		else
			tl_scan_restart(&scan);
		while (tl_scan_next(&scan, ForwardScanDirection))
		{
			int64		reply_id;
			bool		isnull;

			CHECK_FOR_INTERRUPTS();
			if (!is_certain(replies, scan.slot, &dirty))
				break;
			if (DatumGetChar(slot_getattr(scan.slot, REPLY_OUTCOME, &isnull)) == TL_OUTCOME_DISCHARGED)
				continue;
			reply_id = DatumGetInt64(slot_getattr(scan.slot, REPLY_REPLY_ID, &isnull));
			if (!tl_picks_add(picks, reply_id, &scan.slot->tts_tid))
				break;
		}
	}
	tl_scan_end(&scan);
}

/*
 * The state of a reply, as the view replies shows it.  False: the snapshot
 * shows no row, or one in a state that the table's CHECK constraint would
 * refuse.
 */
static bool
find_state(TlScan *scan, TlRel *deliveries, int64 reply_id, int64 now,
		   const char **state, int32 *attempt)
{
	TlDelivery	d;

	scan->keys[0].sk_argument = Int64GetDatum(reply_id);
	tl_scan_restart(scan);
	if (!tl_scan_next(scan, ForwardScanDirection))
		return false;
	tl_delivery_decode(scan->slot, &d);
	*attempt = d.attempt;
	switch (d.state)
	{
		case TL_DELIVERY_OPEN:
			*state = !tl_delivery_has_gateway(&d) || d.due <= now ? "due" : "claimed";
			return true;
		case TL_DELIVERY_DONE:
			*state = "delivered";
			return true;
		case TL_DELIVERY_DEAD:
			*state = "dead";
			return true;
	}
	return false;
}

Datum
turn_liveness_read_replies(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			max;
	Cursor	   *cursors;
	int			n;
	TlPicks		picks;
	TlRel		replies;
	TlRel		deliveries;
	TlScan		in_snapshot = {0};
	TlScan		in_latest = {0};
	Snapshot	latest;
	TupleTableSlot *slot;
	int64		now;
	int64		i;

	max = tl_arg_max_replies(fcinfo, 2);
	cursors = arg_cursors(fcinfo, &n);
	InitMaterializedSRF(fcinfo, 0);
	if (n == 0 || max == 0)
		return (Datum) 0;

	tl_rel_open(&replies, TL_REPLY, false);
	tl_picks_init(&picks, max);
	if (IsolationIsSerializable())
		lock_ranges(&replies, cursors, n, max);
	walk_conversations(&replies, cursors, n, &picks);
	tl_picks_settle(&picks);
	if (picks.n == 0)
	{
		tl_rel_close(&replies);
		return (Datum) 0;
	}

	now = tl_clock_now();
	tl_rel_open(&deliveries, TL_DELIVERY, false);
	latest = tl_latest_snapshot();
	tl_scan_key_int8(&in_snapshot, 1, BTEqualStrategyNumber, 0);
	in_latest = in_snapshot;
	tl_scan_begin(&in_snapshot, &deliveries, TL_IDX_DELIVERY_KEY, GetActiveSnapshot());
	tl_scan_begin(&in_latest, &deliveries, TL_IDX_DELIVERY_KEY, latest);
	slot = table_slot_create(replies.rel, NULL);
	for (i = 0; i < picks.n; i++)
	{
		const char *state;
		int32		attempt;

		CHECK_FOR_INTERRUPTS();

		/* the walk has judged it already, and our snapshot keeps it there */
		if (!table_tuple_fetch_row_version(replies.rel, &picks.items[i].tid, SnapshotAny, slot))
			continue;

		/* what this very statement stored is not in its snapshot */
		if (find_state(&in_snapshot, &deliveries, picks.items[i].reply_id, now, &state, &attempt) ||
			find_state(&in_latest, &deliveries, picks.items[i].reply_id, now, &state, &attempt))
			tl_put_reply(rsinfo, slot, state, attempt);
	}
	ExecDropSingleTupleTableSlot(slot);
	tl_scan_end(&in_latest);
	tl_scan_end(&in_snapshot);
	UnregisterSnapshot(latest);
	tl_rel_close(&deliveries);
	tl_rel_close(&replies);
	return (Datum) 0;
}
