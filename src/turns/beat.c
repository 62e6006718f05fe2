/*
 * beat.c
 *		Heartbeats: a sign of life in, a verdict out.
 *
 * The usual beat touches shared memory only (lease.c).  Where the count is not
 * known it probes the table under the latest snapshot, which assigns no
 * transaction id and writes nothing.  Where there is no room for a lease, and
 * without preload, the beat is an update of the turns' rows (row_beat.c).
 */
#include "base/turn_liveness.h"

#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/args.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/counters.h"
#include "shared/database.h"
#include "shared/grace.h"
#include "shared/lease.h"
#include "shared/lease_table.h"
#include "store/turn_row.h"
#include "turns/row_beat.h"

#define MAX_TRIES	10			/* generations that move under a probe */

/* how many elements ahead a batch asks the memory */
#define PREFETCH_BUCKET	16
#define PREFETCH_LEASE	8

static int64 counts_from(const TlTimes *times);
static int32 probe_deployment(text *deployment, int64 *sole_armed);
static bool probe_turn(text *deployment, text *message_id, int64 *armed);
static void beat_deployment(text *deployment, TlLeaseKey key, TlRowBeats *rows, int32 *owed);
static void beat_turn(text *deployment, TlLeaseKey key, text *message_id, TlRowBeats *rows,
					  int32 *owed);
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

/* How many turns the deployment owes, and when the only one was armed. */
static int32
probe_deployment(text *deployment, int64 *sole_armed)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlRel		turns;
	TlScan		scan = {0};
	TlTurn		turn;
	int32		owed = 0;

	tl_rel_open(&turns, TL_TURN, false);
	tl_turn_scan_owed(&turns, &scan, deployment, snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		tl_turn_decode(scan.slot, &turn);
		*sole_armed = counts_from(&turn.times);
		owed++;
	}
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	return owed;
}

/* Is this turn owed, and when was it armed? */
static bool
probe_turn(text *deployment, text *message_id, int64 *armed)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlRel		turns;
	TlScan		scan = {0};
	TlTurn		turn;
	bool		owed;

	tl_rel_open(&turns, TL_TURN, false);
	owed = tl_turn_find(&turns, &scan, deployment, message_id, snapshot, &turn) &&
		tl_turn_is_owed(&turn);
	if (owed)
		*armed = counts_from(&turn.times);
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	return owed;
}

/*
 * Record a beat for the whole deployment.  The loop ends as soon as the count
 * is known to be of the generation that the lease had when the beat was
 * recorded.
 */
TL_HOT static void
beat_deployment(text *deployment, TlLeaseKey key, TlRowBeats *rows, int32 *owed)
{
	int64		now = rows->now;
	uint32		generation = 0;
	int64		sole_armed = 0;
	int			tries;

	for (tries = 0;; tries++)
	{
		switch (tl_lease_beat(key, now, &generation, owed))
		{
			case TL_BEAT_KNOWN:
				return;

			case TL_BEAT_PROBE:
				*owed = probe_deployment(deployment, &sole_armed);

				/*
				 * A turn that was armed after we looked at the clock is not
				 * started by this beat: the next one must probe again.
				 */
				if (tl_lease_found(key, generation, *owed, sole_armed, now,
								   !tl_xact_has_touched(key) &&
								   (*owed != 1 || now >= sole_armed)) ||
					tries >= MAX_TRIES)
					return;
				break;

			case TL_BEAT_ABSENT:
				/* a deployment that owes nothing gets no lease */
				*owed = probe_deployment(deployment, &sole_armed);
				if (*owed == 0)
					return;
				if (!tl_lease_enter(key, key, now))
				{
					tl_row_beat(rows, deployment, NULL, *owed == 1, owed);
					return;
				}
				/* a commit may have come in between: look again */
				break;
		}
	}
}

/* The same for one turn; *owed is 1 or 0. */
static void
beat_turn(text *deployment, TlLeaseKey key, text *message_id, TlRowBeats *rows, int32 *owed)
{
	int64		now = rows->now;
	TlLeaseKey	turn = tl_lease_turn_key(key, message_id);
	uint32		generation = 0;
	int64		armed = 0;
	int			tries;

	for (tries = 0;; tries++)
	{
		switch (tl_lease_beat_turn(key, turn, now, &generation))
		{
			case TL_BEAT_KNOWN:
				*owed = 1;
				return;

			case TL_BEAT_PROBE:
				*owed = probe_turn(deployment, message_id, &armed);
				if (*owed)
					tl_lease_start_turn(key, turn, armed, now);
				if (tl_lease_found_turn(key, turn, generation, *owed,
										!tl_xact_has_touched(key) && (!*owed || now >= armed)) ||
					tries >= MAX_TRIES)
					return;
				break;

			case TL_BEAT_ABSENT:
				*owed = probe_turn(deployment, message_id, &armed);
				if (*owed == 0)
					return;
				if (!tl_lease_enter(key, turn, now))
				{
					tl_row_beat(rows, deployment, message_id, true, owed);
					return;
				}
				break;
		}
	}
}

/* A read-only transaction may write soft state, but a standby may not. */
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
	TlRowBeats	rows = {0};
	int32		owed = 0;
	int			nids = 0;
	text	  **ids;
	int32	   *each = NULL;
	int			i;

	check_beat_allowed();
	key = tl_lease_key(deployment);
	/* memory is slow: it comes while we look at the clock and count */
	tl_lease_prefetch_bucket(key);
	rows.now = tl_clock_now();
	tl_lease_prefetch(key);
	tl_grace_note_call_at(rows.now);
	tl_counter_add(TL_COUNT_BEATS, 1);

	if (PG_ARGISNULL(1))
		beat_deployment(deployment, key, &rows, &owed);
	else if (ArrayGetNItems(ARR_NDIM(PG_GETARG_ARRAYTYPE_P(1)), ARR_DIMS(PG_GETARG_ARRAYTYPE_P(1))) > 0)
	{
		ids = tl_arg_names(fcinfo, 1, "message_ids", &nids);
		each = palloc0(nids * sizeof(int32));
		for (i = 0; i < nids; i++)
			beat_turn(deployment, key, ids[i], &rows, &each[i]);
	}
	if (rows.held != NIL)
		tl_row_beats_finish(&rows);
	for (i = 0; i < nids; i++)
		owed += each[i];
	PG_RETURN_INT32(owed);
}

Datum
turn_liveness_heartbeats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n;
	int			nids;
	text	  **deployments = tl_arg_text_array(fcinfo, 0, "deployments", &n);
	text	  **ids = tl_arg_text_array(fcinfo, 1, "message_ids", &nids);
	TlLeaseKey *keys;
	int32	   *owed;
	TlRowBeats	rows = {0};
	int			i;

	if (!PG_ARGISNULL(1) && nids != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("deployments and message_ids must have the same length"),
				 errhint("Pass NULL for an element that beats for its whole deployment.")));
	check_beat_allowed();
	InitMaterializedSRF(fcinfo, 0);
	rows.now = tl_clock_now();
	tl_grace_note_call_at(rows.now);
	tl_counter_add(TL_COUNT_BEATS, n);

	owed = palloc_extended(sizeof(int32) * Max(n, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	keys = palloc_extended(sizeof(TlLeaseKey) * Max(n, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (i = 0; i < n; i++)
		if (deployments[i] != NULL && tl_name_is_valid(deployments[i]))
			keys[i] = tl_lease_key(deployments[i]);

	for (i = 0; i < n; i++)
	{
		if (i + PREFETCH_BUCKET < n)
			tl_lease_prefetch_bucket(keys[i + PREFETCH_BUCKET]);
		if (i + PREFETCH_LEASE < n)
			tl_lease_prefetch(keys[i + PREFETCH_LEASE]);

		if ((i & 0xff) == 0)
			CHECK_FOR_INTERRUPTS();
		if (deployments[i] == NULL || !tl_name_is_valid(deployments[i]))
			continue;
		if (ids == NULL || ids[i] == NULL)
			beat_deployment(deployments[i], keys[i], &rows, &owed[i]);
		else if (tl_name_is_valid(ids[i]))
			beat_turn(deployments[i], keys[i], ids[i], &rows, &owed[i]);
	}
	if (rows.held != NIL)
		tl_row_beats_finish(&rows);

	for (i = 0; i < n; i++)
		if (owed[i] == 0)
		{
			Datum		values[2];
			bool		nulls[2];

			nulls[0] = deployments[i] == NULL;
			nulls[1] = ids == NULL || ids[i] == NULL;
			values[0] = PointerGetDatum(deployments[i]);
			values[1] = nulls[1] ? (Datum) 0 : PointerGetDatum(ids[i]);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	return (Datum) 0;
}
