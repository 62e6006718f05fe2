/*
 * clock_row.c
 *		The durable rows of the liveness clock, one for each home.
 *
 * Our own row comes with the extension and counts from when it was first written; those of
 * other homes come with a restore.  clock.c says when which of them counts.
 * Without preload they are the whole clock.
 */
#include "base/turn_liveness.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "portability/instr_time.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "shared/clock.h"
#include "shared/clock_row.h"
#include "store/rel.h"
#include "shared/shmem.h"

enum
{
	CLOCK_HOME = 1, CLOCK_BASE, CLOCK_MONO, CLOCK_SERVER, CLOCK_START, CLOCK_RESUMED,
	CLOCK_NATTS = CLOCK_RESUMED
};

void
tl_clock_row_read(TlClockRow *row)
{
	TlRel		r;
	TableScanDesc scan;
	TupleTableSlot *slot;
	Snapshot	snapshot = tl_latest_snapshot();
	int32		home = tl_home();

	memset(row, 0, sizeof(*row));
	tl_rel_open(&r, TL_CLOCK, false);
	slot = table_slot_create(r.rel, NULL);
	scan = table_beginscan(r.rel, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;

		slot_getallattrs(slot);
		row->base = Max(row->base, DatumGetInt64(slot->tts_values[CLOCK_BASE - 1]));
		if (DatumGetInt32(slot->tts_values[CLOCK_HOME - 1]) != home)
			continue;
		row->found = true;
		row->tid = slot->tts_tid;
		row->open = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull)));
		row->own_base = DatumGetInt64(slot->tts_values[CLOCK_BASE - 1]);
		row->mono = DatumGetInt64(slot->tts_values[CLOCK_MONO - 1]);
		row->server = DatumGetInt32(slot->tts_values[CLOCK_SERVER - 1]);
		row->written = row->server != 0;
		row->start = DatumGetInt64(slot->tts_values[CLOCK_START - 1]);
		row->resumed = DatumGetInt64(slot->tts_values[CLOCK_RESUMED - 1]);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	tl_rel_close(&r);
	UnregisterSnapshot(snapshot);
}

void
tl_clock_row_write(TlClockRow *row, int64 now, int64 mono, int64 start)
{
	TlRel		r;
	Snapshot	snapshot = tl_latest_snapshot();
	Datum		values[CLOCK_NATTS];
	bool		nulls[CLOCK_NATTS] = {false};

	values[CLOCK_HOME - 1] = Int32GetDatum(tl_home());
	values[CLOCK_BASE - 1] = Int64GetDatum(now);
	values[CLOCK_MONO - 1] = Int64GetDatum(mono);
	values[CLOCK_SERVER - 1] = Int32GetDatum(tl_database() ? (int32) tl_shared->server : tl_clock_row_server());
	values[CLOCK_START - 1] = Int64GetDatum(start);
	values[CLOCK_RESUMED - 1] = Int64GetDatum(row->resumed);

	tl_rel_open(&r, TL_CLOCK, true);
	/* whoever else is writing it writes much the same: do not wait */
	if (row->found)
	{
		TupleTableSlot *slot = table_slot_create(r.rel, NULL);

		if (tl_rel_try_lock(&r, &row->tid, snapshot, slot, LockTupleNoKeyExclusive))
			(void) tl_rel_update(&r, &row->tid, snapshot, values, nulls);
		ExecDropSingleTupleTableSlot(slot);
	}
	else
		(void) tl_rel_insert_unless_there(&r, TL_IDX_CLOCK_KEY, values, nulls, NULL);
	tl_rel_close(&r);
	UnregisterSnapshot(snapshot);
}

/* Without preload the server's start time is all that tells two starts apart. */
int32
tl_clock_row_server(void)
{
	return (int32) (hash_bytes_extended((unsigned char *) &PgStartTime, sizeof(PgStartTime), 0) | 1);
}

/*
 * Where the clock of those stamps stood that came with a restore, 0 if there are
 * none: they may be younger than the row by as much as lies between two saves.
 */
int64
tl_clock_row_restored(const TlClockRow *row)
{
	return row->base > 0 ? row->base + TL_CLOCK_SAVE_INTERVAL : 0;
}

int64
tl_clock_row_now(const TlClockRow *row)
{
	int64		passed;

	/* what a restore brought stands still until a sweep writes our row */
	if (!row->written && row->base > 0)
		return tl_clock_row_restored(row);
	if (row->server == tl_clock_row_server())
		passed = tl_monotonic() - row->mono;
	else
		passed = GetCurrentTimestamp() - PgStartTime;	/* until a sweep moves the row */
	return row->own_base + Max(passed, 0);
}

/* Nothing was ever armed here, nor restored: a restore finds no time but its own. */
bool
tl_clock_row_is_idle(void)
{
	TlRel		turns;
	bool		empty;

	tl_rel_open(&turns, TL_TURN, false);
	empty = RelationGetNumberOfBlocks(turns.rel) == 0;
	tl_rel_close(&turns);
	return empty;
}
