/*
 * sweep.c
 *		Failing the turns that have lapsed: pure transaction code, which the
 *		worker and sweep_expired_turns() call.  One row: see sweep_row.c.
 *
 * A batch runs in one subtransaction.  If a row in it raises an error, the
 * batch is done again row by row, so that one bad row never blocks the others.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "replies/delivery.h"
#include "replies/notify.h"
#include "replies/retention.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/counters.h"
#include "shared/grace.h"
#include "turns/attach.h"
#include "turns/failure.h"
#include "turns/sweep.h"

#define CHUNK			500
#define BAD_ROW_PAUSE	(60 * TL_SECOND)

static bool is_alone(void);
static int	sweep_rows(TlSweepItem *items, int nitems, int max, bool move_check);
static bool is_about_a_row(const ErrorData *error);
static int	sweep_in_subtransaction(TlSweepItem *items, int nitems, int max,
									bool move_check, ErrorData **error);
static void log_bad_row(const TlSweepItem *item, const ErrorData *error);
static bool sweep_death(const TlDeath *death, int max, int *failed);
static int	sweep_overdue(int64 now, int max);

PG_FUNCTION_INFO_V1(turn_liveness_sweep_expired_turns);

static bool
is_alone(void)
{
	return tl_database() == NULL || pg_atomic_read_u32(&tl_database()->clock.ticking) == 0;
}

static int
sweep_rows(TlSweepItem *items, int nitems, int max, bool move_check)
{
	TlSweep		sweep = {.move_check = move_check, .alone = is_alone()};
	int			failed = 0;
	int			i;
	ListCell   *cell;
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "turn_liveness sweep row",
													  ALLOCSET_DEFAULT_SIZES);

	sweep.context = CurrentMemoryContext;
	tl_rel_open(&sweep.turns, TL_TURN, true);
	tl_outbox_open(&sweep.outbox, false);
	sweep.slot = table_slot_create(sweep.turns.rel, NULL);
	sweep.nblocks = RelationGetNumberOfBlocks(sweep.turns.rel);
	for (i = 0; i < nitems; i++)
	{
		CHECK_FOR_INTERRUPTS();
		tl_clock_tick_if_worker();
		if (failed >= max)
		{
			items[i].status = TL_SWEEP_BUSY;
			items[i].look_us = 0;
			continue;
		}
		MemoryContextSwitchTo(row_context);
		tl_sweep_row(&sweep, &items[i]);
		failed += items[i].status == TL_SWEEP_FAILED;
		MemoryContextSwitchTo(sweep.context);
		MemoryContextReset(row_context);
	}
	ExecDropSingleTupleTableSlot(sweep.slot);
	tl_outbox_close(&sweep.outbox);
	tl_rel_close(&sweep.turns);
	MemoryContextDelete(row_context);
	foreach(cell, sweep.lines)
		tl_log_failure(lfirst(cell));
	list_free_deep(sweep.lines);
	return failed;
}

/* Would the same error meet the next row as well? */
static bool
is_about_a_row(const ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_QUERY_CANCELED:
		case ERRCODE_ADMIN_SHUTDOWN:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return false;
		case ERRCODE_OUT_OF_MEMORY:
			return true;
		default:
			return ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_INSUFFICIENT_RESOURCES &&
				ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_TRANSACTION_ROLLBACK;
	}
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
		if (!is_about_a_row(*error))
			ReThrowError(*error);
		failed = -1;
	}
	PG_END_TRY();
	return failed;
}

static void
log_bad_row(const TlSweepItem *item, const ErrorData *error)
{
	tl_counter_add(TL_COUNT_SWEEP_ERRORS, 1);
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errhidestmt(true),
			 errhidecontext(true),
			 errmsg("could not fail the turn at row (%u,%u) of %s.%s in database \"%s\": %s",
					ItemPointerGetBlockNumberNoCheck(&item->tid),
					ItemPointerGetOffsetNumberNoCheck(&item->tid),
					TL_SCHEMA, "turn", get_database_name(MyDatabaseId), error->message),
			 errdetail("It is tried again; the other turns are not held up.")));
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
		log_bad_row(&items[i], error);
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

/* Fail the turns of one ended session; true if none of them is left. */
static bool
sweep_death(const TlDeath *death, int max, int *failed)
{
	text	   *deployment = cstring_to_text(death->deployment);
	Snapshot	snapshot = tl_latest_snapshot();
	TlSweepItem *items = palloc(sizeof(TlSweepItem) * CHUNK);
	TlRel		turns;
	TlScan		scan = {0};
	int			nitems;
	bool		busy = false;
	int			i;

	tl_rel_open(&turns, TL_TURN, false);
	tl_turn_scan_owed(&turns, &scan, deployment, snapshot);
	do
	{
		CHECK_FOR_INTERRUPTS();
		nitems = 0;
		while (nitems < CHUNK && tl_scan_next(&scan, ForwardScanDirection))
		{
			memset(&items[nitems], 0, sizeof(TlSweepItem));
			items[nitems].tid = scan.slot->tts_tid;
			items[nitems].died = death->died;
			nitems++;
		}
		if (nitems > 0)
			*failed += tl_sweep_items(items, nitems, max - *failed, false);
		for (i = 0; i < nitems; i++)
			busy |= items[i].status == TL_SWEEP_BUSY;
	} while (nitems == CHUNK && *failed < max);
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	pfree(items);
	return !busy && nitems < CHUNK;
}

int
tl_sweep_deaths(int64 before, int max)
{
	TlDeath		death;
	int			failed = 0;
	int			at = 0;

	if (tl_attach_is_shutdown())
		return 0;

	/* one round over the list; a death with a busy turn is left for the next */
	while (failed < max && tl_attach_next_death(before, &at, &death))
		if (sweep_death(&death, max, &failed))
			tl_xact_settle(&death);
	return failed;
}

/* Look at the rows that are to be looked at by now, in the order of that time. */
static int
sweep_overdue(int64 now, int max)
{
	TlSweepItem *items = palloc(sizeof(TlSweepItem) * CHUNK);
	Snapshot	snapshot = tl_latest_snapshot();
	TlRel		turns;
	TlScan		scan = {0};
	int			nitems;
	int			failed = 0;

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
	TlDatabase *db;
	bool		alone;
	int			failed = 0;
	int64		now;
	int64		start = tl_monotonic();

	if (max < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_turns must not be negative")));
	tl_check_writable("sweep_expired_turns");
	db = tl_database();
	alone = is_alone();
	if (alone && db != NULL)
		tl_grace_watch(tl_clock_now());
	if (!tl_sweep)
		PG_RETURN_INT32(0);

	now = tl_clock_sweep_time();
	if (tl_attach_oldest_death() <= now - tl_reconnect_window * TL_MS)
		failed = tl_sweep_deaths(now - tl_reconnect_window * TL_MS, max);
	failed += sweep_overdue(now, max - failed);

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
