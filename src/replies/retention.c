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
 * locks the rows of the reply and the turns before it deletes the first.  Each
 * batch is bounded and runs in the caller's transaction.  Times are the
 * liveness clock's.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "shared/counters.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "shared/clock.h"
#include "replies/delivery.h"
#include "base/guc.h"
#include "store/reply_row.h"
#include "replies/retention.h"
#include "store/turn_row.h"
#include "shared/database.h"

/* the undelivered ones are looked through at most that often */
#define UNDELIVERED_PAUSE	(60 * TL_SECOND)

/* undelivered records of one platform that went in this batch */
typedef struct Expired
{
	char	   *platform;
	int			n;
} Expired;

/* one batch */
typedef struct Batch
{
	int64		now;
	int			room;			/* records that may still go */
	int			gone;
	TlRel		deliveries;
	TlRel		replies;
	TlRel		turns;
	TlRel		late;
	TlScan		reply_scan;
	TlScan		turn_scan;
	TupleTableSlot *locked;		/* of each table, for the row that is locked */
	TupleTableSlot *locked_turn;
	TupleTableSlot *locked_delivery;
	TupleTableSlot *locked_late;
	Snapshot	snapshot;
	MemoryContext context;		/* of one record */
	List	   *expired;		/* of Expired */
} Batch;

/* when this process looks through the undelivered ones again */
static int64 next_undelivered_us = 0;

static bool open_tables(Batch *batch, bool wait);
static void open_batch(Batch *batch, int max_rows);
static void close_batch(Batch *batch);
static void delete_locked(TlRel *r, ItemPointer tid, Snapshot snapshot);
static int	lock_turns(Batch *batch, Datum deployment, Datum message_ids, ItemPointerData **tids);
static bool remove_record(Batch *batch, TupleTableSlot *slot);
static void remove_delivered(Batch *batch);
static void remove_undelivered(Batch *batch);
static void remove_open_of(Batch *batch, Datum platform, int64 cutoff);
static void remove_dead(Batch *batch, int64 cutoff);
static void remove_late(Batch *batch);
static void expire(Batch *batch, TupleTableSlot *slot);
static void report_expired(Batch *batch);

bool
tl_retention_run(int max_rows, bool wait, int *gone)
{
	Batch		batch = {0};
	int64		pause = Min(UNDELIVERED_PAUSE, tl_undelivered_retention_us() / 100);

	*gone = 0;
	if (!open_tables(&batch, wait))
		return false;
	open_batch(&batch, max_rows);

	/*
	 * Replies that were claimed before stand in no order of age, so the batch
	 * looks through all of them: not each time.
	 */
	if (batch.now >= next_undelivered_us || next_undelivered_us > batch.now + pause)
	{
		remove_undelivered(&batch);
		if (batch.room > 0)
			next_undelivered_us = batch.now + pause;
	}
	remove_late(&batch);
	remove_delivered(&batch);

	report_expired(&batch);
	close_batch(&batch);
	*gone = batch.gone;
	return true;
}

/* Open all tables; or none, where a lock has to be waited for. */
static bool
open_tables(Batch *batch, bool wait)
{
	TlRel	   *rels[TL_NTABLES];
	int			i;

	rels[TL_TURN] = &batch->turns;
	rels[TL_REPLY] = &batch->replies;
	rels[TL_DELIVERY] = &batch->deliveries;
	rels[TL_LATE_REPLY] = &batch->late;
	for (i = 0; i < TL_NTABLES; i++)
	{
		if (wait)
			tl_rel_open(rels[i], i, true);
		else if (!tl_rel_open_if_free(rels[i], i, true))
		{
			while (i-- > 0)
				tl_rel_close(rels[i]);
			return false;
		}
	}
	return true;
}

static void
open_batch(Batch *batch, int max_rows)
{
	batch->now = tl_clock_now();
	batch->room = max_rows;
	batch->snapshot = tl_latest_snapshot();
	tl_scan_key_text(&batch->reply_scan, 1, BTEqualStrategyNumber, CStringGetTextDatum(""));
	tl_scan_key_int8(&batch->reply_scan, 2, BTEqualStrategyNumber, 0);
	tl_scan_begin(&batch->reply_scan, &batch->replies, TL_IDX_REPLY_KEY, batch->snapshot);
	tl_scan_key_text(&batch->turn_scan, 1, BTEqualStrategyNumber, CStringGetTextDatum(""));
	tl_scan_key_text(&batch->turn_scan, 2, BTEqualStrategyNumber, CStringGetTextDatum(""));
	tl_scan_begin(&batch->turn_scan, &batch->turns, TL_IDX_TURN_KEY, batch->snapshot);
	batch->locked = table_slot_create(batch->replies.rel, NULL);
	batch->locked_turn = table_slot_create(batch->turns.rel, NULL);
	batch->locked_delivery = table_slot_create(batch->deliveries.rel, NULL);
	batch->locked_late = table_slot_create(batch->late.rel, NULL);
	batch->context = AllocSetContextCreate(CurrentMemoryContext,
										   "turn_liveness retention", ALLOCSET_SMALL_SIZES);
}

static void
close_batch(Batch *batch)
{
	ExecDropSingleTupleTableSlot(batch->locked);
	ExecDropSingleTupleTableSlot(batch->locked_turn);
	ExecDropSingleTupleTableSlot(batch->locked_delivery);
	ExecDropSingleTupleTableSlot(batch->locked_late);
	tl_scan_end(&batch->turn_scan);
	tl_scan_end(&batch->reply_scan);
	UnregisterSnapshot(batch->snapshot);
	tl_rel_close(&batch->late);
	tl_rel_close(&batch->deliveries);
	tl_rel_close(&batch->replies);
	tl_rel_close(&batch->turns);
	MemoryContextDelete(batch->context);
}

/*
 * We hold the row lock, so this never blocks, and no other transaction can have
 * changed the row.
 */
static void
delete_locked(TlRel *r, ItemPointer tid, Snapshot snapshot)
{
	TM_Result	result PG_USED_FOR_ASSERTS_ONLY = tl_rel_delete(r, tid, snapshot);

	Assert(result == TM_Ok);
}

/*
 * Lock the turns of these ids that have ended.  Returns how many there are, or
 * -1 if another transaction holds one of them.
 */
static int
lock_turns(Batch *batch, Datum deployment, Datum message_ids, ItemPointerData **tids)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	Datum	   *ids;
	bool	   *nulls;
	bool		isnull;
	int			nids;
	int			n = 0;
	int			i;

	/* only these in the short-lived context: a scan keeps what it allocates */
	deconstruct_array(DatumGetArrayTypeP(message_ids), TEXTOID, -1, false, TYPALIGN_INT,
					  &ids, &nulls, &nids);
	*tids = palloc(Max(nids, 1) * sizeof(ItemPointerData));
	MemoryContextSwitchTo(old);

	batch->turn_scan.keys[0].sk_argument = deployment;
	for (i = 0; i < nids; i++)
	{
		if (nulls[i])
			continue;
		batch->turn_scan.keys[1].sk_argument = ids[i];
		tl_scan_restart(&batch->turn_scan);
		if (!tl_scan_next(&batch->turn_scan, ForwardScanDirection))
			continue;
		(void) slot_getattr(batch->turn_scan.slot, TURN_OUTCOME, &isnull);
		if (isnull)
			continue;
		(*tids)[n] = batch->turn_scan.slot->tts_tid;
		if (!tl_rel_try_lock(&batch->turns, &(*tids)[n], batch->snapshot, batch->locked_turn,
							 LockTupleExclusive))
			return -1;
		n++;
	}
	return n;
}

/*
 * Remove the delivery in this slot, its reply and its turns.  False if another
 * transaction holds one of them.
 */
static bool
remove_record(Batch *batch, TupleTableSlot *slot)
{
	ItemPointerData delivery = slot->tts_tid;
	ItemPointerData reply;
	ItemPointerData *turns = NULL;
	int			nturns = 0;
	bool		has_reply;
	bool		isnull;
	int			i;

	CHECK_FOR_INTERRUPTS();
	tl_clock_tick_if_worker();
	MemoryContextReset(batch->context);

	batch->reply_scan.keys[0].sk_argument = slot_getattr(slot, DELIVERY_CONVERSATION_ID, &isnull);
	batch->reply_scan.keys[1].sk_argument = slot_getattr(slot, DELIVERY_REPLY_ID, &isnull);
	tl_scan_restart(&batch->reply_scan);
	has_reply = tl_scan_next(&batch->reply_scan, ForwardScanDirection);
	if (has_reply)
	{
		slot = batch->reply_scan.slot;
		reply = slot->tts_tid;
		if (!tl_rel_try_lock(&batch->replies, &reply, batch->snapshot, batch->locked,
							 LockTupleExclusive))
			return false;
		nturns = lock_turns(batch, slot_getattr(slot, REPLY_DEPLOYMENT, &isnull),
							slot_getattr(slot, REPLY_MESSAGE_IDS, &isnull), &turns);
		if (nturns < 0)
			return false;
	}

	/* a gateway may be claiming or acknowledging this one: it decides */
	if (!tl_rel_try_lock(&batch->deliveries, &delivery, batch->snapshot, batch->locked_delivery,
						 LockTupleExclusive))
		return false;
	delete_locked(&batch->deliveries, &delivery, batch->snapshot);
	if (has_reply)
		delete_locked(&batch->replies, &reply, batch->snapshot);
	for (i = 0; i < nturns; i++)
		delete_locked(&batch->turns, &turns[i], batch->snapshot);

	batch->gone++;
	batch->room--;
	return true;
}

/* Delivered and discharged records. */
static void
remove_delivered(Batch *batch)
{
	TlScan		scan = {0};

	tl_scan_key_int8(&scan, 1, BTLessEqualStrategyNumber, batch->now - tl_retention * TL_MS - 1);
	tl_scan_begin(&scan, &batch->deliveries, TL_IDX_DELIVERY_DELIVERED, batch->snapshot);
	while (batch->room > 0 && tl_scan_next(&scan, ForwardScanDirection))
		(void) remove_record(batch, scan.slot);
	tl_scan_end(&scan);
}

/* Due and dead replies; their kept_at is the time when they were stored. */
static void
remove_undelivered(Batch *batch)
{
	int64		cutoff = batch->now - tl_undelivered_retention_us();
	text	   *platform = NULL;

	remove_dead(batch, cutoff);

	while (batch->room > 0 &&
		   (platform = tl_delivery_next_platform(&batch->deliveries, platform, batch->snapshot)) != NULL)
		remove_open_of(batch, PointerGetDatum(platform), cutoff);
}

/* Due replies of a platform. */
static void
remove_open_of(Batch *batch, Datum platform, int64 cutoff)
{
	int			round;

	/*
	 * replies that were never claimed stand in the order of age; the others do
	 * not
	 */
	for (round = 0; round < 2 && batch->room > 0; round++)
	{
		TlScan		scan = {0};

		tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, platform);
		tl_scan_key_int8(&scan, 2, round == 0 ? BTEqualStrategyNumber : BTGreaterStrategyNumber,
						 DT_NOBEGIN);
		tl_scan_begin(&scan, &batch->deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, batch->snapshot);
		while (batch->room > 0 && tl_scan_next(&scan, ForwardScanDirection))
		{
			TlDelivery	d;

			CHECK_FOR_INTERRUPTS();
			tl_delivery_decode(scan.slot, &d);
			if (d.kept >= cutoff)
			{
				if (round == 0)
					break;
				continue;
			}
			/* claimed: its gateway may be sending it */
			if (tl_delivery_has_gateway(&d) && d.due > batch->now)
				continue;
			if (remove_record(batch, scan.slot))
				expire(batch, scan.slot);
		}
		tl_scan_end(&scan);
	}
}

/*
 * Dead replies, in the order of their ids, which is that of age but for
 * moments.
 */
static void
remove_dead(Batch *batch, int64 cutoff)
{
	TlScan		scan = {0};

	tl_scan_begin(&scan, &batch->deliveries, TL_IDX_DELIVERY_DEAD, batch->snapshot);
	while (batch->room > 0 && tl_scan_next(&scan, ForwardScanDirection))
	{
		TlDelivery	d;

		tl_delivery_decode(scan.slot, &d);
		if (d.kept >= cutoff)
			break;
		if (remove_record(batch, scan.slot))
			expire(batch, scan.slot);
	}
	tl_scan_end(&scan);
}

static void
remove_late(Batch *batch)
{
	TlScan		scan = {0};

	tl_scan_key_int8(&scan, 1, BTLessEqualStrategyNumber, batch->now - tl_retention * TL_MS - 1);
	tl_scan_begin(&scan, &batch->late, TL_IDX_LATE_REPLY_KEPT, batch->snapshot);
	while (batch->room > 0 && tl_scan_next(&scan, ForwardScanDirection))
	{
		ItemPointerData tid = scan.slot->tts_tid;

		CHECK_FOR_INTERRUPTS();
		if (!tl_rel_try_lock(&batch->late, &tid, batch->snapshot, batch->locked_late,
							 LockTupleExclusive))
			continue;
		delete_locked(&batch->late, &tid, batch->snapshot);
		batch->gone++;
		batch->room--;
	}
	tl_scan_end(&scan);
}

/* Count an undelivered record that went, by platform. */
static void
expire(Batch *batch, TupleTableSlot *slot)
{
	bool		isnull;
	char	   *platform = TextDatumGetCString(slot_getattr(slot, DELIVERY_PLATFORM, &isnull));
	Expired    *expired;
	ListCell   *cell;

	foreach(cell, batch->expired)
	{
		expired = lfirst(cell);
		if (strcmp(expired->platform, platform) == 0)
		{
			expired->n++;
			pfree(platform);
			return;
		}
	}
	expired = palloc(sizeof(Expired));
	expired->platform = platform;
	expired->n = 1;
	batch->expired = lappend(batch->expired, expired);
}

/* One line in the log for each platform. */
static void
report_expired(Batch *batch)
{
	ListCell   *cell;

	foreach(cell, batch->expired)
	{
		Expired    *expired = lfirst(cell);

		tl_counter_add(TL_COUNT_EXPIRED_UNDELIVERED, expired->n);
		ereport(LOG,
				(errcode(ERRCODE_WARNING),
				 errhidecontext(true),
				 errmsg_plural("%d undelivered reply of platform \"%s\" expired in database \"%s\"",
							   "%d undelivered replies of platform \"%s\" expired in database \"%s\"",
							   expired->n, expired->n, expired->platform,
							   get_database_name(MyDatabaseId)),
				 errhint("Look at \"last_error\" and \"gateway\" in the view \"turn_liveness.replies\" for what keeps gateways of that platform from delivering.")));
	}
}
