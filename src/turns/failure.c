/*
 * failure.c
 *		Ending turns with an error: the calls of a gateway that do.
 */
#include "base/turn_liveness.h"

#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "base/enums.h"
#include "base/guc.h"
#include "shared/clock.h"
#include "turns/election.h"
#include "turns/turn.h"

/* a call that fails turns */
typedef struct Failing
{
	TlOutbox	outbox;
	const text *error;
	const text *error_code;		/* or NULL */
	char		decided_by;
	TimestampTz armed_before;	/* DT_NOEND: whenever it was armed */
	int			failed;
	bool		found;			/* the turn that was asked for */
} Failing;

PG_FUNCTION_INFO_V1(turn_liveness_fail_turn);
PG_FUNCTION_INFO_V1(turn_liveness_fail_deployment);
PG_FUNCTION_INFO_V1(turn_liveness_reject_turn);

static bool
is_to_be_failed(const TlTurn *turn, void *arg)
{
	const Failing *failing = arg;

	return tl_turn_is_owed(turn) && tl_turn_armed_at(turn) < failing->armed_before;
}

/* The row is locked: armed_before is judged on the version that ends here. */
static bool
fail(TlTurn *turn, void *arg)
{
	Failing    *failing = arg;
	TlVerdict	verdict;
	int64		now = tl_clock_now();

	failing->found = true;
	if (!is_to_be_failed(turn, failing))
		return false;
	tl_turn_judge(turn, now, 0, &verdict);
	tl_turn_end(&failing->outbox, turn, &verdict, now, failing->error, failing->error_code,
				failing->decided_by);
	failing->failed++;
	return true;
}

/* Fail one turn, whenever it was armed. */
static TlElection
fail_one(TlRel *turns, text *deployment, text *message_id, Failing *failing)
{
	(void) tl_turn_change(turns, deployment, message_id, fail, failing);
	return failing->failed > 0 ? TL_WON : failing->found ? TL_LOST : TL_UNKNOWN;
}

Datum
turn_liveness_fail_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Failing		failing = {.decided_by = TL_DECIDED_FAIL, .armed_before = DT_NOEND};
	TlRel		turns;
	TlElection	election;

	failing.error = tl_arg_text(fcinfo, 2, "error");
	failing.error_code = tl_arg_optional_name(fcinfo, 3, "error_code");
	tl_check_writable("fail_turn");
	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	election = fail_one(&turns, deployment, message_id, &failing);
	tl_outbox_close(&failing.outbox);
	tl_rel_close(&turns);
	PG_RETURN_OID(tl_election_oid(election));
}

Datum
turn_liveness_fail_deployment(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	Failing		failing = {.decided_by = TL_DECIDED_FAIL, .armed_before = DT_NOEND};
	TlRel		turns;
	text	  **ids;
	int			nids;
	int			i;

	failing.error = tl_arg_optional_text(fcinfo, 1, "error");
	failing.error_code = tl_arg_optional_name(fcinfo, 2, "error_code");
	if (!PG_ARGISNULL(3))
		failing.armed_before = PG_GETARG_TIMESTAMPTZ(3);
	tl_check_writable("fail_deployment");
	if (failing.error == NULL)
		failing.error = cstring_to_text(tl_code_message(TL_CODE_DIED));

	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	ids = tl_turn_list_owed(&turns, deployment, is_to_be_failed, &failing, &nids);
	for (i = 0; i < nids; i++)
		(void) tl_turn_change(&turns, deployment, ids[i], fail, &failing);
	tl_outbox_close(&failing.outbox);
	tl_rel_close(&turns);
	PG_RETURN_INT32(failing.failed);
}

/*
 * A message is refused before dispatch: its row is inserted as ended, so that
 * it meets an arm of the same turn on the same unique key.  The reply follows
 * when the key is ours, and the row then names it.
 */
Datum
turn_liveness_reject_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Jsonb	   *routing = tl_arg_object(fcinfo, 2, "routing", tl_max_routing_size, "turn_liveness.max_routing_size");
	Failing		failing = {.decided_by = TL_DECIDED_REJECT, .armed_before = DT_NOEND};
	TlTurn		turn;
	TlRel		turns;
	TlElection	election = TL_WON;

	failing.error = tl_arg_text(fcinfo, 3, "error");
	failing.error_code = tl_arg_optional_name(fcinfo, 4, "error_code");
	tl_check_writable("reject_turn");
	tl_turn_make(&turn, deployment, message_id, routing,
				 tl_admission_deadline, tl_turn_deadline, tl_default_duration());
	tl_turn_set(&turn, TURN_OUTCOME, CharGetDatum(TL_OUTCOME_ERROR));
	tl_turn_set_null(&turn, TURN_ROUTING);

	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	if (tl_turn_insert_unless_there(&turns, &turn))
	{
		Snapshot	snapshot = tl_latest_snapshot();

		tl_turn_set(&turn, TURN_ROUTING, JsonbPGetDatum(routing));
		tl_turn_end(&failing.outbox, &turn, NULL, turn.times.armed, failing.error,
					failing.error_code, failing.decided_by);
		tl_turn_write(&turns, &turn, snapshot, false);
		UnregisterSnapshot(snapshot);
	}
	else
		election = fail_one(&turns, deployment, message_id, &failing);
	tl_outbox_close(&failing.outbox);
	tl_rel_close(&turns);
	PG_RETURN_OID(tl_election_oid(election));
}
