/*
 * grace.c
 *		What holds lapses back for a whole database.
 *
 * Start of the server and pauses come from the clock.  While
 * turn_liveness.sweep is off, no process sweeps; when it is turned on again,
 * each turn gets one turn deadline.
 *
 * Mass silence: at least ten deployments beat within one turn deadline, and
 * then no worker at all calls.  Then the path of the workers to the database is
 * dead, not the workers.  Only calls that workers make tell that the path
 * lives: a gateway may well reach the database over another one.  And a
 * statement tells it once, when it comes: one that is here already goes on
 * calling, after a wait for a lock say, though the path is dead.  What the
 * silence means for a turn depends on its own silence deadline:
 * rules/deadline.c.
 *
 * The fields are in the database's slot.  Sessions write last_call_us, at
 * most twenty times a second, and the session that ends a silence writes the
 * gap under the directory lock.  The sweeping process writes the rest.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"

#include "base/guc.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/lease_table.h"

#define CROWD			10
#define CALL_RESOLUTION	(50 * TL_MS)
/* the worker looks at a silence of that length; shorter ones are none */
#define MIN_SILENCE		(500 * TL_MS)

/*
 * Calls come again after a silence that the worker has found to be one of many.
 * The first session that takes the lock notes it.  A gap holds turns until
 * twice its length after its end at most: what the longer one before it still
 * holds is kept beside it.
 */
static void
note_gap(TlDatabase *db, int64 from, int64 to)
{
	TlGap	   *gaps = db->grace.gaps;

	if (from == 0 || (int64) pg_atomic_read_u64(&db->grace.crowd_us) != from)
		return;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (gaps[0].from != from)
	{
		if (3 * gaps[0].to - 2 * gaps[0].from > 3 * gaps[1].to - 2 * gaps[1].from)
			gaps[1] = gaps[0];
		gaps[0].from = from;
		gaps[0].to = to;
	}
	LWLockRelease(&tl_shared->directory);
}

/*
 * The first call of a statement stands for its arrival.  A procedure that
 * commits goes on in the same statement, but in a new transaction.  The wall
 * clock may step back, so any other time tells a new one.  A background worker
 * need not set the time of a statement: all its calls count.
 */
TL_HOT void
tl_grace_note_call(int64 now)
{
	static TimestampTz noted_statement = 0;
	static TimestampTz noted_transaction = 0;
	TlDatabase *db = tl_database();
	TimestampTz statement = GetCurrentStatementStartTimestamp();
	TimestampTz transaction = GetCurrentTransactionStartTimestamp();
	int64		last;

	if (db == NULL || (statement == noted_statement && transaction == noted_transaction &&
					   statement != 0))
		return;
	noted_statement = statement;
	noted_transaction = transaction;
	last = (int64) pg_atomic_read_u64(&db->last_call_us);
	if (now - last <= CALL_RESOLUTION)
		return;
	if (now - last >= MIN_SILENCE)
		note_gap(db, last, now);
	pg_atomic_write_u64(&db->last_call_us, now);
}

void
tl_grace_get(TlGrace *grace)
{
	TlDatabase *db = tl_database();

	memset(grace, 0, sizeof(*grace));
	grace->epoch = tl_clock_epoch();
	grace->start = tl_clock_server_start();
	grace->downtime = tl_clock_downtime();
	grace->restore_grace = tl_restore_grace * TL_MS;
	/* without preload a promotion leaves only the rows of another run */
	grace->start_is_unsure = tl_shared == NULL;
	if (db == NULL)
		return;
	grace->pause = pg_atomic_read_u64(&db->clock.pause_us);
	grace->resumed = pg_atomic_read_u64(&db->grace.resumed_us);
	grace->last_call = pg_atomic_read_u64(&db->last_call_us);
	grace->crowd = grace->last_call > 0 &&
		(int64) pg_atomic_read_u64(&db->grace.crowd_us) == grace->last_call;
	/* a session writes the gap before its call */
	pg_read_barrier();
	if (db->grace.gaps[0].to != 0)
	{
		LWLockAcquire(&tl_shared->directory, LW_SHARED);
		memcpy(grace->gaps, db->grace.gaps, sizeof(grace->gaps));
		LWLockRelease(&tl_shared->directory);
	}
	grace->hold_max = tl_mass_silence_hold * TL_MS;
}

void
tl_grace_watch(int64 now)
{
	TlDatabase *db = tl_database();
	TlGraceState *grace = &db->grace;
	int64		last_call = pg_atomic_read_u64(&db->last_call_us);

	if (!tl_sweep || !tl_accept)
		pg_atomic_write_u32(&grace->sweep_off, 1);
	else if (pg_atomic_exchange_u32(&grace->sweep_off, 0) != 0)
		pg_atomic_write_u64(&grace->resumed_us, now);

	/* asked once for each silence, as soon as it is long enough */
	if (last_call > 0 && now - last_call >= MIN_SILENCE &&
		last_call != (int64) pg_atomic_read_u64(&grace->asked_us))
	{
		pg_atomic_write_u64(&grace->asked_us, last_call);
		if (tl_lease_count_since(last_call - tl_turn_deadline * TL_MS, CROWD) >= CROWD)
			pg_atomic_write_u64(&grace->crowd_us, last_call);
	}
}
