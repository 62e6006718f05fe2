/*
 * status.c
 *		What a turn's state is: has_live_turn, get_turn, the view turns.
 *
 * Also the trigger that tells us of changes to the table by SQL.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "replies/read.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "store/reply_row.h"
#include "turns/turn.h"

/* as the views show it; times of the wall clock, 0 = none */
typedef struct Status
{
	const char *state;
	text	   *error_code;		/* or NULL */
	TimestampTz first_beat;
	TimestampTz last_beat;
	TimestampTz deadline;
} Status;

/* the result of get_turn */
enum
{
	GET_STATE, GET_GENERATION, GET_WORKER, GET_ARMED_AT, GET_FIRST_BEAT, GET_LAST_BEAT,
	GET_DEADLINE, GET_ENDED_AT, GET_ERROR_CODE, GET_REASON, GET_DECIDED_BY, GET_REPLY_ID,
	GET_PAYLOAD, GET_LAST_UPDATE, GET_DELIVERY_STATE, GET_NATTS
};

PG_FUNCTION_INFO_V1(turn_liveness_has_live_turn);
PG_FUNCTION_INFO_V1(turn_liveness_turn_status);
PG_FUNCTION_INFO_V1(turn_liveness_get_turn);
PG_FUNCTION_INFO_V1(turn_liveness_foreign_change);

/* When the turn lapses; a lost session may bring that forward. */
static void
judge(const TlTurn *turn, int64 now, TlVerdict *verdict)
{
	int64		attached = 0;
	int64		died;

	tl_turn_judge(turn, now, 0, verdict);
	if (verdict->offered)
		return;
	died = tl_attach_death_of(turn->deployment_key, &attached);
	verdict->deadline = Min(verdict->deadline, tl_turn_dies(turn, attached, died));
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
	tl_rel_open(&turns, TL_TURN, false);
	/* the lock of the table may have kept the session waiting */
	snapshot = tl_latest_snapshot();
	now = tl_clock_now();
	if (tl_turn_find(&turns, &scan, deployment, tl_turn_named(message_id), snapshot, &turn) &&
		tl_turn_is_owed(&turn))
		judge(&turn, now, &verdict);
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	PG_RETURN_BOOL(now < verdict.deadline && !verdict.offered);
}

/*
 * What an owed turn's times and signs of life come to.  On a standby no worker
 * beats and no clock runs: the row alone tells, which has no beats of the
 * leases, and when the turn lapses is not known.
 */
static void
describe(const TlTurn *turn, Status *status)
{
	TlVerdict	verdict = {0};
	bool		known = !RecoveryInProgress();
	int64		now = 0;

	if (known)
	{
		now = tl_clock_now();
		judge(turn, now, &verdict);
	}
	else
		verdict.started = turn->times.started > 0;
	status->state = known && (now >= verdict.deadline || verdict.offered) ? "lapsed" :
		turn->times.wait_until > 0 ? "suspended" : turn->times.frozen > 0 ? "withheld" :
		verdict.started ? "running" : "waiting";
	status->error_code = !tl_turn_isnull(turn, TURN_ERROR_CODE) ? tl_turn_text(turn, TURN_ERROR_CODE) :
		verdict.offered ? cstring_to_text(tl_code_name(verdict.code)) : NULL;
	status->first_beat = verdict.first_beat == 0 ? 0 : tl_clock_to_wall(verdict.first_beat, now);
	status->last_beat = verdict.last_beat == 0 ? 0 : tl_clock_to_wall(verdict.last_beat, now);
	status->deadline = known ? tl_clock_to_wall(verdict.deadline, now) : 0;
}

/* A column that is NULL where there is nothing. */
#define put(i, known, value) \
	do { nulls[i] = !(known); if (known) values[i] = (value); } while (0)

/* The view turns calls this for each owed row. */
Datum
turn_liveness_turn_status(PG_FUNCTION_ARGS)
{
	static const int required[] = {
		TURN_DEPLOYMENT, TURN_MESSAGE_ID, TURN_EPOCH, TURN_BEGUN, TURN_ARMED,
		TURN_ADMISSION, TURN_SILENCE, TURN_DURATION, TURN_RESCUE, TURN_GENERATION
	};
	HeapTupleHeader header;
	TupleDesc	rowdesc;
	TupleDesc	desc;
	TupleTableSlot *slot;
	HeapTupleData tuple = {0};
	HeapTuple	result;
	TlTurn		turn;
	Status		status;
	Datum		values[5];
	bool		nulls[5];
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

	if (!tl_rel_has_columns(TL_TURN, rowdesc))
		tl_not_as_installed(errmsg("table \"%s.%s\" lacks a column that the extension created, or it has another type",
								   TL_SCHEMA, "turn"),
							errhint("Restore it from a backup, or create the extension anew."));
	/* a caller can make a row that no table could hold */
	for (i = 0; i < lengthof(required); i++)
		if (slot_attisnull(slot, required[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid row of table \"%s.%s\"", TL_SCHEMA, "turn")));
	tl_turn_decode(slot, &turn);
	describe(&turn, &status);
	put(0, status.first_beat != 0, TimestampTzGetDatum(status.first_beat));
	put(1, status.last_beat != 0, TimestampTzGetDatum(status.last_beat));
	put(2, status.deadline != 0, TimestampTzGetDatum(status.deadline));
	put(3, true, CStringGetTextDatum(status.state));
	put(4, status.error_code != NULL, PointerGetDatum(status.error_code));
	result = heap_form_tuple(BlessTupleDesc(desc), values, nulls);
	ExecDropSingleTupleTableSlot(slot);
	ReleaseTupleDesc(rowdesc);
	PG_RETURN_DATUM(HeapTupleGetDatum(result));
}

/* What the letters of a record stand for, as the view replies says it. */
static const char *
word(char letter)
{
	switch (letter)
	{
		case TL_DECIDED_REPLY:
			return "reply";
		case TL_DECIDED_FAIL:
			return "fail";
		case TL_DECIDED_SWEEP:
			return "sweep";
		case TL_DECIDED_SESSION:
			return "session";
		case TL_DECIDED_REJECT:
			return "reject";
		default:
			return "discharge";
	}
}

/* Find a reply of the turn's conversation by its id. */
static bool
find_reply(TlScan *replies, const TlTurn *turn, int att)
{
	return !tl_turn_isnull(turn, att) &&
		tl_reply_find(replies, DatumGetInt64(tl_turn_value(turn, att)),
					  DatumGetTextPP(tl_turn_value(turn, TURN_CONVERSATION)));
}

/* A text member of a payload, or NULL. */
static text *
member(Datum payload, const char *key)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&DatumGetJsonbP(payload)->root, key, strlen(key), &value) == NULL ||
		value.type != jbvString)
		return NULL;
	return cstring_to_text_with_len(value.val.string.val, value.val.string.len);
}

/* The columns of a turn that has ended, from its terminal record. */
static void
put_ended(TlScan *replies, const TlTurn *turn, Snapshot snapshot, Datum *values, bool *nulls)
{
	TupleTableSlot *slot = replies->slot;
	char		outcome = DatumGetChar(tl_turn_value(turn, TURN_OUTCOME));
	TlRel		deliveries;
	TlScan		scan = {0};
	const char *state;
	int32		attempt;
	text	   *reason;
	bool		isnull;

	put(GET_STATE, true, CStringGetTextDatum(outcome == TL_OUTCOME_ANSWER ? "answer" :
											 outcome == TL_OUTCOME_ERROR ? "error" : "discharged"));
	put(GET_REPLY_ID, !tl_turn_isnull(turn, TURN_REPLY_ID), tl_turn_value(turn, TURN_REPLY_ID));
	if (!find_reply(replies, turn, TURN_REPLY_ID))
		return;
	values[GET_ARMED_AT] = slot_getattr(slot, REPLY_ARMED_AT, &nulls[GET_ARMED_AT]);
	values[GET_FIRST_BEAT] = slot_getattr(slot, REPLY_FIRST_BEAT, &nulls[GET_FIRST_BEAT]);
	values[GET_LAST_BEAT] = slot_getattr(slot, REPLY_LAST_BEAT, &nulls[GET_LAST_BEAT]);
	values[GET_ENDED_AT] = slot_getattr(slot, REPLY_CREATED_AT, &nulls[GET_ENDED_AT]);
	values[GET_ERROR_CODE] = slot_getattr(slot, REPLY_ERROR_CODE, &nulls[GET_ERROR_CODE]);
	values[GET_PAYLOAD] = slot_getattr(slot, REPLY_PAYLOAD, &nulls[GET_PAYLOAD]);
	if (outcome == TL_OUTCOME_ERROR && !nulls[GET_PAYLOAD] &&
		(reason = member(values[GET_PAYLOAD], "error")) != NULL)
		put(GET_REASON, true, PointerGetDatum(reason));
	put(GET_DECIDED_BY, !slot_attisnull(slot, REPLY_DECIDED_BY),
		CStringGetTextDatum(word(DatumGetChar(slot_getattr(slot, REPLY_DECIDED_BY, &isnull)))));

	tl_rel_open(&deliveries, TL_DELIVERY, false);
	tl_delivery_scan(&scan, &deliveries, snapshot);
	state = tl_find_delivery_state(&scan, DatumGetTextPP(tl_turn_value(turn, TURN_CONVERSATION)),
								   DatumGetInt64(tl_turn_value(turn, TURN_REPLY_ID)),
								   false, tl_clock_now(), &attempt);
	put(GET_DELIVERY_STATE, state != NULL, CStringGetTextDatum(state));
	tl_scan_end(&scan);
	tl_rel_close(&deliveries);
}

/* The columns of a turn that is owed. */
static void
put_owed(const TlTurn *turn, Datum *values, bool *nulls)
{
	Status		status;
	int			reason = tl_turn_isnull(turn, TURN_WAIT_REASON) ? TURN_REASON : TURN_WAIT_REASON;

	describe(turn, &status);
	put(GET_STATE, true, CStringGetTextDatum(status.state));
	put(GET_ARMED_AT, true, tl_turn_value(turn, TURN_ARMED_AT));
	put(GET_FIRST_BEAT, status.first_beat != 0, TimestampTzGetDatum(status.first_beat));
	put(GET_LAST_BEAT, status.last_beat != 0, TimestampTzGetDatum(status.last_beat));
	put(GET_DEADLINE, status.deadline != 0, TimestampTzGetDatum(status.deadline));
	put(GET_ERROR_CODE, status.error_code != NULL, PointerGetDatum(status.error_code));
	put(GET_REASON, !tl_turn_isnull(turn, reason), tl_turn_value(turn, reason));
}

/*
 * All about one turn: one descent to the turn, and one each to the record that
 * ended it, its delivery (two, if it is open) and the latest update, by the ids
 * that the turn holds.
 */
Datum
turn_liveness_get_turn(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Snapshot	snapshot = GetActiveSnapshot();
	TlRel		turns;
	TlRel		replies;
	TlScan		scan = {0};
	TlScan		by_id = {0};
	TlTurn		turn;
	Datum		values[GET_NATTS] = {0};
	bool		nulls[GET_NATTS];

	InitMaterializedSRF(fcinfo, 0);
	memset(nulls, true, sizeof(nulls));
	tl_rel_open(&turns, TL_TURN, false);
	if (tl_turn_find(&turns, &scan, deployment, tl_turn_named(message_id), snapshot, &turn))
	{
		tl_rel_open(&replies, TL_REPLY, false);
		tl_reply_scan(&by_id, &replies, snapshot);

		put(GET_GENERATION, true, Int32GetDatum(turn.times.generation));
		put(GET_WORKER, !tl_turn_isnull(&turn, TURN_WORKER), tl_turn_value(&turn, TURN_WORKER));
		if (find_reply(&by_id, &turn, TURN_LAST_UPDATE))
		{
			values[GET_LAST_UPDATE] = slot_getattr(by_id.slot, REPLY_PAYLOAD, &nulls[GET_LAST_UPDATE]);
			/* the scan moves on to another row */
			if (!nulls[GET_LAST_UPDATE])
				values[GET_LAST_UPDATE] = datumCopy(values[GET_LAST_UPDATE], false, -1);
		}
		if (tl_turn_is_owed(&turn))
			put_owed(&turn, values, nulls);
		else
			put_ended(&by_id, &turn, snapshot, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		tl_scan_end(&by_id);
		tl_rel_close(&replies);
	}
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	return (Datum) 0;
}

/* A statement has changed a table: counts are void, rows may be new. */
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
