/*
 * turn.c
 *		Making, judging, changing and showing the row of a turn; and the
 *		trigger that tells us of changes to the table by SQL.
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

#include "access/xlog.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "base/args.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/lease.h"
#include "turns/turn.h"

PG_FUNCTION_INFO_V1(turn_liveness_has_live_turn);
PG_FUNCTION_INFO_V1(turn_liveness_turn_status);
PG_FUNCTION_INFO_V1(turn_liveness_foreign_change);

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
tl_turn_change(TlRel *turns, const text *deployment, const text *message_id,
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
		found = tl_turn_find(turns, &scan, deployment, message_id, snapshot, &turn);
		if (found)
		{
			TlTurnChange change = TL_TURN_KEPT;

			tl_rel_check_visible(turns, turn.slot);
			if (tl_turn_is_owed(&turn))
				result = tl_turn_lock(turns, &turn, snapshot, true, 0, &unmarked);
			if (result == TM_Ok)
				change = callback(&turn, arg);
			if (change != TL_TURN_KEPT)
			{
				tl_turn_write(turns, &turn, snapshot, change == TL_TURN_ARMED);
				if (tl_turn_is_owed(&turn))
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

/*
 * An authorization gate: judged by what is committed now, not by a snapshot of
 * the caller's.  A turn that has lapsed and is not failed yet is not live.
 */
Datum
turn_liveness_has_live_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	int64		now;
	Snapshot	snapshot;
	TlRel		turns;
	TlScan		scan = {0};
	TlTurn		turn;
	TlVerdict	verdict = {0};

	PreventCommandDuringRecovery("has_live_turn");
	now = tl_clock_now();
	snapshot = tl_latest_snapshot();
	tl_rel_open(&turns, TL_TURN, false);
	if (tl_turn_find(&turns, &scan, deployment, message_id, snapshot, &turn) &&
		tl_turn_is_owed(&turn))
		tl_turn_judge(&turn, now, 0, &verdict);
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	PG_RETURN_BOOL(now < verdict.deadline);
}

/*
 * The view turns calls this for each owed row.  On a standby no worker beats
 * and no clock runs: the row alone tells, which has no beats of the leases, and
 * when the turn lapses is not known.
 */
Datum
turn_liveness_turn_status(PG_FUNCTION_ARGS)
{
	static const int required[] = {
		TURN_DEPLOYMENT, TURN_MESSAGE_ID, TURN_EPOCH, TURN_BEGUN, TURN_ARMED,
		TURN_ADMISSION, TURN_SILENCE, TURN_DURATION
	};
	HeapTupleHeader header;
	TupleDesc	rowdesc;
	TupleDesc	desc;
	TupleTableSlot *slot;
	HeapTupleData tuple = {0};
	HeapTuple	result;
	TlTurn		turn;
	TlVerdict	verdict = {0};
	int64		now = 0;
	Datum		values[4];
	bool		nulls[4] = {false};
	int			i;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	header = PG_GETARG_HEAPTUPLEHEADER(0);
	rowdesc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
									 HeapTupleHeaderGetTypMod(header));
	slot = MakeSingleTupleTableSlot(rowdesc, &TTSOpsHeapTuple);
	(void) get_call_result_type(fcinfo, NULL, &desc);
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	ExecStoreHeapTuple(&tuple, slot, false);

	/* a caller can make a row that no table could hold */
	for (i = 0; i < lengthof(required); i++)
		if (rowdesc->natts < TURN_NATTS || slot_attisnull(slot, required[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid row of table \"%s.%s\"", TL_SCHEMA, "turn")));
	tl_turn_decode(slot, &turn);

	verdict.started = turn.times.started > 0;
	nulls[2] = RecoveryInProgress();
	if (!nulls[2])
	{
		now = tl_clock_now();
		tl_turn_judge(&turn, now, 0, &verdict);
	}
	nulls[0] = verdict.first_beat == 0;
	nulls[1] = verdict.last_beat == 0;
	values[0] = TimestampTzGetDatum(tl_clock_to_wall(verdict.first_beat, now));
	values[1] = TimestampTzGetDatum(tl_clock_to_wall(verdict.last_beat, now));
	values[2] = TimestampTzGetDatum(tl_clock_to_wall(verdict.deadline, now));
	values[3] = CStringGetTextDatum(!nulls[2] && now >= verdict.deadline ? "lapsed" :
									turn.times.frozen > 0 ? "withheld" :
									verdict.started ? "running" : "waiting");
	result = heap_form_tuple(BlessTupleDesc(desc), values, nulls);
	ExecDropSingleTupleTableSlot(slot);
	ReleaseTupleDesc(rowdesc);
	PG_RETURN_DATUM(HeapTupleGetDatum(result));
}

/* A statement has changed the table: counts are void, rows may be new. */
Datum
turn_liveness_foreign_change(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager", "foreign_change")));
	tl_xact_foreign_change();
	return PointerGetDatum(NULL);
}
