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
#include "common/pg_prng.h"
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

#define LOOKS		5			/* at so many records for one that may go */
#define PAUSE				(10 * TL_SECOND)
#define PAUSE_AFTER_FULL	(100 * TL_MS)	/* records went */
#define PAUSE_IN_WALK		TL_SECOND		/* none, but the walk goes on */
#define MAX_YOUNG	1000		/* so many in a row: those behind are younger */
/* the pause before a walk from the least id, or a multiple of its last time */
#define WHOLE_WALK	(60 * TL_SECOND)
#define WHOLE_TIMES	9

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
	bool		of_session;		/* one that does the worker's part */
	int			gone;
	bool		more;			/* the walk is to go on */
	TlRel		rels[TL_NTABLES];
	TlScan		deliveries;
	TlScan		turns;
	Snapshot	snapshot;
	MemoryContext context;		/* of one record */
	List	   *held;			/* of Held: rows of one record */
	List	   *expired;		/* platforms of undelivered ones that went */
} Batch;

/* where this process stands in its walk over the records */
static int64 walk_after = PG_INT64_MIN;
static bool walks = false;		/* it has not come to the young ones yet */
static int64 whole_since = 0;	/* not 0: it began then, at the least id */
static int64 whole_again = 0;	/* the next walk from there */

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
		if (tl_scan_find(&batch->turns, ids[i], deployment) &&
			!slot_attisnull(batch->turns.slot, TURN_OUTCOME) &&
			!hold(batch, TL_TURN, batch->turns.slot))
			return false;
	return true;
}

/*
 * Lock the reply in this slot, its turns and its delivery, in which the scan of
 * deliveries stands.  False if the record is to stay.
 */
static bool
hold_record(Batch *batch, TupleTableSlot *slot)
{
	TlDelivery	d;

	tl_delivery_decode(batch->deliveries.slot, &d);
	/* claimed: its gateway may be sending it */
	if (tl_delivery_is_open(&d) && !tl_row_isnull(&d, DELIVERY_GATEWAY) &&
		tl_delivery_due(&d) > batch->now)
		return false;
	if (!hold(batch, TL_REPLY, slot) || !hold_turns(batch, slot))
		return false;
	/* a gateway may be claiming or acknowledging this one: it decides */
	if (!hold(batch, TL_DELIVERY, batch->deliveries.slot))
		return false;
	if (!tl_delivery_is_done(&d))
		batch->expired = lappend(batch->expired,
								 TextDatumGetCString(tl_row_value(&d, DELIVERY_PLATFORM)));
	return true;
}

/* Lock the rows of a record, and delete them; false if it is to stay. */
static bool
remove_one(Batch *batch, TlTable table, TupleTableSlot *slot)
{
	ListCell   *cell;

	CHECK_FOR_INTERRUPTS();
	tl_clock_keep_ticking();
	MemoryContextReset(batch->context);
	batch->held = NIL;
	if (!(table == TL_LATE_REPLY ? hold(batch, table, slot) : hold_record(batch, slot)))
		return false;

	/* the batch holds the rows, so this never waits, and none has changed */
	foreach(cell, batch->held)
	{
		Held	   *held = lfirst(cell);

		if (tl_rel_delete(held->rel, &held->tid, batch->snapshot) != TM_Ok)
			elog(ERROR, "unexpected result of deleting a locked row");
	}
	batch->gone++;
	return true;
}

/* Late replies stand in an index in the order of their age. */
static void
remove_late(Batch *batch, int64 cutoff)
{
	TlScan		scan = {0};
	bool		isnull;

	tl_scan_begin(&scan, &batch->rels[TL_LATE_REPLY], TL_IDX_LATE_REPLY_KEPT, batch->snapshot);
	while (batch->gone < batch->max && tl_scan_next(&scan, ForwardScanDirection) &&
		   DatumGetTimestampTz(slot_getattr(scan.slot, TL_LATE_KEPT_AT, &isnull)) < cutoff)
		(void) remove_one(batch, TL_LATE_REPLY, scan.slot);
	tl_scan_end(&scan);
}

/*
 * May the reply in this slot, stored at that time, go with its record?  If so,
 * the scan of deliveries stands on its delivery.
 */
static bool
is_old(Batch *batch, TupleTableSlot *slot, int64 id, int64 kept, int64 delivered, int64 undelivered)
{
	TlDelivery	d;
	bool		isnull;

	if (!tl_delivery_find(&batch->deliveries, tl_reply_conversation(slot, &isnull), id, false))
		return false;
	tl_delivery_decode(batch->deliveries.slot, &d);
	return tl_delivery_is_done(&d) ? Max(tl_delivery_due(&d), kept) < delivered :
		kept < undelivered;
}

/*
 * Go on with the walk over all records in the order of their ids, in which they
 * were stored but for moments.  It ends at a row of records that are too young,
 * or behind the last id.  The next walk begins there: before it lie records
 * that went, whose index entries stay as long as any snapshot of the server is
 * older, and those that stay for longer than others (undelivered, delivered
 * late).  A walk from the least id looks at these once a minute, or less often
 * where they are many.
 */
static void
remove_records(Batch *batch)
{
	int64		delivered = batch->now - tl_retention * TL_MS;
	int64		undelivered = batch->now - tl_undelivered_retention_us();
	int64		looks = batch->max * (int64) LOOKS + MAX_YOUNG;
	int			young = 0;
	int64		oldest_young = 0;
	TlScan		scan = {0};
	bool		found;

	if (!walks && batch->now >= whole_again)
	{
		walk_after = PG_INT64_MIN;
		whole_since = batch->now;
		whole_again = batch->now + WHOLE_WALK;
	}
	tl_scan_key_int8(&scan, 1, BTGreaterStrategyNumber, walk_after);
	tl_scan_begin(&scan, &batch->rels[TL_REPLY], TL_IDX_REPLY_KEY, batch->snapshot);
	while ((found = tl_scan_next(&scan, ForwardScanDirection)) &&
		   batch->gone < batch->max && looks-- > 0 && young < MAX_YOUNG)
	{
		bool		isnull;
		int64		kept = DatumGetTimestampTz(slot_getattr(scan.slot, REPLY_KEPT_AT, &isnull));

		CHECK_FOR_INTERRUPTS();
		tl_clock_keep_ticking();
		walk_after = DatumGetInt64(slot_getattr(scan.slot, REPLY_REPLY_ID, &isnull));
		if (kept >= Max(delivered, undelivered))
		{
			oldest_young = young++ == 0 ? walk_after : oldest_young;
			continue;
		}
		young = 0;
		if (is_old(batch, scan.slot, walk_after, kept, delivered, undelivered))
			(void) remove_one(batch, TL_REPLY, scan.slot);
	}
	tl_scan_end(&scan);
	walks = found && young < MAX_YOUNG;
	batch->more |= walks;
	if (!walks && whole_since != 0)
	{
		whole_again = batch->now + Max(WHOLE_WALK, WHOLE_TIMES * (batch->now - whole_since));
		whole_since = 0;
	}
	if (!walks && young > 0)
		walk_after = oldest_young - (oldest_young > PG_INT64_MIN);
}

/*
 * Where no worker runs, each call may come from a session of its own, whose
 * walk has no beginning to go on from: none would ever pass what stays for
 * long.  So a session whose first walk removed nothing goes on from anywhere
 * behind it.
 */
static void
go_on_anywhere(Batch *batch)
{
	TlScan		scan = {0};
	int64		last = walk_after;
	bool		isnull;

	tl_scan_begin(&scan, &batch->rels[TL_REPLY], TL_IDX_REPLY_KEY, batch->snapshot);
	if (tl_scan_next(&scan, BackwardScanDirection))
		last = Max(last, DatumGetInt64(slot_getattr(scan.slot, REPLY_REPLY_ID, &isnull)));
	tl_scan_end(&scan);
	walk_after += (int64) pg_prng_uint64_range(&pg_global_prng_state, 0, last - walk_after);
	remove_records(batch);
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
run(Batch *batch)
{
	int			gone;
	bool		first;

	batch->snapshot = tl_latest_snapshot();
	batch->context = AllocSetContextCreate(CurrentMemoryContext, "turn_liveness retention",
										   ALLOCSET_SMALL_SIZES);
	tl_delivery_scan(&batch->deliveries, &batch->rels[TL_DELIVERY], batch->snapshot);
	tl_scan_key_text(&batch->turns, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_text(&batch->turns, 2, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_begin(&batch->turns, &batch->rels[TL_TURN], TL_IDX_TURN_KEY, batch->snapshot);

	remove_late(batch, batch->now - tl_retention * TL_MS);
	gone = batch->gone;
	first = batch->of_session && whole_again == 0;
	remove_records(batch);
	if (first && walks && batch->gone == gone)
		go_on_anywhere(batch);
	report_expired(batch->expired);

	tl_scan_end(&batch->turns);
	tl_scan_end(&batch->deliveries);
	UnregisterSnapshot(batch->snapshot);
	MemoryContextDelete(batch->context);
}

bool
tl_retention_run(int max_rows, bool wait, int64 *pause)
{
	Batch		batch = {.now = tl_clock_now(), .max = max_rows, .of_session = wait};
	int			opened;
	int			i;

	for (opened = 0; opened < TL_NTABLES; opened++)
		if (!tl_rel_try_open(&batch.rels[opened], opened, wait))
			break;
	if (opened == TL_NTABLES)
		run(&batch);
	for (i = 0; i < opened; i++)
		tl_rel_close(&batch.rels[i]);
	*pause = batch.gone > 0 ? PAUSE_AFTER_FULL : batch.more ? PAUSE_IN_WALK : PAUSE;
	return opened == TL_NTABLES;
}
