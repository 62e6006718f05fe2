/*
 * election.c
 *		Taking a turn from owed to ended, once; replies of workers.  The calls
 *		that end turns without a worker's reply are in failure.c.
 *
 * The transaction locks the rows of all turns in question and judges them,
 * stores the replies of those it has won, and then updates their rows, which
 * name the reply.  The first to commit has won (turn.c).  It locks the rows in
 * the order of COLLATE "C", so that two calls cannot deadlock, and waits for
 * no row while it holds a conversation's short lock (outbox.c).
 *
 * The local flush is forced: a caller that was told "won" may rely on it
 * whatever its synchronous_commit says.
 */
#include "base/turn_liveness.h"

#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "turns/turn.h"

/*
 * A turn that was owed when it was locked, in the order of the ids; a copy, so
 * it outlives the scan.
 */
typedef struct Candidate
{
	text	   *message_id;		/* first, so that bsearch can compare it */
	TlTurn		turn;
	TlReply		reply;
	bool		listed;			/* in the caller's order, and not ended yet */
} Candidate;

/* a call of commit_terminal_reply */
typedef struct Commit
{
	const text *deployment;
	Jsonb	   *reply;
	text	   *error_code;
	char		outcome;
	pg_uuid_t  *request;
	Candidate  *won;
	int			nwon;
	const TlNamed *judging;		/* the turn that is being judged */
	bool		stale;			/* another generation holds some turn */
	bool		ended;			/* some turn had ended before */
	bool		same_request;	/* ... by an equal call */
	text	   *conversation;	/* of a turn that it did not win */
} Commit;

PG_FUNCTION_INFO_V1(turn_liveness_commit_terminal_reply);

Jsonb *
tl_turn_routing(const TlTurn *turn)
{
	return tl_turn_isnull(turn, TURN_ROUTING) ? NULL :
		DatumGetJsonbP(tl_turn_value(turn, TURN_ROUTING));
}

void
tl_turn_address(TlReply *reply, const TlTurn *turn, const TlVerdict *verdict, int64 now)
{
	Jsonb	   *routing = tl_turn_routing(turn);

	memset(reply, 0, sizeof(*reply));
	reply->deployment = tl_turn_text(turn, TURN_DEPLOYMENT);
	reply->conversation = tl_turn_text(turn, TURN_CONVERSATION);
	if (routing != NULL)
	{
		reply->platform = tl_routing_text(routing, "platform", true);
		reply->organization = tl_routing_text(routing, "organizationId", false);
	}
	if (reply->platform == NULL)
		reply->platform = cstring_to_text(TL_DEFAULT_PLATFORM);
	reply->generation = turn->times.generation;
	if (!tl_turn_isnull(turn, TURN_WORKER))
		reply->worker = tl_turn_text(turn, TURN_WORKER);
	if (verdict == NULL)
		return;
	reply->armed_at = DatumGetTimestampTz(tl_turn_value(turn, TURN_ARMED_AT));
	if (verdict->first_beat > 0)
		reply->first_beat = tl_clock_to_wall(verdict->first_beat, now);
	if (verdict->last_beat > 0)
		reply->last_beat = tl_clock_to_wall(verdict->last_beat, now);
}

/* The reply is stored and has it all: the row that stays is small. */
static void
end_turn(TlTurn *turn, char outcome, const pg_uuid_t *request, int64 reply_id)
{
	/* a turn that was never owed changes no count of owed turns */
	if (tl_turn_is_owed(turn))
		tl_xact_count(turn, true);
	tl_turn_set(turn, TURN_OUTCOME, CharGetDatum(outcome));
	tl_turn_set_null(turn, TURN_ROUTING);
	tl_turn_set_null(turn, TURN_REASON);
	tl_turn_set_null(turn, TURN_WAIT_REASON);
	if (request)
		tl_turn_set(turn, TURN_REQUEST, UUIDPGetDatum(request));
	tl_turn_set(turn, TURN_REPLY_ID, Int64GetDatum(reply_id));
}

void
tl_ending_make(TlEnding *ending, TlTurn *turn, const TlVerdict *verdict, int64 now,
			   const text *error, const text *error_code, char decided_by)
{
	TlReply    *reply = &ending->reply;

	ending->turn = turn;
	ending->message_id = tl_turn_text(turn, TURN_MESSAGE_ID);
	tl_turn_address(reply, turn, verdict, now);
	reply->message_ids = &ending->message_id;
	reply->nids = 1;
	reply->outcome = error != NULL ? TL_OUTCOME_ERROR : TL_OUTCOME_DISCHARGED;
	if (error != NULL)
		reply->payload = tl_payload_error(tl_turn_routing(turn), ending->message_id,
										  reply->generation, error, error_code);
	reply->error_code = error_code;
	reply->decided_by = decided_by;
}

void
tl_turns_end(TlOutbox *outbox, TlEnding *endings, int n, int64 now)
{
	TlReply    *replies[TL_OUTBOX_GROUP];
	int			i;

	for (i = 0; i < n; i++)
		replies[i] = &endings[i].reply;
	tl_outbox_open(outbox);
	tl_outbox_store(outbox, replies, n, now);
	for (i = 0; i < n; i++)
		end_turn(endings[i].turn, replies[i]->outcome, NULL, replies[i]->id);
}

/* Where the reply would have gone, had it won this turn. */
static void
note_conversation(Commit *commit, const TlTurn *turn)
{
	if (commit->conversation == NULL)
		commit->conversation = DatumGetTextPCopy(tl_turn_value(turn, TURN_CONVERSATION));
}

/* Nothing is written here: the reply comes first, when all turns are locked. */
static TlTurnChange
judge_candidate(TlTurn *turn, void *arg)
{
	Commit	   *commit = arg;
	Candidate  *candidate = &commit->won[commit->nwon];
	TlVerdict	verdict;
	int64		now = tl_clock_now();

	if (!tl_turn_is_owed(turn))
	{
		commit->ended = true;
		note_conversation(commit, turn);
		commit->same_request |= !tl_turn_isnull(turn, TURN_REQUEST) &&
			memcmp(DatumGetUUIDP(tl_turn_value(turn, TURN_REQUEST)), commit->request,
				   UUID_LEN) == 0;
		return TL_TURN_KEPT;
	}
	if (commit->judging->generation != 0 &&
		commit->judging->generation != turn->times.generation)
	{
		commit->stale = true;
		note_conversation(commit, turn);
		return TL_TURN_KEPT;
	}
	tl_turn_judge(turn, now, 0, &verdict);
	candidate->turn = *turn;
	tl_turn_detach(&candidate->turn);
	tl_turn_address(&candidate->reply, &candidate->turn, &verdict, now);
	candidate->message_id = tl_turn_text(&candidate->turn, TURN_MESSAGE_ID);
	commit->nwon++;
	return TL_TURN_KEPT;
}

/* The same address: conversation, platform, organization. */
static bool
same_address(const TlReply *a, const TlReply *b)
{
	return tl_compare_texts(&a->conversation, &b->conversation) == 0 &&
		tl_compare_texts(&a->platform, &b->platform) == 0 &&
		(a->organization == NULL) == (b->organization == NULL) &&
		(a->organization == NULL || tl_compare_texts(&a->organization, &b->organization) == 0);
}

/*
 * Turns are locked in the order of COLLATE "C" and listed in the caller's
 * order: the reply is to the caller's first.
 */
static Candidate **
order_as_called(FunctionCallInfo fcinfo, Commit *commit)
{
	int			ncalled;
	text	  **called = tl_arg_text_array(fcinfo, 1, "message_ids", &ncalled);
	Candidate **won = palloc(commit->nwon * sizeof(Candidate *));
	int			n = 0;
	int			i;

	for (i = 0; i < ncalled; i++)
	{
		Candidate  *candidate = bsearch(&called[i], commit->won, commit->nwon,
										sizeof(Candidate), tl_compare_texts);

		if (candidate == NULL || candidate->listed)
			continue;
		candidate->listed = true;
		won[n++] = candidate;
	}
	Assert(n == commit->nwon);
	return won;
}

/* Store one reply for each address, and end the turns that it lists. */
static void
end_won(TlRel *turns, Commit *commit, Candidate **won)
{
	TlOutbox	outbox = {0};
	text	  **ids = palloc(commit->nwon * sizeof(text *));
	Candidate **group = palloc(commit->nwon * sizeof(Candidate *));
	Snapshot	snapshot = tl_latest_snapshot();
	int64		now = tl_clock_now();
	int			i;
	int			j;

	tl_outbox_open(&outbox);
	for (i = 0; i < commit->nwon; i++)
	{
		TlReply    *reply = &won[i]->reply;

		if (!won[i]->listed)
			continue;
		for (j = i; j < commit->nwon; j++)
			if (won[j]->listed && same_address(reply, &won[j]->reply))
			{
				won[j]->listed = false;
				ids[reply->nids] = won[j]->message_id;
				group[reply->nids++] = won[j];
			}
		reply->message_ids = ids;
		reply->payload = tl_payload_reply(commit->reply, tl_turn_routing(&won[i]->turn), ids,
										  reply->nids, reply->generation);
		reply->outcome = commit->outcome;
		reply->error_code = commit->error_code;
		reply->decided_by = TL_DECIDED_REPLY;
		tl_outbox_store(&outbox, &reply, 1, now);
		for (j = 0; j < reply->nids; j++)
		{
			end_turn(&group[j]->turn, commit->outcome, commit->request, reply->id);
			tl_turn_write(turns, &group[j]->turn, snapshot, false);
		}
	}
	tl_outbox_close(&outbox);
	UnregisterSnapshot(snapshot);
}

/*
 * No turn was won: the reply is kept for inspection, unless this call is
 * repeated.
 */
static TlElection
keep_late(Commit *commit, text **ids, int nids)
{
	TlElection	verdict = commit->stale ? TL_STALE : commit->ended ? TL_LOST : TL_UNKNOWN;

	/* a client that did not hear the answer calls again */
	if (commit->same_request)
		return TL_WON;
	if (commit->conversation == NULL)
	{
		JsonbValue	value;

		if (getKeyJsonValueFromContainer(&commit->reply->root, "conversationId", 14, &value) != NULL &&
			value.type == jbvString && value.val.string.len <= TL_MAX_NAME)
			commit->conversation = cstring_to_text_with_len(value.val.string.val,
															value.val.string.len);
	}
	tl_late_reply_keep(commit->deployment, ids, nids, commit->conversation, commit->reply,
					   verdict, commit->request);
	return verdict;
}

/*
 * A worker has the reply for some turns of a deployment.  It wins those that
 * are still owed; it has lost only if it wins none of them.
 */
Datum
turn_liveness_commit_terminal_reply(PG_FUNCTION_ARGS)
{
	int			nids;
	TlNamed    *named;
	text	  **ids;
	Commit		commit = {0};
	TlRel		turns;
	int			i;

	commit.deployment = tl_arg_name(fcinfo, 0, "deployment");
	named = tl_arg_turns(fcinfo, 1, 3, &nids);
	ids = palloc(nids * sizeof(text *));
	for (i = 0; i < nids; i++)
		ids[i] = named[i].message_id;
	commit.reply = tl_arg_object(fcinfo, 2, "reply", tl_max_reply_size, "turn_liveness.max_reply_size");
	tl_check_writable("commit_terminal_reply");
	tl_grace_note_call(tl_clock_now());
	commit.request = tl_payload_request(commit.deployment, ids, nids, commit.reply);
	commit.outcome = tl_payload_is_error(commit.reply, &commit.error_code) ?
		TL_OUTCOME_ERROR : TL_OUTCOME_ANSWER;

	commit.won = palloc0(nids * sizeof(Candidate));
	tl_rel_open_skipping(&turns, TL_TURN, TL_OWED_INDEXES);
	for (i = 0; i < nids; i++)
	{
		commit.judging = &named[i];
		(void) tl_turn_change(&turns, commit.deployment, tl_turn_named(ids[i]), named[i].generation,
							  judge_candidate, &commit);
	}
	if (commit.nwon > 0)
		end_won(&turns, &commit, order_as_called(fcinfo, &commit));
	tl_rel_close(&turns);
	PG_RETURN_OID(tl_election_oid(commit.nwon > 0 ? TL_WON : keep_late(&commit, ids, nids)));
}
