/*
 * handover.c
 *		Giving a turn to another worker: its generation, waits for a human,
 *		and the rescue of turns that lapsed.
 *
 * The generation is a number in the turn's row, one more with each hand-over.
 * A worker that takes the turn learns it, and passes it with its beats, its
 * updates and its answer: a session that finds another number in the row, or in
 * the lease that remembers it, refuses them.
 *
 * Every function here locks the row and judges it under the lock (turn.c), so
 * of two hand-overs, or of a hand-over and an election, the second finds what
 * the first has committed.  The sweep passes over a row that is locked here.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "turns/handover.h"
#include "turns/turn.h"

#define DEFAULT_MAX_TURNS	100

/* a call of start_turn */
typedef struct Start
{
	text	   *worker;			/* or NULL */
	bool		take_over;
	int32		generation;		/* that it took; 0: none */
} Start;

/* a call of suspend_turn */
typedef struct Wait
{
	int64		max_us;
	text	   *reason;			/* or NULL */
	int32		generation;		/* of the caller; 0: it names none */
	bool		done;
} Wait;

PG_FUNCTION_INFO_V1(turn_liveness_start_turn);
PG_FUNCTION_INFO_V1(turn_liveness_suspend_turn);
PG_FUNCTION_INFO_V1(turn_liveness_resume_turn);
PG_FUNCTION_INFO_V1(turn_liveness_rescue_turns);

void
tl_turn_hand_over(TlTurn *turn)
{
	TlTimes    *times = &turn->times;

	Assert(tl_turn_is_owed(turn));
	tl_turn_adopt(turn, 0);
	times->armed = tl_clock_arm_stamp();
	/* how long it took elsewhere, and lay in a dump, is no time of ours */
	if (tl_epoch_place(times->epoch) != tl_epoch_place(tl_clock_epoch()))
		times->begun = times->armed;
	/* its duration stood still while it waited */
	else if (times->suspended > 0 && times->suspended < times->armed)
		times->begun = Min(times->begun + (times->armed - times->suspended), times->armed);
	times->epoch = tl_clock_epoch();
	times->seen = times->beat = times->started = 0;
	times->suspended = times->wait_until = times->lapsed = 0;
	/* a mark stays until it is cleared, but the new worker gets its time */
	if (times->frozen > 0)
		times->frozen = times->armed + times->admission_ms * TL_MS;
	/* a row of others may hold the last number there is */
	if (times->generation < PG_INT32_MAX)
		times->generation++;
	turn->next_check = tl_times_next_check(times);
	tl_turn_set(turn, TURN_REARMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	tl_turn_set_null(turn, TURN_WAIT_REASON);
	tl_turn_set_null(turn, TURN_TAKEN);
	tl_turn_set_null(turn, TURN_WORKER);
}

/* A queue that delivers twice finds the turn taken by this generation. */
static TlTurnChange
start(TlTurn *turn, void *arg)
{
	Start	   *call = arg;
	TlTimes    *times = &turn->times;
	bool		is_free = times->wait_until == 0 &&
		(tl_turn_isnull(turn, TURN_TAKEN) ||
		 DatumGetInt32(tl_turn_value(turn, TURN_TAKEN)) != times->generation);

	if (!tl_turn_is_owed(turn) || (!is_free && !call->take_over))
		return TL_TURN_KEPT;
	if (is_free)
		tl_turn_adopt(turn, 0);
	else
		tl_turn_hand_over(turn);

	/* the row keeps this sign of life, so it needs no lease */
	times->beat = Max(Max(times->beat, tl_clock_now()), times->armed);
	if (times->started < times->armed)
		times->started = times->beat;
	times->lapsed = 0;
	call->generation = times->generation;
	tl_turn_set(turn, TURN_TAKEN, Int32GetDatum(times->generation));
	if (call->worker != NULL)
		tl_turn_set(turn, TURN_WORKER, PointerGetDatum(call->worker));
	else
		tl_turn_set_null(turn, TURN_WORKER);
	return is_free ? TL_TURN_CHANGED : TL_TURN_ARMED;
}

/* A worker takes the turn, and learns the number that fences it. */
Datum
turn_liveness_start_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Start		call = {.worker = tl_arg_optional_name(fcinfo, 2, "worker")};
	TlRel		turns;

	call.take_over = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	tl_check_writable("start_turn");
	tl_grace_note_call(tl_clock_now());
	tl_rel_open(&turns, TL_TURN, true);
	(void) tl_turn_change(&turns, deployment, tl_turn_named(message_id), 0, start, &call);
	tl_rel_close(&turns);
	if (call.generation == 0)
		PG_RETURN_NULL();
	/* a fence that a crash takes back would let two workers hold one number */
	ForceSyncCommit();
	PG_RETURN_INT32(call.generation);
}

/*
 * The wait begins, or gets another end.  The row keeps the beats that there
 * were, for the views: the lease may go meanwhile.
 */
static TlTurnChange
suspend(TlTurn *turn, void *arg)
{
	Wait	   *wait = arg;
	TlTimes    *times = &turn->times;
	int64		now = tl_clock_now();
	TlVerdict	verdict;

	if (!tl_turn_is_owed(turn) ||
		(wait->generation != 0 && wait->generation != times->generation))
		return TL_TURN_KEPT;
	tl_turn_judge(turn, now, 0, &verdict);
	tl_turn_adopt(turn, 0);
	if (times->wait_until == 0)
	{
		times->suspended = Max(now, times->armed);
		if (verdict.last_beat > 0)
			times->beat = verdict.last_beat;
		if (verdict.first_beat > 0)
			times->started = verdict.first_beat;
	}
	times->wait_until = now + wait->max_us;
	times->lapsed = 0;
	turn->next_check = tl_times_next_check(times);
	if (wait->reason != NULL)
		tl_turn_set(turn, TURN_WAIT_REASON, PointerGetDatum(wait->reason));
	else
		tl_turn_set_null(turn, TURN_WAIT_REASON);
	wait->done = true;
	return TL_TURN_CHANGED;
}

/* Change one turn; what was promised outlives a crash. */
static void
change_turn(const text *deployment, const text *message_id, int32 fence,
			TlTurnCallback callback, void *arg, const bool *done)
{
	TlRel		turns;

	tl_rel_open(&turns, TL_TURN, true);
	(void) tl_turn_change(&turns, deployment, tl_turn_named(message_id), fence, callback, arg);
	tl_rel_close(&turns);
	if (*done)
		ForceSyncCommit();
}

Datum
turn_liveness_suspend_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Wait		wait = {0};

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_wait must not be null"),
				 errhint("Say how long the turn may wait at most.")));
	wait.max_us = tl_arg_milliseconds(fcinfo, 2, "max_wait", 0) * TL_MS;
	wait.reason = tl_arg_reason(fcinfo, 3, "reason");
	wait.generation = tl_arg_generation(fcinfo, 4);
	tl_check_writable("suspend_turn");
	change_turn(deployment, message_id, wait.generation, suspend, &wait, &wait.done);
	PG_RETURN_BOOL(wait.done);
}

static TlTurnChange
resume(TlTurn *turn, void *arg)
{
	bool	   *done = arg;

	if (!tl_turn_is_owed(turn) || turn->times.wait_until == 0)
		return TL_TURN_KEPT;
	tl_turn_hand_over(turn);
	*done = true;
	return TL_TURN_ARMED;
}

Datum
turn_liveness_resume_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	bool		done = false;

	tl_check_writable("resume_turn");
	change_turn(deployment, message_id, 0, resume, &done, &done);
	PG_RETURN_BOOL(done);
}

/*
 * Take one turn that was offered, if no other transaction holds its row, no
 * beat has revived it and its window is open; false if it is left.  A beat
 * that may be missing gives the turn its time again: its worker may be well.
 */
static bool
rescue(TlRel *turns, TlTurn *turn, Snapshot snapshot)
{
	bool		unmarked = false;
	int64		now;
	TlVerdict	verdict;

	/* in rows, the trace of a lock gives a revived turn its time again */
	tl_turn_judge(turn, tl_clock_now(), 0, &verdict);
	if (!verdict.offered)
		return false;
	if (tl_turn_lock(turns, turn, snapshot, false, 0, &unmarked) != TM_Ok)
		return false;
	tl_rel_check_visible(turns, turn->slot);
	now = tl_clock_now();
	tl_turn_judge(turn, now, 0, &verdict);
	/* what is past its window, or its duration, is the sweep's */
	if (!verdict.offered || verdict.deadline <= now)
		return false;
	if (unmarked)
		tl_turn_hand_over(turn);
	else
		turn->times.lapsed = 0;
	tl_xact_hand_over(turn);
	tl_turn_write(turns, turn, snapshot, unmarked);
	return unmarked;
}

/*
 * Take turns that lapsed, in the order in which they did.  The walk goes over
 * an index that holds nothing else; a row that another caller took meanwhile
 * has left it.
 */
Datum
turn_liveness_rescue_turns(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int32		max = PG_ARGISNULL(0) ? DEFAULT_MAX_TURNS : PG_GETARG_INT32(0);
	int32		n = 0;
	Snapshot	snapshot;
	TlRel		turns;
	TlScan		scan = {0};

	if (max < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_turns must not be negative")));
	tl_check_writable("rescue_turns");
	InitMaterializedSRF(fcinfo, 0);
	tl_rel_open(&turns, TL_TURN, true);
	snapshot = tl_latest_snapshot();
	tl_scan_begin(&scan, &turns, TL_IDX_TURN_OWED_LAPSED, snapshot);
	while (n < max && tl_scan_next(&scan, ForwardScanDirection))
	{
		TlTurn		turn;
		Datum		code;
		Datum		values[5];
		bool		nulls[5] = {false};

		CHECK_FOR_INTERRUPTS();
		tl_turn_decode(scan.slot, &turn);
		/* a mark that came after the offer names the error */
		if (tl_turn_isnull(&turn, TURN_ERROR_CODE))
			code = CStringGetTextDatum(tl_code_name(tl_code_of_lapse(turn.times.lapse_code)));
		else
			code = tl_turn_value(&turn, TURN_ERROR_CODE);
		if (!rescue(&turns, &turn, snapshot))
			continue;
		values[0] = tl_turn_value(&turn, TURN_DEPLOYMENT);
		values[1] = tl_turn_value(&turn, TURN_MESSAGE_ID);
		values[2] = Int32GetDatum(turn.times.generation);
		values[3] = tl_turn_value(&turn, TURN_ROUTING);
		nulls[3] = tl_turn_isnull(&turn, TURN_ROUTING);
		values[4] = code;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		n++;
	}
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	tl_rel_close(&turns);
	tl_counter_add(TL_COUNT_RESCUED, n);
	if (n > 0)
		ForceSyncCommit();
	return (Datum) 0;
}
