/*
 * judge.c
 *		What is known of an owed turn now: its deadline, and beats that may be
 *		missing.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "storage/bufmgr.h"

#include "shared/clock.h"
#include "shared/database.h"
#include "shared/grace.h"
#include "shared/lease.h"
#include "turns/judge.h"

/* The caller reads the clock first: so each pause that it has left is known. */
static void
judge(const TlTurn *turn, int64 seen, int64 now, TlVerdict *verdict)
{
	TlSigns		signs;
	TlGrace		grace;

	tl_grace_get(&grace);
	tl_lease_read(turn->deployment_key, turn->turn_key, &signs);
	signs.seen = seen;
	tl_deadline(&turn->times, &signs, &grace, now, verdict);
}

int64
tl_turn_judge(const TlTurn *turn, TlVerdict *verdict)
{
	int64		now = tl_clock_now();

	judge(turn, 0, now, verdict);
	return now;
}

int64
tl_turn_judge_seen(const TlTurn *turn, int64 seen, TlVerdict *verdict)
{
	int64		now = tl_clock_sweep_time();

	judge(turn, seen, now, verdict);
	return now;
}

void
tl_turn_adopt(TlTurn *turn, int64 seen)
{
	TlGrace		grace;

	tl_grace_get(&grace);
	tl_times_adopt(&turn->times, &grace, seen, tl_clock_now());
}

/*
 * A beat that meets a row in the hands of another transaction waits for a
 * second at most (row_beat.c).  If that transaction commits, it has stamped
 * the row (xact.c).  If it rolls back, its id stays in the row until the row
 * is locked or replaced: a caller that does so asks first, and gives the turn
 * its time again.
 */
bool
tl_turn_beat_may_be_missing(const TlTurn *turn)
{
	BufferHeapTupleTableSlot *slot = (BufferHeapTupleTableSlot *) turn->slot;
	HeapTupleHeader tuple = slot->base.tuple->t_data;
	bool		held;

	Assert(TTS_IS_BUFFERTUPLE(turn->slot));
	if (!tl_rows_are_beaten())
		return false;
	LockBuffer(slot->buffer, BUFFER_LOCK_SHARE);
	/* the transaction that wrote the row locked the version before it first */
	held = TransactionIdIsValid(HeapTupleHeaderGetRawXmax(tuple)) &&
		HeapTupleHeaderGetRawXmax(tuple) != HeapTupleHeaderGetRawXmin(tuple);
	LockBuffer(slot->buffer, BUFFER_LOCK_UNLOCK);
	return held;
}
