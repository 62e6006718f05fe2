/*
 * turn_row.c
 *		Rows of the table turn: reading, finding and writing them.
 *
 * A row that was read points into its slot: it is good until the scan that
 * found it moves or ends, or until tl_turn_detach() has copied it.
 */
#include "base/turn_liveness.h"

#include "utils/datum.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "store/turn_row.h"

/*
 * The columns that are times.  One that may be NULL is 0 in memory then; the
 * others are always there.
 */
static const struct
{
	int			att;
	Size		offset;
	bool		optional;
}			times[] = {
	{TURN_EPOCH, offsetof(TlTurn, times.epoch), false},
	{TURN_BEGUN, offsetof(TlTurn, times.begun), false},
	{TURN_ARMED, offsetof(TlTurn, times.armed), false},
	{TURN_CHECK, offsetof(TlTurn, next_check), false},
	{TURN_SEEN, offsetof(TlTurn, times.seen), true},
	{TURN_BEAT, offsetof(TlTurn, times.beat), true},
	{TURN_STARTED, offsetof(TlTurn, times.started), true},
	{TURN_FROZEN, offsetof(TlTurn, times.frozen), true},
	{TURN_SUSPENDED, offsetof(TlTurn, times.suspended), true},
	{TURN_WAIT_UNTIL, offsetof(TlTurn, times.wait_until), true},
	{TURN_LAPSED, offsetof(TlTurn, times.lapsed), true},
};

#define time_of(turn, i) (*(int64 *) ((char *) (turn) + times[i].offset))

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

void
tl_turn_decode(TupleTableSlot *slot, TlTurn *turn)
{
	int			i;

	turn->slot = slot;
	turn->tid = slot->tts_tid;
	tl_row_get(slot, turn->values, turn->nulls, TURN_NATTS);
	for (i = 0; i < lengthof(times); i++)
		time_of(turn, i) = tl_turn_isnull(turn, times[i].att) ? 0 :
			DatumGetInt64(tl_turn_value(turn, times[i].att));
	turn->times.admission_ms = DatumGetInt32(tl_turn_value(turn, TURN_ADMISSION));
	turn->times.silence_ms = DatumGetInt32(tl_turn_value(turn, TURN_SILENCE));
	turn->times.duration_ms = DatumGetInt32(tl_turn_value(turn, TURN_DURATION));
	turn->times.rescue_ms = DatumGetInt32(tl_turn_value(turn, TURN_RESCUE));
	turn->times.generation = DatumGetInt32(tl_turn_value(turn, TURN_GENERATION));
	turn->times.lapse_code = tl_turn_isnull(turn, TURN_LAPSE_CODE) ? 0 :
		DatumGetChar(tl_turn_value(turn, TURN_LAPSE_CODE));
	tl_turn_set_keys(turn);
}

static void
encode(TlTurn *turn)
{
	int			i;

	for (i = 0; i < lengthof(times); i++)
		if (times[i].optional && time_of(turn, i) == 0)
			tl_turn_set_null(turn, times[i].att);
		else
			tl_turn_set(turn, times[i].att, Int64GetDatum(time_of(turn, i)));
	tl_turn_set(turn, TURN_ADMISSION, Int32GetDatum(turn->times.admission_ms));
	tl_turn_set(turn, TURN_SILENCE, Int32GetDatum(turn->times.silence_ms));
	tl_turn_set(turn, TURN_DURATION, Int32GetDatum(turn->times.duration_ms));
	tl_turn_set(turn, TURN_RESCUE, Int32GetDatum(turn->times.rescue_ms));
	tl_turn_set(turn, TURN_GENERATION, Int32GetDatum(turn->times.generation));
	/* why it lapsed is told as long as that counts; a row of others may not */
	if (turn->times.lapsed > 0 && turn->times.lapse_code != 0)
		tl_turn_set(turn, TURN_LAPSE_CODE, CharGetDatum(turn->times.lapse_code));
	else
		tl_turn_set_null(turn, TURN_LAPSE_CODE);
}

/* Copy the values out of the slot: the turn outlives the scan that found it. */
void
tl_turn_detach(TlTurn *turn)
{
	int			i;

	for (i = 0; i < TURN_NATTS; i++)
	{
		Form_pg_attribute att = TupleDescAttr(turn->slot->tts_tupleDescriptor, i);

		if (!turn->nulls[i])
			turn->values[i] = datumCopy(turn->values[i], att->attbyval, att->attlen);
	}
	turn->slot = NULL;
}

bool
tl_turn_insert_unless_there(TlRel *turns, TlTurn *turn, TlFill fill, void *arg)
{
	bool		inserted;

	encode(turn);
	inserted = tl_rel_insert_unless_there(turns, TL_IDX_TURN_KEY, turn->values, turn->nulls,
										  fill, arg);
	if (inserted)
		turn->tid = turns->slot->tts_tid;
	return inserted;
}

TM_Result
tl_turn_update(TlRel *turns, TlTurn *turn, Snapshot snapshot)
{
	TM_Result	result;

	encode(turn);
	result = tl_rel_update(turns, &turn->tid, snapshot, turn->values, turn->nulls,
						   !tl_turn_is_owed(turn));
	if (result == TM_Ok)
		turn->tid = turns->slot->tts_tid;
	return result;
}

void
tl_turn_rows_put_back(TlRel *turns, TlTurn **taken, int n)
{
	bool		owed = tl_turn_is_owed(taken[0]);
	Datum	   *values = palloc(n * TURN_NATTS * sizeof(Datum));
	bool	   *nulls = palloc(n * TURN_NATTS * sizeof(bool));
	int			i;

	for (i = 0; i < n; i++)
	{
		Assert(tl_turn_is_owed(taken[i]) == owed);
		encode(taken[i]);
		memcpy(values + i * TURN_NATTS, taken[i]->values, sizeof(taken[i]->values));
		memcpy(nulls + i * TURN_NATTS, taken[i]->nulls, sizeof(taken[i]->nulls));
	}
	tl_rel_put_back(turns, n, values, nulls, !owed);
	if (n == 1)
		taken[0]->tid = turns->slot->tts_tid;
}

/* Is the row still where it was listed?  That saves the walk down the index. */
static bool
is_there(TlRel *turns, TlScan *scan, const text *deployment, const TlTurnName *name,
		 Snapshot snapshot, TlTurn *turn)
{
	ItemPointerData tid = name->tid;
	text	   *found;

	scan->slot = table_slot_create(turns->rel, NULL);
	if (table_tuple_fetch_row_version(turns->rel, &tid, snapshot, scan->slot))
	{
		tl_turn_decode(scan->slot, turn);
		found = tl_turn_text(turn, TURN_DEPLOYMENT);
		if (tl_compare_texts(&found, &deployment) == 0)
		{
			found = tl_turn_text(turn, TURN_MESSAGE_ID);
			if (tl_compare_texts(&found, &name->message_id) == 0)
				return true;
		}
	}
	ExecDropSingleTupleTableSlot(scan->slot);
	return false;
}

bool
tl_turn_find(TlRel *turns, TlScan *scan, const text *deployment, const TlTurnName *name,
			 Snapshot snapshot, TlTurn *turn)
{
	if (ItemPointerIsValid(&name->tid) &&
		is_there(turns, scan, deployment, name, snapshot, turn))
		return true;
	scan->nkeys = 0;
	tl_scan_key_text(scan, 1, BTEqualStrategyNumber, PointerGetDatum(name->message_id));
	tl_scan_key_text(scan, 2, BTEqualStrategyNumber, PointerGetDatum(deployment));
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
TlTurnName *
tl_turn_list_owed(TlRel *turns, const text *deployment, TlTurnWanted wanted, void *arg, int *n)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlScan		scan = {0};
	TlTurnName *names = palloc(16 * sizeof(TlTurnName));
	TlTurn		turn;

	*n = 0;
	tl_turn_scan_owed(turns, &scan, deployment, snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		tl_turn_decode(scan.slot, &turn);
		if (wanted != NULL && !wanted(&turn, arg))
			continue;
		/* the array doubles whenever a power of two is full */
		if (*n >= 16 && (*n & (*n - 1)) == 0)
			names = repalloc_huge(names, 2 * (Size) *n * sizeof(TlTurnName));
		names[(*n)++] = (TlTurnName) {
			.message_id = DatumGetTextPCopy(tl_turn_value(&turn, TURN_MESSAGE_ID)),
			.tid = turn.tid
		};
	}
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	qsort(names, *n, sizeof(TlTurnName), tl_compare_texts);
	return names;
}
