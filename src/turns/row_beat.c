/*
 * row_beat.c
 *		Beats on the rows of turns: where there is no room for a lease, and
 *		without preload.
 *
 * A beat must not be lost when its row is in the hands of another transaction
 * (a sweep, another beat, a mark).  It tries the row again for a second.  A
 * transaction that holds the row for longer covers the beat: if it commits, it
 * stamps the row as first seen then (xact.c); if it rolls back, its id stays
 * in the row, and the next session that rewrites the row gives the turn its
 * time again (judge.c).  The second is longer than the half second after which
 * a transaction stamps.
 *
 * A beat holds locks of other rows while it tries, so it never waits for a
 * lock.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/counters.h"
#include "shared/database.h"
#include "store/turn_row.h"
#include "turns/judge.h"
#include "turns/row_beat.h"

#define PATIENCE_US		TL_SECOND	/* of one call, in real time */
#define PAUSE_MS		5

typedef struct RowBeat
{
	text	   *deployment;
	text	   *message_id;
	bool		starts;			/* it starts the turn, if none did before */
	int32	   *owed;
} RowBeat;

static void note_rows_beaten(void);
static bool beat_row(TlRel *turns, RowBeat *beat, int64 now);
static void beat_each(TlRel *turns, TlRowBeats *beats, List *todo);

/* From here on beats may be missing in rows; the log tells of it once. */
static void
note_rows_beaten(void)
{
	TlDatabase *db = tl_database();

	if (db == NULL)
		return;
	pg_atomic_write_u32(&db->rows_beaten, 1);
	tl_counter_add(TL_COUNT_BEATS_IN_ROWS, 1);
	if (pg_atomic_exchange_u32(&db->logged_full, 1) == 0)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("shared memory for beats is full; beats of database \"%s\" are written to the table",
						get_database_name(MyDatabaseId)),
				 errhint("Raise \"%s\".", "turn_liveness.lease_capacity")));
}

/*
 * Write one beat.  False if another transaction holds the row, or has changed
 * it since this looked.
 */
static bool
beat_row(TlRel *turns, RowBeat *beat, int64 now)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlScan		scan = {0};
	TlTurn		turn;
	bool		done = true;

	if (!tl_turn_find(turns, &scan, beat->deployment, beat->message_id, snapshot, &turn) ||
		!tl_turn_is_owed(&turn))
		(*beat->owed)--;
	else if (tl_rel_lock(turns, &turn.tid, snapshot, LockTupleNoKeyExclusive,
						 LockWaitSkip) != TM_Ok)
		done = false;
	else
	{
		bool		armed_here = tl_xact_has_armed(&turn.tid);

		tl_turn_adopt(&turn, 0);
		turn.times.beat = Max(turn.times.beat, now);
		if (beat->starts && turn.times.started < turn.times.armed)
			turn.times.started = now;
		done = tl_turn_update(turns, &turn, snapshot) == TM_Ok;
		if (done)
		{
			tl_xact_watch_turn(&turn, armed_here);
			tl_xact_wrote_turn(&turn, armed_here);
		}
	}
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	return done;
}

/* Write these beats; those whose row is held are left in beats->held. */
static void
beat_each(TlRel *turns, TlRowBeats *beats, List *todo)
{
	ListCell   *cell;

	foreach(cell, todo)
	{
		CHECK_FOR_INTERRUPTS();
		if (!beat_row(turns, lfirst(cell), beats->now))
			beats->held = lappend(beats->held, lfirst(cell));
	}
}

void
tl_row_beat(TlRowBeats *beats, text *deployment, text *message_id, bool starts, int32 *owed)
{
	TlRel		turns;
	text	  **ids = &message_id;
	int			nids = 1;
	List	   *todo = NIL;
	int			i;

	PreventCommandIfReadOnly("heartbeat");
	PreventCommandIfParallelMode("heartbeat");
	note_rows_beaten();

	tl_rel_open(&turns, TL_TURN, true);
	if (message_id == NULL)
		ids = tl_turn_list_owed(&turns, deployment, NULL, NULL, &nids);
	*owed = nids;
	for (i = 0; i < nids; i++)
	{
		RowBeat    *beat = palloc(sizeof(RowBeat));

		beat->deployment = deployment;
		beat->message_id = ids[i];
		beat->starts = starts;
		beat->owed = owed;
		todo = lappend(todo, beat);
	}
	beat_each(&turns, beats, todo);
	tl_rel_close(&turns);
}

void
tl_row_beats_finish(TlRowBeats *beats)
{
	int64		until = tl_monotonic() + PATIENCE_US;

	while (beats->held != NIL && tl_monotonic() < until)
	{
		List	   *todo = beats->held;
		TlRel		turns;

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 PAUSE_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		beats->held = NIL;
		tl_rel_open(&turns, TL_TURN, true);
		beat_each(&turns, beats, todo);
		tl_rel_close(&turns);
		list_free(todo);
	}
}
