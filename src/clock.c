/*
 * clock.c
 *		The liveness clock: microseconds in which the server ran.
 *
 * This is the one place where time enters.  With preload the time is
 *
 *		min(monotonic clock + offset, limit)
 *
 * with both in the database's slot.  The worker ticks at least once a second: a
 * tick moves the limit to two seconds ahead, and if the limit had been reached
 * before, moves the offset back by what was lost.  So the clock stands still
 * while the machine, the server or the worker does, and never jumps.  Where no
 * worker serves the database nobody can tell a pause: there is no limit.
 *
 * Only the ticker writes offset and limit.  A reader takes the limit first; if
 * it is a new one, the offset that belongs to it was written before.
 *
 * The base is one durable row for each home (rel.c); it is written every
 * minute and at shutdown.  After a crash the clock may start that much behind: later,
 * never earlier.  The greatest row counts, so a restored or copied database
 * goes on from where its stamps stand.
 *
 * Without preload there is only that row: base, the monotonic clock at that time and
 * the start of the server to which it belongs.  Sweeps move it on.
 */
#include "turn_liveness.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "rel.h"
#include "shmem.h"

#define TICK_REACH		(2 * TL_SECOND)
#define SWEEP_IS_OFF	INT64CONST(-1)
#define PAUSE			(TL_SECOND * 3 / 2)
#define SAVE_INTERVAL	(60 * TL_SECOND)

enum
{
	CLOCK_HOME = 1, CLOCK_BASE, CLOCK_MONO, CLOCK_SERVER, CLOCK_START, CLOCK_RESUMED,
	CLOCK_NATTS = CLOCK_RESUMED
};

typedef struct ClockRow
{
	bool		found;
	ItemPointerData tid;
	int64		base;			/* of the greatest row, whoever wrote it */
	int64		mono;			/* the rest is of our own home's row */
	int64		own_base;
	int32		server;
	int64		start;
	int64		resumed;		/* sweep was turned on again; SWEEP_IS_OFF, or 0 */
} ClockRow;

static bool ticks_here = false; /* this process is the worker */

static void read_row(ClockRow *row);
static void write_row(ClockRow *row, int64 now, int64 mono, int64 start);
static int32 row_mode_server(void);
static int64 row_mode_now(const ClockRow *row);
static TlDatabase *ready_database(void);

PG_FUNCTION_INFO_V1(turn_liveness_clock_us);
PG_FUNCTION_INFO_V1(turn_liveness_clock_advance);

int64
tl_monotonic(void)
{
	instr_time	t;

	INSTR_TIME_SET_CURRENT(t);
	return (int64) INSTR_TIME_GET_MICROSEC(t);
}

static void
read_row(ClockRow *row)
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
		slot_getallattrs(slot);
		row->base = Max(row->base, DatumGetInt64(slot->tts_values[CLOCK_BASE - 1]));
		if (DatumGetInt32(slot->tts_values[CLOCK_HOME - 1]) != home)
			continue;
		row->found = true;
		row->tid = slot->tts_tid;
		row->own_base = DatumGetInt64(slot->tts_values[CLOCK_BASE - 1]);
		row->mono = DatumGetInt64(slot->tts_values[CLOCK_MONO - 1]);
		row->server = DatumGetInt32(slot->tts_values[CLOCK_SERVER - 1]);
		row->start = DatumGetInt64(slot->tts_values[CLOCK_START - 1]);
		row->resumed = DatumGetInt64(slot->tts_values[CLOCK_RESUMED - 1]);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	tl_rel_close(&r);
	UnregisterSnapshot(snapshot);
}

static void
write_row(ClockRow *row, int64 now, int64 mono, int64 start)
{
	TlRel		r;
	Snapshot	snapshot = tl_latest_snapshot();
	Datum		values[CLOCK_NATTS];
	bool		nulls[CLOCK_NATTS] = {false};

	values[CLOCK_HOME - 1] = Int32GetDatum(tl_home());
	values[CLOCK_BASE - 1] = Int64GetDatum(now);
	values[CLOCK_MONO - 1] = Int64GetDatum(mono);
	values[CLOCK_SERVER - 1] = Int32GetDatum(tl_database() ? (int32) tl_shared->server : row_mode_server());
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
		(void) tl_rel_insert_unless_there(&r, TL_CLOCK_KEY, values, nulls, NULL);
	tl_rel_close(&r);
	UnregisterSnapshot(snapshot);
}

/* Without preload the server's start time is all that tells two starts apart. */
static int32
row_mode_server(void)
{
	return (int32) (hash_bytes_extended((unsigned char *) &PgStartTime, sizeof(PgStartTime), 0) | 1);
}

static int64
row_mode_now(const ClockRow *row)
{
	int64		passed;

	if (row->found && row->server == row_mode_server())
		passed = tl_monotonic() - row->mono;
	else
		passed = GetCurrentTimestamp() - PgStartTime;	/* until a sweep moves the row */
	return Max(row->base, row->own_base + Max(passed, 0));
}

/* The slot of this database with its clock up; NULL without preload and on a standby. */
static TlDatabase *
ready_database(void)
{
	TlDatabase *db = tl_database();
	ClockRow	row;

	if (db == NULL || pg_atomic_read_u32(&db->clock_ready))
		return db;

	/* on a standby it does not run: its start is the end of recovery */
	if (RecoveryInProgress())
		return NULL;

	/* who comes first brings it up */
	read_row(&row);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (!pg_atomic_read_u32(&db->clock_ready))
	{
		pg_atomic_write_u64(&db->clock_offset, row.base - tl_monotonic());
		pg_atomic_write_u64(&db->clock_limit, PG_INT64_MAX);
		pg_atomic_write_u64(&db->start_us, row.base);
		pg_write_barrier();
		pg_atomic_write_u32(&db->clock_ready, 1);
	}
	LWLockRelease(&tl_shared->directory);
	return db;
}

int64
tl_now(void)
{
	TlDatabase *db = ready_database();
	int64		limit;
	ClockRow	row;

	if (db != NULL)
	{
		limit = (int64) pg_atomic_read_u64(&db->clock_limit);
		pg_read_barrier();
		return Min(tl_monotonic() + (int64) pg_atomic_read_u64(&db->clock_offset), limit);
	}
	read_row(&row);
	return row_mode_now(&row);
}

int64
tl_start(void)
{
	TlDatabase *db = ready_database();
	ClockRow	row;

	if (db != NULL)
		return (int64) pg_atomic_read_u64(&db->start_us);
	read_row(&row);
	return row.found && row.server == row_mode_server() ? row.start : row_mode_now(&row);
}

int64
tl_epoch(void)
{
	uint32		server = tl_database() ? tl_shared->server : (uint32) row_mode_server();

	return ((int64) tl_home() << 32) | server;
}

TimestampTz
tl_wall_clock(int64 us, int64 now)
{
	return GetCurrentTimestamp() + (us - now);
}

void
tl_clock_take_over(void)
{
	TlDatabase *db = ready_database();
	int64		now = tl_now();

	pg_atomic_write_u64(&db->clock_limit, now + TICK_REACH);
	pg_atomic_write_u32(&db->ticking, 1);
	ticks_here = true;
}

/*
 * A tick that comes much later than the second after which it was meant to
 * come ends a pause: nobody may have been able to beat in that time.
 */
int64
tl_clock_tick(void)
{
	TlDatabase *db = tl_database();
	int64		mono = tl_monotonic();
	int64		offset = (int64) pg_atomic_read_u64(&db->clock_offset);
	int64		limit = (int64) pg_atomic_read_u64(&db->clock_limit);
	int64		now = mono + offset;
	int64		push = pg_atomic_exchange_u64(&db->clock_push, 0);

	if (now > limit - TICK_REACH + PAUSE)
		pg_atomic_write_u64(&db->pause_us, Min(now, limit) + push);
	if (now > limit || push > 0)
	{
		now = Min(now, limit) + push;
		pg_atomic_write_u64(&db->clock_offset, now - mono);
	}
	pg_write_barrier();
	pg_atomic_write_u64(&db->clock_limit, now + TICK_REACH);
	return now;
}

/* Work is no pause, however long it takes. */
void
tl_clock_tick_on(void)
{
	if (ticks_here)
		(void) tl_clock_tick();
}

/* Runs in the worker's exit callback too: only atomics. */
void
tl_clock_hand_back(void)
{
	TlDatabase *db = tl_database();

	if (db == NULL || !pg_atomic_read_u32(&db->ticking))
		return;
	(void) tl_clock_tick();
	pg_atomic_write_u64(&db->clock_limit, PG_INT64_MAX);
	pg_atomic_write_u32(&db->ticking, 0);
}

void
tl_clock_save(bool force)
{
	ClockRow	row;

	read_row(&row);
	if (tl_database() != NULL)
	{
		int64		now = tl_now();

		if (force || now - row.own_base >= SAVE_INTERVAL)
			write_row(&row, now, tl_monotonic(), tl_start());
	}
	else
	{
		int64		now = row_mode_now(&row);
		bool		same = row.found && row.server == row_mode_server();

		if (force || !same || now - row.own_base >= SAVE_INTERVAL)
			write_row(&row, now, tl_monotonic(), same ? row.start : now);
	}
}

/*
 * Without preload the row remembers that sweep was off: whoever sweeps writes
 * it down.
 */
void
tl_clock_note_sweep(bool on)
{
	ClockRow	row;
	bool		same;
	int64		now;

	if (tl_database() != NULL)
		return;
	read_row(&row);
	if (on == (row.resumed != SWEEP_IS_OFF))
		return;
	same = row.found && row.server == row_mode_server();
	now = row_mode_now(&row);
	row.resumed = on ? now : SWEEP_IS_OFF;
	write_row(&row, now, tl_monotonic(), same ? row.start : now);
}

int64
tl_clock_resumed(void)
{
	TlDatabase *db = tl_database();
	ClockRow	row;

	if (db != NULL)
		return (int64) pg_atomic_read_u64(&db->resumed_us);
	read_row(&row);
	return Max(row.resumed, 0);
}

Datum
turn_liveness_clock_us(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(tl_now());
}

/*
 * For tests, which create it themselves: moves the liveness clock on, so that
 * no test has to sleep.
 */
Datum
turn_liveness_clock_advance(PG_FUNCTION_ARGS)
{
	Interval   *step = PG_GETARG_INTERVAL_P(0);
	int64		us = step->time + (step->day + step->month * INT64CONST(30)) * USECS_PER_DAY;
	TlDatabase *db = ready_database();
	ClockRow	row;

	if (db != NULL)
	{
		if (!pg_atomic_read_u32(&db->ticking))
			pg_atomic_fetch_add_u64(&db->clock_offset, us);
		else
		{
			/* only the ticker writes the clock */
			pg_atomic_fetch_add_u64(&db->clock_push, us);
			while (pg_atomic_read_u64(&db->clock_push) != 0 &&
				   pg_atomic_read_u32(&db->ticking))
			{
				tl_wake_worker(db);
				(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 1, PG_WAIT_EXTENSION);
				ResetLatch(MyLatch);
				CHECK_FOR_INTERRUPTS();
			}
		}
	}
	else
	{
		read_row(&row);
		write_row(&row, row_mode_now(&row) + us, tl_monotonic(),
				  row.found && row.server == row_mode_server() ? row.start : row_mode_now(&row));
	}
	PG_RETURN_VOID();
}
