/*
 * sweep.c
 *		Failing the turns that have lapsed: pure transaction code, called by the
 *		worker and by sweep_expired_turns().
 *
 * A row is read under the latest snapshot and locked without waiting: what another
 * transaction holds is passed over, for that transaction decides.  Then the turn is
 * condemned under its lease's partition lock (lease.c), and its row updated.
 *
 * A batch runs in one subtransaction.  If a row in it raises an error, the batch is
 * done again row by row, so that one bad row never blocks the others.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "shared/clock.h"
#include "replies/delivery.h"
#include "turns/failure.h"
#include "shared/grace.h"
#include "base/guc.h"
#include "shared/mailbox.h"
#include "replies/notify.h"
#include "replies/retention.h"
#include "turns/sweep.h"
#include "store/turn_row.h"
#include "commit/xact.h"

#define CHUNK			500
#define BUSY_PAUSE		TL_SECOND
#define BAD_ROW_PAUSE	(60 * TL_SECOND)

typedef struct Sweep
{
	TlRel		turns;
	TlOutbox	outbox;
	TupleTableSlot *slot;
	TupleTableSlot *locked;
	BlockNumber nblocks;
	TlGrace		grace;
	bool		move_check;
	bool		alone;			/* no worker serves the database */
} Sweep;

static bool beat_may_be_missing(const TlTurn *turn);
static bool sweep_row(Sweep *sweep, TlSweepItem *item);
static int	sweep_rows(TlSweepItem *items, int nitems, int max, bool move_check);
static int	sweep_in_subtransaction(TlSweepItem *items, int nitems, int max,
									bool move_check, ErrorData **error);

PG_FUNCTION_INFO_V1(turn_liveness_sweep_expired_turns);

/*
 * A row-backed beat that met a row in the hands of an open transaction could
 * not be written down.  If that transaction rolled back, it has left its mark:
 * whoever may have beaten then gets his time again, once.
 */
static bool
beat_may_be_missing(const TlTurn *turn)
{
	BufferHeapTupleTableSlot *bslot = (BufferHeapTupleTableSlot *) turn->slot;
	HeapTupleHeader tuple = bslot->base.tuple->t_data;
	bool		held;

	/* as long as there is room for leases no beat goes to rows */
	if (tl_database() != NULL && turn->times.beat == 0 &&
		!pg_atomic_read_u32(&tl_database()->warned_full))
		return false;
	LockBuffer(bslot->buffer, BUFFER_LOCK_SHARE);
	/* who wrote the row may have locked it first: that is no one else's mark */
	held = TransactionIdIsValid(HeapTupleHeaderGetRawXmax(tuple)) &&
		HeapTupleHeaderGetRawXmax(tuple) != HeapTupleHeaderGetRawXmin(tuple);
	LockBuffer(bslot->buffer, BUFFER_LOCK_UNLOCK);
	return held;
}

/* True if the turn was failed. */
static bool
sweep_row(Sweep *sweep, TlSweepItem *item)
{
	Snapshot	snapshot = tl_latest_snapshot();
	int64		now = tl_clock_sweep_time();
	bool		failed = false;
	TlTurn		turn;
	TlSigns		signs;
	TlVerdict	verdict;
	bool		other_run;
	bool		unseen;
	bool		lapsed;
	bool		missing;

	/* after the clock was read: so each pause that it has left behind is known */
	tl_grace_get(&sweep->grace);

	/* the table may have been rewritten since the address was noted */
	item->status = TL_SWEEP_GONE;
	ExecClearTuple(sweep->slot);
	if (ItemPointerGetBlockNumberNoCheck(&item->tid) >= sweep->nblocks ||
		!table_tuple_fetch_row_version(sweep->turns.rel, &item->tid, snapshot, sweep->slot))
	{
		UnregisterSnapshot(snapshot);
		return false;
	}
	tl_turn_decode(sweep->slot, &turn);
	if (!tl_turn_is_owed(&turn))
	{
		UnregisterSnapshot(snapshot);
		return false;
	}

	/* a row of another run counts from its first sight, which this may be */
	other_run = tl_epoch_run(turn.times.epoch) != tl_epoch_run(sweep->grace.epoch);
	unseen = other_run && item->seen == 0 &&
		(sweep->grace.start_is_unsure ||
		 tl_epoch_place(turn.times.epoch) != tl_epoch_place(sweep->grace.epoch));
	if (unseen && sweep->move_check && !sweep->alone)
	{
		/* a restored one: the worker has seen it, and knows when */
		item->status = TL_SWEEP_LIVE;
		UnregisterSnapshot(snapshot);
		return false;
	}
	if (sweep->move_check && (unseen || turn.times.seen == TL_SEEN_UNKNOWN))
	{
		tl_times_adopt(&turn.times, &sweep->grace, now, now);
		turn.times.seen = now;
	}

	/* a first look without a lock: most of what is met here lives, or is plainly dead */
	tl_lease_read(turn.deployment_key, turn.turn_key, &signs);
	signs.seen = item->seen;
	tl_deadline(&turn.times, &signs, &sweep->grace, now, &verdict);
	/* when a batch is done again, its first try has left marks of its own */
	missing = false;
	if (verdict.deadline <= now && !item->unmarked)
	{
		missing = beat_may_be_missing(&turn);
		item->unmarked = !missing;
	}
	lapsed = item->died > 0 || (verdict.deadline <= now && !verdict.held);

	if ((lapsed || missing || sweep->move_check) &&
		!tl_rel_try_lock(&sweep->turns, &turn.tid, snapshot, sweep->locked, LockTupleNoKeyExclusive))
	{
		/* an open transaction decides about it, or has just done so */
		item->status = TL_SWEEP_BUSY;
		item->look_us = now + BUSY_PAUSE;
	}
	else if (missing)
	{
		tl_times_adopt(&turn.times, &sweep->grace, item->seen, now);
		turn.times.seen = now;
		item->status = TL_SWEEP_LIVE;
		item->look_us = now + Min(turn.times.admission_ms, turn.times.silence_ms) * TL_MS;
		turn.check = item->look_us;
		if (tl_turn_update(&sweep->turns, &turn, snapshot) == TM_Ok)
			tl_xact_watch_turn(&turn, &sweep->turns.slot->tts_tid, false);
	}
	else if (!lapsed ||
			 !tl_lease_condemn(turn.deployment_key, turn.turn_key, &turn.times,
							   &sweep->grace, now, item->seen, item->died, &verdict))
	{
		item->status = TL_SWEEP_LIVE;
		item->look_us = verdict.held ? now + BUSY_PAUSE : verdict.deadline;
		if (sweep->move_check)
		{
			/* the row has another address now: a worker must be told */
			tl_times_adopt(&turn.times, &sweep->grace, item->seen, now);
			turn.check = item->look_us;
			if (tl_turn_update(&sweep->turns, &turn, snapshot) == TM_Ok)
				tl_xact_watch_turn(&turn, &sweep->turns.slot->tts_tid, false);
		}
	}
	else
	{
		TlElected		won;
		TM_Result	result;
		text	   *deployment;
		text	   *code;
		text	   *error;
		bool		by_session = verdict.code == TL_CODE_DIED;

		result = tl_elect_row(&sweep->turns, &turn, snapshot, TL_OUTCOME_LAPSED,
							  NULL, &verdict, now, &won);
		tl_lease_decided();
		if (result != TM_Ok)
			elog(ERROR, "unexpected result of updating a locked row: %d", (int) result);

		deployment = DatumGetTextPP(tl_turn_value(&turn, TURN_DEPLOYMENT));
		code = won.mark_code ? won.mark_code : cstring_to_text(tl_code_name(verdict.code));
		error = won.mark_reason ? won.mark_reason : cstring_to_text(tl_code_message(verdict.code));
		tl_store_error(&sweep->outbox, deployment, &won, error, code,
					   by_session ? TL_DECIDED_SESSION : TL_DECIDED_SWEEP, now);
		tl_log_failure(deployment, won.message_id, text_to_cstring(code),
					   by_session ? "session" : "sweep");
		item->status = TL_SWEEP_FAILED;
		failed = true;
	}
	ExecClearTuple(sweep->locked);
	ExecClearTuple(sweep->slot);
	UnregisterSnapshot(snapshot);
	return failed;
}

static int
sweep_rows(TlSweepItem *items, int nitems, int max, bool move_check)
{
	Sweep		sweep;
	int			failed = 0;
	int			i;
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "turn_liveness sweep row",
													  ALLOCSET_DEFAULT_SIZES);

	tl_rel_open(&sweep.turns, TL_TURN, true);
	tl_outbox_open(&sweep.outbox, false);
	sweep.slot = table_slot_create(sweep.turns.rel, NULL);
	sweep.locked = table_slot_create(sweep.turns.rel, NULL);
	sweep.nblocks = RelationGetNumberOfBlocks(sweep.turns.rel);
	sweep.move_check = move_check;
	sweep.alone = tl_database() == NULL || pg_atomic_read_u32(&tl_database()->clock.ticking) == 0;
	for (i = 0; i < nitems; i++)
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		tl_clock_tick_if_worker();
		if (failed >= max)
		{
			items[i].status = TL_SWEEP_BUSY;
			items[i].look_us = 0;
			continue;
		}
		old = MemoryContextSwitchTo(row_context);
		failed += sweep_row(&sweep, &items[i]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	ExecDropSingleTupleTableSlot(sweep.locked);
	ExecDropSingleTupleTableSlot(sweep.slot);
	tl_outbox_close(&sweep.outbox);
	tl_rel_close(&sweep.turns);
	MemoryContextDelete(row_context);
	return failed;
}

/* -1 and the error if there was one; all of it is undone then. */
static int
sweep_in_subtransaction(TlSweepItem *items, int nitems, int max,
						bool move_check, ErrorData **error)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int failed = -1;

	*error = NULL;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		failed = sweep_rows(items, nitems, max, move_check);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		*error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		/* these are not about a row */
		if ((*error)->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			(*error)->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
			(*error)->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
			(ERRCODE_TO_CATEGORY((*error)->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES &&
			 (*error)->sqlerrcode != ERRCODE_OUT_OF_MEMORY) ||
			ERRCODE_TO_CATEGORY((*error)->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK)
			ReThrowError(*error);
		failed = -1;
	}
	PG_END_TRY();
	return failed;
}

int
tl_sweep_items(TlSweepItem *items, int nitems, int max, bool move_check)
{
	ErrorData  *error;
	int			failed = sweep_in_subtransaction(items, nitems, max, move_check, &error);
	int			i;

	if (error == NULL)
		return failed;

	/* one of them is bad: find it, and serve the rest */
	failed = 0;
	for (i = 0; i < nitems && failed < max; i++)
	{
		int			n = sweep_in_subtransaction(&items[i], 1, 1, move_check, &error);

		if (error == NULL)
		{
			failed += n;
			continue;
		}
		tl_counter_add(TL_COUNT_SWEEP_ERRORS, 1);
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errhidestmt(true),
				 errhidecontext(true),
				 errmsg("could not fail the turn at row (%u,%u) of %s.%s in database \"%s\": %s",
						ItemPointerGetBlockNumberNoCheck(&items[i].tid),
						ItemPointerGetOffsetNumberNoCheck(&items[i].tid),
						TL_SCHEMA, "turn", get_database_name(MyDatabaseId), error->message),
				 errhint("It is tried again; the other turns are not held up.")));
		FreeErrorData(error);
		items[i].status = TL_SWEEP_BUSY;
		items[i].look_us = tl_clock_now() + BAD_ROW_PAUSE;
	}
	for (; i < nitems; i++)
	{
		items[i].status = TL_SWEEP_BUSY;
		items[i].look_us = 0;
	}
	return failed;
}

int
tl_sweep_deaths(int64 before, int max)
{
	TlDeath		death;
	int			failed = 0;
	int			at = 0;

	if (tl_attach_is_shutdown())
		return 0;

	/* one round over the list; what is busy is left for the next */
	while (failed < max && tl_attach_next_death(before, &at, &death))
	{
		text	   *deployment = cstring_to_text(death.deployment);
		Snapshot	snapshot = tl_latest_snapshot();
		TlRel		turns;
		TlScan		scan = {0};
		TlSweepItem *items = palloc(sizeof(TlSweepItem) * CHUNK);
		int			nitems;
		bool		busy = false;
		int			i;

		tl_rel_open(&turns, TL_TURN, false);
		tl_turn_scan_owed(&turns, &scan, PointerGetDatum(deployment), snapshot);
		do
		{
			CHECK_FOR_INTERRUPTS();
			nitems = 0;
			while (nitems < CHUNK && tl_scan_next(&scan, ForwardScanDirection))
			{
				memset(&items[nitems], 0, sizeof(TlSweepItem));
				items[nitems].tid = scan.slot->tts_tid;
				items[nitems].died = death.died;
				nitems++;
			}
			if (nitems > 0)
				failed += tl_sweep_items(items, nitems, max - failed, false);
			for (i = 0; i < nitems; i++)
				busy |= items[i].status == TL_SWEEP_BUSY;
		} while (nitems == CHUNK && failed < max);
		busy |= nitems == CHUNK;
		tl_scan_end(&scan);
		tl_rel_close(&turns);
		UnregisterSnapshot(snapshot);

		if (!busy)
			tl_xact_settle(&death);
		pfree(items);
	}
	return failed;
}

/*
 * What the worker does, for whoever calls it.  Where a worker serves the
 * database it sends the notifications and keeps retention; else this does.
 */
Datum
turn_liveness_sweep_expired_turns(PG_FUNCTION_ARGS)
{
	int32		max = PG_ARGISNULL(0) ? tl_sweep_batch : PG_GETARG_INT32(0);
	TlDatabase *db;
	bool		alone;
	TlSweepItem *items;
	Snapshot	snapshot;
	TlRel		turns;
	TlScan		scan = {0};
	int			nitems;
	int			failed = 0;
	int64		now;
	int64		start = tl_monotonic();

	if (max < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_turns must not be negative")));
	tl_check_writable("sweep_expired_turns");
	db = tl_database();
	alone = db == NULL || pg_atomic_read_u32(&db->clock.ticking) == 0;
	if (alone && db != NULL)
		tl_grace_watch(tl_clock_now());
	if (!tl_sweep)
		PG_RETURN_INT32(0);

	now = tl_clock_sweep_time();
	if (tl_attach_oldest_death() <= now - tl_reconnect_window * TL_MS)
		failed = tl_sweep_deaths(now - tl_reconnect_window * TL_MS, max);

	items = palloc(sizeof(TlSweepItem) * CHUNK);
	snapshot = tl_latest_snapshot();
	tl_rel_open(&turns, TL_TURN, false);
	tl_scan_key_int8(&scan, 1, BTLessEqualStrategyNumber, now);
	tl_scan_begin(&scan, &turns, TL_IDX_TURN_OWED_CHECK, snapshot);
	do
	{
		nitems = 0;
		while (nitems < CHUNK && tl_scan_next(&scan, ForwardScanDirection))
		{
			memset(&items[nitems], 0, sizeof(TlSweepItem));
			items[nitems++].tid = scan.slot->tts_tid;
		}
		if (nitems > 0)
			failed += tl_sweep_items(items, nitems, max - failed, true);
	} while (nitems == CHUNK && failed < max);
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);

	if (db != NULL)
	{
		tl_counter_add(TL_COUNT_SWEEPS, 1);
		pg_atomic_write_u64(&db->last_sweep_us, now);
		pg_atomic_write_u64(&db->last_sweep_took_us, tl_monotonic() - start);
	}
	if (alone)
	{
		int64		next;
		int			gone;

		(void) tl_delivery_due_again(DT_NOBEGIN, tl_clock_now(), true, &next);
		(void) tl_retention_run(tl_sweep_batch, true, &gone);
		tl_notify_in_transaction();
	}
	PG_RETURN_INT32(failed);
}
