/*
 * judge.c
 *		What is known of an owed turn now: its deadline, and beats that may be
 *		missing.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "storage/bufmgr.h"

#include "shared/clock.h"
#include "shared/grace.h"
#include "shared/shmem.h"
#include "turns/judge.h"

int64
tl_turn_judge(const TlTurn *turn, TlVerdict *verdict)
{
	int64		now = tl_clock_now();
	TlSigns		signs;
	TlGrace		grace;

	tl_lease_read(turn->deployment_key, turn->turn_key, &signs);
	tl_grace_get(&grace);
	tl_deadline(&turn->times, &signs, &grace, now, verdict);
	return now;
}

/* No beat goes to rows as long as there is room for leases. */
bool
tl_rows_are_beaten(void)
{
	return tl_database() == NULL || pg_atomic_read_u32(&tl_database()->rows_beaten) != 0;
}

/*
 * A beat that meets a row in the hands of another transaction waits for a second
 * at most (row_beat.c).  If that transaction commits, it has stamped the row
 * (xact.c).  If it rolls back, its id stays in the row until the row is locked or
 * replaced: a caller that does so asks first, and gives the turn its time again.
 */
bool
tl_turn_beat_may_be_missing(const TlTurn *turn)
{
	BufferHeapTupleTableSlot *slot = (BufferHeapTupleTableSlot *) turn->slot;
	HeapTupleHeader tuple = slot->base.tuple->t_data;
	bool		held;

	Assert(TTS_IS_BUFFERTUPLE(turn->slot));
	if (turn->times.beat == 0 && !tl_rows_are_beaten())
		return false;
	LockBuffer(slot->buffer, BUFFER_LOCK_SHARE);
	/* the transaction that wrote the row locked the version before it first */
	held = TransactionIdIsValid(HeapTupleHeaderGetRawXmax(tuple)) &&
		HeapTupleHeaderGetRawXmax(tuple) != HeapTupleHeaderGetRawXmin(tuple);
	LockBuffer(slot->buffer, BUFFER_LOCK_UNLOCK);
	return held;
}
