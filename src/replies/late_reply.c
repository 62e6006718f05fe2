/*
 * late_reply.c
 *		Replies that came too late or for no turn that is known: kept, not
 *		delivered.
 *
 * What one role can store so has limits: a number of rows, and a gigabyte of
 * the table's files, which counts free space in them until a vacuum gives it
 * back.
 *
 * A session that keeps a row adds it to a counter in shared memory at once, so
 * rows of open transactions count.  The statistics system would not do: it
 * hears of rows after their transaction, and has forgotten all after a crash or
 * a promotion.  The counter forgets too, so the first session that needs it
 * counts the entries of an index, which are as many as the rows or more.
 * Rollbacks and retention leave the counter too high: where it leaves no room,
 * a session counts the rows anew, every ten seconds at most.  One session
 * counts at a time, and no further than the limit; the others go on by the
 * number that stands, or by the size alone.  So sessions at once may pass the
 * limit by a little.  Without preload the statistics tell all the same.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "replies/outbox.h"
#include "shared/clock.h"
#include "shared/database.h"

#define MAX_BYTES		(INT64CONST(1024) * 1024 * 1024)
#define LOG_PAUSE_US	(60 * TL_SECOND)
#define COUNT_PAUSE_US	(10 * TL_SECOND)

/* Count rows, those of open transactions too, or entries, as far as needed. */
static uint64
count(TlRel *late, bool entries)
{
	TlScan		scan = {0};
	SnapshotData dirty;
	uint64		n = 0;

	InitDirtySnapshot(dirty);
	tl_scan_begin(&scan, late, TL_IDX_LATE_REPLY_KEPT, &dirty);
	for (; n <= (uint64) tl_max_late_replies &&
		 (entries ? tl_scan_next_entry(&scan, ForwardScanDirection) :
		  tl_scan_next(&scan, ForwardScanDirection)); n++)
		CHECK_FOR_INTERRUPTS();
	tl_scan_end(&scan);
	return n;
}

/* Is there no room for one more? */
static bool
is_full(TlRel *late, TlLateState *state, int64 now)
{
	Datum		table = ObjectIdGetDatum(RelationGetRelid(late->rel));
	uint64		rows;
	uint64		counted;
	uint64		last;

	if (DatumGetInt64(DirectFunctionCall1(pg_table_size, table)) >= MAX_BYTES)
		return true;
	if (tl_database() == NULL)
		return DatumGetInt64(DirectFunctionCall1(pg_stat_get_live_tuples, table)) >=
			tl_max_late_replies;
	rows = pg_atomic_read_u64(&state->rows);
	last = pg_atomic_read_u64(&state->counted_us);
	if ((rows == 0 || rows > (uint64) tl_max_late_replies) &&
		(last == 0 || now - (int64) last >= COUNT_PAUSE_US) &&
		pg_atomic_compare_exchange_u64(&state->counted_us, &last, now))
	{
		counted = rows == 0 ? count(late, true) : PG_UINT64_MAX;
		if (counted > (uint64) tl_max_late_replies)
			counted = count(late, false);
		/* else another session has kept a row meanwhile */
		if (pg_atomic_compare_exchange_u64(&state->rows, &rows, counted + 1))
			rows = counted + 1;
	}
	return rows > (uint64) tl_max_late_replies;
}

/* Tell of it once a minute, in each database or, without preload, session. */
static void
log_dropped(TlLateState *state)
{
	int64		now = tl_monotonic();
	uint64		last = pg_atomic_read_u64(&state->logged_us);

	if ((last > 0 && now - (int64) last < LOG_PAUSE_US) ||
		!pg_atomic_compare_exchange_u64(&state->logged_us, &last, now))
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errhidestmt(true),
			 errhidecontext(true),
			 errmsg("late replies of database \"%s\" are not kept any more",
					get_database_name(MyDatabaseId)),
			 errdetail("The database keeps as many as \"%s\" allows, and at most 1 GB.",
					   "turn_liveness.max_late_replies"),
			 errhint("See the view \"%s.late_replies\" for the deployments that send them.",
					 TL_SCHEMA)));
}

void
tl_late_reply_keep(const text *deployment, text **ids, int nids,
				   const text *conversation, Jsonb *payload, TlElection verdict,
				   const pg_uuid_t *request)
{
	static TlLateState of_session;
	TlDatabase *db = tl_database();
	TlLateState *state = db != NULL ? &db->late : &of_session;
	int64		now = tl_clock_now();
	const Datum values[TL_LATE_NATTS] = {
		[TL_LATE_DIGEST - 1] = UUIDPGetDatum(request),
		[TL_LATE_DEPLOYMENT - 1] = PointerGetDatum(deployment),
		[TL_LATE_MESSAGE_IDS - 1] = PointerGetDatum(
			construct_array((Datum *) ids, nids, TEXTOID, -1, false, TYPALIGN_INT)),
		[TL_LATE_CONVERSATION_ID - 1] = PointerGetDatum(conversation),
		[TL_LATE_PAYLOAD - 1] = JsonbPGetDatum(payload),
		[TL_LATE_VERDICT - 1] = ObjectIdGetDatum(tl_election_oid(verdict)),
		[TL_LATE_CREATED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp()),
		[TL_LATE_KEPT_AT - 1] = TimestampTzGetDatum(now)
	};
	const bool	nulls[TL_LATE_NATTS] = {[TL_LATE_CONVERSATION_ID - 1] = conversation == NULL};
	TlRel		late;
	bool		full;
	bool		kept;

	tl_rel_open(&late, TL_LATE_REPLY, true);
	full = is_full(&late, state, now);
	kept = !full &&
		tl_rel_insert_unless_there(&late, TL_IDX_LATE_REPLY_KEY, values, nulls, NULL, NULL);
	/* a session that counts may not come to its end */
	if (kept && pg_atomic_read_u64(&state->rows) != 0)
		pg_atomic_fetch_add_u64(&state->rows, 1);
	if (full || kept)
		tl_counter_add(verdict == TL_LOST ? TL_COUNT_LATE :
					   verdict == TL_STALE ? TL_COUNT_STALE : TL_COUNT_UNKNOWN, 1);
	tl_rel_close(&late);
	if (full)
	{
		tl_counter_add(TL_COUNT_LATE_DROPPED, 1);
		log_dropped(state);
	}
}
