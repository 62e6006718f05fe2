/*
 * status.c
 *		What a turn's state is: for has_live_turn, and for the view turns.
 *
 * Also the trigger that tells us of changes to the table by SQL.
 */
#include "base/turn_liveness.h"

#include "access/xlog.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "base/args.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "turns/turn.h"

PG_FUNCTION_INFO_V1(turn_liveness_has_live_turn);
PG_FUNCTION_INFO_V1(turn_liveness_turn_status);
PG_FUNCTION_INFO_V1(turn_liveness_foreign_change);

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
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
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
