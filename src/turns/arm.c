/*
 * arm.c
 *		Making a turn owed, and marking its provider as failed: what writes owed
 *		rows and decides nothing.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "shared/clock.h"
#include "base/enums.h"
#include "shared/grace.h"
#include "base/guc.h"
#include "store/turn_row.h"
#include "commit/xact.h"

static bool arm_again(TlRel *turns, text *deployment, text *message_id,
					  int32 admission_ms, int32 silence_ms, TlArmResult *result);
static int	change_owed(text *deployment, text *error_code, text *reason);

PG_FUNCTION_INFO_V1(turn_liveness_arm_turn);
PG_FUNCTION_INFO_V1(turn_liveness_mark_provider_failed);
PG_FUNCTION_INFO_V1(turn_liveness_clear_provider_failed);

void
tl_turn_make(TlTurn *turn, text *deployment, text *message_id, Jsonb *routing,
			 int32 admission_ms, int32 silence_ms, int32 duration_ms)
{
	text	   *conversation = tl_routing_text(routing, "conversationId", true);

	/* checked here, so that no sweep can ever fail on them */
	(void) tl_routing_text(routing, "platform", true);
	(void) tl_routing_text(routing, "organizationId", false);

	memset(turn, 0, sizeof(*turn));
	memset(turn->nulls, true, sizeof(turn->nulls));
	turn->times.epoch = tl_clock_epoch();
	turn->times.begun = turn->times.armed = tl_clock_arm_stamp();
	turn->times.admission_ms = admission_ms;
	turn->times.silence_ms = silence_ms;
	turn->times.duration_ms = duration_ms;
	turn->deployment_key = tl_lease_key(VARDATA_ANY(deployment), VARSIZE_ANY_EXHDR(deployment));
	turn->turn_key = tl_lease_turn_key(turn->deployment_key, VARDATA_ANY(message_id),
									   VARSIZE_ANY_EXHDR(message_id));

	tl_turn_set(turn, TURN_DEPLOYMENT, PointerGetDatum(deployment));
	tl_turn_set(turn, TURN_MESSAGE_ID, PointerGetDatum(message_id));
	turn->check = tl_times_next_check(&turn->times);
	tl_turn_encode(turn);
	tl_turn_set(turn, TURN_ARMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	tl_turn_set(turn, TURN_CONVERSATION, PointerGetDatum(conversation ? conversation : deployment));
	tl_turn_set(turn, TURN_ROUTING, JsonbPGetDatum(routing));
}

/*
 * The turn is there.  False: it went away, or changed under us: try again.
 */
static bool
arm_again(TlRel *turns, text *deployment, text *message_id,
		  int32 admission_ms, int32 silence_ms, TlArmResult *result)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlScan		scan = {0};
	TlTurn		turn;
	TM_Result	update = TM_Deleted;

	if (tl_turn_find(turns, &scan, PointerGetDatum(deployment),
					 PointerGetDatum(message_id), snapshot, &turn))
	{
		tl_rel_check_visible(turns, turn.slot);
		if (!tl_turn_is_owed(&turn))
		{
			*result = TL_ANSWERED;
			update = TM_Ok;
		}
		else
		{
			TlGrace		grace;

			tl_grace_get(&grace);
			tl_times_adopt(&turn.times, &grace, 0, tl_clock_now());
			turn.times.armed = tl_clock_arm_stamp();
			/* how long it took elsewhere, and lay in a dump, is no time of ours */
			if (tl_epoch_place(turn.times.epoch) != tl_epoch_place(grace.epoch))
				turn.times.begun = turn.times.armed;
			turn.times.epoch = grace.epoch;
			turn.times.seen = turn.times.beat = turn.times.started = 0;
			turn.times.admission_ms = admission_ms;
			turn.times.silence_ms = silence_ms;
			/* a mark stays until it is cleared, but the new worker gets its time */
			if (turn.times.frozen > 0)
				turn.times.frozen = turn.times.armed + admission_ms * TL_MS;
			tl_turn_set(&turn, TURN_REARMED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));

			turn.check = tl_times_next_check(&turn.times);
			update = tl_turn_update(turns, &turn, snapshot);
			if (update == TM_Ok)
			{
				*result = TL_PENDING;
				tl_xact_touch(turn.deployment_key, 0);
				tl_xact_watch_turn(&turn, &turns->slot->tts_tid, true);
			}
			else if (IsolationUsesXactSnapshot())
				tl_serialization_failure();
		}
	}
	else if (IsolationUsesXactSnapshot())
		tl_serialization_failure();
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	return update == TM_Ok;
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
	TlRel		turns;
	TlTurn		turn;
	TlArmResult result;
	bool		indexed;		/* by its conversation, which is not named as the deployment is */

	if ((!PG_ARGISNULL(3) && admission_ms > duration_ms) ||
		(!PG_ARGISNULL(4) && silence_ms > duration_ms))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be longer than the duration limit",
						!PG_ARGISNULL(3) && admission_ms > duration_ms ? "admission" : "silence"),
				 errdetail("The duration limit of this turn is %d ms.", duration_ms),
				 errhint("An interval without a unit is seconds: write '90 seconds' or '2 minutes'.")));
	admission_ms = Min(admission_ms, duration_ms);
	silence_ms = Min(silence_ms, duration_ms);

	tl_check_writable("arm_turn");
	tl_turn_make(&turn, deployment, message_id, routing, admission_ms, silence_ms, duration_ms);

	indexed = tl_turn_value(&turn, TURN_CONVERSATION) != PointerGetDatum(deployment);
	tl_rel_open_skipping(&turns, TL_TURN, indexed ? 0 : TL_BIT(TL_IDX_TURN_OWED_CONVERSATION));
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (tl_rel_insert_unless_there(&turns, TL_IDX_TURN_KEY, turn.values, turn.nulls, &turn.tid))
		{
			result = TL_ARMED;
			tl_xact_touch(turn.deployment_key, 0);
			tl_xact_watch_turn(&turn, &turn.tid, true);
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
		if (arm_again(&turns, deployment, message_id, admission_ms, silence_ms, &result))
			break;
	}
	tl_rel_close(&turns);
	/* the obligation must be as durable as the caller believes it is */
	ForceSyncCommit();
	PG_RETURN_OID(tl_arm_result_oid(result));
}

/*
 * Mark (error_code given) or clear (NULL) every owed turn of a deployment, in
 * the order of their ids.
 */
static int
change_owed(text *deployment, text *error_code, text *reason)
{
	TlRel		turns;
	text	  **ids;
	int			nids;
	int			changed = 0;
	int			i;

	tl_rel_open(&turns, TL_TURN, true);
	ids = tl_turn_list_owed(&turns, deployment, DT_NOEND, &nids);
	for (i = 0; i < nids; i++)
	{
		TM_Result	update;

		do
		{
			TlTurn		turn;
			TlScan		scan = {0};
			Snapshot	snapshot = tl_latest_snapshot();
			bool		ours;

			CHECK_FOR_INTERRUPTS();
			update = TM_Ok;
			if (tl_turn_find(&turns, &scan, PointerGetDatum(deployment),
							 PointerGetDatum(ids[i]), snapshot, &turn))
			{
				tl_rel_check_visible(&turns, turn.slot);
				if (tl_turn_is_owed(&turn) && (turn.times.frozen > 0) == (error_code == NULL))
				{
					TlGrace		grace;

					tl_grace_get(&grace);
					if (error_code != NULL)
					{
						TlVerdict	verdict;

						(void) tl_turn_judge(&turn, &verdict);
						tl_times_adopt(&turn.times, &grace, 0, tl_clock_now());
						/* beats that the leases forget are kept with the mark */
						if (verdict.last_beat > 0)
							turn.times.beat = verdict.last_beat;
						if (verdict.first_beat > 0)
							turn.times.started = verdict.first_beat;
						turn.times.frozen = verdict.deadline;
						tl_turn_set(&turn, TURN_ERROR_CODE, PointerGetDatum(error_code));
						if (reason)
							tl_turn_set(&turn, TURN_REASON, PointerGetDatum(reason));
					}
					else
					{
						tl_times_adopt(&turn.times, &grace, 0, tl_clock_now());
						turn.times.frozen = 0;
						tl_turn_set_null(&turn, TURN_ERROR_CODE);
						tl_turn_set_null(&turn, TURN_REASON);
					}
					ours = tl_xact_has_armed(&turn.tid);
					turn.check = tl_times_next_check(&turn.times);
					update = tl_turn_update(&turns, &turn, snapshot);
					if (update == TM_Ok)
					{
						changed++;
						tl_xact_touch(turn.deployment_key, 0);
						tl_xact_watch_turn(&turn, &turns.slot->tts_tid, ours);
					}
					else if (IsolationUsesXactSnapshot())
						tl_serialization_failure();
				}
			}
			tl_scan_end(&scan);
			UnregisterSnapshot(snapshot);
		} while (update != TM_Ok);
	}
	tl_rel_close(&turns);
	return changed;
}

Datum
turn_liveness_mark_provider_failed(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	text	   *error_code = tl_arg_name(fcinfo, 1, "error_code");
	text	   *reason = tl_arg_optional_text(fcinfo, 2, "reason");

	tl_check_writable("mark_provider_failed");
	PG_RETURN_INT32(change_owed(deployment, error_code, reason));
}

Datum
turn_liveness_clear_provider_failed(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");

	tl_check_writable("clear_provider_failed");
	PG_RETURN_INT32(change_owed(deployment, NULL, NULL));
}
