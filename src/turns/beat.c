/*
 * beat.c
 *		Heartbeats: a sign of life in, a verdict out.
 *
 * The usual beat touches shared memory only (lease.c).  Where the count is not
 * known it probes the table under the latest snapshot, which assigns no
 * transaction id and writes nothing.  Where there is no room for a lease, and
 * without preload, the beat is an update of the turns' rows.
 *
 * A beat must not be lost when its row is in the hands of another transaction
 * (a sweep, another beat, a mark).  It tries the row again for a second.  A
 * transaction that holds the row for longer covers the beat: if it commits, it
 * stamps the row as first seen then (xact.c); if it rolls back, its id stays
 * in the row, and the next session that rewrites the row gives the turn its
 * time again (turn.c).  The second is longer than the half second after which
 * a transaction stamps.  A beat holds locks of other rows while it tries, so it
 * never waits for a lock.
 */
#include "base/turn_liveness.h"

#include "access/xlog.h"
#include "funcapi.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "base/args.h"
#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/lease.h"
#include "shared/lease_table.h"
#include "turns/turn.h"

#define MAX_TRIES		10		/* generations that move under a probe */
/* for held rows, of one call, in real time */
#define PATIENCE_US		TL_SECOND
#define PAUSE_MS		5

/* for so many beats a batch asks the memory at once */
#define AHEAD			16
/*
 * A batch records so many at a time, and keeps only those that have no lease:
 * a session would give the memory of a thousand back to the system with each
 * call, and fault it in again with the next.
 */
#define PART			128

/* one beat of a call */
typedef struct Beat
{
	text	   *deployment;		/* NULL: not valid, so nothing is owed */
	text	   *message_id;		/* NULL: all that the deployment owes */
	/* the generation that the caller holds; 0: it says none */
	int32		fence;
	TlLeaseKey	key;			/* the deployment's */
	TlLeaseKey	turn;			/* the turn's, or the deployment's again */
	int32		owed;			/* the verdict */
	int			at;				/* its place in the lists of a batch */
	bool		starts;			/* in rows: it starts the turn, as the first */
	int			nrows;			/* to write, without a lease */
	TlTurnName *rows;
} Beat;

PG_FUNCTION_INFO_V1(turn_liveness_heartbeat);
PG_FUNCTION_INFO_V1(turn_liveness_heartbeats);

/*
 * List the rows of a beat, which has no lease.  The call writes them when it
 * has been through all its beats, so that it opens the table once.
 */
static void
list_rows(Beat *beat)
{
	TlDatabase *db = tl_database();
	TlRel		turns;

	PreventCommandIfReadOnly("heartbeat");
	PreventCommandIfParallelMode("heartbeat");
	if (db != NULL)
	{
		/* beats may be missing in rows from here on; the log tells it once */
		tl_counter_add(TL_COUNT_BEATS_IN_ROWS, 1);
		if (pg_atomic_exchange_u32(&db->rows_beaten, 1) == 0)
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("shared memory for beats is full; beats of database \"%s\" are written to the table",
							get_database_name(MyDatabaseId)),
					 errhint("Raise \"%s\".", "turn_liveness.lease_capacity")));
	}
	if (beat->message_id != NULL)
	{
		beat->rows = palloc0(sizeof(TlTurnName));
		beat->rows->message_id = beat->message_id;
		beat->nrows = 1;
	}
	else
	{
		tl_rel_open(&turns, TL_TURN, false);
		beat->rows = tl_turn_list_owed(&turns, beat->deployment, NULL, NULL, &beat->nrows);
		tl_rel_close(&turns);
	}
	beat->owed = beat->nrows;
	beat->starts = beat->nrows == 1;
}

/* Is the turn owed, and by the holder that beats? */
static bool
is_held(const Beat *beat, const TlTurn *turn)
{
	return tl_turn_is_owed(turn) &&
		(beat->fence == 0 || beat->fence == turn->times.generation);
}

/*
 * Write one row, if its turn has not ended meanwhile.  False if another
 * transaction holds the row, or has changed it since this looked.
 */
static bool
write_row(TlRel *turns, Beat *beat, const TlTurnName *name, int64 now)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlScan		scan = {0};
	TlTurn		turn;
	bool		done = true;

	CHECK_FOR_INTERRUPTS();
	if (!tl_turn_find(turns, &scan, beat->deployment, name, snapshot, &turn) ||
		!is_held(beat, &turn))
		beat->owed--;
	else if (tl_rel_lock(turns, &turn.tid, snapshot, LockTupleNoKeyExclusive,
						 LockWaitSkip) != TM_Ok)
		done = false;
	else
	{
		tl_turn_adopt(&turn, 0);
		turn.times.beat = Max(turn.times.beat, now);
		if (beat->starts && turn.times.started < turn.times.armed)
			turn.times.started = now;
		tl_turn_write(turns, &turn, snapshot, false);
	}
	tl_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	return done;
}

/* Write the rows of a call's beats, and try those that are held again. */
static void
write_rows(Beat *beats, int n, int64 now)
{
	int64		until = tl_monotonic() + PATIENCE_US;
	bool		held;

	do
	{
		TlRel		turns;
		Beat	   *beat;

		held = false;
		tl_rel_open(&turns, TL_TURN, true);
		for (beat = beats; beat < beats + n; beat++)
		{
			int			todo = beat->nrows;
			int			i;

			for (beat->nrows = i = 0; i < todo; i++)
				if (!write_row(&turns, beat, &beat->rows[i], now))
					beat->rows[beat->nrows++] = beat->rows[i];
			held |= beat->nrows > 0;
		}
		tl_rel_close(&turns);
		if (held)
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 PAUSE_MS, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
		}
	} while (held && tl_monotonic() < until);
}

/*
 * How many turns the beat finds owed, or the generation of the turn that it
 * names; and from when on beats count for the only one: see rules/deadline.c.
 */
static int32
probe(const Beat *beat, int64 *counts_from)
{
	Snapshot	snapshot = tl_latest_snapshot();
	TlRel		turns;
	TlScan		scan = {0};
	TlTurn		turn;
	int32		owed = 0;
	bool		found;

	tl_rel_open(&turns, TL_TURN, false);
	if (beat->message_id != NULL)
		found = tl_turn_find(&turns, &scan, beat->deployment,
							 tl_turn_named(beat->message_id), snapshot, &turn) &&
			tl_turn_is_owed(&turn);
	else
	{
		tl_turn_scan_owed(&turns, &scan, beat->deployment, snapshot);
		found = tl_scan_next(&scan, ForwardScanDirection);
		if (found)
			tl_turn_decode(scan.slot, &turn);
	}
	if (found)
		*counts_from = tl_epoch_run(turn.times.epoch) == tl_epoch_run(tl_clock_epoch()) ?
			turn.times.armed : tl_clock_server_start();
	if (found && beat->message_id != NULL)
	{
		owed = turn.times.generation;
		found = false;
	}
	for (; found; found = tl_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		owed++;
	}
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	return owed;
}

/*
 * Record one beat.  The loop ends as soon as the count is known to be of the
 * generation that the lease had when the beat was recorded.  A beat that finds
 * no room for a lease lists its rows.
 */
TL_HOT static void
record(Beat *beat, int64 now)
{
	TlLeaseKey	key = beat->key;
	TlLeaseKey	turn = beat->turn;
	uint32		generation = 0;
	int64		armed = 0;
	int			tries;

	for (tries = 0;; tries++)
	{
		TlBeat		result = tl_lease_beat(key, turn, beat->fence, now, &generation, &beat->owed);
		int32		owed;

		if (result == TL_BEAT_KNOWN)
			return;
		owed = probe(beat, &armed);
		beat->owed = beat->message_id != NULL ? owed > 0 : owed;
		/* the turn has another holder: its lease stays */
		if (beat->fence != 0 && owed > 0 && owed != beat->fence)
		{
			beat->owed = 0;
			return;
		}
		if (result == TL_BEAT_PROBE)
		{
			/*
			 * A turn that was armed after we looked at the clock is not
			 * started by this beat: the next one must probe again.
			 */
			bool		keep = !tl_xact_has_touched(key) && (beat->owed != 1 || now >= armed);

			if (tl_lease_found(key, turn, beat->fence, generation, owed, armed, now, keep) ||
				tries >= MAX_TRIES)
				return;
		}
		/* a deployment that owes nothing gets no lease */
		else if (beat->owed == 0)
			return;
		else if (!tl_lease_enter(key, turn, beat->fence, now))
		{
			list_rows(beat);
			return;
		}
		/* a commit may have come in between: look again */
	}
}

/*
 * Ask the memory for what the next beats will touch, all at once: the processor
 * translates the addresses of several prefetches at a time, but none beyond a
 * lock.
 */
static pg_attribute_always_inline void
prefetch(const Beat *beats, int n)
{
	int			i;

	for (i = 0; i < Min(n, AHEAD); i++)
	{
		tl_lease_prefetch(beats[i].key, beats[i].key, true);
		if (beats[i].message_id != NULL)
			tl_lease_prefetch(beats[i].key, beats[i].turn, true);
	}
}

/* Note the names of a beat, and the generation that its caller holds. */
TL_HOT static void
set_names(Beat *beat, text *deployment, TlLeaseKey key, text *message_id, int32 fence)
{
	*beat = (Beat) {
		.deployment = deployment, .message_id = message_id, .fence = fence, .key = key,
		.turn = message_id != NULL ? tl_lease_turn_key(key, message_id) : key
	};
}

/* May the call beat?  Its beats are all of the time that this returns. */
TL_HOT static int64
begin_call(int beats)
{
	int64		now;

	/* a read-only transaction may write soft state, but a standby may not */
	if (RecoveryInProgress())
		PreventCommandDuringRecovery("heartbeat");
	tl_check_accepts();
	if (!OidIsValid(tl_extension_oid()))
		(void) tl_table_oid(TL_TURN);	/* raises */
	now = tl_clock_now();
	tl_grace_note_call(now);
	tl_counter_add(TL_COUNT_BEATS, beats);
	return now;
}

/*
 * Record beats; the caller has asked the memory for the first.  True if some
 * have no lease, and list rows.
 */
TL_HOT static bool
record_each(Beat *beats, int n, int64 now)
{
	bool		in_rows = false;
	int			i;

	for (i = 0; i < n; i++)
	{
		if (i > 0 && i % AHEAD == 0)
			prefetch(&beats[i], n - i);
		CHECK_FOR_INTERRUPTS();
		if (beats[i].deployment != NULL)
			record(&beats[i], now);
		in_rows |= beats[i].nrows > 0;
	}
	return in_rows;
}

TL_HOT Datum
turn_liveness_heartbeat(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	TlLeaseKey	key = tl_lease_key(deployment);
	Beat		one;
	Beat	   *beats = &one;
	TlNamed    *turns = NULL;
	int			n = 1;
	int64		now;
	int32		owed = 0;
	int			i;

	/*
	 * Memory is slow: it comes while the backend checks and counts.  The leases
	 * of the turns stand on the same page.
	 */
	tl_lease_prefetch(key, key, true);
	if (!PG_ARGISNULL(1))
	{
		ArrayType  *array = PG_GETARG_ARRAYTYPE_P(1);

		n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	}
	if (!PG_ARGISNULL(1) && n > 0)
		turns = tl_arg_turns(fcinfo, 1, 2, &n);
	else if (!PG_ARGISNULL(2))
		/* raises, unless there are none */
		(void) tl_arg_generations(fcinfo, 2, 0);
	if (n > 1)
		beats = palloc(n * sizeof(Beat));
	for (i = 0; i < n; i++)
	{
		set_names(&beats[i], deployment, key, turns != NULL ? turns[i].message_id : NULL,
				  turns != NULL ? turns[i].generation : 0);
		if (turns != NULL && i < AHEAD)
			tl_lease_prefetch(key, beats[i].turn, true);
	}
	now = begin_call(1);
	if (record_each(beats, n, now))
		write_rows(beats, n, now);
	for (i = 0; i < n; i++)
		owed += beats[i].owed;
	PG_RETURN_INT32(owed);
}

/* No beat of a batch waits for the row of another one. */
Datum
turn_liveness_heartbeats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n;
	int			nids;
	text	  **deployments = tl_arg_text_array(fcinfo, 0, "deployments", &n);
	text	  **ids = tl_arg_text_array(fcinfo, 1, "message_ids", &nids);
	int32	   *fences = tl_arg_generations(fcinfo, 2, ids != NULL ? n : 0);
	Beat		beats[PART];
	Beat	   *in_rows = NULL;
	int			nin_rows = 0;
	bool	   *is_owed;
	int64		now;
	int			i;
	int			j;

	if (!PG_ARGISNULL(1) && nids != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("deployments and message_ids must have the same length"),
				 errhint("Pass NULL for an element that beats for its whole deployment.")));
	InitMaterializedSRF(fcinfo, 0);
	is_owed = palloc(Max(n, 1) * sizeof(bool));

	now = begin_call(n);
	for (i = 0; i < n; i += PART)
	{
		int			size = Min(n - i, PART);

		for (j = 0; j < size; j++)
		{
			text	   *deployment = deployments[i + j];
			text	   *id = ids != NULL ? ids[i + j] : NULL;

			/* a generation is one of a turn */
			if (deployment != NULL && tl_name_is_valid(deployment) &&
				(id == NULL || tl_name_is_valid(id)))
				set_names(&beats[j], deployment, tl_lease_key(deployment), id,
						  fences != NULL && id != NULL ? fences[i + j] : 0);
			else
				beats[j] = (Beat) {0};
			beats[j].at = i + j;
		}
		prefetch(beats, size);
		(void) record_each(beats, size, now);
		for (j = 0; j < size; j++)
		{
			is_owed[i + j] = beats[j].owed != 0;
			if (beats[j].nrows == 0)
				continue;
			/* the batch writes its rows at its end */
			if (in_rows == NULL)
				in_rows = palloc_extended((n - i - j) * sizeof(Beat), MCXT_ALLOC_HUGE);
			in_rows[nin_rows++] = beats[j];
		}
	}
	if (nin_rows > 0)
		write_rows(in_rows, nin_rows, now);
	for (j = 0; j < nin_rows; j++)
		is_owed[in_rows[j].at] = in_rows[j].owed != 0;

	for (i = 0; i < n; i++)
		if (!is_owed[i])
		{
			text	   *id = ids != NULL ? ids[i] : NULL;
			Datum		values[2] = {PointerGetDatum(deployments[i]), PointerGetDatum(id)};
			bool		nulls[2] = {deployments[i] == NULL, id == NULL};

			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	return (Datum) 0;
}
