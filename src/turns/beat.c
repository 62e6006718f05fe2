/*
 * beat.c
 *		Heartbeats: a sign of life in, a verdict out.
 *
 * The usual beat touches shared memory only (lease.c).  Where the count is not
 * known it probes the table under the latest snapshot, which assigns no
 * transaction id and writes nothing.  Where there is no room for a lease, and
 * without preload, the beat is an update of the marker rows; it waits for
 * nobody's lock: whoever holds a row is deciding about it or beating it.
 *
 * A probe does not count a turn that a sweep, not committed yet, has taken.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "utils/array.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/args.h"
#include "shared/clock.h"
#include "shared/grace.h"
#include "shared/lease.h"
#include "shared/shmem.h"
#include "store/turn_row.h"
#include "commit/xact.h"

#define MAX_TRIES	10			/* generations that move under a probe */

/* how many elements ahead a batch asks the memory */
#define PREFETCH_BUCKET	16
#define PREFETCH_LEASE	8

static int64 counts_from(const TlTimes *times);
static int32 probe_deployment(text *deployment, int64 *sole_armed, bool *swept);
static bool probe_turn(text *deployment, text *message_id, int64 *armed, bool *swept);
static int32 beat_rows(text *deployment, text *message_id, int64 now);
static int32 beat_deployment(text *deployment, TlLeaseKey key, int64 now);
static bool beat_turn(text *deployment, TlLeaseKey key, text *message_id, int64 now);
static void check_beat_allowed(void);

PG_FUNCTION_INFO_V1(turn_liveness_heartbeat);
PG_FUNCTION_INFO_V1(turn_liveness_heartbeats);

/* From when on beats count for the turn: see rules/deadline.c. */
static int64
counts_from(const TlTimes *times)
{
	return tl_epoch_run(times->epoch) == tl_epoch_run(tl_clock_epoch()) ?
		times->armed : tl_clock_server_start();
}

/*
 * How many turns the deployment owes, and when the only one was armed.  A turn
 * that an open sweep has taken may yet be owed again: what was found is for the
 * caller of the beat only, not to be kept.
 */
static int32
probe_deployment(text *deployment, int64 *sole_armed, bool *swept)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlRel		turns;
	TlScan		scan = {0};
	TlTurn		turn;
	int32		owed = 0;

	*swept = false;
	tl_rel_open(&turns, TL_TURN, false);
	tl_turn_scan_owed(&turns, &scan, PointerGetDatum(deployment), snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		tl_turn_decode(scan.slot, &turn);
		if (tl_turn_is_being_swept(&turns, &turn))
		{
			*swept = true;
			continue;
		}
		*sole_armed = counts_from(&turn.times);
		owed++;
	}
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	return owed;
}

static bool
probe_turn(text *deployment, text *message_id, int64 *armed, bool *swept)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlRel		turns;
	TlScan		scan = {0};
	TlTurn		turn;
	bool		owed;

	tl_rel_open(&turns, TL_TURN, false);
	owed = tl_turn_find(&turns, &scan, PointerGetDatum(deployment),
						PointerGetDatum(message_id), snapshot, &turn) &&
		tl_turn_is_owed(&turn);
	*swept = owed && tl_turn_is_being_swept(&turns, &turn);
	if (*swept)
		owed = false;
	if (owed)
		*armed = counts_from(&turn.times);
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	return owed;
}

/*
 * A beat on the marker rows: of one turn, or of all that the deployment owes.
 * Returns how many of them are owed.
 */
static int32
beat_rows(text *deployment, text *message_id, int64 now)
{
	TlDatabase *db = tl_database();
	int64		sole_armed;
	int32		owed = 0;
	bool		starts = message_id != NULL;
	bool		swept;
	Snapshot	snapshot;
	TlRel		turns;
	TlScan		scan = {0};
	ItemPointerData *tids;
	int			ntids = 0;
	int			maxtids = 16;
	TupleTableSlot *slot;
	TupleTableSlot *locked;
	int			i;

	PreventCommandIfReadOnly("heartbeat");
	PreventCommandIfParallelMode("heartbeat");

	if (!starts)
		starts = probe_deployment(deployment, &sole_armed, &swept) == 1;

	/* list first: what is written below must not be met again */
	tids = palloc(maxtids * sizeof(ItemPointerData));
	snapshot = tl_latest_snapshot();
	tl_rel_open(&turns, TL_TURN, true);
	if (message_id != NULL)
	{
		TlTurn		turn;

		if (tl_turn_find(&turns, &scan, PointerGetDatum(deployment),
						 PointerGetDatum(message_id), snapshot, &turn))
			tids[ntids++] = turn.tid;
	}
	else
		tl_turn_scan_owed(&turns, &scan, PointerGetDatum(deployment), snapshot);
	while (message_id == NULL && tl_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		if (ntids == maxtids)
		{
			maxtids *= 2;
			tids = repalloc_huge(tids, maxtids * sizeof(ItemPointerData));
		}
		tids[ntids++] = scan.slot->tts_tid;
	}
	tl_scan_end(&scan);

	slot = table_slot_create(turns.rel, NULL);
	locked = table_slot_create(turns.rel, NULL);
	for (i = 0; i < ntids; i++)
	{
		TlTurn		turn;
		TlGrace		grace;
		bool		ours;

		CHECK_FOR_INTERRUPTS();
		if (!table_tuple_fetch_row_version(turns.rel, &tids[i], snapshot, slot))
			continue;
		tl_turn_decode(slot, &turn);
		if (!tl_turn_is_owed(&turn) || tl_turn_is_being_swept(&turns, &turn))
			continue;
		owed++;
		ours = tl_xact_has_armed(&turn.tid);
		tl_grace_get(&grace);
		tl_times_adopt(&turn.times, &grace, 0, now);
		turn.times.beat = now;
		if (starts && turn.times.started < turn.times.armed)
			turn.times.started = now;
		if (tl_rel_try_lock(&turns, &turn.tid, snapshot, locked, LockTupleNoKeyExclusive) &&
			tl_turn_update(&turns, &turn, snapshot) == TM_Ok &&
			(db != NULL || ours))
			tl_xact_watch_turn(&turn, &turns.slot->tts_tid, ours);
	}
	ExecDropSingleTupleTableSlot(locked);
	ExecDropSingleTupleTableSlot(slot);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);

	if (db != NULL)
	{
		tl_counter_add(TL_COUNT_BEATS_IN_ROWS, 1);
		if (pg_atomic_exchange_u32(&db->warned_full, 1) == 0)
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no room for more beats in shared memory, those of database \"%s\" are written to rows",
							get_database_name(MyDatabaseId)),
					 errhint("Raise \"%s\".", "turn_liveness.lease_capacity")));
	}
	return owed;
}

TL_HOT static int32
beat_deployment(text *deployment, TlLeaseKey key, int64 now)
{
	uint32		generation = 0;
	int32		owed = 0;
	int64		sole_armed = 0;
	bool		swept = false;
	int			tries;

	for (tries = 0;; tries++)
	{
		switch (tl_lease_beat(key, now, &generation, &owed))
		{
			case TL_BEAT_KNOWN:
				return owed;

			case TL_BEAT_PROBE:
				owed = probe_deployment(deployment, &sole_armed, &swept);

				/*
				 * A turn that was armed after we looked at the clock is not started
				 * by this beat: the next one must probe again.
				 */
				if (tl_lease_found(key, generation, owed, sole_armed, now,
								   !swept && !tl_xact_has_touched(key) &&
								   (owed != 1 || now >= sole_armed)) ||
					tries >= MAX_TRIES)
					return owed;
				break;

			case TL_BEAT_ABSENT:
				/* what owes nothing gets no lease */
				owed = probe_deployment(deployment, &sole_armed, &swept);
				if (owed == 0)
					return 0;
				if (!tl_lease_enter(key, key, now))
					return beat_rows(deployment, NULL, now);
				/* a sweep may have come in between: look again, as with any lease */
				break;
		}
	}
}

static bool
beat_turn(text *deployment, TlLeaseKey key, text *message_id, int64 now)
{
	TlLeaseKey	turn = tl_lease_turn_key(key, VARDATA_ANY(message_id), VARSIZE_ANY_EXHDR(message_id));
	uint32		generation = 0;
	int64		armed = 0;
	bool		owed;
	bool		swept = false;
	int			tries;

	for (tries = 0;; tries++)
	{
		switch (tl_lease_beat_turn(key, turn, now, &generation))
		{
			case TL_BEAT_KNOWN:
				return true;

			case TL_BEAT_PROBE:
				owed = probe_turn(deployment, message_id, &armed, &swept);
				if (owed)
					tl_lease_start_turn(key, turn, armed, now);
				if (tl_lease_found_turn(key, turn, generation, owed,
										!swept && !tl_xact_has_touched(key) &&
										(!owed || now >= armed)) ||
					tries >= MAX_TRIES)
					return owed;
				break;

			case TL_BEAT_ABSENT:
				if (!probe_turn(deployment, message_id, &armed, &swept))
					return false;
				if (!tl_lease_enter(key, turn, now))
					return beat_rows(deployment, message_id, now) > 0;
				break;
		}
	}
}

/* Soft state may be written in a read-only transaction, but not on a standby. */
TL_HOT static void
check_beat_allowed(void)
{
	if (RecoveryInProgress())
		PreventCommandDuringRecovery("heartbeat");
	if (!OidIsValid(tl_extension_oid()))
		(void) tl_table_oid(TL_TURN);	/* raises */
}

TL_HOT Datum
turn_liveness_heartbeat(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	TlLeaseKey	key;
	int64		now;
	int32		owed = 0;

	check_beat_allowed();
	key = tl_lease_key(VARDATA_ANY(deployment), VARSIZE_ANY_EXHDR(deployment));
	/* memory is slow: it comes while we look at the clock and count */
	tl_lease_prefetch_bucket(key);
	now = tl_clock_now();
	tl_lease_prefetch(key);
	tl_grace_note_call_at(now);
	tl_counter_add(TL_COUNT_BEATS, 1);

	if (PG_ARGISNULL(1))
		owed = beat_deployment(deployment, key, now);
	else if (ArrayGetNItems(ARR_NDIM(PG_GETARG_ARRAYTYPE_P(1)), ARR_DIMS(PG_GETARG_ARRAYTYPE_P(1))) > 0)
	{
		int			nids;
		text	  **ids = tl_arg_names(fcinfo, 1, "message_ids", &nids);
		int			i;

		for (i = 0; i < nids; i++)
			owed += beat_turn(deployment, key, ids[i], now);
	}
	PG_RETURN_INT32(owed);
}

Datum
turn_liveness_heartbeats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			ndeployments;
	int			nids;
	text	  **deployments = tl_arg_text_array(fcinfo, 0, "deployments", &ndeployments);
	text	  **ids = tl_arg_text_array(fcinfo, 1, "message_ids", &nids);
	TlLeaseKey *keys;
	int64		now;
	int			i;

	if (!PG_ARGISNULL(1) && nids != ndeployments)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("deployments and message_ids must have the same length"),
				 errhint("Pass NULL for an element that beats for its whole deployment.")));
	check_beat_allowed();
	InitMaterializedSRF(fcinfo, 0);
	now = tl_clock_now();
	tl_grace_note_call_at(now);
	tl_counter_add(TL_COUNT_BEATS, ndeployments);

	keys = palloc_extended(sizeof(TlLeaseKey) * Max(ndeployments, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (i = 0; i < ndeployments; i++)
		if (deployments[i] != NULL && tl_name_is_valid(deployments[i]))
			keys[i] = tl_lease_key(VARDATA_ANY(deployments[i]), VARSIZE_ANY_EXHDR(deployments[i]));

	for (i = 0; i < ndeployments; i++)
	{
		bool		owed = false;

		if (i + PREFETCH_BUCKET < ndeployments)
			tl_lease_prefetch_bucket(keys[i + PREFETCH_BUCKET]);
		if (i + PREFETCH_LEASE < ndeployments)
			tl_lease_prefetch(keys[i + PREFETCH_LEASE]);

		if ((i & 0xff) == 0)
			CHECK_FOR_INTERRUPTS();
		if (deployments[i] != NULL && tl_name_is_valid(deployments[i]))
		{
			if (ids == NULL || ids[i] == NULL)
				owed = beat_deployment(deployments[i], keys[i], now) > 0;
			else if (tl_name_is_valid(ids[i]))
				owed = beat_turn(deployments[i], keys[i], ids[i], now);
		}
		if (!owed)
		{
			Datum		values[2];
			bool		nulls[2];

			nulls[0] = deployments[i] == NULL;
			nulls[1] = ids == NULL || ids[i] == NULL;
			values[0] = PointerGetDatum(deployments[i]);
			values[1] = nulls[1] ? (Datum) 0 : PointerGetDatum(ids[i]);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}
