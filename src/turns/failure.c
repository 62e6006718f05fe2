/*
 * failure.c
 *		The calls of a gateway that end turns without a worker's reply: with
 *		an error, or with a record that the caller has delivered a reply
 *		itself.
 */
#include "base/turn_liveness.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "turns/turn.h"

/* a call that ends turns */
typedef struct Ending
{
	TlOutbox	outbox;
	const text *error;			/* NULL: discharges */
	const text *error_code;		/* or NULL */
	char		decided_by;
	TimestampTz armed_before;	/* DT_NOEND: whenever it was armed */
	int64		called;			/* liveness clock; 0: whenever it was armed */
	int			ended;
} Ending;

PG_FUNCTION_INFO_V1(turn_liveness_fail_turn);
PG_FUNCTION_INFO_V1(turn_liveness_fail_deployment);
PG_FUNCTION_INFO_V1(turn_liveness_reject_turn);
PG_FUNCTION_INFO_V1(turn_liveness_discharge_turn);

/* Asked when the turns are listed, and again when the row is locked. */
static bool
is_to_be_ended(const TlTurn *turn, void *arg)
{
	const Ending *ending = arg;

	return tl_turn_is_owed(turn) && tl_turn_armed_at(turn) < ending->armed_before &&
		(ending->called == 0 || turn->times.armed <= ending->called ||
		 tl_epoch_run(turn->times.epoch) != tl_epoch_run(tl_clock_epoch()));
}

/* Store the terminal record of a turn, and make it ended. */
static void
store(Ending *ending, TlTurn *turn, const TlVerdict *verdict, int64 now)
{
	TlEnding	record;

	tl_ending_make(&record, turn, verdict, now, ending->error, ending->error_code,
				   ending->decided_by);
	tl_turns_end(&ending->outbox, &record, 1, now);
}

/* The row is locked: armed_before is judged on the version that ends here. */
static TlTurnChange
end_turn(TlTurn *turn, void *arg)
{
	Ending	   *ending = arg;
	TlVerdict	verdict;
	int64		now = tl_clock_now();

	if (!is_to_be_ended(turn, ending))
		return TL_TURN_KEPT;
	tl_turn_judge(turn, now, 0, &verdict);
	store(ending, turn, &verdict, now);
	ending->ended++;
	return TL_TURN_CHANGED;
}

/*
 * End one turn, or with NULL all that are to be ended; in the order of their
 * ids, so that two calls cannot deadlock.  The result tells what became of the
 * one.  What many turns take (routings, payloads) is freed turn by turn.
 */
static TlElection
end_turns(text *deployment, text *message_id, Ending *ending)
{
	MemoryContext of_turn = AllocSetContextCreate(CurrentMemoryContext, "turn_liveness ended turn",
												  ALLOCSET_SMALL_SIZES);
	TlTurnName	one = {.message_id = message_id};
	TlTurnName *names = &one;
	int			n = 1;
	bool		found = false;
	TlRel		turns;
	int			i;

	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	if (message_id == NULL)
	{
		names = tl_turn_list_owed(&turns, deployment, is_to_be_ended, ending, &n);
		/* it outlives each turn */
		if (n > 0)
			tl_outbox_open(&ending->outbox);
	}
	for (i = 0; i < n; i++)
	{
		MemoryContext old;

		MemoryContextReset(of_turn);
		old = MemoryContextSwitchTo(of_turn);
		found |= tl_turn_change(&turns, deployment, &names[i], 0, end_turn, ending);
		MemoryContextSwitchTo(old);
	}
	tl_outbox_close(&ending->outbox);
	tl_rel_close(&turns);
	return ending->ended > 0 ? TL_WON : found ? TL_LOST : TL_UNKNOWN;
}

/* A gateway knows that this turn will get no reply. */
Datum
turn_liveness_fail_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Ending		ending = {.decided_by = TL_DECIDED_FAIL, .armed_before = DT_NOEND};

	ending.error = tl_arg_text(fcinfo, 2, "error");
	ending.error_code = tl_arg_optional_name(fcinfo, 3, "error_code");
	tl_check_writable("fail_turn");
	PG_RETURN_OID(tl_election_oid(end_turns(deployment, message_id, &ending)));
}

/* The caller has delivered a reply itself, or wants none: a record is kept. */
Datum
turn_liveness_discharge_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Ending		ending = {.decided_by = TL_DECIDED_DISCHARGE, .armed_before = DT_NOEND};

	tl_check_writable("discharge_turn");
	PG_RETURN_BOOL(end_turns(deployment, message_id, &ending) == TL_WON);
}

/* The whole deployment is gone: each turn that it owes is failed. */
Datum
turn_liveness_fail_deployment(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	Ending		ending = {.decided_by = TL_DECIDED_FAIL, .armed_before = DT_NOEND};

	ending.error = tl_arg_optional_text(fcinfo, 1, "error");
	ending.error_code = tl_arg_optional_name(fcinfo, 2, "error_code");
	if (!PG_ARGISNULL(3))
		ending.armed_before = PG_GETARG_TIMESTAMPTZ(3);
	else
		/* what is armed again while this call waits for a row lives on */
		ending.called = tl_clock_arm_stamp();
	tl_check_writable("fail_deployment");
	if (ending.error == NULL)
		ending.error = cstring_to_text(tl_code_message(TL_CODE_DIED));
	(void) end_turns(deployment, NULL, &ending);
	PG_RETURN_INT32(ending.ended);
}

/* A turn that is rejected, and how it ends. */
typedef struct Rejection
{
	TlTurn	   *turn;
	Ending	   *ending;
} Rejection;

/* The key is free: store the reply, which the row of the turn names. */
static void
store_rejection(void *arg)
{
	Rejection  *rejection = arg;
	TlTurn	   *turn = rejection->turn;

	store(rejection->ending, turn, NULL, turn->times.armed);
}

/*
 * Insert the row of a turn as ended, so that it meets an arm of the same turn
 * on the same unique key; false if a row is there.  The session stores the
 * reply while it holds the short lock of the turn's key.  It opens the tables
 * before, so that it waits for none of them under that lock; only a DBA's open
 * transaction on the sequence may keep it waiting, and arms of that turn too.
 */
static bool
insert_ended(TlTurn *turn, Ending *ending)
{
	Rejection	rejection = {turn, ending};
	TlRel		turns;
	bool		is_ours;

	CHECK_FOR_INTERRUPTS();
	/* it was never owed: it changes no count */
	tl_turn_set(turn, TURN_OUTCOME, CharGetDatum(TL_OUTCOME_ERROR));
	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	tl_outbox_open(&ending->outbox);
	is_ours = tl_turn_insert_unless_there(&turns, turn, store_rejection, &rejection);
	tl_outbox_close(&ending->outbox);
	tl_rel_close(&turns);
	return is_ours;
}

/* A message is refused before dispatch; an owed turn that is there fails. */
Datum
turn_liveness_reject_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Jsonb	   *routing = tl_arg_object(fcinfo, 2, "routing", tl_max_routing_size, "turn_liveness.max_routing_size");
	Ending		ending = {.decided_by = TL_DECIDED_REJECT, .armed_before = DT_NOEND};
	TlTurn		turn;
	TlElection	result;

	ending.error = tl_arg_text(fcinfo, 3, "error");
	ending.error_code = tl_arg_optional_name(fcinfo, 4, "error_code");
	tl_check_writable("reject_turn");
	tl_turn_make(&turn, deployment, message_id, routing);
	turn.next_check = tl_times_next_check(&turn.times);

	while ((result = insert_ended(&turn, &ending) ? TL_WON :
			end_turns(deployment, message_id, &ending)) == TL_UNKNOWN)
		/* retention has removed the row that was there since */
		if (IsolationUsesXactSnapshot())
			tl_serialization_failure();
	PG_RETURN_OID(tl_election_oid(result));
}
