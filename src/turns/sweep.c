/*
 * sweep.c
 *		Which turns are to be swept: those to be looked at by now, and those of
 *		sessions that ended.  Pure transaction code, which the worker and
 *		sweep_expired_turns() call; sweep_batch.c decides about the rows.
 */
#include "base/turn_liveness.h"

#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/pidfile.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "replies/delivery.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "turns/sweep.h"
#include "turns/sweep_batch.h"
#include "turns/turn.h"

/*
 * Rows of a batch.  A session gives the memory of a large batch back to the
 * system, and faults it in again with the next.  A call for very many turns
 * makes larger batches: each is a savepoint, and the snapshots of other
 * sessions have room for the ids of 64.
 */
#define CHUNK			128
#define MAX_CHUNK		500
#define MAX_BATCHES		60

PG_FUNCTION_INFO_V1(turn_liveness_sweep_expired_turns);

/*
 * Sweep the owed turns of a deployment whose session died, or with death NULL
 * the rows that are to be looked at by now, in the order of that time.  True if
 * none of them is left over; *next is when the first of those that are is to
 * fail, if that is known.
 */
static bool
sweep_table(const TlDeath *death, int64 now, int max, int *failed, int64 *next)
{
	TlSweepItem items[MAX_CHUNK];
	int			size = Min(Max(max / MAX_BATCHES, CHUNK), MAX_CHUNK);
	Snapshot	snapshot = tl_latest_snapshot();
	TlRel		turns;
	TlScan		scan = {0};
	int			n;
	bool		left = false;
	int			i;

	tl_rel_open(&turns, TL_TURN, false);
	if (death != NULL)
		tl_turn_scan_owed(&turns, &scan, cstring_to_text(death->deployment), snapshot);
	else
	{
		tl_scan_key_int8(&scan, 1, BTLessEqualStrategyNumber, now);
		tl_scan_begin(&scan, &turns, TL_IDX_TURN_OWED_CHECK, snapshot);
	}
	do
	{
		for (n = 0; n < size && tl_scan_next(&scan, ForwardScanDirection); n++)
			items[n] = (TlSweepItem) {
				.tid = scan.slot->tts_tid, .attached = death ? death->attached : 0,
				.died = death ? death->died : 0
			};
		if (n > 0)
			*failed += tl_sweep_items(items, n, max - *failed, death == NULL);
		for (i = 0; i < n; i++)
		{
			left |= items[i].status == TL_SWEEP_BUSY || items[i].status == TL_SWEEP_DYING;
			if (items[i].status == TL_SWEEP_DYING)
				*next = Min(*next, items[i].look_us);
		}
	} while (n == size && *failed < max);
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	return !left && n < size;
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
tl_sweep_deaths(int64 now, int max, int64 *next)
{
	int64		before = now - tl_reconnect_window * TL_MS;
	TlDeath		death;
	int			failed = 0;
	int			at = 0;

	*next = PG_INT64_MAX;
	/* one round over the list; a death with a turn left over is for the next */
	if (tl_attach_oldest_death() <= before && !is_shutdown())
		while (failed < max && tl_attach_next_death(before, &at, &death))
			if (sweep_table(&death, 0, max, &failed, next))
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
	alone = tl_sweep_is_alone();
	if (alone && db != NULL)
		tl_grace_watch(tl_clock_now());
	/* a session that connected before ALTER DATABASE has the old setting */
	if (!tl_sweep || (!alone && pg_atomic_read_u32(&db->grace.sweep_off) != 0))
		PG_RETURN_INT32(0);

	now = tl_clock_sweep_time();
	failed = tl_sweep_deaths(now, max, &next);
	(void) sweep_table(NULL, now, max, &failed, &next);

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
