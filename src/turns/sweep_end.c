/*
 * sweep_end.c
 *		Ending the turns that a batch of the sweep fails.
 *
 * The batch has judged all its rows.  Now it stores the replies of the turns
 * that fail, in the order of their conversations, and of one conversation in
 * that of their arms.  A group takes the conversations' short locks and its
 * ids, and makes its rows and index entries together.  The groups are so small
 * that an election that meets such a lock waits for a part of a millisecond.
 * Then the batch updates the rows of the turns that it has locked, in the order
 * in which they stand in the table, and puts back those that it has taken, in
 * the order of their key.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/args.h"
#include "base/guc.h"
#include "shared/clock.h"
#include "turns/sweep_end.h"

#define GROUP_SIZE		65536	/* bytes of payload that a group may reach */

/* a turn that fails, locked or taken; it lives as long as the batch */
typedef struct TlFailing
{
	text	   *conversation;	/* of the turn, as are these */
	text	   *message_id;
	text	   *deployment;
	TlTurn		turn;
	TlVerdict	verdict;
	TlCode		lapse;
	int64		now;			/* it was judged then */
	int			at;				/* in the order of the batch */
	bool		taken;			/* its row is out of the table */
} TlFailing;

/* A mark of a provider's failure names the error of the turn. */
text *
tl_sweep_end_code(const TlTurn *turn, TlCode lapse)
{
	return tl_turn_isnull(turn, TURN_ERROR_CODE) ?
		cstring_to_text(tl_code_name(lapse)) : tl_turn_text(turn, TURN_ERROR_CODE);
}

static text *
error_of(const TlTurn *turn, TlCode lapse)
{
	return tl_turn_isnull(turn, TURN_REASON) ?
		cstring_to_text(tl_code_message(lapse)) : tl_turn_text(turn, TURN_REASON);
}

void
tl_sweep_end_begin(TlSweepEnd *end, MemoryContext context, int max)
{
	end->context = context;
	end->max = max;
	end->list = MemoryContextAlloc(context, max * sizeof(TlFailing *));
	end->n = 0;
}

void
tl_sweep_end_add(TlSweepEnd *end, const TlTurn *turn, const TlVerdict *verdict, TlCode lapse,
				 int64 now, bool taken)
{
	MemoryContext row_context = MemoryContextSwitchTo(end->context);
	TlFailing  *failing = palloc(sizeof(TlFailing));

	Assert(end->n < end->max);
	failing->turn = *turn;
	tl_turn_detach(&failing->turn);
	failing->conversation = tl_turn_text(&failing->turn, TURN_CONVERSATION);
	failing->message_id = tl_turn_text(&failing->turn, TURN_MESSAGE_ID);
	failing->deployment = tl_turn_text(&failing->turn, TURN_DEPLOYMENT);
	failing->verdict = *verdict;
	failing->lapse = lapse;
	failing->now = now;
	failing->at = end->n;
	failing->taken = taken;
	end->list[end->n++] = failing;
	MemoryContextSwitchTo(row_context);
}

/* The order in which the replies get their ids. */
static int
compare_replies(const void *a, const void *b)
{
	const TlFailing *left = *(TlFailing *const *) a;
	const TlFailing *right = *(TlFailing *const *) b;
	int			result = tl_compare_texts(&left->conversation, &right->conversation);

	if (result != 0)
		return result;
	if (left->turn.times.armed != right->turn.times.armed)
		return left->turn.times.armed < right->turn.times.armed ? -1 : 1;
	return left->at - right->at;
}

/* Rows that were taken come last, in the order of their key. */
static int
compare_rows(const void *a, const void *b)
{
	TlFailing  *left = *(TlFailing *const *) a;
	TlFailing  *right = *(TlFailing *const *) b;
	int			result;

	if (left->taken != right->taken)
		return left->taken ? 1 : -1;
	if (!left->taken)
		return ItemPointerCompare(&left->turn.tid, &right->turn.tid);
	result = tl_compare_texts(&left->message_id, &right->message_id);
	return result != 0 ? result : tl_compare_texts(&left->deployment, &right->deployment);
}

/* Store the replies of a group from the i-th on; returns how many these are. */
static int
end_group(TlSweepEnd *end, TlOutbox *outbox, int i)
{
	TlEnding	endings[TL_OUTBOX_GROUP];
	Size		size = 0;
	int			n;

	for (n = 0; n < TL_OUTBOX_GROUP && i + n < end->n && size < GROUP_SIZE; n++)
	{
		TlFailing  *failing = end->list[i + n];

		tl_ending_make(&endings[n], &failing->turn, &failing->verdict, failing->now,
					   error_of(&failing->turn, failing->lapse),
					   tl_sweep_end_code(&failing->turn, failing->lapse),
					   failing->lapse == TL_CODE_DIED ? TL_DECIDED_SESSION : TL_DECIDED_SWEEP);
		size += VARSIZE(endings[n].reply.payload);
	}
	tl_turns_end(outbox, endings, n, tl_clock_sweep_time());
	return n;
}

/* Put back the rows of a group from the i-th on; returns how many these are. */
static int
put_back_group(TlSweepEnd *end, TlRel *turns, int i)
{
	TlTurn	   *group[TL_OUTBOX_GROUP];
	int			n;

	for (n = 0; n < TL_OUTBOX_GROUP && i + n < end->n; n++)
	{
		Assert(end->list[i + n]->taken);
		group[n] = &end->list[i + n]->turn;
	}
	tl_turn_rows_put_back(turns, group, n);
	return n;
}

void
tl_sweep_end(TlSweepEnd *end, TlRel *turns, TlOutbox *outbox, Snapshot snapshot,
			 MemoryContext of_group)
{
	int			i;

	qsort(end->list, end->n, sizeof(TlFailing *), compare_replies);
	for (i = 0; i < end->n;)
	{
		CHECK_FOR_INTERRUPTS();
		tl_clock_keep_ticking();
		MemoryContextReset(of_group);
		i += end_group(end, outbox, i);
	}
	qsort(end->list, end->n, sizeof(TlFailing *), compare_rows);
	for (i = 0; i < end->n;)
	{
		CHECK_FOR_INTERRUPTS();
		tl_clock_keep_ticking();
		MemoryContextReset(of_group);
		if (end->list[i]->taken)
			i += put_back_group(end, turns, i);
		else
			tl_turn_write(turns, &end->list[i++]->turn, snapshot, false);
	}
}
