/*
 * sweep_batch.c
 *		Failing a batch of turns that have lapsed.
 *
 * A batch runs in one subtransaction.  If a row in it raises an error, the
 * batch is done again row by row, so that one bad row never blocks the others.
 *
 * A row is judged without a lock first, for most rows live.  Then it is taken
 * out of the table, if the turn is to fail because it lapsed, or locked, either
 * without waiting:
 * a row that another transaction holds, or has changed since the batch's
 * snapshot, is passed over, for that transaction decides.  The leases are read
 * again while the row is held, and the turn is left, offered, or listed as
 * failing.
 *
 * When all rows are judged the batch ends the turns that fail (sweep_end.c).  A
 * list names no row twice; the second take or update of one is an error.
 */
#include "base/turn_liveness.h"

#include "catalog/catalog.h"
#include "commands/dbcommands.h"
#include "replication/syncrep.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "turns/sweep_batch.h"
#include "turns/sweep_end.h"
#include "turns/sweep_log.h"
#include "turns/turn.h"

#define BUSY_PAUSE		TL_SECOND
#define BAD_ROW_PAUSE	(60 * TL_SECOND)
#define WORKER_LEAD		TL_SECOND	/* a worker fails what lapses within that */

/* what the rows of a batch share */
typedef struct Sweep
{
	TlRel		turns;
	TlOutbox	outbox;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	BlockNumber nblocks;
	bool		takes;			/* rows of turns: see may_take() */
	bool		move_check;		/* see tl_sweep_items */
	int			offered;
	TlSweepEnd	end;			/* of the turns that fail */
	TlSweepLog	log;
	MemoryContext context;		/* of the batch */
} Sweep;

/* No worker runs without shared memory; one that serves a database ticks. */
bool
tl_sweep_is_alone(void)
{
	return tl_database() == NULL || pg_atomic_read_u32(&tl_database()->clock.ticking) == 0;
}

/* May a commit wait for a standby before other sessions see its rows? */
static bool
commits_may_wait(void)
{
	return SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0';
}

/*
 * A session cannot tell a turn that lapsed long ago from one whose commit
 * waited, for a standby say, or that was restored, and that just became
 * visible.  The worker can, for it is told at the commit and has seen each
 * restored row, and it fails what lapses within a second: the session leaves
 * the others to it, which is false here.  Without a worker such a turn counts
 * from this first sight; the session writes that down with the row.
 */
static bool
may_decide(TlTurn *turn)
{
	bool		alone = tl_sweep_is_alone();
	int64		now = tl_clock_now();
	TlGrace		grace;
	TlVerdict	verdict;

	tl_grace_get(&grace);
	if (tl_epoch_run(turn->times.epoch) != tl_epoch_run(grace.epoch) &&
		(grace.start_is_unsure ||
		 tl_epoch_place(turn->times.epoch) != tl_epoch_place(grace.epoch)))
	{
		if (!alone)
			return false;
		turn->times.seen = TL_SEEN_UNKNOWN;
	}
	if (turn->times.seen == TL_SEEN_UNKNOWN)
	{
		tl_turn_adopt(turn, now);
		turn->times.seen = now;
	}
	if (turn->times.seen != 0 || (alone && !commits_may_wait()))
		return true;
	now = tl_clock_sweep_time();
	tl_turn_judge(turn, now, 0, &verdict);
	if (verdict.deadline + WORKER_LEAD >= now)
		return true;
	if (!alone)
		return false;
	turn->times.seen = now;
	return true;
}

/* Judge a turn, and note when to look at it again if it has not lapsed. */
static bool
has_lapsed(TlSweepItem *item, const TlTurn *turn, int64 now, TlVerdict *verdict)
{
	tl_turn_judge(turn, now, item->seen, verdict);
	item->look_us = verdict->held ? now + BUSY_PAUSE : tl_next_look(&turn->times, verdict, now);
	return verdict->deadline <= now && !verdict->held;
}

/*
 * Does the end of its session fail a turn that was judged?  What came first
 * names the code, unless the deadline is held back, which a session's end is
 * not.
 */
static bool
has_died(TlSweepItem *item, const TlTurn *turn, int64 now, const TlVerdict *verdict)
{
	int64		dies = verdict->offered ? PG_INT64_MAX :
		tl_turn_dies(turn, item->attached, item->died);

	if (dies > now && dies != PG_INT64_MAX)
	{
		item->status = TL_SWEEP_DYING;
		item->look_us = Min(item->look_us, dies);
	}
	return dies <= now && (dies <= verdict->deadline || verdict->held);
}

/* It lapsed: it ends with the batch. */
static void
fail(Sweep *sweep, TlSweepItem *item, const TlTurn *turn, const TlVerdict *verdict, TlCode lapse,
	 int64 now, bool taken)
{
	if (tl_log_failures)
		tl_sweep_log(&sweep->log, turn, "failed", text_to_cstring(tl_sweep_end_code(turn, lapse)),
					 verdict, lapse, now);
	tl_sweep_end_add(&sweep->end, turn, verdict, lapse, now, taken);
	item->status = TL_SWEEP_FAILED;
}

/* It lapsed, and stays owed for its rescue window; "seen": when first seen. */
static void
offer(Sweep *sweep, TlTurn *turn, const TlVerdict *verdict, TlCode lapse, int64 seen, int64 now)
{
	if (tl_log_failures)
		tl_sweep_log(&sweep->log, turn, "offered", tl_code_name(lapse), verdict, lapse, now);
	tl_turn_adopt(turn, seen);
	turn->times.lapsed = now;
	turn->times.lapse_code = tl_lapse_of_code(lapse);
	turn->next_check = tl_times_next_check(&turn->times);
	tl_xact_lapsed(tl_turn_text(turn, TURN_DEPLOYMENT));
	sweep->offered++;
}

/*
 * May the batch take rows?  The expression of a DBA's index may call us, and
 * must not find a key free whose row is out of the table.  And of a table that
 * is decoded a publication may leave out what is deleted: then the new row
 * would meet the old one at the subscriber.
 */
static bool
may_take(const Sweep *sweep)
{
	return tl_rel_is_plain(&sweep->turns) && tl_outbox_is_plain(&sweep->outbox) &&
		!RelationIsLogicallyLogged(sweep->turns.rel);
}

/* Decide about one row, and say in the item what became of it. */
static void
sweep_row(Sweep *sweep, TlSweepItem *item)
{
	int64		now;
	TlTurn		turn;
	TlVerdict	verdict;
	bool		lapsed;
	bool		taken;
	bool		died;
	TlCode		code;

	/* the table may have been rewritten since the address was noted */
	item->status = TL_SWEEP_GONE;
	if (ItemPointerGetBlockNumberNoCheck(&item->tid) >= sweep->nblocks ||
		!table_tuple_fetch_row_version(sweep->turns.rel, &item->tid, sweep->snapshot,
									   sweep->slot))
		return;
	tl_turn_decode(sweep->slot, &turn);
	if (!tl_turn_is_owed(&turn))
		return;

	item->status = TL_SWEEP_LIVE;
	/* the worker has yet to hear of this row, and whether it came late */
	if (item->turn != NULL && !tl_lease_key_equal(*item->turn, turn.turn_key))
	{
		item->look_us = tl_clock_sweep_time() + BUSY_PAUSE;
		return;
	}
	if (sweep->move_check && !may_decide(&turn))
		return;
	now = tl_clock_sweep_time();
	lapsed = has_lapsed(item, &turn, now, &verdict);
	if (!lapsed && !sweep->move_check && !has_died(item, &turn, now, &verdict))
		return;

	/* when a batch is done again, its first try has left marks of its own */
	taken = sweep->takes && lapsed && !verdict.offer &&
		tl_turn_take(&sweep->turns, &turn, sweep->snapshot, &item->unmarked);
	if (!taken &&
		tl_turn_lock(&sweep->turns, &turn, sweep->snapshot, false, item->seen,
					 &item->unmarked) != TM_Ok)
	{
		/* an open transaction decides about it, or has just done so */
		item->status = TL_SWEEP_BUSY;
		item->look_us = now + BUSY_PAUSE;
		if (verdict.deadline <= now && !verdict.held)
			tl_sweep_held(&item->busy_since, &turn, now);
		return;
	}

	/* a beat may have come since the first look */
	now = tl_clock_sweep_time();
	lapsed = has_lapsed(item, &turn, now, &verdict);
	died = item->unmarked && has_died(item, &turn, now, &verdict);
	code = died ? TL_CODE_DIED : verdict.code;
	if (died ? turn.times.rescue_ms > 0 && turn.times.frozen == 0 : lapsed && verdict.offer)
		offer(sweep, &turn, &verdict, code, item->seen, now);
	else if (lapsed || died)
	{
		fail(sweep, item, &turn, &verdict, code, now, taken);
		return;
	}
	else if (sweep->move_check || !item->unmarked || taken)
	{
		tl_turn_adopt(&turn, item->seen);
		turn.next_check = item->look_us;
	}
	else
		return;
	item->look_us = Min(item->look_us, turn.next_check);
	if (taken)
		tl_turn_put_back(&sweep->turns, &turn);
	else
		tl_turn_write(&sweep->turns, &turn, sweep->snapshot, false);
}

/* Decide about a batch; an error leaves it by longjmp. */
static int
sweep_rows(TlSweepItem *items, int nitems, int max, bool move_check)
{
	Sweep		sweep = {.move_check = move_check};
	MemoryContext of_row;
	int			i;

	sweep.context = AllocSetContextCreate(CurrentMemoryContext, "turn_liveness sweep",
										  ALLOCSET_DEFAULT_SIZES);
	of_row = AllocSetContextCreate(sweep.context, "turn_liveness sweep row",
								   ALLOCSET_DEFAULT_SIZES);
	sweep.log.context = sweep.context;
	tl_rel_open(&sweep.turns, TL_TURN, true);
	tl_outbox_open(&sweep.outbox);
	sweep.slot = table_slot_create(sweep.turns.rel, NULL);
	sweep.takes = may_take(&sweep);
	sweep.nblocks = RelationGetNumberOfBlocks(sweep.turns.rel);
	sweep.snapshot = tl_latest_snapshot();
	tl_sweep_end_begin(&sweep.end, sweep.context, nitems);
	MemoryContextSwitchTo(of_row);
	for (i = 0; i < nitems; i++)
	{
		CHECK_FOR_INTERRUPTS();
		tl_clock_keep_ticking();
		/* what is beyond the limit is looked at again at once */
		items[i].status = TL_SWEEP_BUSY;
		items[i].look_us = 0;
		if (sweep.end.n >= max)
			continue;
		MemoryContextReset(of_row);
		sweep_row(&sweep, &items[i]);
		ExecClearTuple(sweep.slot);
	}
	tl_sweep_end(&sweep.end, &sweep.turns, &sweep.outbox, sweep.snapshot, of_row);
	MemoryContextSwitchTo(MemoryContextGetParent(sweep.context));
	UnregisterSnapshot(sweep.snapshot);
	ExecDropSingleTupleTableSlot(sweep.slot);
	tl_outbox_close(&sweep.outbox);
	tl_rel_close(&sweep.turns);
	tl_counter_add(TL_COUNT_OFFERED, sweep.offered);
	tl_sweep_log_emit(&sweep.log);
	MemoryContextDelete(sweep.context);
	return sweep.end.n;
}

/*
 * Only an error that is about one row is worth a second try of the batch: a
 * cancel, a lock or a full disk would meet the next row as well.
 */
static bool
is_about_a_row(int code)
{
	int			category = ERRCODE_TO_CATEGORY(code);

	return code == ERRCODE_OUT_OF_MEMORY ||
		(category != ERRCODE_INSUFFICIENT_RESOURCES && category != ERRCODE_TRANSACTION_ROLLBACK &&
		 category != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE &&
		 category != ERRCODE_OPERATOR_INTERVENTION);
}

/*
 * The log is told of a bad row once a minute, though the sweep of a death tries
 * it each second.  Rows that share an entry have one line.
 */
static void
report_bad_row(const ErrorData *error, const ItemPointerData *tid)
{
	static int64 quiet_until[64];
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(tid);
	OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(tid);
	int64	   *quiet = &quiet_until[(block + offset) % lengthof(quiet_until)];
	int64		now = tl_monotonic();

	tl_counter_add(TL_COUNT_SWEEP_ERRORS, 1);
	if (now < *quiet)
		return;
	*quiet = now + BAD_ROW_PAUSE;
	ereport(LOG,
			(errcode(error->sqlerrcode), errhidestmt(true), errhidecontext(true),
			 errmsg("could not fail the turn at row (%u,%u) of %s.%s in database \"%s\": %s",
					block, offset, TL_SCHEMA, "turn", get_database_name(MyDatabaseId),
					error->message),
			 errdetail("It is tried again; the other turns are not held up.")));
}

int
tl_sweep_items(TlSweepItem *items, int nitems, int max, bool move_check)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	volatile int failed = 0;
	int			i;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		failed = sweep_rows(items, nitems, max, move_check);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		failed = 0;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error == NULL)
		return failed;
	if (!is_about_a_row(error->sqlerrcode))
		ReThrowError(error);

	/* one of them is bad: find it, and serve the rest */
	for (i = 0; nitems > 1 && i < nitems; i++)
		failed += tl_sweep_items(&items[i], 1, max - failed, move_check);
	if (nitems == 1)
	{
		report_bad_row(error, &items->tid);
		items->status = TL_SWEEP_BUSY;
		items->look_us = tl_clock_now() + BAD_ROW_PAUSE;
	}
	FreeErrorData(error);
	return failed;
}
