/*
 * outbox.c
 *		Storing the replies that end turns.
 *
 * A reply's id is its reader's cursor.  A backend takes the id, stores the
 * reply and makes the index entry of its delivery, by which readers find it,
 * under one short lock of the conversation, so that entries of a conversation
 * appear in the order of their ids (see src/README.md, "The cursor").  The
 * lock is heavyweight, because making an index entry may wait for I/O.  A
 * group of replies takes the locks of all its conversations, in the order of
 * COLLATE "C", after that of the sequence's relation, on which a DBA's open
 * transaction may keep it waiting.  While a backend holds one, it waits for no
 * row, and for no lock but the next of these and the sequence's (reply_id.c);
 * an error gives the locks back with the transaction's others.
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

#include "base/args.h"
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

bool
tl_outbox_is_plain(const TlOutbox *outbox)
{
	return tl_rel_is_plain(&outbox->replies) && tl_rel_is_plain(&outbox->deliveries);
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

/* Make the row of a reply; the id is not known yet. */
static void
make_reply(const TlReply *reply, TimestampTz created, int64 now, Datum *values, bool *nulls)
{
	const Datum row[REPLY_NATTS] = {
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
		[REPLY_CREATED_AT - 1] = TimestampTzGetDatum(created),
		[REPLY_KEPT_AT - 1] = TimestampTzGetDatum(now)
	};
	int			i;

	memcpy(values, row, sizeof(row));
	/* none of the columns behind the id has zero for a value */
	nulls[REPLY_REPLY_ID - 1] = false;
	for (i = REPLY_REPLY_ID; i < REPLY_NATTS; i++)
		nulls[i] = row[i] == 0;
}

/* Make the row of its delivery. */
static void
make_delivery(const TlReply *reply, TimestampTz created, int64 now, Datum *values, bool *nulls)
{
	bool		discharged = reply->outcome == TL_OUTCOME_DISCHARGED;
	const Datum row[DELIVERY_NATTS] = {
		[DELIVERY_REPLY_ID - 1] = Int64GetDatum(reply->id),
		[DELIVERY_IS_OPEN - 1] = BoolGetDatum(!discharged),
		[DELIVERY_DUE_AT - 1] = TimestampTzGetDatum(discharged ? now : DT_NOBEGIN),
		[DELIVERY_CONVERSATION_ID - 1] = PointerGetDatum(reply->conversation),
		[DELIVERY_PLATFORM - 1] = PointerGetDatum(reply->platform),
		[DELIVERY_DELIVERED_AT - 1] = TimestampTzGetDatum(created)
	};
	const bool	null[DELIVERY_NATTS] = {
		[DELIVERY_GATEWAY - 1] = true, [DELIVERY_CLAIMED_AT - 1] = true,
		[DELIVERY_DELIVERED_AT - 1] = !discharged, [DELIVERY_LAST_ERROR - 1] = true,
		[DELIVERY_PARKED_UNTIL - 1] = true
	};

	memcpy(values, row, sizeof(row));
	memcpy(nulls, null, sizeof(null));
}

/*
 * Lock the conversations of some replies, each once, in their order, so that
 * two groups cannot deadlock; returns how many locks that are.
 */
static int
lock_conversations(TlReply *const *replies, int n, LOCKTAG *tags)
{
	int			ntags = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		const text *conversation = replies[i]->conversation;
		uint64		hash;
		int			order = i == 0 ? -1 :
			tl_compare_texts(&replies[i - 1]->conversation, &conversation);

		Assert(order <= 0);
		if (order == 0)
			continue;
		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(conversation),
								   VARSIZE_ANY_EXHDR(conversation), 0);
		SET_LOCKTAG_ADVISORY(tags[ntags], MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
							 LOCK_CLASS_CONVERSATION);
		(void) LockAcquire(&tags[ntags++], ExclusiveLock, false, false);
	}
	return ntags;
}

/*
 * The order of the conversations is that of the ids, and of the keys of all our
 * indexes but for their platforms.
 */
void
tl_outbox_store(TlOutbox *outbox, TlReply *const *replies, int n, int64 now)
{
	TimestampTz created = GetCurrentTimestamp();
	Datum		values[TL_OUTBOX_GROUP * REPLY_NATTS];
	bool		nulls[TL_OUTBOX_GROUP * REPLY_NATTS];
	LOCKTAG		tags[TL_OUTBOX_GROUP];
	int			ntags;
	int			i;

	StaticAssertStmt((int) REPLY_NATTS >= (int) DELIVERY_NATTS, "room for either");
	Assert(outbox->is_open && n <= TL_OUTBOX_GROUP);
	for (i = 0; i < n; i++)
		make_reply(replies[i], created, now, values + i * REPLY_NATTS, nulls + i * REPLY_NATTS);

	/* a group waits for a DBA's hold of the sequence while it locks nothing */
	if (n > 1)
		LockRelationOid(tl_sequence_oid(), RowExclusiveLock);
	ntags = lock_conversations(replies, n, tags);
	for (i = 0; i < n; i++)
	{
		replies[i]->id = tl_reply_id_next();
		values[i * REPLY_NATTS + REPLY_REPLY_ID - 1] = Int64GetDatum(replies[i]->id);
	}
	tl_rel_insert_many(&outbox->replies, n, values, nulls);
	for (i = 0; i < n; i++)
		make_delivery(replies[i], created, now, values + i * DELIVERY_NATTS,
					  nulls + i * DELIVERY_NATTS);
	tl_rel_insert_many(&outbox->deliveries, n, values, nulls);
	while (ntags > 0)
		LockRelease(&tags[--ntags], ExclusiveLock, false);
	for (i = 0; i < n; i++)
	{
		outbox->counts[replies[i]->outcome == TL_OUTCOME_ANSWER ? TL_COUNT_ANSWERED :
					   replies[i]->outcome == TL_OUTCOME_DISCHARGED ? TL_COUNT_DISCHARGED :
					   replies[i]->outcome == TL_OUTCOME_UPDATE ? TL_COUNT_UPDATES :
					   failure_counter(replies[i])] += replies[i]->nids;
		tl_xact_reply(replies[i]->conversation, replies[i]->platform);
		if (replies[i]->outcome != TL_OUTCOME_DISCHARGED)
			tl_xact_due(replies[i]->id);
	}
	/* an id that a crash takes back would be given out again */
	ForceSyncCommit();
}
