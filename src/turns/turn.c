/*
 * turn.c
 *		Making the row of a turn, and changing it.
 *
 * All functions that change one turn do it in the same steps: find the row
 * under the latest snapshot, lock it, judge it, write it.  The lock waits for
 * another transaction that holds the row.  If that transaction changed it, the
 * row is found and judged anew, so the first to commit comes first.  Above
 * READ COMMITTED a row that changed after the transaction's snapshot is 40001
 * instead.
 *
 * A turn that has ended is not locked: it never changes again, and a look at
 * it writes nothing.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "turns/judge.h"
#include "turns/turn.h"

static TM_Result lock_turn(TlRel *turns, TlTurn *turn, Snapshot snapshot);
static void write_changed(TlRel *turns, TlTurn *turn, Snapshot snapshot, int64 was_armed);

void
tl_turn_make(TlTurn *turn, text *deployment, text *message_id, Jsonb *routing,
			 int32 admission_ms, int32 silence_ms, int32 duration_ms)
{
	text	   *conversation = tl_routing_text(routing, "conversationId", true);

	(void) tl_routing_text(routing, "platform", true);
	(void) tl_routing_text(routing, "organizationId", false);

	memset(turn, 0, sizeof(*turn));
	memset(turn->nulls, true, sizeof(turn->nulls));
	turn->times.epoch = tl_clock_epoch();
	turn->times.begun = turn->times.armed = tl_clock_arm_stamp();
	turn->times.admission_ms = admission_ms;
	turn->times.silence_ms = silence_ms;
	turn->times.duration_ms = duration_ms;
	turn->next_check = tl_times_next_check(&turn->times);

	tl_turn_set(turn, TURN_DEPLOYMENT, PointerGetDatum(deployment));
	tl_turn_set(turn, TURN_MESSAGE_ID, PointerGetDatum(message_id));
	tl_turn_set(turn, TURN_ARMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	tl_turn_set(turn, TURN_CONVERSATION, PointerGetDatum(conversation ? conversation : deployment));
	tl_turn_set(turn, TURN_ROUTING, JsonbPGetDatum(routing));
	tl_turn_set_keys(turn);
}

/*
 * Lock an owed turn.  Its lock wipes out the trace of a beat that may be
 * missing, so the turn counts as first seen now if there may be one.
 */
static TM_Result
lock_turn(TlRel *turns, TlTurn *turn, Snapshot snapshot)
{
	bool		missing = tl_turn_beat_may_be_missing(turn);
	TM_Result	result;

	result = tl_rel_lock(turns, &turn->tid, snapshot, LockTupleNoKeyExclusive, LockWaitSkip);
	if (result == TM_WouldBlock)
	{
		missing = tl_rows_are_beaten();
		result = tl_rel_lock(turns, &turn->tid, snapshot, LockTupleNoKeyExclusive, LockWaitBlock);
	}
	if (missing)
		turn->times.seen = tl_clock_now();
	return result;
}

void
tl_turn_write(TlRel *turns, TlTurn *turn, Snapshot snapshot)
{
	TM_Result	result = tl_turn_update(turns, turn, snapshot);

	if (result != TM_Ok)
		elog(ERROR, "unexpected result of updating a locked row: %d", (int) result);
}

/*
 * A row that stays owed has a new address: the worker must be told.  A row
 * that this transaction armed is told of as of an arm, so that the stamp
 * before the commit finds it (xact.c).
 */
static void
write_changed(TlRel *turns, TlTurn *turn, Snapshot snapshot, int64 was_armed)
{
	bool		armed = turn->times.armed != was_armed || tl_xact_has_armed(&turn->tid);

	tl_turn_write(turns, turn, snapshot);
	if (!tl_turn_is_owed(turn))
		return;
	tl_xact_touch(turn->deployment_key, 0);
	tl_xact_watch_turn(turn, armed);
	tl_xact_wrote_turn(turn, armed);
}

bool
tl_turn_change(TlRel *turns, const text *deployment, const text *message_id,
			   TlTurnCallback callback, void *arg)
{
	for (;;)
	{
		Snapshot	snapshot = tl_latest_snapshot();
		TlScan		scan = {0};
		TlTurn		turn;
		TM_Result	result = TM_Ok;
		bool		found;

		CHECK_FOR_INTERRUPTS();
		found = tl_turn_find(turns, &scan, deployment, message_id, snapshot, &turn);
		if (found)
		{
			int64		was_armed = turn.times.armed;

			tl_rel_check_visible(turns, turn.slot);
			if (tl_turn_is_owed(&turn))
				result = lock_turn(turns, &turn, snapshot);
			if (result == TM_Ok && callback(&turn, arg))
				write_changed(turns, &turn, snapshot, was_armed);
		}
		tl_scan_end(&scan);
		UnregisterSnapshot(snapshot);

		if (result == TM_Ok)
			return found;
		if (IsolationUsesXactSnapshot())
			tl_serialization_failure();
	}
}
