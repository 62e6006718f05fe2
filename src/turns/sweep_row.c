/*
 * sweep_row.c
 *		Deciding about one turn that may have lapsed.
 *
 * A row is read under the latest snapshot and judged without a lock first, for
 * most rows live.  Then it is locked without waiting: a row that another
 * transaction holds is passed over, for that transaction decides.  The leases
 * are read again under the lock, and the turn is failed or left.
 */
#include "base/turn_liveness.h"

#include "access/tableam.h"
#include "replication/syncrep.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/guc.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/grace.h"
#include "shared/lease.h"
#include "turns/failure.h"
#include "turns/judge.h"
#include "turns/sweep_row.h"
#include "turns/turn.h"

#define BUSY_PAUSE		TL_SECOND
#define WORKER_LEAD		TL_SECOND	/* a worker fails what lapses within that */

static bool read_owed(TlSweep *sweep, const TlSweepItem *item, Snapshot snapshot, TlTurn *turn);
static bool note_first_sight(TlSweep *sweep, const TlSweepItem *item, TlTurn *turn);
static bool is_left_to_worker(const TlSweep *sweep, TlTurn *turn, const TlVerdict *verdict,
							  int64 now);
static bool has_died(const TlTurn *turn, int64 died);
static void decide(TlSweep *sweep, TlSweepItem *item, Snapshot snapshot, TlTurn *turn);
static void fail_turn(TlSweep *sweep, TlTurn *turn, Snapshot snapshot, const TlVerdict *verdict,
					  bool died, int64 now);

/* The table may have been rewritten since the address was noted. */
static bool
read_owed(TlSweep *sweep, const TlSweepItem *item, Snapshot snapshot, TlTurn *turn)
{
	ExecClearTuple(sweep->slot);
	if (ItemPointerGetBlockNumberNoCheck(&item->tid) >= sweep->nblocks ||
		!table_tuple_fetch_row_version(sweep->turns.rel, unconstify(ItemPointerData *, &item->tid),
									   snapshot, sweep->slot))
		return false;
	tl_turn_decode(sweep->slot, turn);
	return tl_turn_is_owed(turn);
}

/*
 * A row that became visible late counts from its first sight.  The worker
 * keeps that time in memory (item->seen); a session, which may be the first to
 * see the row, writes it down.  False: the row is restored, and the worker has
 * seen it and knows when.
 */
static bool
note_first_sight(TlSweep *sweep, const TlSweepItem *item, TlTurn *turn)
{
	int64		now = tl_clock_now();
	bool		unseen;
	TlGrace		grace;

	if (!sweep->move_check)
		return true;
	tl_grace_get(&grace);
	unseen = item->seen == 0 &&
		tl_epoch_run(turn->times.epoch) != tl_epoch_run(grace.epoch) &&
		(grace.start_is_unsure ||
		 tl_epoch_place(turn->times.epoch) != tl_epoch_place(grace.epoch));
	if (unseen && !sweep->alone)
		return false;
	if (unseen || turn->times.seen == TL_SEEN_UNKNOWN)
	{
		tl_turn_adopt(turn, now);
		turn->times.seen = now;
	}
	return true;
}

/*
 * A session cannot tell a turn that lapsed long ago from one whose commit
 * waited, for a standby say, and that just became visible.  The worker can,
 * for it is told at the commit, and it fails what lapses within a second: the
 * session leaves the others to it.  Without a worker the turn counts from this
 * first sight, if commits can wait so at all.
 */
static bool
is_left_to_worker(const TlSweep *sweep, TlTurn *turn, const TlVerdict *verdict, int64 now)
{
	if (!sweep->move_check || turn->times.seen != 0 || verdict->deadline + WORKER_LEAD >= now)
		return false;
	if (!sweep->alone)
		return pg_atomic_read_u32(&tl_database()->grace.sweep_off) == 0;
	if (SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0')
		turn->times.seen = now;
	return false;
}

/* Its session ended after the arm, and the deployment has not beaten since. */
static bool
has_died(const TlTurn *turn, int64 died)
{
	int64		last = Max(tl_lease_last_beat(turn->deployment_key), turn->times.beat);

	/* a death is stamped like an arm: see tl_clock_arm_stamp() */
	return died > 0 && last < died && turn->times.armed < died;
}

/* Decide about an owed turn. */
static void
decide(TlSweep *sweep, TlSweepItem *item, Snapshot snapshot, TlTurn *turn)
{
	int64		now;
	TlVerdict	verdict;
	bool		missing = false;
	bool		lapsed;
	bool		died;
	bool		armed_here;

	item->status = TL_SWEEP_LIVE;
	if (!note_first_sight(sweep, item, turn))
		return;
	now = tl_turn_judge_seen(turn, item->seen, &verdict);
	if (is_left_to_worker(sweep, turn, &verdict, now))
		return;
	item->look_us = verdict.held ? now + BUSY_PAUSE : verdict.deadline;
	if (!sweep->move_check && item->died == 0 && (verdict.held || verdict.deadline > now))
		return;

	/* when a batch is done again, its first try has left marks of its own */
	if (!item->unmarked)
		missing = tl_turn_beat_may_be_missing(turn);
	item->unmarked = !missing;
	if (tl_rel_lock(&sweep->turns, &turn->tid, snapshot, LockTupleNoKeyExclusive,
					LockWaitSkip) != TM_Ok)
	{
		/* an open transaction decides about it, or has just done so */
		item->status = TL_SWEEP_BUSY;
		item->look_us = now + BUSY_PAUSE;
		return;
	}

	/* a beat may have come since the first look */
	if (missing)
	{
		tl_turn_adopt(turn, item->seen);
		turn->times.seen = now;
	}
	now = tl_turn_judge_seen(turn, item->seen, &verdict);
	lapsed = verdict.deadline <= now && !verdict.held;
	died = !lapsed && !missing && has_died(turn, item->died);
	if (lapsed || died)
	{
		fail_turn(sweep, turn, snapshot, &verdict, died, now);
		item->status = TL_SWEEP_FAILED;
		return;
	}
	item->look_us = verdict.held ? now + BUSY_PAUSE : verdict.deadline;
	if (sweep->move_check || missing)
	{
		/* the row has another address then: the worker is told */
		tl_turn_adopt(turn, item->seen);
		turn->next_check = item->look_us;
		armed_here = tl_xact_has_armed(&turn->tid);
		tl_turn_write(&sweep->turns, turn, snapshot);
		tl_xact_watch_turn(turn, armed_here);
		tl_xact_wrote_turn(turn, armed_here);
	}
}

static void
fail_turn(TlSweep *sweep, TlTurn *turn, Snapshot snapshot, const TlVerdict *verdict, bool died,
		  int64 now)
{
	TlCode		lapse = died ? TL_CODE_DIED : verdict->code;
	TlElected	elected;
	text	   *code;
	text	   *error;
	int64		id;

	tl_elected_read(&elected, turn, verdict, now);
	code = tl_turn_isnull(turn, TURN_ERROR_CODE) ? cstring_to_text(tl_code_name(lapse)) :
		tl_turn_text(turn, TURN_ERROR_CODE);
	error = tl_turn_isnull(turn, TURN_REASON) ? cstring_to_text(tl_code_message(lapse)) :
		tl_turn_text(turn, TURN_REASON);
	id = tl_store_error(&sweep->outbox, &elected, error, code,
						died ? TL_DECIDED_SESSION : TL_DECIDED_SWEEP, now);
	if (tl_log_failures)
	{
		MemoryContext old = MemoryContextSwitchTo(sweep->context);

		sweep->lines = lappend(sweep->lines,
							   tl_failure_line(&elected, code, died ? "session" : "sweep"));
		MemoryContextSwitchTo(old);
	}
	tl_turn_end(turn, TL_OUTCOME_ERROR, NULL, id);
	tl_turn_write(&sweep->turns, turn, snapshot);
}

void
tl_sweep_row(TlSweep *sweep, TlSweepItem *item)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlTurn		turn;

	item->status = TL_SWEEP_GONE;
	if (read_owed(sweep, item, snapshot, &turn))
		decide(sweep, item, snapshot, &turn);
	ExecClearTuple(sweep->slot);
	UnregisterSnapshot(snapshot);
}
