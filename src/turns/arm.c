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
#include "turns/handover.h"
#include "turns/turn.h"

/* which intervals the caller gives */
typedef struct Intervals
{
	bool		admission;
	bool		silence;
	bool		duration;
	bool		rescue;
} Intervals;

/* an arm of a turn that is there already */
typedef struct ArmAgain
{
	Intervals	given;
	const TlTimes *times;		/* with their values */
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

/* An interval that the caller gives must not be longer than the duration. */
static void
check_interval(bool given, int32 ms, int32 duration_ms, const char *name)
{
	if (given && ms > duration_ms)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be longer than the duration limit", name),
				 errdetail("The duration limit of this turn is %d ms.", duration_ms),
				 TL_UNIT_HINT));
}

static void
check_intervals(const Intervals *given, const TlTimes *times)
{
	check_interval(given->admission, times->admission_ms, times->duration_ms, "admission");
	check_interval(given->silence, times->silence_ms, times->duration_ms, "silence");
}

/*
 * The turn is handed over.  It keeps each interval that this call does not
 * give: one that is longer than the duration counts again when a later call
 * gives a longer duration.  The duration goes on to count from the first arm.
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
	if (again->given.admission)
		times->admission_ms = again->times->admission_ms;
	if (again->given.silence)
		times->silence_ms = again->times->silence_ms;
	if (again->given.duration)
		times->duration_ms = again->times->duration_ms;
	if (again->given.rescue)
		times->rescue_ms = again->times->rescue_ms;
	check_intervals(&again->given, times);
	tl_turn_hand_over(turn);
	tl_counter_add(TL_COUNT_REARMED, 1);
	again->result = TL_PENDING;
	return TL_TURN_ARMED;
}

/* Insert the row of a new turn, or arm the turn that is there again. */
static void
arm(TlTurn *turn, text *deployment, text *message_id, ArmAgain *again)
{
	/* most conversations have the name of their deployment: that is indexed */
	bool		indexed = tl_turn_value(turn, TURN_CONVERSATION) != PointerGetDatum(deployment);
	TlRel		turns;

	tl_rel_open_skipping(&turns, TL_TURN, TL_BIT(TL_IDX_TURN_OWED_LAPSED) |
						 (indexed ? 0 : TL_BIT(TL_IDX_TURN_OWED_CONVERSATION)));
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (tl_turn_insert_unless_there(&turns, turn, NULL, NULL))
		{
			tl_xact_count(turn, false);
			tl_xact_wrote(turn, true);
			tl_counter_add(TL_COUNT_ARMED, 1);
			break;
		}
		/* the turn that is there may have any conversation */
		tl_rel_close(&turns);
		tl_rel_open(&turns, TL_TURN, true);
		if (tl_turn_change(&turns, deployment, tl_turn_named(message_id), 0, arm_again, again))
			break;
		/* retention has removed it since */
		if (IsolationUsesXactSnapshot())
			tl_serialization_failure();
	}
	tl_rel_close(&turns);
}

/* Arm a turn that is there; false if there is none. */
static bool
arm_if_there(text *deployment, text *message_id, ArmAgain *again)
{
	TlRel		turns;
	bool		found;

	tl_rel_open(&turns, TL_TURN, true);
	found = tl_turn_change(&turns, deployment, tl_turn_named(message_id), 0, arm_again, again);
	tl_rel_close(&turns);
	return found;
}

Datum
turn_liveness_arm_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Jsonb	   *routing = tl_arg_object(fcinfo, 2, "routing", tl_max_routing_size, "turn_liveness.max_routing_size");
	Intervals	given = {!PG_ARGISNULL(3), !PG_ARGISNULL(4), !PG_ARGISNULL(5), !PG_ARGISNULL(6)};
	TlTurn		turn;
	TlTimes    *times = &turn.times;
	ArmAgain	again = {given, times, TL_ARMED};
	TlTimes		asked;

	tl_turn_make(&turn, deployment, message_id, routing);
	times->admission_ms = tl_arg_milliseconds(fcinfo, 3, "admission", times->admission_ms);
	times->silence_ms = tl_arg_milliseconds(fcinfo, 4, "silence", times->silence_ms);
	times->duration_ms = tl_arg_milliseconds(fcinfo, 5, "duration", times->duration_ms);
	if (given.rescue && tl_interval_us(PG_GETARG_INTERVAL_P(6), "rescue") < TL_MS)
		times->rescue_ms = 0;
	else
		times->rescue_ms = tl_arg_milliseconds(fcinfo, 6, "rescue", times->rescue_ms);
	asked = *times;
	again.times = &asked;

	tl_check_writable("arm_turn");
	/* what contradicts the default duration may fit the turn's own */
	if (((given.admission && times->admission_ms > times->duration_ms) ||
		 (given.silence && times->silence_ms > times->duration_ms)) &&
		arm_if_there(deployment, message_id, &again))
		 /* it was there */ ;
	else
	{
		check_intervals(&given, times);
		/* the settings give way to the duration */
		times->admission_ms = Min(times->admission_ms, times->duration_ms);
		times->silence_ms = Min(times->silence_ms, times->duration_ms);
		turn.next_check = tl_times_next_check(times);
		arm(&turn, deployment, message_id, &again);
	}
	/* the obligation must be as durable as the caller believes it is */
	if (again.result != TL_ANSWERED)
		ForceSyncCommit();
	PG_RETURN_OID(tl_arm_result_oid(again.result));
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
	TlTurnName *names;
	int			n;
	int			i;

	tl_rel_open(&turns, TL_TURN, true);
	names = tl_turn_list_owed(&turns, deployment, is_to_be_marked, &mark, &n);
	for (i = 0; i < n; i++)
		(void) tl_turn_change(&turns, deployment, &names[i], 0, mark_turn, &mark);
	tl_rel_close(&turns);
	/* a crash must neither take back a mark nor bring back a cleared one */
	if (mark.changed > 0)
		ForceSyncCommit();
	return mark.changed;
}

Datum
turn_liveness_mark_provider_failed(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *error_code = tl_arg_name(fcinfo, 1, "error_code");
	text	   *reason = tl_arg_reason(fcinfo, 2, "reason");

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
