/*
 * sweep.c
 *		Failing the turns that have lapsed: pure transaction code, which the
 *		worker and sweep_expired_turns() call.
 *
 * A batch runs in one subtransaction.  If a row in it raises an error, the
 * batch is done again row by row, so that one bad row never blocks the others.
 *
 * A row is read under the latest snapshot and judged without a lock first, for
 * most rows live.  Then it is locked without waiting: a row that another
 * transaction holds is passed over, for that transaction decides.  The leases
 * are read again under the lock, and the turn is failed or left.
 */
#include "base/turn_liveness.h"

#include "replication/syncrep.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "replies/delivery.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/lease.h"
#include "turns/sweep.h"
#include "turns/sweep_log.h"
#include "turns/turn.h"

#define CHUNK			500
#define BUSY_PAUSE		TL_SECOND
#define BAD_ROW_PAUSE	(60 * TL_SECOND)
#define WORKER_LEAD		TL_SECOND	/* a worker fails what lapses within that */

/* what the rows of a batch share */
typedef struct Sweep
{
	TlRel		turns;
	TlOutbox	outbox;
	TupleTableSlot *slot;
	BlockNumber nblocks;
	bool		move_check;		/* see tl_sweep_items */
	int			offered;
	List	   *lines;			/* for the log, once the batch is done */
	MemoryContext context;		/* of the batch */
} Sweep;

PG_FUNCTION_INFO_V1(turn_liveness_sweep_expired_turns);

/* Where no worker serves the database, sessions do all that it does. */
static bool
is_alone(void)
{
	return tl_database() == NULL || pg_atomic_read_u32(&tl_database()->clock.ticking) == 0;
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
	bool		alone = is_alone();
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
	now = tl_clock_sweep_time();
	tl_turn_judge(turn, now, 0, &verdict);
	if (turn->times.seen != 0 || verdict.deadline + WORKER_LEAD >= now)
		return true;
	if (!alone)
		return false;
	/* can commits wait so at all? */
	if (SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0')
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

/* Keep a line for the log until the batch is done. */
static void
log_later(Sweep *sweep, char *line)
{
	MemoryContext row_context = MemoryContextSwitchTo(sweep->context);

	sweep->lines = lappend(sweep->lines, pstrdup(line));
	MemoryContextSwitchTo(row_context);
}

/* A mark of a provider's failure names the error of the turn. */
static void
fail(Sweep *sweep, TlTurn *turn, const TlVerdict *verdict, TlCode lapse, int64 now)
{
	text	   *code = tl_turn_isnull(turn, TURN_ERROR_CODE) ?
		cstring_to_text(tl_code_name(lapse)) : tl_turn_text(turn, TURN_ERROR_CODE);
	text	   *error = tl_turn_isnull(turn, TURN_REASON) ?
		cstring_to_text(tl_code_message(lapse)) : tl_turn_text(turn, TURN_REASON);

	if (tl_log_failures)
		log_later(sweep, tl_sweep_line(turn, "failed", text_to_cstring(code), verdict, lapse, now));
	tl_turn_end(&sweep->outbox, turn, verdict, now, error, code,
				lapse == TL_CODE_DIED ? TL_DECIDED_SESSION : TL_DECIDED_SWEEP);
}

/* It lapsed, and stays owed for its rescue window; "seen": when first seen. */
static void
offer(Sweep *sweep, TlTurn *turn, const TlVerdict *verdict, TlCode lapse, int64 seen, int64 now)
{
	if (tl_log_failures)
		log_later(sweep, tl_sweep_line(turn, "offered", tl_code_name(lapse), verdict, lapse, now));
	tl_turn_adopt(turn, seen);
	turn->times.lapsed = now;
	turn->times.lapse_code = tl_lapse_of_code(lapse);
	turn->next_check = tl_times_next_check(&turn->times);
	tl_xact_lapsed(tl_turn_text(turn, TURN_DEPLOYMENT));
	sweep->offered++;
}

/* Decide about one row, and say in the item what became of it. */
static void
sweep_row(Sweep *sweep, TlSweepItem *item, Snapshot snapshot)
{
	int64		now;
	TlTurn		turn;
	TlVerdict	verdict;
	bool		lapsed;
	bool		died;
	TlCode		code;

	/* the table may have been rewritten since the address was noted */
	item->status = TL_SWEEP_GONE;
	if (ItemPointerGetBlockNumberNoCheck(&item->tid) >= sweep->nblocks ||
		!table_tuple_fetch_row_version(sweep->turns.rel, &item->tid, snapshot, sweep->slot))
		return;
	tl_turn_decode(sweep->slot, &turn);
	if (!tl_turn_is_owed(&turn))
		return;

	item->status = TL_SWEEP_LIVE;
	if (sweep->move_check && !may_decide(&turn))
		return;
	now = tl_clock_sweep_time();
	if (!has_lapsed(item, &turn, now, &verdict) && !sweep->move_check && item->died == 0)
		return;

	/* when a batch is done again, its first try has left marks of its own */
	if (tl_turn_lock(&sweep->turns, &turn, snapshot, false, item->seen, &item->unmarked) != TM_Ok)
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
	died = !lapsed && item->unmarked && !verdict.offered &&
		tl_turn_has_died(&turn, item->attached, item->died);
	code = died ? TL_CODE_DIED : verdict.code;
	if (died ? turn.times.rescue_ms > 0 && turn.times.frozen == 0 : lapsed && verdict.offer)
		offer(sweep, &turn, &verdict, code, item->seen, now);
	else if (lapsed || died)
	{
		fail(sweep, &turn, &verdict, code, now);
		item->status = TL_SWEEP_FAILED;
	}
	else if (sweep->move_check || !item->unmarked)
	{
		tl_turn_adopt(&turn, item->seen);
		turn.next_check = item->look_us;
	}
	else
		return;
	if (tl_turn_is_owed(&turn))
		item->look_us = Min(item->look_us, turn.next_check);
	tl_turn_write(&sweep->turns, &turn, snapshot, false);
}

/* Decide about a batch; an error leaves it by longjmp. */
static int
sweep_rows(TlSweepItem *items, int nitems, int max, bool move_check)
{
	Sweep		sweep = {.move_check = move_check, .context = CurrentMemoryContext};
	MemoryContext of_row = AllocSetContextCreate(CurrentMemoryContext, "turn_liveness sweep row",
												 ALLOCSET_DEFAULT_SIZES);
	int			failed = 0;
	int			i;
	ListCell   *cell;

	tl_rel_open(&sweep.turns, TL_TURN, true);
	tl_outbox_open(&sweep.outbox);
	sweep.slot = table_slot_create(sweep.turns.rel, NULL);
	sweep.nblocks = RelationGetNumberOfBlocks(sweep.turns.rel);
	for (i = 0; i < nitems; i++)
	{
		Snapshot	snapshot;

		CHECK_FOR_INTERRUPTS();
		(void) tl_clock_tick();
		/* what is beyond the limit is looked at again at once */
		items[i].status = TL_SWEEP_BUSY;
		items[i].look_us = 0;
		if (failed >= max)
			continue;
		MemoryContextReset(of_row);
		MemoryContextSwitchTo(of_row);
		snapshot = tl_latest_snapshot();
		sweep_row(&sweep, &items[i], snapshot);
		ExecClearTuple(sweep.slot);
		UnregisterSnapshot(snapshot);
		failed += items[i].status == TL_SWEEP_FAILED;
		MemoryContextSwitchTo(sweep.context);
	}
	ExecDropSingleTupleTableSlot(sweep.slot);
	tl_outbox_close(&sweep.outbox);
	tl_rel_close(&sweep.turns);
	MemoryContextDelete(of_row);
	tl_counter_add(TL_COUNT_OFFERED, sweep.offered);
	foreach(cell, sweep.lines)
		ereport(LOG,
				(errcode(ERRCODE_WARNING), errhidestmt(true), errhidecontext(true),
				 errmsg_internal("%s", (char *) lfirst(cell))));
	list_free_deep(sweep.lines);
	return failed;
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

/*
 * Sweep the owed turns of a deployment whose session died, or with death NULL
 * the rows that are to be looked at by now: of the others the walk passes over
 * the index entries.  True if none is left over.
 */
static bool
sweep_table(const TlDeath *death, int64 now, int max, int *failed)
{
	TlSweepItem items[CHUNK];
	Snapshot	snapshot = tl_latest_snapshot();
	TlRel		turns;
	TlScan		scan = {0};
	int			n;
	bool		busy = false;
	int			i;

	tl_rel_open(&turns, TL_TURN, false);
	if (death != NULL)
		tl_turn_scan_owed(&turns, &scan, cstring_to_text(death->deployment), snapshot);
	else
	{
		scan.reads_entries = true;
		tl_scan_begin(&scan, &turns, TL_IDX_TURN_OWED_DEPLOYMENT, snapshot);
	}
	do
	{
		for (n = 0; n < CHUNK && (death != NULL ? tl_scan_next(&scan, ForwardScanDirection) :
								  tl_scan_next_until(&scan, 2, now)); n++)
			items[n] = (TlSweepItem) {
				.tid = scan.slot->tts_tid, .attached = death ? death->attached : 0,
				.died = death ? death->died : 0
			};
		if (n > 0)
			*failed += tl_sweep_items(items, n, max - *failed, death == NULL);
		for (i = 0; i < n; i++)
			busy |= items[i].status == TL_SWEEP_BUSY;
	} while (n == CHUNK && *failed < max);
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	return !busy && n < CHUNK;
}

/*
 * The postmaster writes into its lock file that it stops before it signals a
 * process; nothing else tells a session that a shutdown ended from a session
 * that an administrator ended.  The sweep reads it only when there are deaths.
 */
static bool
is_shutdown(void)
{
	FILE	   *file = AllocateFile("postmaster.pid", "r");
	char		line[MAXPGPATH] = "";
	int			i;

	for (i = 1; file != NULL && i <= LOCK_FILE_LINE_PM_STATUS; i++)
		if (fgets(line, sizeof(line), file) == NULL)
			line[0] = '\0';
	if (file != NULL)
		FreeFile(file);
	return strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
}

int
tl_sweep_deaths(int64 before, int max)
{
	TlDeath		death;
	int			failed = 0;
	int			at = 0;

	/* one round over the list; a death with a busy turn is left for the next */
	if (tl_attach_oldest_death() <= before && !is_shutdown())
		while (failed < max && tl_attach_next_death(before, &at, &death))
			if (sweep_table(&death, 0, max, &failed))
				tl_xact_settle(&death);
	return failed;
}

/*
 * A session does what the worker does.  Where a worker serves the database,
 * the worker sends the notifications and keeps the retention; else this does.
 */
Datum
turn_liveness_sweep_expired_turns(PG_FUNCTION_ARGS)
{
	int32		max = PG_ARGISNULL(0) ? tl_sweep_batch : PG_GETARG_INT32(0);
	int64		start = tl_monotonic();
	TlDatabase *db;
	bool		alone;
	int			failed;
	int64		pause;
	int64		now;
	int64		next;

	if (max < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_turns must not be negative")));
	tl_check_writable("sweep_expired_turns");
	db = tl_database();
	alone = is_alone();
	if (alone && db != NULL)
		tl_grace_watch(tl_clock_now());
	/* a session that connected before ALTER DATABASE has the old setting */
	if (!tl_sweep || (!alone && pg_atomic_read_u32(&db->grace.sweep_off) != 0))
		PG_RETURN_INT32(0);

	now = tl_clock_sweep_time();
	failed = tl_sweep_deaths(now - tl_reconnect_window * TL_MS, max);
	(void) sweep_table(NULL, now, max, &failed);

	if (db != NULL)
	{
		tl_counter_add(TL_COUNT_SWEEPS, 1);
		pg_atomic_write_u64(&db->last_sweep_us, now);
		pg_atomic_write_u64(&db->last_sweep_took_us, tl_monotonic() - start);
	}
	if (alone)
	{
		tl_parking_note_all();
		while (tl_parking_next() <= now)
			(void) tl_parking_run(now, true);
		(void) tl_delivery_due_again(DT_NOBEGIN, tl_clock_now(), true, &next);
		(void) tl_retention_run(tl_sweep_batch, true, &pause);
		tl_notify_in_transaction(tl_xact_has_lapsed());
	}
	PG_RETURN_INT32(failed);
}
