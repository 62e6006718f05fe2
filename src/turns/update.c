/*
 * update.c
 *		post_update: a message of a turn that goes on.
 *
 * An update is stored as a reply is, under the same cursor, and delivered like
 * one.  The transaction locks the turn's row before it takes the id, and so
 * does an election: so the terminal reply has a greater id than every update of
 * its turn, and no update comes after it.  The row keeps the id of the latest
 * update, and that is a sign of life, too.
 */
#include "base/turn_liveness.h"

#include "base/args.h"
#include "base/guc.h"
#include "replies/outbox.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "turns/turn.h"

typedef struct Update
{
	Jsonb	   *payload;
	int32		generation;		/* of the caller; 0: it names none */
	int64		id;				/* 0: not stored */
} Update;

PG_FUNCTION_INFO_V1(turn_liveness_post_update);

static TlTurnChange
post(TlTurn *turn, void *arg)
{
	Update	   *update = arg;
	TlTimes    *times = &turn->times;
	text	   *message_id = tl_turn_text(turn, TURN_MESSAGE_ID);
	int64		now = tl_clock_now();
	TlOutbox	outbox = {0};
	TlReply		reply;
	TlReply    *stored = &reply;
	TlVerdict	verdict;

	if (!tl_turn_is_owed(turn) ||
		(update->generation != 0 && update->generation != times->generation))
		return TL_TURN_KEPT;
	tl_turn_judge(turn, now, 0, &verdict);
	tl_turn_address(&reply, turn, &verdict, now);
	reply.message_ids = &message_id;
	reply.nids = 1;
	reply.payload = tl_payload_update(update->payload, tl_turn_routing(turn), message_id,
									  times->generation);
	reply.outcome = TL_OUTCOME_UPDATE;
	tl_outbox_open(&outbox);
	tl_outbox_store(&outbox, &stored, 1, now);
	update->id = reply.id;
	tl_outbox_close(&outbox);

	/* a beat that names the turn, kept in the row */
	tl_turn_adopt(turn, 0);
	times->beat = Max(Max(times->beat, now), times->armed);
	if (times->started < times->armed)
		times->started = times->beat;
	times->lapsed = 0;
	tl_turn_set(turn, TURN_LAST_UPDATE, Int64GetDatum(update->id));
	return TL_TURN_CHANGED;
}

Datum
turn_liveness_post_update(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *message_id = tl_arg_name(fcinfo, 1, "message_id");
	Update		update = {0};
	TlRel		turns;

	update.payload = tl_arg_object(fcinfo, 2, "payload", tl_max_reply_size, "turn_liveness.max_reply_size");
	update.generation = tl_arg_generation(fcinfo, 3);
	tl_check_writable("post_update");
	tl_grace_note_call(tl_clock_now());
	tl_rel_open(&turns, TL_TURN, true);
	(void) tl_turn_change(&turns, deployment, tl_turn_named(message_id),
						  update.generation, post, &update);
	tl_rel_close(&turns);
	if (update.id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(update.id);
}
