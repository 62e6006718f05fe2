/*
 * outbox.c
 *		Storing the replies that end turns.
 *
 * A reply's id is its reader's cursor.  A backend takes the id and makes the
 * index entry under one short lock of the conversation, so that entries of a
 * conversation appear in the order of their ids (see src/README.md, "The
 * cursor"). The lock is heavyweight, because making an index entry may wait
 * for I/O.  While a backend holds it, it waits for no row, and for no lock but
 * the sequence's (reply_id.c); an error gives the lock back with the
 * transaction's other locks.
 *
 * Counters count at the close: a batch that an error undoes is not counted.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "commit/xact.h"
#include "replies/outbox.h"
#include "shared/database.h"
#include "store/reply_row.h"

/* users' advisory locks have 1 and 2 here */
#define LOCK_CLASS_CONVERSATION	0x544c

void
tl_outbox_open(TlOutbox *outbox)
{
	if (outbox->is_open)
		return;
	memset(outbox, 0, sizeof(*outbox));
	tl_rel_open(&outbox->replies, TL_REPLY, true);
	/* new ones are due, or were discharged: in neither of these */
	tl_rel_open_skipping(&outbox->deliveries, TL_DELIVERY,
						 TL_BIT(TL_IDX_DELIVERY_DEAD) | TL_BIT(TL_IDX_DELIVERY_PARKED));
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
 * The counter of a code that the extension sets: they stand in the order of the
 * codes.  Other codes are counted by the calls that set them; of a sweep's it
 * was the provider's mark.
 */
static TlCounter
failure_counter(const TlReply *reply)
{
	const text *error_code = reply->error_code;
	int			i;

	StaticAssertStmt(TL_COUNT_FAILED_UNRESPONSIVE + TL_NCODES == TL_COUNT_FAILED_STOPPED,
					 "each code has a counter");
	for (i = 0; error_code != NULL && i < TL_NCODES; i++)
		if (VARSIZE_ANY_EXHDR(error_code) == strlen(tl_code_name(i)) &&
			memcmp(VARDATA_ANY(error_code), tl_code_name(i), strlen(tl_code_name(i))) == 0)
			return TL_COUNT_FAILED_UNRESPONSIVE + i;
	return reply->decided_by == TL_DECIDED_FAIL ? TL_COUNT_FAILED_STOPPED :
		reply->decided_by == TL_DECIDED_REJECT ? TL_COUNT_FAILED_REJECTED :
		reply->decided_by == TL_DECIDED_REPLY ? TL_COUNT_FAILED_OTHER : TL_COUNT_FAILED_PROVIDER;
}

static int64
insert_reply(TlOutbox *outbox, const TlReply *reply, TimestampTz created)
{
	Datum		values[REPLY_NATTS] = {
		[REPLY_DEPLOYMENT - 1] = PointerGetDatum(reply->deployment),
		[REPLY_MESSAGE_IDS - 1] = PointerGetDatum(
			construct_array((Datum *) reply->message_ids, reply->nids, TEXTOID, -1, false,
							TYPALIGN_INT)),
		[REPLY_CONVERSATION_ID - 1] = PointerGetDatum(reply->conversation),
		[REPLY_PLATFORM - 1] = PointerGetDatum(reply->platform),
		[REPLY_ORGANIZATION_ID - 1] = PointerGetDatum(reply->organization),
		[REPLY_PAYLOAD - 1] = PointerGetDatum(reply->payload),
		[REPLY_OUTCOME - 1] = CharGetDatum(reply->outcome),
		[REPLY_ERROR_CODE - 1] = PointerGetDatum(reply->error_code),
		[REPLY_DECIDED_BY - 1] = CharGetDatum(reply->decided_by),
		[REPLY_GENERATION - 1] = Int32GetDatum(reply->generation),
		[REPLY_WORKER - 1] = PointerGetDatum(reply->worker),
		[REPLY_ARMED_AT - 1] = reply->armed_at ? TimestampTzGetDatum(reply->armed_at) : 0,
		[REPLY_FIRST_BEAT - 1] = reply->first_beat ? TimestampTzGetDatum(reply->first_beat) : 0,
		[REPLY_LAST_BEAT - 1] = reply->last_beat ? TimestampTzGetDatum(reply->last_beat) : 0,
		[REPLY_CREATED_AT - 1] = TimestampTzGetDatum(created)
	};
	bool		nulls[REPLY_NATTS] = {false};
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(reply->conversation),
										   VARSIZE_ANY_EXHDR(reply->conversation), 0);
	LOCKTAG		tag;
	int64		id;
	int			i;

	/* none of the columns behind the id has zero for a value */
	for (i = REPLY_REPLY_ID; i < REPLY_NATTS; i++)
		nulls[i] = values[i] == 0;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 LOCK_CLASS_CONVERSATION);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	id = tl_reply_id_next();
	values[REPLY_REPLY_ID - 1] = Int64GetDatum(id);
	tl_rel_insert(&outbox->replies, values, nulls);
	LockRelease(&tag, ExclusiveLock, false);
	return id;
}

int64
tl_outbox_store(TlOutbox *outbox, const TlReply *reply, int64 now)
{
	TimestampTz created = GetCurrentTimestamp();
	int64		id = insert_reply(outbox, reply, created);
	bool		discharged = reply->outcome == TL_OUTCOME_DISCHARGED;
	const Datum values[DELIVERY_NATTS] = {
		[DELIVERY_REPLY_ID - 1] = Int64GetDatum(id),
		[DELIVERY_STATE - 1] = CharGetDatum(discharged ? TL_DELIVERY_DONE : TL_DELIVERY_OPEN),
		[DELIVERY_DUE_AT - 1] = TimestampTzGetDatum(discharged ? now : DT_NOBEGIN),
		[DELIVERY_KEPT_AT - 1] = TimestampTzGetDatum(now),
		[DELIVERY_CONVERSATION_ID - 1] = PointerGetDatum(reply->conversation),
		[DELIVERY_PLATFORM - 1] = PointerGetDatum(reply->platform),
		[DELIVERY_DELIVERED_AT - 1] = TimestampTzGetDatum(created)
	};
	const bool	nulls[DELIVERY_NATTS] = {
		[DELIVERY_GATEWAY - 1] = true, [DELIVERY_CLAIMED_AT - 1] = true,
		[DELIVERY_DELIVERED_AT - 1] = !discharged, [DELIVERY_LAST_ERROR - 1] = true,
		[DELIVERY_PARKED_UNTIL - 1] = true
	};

	Assert(outbox->is_open);
	tl_rel_insert(&outbox->deliveries, values, nulls);
	outbox->counts[reply->outcome == TL_OUTCOME_ANSWER ? TL_COUNT_ANSWERED :
				   discharged ? TL_COUNT_DISCHARGED :
				   reply->outcome == TL_OUTCOME_UPDATE ? TL_COUNT_UPDATES :
				   failure_counter(reply)] += reply->nids;
	tl_xact_reply(reply->conversation, reply->platform);
	/* an id that a crash takes back would be given out again */
	ForceSyncCommit();
	return id;
}
