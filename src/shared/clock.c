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
 * The base is one durable row for each home (clock_row.c); whoever sweeps writes it every
 * minute, the worker at shutdown too.  After a crash the clock may start that much behind: later,
 * never earlier.
 *
 * The clock is that of an installation.  One that was just created starts at
 * zero, also where another stood before it in the same database, and restored rows
 * bring the clock row of the home they come from: the clock goes on from there, so
 * that their stamps keep their meaning.  Sessions reckon with that row as soon as
 * they see it, the worker moves the slot's clock when it looks.  That ends with
 * what is first written here: from then on our own row alone counts (the clock is settled).  If it
 * was written under the old time, the clock is not moved any more: restored rows may
 * then wait for longer, but nobody's turn lapses early.
 *
 * A transaction that makes the extension or writes our row may roll back: as long as it is
 * open the slot's clock is neither started for that extension nor settled.  What it arms
 * meanwhile is armed at the time of the rows, and it writes our row before it commits.
 *
 * Without preload there are only the rows: base, the monotonic clock at that time
 * and the start of the server to which it belongs.  Sweeps move our own on; until it is
 * written the greatest restored one counts.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "shared/attach.h"
#include "shared/clock.h"
#include "shared/clock_row.h"
#include "base/guc.h"
#include "shared/lease.h"
#include "base/catalog.h"
#include "store/rel.h"
#include "shared/shmem.h"

#define TICK_REACH		(2 * TL_SECOND)
#define PAUSE			(TL_SECOND * 3 / 2)

static bool ticks_here = false;		/* this process is the worker */
static int64 last_time = 0;		/* what this process was told last */
static TransactionId written_in = InvalidTransactionId; /* our row was, by this transaction of ours */

static void start_clock(TlDatabase *db, Oid extension, int64 base);
static void set_clock(TlDatabase *db, int64 now);
static bool is_behind(TlDatabase *db, const TlClockRow *row);
static int64 base_of(const TlClockRow *row);
static int64 time_by_rows(const TlClockRow *row);
static TlDatabase *ready_database(int64 *least);

PG_FUNCTION_INFO_V1(turn_liveness_clock_us);
PG_FUNCTION_INFO_V1(turn_liveness_clock_advance);
PG_FUNCTION_INFO_V1(turn_liveness_clock_no_pauses);

TL_HOT int64
tl_monotonic(void)
{
	instr_time	t;

	INSTR_TIME_SET_CURRENT(t);
	return (int64) INSTR_TIME_GET_MICROSEC(t);
}

/* The caller holds the directory exclusively; nobody ticks, or it does. */
static void
set_clock(TlDatabase *db, int64 now)
{
	bool		ticking = pg_atomic_read_u32(&db->ticking) != 0;

	pg_atomic_write_u64(&db->clock_offset, now - tl_monotonic());
	pg_atomic_write_u64(&db->start_us, now);
	pg_write_barrier();
	pg_atomic_write_u64(&db->clock_limit, ticking ? now + TICK_REACH : PG_INT64_MAX);
}

/* As above.  What is left of another installation in this database goes. */
static void
start_clock(TlDatabase *db, Oid extension, int64 base)
{
	bool		again = pg_atomic_read_u32(&db->clock_extension) != InvalidOid;

	set_clock(db, base);
	if (again)
	{
		pg_atomic_write_u64(&db->clock_push, 0);
		pg_atomic_write_u64(&db->clock_used_us, 0);
		pg_atomic_write_u32(&db->clock_settled, InvalidOid);
		pg_atomic_write_u64(&db->pause_us, base);
		pg_atomic_write_u64(&db->resumed_us, 0);
		pg_atomic_write_u64(&db->last_call_us, 0);
		pg_atomic_write_u32(&db->silent, 0);
		pg_atomic_write_u64(&db->asked_us, 0);
		pg_atomic_write_u64(&db->hold_until_us, 0);
		pg_atomic_write_u64(&db->due_again_us, base);
		pg_atomic_write_u64(&db->last_sweep_us, 0);
		tl_attach_forget_deaths();
		tl_lease_clear_slot(db - tl_shared->databases);
	}
	pg_write_barrier();
	pg_atomic_write_u32(&db->clock_extension, extension);
}

/*
 * Rows of a restore are ahead of the slot's clock, and what was written here
 * meanwhile, if anything was, was written under their time.
 */
static bool
is_behind(TlDatabase *db, const TlClockRow *row)
{
	int64		used = (int64) pg_atomic_read_u64(&db->clock_used_us);

	return !row->written && (used == 0 || used >= tl_clock_row_restored(row));
}

/* Where the clock of this installation starts. */
static int64
base_of(const TlClockRow *row)
{
	return row->written ? row->own_base : tl_clock_row_restored(row);
}

/* For when there is no clock up: see ready_database. */
static int64
time_by_rows(const TlClockRow *row)
{
	/* it will start from there: until then it stands still */
	if (tl_database() != NULL && !RecoveryInProgress())
		return base_of(row);
	return tl_clock_row_now(row);
}

/*
 * The slot of this database with its clock up, and the least that the time is by
 * the rows; NULL when the rows are all there is: without preload, on a standby, in the transaction
 * that creates the extension, and for the moment in which the worker of an earlier installation still ticks.
 */
TL_HOT static TlDatabase *
ready_database(int64 *least)
{
	TlDatabase *db = tl_database();
	Oid			extension;
	TlClockRow	row;

	*least = 0;
	/* without a transaction, and in the worker, what the slot says must do */
	if (db == NULL || ticks_here || proc_exit_inprogress || !IsTransactionState())
		return db;
	extension = tl_extension_oid();
	if (pg_atomic_read_u32(&db->clock_settled) == extension)
		return db;
	/* a long sweep need not look again for what it wrote itself */
	if (TransactionIdIsValid(written_in) && written_in == GetTopTransactionIdIfAny() &&
		pg_atomic_read_u32(&db->clock_extension) == extension)
		return db;

	/* on a standby it does not run: its start is the end of recovery */
	if (RecoveryInProgress())
		return NULL;

	tl_clock_row_read(&row);
	if (pg_atomic_read_u32(&db->clock_extension) != extension)
	{
		bool		ours;

		/* who comes first brings it up */
		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		if (pg_atomic_read_u32(&db->clock_extension) != extension &&
			!pg_atomic_read_u32(&db->ticking) && !row.open)
			start_clock(db, extension, base_of(&row));
		ours = pg_atomic_read_u32(&db->clock_extension) == extension;
		LWLockRelease(&tl_shared->directory);
		if (!ours)
			return NULL;
	}
	if (row.written && row.open)
		written_in = GetTopTransactionIdIfAny();
	else if (row.written)
		pg_atomic_write_u32(&db->clock_settled, extension);
	else if (is_behind(db, &row))
		*least = tl_clock_row_restored(&row);
	return db;
}

TL_HOT int64
tl_clock_now(void)
{
	int64		least;
	TlDatabase *db = ready_database(&least);
	int64		limit;
	TlClockRow	row;

	if (db != NULL)
	{
		limit = (int64) pg_atomic_read_u64(&db->clock_limit);
		pg_read_barrier();
		last_time = Min(tl_monotonic() + (int64) pg_atomic_read_u64(&db->clock_offset), limit);
		last_time = Max(last_time, least);
		return last_time;
	}
	tl_clock_row_read(&row);
	return time_by_rows(&row);
}

int64
tl_clock_server_start(void)
{
	int64		least;
	TlDatabase *db = ready_database(&least);
	TlClockRow	row;

	if (db != NULL)
		return Max((int64) pg_atomic_read_u64(&db->start_us), least);
	tl_clock_row_read(&row);
	return row.found && row.server == tl_clock_row_server() ? row.start : time_by_rows(&row);
}

int64
tl_epoch(void)
{
	uint32		server = tl_database() ? tl_shared->server : (uint32) tl_clock_row_server();

	return ((int64) tl_home() << 32) | server;
}

TimestampTz
tl_wall_clock(int64 us, int64 now)
{
	return GetCurrentTimestamp() + (us - now);
}

/* In a transaction; the extension is there. */
void
tl_clock_take_over(void)
{
	TlDatabase *db = tl_database();
	Oid			extension = tl_extension_oid();
	TlClockRow	row;
	int64		now;

	tl_clock_row_read(&row);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	ticks_here = true;
	if (pg_atomic_read_u32(&db->clock_extension) != extension)
		start_clock(db, extension, base_of(&row));
	now = tl_clock_now();
	pg_atomic_write_u64(&db->clock_limit, now + TICK_REACH);
	pg_atomic_write_u32(&db->ticking, 1);
	LWLockRelease(&tl_shared->directory);
	(void) tl_clock_settle();
}

/* The installation whose clock that was is gone, and no other has taken its place. */
void
tl_clock_forget(Oid extension)
{
	TlDatabase *db = tl_database();

	if (!OidIsValid(extension))
		return;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&db->clock_extension) == extension)
		tl_lease_clear_slot(db - tl_shared->databases);
	LWLockRelease(&tl_shared->directory);
}

bool
tl_clock_is_settled(void)
{
	TlDatabase *db = tl_database();
	uint32		settled;

	if (db == NULL)
		return true;
	settled = pg_atomic_read_u32(&db->clock_settled);
	return settled != InvalidOid && settled == pg_atomic_read_u32(&db->clock_extension);
}

bool
tl_clock_is_used(void)
{
	return tl_clock_is_settled() || pg_atomic_read_u64(&tl_database()->clock_used_us) > 0;
}

/* Times were written, or are prepared to be: only atomics. */
void
tl_clock_note_use(TlDatabase *db)
{
	uint64		used = pg_atomic_read_u64(&db->clock_used_us);

	if (tl_clock_is_settled())
		return;
	/* the first one tells all; it is asked before the clock is settled, no later */
	while (used == 0 && !pg_atomic_compare_exchange_u64(&db->clock_used_us, &used, Max(last_time, 1)))
		;
}

/*
 * Before the commit of times, until our row says where they belong, whatever a restore
 * brings later.  If no clock of this installation was up, they start at the least of them.
 * Else two leave it to whoever sweeps next: a prepared transaction, which would keep the row from
 * being written, and one that sees restored rows, for the worker moves the clock first (tl_clock_settle).
 */
void
tl_clock_keep(int64 least, bool prepare)
{
	static Oid	kept = InvalidOid;	/* the row of this extension is written for good */
	TlDatabase *db = tl_database();
	Oid			extension = tl_extension_oid();
	bool		starts;
	TlClockRow	row;
	int64		base;

	if (!OidIsValid(extension) || extension == kept ||
		(db != NULL && pg_atomic_read_u32(&db->clock_settled) == extension))
		return;
	starts = db != NULL && pg_atomic_read_u32(&db->clock_extension) != extension;
	/* from here on the worker does not move the clock, however long the commit takes */
	if (db != NULL && !starts && !prepare)
	{
		(void) tl_clock_now();
		tl_clock_note_use(db);
	}
	if (prepare && !starts)
		return;
	/* a lock on the table may last for long: the next transaction will try again */
	if (!tl_rel_try_lock_table(TL_CLOCK) || tl_extension_oid() != extension)
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	tl_clock_row_read(&row);
	if (row.found && !row.written)
	{
		if (starts)
		{
			base = Min(base_of(&row), least);
			tl_clock_row_write(&row, base, tl_monotonic(), base);
		}
		else if (row.base == 0)
			tl_clock_row_write(&row, tl_clock_now(), tl_monotonic(), tl_clock_server_start());
	}
	else if (row.written && !row.open)
		kept = extension;
	PopActiveSnapshot();
}

/* Times before this one were taken before the clock went on from a restore's. */
int64
tl_clock_moved_to(void)
{
	TlClockRow	row;

	if (tl_database() != NULL)
		return tl_clock_server_start();
	tl_clock_row_read(&row);
	return row.written ? 0 : tl_clock_row_restored(&row);
}

/*
 * For whoever sweeps: move the clock to where restored rows stand, or, once
 * something was written here, write our row.  True if it was moved.
 */
bool
tl_clock_settle(void)
{
	TlDatabase *db = tl_database();
	TlClockRow	row;
	bool		moved = false;

	(void) tl_clock_now();			/* it must be up */
	if (tl_clock_is_settled() || pg_atomic_read_u32(&db->clock_extension) != tl_extension_oid())
		return false;
	tl_clock_row_read(&row);
	if (row.written)
	{
		if (!row.open)
			pg_atomic_write_u32(&db->clock_settled, pg_atomic_read_u32(&db->clock_extension));
		return false;
	}
	if (is_behind(db, &row))
	{
		int64		base = tl_clock_row_restored(&row);

		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		/* only the ticker writes the clock; where nobody ticks whoever comes does */
		if ((ticks_here || !pg_atomic_read_u32(&db->ticking)) &&
			tl_monotonic() + (int64) pg_atomic_read_u64(&db->clock_offset) < base)
		{
			set_clock(db, base);
			pg_atomic_write_u64(&db->pause_us, base);
			moved = true;
		}
		LWLockRelease(&tl_shared->directory);
	}
	if (pg_atomic_read_u64(&db->clock_used_us) > 0)
		tl_clock_row_write(&row, tl_clock_now(), tl_monotonic(), tl_clock_server_start());
	return moved;
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

	if (now > limit - TICK_REACH + PAUSE && !pg_atomic_read_u32(&db->no_pauses))
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

	if (db == NULL || !ticks_here)
		return;
	(void) tl_clock_tick();
	pg_atomic_write_u64(&db->clock_limit, PG_INT64_MAX);
	pg_atomic_write_u32(&db->ticking, 0);
}

void
tl_clock_save(bool force)
{
	TlClockRow	row;

	if (tl_database() != NULL)
	{
		int64		now;

		(void) tl_clock_settle();
		if (!tl_clock_is_settled())
			return;
		tl_clock_row_read(&row);
		now = tl_clock_now();
		if (force || now - row.own_base >= TL_CLOCK_SAVE_INTERVAL)
			tl_clock_row_write(&row, now, tl_monotonic(), tl_clock_server_start());
	}
	else
	{
		int64		now;
		bool		same;

		tl_clock_row_read(&row);
		if (!row.written && tl_clock_row_is_idle())
			return;
		now = tl_clock_row_now(&row);
		same = row.found && row.server == tl_clock_row_server();
		if (force || !same || now - row.own_base >= TL_CLOCK_SAVE_INTERVAL)
			tl_clock_row_write(&row, now, tl_monotonic(), same ? row.start : now);
	}
}

/*
 * Without preload the row remembers that sweep was off: whoever sweeps writes
 * it down.
 */
void
tl_clock_note_sweep(bool on)
{
	TlClockRow	row;
	bool		same;
	int64		now;

	if (tl_database() != NULL)
		return;
	tl_clock_row_read(&row);
	if (on == (row.resumed != TL_CLOCK_SWEEP_IS_OFF) || (!row.written && tl_clock_row_is_idle()))
		return;
	same = row.found && row.server == tl_clock_row_server();
	now = tl_clock_row_now(&row);
	row.resumed = on ? now : TL_CLOCK_SWEEP_IS_OFF;
	tl_clock_row_write(&row, now, tl_monotonic(), same ? row.start : now);
}

int64
tl_clock_resumed(void)
{
	TlDatabase *db = tl_database();
	TlClockRow	row;

	if (db != NULL)
		return (int64) pg_atomic_read_u64(&db->resumed_us);
	tl_clock_row_read(&row);
	if (row.resumed != TL_CLOCK_SWEEP_IS_OFF)
		return row.resumed;
	/* on again, but nobody has written that yet, or he who does holds the row */
	return tl_sweep ? tl_clock_row_now(&row) : 0;
}

Datum
turn_liveness_clock_us(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(tl_clock_now());
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
	int64		least;
	TlDatabase *db = ready_database(&least);
	TlClockRow	row;

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
		tl_clock_row_read(&row);
		tl_clock_row_write(&row, tl_clock_row_now(&row) + us, tl_monotonic(),
				  row.found && row.server == tl_clock_row_server() ? row.start : tl_clock_row_now(&row));
	}
	PG_RETURN_VOID();
}

/*
 * For tests of the deadlines, which create it themselves: on a busy machine the
 * worker ticks late now and then, and each such pause would give all turns
 * another turn deadline.
 */
Datum
turn_liveness_clock_no_pauses(PG_FUNCTION_ARGS)
{
	TlDatabase *db = tl_database();

	if (db != NULL)
		pg_atomic_write_u32(&db->no_pauses, 1);
	PG_RETURN_VOID();
}
