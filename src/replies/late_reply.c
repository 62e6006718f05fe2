/*
 * late_reply.c
 *		Replies that came too late or for no turn that is known: kept, not
 *		delivered.
 *
 * What one role can store so has limits: a number of rows, and a gigabyte of
 * the table's files.  Both are read without looking at a row.  The number is
 * the statistics system's count of live rows, which lags behind by the
 * sessions' open transactions; the size of the files is exact at any time and
 * counts free space in them too, until a vacuum gives it back.  So a burst may
 * pass the first limit by a little, and none passes the second.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "replies/outbox.h"
#include "shared/clock.h"
#include "shared/database.h"

#define MAX_BYTES		(INT64CONST(1024) * 1024 * 1024)
#define LOG_PAUSE_US	(60 * TL_SECOND)

/* Tell of it once a minute, in each database or, without preload, session. */
static void
log_dropped(void)
{
	static pg_atomic_uint64 of_session;
	TlDatabase *db = tl_database();
	pg_atomic_uint64 *logged = db ? &db->logged_late_us : &of_session;
	int64		now = tl_monotonic();
	uint64		last = pg_atomic_read_u64(logged);

	if ((last > 0 && now - (int64) last < LOG_PAUSE_US) ||
		!pg_atomic_compare_exchange_u64(logged, &last, now))
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
	const Datum values[TL_LATE_NATTS] = {
		[TL_LATE_DIGEST - 1] = UUIDPGetDatum(request),
		[TL_LATE_DEPLOYMENT - 1] = PointerGetDatum(deployment),
		[TL_LATE_MESSAGE_IDS - 1] = PointerGetDatum(
			construct_array((Datum *) ids, nids, TEXTOID, -1, false, TYPALIGN_INT)),
		[TL_LATE_CONVERSATION_ID - 1] = PointerGetDatum(conversation),
		[TL_LATE_PAYLOAD - 1] = JsonbPGetDatum(payload),
		[TL_LATE_VERDICT - 1] = ObjectIdGetDatum(tl_election_oid(verdict)),
		[TL_LATE_CREATED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp()),
		[TL_LATE_KEPT_AT - 1] = TimestampTzGetDatum(tl_clock_now())
	};
	const bool	nulls[TL_LATE_NATTS] = {[TL_LATE_CONVERSATION_ID - 1] = conversation == NULL};
	TlRel		late;
	Datum		table;
	bool		full;

	tl_rel_open(&late, TL_LATE_REPLY, true);
	table = ObjectIdGetDatum(RelationGetRelid(late.rel));
	full = DatumGetInt64(DirectFunctionCall1(pg_table_size, table)) >= MAX_BYTES ||
		DatumGetInt64(DirectFunctionCall1(pg_stat_get_live_tuples, table)) >= tl_max_late_replies;
	if (full || tl_rel_insert_unless_there(&late, TL_IDX_LATE_REPLY_KEY, values, nulls, NULL, NULL))
		tl_counter_add(verdict == TL_LOST ? TL_COUNT_LATE :
					   verdict == TL_STALE ? TL_COUNT_STALE : TL_COUNT_UNKNOWN, 1);
	tl_rel_close(&late);
	if (full)
	{
		tl_counter_add(TL_COUNT_LATE_DROPPED, 1);
		log_dropped();
	}
}
