/*
 * turn.c
 *		Making, judging and changing the row of a turn.
 *
 * All functions that change one turn do it in the same steps: find the row
 * under the latest snapshot, lock it, judge it, write it.  The lock waits for
 * another transaction that holds the row.  If that transaction changed it, the
 * row is found and judged anew, so the first to commit comes first.  Above
 * READ COMMITTED a row that changed after the transaction's snapshot is 40001
 * instead.
 *
 * A turn that has ended is not locked: it never changes again, and a look at
 * it writes nothing.  Nor is one that a later generation holds than the caller:
 * where beats go to rows, the trace of a lock gives the turn its time again.
 */
#include "base/turn_liveness.h"

#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/lease.h"
#include "turns/turn.h"

void
tl_turn_make(TlTurn *turn, text *deployment, text *message_id, Jsonb *routing)
{
	text	   *conversation = tl_routing_text(routing, "conversationId", true);

	(void) tl_routing_text(routing, "platform", true);
	(void) tl_routing_text(routing, "organizationId", false);

	memset(turn, 0, sizeof(*turn));
	memset(turn->nulls, true, sizeof(turn->nulls));
	turn->times.epoch = tl_clock_epoch();
	turn->times.begun = turn->times.armed = tl_clock_arm_stamp();
	turn->times.admission_ms = tl_admission_deadline;
	turn->times.silence_ms = tl_turn_deadline;
	turn->times.duration_ms = tl_default_duration();
	turn->times.rescue_ms = tl_rescue_window;
	turn->times.generation = 1;

	tl_turn_set(turn, TURN_DEPLOYMENT, PointerGetDatum(deployment));
	tl_turn_set(turn, TURN_MESSAGE_ID, PointerGetDatum(message_id));
	tl_turn_set(turn, TURN_ARMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	tl_turn_set(turn, TURN_CONVERSATION, PointerGetDatum(conversation ? conversation : deployment));
	tl_turn_set(turn, TURN_ROUTING, JsonbPGetDatum(routing));
	tl_turn_set_keys(turn);
}

void
tl_turn_judge(const TlTurn *turn, int64 now, int64 seen, TlVerdict *verdict)
{
	TlSigns		signs;
	TlGrace		grace;

	tl_grace_get(&grace);
	tl_lease_read(turn->deployment_key, turn->turn_key, &signs);
	signs.seen = seen;
	tl_deadline(&turn->times, &signs, &grace, now, verdict);
}

/*
 * Both times are stamped like an arm: see tl_clock_arm_stamp().  A turn that
 * was handed over after the session attached has another worker, or one that
 * has not attached for this generation.
 */
static bool
has_died(const TlTurn *turn, int64 attached, int64 died)
{
	int64		last = Max(tl_lease_last_beat(turn->deployment_key), turn->times.beat);

	return died > 0 && last < died && turn->times.armed < died && turn->times.wait_until == 0 &&
		(turn->times.generation == 1 || turn->times.armed < attached);
}

/*
 * The reconnect window begins anew after a pause, in which no session could
 * come back.  A turn whose session ended before the sweep was turned on again
 * gets one turn deadline, like every other: with turn_liveness.accept = off the
 * server refused its worker until then.
 */
int64
tl_turn_dies(const TlTurn *turn, int64 attached, int64 died)
{
	TlGrace		grace;
	int64		dies;

	if (died == 0 || !has_died(turn, attached, died))
		return PG_INT64_MAX;
	tl_grace_get(&grace);
	dies = Max(died, grace.pause) + tl_reconnect_window * TL_MS;
	if (died <= grace.resumed)
		dies = Max(dies, grace.resumed +
				   Min(turn->times.silence_ms, turn->times.duration_ms) * TL_MS);
	return dies;
}

void
tl_turn_adopt(TlTurn *turn, int64 seen)
{
	TlGrace		grace;

	tl_grace_get(&grace);
	tl_times_adopt(&turn->times, &grace, seen, tl_clock_now());
}

/*
 * May a beat have met the row while a transaction held it that rolled back?
 * The beat waits for a second at most (beat.c).  A transaction that commits has
 * stamped the row (xact.c).  The id of one that rolls back stays in the row
 * until the row is locked or replaced.
 */
static bool
beat_may_be_missing(const TlTurn *turn)
{
	BufferHeapTupleTableSlot *slot = (BufferHeapTupleTableSlot *) turn->slot;
	HeapTupleHeader tuple = slot->base.tuple->t_data;
	bool		held;
	bool		kept;

	Assert(TTS_IS_BUFFERTUPLE(turn->slot));
	if (!tl_rows_are_beaten())
		return false;
	LockBuffer(slot->buffer, BUFFER_LOCK_SHARE);
	/* the transaction that wrote the row locked the version before it first */
	held = TransactionIdIsValid(HeapTupleHeaderGetRawXmax(tuple)) &&
		HeapTupleHeaderGetRawXmax(tuple) != HeapTupleHeaderGetRawXmin(tuple);
	/*
	 * A savepoint of that transaction may have done so.  Then the row that
	 * the transaction stamped at its commit keeps the savepoint's id, as a
	 * lock that holds up no beat.
	 */
	kept = turn->times.seen != 0 && HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask) &&
		HEAP_XMAX_IS_KEYSHR_LOCKED(tuple->t_infomask);
	LockBuffer(slot->buffer, BUFFER_LOCK_UNLOCK);
	return held && !kept;
}

/*
 * The lock wipes out the trace of a beat that may be missing, so the turn
 * counts as first seen now if there may be one.
 */
TM_Result
tl_turn_lock(TlRel *turns, TlTurn *turn, Snapshot snapshot, bool wait, int64 seen,
			 bool *unmarked)
{
	TM_Result	result;

	*unmarked = *unmarked || !beat_may_be_missing(turn);
	result = tl_rel_lock(turns, &turn->tid, snapshot, LockTupleNoKeyExclusive, LockWaitSkip);
	if (result == TM_WouldBlock && wait)
	{
		*unmarked = !tl_rows_are_beaten();
		result = tl_rel_lock(turns, &turn->tid, snapshot, LockTupleNoKeyExclusive, LockWaitBlock);
	}
	if (!*unmarked)
	{
		/* the stamp is of this run, so the other times must be, too */
		tl_turn_adopt(turn, seen);
		turn->times.seen = tl_clock_now();
	}
	return result;
}

bool
tl_turn_take(TlRel *turns, TlTurn *turn, Snapshot snapshot, bool *unmarked)
{
	*unmarked = *unmarked || !beat_may_be_missing(turn);
	return *unmarked && tl_rel_take(turns, &turn->tid, snapshot);
}

void
tl_turn_put_back(TlRel *turns, TlTurn *turn)
{
	bool		armed = tl_xact_has_armed(&turn->tid);

	Assert(tl_turn_is_owed(turn));
	tl_turn_rows_put_back(turns, &turn, 1);
	tl_xact_wrote(turn, armed);
}

/*
 * A row that stays owed has a new address: the worker must be told.  A row
 * that this transaction armed is told of as of an arm, so that the stamp
 * before the commit finds it (xact.c).
 */
void
tl_turn_write(TlRel *turns, TlTurn *turn, Snapshot snapshot, bool armed)
{
	bool		owed = tl_turn_is_owed(turn);
	TM_Result	result;

	armed = owed && (armed || tl_xact_has_armed(&turn->tid));
	result = tl_turn_update(turns, turn, snapshot);
	if (result != TM_Ok)
		elog(ERROR, "unexpected result of updating a locked row: %d", (int) result);
	if (owed)
		tl_xact_wrote(turn, armed);
}

bool
tl_turn_change(TlRel *turns, const text *deployment, const TlTurnName *name, int32 fence,
			   TlTurnCallback callback, void *arg)
{
	for (;;)
	{
		Snapshot	snapshot = tl_latest_snapshot();
		TlScan		scan = {0};
		TlTurn		turn;
		TM_Result	result = TM_Ok;
		bool		unmarked = false;
		bool		found;

		CHECK_FOR_INTERRUPTS();
		found = tl_turn_find(turns, &scan, deployment, name, snapshot, &turn);
		if (found)
		{
			TlTurnChange change = TL_TURN_KEPT;

			tl_rel_check_visible(turns, turn.slot);
			/* no later commit gives the turn back to an earlier holder */
			if (tl_turn_is_owed(&turn) && (fence == 0 || fence >= turn.times.generation))
				result = tl_turn_lock(turns, &turn, snapshot, true, 0, &unmarked);
			if (result == TM_Ok)
				change = callback(&turn, arg);
			if (change != TL_TURN_KEPT)
			{
				tl_turn_write(turns, &turn, snapshot, change == TL_TURN_ARMED);
				if (change == TL_TURN_ARMED)
					tl_xact_hand_over(&turn);
				else if (tl_turn_is_owed(&turn))
					tl_xact_count(&turn, false);
			}
		}
		tl_scan_end(&scan);
		UnregisterSnapshot(snapshot);

		if (result == TM_Ok)
			return found;
		if (IsolationUsesXactSnapshot())
			tl_serialization_failure();
	}
}
