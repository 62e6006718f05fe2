/*
 * failure.c
 *		Ending turns with an error: the calls of a gateway that do, and what every
 *		failure stores, counts and logs, the sweep's too.
 *
 * The election (election.c) comes first, the reply after it: only who has won
 * stores one.  Counters follow the commit (xact.c); a LOG line does not wait for it.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "shared/clock.h"
#include "base/enums.h"
#include "turns/failure.h"
#include "base/guc.h"
#include "replies/payload.h"
#include "commit/xact.h"

PG_FUNCTION_INFO_V1(turn_liveness_fail_turn);
PG_FUNCTION_INFO_V1(turn_liveness_fail_deployment);
PG_FUNCTION_INFO_V1(turn_liveness_reject_turn);

void
tl_store_error(TlOutbox *outbox, const text *deployment, TlElected *won,
			   const text *error, const text *error_code,
			   char decided_by, int64 now)
{
	TlReply		reply = {0};

	reply.deployment = deployment;
	reply.message_ids = &won->message_id;
	reply.nids = 1;
	reply.conversation = won->conversation;
	reply.platform = won->platform;
	reply.organization = won->organization;
	reply.payload = tl_payload_error(won->routing, won->message_id, error, error_code);
	reply.outcome = TL_OUTCOME_ERROR;
	reply.error_code = error_code;
	reply.decided_by = decided_by;
	reply.armed_at = won->armed_at;
	reply.first_beat = won->first_beat;
	reply.last_beat = won->last_beat;
	(void) tl_outbox_store(outbox, &reply, now);
}

void
tl_log_failure(const text *deployment, const text *message_id,
			   const char *code, const char *decided_by)
{
	static char *database = NULL;
	char	   *d;
	char	   *m;

	if (!tl_log_failures)
		return;
	d = text_to_cstring(deployment);
	m = text_to_cstring(message_id);
	if (database == NULL)
		database = MemoryContextStrdup(TopMemoryContext, get_database_name(MyDatabaseId));
	ereport(LOG,
			(errcode(ERRCODE_WARNING),
			 errhidestmt(true),
			 errhidecontext(true),
			 errmsg("failed turn \"%s\" of deployment \"%s\": %s, decided by %s in database \"%s\"",
					m, d, code, decided_by, database)));
	pfree(m);
	pfree(d);
}

Datum
turn_liveness_fail_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	text	   *error = tl_arg_text(fcinfo, 2, "error");
	text	   *error_code = tl_arg_optional_name(fcinfo, 3, "error_code");
	TlRel		turns;
	TlElected		won;
	TlElection	election;

	tl_check_writable("fail_turn");
	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	election = tl_elect(&turns, deployment, message_id, TL_OUTCOME_ERROR, NULL, &won, NULL, NULL);
	tl_rel_close(&turns);
	if (election == TL_WON)
	{
		TlOutbox	outbox;

		tl_outbox_open(&outbox, false);
		tl_store_error(&outbox, deployment, &won, error, error_code, TL_DECIDED_FAIL, tl_clock_now());
		tl_outbox_close(&outbox);
	}
	PG_RETURN_OID(tl_election_oid(election));
}

Datum
turn_liveness_fail_deployment(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *error = tl_arg_optional_text(fcinfo, 1, "error");
	text	   *error_code = tl_arg_optional_name(fcinfo, 2, "error_code");
	TimestampTz before = PG_ARGISNULL(3) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(3);
	TlRel		turns;
	TlOutbox	outbox;
	text	  **ids;
	int			nids;
	int			failed = 0;
	int			i;

	tl_check_writable("fail_deployment");
	if (error == NULL)
		error = cstring_to_text(tl_code_message(TL_CODE_DIED));

	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	ids = tl_turn_list_owed(&turns, deployment, before, &nids);
	if (nids > 0)
		tl_outbox_open(&outbox, false);
	for (i = 0; i < nids; i++)
	{
		TlElected		won;

		if (tl_elect(&turns, deployment, ids[i], TL_OUTCOME_ERROR, NULL, &won, NULL, NULL) == TL_WON)
		{
			tl_store_error(&outbox, deployment, &won, error, error_code, TL_DECIDED_FAIL, tl_clock_now());
			failed++;
		}
	}
	if (nids > 0)
		tl_outbox_close(&outbox);
	tl_rel_close(&turns);
	PG_RETURN_INT32(failed);
}

/*
 * A message that is refused before dispatch: its row is written as ended, so
 * that it meets an arm of the same turn on the same unique key.
 */
Datum
turn_liveness_reject_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Jsonb	   *routing = tl_arg_object(fcinfo, 2, "routing", tl_max_routing_size, "turn_liveness.max_routing_size");
	text	   *error = tl_arg_text(fcinfo, 3, "error");
	text	   *error_code = tl_arg_optional_name(fcinfo, 4, "error_code");
	TlTurn		turn;
	TlRel		turns;
	TlOutbox	outbox;
	TlElected		won = {0};
	TlElection	election;
	int64		now;

	tl_check_writable("reject_turn");
	tl_turn_make(&turn, deployment, message_id, routing,
				 tl_admission_deadline, tl_turn_deadline, tl_default_duration());
	tl_turn_set(&turn, TURN_OUTCOME, CharGetDatum(TL_OUTCOME_ERROR));
	tl_turn_set_null(&turn, TURN_ROUTING);
	now = turn.times.armed;

	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	if (tl_rel_insert_unless_there(&turns, TL_IDX_TURN_KEY, turn.values, turn.nulls, NULL))
	{
		ForceSyncCommit();
		election = TL_WON;
		won.message_id = message_id;
		won.conversation = DatumGetTextPP(tl_turn_value(&turn, TURN_CONVERSATION));
		won.platform = tl_routing_text(routing, "platform", true);
		if (won.platform == NULL)
			won.platform = cstring_to_text("api");
		won.organization = tl_routing_text(routing, "organizationId", false);
		won.routing = routing;
	}
	else
		election = tl_elect(&turns, deployment, message_id, TL_OUTCOME_ERROR, NULL, &won, NULL, NULL);
	tl_rel_close(&turns);

	if (election == TL_WON)
	{
		tl_outbox_open(&outbox, false);
		tl_store_error(&outbox, deployment, &won, error, error_code, TL_DECIDED_REJECT, now);
		tl_outbox_close(&outbox);
	}
	PG_RETURN_OID(tl_election_oid(election));
}
