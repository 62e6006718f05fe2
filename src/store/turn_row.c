/*
 * turn_row.c
 *		Rows of the table turn: reading, finding and writing them.
 *
 * A row that was read points into its slot: it is good until the scan that
 * found it moves or ends, or until tl_turn_detach() has copied it.
 */
#include "base/turn_liveness.h"

#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "store/turn_row.h"

static int64 get_us(const TlTurn *turn, int att);
static void put_us(TlTurn *turn, int att, int64 us);
static void encode(TlTurn *turn);

void
tl_turn_set(TlTurn *turn, int att, Datum value)
{
	turn->values[att - 1] = value;
	turn->nulls[att - 1] = false;
}

void
tl_turn_set_null(TlTurn *turn, int att)
{
	turn->values[att - 1] = (Datum) 0;
	turn->nulls[att - 1] = true;
}

/* A text column that is not NULL. */
text *
tl_turn_text(const TlTurn *turn, int att)
{
	return DatumGetTextPP(tl_turn_value(turn, att));
}

void
tl_turn_set_keys(TlTurn *turn)
{
	turn->deployment_key = tl_lease_key(tl_turn_text(turn, TURN_DEPLOYMENT));
	turn->turn_key = tl_lease_turn_key(turn->deployment_key,
									   tl_turn_text(turn, TURN_MESSAGE_ID));
}

TimestampTz
tl_turn_armed_at(const TlTurn *turn)
{
	return DatumGetTimestampTz(tl_turn_value(turn, tl_turn_isnull(turn, TURN_REARMED_AT) ?
											 TURN_ARMED_AT : TURN_REARMED_AT));
}

static int64
get_us(const TlTurn *turn, int att)
{
	return tl_turn_isnull(turn, att) ? 0 : DatumGetInt64(tl_turn_value(turn, att));
}

/* A time that there is not is 0 in memory and NULL in the row. */
static void
put_us(TlTurn *turn, int att, int64 us)
{
	if (us == 0)
		tl_turn_set_null(turn, att);
	else
		tl_turn_set(turn, att, Int64GetDatum(us));
}

void
tl_turn_decode(TupleTableSlot *slot, TlTurn *turn)
{
	slot_getallattrs(slot);
	turn->slot = slot;
	turn->tid = slot->tts_tid;
	memcpy(turn->values, slot->tts_values, sizeof(turn->values));
	memcpy(turn->nulls, slot->tts_isnull, sizeof(turn->nulls));

	turn->times.epoch = get_us(turn, TURN_EPOCH);
	turn->times.begun = get_us(turn, TURN_BEGUN);
	turn->times.armed = get_us(turn, TURN_ARMED);
	turn->times.seen = get_us(turn, TURN_SEEN);
	turn->times.beat = get_us(turn, TURN_BEAT);
	turn->times.started = get_us(turn, TURN_STARTED);
	turn->times.frozen = get_us(turn, TURN_FROZEN);
	turn->times.admission_ms = DatumGetInt32(tl_turn_value(turn, TURN_ADMISSION));
	turn->times.silence_ms = DatumGetInt32(tl_turn_value(turn, TURN_SILENCE));
	turn->times.duration_ms = DatumGetInt32(tl_turn_value(turn, TURN_DURATION));
	turn->next_check = get_us(turn, TURN_CHECK);
	tl_turn_set_keys(turn);
}

static void
encode(TlTurn *turn)
{
	tl_turn_set(turn, TURN_EPOCH, Int64GetDatum(turn->times.epoch));
	tl_turn_set(turn, TURN_BEGUN, Int64GetDatum(turn->times.begun));
	tl_turn_set(turn, TURN_ARMED, Int64GetDatum(turn->times.armed));
	tl_turn_set(turn, TURN_CHECK, Int64GetDatum(turn->next_check));
	put_us(turn, TURN_SEEN, turn->times.seen);
	put_us(turn, TURN_BEAT, turn->times.beat);
	put_us(turn, TURN_STARTED, turn->times.started);
	put_us(turn, TURN_FROZEN, turn->times.frozen);
	tl_turn_set(turn, TURN_ADMISSION, Int32GetDatum(turn->times.admission_ms));
	tl_turn_set(turn, TURN_SILENCE, Int32GetDatum(turn->times.silence_ms));
	tl_turn_set(turn, TURN_DURATION, Int32GetDatum(turn->times.duration_ms));
}

/* Copy the values out of the slot: the turn outlives the scan that found it. */
void
tl_turn_detach(TlTurn *turn)
{
	TupleDesc	desc = turn->slot->tts_tupleDescriptor;
	int			i;

	for (i = 0; i < TURN_NATTS; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!turn->nulls[i])
			turn->values[i] = datumCopy(turn->values[i], att->attbyval, att->attlen);
	}
	turn->slot = NULL;
}

bool
tl_turn_insert_unless_there(TlRel *turns, TlTurn *turn)
{
	encode(turn);
	return tl_rel_insert_unless_there(turns, TL_IDX_TURN_KEY, turn->values, turn->nulls,
									  &turn->tid);
}

TM_Result
tl_turn_update(TlRel *turns, TlTurn *turn, Snapshot snapshot)
{
	TM_Result	result;

	encode(turn);
	result = tl_rel_update(turns, &turn->tid, snapshot, turn->values, turn->nulls);
	if (result == TM_Ok)
		turn->tid = turns->slot->tts_tid;
	return result;
}

bool
tl_turn_find(TlRel *turns, TlScan *scan, const text *deployment, const text *message_id,
			 Snapshot snapshot, TlTurn *turn)
{
	scan->nkeys = 0;
	tl_scan_key_text(scan, TURN_DEPLOYMENT, BTEqualStrategyNumber, PointerGetDatum(deployment));
	tl_scan_key_text(scan, TURN_MESSAGE_ID, BTEqualStrategyNumber, PointerGetDatum(message_id));
	tl_scan_begin(scan, turns, TL_IDX_TURN_KEY, snapshot);
	if (!tl_scan_next(scan, ForwardScanDirection))
		return false;
	tl_turn_decode(scan->slot, turn);
	return true;
}

void
tl_turn_scan_owed(TlRel *turns, TlScan *scan, const text *deployment, Snapshot snapshot)
{
	scan->nkeys = 0;
	tl_scan_key_text(scan, 1, BTEqualStrategyNumber, PointerGetDatum(deployment));
	tl_scan_begin(scan, turns, TL_IDX_TURN_OWED_DEPLOYMENT, snapshot);
}

/*
 * A caller that changes the rows of a deployment lists them first and takes
 * them in the order of their ids: an index walk in which rows change has no
 * order.
 */
text **
tl_turn_list_owed(TlRel *turns, const text *deployment, TlTurnWanted wanted, void *arg, int *n)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlScan		scan = {0};
	int			size = 16;
	text	  **ids = palloc(size * sizeof(text *));

	*n = 0;
	tl_turn_scan_owed(turns, &scan, deployment, snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		TlTurn		turn;

		CHECK_FOR_INTERRUPTS();
		tl_turn_decode(scan.slot, &turn);
		if (wanted != NULL && !wanted(&turn, arg))
			continue;
		if (*n == size)
		{
			size *= 2;
			ids = repalloc_huge(ids, size * sizeof(text *));
		}
		ids[(*n)++] = DatumGetTextPCopy(tl_turn_value(&turn, TURN_MESSAGE_ID));
	}
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	qsort(ids, *n, sizeof(text *), tl_compare_texts);
	return ids;
}
