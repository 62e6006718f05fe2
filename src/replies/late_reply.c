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

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared/counters.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/enums.h"
#include "base/guc.h"
#include "replies/late_reply.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "store/rel.h"

#define MAX_BYTES		(INT64CONST(1024) * 1024 * 1024)
#define LOG_PAUSE_US	(60 * TL_SECOND)

enum
{
	LATE_DIGEST = 1, LATE_DEPLOYMENT, LATE_MESSAGE_IDS, LATE_CONVERSATION,
	LATE_PAYLOAD, LATE_VERDICT, LATE_CREATED_AT, LATE_KEPT, LATE_NATTS = LATE_KEPT
};

static bool is_full(Relation rel);
static void log_dropped(void);

/* Is there no room for one more? */
static bool
is_full(Relation rel)
{
	int64		blocks = RelationGetNumberOfBlocks(rel);

	if (OidIsValid(rel->rd_rel->reltoastrelid))
	{
		Relation	toast = relation_open(rel->rd_rel->reltoastrelid, AccessShareLock);

		blocks += RelationGetNumberOfBlocks(toast);
		relation_close(toast, AccessShareLock);
	}
	return blocks * BLCKSZ >= MAX_BYTES ||
		tl_live_rows_compat(RelationGetRelid(rel)) >= tl_max_late_replies;
}

/* Tell of it once a minute, in each database or, without preload, session. */
static void
log_dropped(void)
{
	static int64 session_logged_us = 0;
	TlDatabase *db = tl_database();
	int64		now = tl_monotonic();
	uint64		last = db ? pg_atomic_read_u64(&db->logged_late_us) : session_logged_us;

	if (last > 0 && now - (int64) last < LOG_PAUSE_US)
		return;
	session_logged_us = now;
	if (db != NULL && !pg_atomic_compare_exchange_u64(&db->logged_late_us, &last, now))
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
				   const text *conversation, Jsonb *payload, bool lost,
				   const pg_uuid_t *request)
{
	TlCounter	counter = lost ? TL_COUNT_LATE : TL_COUNT_UNKNOWN;
	TlRel		late;
	Datum		values[LATE_NATTS] = {0};
	bool		nulls[LATE_NATTS] = {false};

	tl_rel_open(&late, TL_LATE_REPLY, true);
	if (is_full(late.rel))
	{
		tl_rel_close(&late);
		tl_counter_add(counter, 1);
		tl_counter_add(TL_COUNT_LATE_DROPPED, 1);
		log_dropped();
		return;
	}
	values[LATE_DIGEST - 1] = UUIDPGetDatum(request);
	values[LATE_DEPLOYMENT - 1] = PointerGetDatum(deployment);
	values[LATE_MESSAGE_IDS - 1] = PointerGetDatum(construct_array((Datum *) ids, nids, TEXTOID, -1,
																   false, TYPALIGN_INT));
	values[LATE_CONVERSATION - 1] = PointerGetDatum(conversation);
	nulls[LATE_CONVERSATION - 1] = conversation == NULL;
	values[LATE_PAYLOAD - 1] = JsonbPGetDatum(payload);
	values[LATE_VERDICT - 1] = ObjectIdGetDatum(tl_election_oid(lost ? TL_LOST : TL_UNKNOWN));
	values[LATE_CREATED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[LATE_KEPT - 1] = TimestampTzGetDatum(tl_clock_now());
	if (tl_rel_insert_unless_there(&late, TL_IDX_LATE_REPLY_KEY, values, nulls, NULL))
		tl_counter_add(counter, 1);
	tl_rel_close(&late);
}
