/*
 * arm.c
 *		Making a turn owed, and marking its provider as failed: what writes
 *		owed rows and decides nothing.
 */
#include "base/turn_liveness.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "turns/turn.h"

/* an arm of a turn that is there already */
typedef struct ArmAgain
{
	int32		admission_ms;
	int32		silence_ms;
	TlArmResult result;
} ArmAgain;

/* a mark of owed turns, or with error_code NULL its removal */
typedef struct Mark
{
	text	   *error_code;
	text	   *reason;
	int			changed;
} Mark;

PG_FUNCTION_INFO_V1(turn_liveness_arm_turn);
PG_FUNCTION_INFO_V1(turn_liveness_mark_provider_failed);
PG_FUNCTION_INFO_V1(turn_liveness_clear_provider_failed);

/*
 * The turn starts anew, with the deadlines of this call; its duration goes on
 * to count from the first arm.
 */
static TlTurnChange
arm_again(TlTurn *turn, void *arg)
{
	ArmAgain   *again = arg;
	TlTimes    *times = &turn->times;

	if (!tl_turn_is_owed(turn))
	{
		again->result = TL_ANSWERED;
		return TL_TURN_KEPT;
	}
	tl_turn_adopt(turn, 0);
	times->armed = tl_clock_arm_stamp();
	/* how long it took elsewhere, and lay in a dump, is no time of ours */
	if (tl_epoch_place(times->epoch) != tl_epoch_place(tl_clock_epoch()))
		times->begun = times->armed;
	times->epoch = tl_clock_epoch();
	times->seen = times->beat = times->started = 0;
	times->admission_ms = again->admission_ms;
	times->silence_ms = again->silence_ms;
	/* a mark stays until it is cleared, but the new worker gets its time */
	if (times->frozen > 0)
		times->frozen = times->armed + times->admission_ms * TL_MS;
	turn->next_check = tl_times_next_check(times);
	tl_turn_set(turn, TURN_REARMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	again->result = TL_PENDING;
	return TL_TURN_ARMED;
}

/* Insert the row of a new turn, or arm the turn that is there again. */
static TlArmResult
arm(TlTurn *turn, text *deployment, text *message_id)
{
	/* most conversations have the name of their deployment: that is indexed */
	bool		indexed = tl_turn_value(turn, TURN_CONVERSATION) != PointerGetDatum(deployment);
	ArmAgain	again = {turn->times.admission_ms, turn->times.silence_ms, TL_ARMED};
	TlRel		turns;

	tl_rel_open_skipping(&turns, TL_TURN, indexed ? 0 : TL_BIT(TL_IDX_TURN_OWED_CONVERSATION));
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (tl_turn_insert_unless_there(&turns, turn))
		{
			tl_xact_count(turn, false);
			tl_xact_wrote(turn, true);
			tl_counter_add(TL_COUNT_ARMED, 1);
			break;
		}
		/* the turn that is there may have any conversation */
		if (!indexed)
		{
			tl_rel_close(&turns);
			tl_rel_open(&turns, TL_TURN, true);
			indexed = true;
		}
		if (tl_turn_change(&turns, deployment, message_id, arm_again, &again))
			break;
		/* retention has removed it since */
		if (IsolationUsesXactSnapshot())
			tl_serialization_failure();
	}
	tl_rel_close(&turns);
	/* the obligation must be as durable as the caller believes it is */
	if (again.result != TL_ANSWERED)
		ForceSyncCommit();
	return again.result;
}

Datum
turn_liveness_arm_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Jsonb	   *routing = tl_arg_object(fcinfo, 2, "routing", tl_max_routing_size, "turn_liveness.max_routing_size");
	int32		admission_ms = tl_arg_milliseconds(fcinfo, 3, "admission", tl_admission_deadline);
	int32		silence_ms = tl_arg_milliseconds(fcinfo, 4, "silence", tl_turn_deadline);
	int32		duration_ms = tl_arg_milliseconds(fcinfo, 5, "duration", tl_default_duration());
	const char *longer = !PG_ARGISNULL(3) && admission_ms > duration_ms ? "admission" :
		!PG_ARGISNULL(4) && silence_ms > duration_ms ? "silence" : NULL;
	TlTurn		turn;

	if (longer != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be longer than the duration limit", longer),
				 errdetail("The duration limit of this turn is %d ms.", duration_ms),
				 TL_UNIT_HINT));
	/* a default that is longer gives way to the duration */
	admission_ms = Min(admission_ms, duration_ms);
	silence_ms = Min(silence_ms, duration_ms);

	tl_check_writable("arm_turn");
	tl_turn_make(&turn, deployment, message_id, routing, admission_ms, silence_ms, duration_ms);
	PG_RETURN_OID(tl_arm_result_oid(arm(&turn, deployment, message_id)));
}

/* Mark a turn that is not marked, or clear one that is. */
static bool
is_to_be_marked(const TlTurn *turn, void *arg)
{
	const Mark *mark = arg;

	return tl_turn_is_owed(turn) && (turn->times.frozen == 0) == (mark->error_code != NULL);
}

/*
 * A mark withholds the turn from beats: its deadline stays as it is now.
 * Without the mark the beats count again.
 */
static TlTurnChange
mark_turn(TlTurn *turn, void *arg)
{
	Mark	   *mark = arg;
	TlTimes    *times = &turn->times;
	bool		marks = mark->error_code != NULL;
	TlVerdict	verdict;

	if (!is_to_be_marked(turn, mark))
		return TL_TURN_KEPT;
	tl_turn_judge(turn, tl_clock_now(), 0, &verdict);
	tl_turn_adopt(turn, 0);
	if (marks)
	{
		/* the leases forget beats: the row keeps them with the mark */
		times->beat = verdict.last_beat;
		times->started = verdict.first_beat;
	}
	times->frozen = marks ? verdict.deadline : 0;
	tl_turn_value(turn, TURN_ERROR_CODE) = PointerGetDatum(mark->error_code);
	tl_turn_isnull(turn, TURN_ERROR_CODE) = !marks;
	tl_turn_value(turn, TURN_REASON) = PointerGetDatum(mark->reason);
	tl_turn_isnull(turn, TURN_REASON) = mark->reason == NULL;
	turn->next_check = tl_times_next_check(times);
	mark->changed++;
	return TL_TURN_CHANGED;
}

/* Mark or clear every owed turn of a deployment, in the order of their ids. */
static int
mark_owed(text *deployment, text *error_code, text *reason)
{
	Mark		mark = {error_code, reason, 0};
	TlRel		turns;
	text	  **ids;
	int			nids;
	int			i;

	tl_rel_open(&turns, TL_TURN, true);
	ids = tl_turn_list_owed(&turns, deployment, is_to_be_marked, &mark, &nids);
	for (i = 0; i < nids; i++)
		(void) tl_turn_change(&turns, deployment, ids[i], mark_turn, &mark);
	tl_rel_close(&turns);
	return mark.changed;
}

Datum
turn_liveness_mark_provider_failed(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *error_code = tl_arg_name(fcinfo, 1, "error_code");
	text	   *reason = tl_arg_optional_text(fcinfo, 2, "reason");

	if (reason != NULL && VARSIZE_ANY_EXHDR(reason) > TL_MAX_REASON)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too large", "reason"),
				 errdetail("It takes %d bytes, %d are allowed.",
						   (int) VARSIZE_ANY_EXHDR(reason), TL_MAX_REASON)));
	tl_check_writable("mark_provider_failed");
	PG_RETURN_INT32(mark_owed(deployment, error_code, reason));
}

Datum
turn_liveness_clear_provider_failed(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");

	tl_check_writable("clear_provider_failed");
	PG_RETURN_INT32(mark_owed(deployment, NULL, NULL));
}
