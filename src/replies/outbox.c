/*
 * outbox.c
 *		Storing what ends turns: replies, and the late ones.
 *
 * A reply's id is its reader's cursor.  It is taken, and the index entry made,
 * under one short lock of the conversation, so that entries of a conversation
 * appear in the order of their ids (see src/README.md, "The cursor").  The lock is
 * heavyweight, because making an index entry may wait for I/O; nothing else is
 * waited for while it is held, and an error gives it back with the transaction's other locks.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "shared/clock.h"
#include "replies/delivery.h"
#include "base/enums.h"
#include "base/guc.h"
#include "replies/outbox.h"
#include "store/reply_row.h"
#include "commit/xact.h"

/* user's advisory locks have 1 and 2 here */
#define LOCK_CLASS_CONVERSATION	0x544c

enum
{
	LATE_DIGEST = 1, LATE_DEPLOYMENT, LATE_MESSAGE_IDS, LATE_CONVERSATION,
	LATE_PAYLOAD, LATE_VERDICT, LATE_CREATED_AT, LATE_KEPT, LATE_NATTS = LATE_KEPT
};

static void lock_tag(LOCKTAG *tag, const text *conversation);
static Datum make_array(text **ids, int nids);
static TlCounter counter_of(const TlReply *reply);

static void
lock_tag(LOCKTAG *tag, const text *conversation)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(conversation),
										   VARSIZE_ANY_EXHDR(conversation), 0);

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 LOCK_CLASS_CONVERSATION);
}

static Datum
make_array(text **ids, int nids)
{
	return PointerGetDatum(construct_array((Datum *) ids, nids, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Which counter the turns that this reply ends belong to. */
static TlCounter
counter_of(const TlReply *reply)
{
	static const TlCounter counters[TL_NCODES] = {
		[TL_CODE_UNRESPONSIVE] = TL_COUNT_FAILED_UNRESPONSIVE,
		[TL_CODE_NEVER_STARTED] = TL_COUNT_FAILED_NEVER_STARTED,
		[TL_CODE_DIED] = TL_COUNT_FAILED_DIED,
		[TL_CODE_TOO_LONG] = TL_COUNT_FAILED_TOO_LONG,
	};
	const text *code = reply->error_code;
	int			i;

	if (reply->outcome == TL_OUTCOME_ANSWER)
		return TL_COUNT_ANSWERED;
	if (reply->outcome == TL_OUTCOME_DISCHARGED)
		return TL_COUNT_DISCHARGED;
	for (i = 0; code != NULL && i < TL_NCODES; i++)
		if (VARSIZE_ANY_EXHDR(code) == strlen(tl_code_name(i)) &&
			memcmp(VARDATA_ANY(code), tl_code_name(i), strlen(tl_code_name(i))) == 0)
			return counters[i];
	return TL_COUNT_FAILED_OTHER;
}

void
tl_outbox_open(TlOutbox *outbox, bool discharged)
{
	memset(outbox->stored, 0, sizeof(outbox->stored));
	outbox->sequence = tl_reply_sequence_oid();
	tl_rel_open(&outbox->replies, TL_REPLY, true);
	/* new ones are due, or were discharged */
	tl_rel_open_skipping(&outbox->deliveries, TL_DELIVERY, TL_BIT(TL_IDX_DELIVERY_DEAD) |
						(discharged ? 0 : TL_BIT(TL_IDX_DELIVERY_DELIVERED)));
}

/*
 * The outbox counts here and not when it stores a reply: a sweep that undoes a
 * batch after an error never closes its outbox, and does the batch again.
 */
void
tl_outbox_close(TlOutbox *outbox)
{
	int			i;

	for (i = 0; i < TL_NCOUNTERS; i++)
		tl_counter_add(i, outbox->stored[i]);
	tl_rel_close(&outbox->deliveries);
	tl_rel_close(&outbox->replies);
}

static inline void
set(Datum *values, bool *nulls, int att, Datum value)
{
	values[att - 1] = value;
	nulls[att - 1] = false;
}

int64
tl_outbox_store(TlOutbox *outbox, const TlReply *reply, int64 now)
{
	Datum		values[REPLY_NATTS];
	bool		nulls[REPLY_NATTS];
	Datum		dvalues[DELIVERY_NATTS];
	bool		dnulls[DELIVERY_NATTS];
	TimestampTz created = GetCurrentTimestamp();
	bool		discharged = reply->outcome == TL_OUTCOME_DISCHARGED;
	LOCKTAG		tag;
	int64		id;

	memset(nulls, true, sizeof(nulls));
	memset(values, 0, sizeof(values));
	set(values, nulls, REPLY_DEPLOYMENT, PointerGetDatum(reply->deployment));
	set(values, nulls, REPLY_MESSAGE_IDS, make_array(reply->message_ids, reply->nids));
	set(values, nulls, REPLY_CONVERSATION_ID, PointerGetDatum(reply->conversation));
	set(values, nulls, REPLY_PLATFORM, PointerGetDatum(reply->platform));
	if (reply->organization)
		set(values, nulls, REPLY_ORGANIZATION_ID, PointerGetDatum(reply->organization));
	if (reply->payload)
		set(values, nulls, REPLY_PAYLOAD, JsonbPGetDatum(reply->payload));
	set(values, nulls, REPLY_OUTCOME, CharGetDatum(reply->outcome));
	if (reply->error_code)
		set(values, nulls, REPLY_ERROR_CODE, PointerGetDatum(reply->error_code));
	set(values, nulls, REPLY_DECIDED_BY, CharGetDatum(reply->decided_by));
	if (reply->armed_at)
		set(values, nulls, REPLY_ARMED_AT, TimestampTzGetDatum(reply->armed_at));
	if (reply->first_beat)
		set(values, nulls, REPLY_FIRST_BEAT, TimestampTzGetDatum(reply->first_beat));
	if (reply->last_beat)
		set(values, nulls, REPLY_LAST_BEAT, TimestampTzGetDatum(reply->last_beat));
	set(values, nulls, REPLY_CREATED_AT, TimestampTzGetDatum(created));

	lock_tag(&tag, reply->conversation);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	id = nextval_internal(outbox->sequence, false);
	set(values, nulls, REPLY_REPLY_ID, Int64GetDatum(id));
	(void) tl_rel_insert(&outbox->replies, values, nulls);
	LockRelease(&tag, ExclusiveLock, false);

	memset(dnulls, true, sizeof(dnulls));
	memset(dvalues, 0, sizeof(dvalues));
	set(dvalues, dnulls, DELIVERY_REPLY_ID, Int64GetDatum(id));
	set(dvalues, dnulls, DELIVERY_STATE, CharGetDatum(discharged ? TL_DELIVERY_DONE : TL_DELIVERY_OPEN));
	set(dvalues, dnulls, DELIVERY_ATTEMPT, Int32GetDatum(0));
	set(dvalues, dnulls, DELIVERY_DUE_AT, TimestampTzGetDatum(DT_NOBEGIN));
	set(dvalues, dnulls, DELIVERY_KEPT_AT, TimestampTzGetDatum(now));
	set(dvalues, dnulls, DELIVERY_CONVERSATION_ID, PointerGetDatum(reply->conversation));
	set(dvalues, dnulls, DELIVERY_PLATFORM, PointerGetDatum(reply->platform));
	if (discharged)
		set(dvalues, dnulls, DELIVERY_DELIVERED_AT, TimestampTzGetDatum(created));
	(void) tl_rel_insert(&outbox->deliveries, dvalues, dnulls);

	outbox->stored[counter_of(reply)] += reply->nids;
	tl_xact_reply(reply->conversation, reply->platform);
	return id;
}

void
tl_outbox_keep_late(const text *deployment, text **ids, int nids,
					const text *conversation, Jsonb *payload, bool lost,
					const pg_uuid_t *request)
{
	TlRel		late;
	Datum		values[LATE_NATTS];
	bool		nulls[LATE_NATTS];

	memset(nulls, true, sizeof(nulls));
	set(values, nulls, LATE_DIGEST, UUIDPGetDatum(request));
	set(values, nulls, LATE_DEPLOYMENT, PointerGetDatum(deployment));
	set(values, nulls, LATE_MESSAGE_IDS, make_array(ids, nids));
	if (conversation)
		set(values, nulls, LATE_CONVERSATION, PointerGetDatum(conversation));
	set(values, nulls, LATE_PAYLOAD, JsonbPGetDatum(payload));
	set(values, nulls, LATE_VERDICT, ObjectIdGetDatum(tl_election_oid(lost ? TL_LOST : TL_UNKNOWN)));
	set(values, nulls, LATE_CREATED_AT, TimestampTzGetDatum(GetCurrentTimestamp()));
	set(values, nulls, LATE_KEPT, TimestampTzGetDatum(tl_clock_now()));

	tl_rel_open(&late, TL_LATE_REPLY, true);
	if (tl_rel_insert_unless_there(&late, TL_IDX_LATE_REPLY_KEY, values, nulls, NULL))
		tl_counter_add(lost ? TL_COUNT_LATE : TL_COUNT_UNKNOWN, 1);
	tl_rel_close(&late);
}
