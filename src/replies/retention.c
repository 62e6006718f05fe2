/*
 * retention.c
 *		The end of records that were kept long enough.
 *
 * Delivered and discharged records and late replies go after
 * turn_liveness.retention, undelivered ones after
 * turn_liveness.undelivered_retention; those are counted and logged.  A record
 * is the delivery, the reply and the turns that the reply lists: they go
 * together or not at all, for the row of the turn is what makes arm_turn say
 * "answered".
 *
 * Nothing here waits for a row: a record of which another transaction holds
 * any row is left for the next time.  So that it is left whole, the batch
 * locks all rows of a record before it deletes the first.  Each batch is
 * bounded and runs in the caller's transaction.  Times are the liveness
 * clock's.
 *
 * The batch reads and deletes directly, like all of us, though speed does not
 * matter here: a DBA's trigger that is ENABLE ALWAYS would fire under SQL, and
 * above READ COMMITTED a row that changed would raise 40001 in spite of SKIP
 * LOCKED.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_type.h"
#include "lib/qunique.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "replies/delivery.h"
#include "replies/outbox.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "store/reply_row.h"
#include "store/turn_row.h"

/* the undelivered ones are looked through at most that often */
#define UNDELIVERED_PAUSE	(60 * TL_SECOND)

/* a row that the batch has locked */
typedef struct Held
{
	TlRel	   *rel;
	ItemPointerData tid;
} Held;

/* one batch */
typedef struct Batch
{
	int64		now;
	int			max;			/* records that may go */
	int			gone;
	TlRel		rels[TL_NTABLES];
	TlScan		replies;
	TlScan		turns;
	Snapshot	snapshot;
	MemoryContext context;		/* of one record */
	List	   *held;			/* of Held: rows of one record */
	List	   *expired;		/* platforms of undelivered ones that went */
} Batch;

/* when this process looks through the undelivered ones again */
static int64 next_undelivered_us = 0;

/* Lock a row of the record; false if another transaction holds it. */
static bool
hold(Batch *batch, TlTable table, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	Held	   *held = palloc(sizeof(Held));

	held->rel = &batch->rels[table];
	held->tid = slot->tts_tid;
	batch->held = lappend(batch->held, held);
	MemoryContextSwitchTo(old);
	return tl_rel_lock(held->rel, &held->tid, batch->snapshot, LockTupleExclusive,
					   LockWaitSkip) == TM_Ok;
}

/* Lock those turns of a reply that have ended. */
static bool
hold_turns(Batch *batch, TupleTableSlot *reply)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	bool		isnull;
	Datum		deployment = slot_getattr(reply, REPLY_DEPLOYMENT, &isnull);
	Datum	   *ids;
	bool	   *nulls;
	int			n;
	int			known = 0;
	int			i;

	/* the turn of an update goes on, or has a terminal record of its own */
	if (DatumGetChar(slot_getattr(reply, REPLY_OUTCOME, &isnull)) == TL_OUTCOME_UPDATE)
	{
		MemoryContextSwitchTo(old);
		return true;
	}
	/* only these in the short-lived context: a scan keeps what it allocates */
	deconstruct_array(DatumGetArrayTypeP(slot_getattr(reply, REPLY_MESSAGE_IDS, &isnull)),
					  TEXTOID, -1, false, TYPALIGN_INT, &ids, &nulls, &n);
	MemoryContextSwitchTo(old);
	/* a row of others may list a turn twice; no row is deleted twice */
	for (i = 0; i < n; i++)
		if (!nulls[i])
			ids[known++] = ids[i];
	qsort(ids, known, sizeof(Datum), tl_compare_texts);
	known = qunique(ids, known, sizeof(Datum), tl_compare_texts);
	for (i = 0; i < known; i++)
		if (tl_scan_find(&batch->turns, deployment, ids[i]) &&
			!slot_attisnull(batch->turns.slot, TURN_OUTCOME) &&
			!hold(batch, TL_TURN, batch->turns.slot))
			return false;
	return true;
}

/*
 * Lock the delivery in this slot, its reply and its turns.  False if it is to
 * stay.
 */
static bool
hold_record(Batch *batch, TupleTableSlot *slot)
{
	TlDelivery	d;

	tl_delivery_decode(slot, &d);
	/* claimed: its gateway may be sending it */
	if (tl_delivery_state(&d) == TL_DELIVERY_OPEN && !tl_row_isnull(&d, DELIVERY_GATEWAY) &&
		tl_delivery_due(&d) > batch->now)
		return false;
	if (tl_scan_find(&batch->replies, tl_row_value(&d, DELIVERY_CONVERSATION_ID),
					 tl_row_value(&d, DELIVERY_REPLY_ID)) &&
		(!hold(batch, TL_REPLY, batch->replies.slot) ||
		 !hold_turns(batch, batch->replies.slot)))
		return false;
	/* a gateway may be claiming or acknowledging this one: it decides */
	if (!hold(batch, TL_DELIVERY, slot))
		return false;
	if (tl_delivery_state(&d) != TL_DELIVERY_DONE)
		batch->expired = lappend(batch->expired,
								 TextDatumGetCString(tl_row_value(&d, DELIVERY_PLATFORM)));
	return true;
}

/*
 * Remove what an index leads to and is older than the cutoff: of a platform the
 * replies that were never claimed (equal), or were (greater).  Only those stand
 * in no order of age; else, behind the first that is not older, none is.
 */
static void
remove_old(Batch *batch, TlIndex index, const text *platform, StrategyNumber strategy,
		   int64 cutoff)
{
	TlTable		table = index == TL_IDX_LATE_REPLY_KEPT ? TL_LATE_REPLY : TL_DELIVERY;
	int			kept_at = table == TL_LATE_REPLY ? TL_LATE_KEPT_AT : DELIVERY_KEPT_AT;
	TlScan		scan = {0};
	ListCell   *cell;
	bool		isnull;

	if (platform != NULL)
	{
		tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, PointerGetDatum(platform));
		tl_scan_key_int8(&scan, 2, strategy, DT_NOBEGIN);
	}
	tl_scan_begin(&scan, &batch->rels[table], index, batch->snapshot);
	while (batch->gone < batch->max && tl_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		(void) tl_clock_tick();
		MemoryContextReset(batch->context);
		batch->held = NIL;
		if (DatumGetTimestampTz(slot_getattr(scan.slot, kept_at, &isnull)) >= cutoff)
		{
			if (strategy == BTGreaterStrategyNumber)
				continue;
			break;
		}
		if (!(table == TL_LATE_REPLY ? hold(batch, table, scan.slot) :
			  hold_record(batch, scan.slot)))
			continue;

		/* we hold the rows, so this never waits, and none has changed */
		foreach(cell, batch->held)
		{
			Held	   *held = lfirst(cell);

			if (tl_rel_delete(held->rel, &held->tid, batch->snapshot) != TM_Ok)
				elog(ERROR, "unexpected result of deleting a locked row");
		}
		batch->gone++;
	}
	tl_scan_end(&scan);
}

/*
 * Due and dead replies; their kept_at is the time when they were stored.  Ids
 * of dead ones are in the order of age but for moments, as are replies that
 * were never claimed; those that were are not.
 */
static void
remove_undelivered(Batch *batch)
{
	int64		cutoff = batch->now - tl_undelivered_retention_us();
	TlIndex		open = TL_IDX_DELIVERY_OPEN_PLATFORM;
	text	   *platform = NULL;

	remove_old(batch, TL_IDX_DELIVERY_DEAD, NULL, InvalidStrategy, cutoff);
	while (batch->gone < batch->max &&
		   (platform = tl_delivery_next_platform(&batch->rels[TL_DELIVERY], platform,
												 batch->snapshot)) != NULL)
	{
		remove_old(batch, open, platform, BTEqualStrategyNumber, cutoff);
		remove_old(batch, open, platform, BTGreaterStrategyNumber, cutoff);
	}
}

/* Count the undelivered ones that went; one log line for each platform. */
static void
report_expired(List *expired)
{
	tl_counter_add(TL_COUNT_EXPIRED_UNDELIVERED, list_length(expired));
	while (expired != NIL)
	{
		char	   *platform = linitial(expired);
		int			n = 0;
		ListCell   *cell;

		foreach(cell, expired)
		{
			if (strcmp(platform, lfirst(cell)) != 0)
				continue;
			expired = foreach_delete_current(expired, cell);
			n++;
		}
		ereport(LOG,
				(errcode(ERRCODE_WARNING),
				 errhidecontext(true),
				 errmsg_plural("%d undelivered reply of platform \"%s\" expired in database \"%s\"",
							   "%d undelivered replies of platform \"%s\" expired in database \"%s\"",
							   n, n, platform, get_database_name(MyDatabaseId)),
				 errhint("Look at \"last_error\" and \"gateway\" in the view \"turn_liveness.replies\" for what keeps gateways of that platform from delivering.")));
	}
}

/* All tables are open. */
static void
remove_records(Batch *batch)
{
	int64		pause = Min(UNDELIVERED_PAUSE, tl_undelivered_retention_us() / 100);
	int64		cutoff = batch->now - tl_retention * TL_MS;

	batch->snapshot = tl_latest_snapshot();
	batch->context = AllocSetContextCreate(CurrentMemoryContext, "turn_liveness retention",
										   ALLOCSET_SMALL_SIZES);
	tl_scan_key_text(&batch->replies, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_int8(&batch->replies, 2, BTEqualStrategyNumber, 0);
	tl_scan_begin(&batch->replies, &batch->rels[TL_REPLY], TL_IDX_REPLY_KEY, batch->snapshot);
	tl_scan_key_text(&batch->turns, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_text(&batch->turns, 2, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_begin(&batch->turns, &batch->rels[TL_TURN], TL_IDX_TURN_KEY, batch->snapshot);

	/*
	 * Replies that were claimed before stand in no order of age, so the batch
	 * looks through all of them: not each time.
	 */
	if (batch->now >= next_undelivered_us || next_undelivered_us > batch->now + pause)
	{
		remove_undelivered(batch);
		if (batch->gone < batch->max)
			next_undelivered_us = batch->now + pause;
	}
	remove_old(batch, TL_IDX_LATE_REPLY_KEPT, NULL, InvalidStrategy, cutoff);
	remove_old(batch, TL_IDX_DELIVERY_DELIVERED, NULL, InvalidStrategy, cutoff);
	report_expired(batch->expired);

	tl_scan_end(&batch->turns);
	tl_scan_end(&batch->replies);
	UnregisterSnapshot(batch->snapshot);
	MemoryContextDelete(batch->context);
}

bool
tl_retention_run(int max_rows, bool wait, int *gone)
{
	Batch		batch = {.now = tl_clock_now(), .max = max_rows};
	int			opened;
	int			i;

	for (opened = 0; opened < TL_NTABLES; opened++)
		if (!tl_rel_try_open(&batch.rels[opened], opened, wait))
			break;
	if (opened == TL_NTABLES)
		remove_records(&batch);
	for (i = 0; i < opened; i++)
		tl_rel_close(&batch.rels[i]);
	*gone = batch.gone;
	return opened == TL_NTABLES;
}
