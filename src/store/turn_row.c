/*
 * turn_row.c
 *		Rows of the table turn: reading, finding, judging, and the one small update
 *		that decides nothing.
 *
 * A row that was read points into its slot: it is good until the scan that
 * found it moves or ends.
 */
#include "base/turn_liveness.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "shared/clock.h"
#include "shared/grace.h"
#include "store/turn_row.h"

static int64 get_us(const TlTurn *turn, int att);

static int64
get_us(const TlTurn *turn, int att)
{
	return tl_turn_isnull(turn, att) ? 0 : DatumGetInt64(tl_turn_value(turn, att));
}

void
tl_turn_decode(TupleTableSlot *slot, TlTurn *turn)
{
	text	   *deployment;
	text	   *message_id;

	slot_getallattrs(slot);
	turn->slot = slot;
	turn->tid = slot->tts_tid;
	memcpy(turn->values, slot->tts_values, sizeof(turn->values));
	memcpy(turn->nulls, slot->tts_isnull, sizeof(turn->nulls));

	turn->check = get_us(turn, TURN_CHECK);
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

	deployment = DatumGetTextPP(tl_turn_value(turn, TURN_DEPLOYMENT));
	message_id = DatumGetTextPP(tl_turn_value(turn, TURN_MESSAGE_ID));
	turn->deployment_key = tl_lease_key(VARDATA_ANY(deployment), VARSIZE_ANY_EXHDR(deployment));
	turn->turn_key = tl_lease_turn_key(turn->deployment_key, VARDATA_ANY(message_id),
									   VARSIZE_ANY_EXHDR(message_id));
}

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

/* Write one time into the row: 0 is NULL there, where the column allows it. */
static void
set_us(TlTurn *turn, int att, int64 us)
{
	if (us == 0)
		tl_turn_set_null(turn, att);
	else
		tl_turn_set(turn, att, Int64GetDatum(us));
}

/* A row's times are changed in turn->times only: here they become columns. */
void
tl_turn_encode(TlTurn *turn)
{
	const TlTimes *times = &turn->times;

	tl_turn_set(turn, TURN_EPOCH, Int64GetDatum(times->epoch));
	tl_turn_set(turn, TURN_BEGUN, Int64GetDatum(times->begun));
	tl_turn_set(turn, TURN_ARMED, Int64GetDatum(times->armed));
	tl_turn_set(turn, TURN_CHECK, Int64GetDatum(turn->check));
	set_us(turn, TURN_SEEN, times->seen);
	set_us(turn, TURN_BEAT, times->beat);
	set_us(turn, TURN_STARTED, times->started);
	set_us(turn, TURN_FROZEN, times->frozen);
	tl_turn_set(turn, TURN_ADMISSION, Int32GetDatum(times->admission_ms));
	tl_turn_set(turn, TURN_SILENCE, Int32GetDatum(times->silence_ms));
	tl_turn_set(turn, TURN_DURATION, Int32GetDatum(times->duration_ms));
}

TM_Result
tl_turn_update(TlRel *turns, TlTurn *turn, Snapshot snapshot)
{
	tl_turn_encode(turn);
	return tl_rel_update(turns, &turn->tid, snapshot, turn->values, turn->nulls);
}

bool
tl_turn_find(TlRel *turns, TlScan *scan, Datum deployment, Datum message_id,
			 Snapshot snapshot, TlTurn *turn)
{
	scan->nkeys = 0;
	tl_scan_key_text(scan, TURN_DEPLOYMENT, BTEqualStrategyNumber, deployment);
	tl_scan_key_text(scan, TURN_MESSAGE_ID, BTEqualStrategyNumber, message_id);
	tl_scan_begin(scan, turns, TL_IDX_TURN_KEY, snapshot);
	if (!tl_scan_next(scan, ForwardScanDirection))
		return false;
	tl_turn_decode(scan->slot, turn);
	return true;
}

void
tl_turn_scan_owed(TlRel *turns, TlScan *scan, Datum deployment, Snapshot snapshot)
{
	scan->nkeys = 0;
	tl_scan_key_text(scan, 1, BTEqualStrategyNumber, deployment);
	tl_scan_begin(scan, turns, TL_IDX_TURN_OWED_DEPLOYMENT, snapshot);
}

/*
 * Whoever changes the rows of a deployment lists them first and takes them in the order
 * of their ids: an index walk in which rows change would not be an order.
 */
text **
tl_turn_list_owed(TlRel *turns, const text *deployment, TimestampTz before, int *n)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlScan		scan = {0};
	int			size = 16;
	text	  **ids = palloc(size * sizeof(text *));

	*n = 0;
	tl_turn_scan_owed(turns, &scan, PointerGetDatum(deployment), snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		TlTurn		turn;

		CHECK_FOR_INTERRUPTS();
		tl_turn_decode(scan.slot, &turn);
		if (DatumGetTimestampTz(tl_turn_value(&turn, tl_turn_isnull(&turn, TURN_REARMED_AT) ?
											  TURN_ARMED_AT : TURN_REARMED_AT)) >= before)
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

/* The sweep does not use this: it must read the beats under a lock (lease.c). */
int64
tl_turn_judge(const TlTurn *turn, TlVerdict *verdict)
{
	int64		now = tl_clock_now();
	TlSigns		signs;
	TlGrace		grace;

	tl_lease_read(turn->deployment_key, turn->turn_key, &signs);
	tl_grace_get(&grace);
	tl_deadline(&turn->times, &signs, &grace, now, verdict);
	return now;
}

/*
 * A sweep says so in its sweeper slot while it decides, and in the row from
 * then on: the row's next version, not committed yet, is a lapsed one.
 */
bool
tl_turn_is_being_swept(TlRel *turns, const TlTurn *turn)
{
	BufferHeapTupleTableSlot *bslot = (BufferHeapTupleTableSlot *) turn->slot;
	HeapTupleHeader tuple;
	bool		updated;
	ItemPointerData next;
	TupleTableSlot *slot;
	bool		swept = false;

	if (tl_lease_is_condemned(turn->turn_key))
		return true;

	Assert(TTS_IS_BUFFERTUPLE(turn->slot));
	LockBuffer(bslot->buffer, BUFFER_LOCK_SHARE);
	tuple = bslot->base.tuple->t_data;
	updated = (tuple->t_infomask & HEAP_XMAX_INVALID) == 0 &&
		!HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask);
	next = tuple->t_ctid;
	LockBuffer(bslot->buffer, BUFFER_LOCK_UNLOCK);
	if (!updated || ItemPointerEquals(&next, unconstify(ItemPointerData *, &turn->tid)))
		return false;

	slot = table_slot_create(turns->rel, NULL);
	if (table_tuple_fetch_row_version(turns->rel, &next, SnapshotAny, slot))
	{
		bool		isnull;
		Datum		outcome = slot_getattr(slot, TURN_OUTCOME, &isnull);
		TransactionId xmin = HeapTupleHeaderGetXmin(((BufferHeapTupleTableSlot *) slot)->base.tuple->t_data);

		/* one that was rolled back has taken nothing */
		swept = !isnull && DatumGetChar(outcome) == TL_OUTCOME_LAPSED &&
			!TransactionIdDidAbort(xmin);
	}
	ExecDropSingleTupleTableSlot(slot);
	return swept;
}
