/*
 * election.c
 *		Taking a turn from owed to ended, once; answers and discharges.  Failures are
 *		in failure.c.
 *
 * The election is one update of the turn's row.  Rows are found under the
 * latest snapshot; an update that meets another open transaction waits for it and
 * looks again, so the first to commit has won.  Above READ COMMITTED a row that
 * changed after the transaction's snapshot is 40001 instead.
 *
 * Several ids are taken in the order of COLLATE "C": two calls cannot deadlock.
 *
 * The local flush is forced: a caller who was told "won" may rely on it
 * whatever his synchronous_commit says.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "shared/clock.h"
#include "turns/election.h"
#include "base/enums.h"
#include "turns/failure.h"
#include "shared/grace.h"
#include "base/guc.h"
#include "replies/payload.h"
#include "commit/xact.h"

static text *copy_text(Datum value);
static void store_groups(const text *deployment, TlElected *won, int nwon, Jsonb *reply,
						 const text *error_code, char outcome, int64 now);

PG_FUNCTION_INFO_V1(turn_liveness_commit_terminal_reply);
PG_FUNCTION_INFO_V1(turn_liveness_discharge_turn);

static text *
copy_text(Datum value)
{
	return DatumGetTextPCopy(value);
}

TM_Result
tl_elect_row(TlRel *turns, TlTurn *turn, Snapshot snapshot,
			 char outcome, const pg_uuid_t *request,
			 const TlVerdict *verdict, int64 now, TlElected *won)
{
	TM_Result	result;

	memset(won, 0, sizeof(*won));
	won->message_id = copy_text(tl_turn_value(turn, TURN_MESSAGE_ID));
	won->conversation = copy_text(tl_turn_value(turn, TURN_CONVERSATION));
	if (!tl_turn_isnull(turn, TURN_ROUTING))
	{
		won->routing = DatumGetJsonbPCopy(tl_turn_value(turn, TURN_ROUTING));
		won->platform = tl_routing_text(won->routing, "platform", true);
		won->organization = tl_routing_text(won->routing, "organizationId", false);
	}
	if (won->platform == NULL)
		won->platform = cstring_to_text("api");
	if (!tl_turn_isnull(turn, TURN_ERROR_CODE))
		won->mark_code = copy_text(tl_turn_value(turn, TURN_ERROR_CODE));
	if (!tl_turn_isnull(turn, TURN_REASON))
		won->mark_reason = copy_text(tl_turn_value(turn, TURN_REASON));
	won->armed_at = DatumGetTimestampTz(tl_turn_value(turn, TURN_ARMED_AT));
	if (verdict->first_beat > 0)
		won->first_beat = tl_clock_to_wall(verdict->first_beat, now);
	if (verdict->last_beat > 0)
		won->last_beat = tl_clock_to_wall(verdict->last_beat, now);

	/* the reply has it all now: the row that stays is small */
	tl_turn_set(turn, TURN_OUTCOME, CharGetDatum(outcome));
	tl_turn_set_null(turn, TURN_ROUTING);
	tl_turn_set_null(turn, TURN_REASON);
	if (request)
		tl_turn_set(turn, TURN_REQUEST, UUIDPGetDatum(request));

	result = tl_rel_update(turns, &turn->tid, snapshot, turn->values, turn->nulls);
	if (result == TM_Ok)
	{
		ForceSyncCommit();
		tl_xact_touch(turn->deployment_key, 1);
		tl_xact_forget_turn(turn->deployment_key, turn->turn_key);
	}
	return result;
}

TlElection
tl_elect(TlRel *turns, const text *deployment, const text *message_id,
		 char outcome, const pg_uuid_t *request, TlElected *won,
		 text **conversation, bool *same_request)
{
	for (;;)
	{
		Snapshot	snapshot;
		TlScan		scan = {0};
		TlTurn		turn;
		TlElection	result = TL_UNKNOWN;
		TM_Result	update = TM_Ok;

		CHECK_FOR_INTERRUPTS();
		snapshot = tl_latest_snapshot();
		if (tl_turn_find(turns, &scan, PointerGetDatum(deployment),
						 PointerGetDatum(message_id), snapshot, &turn))
		{
			tl_rel_check_visible(turns, turn.slot);
			if (tl_turn_is_owed(&turn))
			{
				TlVerdict	verdict;
				int64		now = tl_turn_judge(&turn, &verdict);

				update = tl_elect_row(turns, &turn, snapshot, outcome, request,
									  &verdict, now, won);
				result = TL_WON;
			}
			else
			{
				result = TL_LOST;
				if (conversation && *conversation == NULL)
					*conversation = copy_text(tl_turn_value(&turn, TURN_CONVERSATION));
				if (same_request && request && !tl_turn_isnull(&turn, TURN_REQUEST) &&
					memcmp(DatumGetUUIDP(tl_turn_value(&turn, TURN_REQUEST))->data,
						   request->data, UUID_LEN) == 0)
					*same_request = true;
			}
		}
		tl_scan_end(&scan);
		UnregisterSnapshot(snapshot);

		if (update == TM_Ok)
			return result;
		if (IsolationUsesXactSnapshot())
			tl_serialization_failure();
		/* somebody else was first: see what became of it */
	}
}

/* The same address: conversation, platform, organization. */
static bool
same_address(const TlElected *a, const TlElected *b)
{
	return tl_compare_texts(&a->conversation, &b->conversation) == 0 &&
		tl_compare_texts(&a->platform, &b->platform) == 0 &&
		(a->organization == NULL) == (b->organization == NULL) &&
		(a->organization == NULL || tl_compare_texts(&a->organization, &b->organization) == 0);
}

static int
compare_positions(const void *a, const void *b)
{
	return ((const TlElected *) a)->position - ((const TlElected *) b)->position;
}

/*
 * Turns are taken in the order of COLLATE "C" and listed in the caller's: his
 * first is the one that the reply is to.
 */
static void
order_as_called(FunctionCallInfo fcinfo, text **ids, int nids, TlElected *won, int nwon)
{
	int			ncalled;
	text	  **called = tl_arg_text_array(fcinfo, 1, "message_ids", &ncalled);
	int		   *positions = palloc(nids * sizeof(int));
	int			i;

	for (i = ncalled - 1; i >= 0; i--)
	{
		text	  **id = bsearch(&called[i], ids, nids, sizeof(text *), tl_compare_texts);

		positions[id - ids] = i;
	}
	for (i = 0; i < nwon; i++)
		won[i].position = positions[won[i].position];
	qsort(won, nwon, sizeof(TlElected), compare_positions);
}

/* One reply for each address, listing its own turns. */
static void
store_groups(const text *deployment, TlElected *won, int nwon, Jsonb *reply,
			 const text *error_code, char outcome, int64 now)
{
	TlOutbox	outbox;
	bool	   *stored = palloc0(nwon * sizeof(bool));
	text	  **ids = palloc(nwon * sizeof(text *));
	int			i;
	int			j;

	tl_outbox_open(&outbox, outcome == TL_OUTCOME_DISCHARGED);
	for (i = 0; i < nwon; i++)
	{
		TlReply		row = {0};
		int			nids = 0;

		if (stored[i])
			continue;
		for (j = i; j < nwon; j++)
			if (!stored[j] && same_address(&won[i], &won[j]))
			{
				ids[nids++] = won[j].message_id;
				stored[j] = true;
			}
		row.deployment = deployment;
		row.message_ids = ids;
		row.nids = nids;
		row.conversation = won[i].conversation;
		row.platform = won[i].platform;
		row.organization = won[i].organization;
		if (outcome != TL_OUTCOME_DISCHARGED)
			row.payload = tl_payload_reply(reply, won[i].routing, ids, nids);
		row.outcome = outcome;
		row.error_code = error_code;
		row.decided_by = outcome == TL_OUTCOME_DISCHARGED ? TL_DECIDED_DISCHARGE : TL_DECIDED_REPLY;
		row.armed_at = won[i].armed_at;
		row.first_beat = won[i].first_beat;
		row.last_beat = won[i].last_beat;
		(void) tl_outbox_store(&outbox, &row, now);
	}
	tl_outbox_close(&outbox);
}

Datum
turn_liveness_commit_terminal_reply(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	int			nids;
	text	  **ids = tl_arg_names(fcinfo, 1, "message_ids", &nids);
	Jsonb	   *reply = tl_arg_object(fcinfo, 2, "reply", tl_max_reply_size, "turn_liveness.max_reply_size");
	pg_uuid_t  *request;
	text	   *error_code;
	text	   *conversation = NULL;
	char		outcome;
	TlRel		turns;
	TlElected	   *won;
	int			nwon = 0;
	bool		ended = false;
	bool		same_request = false;
	int			i;

	tl_check_writable("commit_terminal_reply");
	tl_grace_note_call();
	request = tl_payload_request(deployment, ids, nids, reply);
	outcome = tl_payload_is_error(reply, &error_code) ? TL_OUTCOME_ERROR : TL_OUTCOME_ANSWER;

	won = palloc_extended(nids * sizeof(TlElected), MCXT_ALLOC_HUGE);
	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	for (i = 0; i < nids; i++)
	{
		TlElection	election = tl_elect(&turns, deployment, ids[i], outcome, request,
										&won[nwon], &conversation, &same_request);

		if (election == TL_WON)
			won[nwon++].position = i;
		else if (election == TL_LOST)
			ended = true;
	}
	tl_rel_close(&turns);

	if (nwon > 0)
	{
		if (nids > 1)
			order_as_called(fcinfo, ids, nids, won, nwon);
		store_groups(deployment, won, nwon, reply, error_code, outcome, tl_clock_now());
		PG_RETURN_OID(tl_election_oid(TL_WON));
	}

	/* the same call again, of a client that did not hear the answer */
	if (same_request)
		PG_RETURN_OID(tl_election_oid(TL_WON));

	if (conversation == NULL)
	{
		JsonbValue	value;

		if (getKeyJsonValueFromContainer(&reply->root, "conversationId", 14, &value) != NULL &&
			value.type == jbvString && value.val.string.len <= TL_MAX_NAME)
			conversation = cstring_to_text_with_len(value.val.string.val, value.val.string.len);
	}
	tl_outbox_keep_late(deployment, ids, nids, conversation, reply, ended, request);
	PG_RETURN_OID(tl_election_oid(ended ? TL_LOST : TL_UNKNOWN));
}

Datum
turn_liveness_discharge_turn(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	TlRel		turns;
	TlElected		won;
	bool		owed;

	tl_check_writable("discharge_turn");
	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	owed = tl_elect(&turns, deployment, message_id, TL_OUTCOME_DISCHARGED, NULL, &won, NULL, NULL) == TL_WON;
	tl_rel_close(&turns);
	if (owed)
		store_groups(deployment, &won, 1, NULL, NULL, TL_OUTCOME_DISCHARGED, tl_clock_now());
	PG_RETURN_BOOL(owed);
}
