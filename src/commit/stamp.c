/*
 * stamp.c
 *		Rows of turns that become visible later than they were armed.
 *
 * A transaction that stays open for long after it armed a turn stamps the row
 * before it commits: the row becomes visible only then, and must not lapse at
 * that instant.  Where beats go to rows it stamps every owed row that it wrote,
 * for a beat may have given up on the row meanwhile (row_beat.c).  Before PREPARE
 * TRANSACTION every such row gets the stamp TL_SEEN_UNKNOWN; the first sweep that
 * sees the row replaces it.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "commit/stamp.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/grace.h"
#include "store/turn_row.h"

/*
 * The row is our own transaction's, so no other can have touched it.  A row that
 * a savepoint rolled back, or that a later statement of ours replaced, is not
 * visible and is passed over: the later statement has told of its own row.
 */
static void
stamp_row(TlRel *turns, TupleTableSlot *slot, const ItemPointerData *tid, int64 seen)
{
	Snapshot	snapshot = tl_latest_snapshot();
	ItemPointerData at = *tid;
	TlTurn		turn;
	TlGrace		grace;
	TransactionId xmin;
	bool		isnull;

	/* it may be another table, if the extension was made anew since */
	if (ItemPointerGetBlockNumber(&at) < RelationGetNumberOfBlocks(turns->rel) &&
		table_tuple_fetch_row_version(turns->rel, &at, snapshot, slot))
	{
		tl_turn_decode(slot, &turn);
		xmin = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));
		if (tl_turn_is_owed(&turn) && TransactionIdIsCurrentTransactionId(xmin))
		{
			tl_grace_get(&grace);
			tl_times_adopt(&turn.times, &grace, 0, tl_clock_now());
			turn.times.seen = seen;
			if (tl_turn_update(turns, &turn, snapshot) == TM_Ok)
				tl_xact_watch_turn(&turn, false);
		}
	}
	ExecClearTuple(slot);
	UnregisterSnapshot(snapshot);
}

static void
stamp_late_rows(const TlWritten *rows, int n, bool prepare)
{
	int64		now;
	int			i;
	bool		any = prepare;
	TlRel		turns;
	TupleTableSlot *slot;

	/* dropped since */
	if (!OidIsValid(tl_extension_oid()))
		return;
	now = tl_clock_now();
	for (i = 0; i < n && !any; i++)
		any = now - rows[i].since > rows[i].patience;
	if (!any)
		return;

	PushActiveSnapshot(GetTransactionSnapshot());
	tl_rel_open(&turns, TL_TURN, true);
	slot = table_slot_create(turns.rel, NULL);
	for (i = 0; i < n; i++)
		if (prepare || now - rows[i].since > rows[i].patience)
			stamp_row(&turns, slot, &rows[i].tid, prepare ? TL_SEEN_UNKNOWN : now);
	ExecDropSingleTupleTableSlot(slot);
	tl_rel_close(&turns);
	PopActiveSnapshot();
}

static void
at_end_of_xact(XactEvent event, void *arg)
{
	const TlWritten *rows;
	int			n;

	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
		return;
	rows = tl_xact_written(&n);
	if (n > 0)
		stamp_late_rows(rows, n, event == XACT_EVENT_PRE_PREPARE);
}

void
tl_stamp_init(void)
{
	RegisterXactCallback(at_end_of_xact, NULL);
}
