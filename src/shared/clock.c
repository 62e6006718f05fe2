/*
 * clock.c
 *		The liveness clock: the only place where time enters.
 *
 * The clock is a line of microseconds in the units of timestamptz.  When the
 * postmaster makes shared memory, it anchors the line at the wall clock; from
 * then on the line counts the time in which the server runs:
 *
 *		min(monotonic clock + offset, limit)
 *
 * with both in the database's slot.  The worker ticks at least once a second.
 * A tick moves the limit to two seconds ahead.  If the clock had reached the
 * limit before, the tick moves the offset back by the time that was lost, and
 * so ends a pause.  So the clock stands still while the machine, the server or
 * the worker is stopped, never jumps, and is deaf to steps of the wall clock.
 * Only such a pause opens a grace (deadline.c): a shorter stall, such as a busy
 * disk makes again and again, must not put failures off for ever.  Where no
 * worker serves the database, no process can tell a pause, and there is no
 * limit.  Without preload the wall clock counts.
 *
 * Only the ticking worker writes the offset.  It writes the offset and the end
 * of a pause before the limit, and a reader reads the limit first, so a reader
 * that sees a new limit sees those too: a process that reads the clock and then
 * the grace knows of each pause that the clock has left behind.  The limit is
 * written by compare-and-exchange: see tl_clock_arm_stamp().
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "common/controldata_utils.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "shared/clock.h"
#include "shared/database.h"

#define TICK_REACH		(2 * TL_SECOND)
#define SKEW			(50 * TL_MS)	/* of the wall clock: noted from here */
#define FARTHEST		(365000 * USECS_PER_DAY)	/* a thousand years */

static bool ticks_here = false; /* this process is the worker */

PG_FUNCTION_INFO_V1(turn_liveness_clock_now);
PG_FUNCTION_INFO_V1(turn_liveness_clock_advance);
PG_FUNCTION_INFO_V1(turn_liveness_clock_no_pauses);

TL_HOT int64
tl_monotonic(void)
{
	instr_time	t;

	INSTR_TIME_SET_CURRENT(t);
	return (int64) INSTR_TIME_GET_MICROSEC(t);
}

/*
 * The postmaster calls this as it makes shared memory, and each process that
 * joins does.  The server last wrote its control file when it went down after a
 * clean shutdown.  After a crash the last checkpoint may be a while ago; then
 * turns get a little more time, never less.
 */
void
tl_clock_shmem_startup(void)
{
	TlRun	   *run = &tl_shared->clock;
	ControlFileData *control;
	bool		crc_ok;

	if (run->anchor != 0)
		return;
	run->anchor = GetCurrentTimestamp();
	run->anchor_mono = tl_monotonic();
	control = get_controlfile(DataDir, &crc_ok);
	pg_atomic_init_u64(&run->alive_us,
					   crc_ok ? time_t_to_timestamptz(control->time) : run->anchor);
	pfree(control);
}

/* The clock of the run, without what the pauses of a database have lost. */
TL_HOT static int64
shared_line(void)
{
	if (tl_shared == NULL)
		return GetCurrentTimestamp();
	return tl_shared->clock.anchor + (tl_monotonic() - tl_shared->clock.anchor_mono);
}

/* The clock of a database without its limit, which is read first: see above. */
TL_HOT static inline int64
read_clock(TlDatabase *db, uint64 *limit)
{
	*limit = pg_atomic_read_u64(&db->clock.limit);
	pg_read_barrier();
	return shared_line() + (int64) pg_atomic_read_u64(&db->clock.offset);
}

TL_HOT int64
tl_clock_now(void)
{
	TlDatabase *db = tl_database();
	uint64		limit;
	int64		now;

	if (db == NULL)
		return shared_line();
	now = read_clock(db, &limit);
	return Min(now, (int64) limit);
}

/*
 * While the clock stands still, no worker may have been able to beat since the
 * last tick, and the grace of this pause is not known yet.  So the worker
 * judges by the time of a tick, which notes a pause, and a session that sweeps
 * by the time of the last one.  Neither looks at the clock again: a pause could
 * begin in between.
 */
int64
tl_clock_sweep_time(void)
{
	TlDatabase *db = tl_database();
	uint64		limit;
	int64		now;

	if (db == NULL || ticks_here)
		return tl_clock_tick();
	now = read_clock(db, &limit);
	if (now < (int64) limit)
		return now;
	return pg_atomic_read_u32(&db->clock.ticking) ? (int64) limit - TICK_REACH : (int64) limit;
}

/*
 * A beat counts if its time is not before the arm's.  So that a beat before the
 * arm is told from one after it, the arm takes the next microsecond.  While the
 * clock stands at its limit the arm moves the limit on by that microsecond:
 * every time that is given out from then on is at least the arm's.
 */
int64
tl_clock_arm_stamp(void)
{
	TlDatabase *db = tl_database();

	if (db == NULL)
		return shared_line() + 1;
	/* the start must be known to lie before each arm of this run */
	(void) tl_clock_server_start();
	for (;;)
	{
		uint64		limit;
		int64		now = read_clock(db, &limit);

		if (now < (int64) limit)
			return now + 1;
		if (pg_atomic_compare_exchange_u64(&db->clock.limit, &limit, limit + 1))
			return (int64) limit + 1;
	}
}

/*
 * The first process that finds recovery at its end notes the time: after a
 * crash and after a promotion, no worker could beat before.  A standby, and a
 * server that was restored from an archive, knows by the last commit that it
 * replayed when its primary was still alive.  All processes that come at once
 * note the same commit, and they note it before the start.
 */
int64
tl_clock_server_start(void)
{
	TlRun	   *run;
	uint64		start;
	TimestampTz replayed;

	if (tl_shared == NULL)
		return PgStartTime;
	run = &tl_shared->clock;
	start = pg_atomic_read_u64(&run->start_us);
	if (start != 0 || RecoveryInProgress())
		return (int64) start;
	replayed = GetLatestXTime();
	if (replayed != 0)
		pg_atomic_write_u64(&run->alive_us, replayed);
	(void) pg_atomic_compare_exchange_u64(&run->start_us, &start, shared_line());
	return (int64) pg_atomic_read_u64(&run->start_us);
}

int64
tl_clock_downtime(void)
{
	int64		start = tl_clock_server_start();

	if (tl_shared == NULL)
		return 0;
	pg_read_barrier();
	/* in recovery the start is 0 */
	return Max(start - (int64) pg_atomic_read_u64(&tl_shared->clock.alive_us), 0);
}

/*
 * The place is told by system, database and extension, all of which a copy of
 * the database changes.  The run is told apart at each place, so that times
 * which a template database brings are not taken as ours.  Outside of a
 * transaction the place stands as it was last known.
 */
int64
tl_clock_epoch(void)
{
	static Oid	known_extension = InvalidOid;
	static int64 epoch = 0;
	Oid			extension = IsTransactionState() ? tl_extension_oid() : known_extension;

	if (extension != known_extension || epoch == 0)
	{
		uint64		where[2] = {GetSystemIdentifier(),
								(uint64) extension << 32 | MyDatabaseId};
		uint64		place = hash_bytes((const unsigned char *) where, sizeof(where));
		uint64		when[2] = {tl_shared != NULL ? tl_shared->run : PgStartTime, place};
		uint32		run = hash_bytes((const unsigned char *) when, sizeof(when)) | 1;

		epoch = (int64) (place << 32 | run);
		known_extension = extension;
	}
	return epoch;
}

/*
 * What the wall clock showed at a time of the liveness clock: before a pause it
 * lies further back than the liveness clock says, by all that was lost since.
 */
TimestampTz
tl_clock_to_wall(int64 us, int64 now)
{
	TlDatabase *db = tl_database();
	int64		lost = 0;
	int			i;

	/* a row of others may have any time, and a view must be able to show it */
	us = Max(Min(us, now + FARTHEST), now - FARTHEST);
	for (i = 0; db != NULL && i < TL_KEPT_PAUSES; i++)
		if (us < (int64) pg_atomic_read_u64(&db->pauses[i].at))
			lost += (int64) pg_atomic_read_u64(&db->pauses[i].lost);
	return GetCurrentTimestamp() + (us - now) - lost;
}

/* A tick sets the limit; an arm, which moves it too, by microseconds only. */
int64
tl_clock_tick_age(void)
{
	TlDatabase *db = tl_database();
	uint64		limit;
	int64		now;

	if (db == NULL || pg_atomic_read_u32(&db->clock.ticking) == 0)
		return -1;
	now = read_clock(db, &limit);
	return Max(now - ((int64) limit - TICK_REACH), 0);
}

/* Caller is the worker, whose slot is published. */
void
tl_clock_acquire(void)
{
	TlDatabase *db = tl_database();
	int64		now = tl_clock_now();

	/* what was in flight before the database got its slot */
	if (pg_atomic_read_u64(&db->clock.pause_us) == 0)
		pg_atomic_write_u64(&db->clock.pause_us, now);
	/* the first worker of a slot: later ones note what has changed since */
	if (db->skew == 0)
		db->skew = GetCurrentTimestamp() - now;
	pg_atomic_write_u64(&db->clock.limit, now + TICK_REACH);
	pg_atomic_write_u32(&db->clock.ticking, 1);
	ticks_here = true;
}

/*
 * The wall clock has gone on by more than ours since the last tick, or by less:
 * in a pause that the tick sees, in one in which the monotonic clock stood
 * still too (a machine that sleeps), or by a step.  Only the worker writes
 * here; readers may miss the newest entry.
 */
static void
note_skew(TlDatabase *db, int64 now, int64 push)
{
	int64		lost;
	TlPause    *pause;

	/* what a test moves is no pause: it looks as if that time had passed */
	db->skew -= push;
	lost = GetCurrentTimestamp() - now - db->skew;
	if (lost > -SKEW && lost < SKEW)
		return;
	db->skew += lost;
	pause = &db->pauses[db->npauses++ % TL_KEPT_PAUSES];
	pg_atomic_write_u64(&pause->lost, 0);
	pg_atomic_write_u64(&pause->at, now - push);
	pg_atomic_write_u64(&pause->lost, lost);
}

/*
 * A tick that finds the clock at its limit moves the offset back by the time
 * that was lost.  After a pause no worker may have been able to beat since the
 * last tick: the grace counts from here.
 */
int64
tl_clock_tick(void)
{
	TlDatabase *db = tl_database();
	int64		line = shared_line();
	int64		running;
	uint64		limit;
	int64		push;
	int64		now;

	if (!ticks_here)
		return tl_clock_now();
	running = line + (int64) pg_atomic_read_u64(&db->clock.offset);
	limit = pg_atomic_read_u64(&db->clock.limit);
	push = (int64) pg_atomic_exchange_u64(&db->clock.push, 0);
	do
	{
		now = Min(running, (int64) limit) + push;
		pg_atomic_write_u64(&db->clock.offset, now - line);
		if (running > (int64) limit && !pg_atomic_read_u32(&db->clock.no_pauses))
			pg_atomic_write_u64(&db->clock.pause_us, now);
		pg_write_barrier();
		/* an arm may move the limit meanwhile */
	} while (!pg_atomic_compare_exchange_u64(&db->clock.limit, &limit, now + TICK_REACH));
	note_skew(db, now, push);
	return now;
}

/* Long work is no pause.  A session that does the worker's part has no tick. */
void
tl_clock_keep_ticking(void)
{
	if (ticks_here)
		(void) tl_clock_tick();
}

/* The worker's exit callback runs this too: only atomics. */
void
tl_clock_release(void)
{
	TlDatabase *db = tl_database();

	if (!ticks_here)
		return;
	(void) tl_clock_tick();
	ticks_here = false;
	pg_atomic_write_u64(&db->clock.limit, PG_INT64_MAX);
	pg_atomic_write_u32(&db->clock.ticking, 0);
}

Datum
turn_liveness_clock_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(tl_clock_now());
}

/*
 * For tests, which create the function themselves: move the liveness clock on,
 * so that no test has to wait.  Only the ticking worker writes the offset.
 */
Datum
turn_liveness_clock_advance(PG_FUNCTION_ARGS)
{
	Interval   *step = PG_GETARG_INTERVAL_P(0);
	int64		us = step->time + (step->day + step->month * INT64CONST(30)) * USECS_PER_DAY;
	TlDatabase *db = tl_database();

	if (db == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the wall clock cannot be advanced")));
	pg_atomic_fetch_add_u64(pg_atomic_read_u32(&db->clock.ticking) ?
							&db->clock.push : &db->clock.offset, us);
	while (pg_atomic_read_u64(&db->clock.push) != 0 &&
		   pg_atomic_read_u32(&db->clock.ticking))
	{
		tl_wake_worker(db);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_VOID();
}

/*
 * For tests of the deadlines, which create the function themselves: on a busy
 * machine the worker ticks late now and then, and each such pause gives every
 * turn another turn deadline.
 */
Datum
turn_liveness_clock_no_pauses(PG_FUNCTION_ARGS)
{
	TlDatabase *db = tl_database();

	if (db != NULL)
		pg_atomic_write_u32(&db->clock.no_pauses, 1);
	PG_RETURN_VOID();
}
