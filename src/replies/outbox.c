/*
 * outbox.c
 *		Storing the replies that end turns.
 *
 * A reply's id is its reader's cursor.  A backend takes the id and makes the
 * index entry under one short lock of the conversation, so that entries of a
 * conversation appear in the order of their ids (see src/README.md, "The
 * cursor"). The lock is heavyweight, because making an index entry may wait
 * for I/O.  While a backend holds it, it waits for no row; an error gives the
 * lock back with the transaction's other locks.
 *
 * Counters count at the close: a batch that an error undoes is not counted.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "commit/xact.h"
#include "replies/outbox.h"
#include "shared/counters.h"
#include "store/reply_row.h"

/* users' advisory locks have 1 and 2 here */
#define LOCK_CLASS_CONVERSATION	0x544c

static void
lock_tag(LOCKTAG *tag, const text *conversation)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(conversation),
										   VARSIZE_ANY_EXHDR(conversation), 0);

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 LOCK_CLASS_CONVERSATION);
}

void
tl_outbox_open(TlOutbox *outbox, bool discharged)
{
	if (outbox->is_open)
		return;
	memset(outbox, 0, sizeof(*outbox));
	outbox->sequence = tl_table_oid(TL_REPLY_SEQUENCE);
	tl_rel_open(&outbox->replies, TL_REPLY, true);
	/* new ones are due, or were discharged */
	tl_rel_open_skipping(&outbox->deliveries, TL_DELIVERY, TL_BIT(TL_IDX_DELIVERY_DEAD) |
						 (discharged ? 0 : TL_BIT(TL_IDX_DELIVERY_DELIVERED)));
	outbox->is_open = true;
}

void
tl_outbox_close(TlOutbox *outbox)
{
	int			i;

	if (!outbox->is_open)
		return;
	tl_rel_close(&outbox->deliveries);
	tl_rel_close(&outbox->replies);
	outbox->is_open = false;
	for (i = 0; i < TL_NCOUNTERS; i++)
		tl_counter_add(i, outbox->counts[i]);
}

/*
 * The counter of the codes that the extension sets, or of all others: they
 * stand in the order of the codes.
 */
static TlCounter
failure_counter(const text *error_code)
{
	int			i;

	StaticAssertStmt(TL_COUNT_FAILED_UNRESPONSIVE + TL_NCODES == TL_COUNT_FAILED_OTHER,
					 "each code has a counter");
	for (i = 0; error_code != NULL && i < TL_NCODES; i++)
		if (VARSIZE_ANY_EXHDR(error_code) == strlen(tl_code_name(i)) &&
			memcmp(VARDATA_ANY(error_code), tl_code_name(i), strlen(tl_code_name(i))) == 0)
			return TL_COUNT_FAILED_UNRESPONSIVE + i;
	return TL_COUNT_FAILED_OTHER;
}

static void
count(TlOutbox *outbox, const TlReply *reply)
{
	TlCounter	counter = reply->outcome == TL_OUTCOME_ANSWER ? TL_COUNT_ANSWERED :
		reply->outcome == TL_OUTCOME_DISCHARGED ? TL_COUNT_DISCHARGED :
		failure_counter(reply->error_code);

	outbox->counts[counter] += reply->nids;
}

#define set_if(row, att, given, value) \
	do { if (given) tl_row_set(row, att, value); } while (0)

static int64
insert_reply(TlOutbox *outbox, const TlReply *reply, TimestampTz created)
{
	struct
	{
		Datum		values[REPLY_NATTS];
		bool		nulls[REPLY_NATTS];
	}			row = {{0}, {false}};
	ArrayType  *ids = construct_array((Datum *) reply->message_ids, reply->nids, TEXTOID, -1,
									  false, TYPALIGN_INT);
	LOCKTAG		tag;
	int64		id;

	memset(row.nulls, true, sizeof(row.nulls));
	tl_row_set(&row, REPLY_DEPLOYMENT, PointerGetDatum(reply->deployment));
	tl_row_set(&row, REPLY_MESSAGE_IDS, PointerGetDatum(ids));
	tl_row_set(&row, REPLY_CONVERSATION_ID, PointerGetDatum(reply->conversation));
	tl_row_set(&row, REPLY_PLATFORM, PointerGetDatum(reply->platform));
	set_if(&row, REPLY_ORGANIZATION_ID, reply->organization, PointerGetDatum(reply->organization));
	set_if(&row, REPLY_PAYLOAD, reply->payload, JsonbPGetDatum(reply->payload));
	tl_row_set(&row, REPLY_OUTCOME, CharGetDatum(reply->outcome));
	set_if(&row, REPLY_ERROR_CODE, reply->error_code, PointerGetDatum(reply->error_code));
	tl_row_set(&row, REPLY_DECIDED_BY, CharGetDatum(reply->decided_by));
	set_if(&row, REPLY_ARMED_AT, reply->armed_at, TimestampTzGetDatum(reply->armed_at));
	set_if(&row, REPLY_FIRST_BEAT, reply->first_beat, TimestampTzGetDatum(reply->first_beat));
	set_if(&row, REPLY_LAST_BEAT, reply->last_beat, TimestampTzGetDatum(reply->last_beat));
	tl_row_set(&row, REPLY_CREATED_AT, TimestampTzGetDatum(created));

	lock_tag(&tag, reply->conversation);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	id = nextval_internal(outbox->sequence, false);
	tl_row_set(&row, REPLY_REPLY_ID, Int64GetDatum(id));
	tl_rel_insert(&outbox->replies, row.values, row.nulls);
	LockRelease(&tag, ExclusiveLock, false);
	return id;
}

static void
insert_delivery(TlOutbox *outbox, const TlReply *reply, int64 id, TimestampTz created, int64 now)
{
	bool		discharged = reply->outcome == TL_OUTCOME_DISCHARGED;
	TlDelivery	d = {{0}, {false}};

	memset(d.nulls, true, sizeof(d.nulls));
	tl_row_set(&d, DELIVERY_REPLY_ID, Int64GetDatum(id));
	tl_row_set(&d, DELIVERY_STATE, CharGetDatum(discharged ? TL_DELIVERY_DONE : TL_DELIVERY_OPEN));
	tl_row_set(&d, DELIVERY_ATTEMPT, Int32GetDatum(0));
	tl_row_set(&d, DELIVERY_DUE_AT, TimestampTzGetDatum(DT_NOBEGIN));
	tl_row_set(&d, DELIVERY_KEPT_AT, TimestampTzGetDatum(now));
	tl_row_set(&d, DELIVERY_CONVERSATION_ID, PointerGetDatum(reply->conversation));
	tl_row_set(&d, DELIVERY_PLATFORM, PointerGetDatum(reply->platform));
	set_if(&d, DELIVERY_DELIVERED_AT, discharged, TimestampTzGetDatum(created));
	tl_rel_insert(&outbox->deliveries, d.values, d.nulls);
}

int64
tl_outbox_store(TlOutbox *outbox, const TlReply *reply, int64 now)
{
	TimestampTz created = GetCurrentTimestamp();
	int64		id;

	Assert(outbox->is_open);
	id = insert_reply(outbox, reply, created);
	insert_delivery(outbox, reply, id, created, now);
	count(outbox, reply);
	tl_xact_reply(reply->conversation, reply->platform);
	return id;
}
