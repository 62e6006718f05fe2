/*
 * payload.c
 *		The JSON of a terminal reply.
 *
 * Pure functions, but for the timestamp, which comes from the wall clock.
 */
#include "base/turn_liveness.h"

#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "replies/outbox.h"

/* what a payload takes from the routing; the first two are always there */
static const char *const routed[] = {
	"platform", "teamId", "channelId", "conversationId", "userId", "platformMetadata",
	"organizationId"
};

static void
push_string(TlJsonbState *state, JsonbIteratorToken token, const char *string, int len)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, string);
	value.val.string.len = len;
	tl_push_jsonb_compat(state, token, &value);
}

#define push_text(state, token, value) \
	push_string(state, token, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value))

static void
push_key(TlJsonbState *state, const char *key)
{
	push_string(state, WJB_KEY, key, strlen(key));
}

static void
push_member(TlJsonbState *state, const char *key, JsonbValue *value)
{
	push_key(state, key);
	tl_push_jsonb_compat(state, WJB_VALUE, value);
}

/* A key that is there and not JSON null. */
static JsonbValue *
get(Jsonb *object, const char *key, JsonbValue *value)
{
	if (object == NULL ||
		getKeyJsonValueFromContainer(&object->root, key, strlen(key), value) == NULL ||
		value->type == jbvNull)
		return NULL;
	return value;
}

/* Begin the object: what the routing gives, and the time. */
static void
begin(TlJsonbState *state, Jsonb *routing)
{
	JsonbValue	platform = {.type = jbvString};
	JsonbValue	value;
	int			i;

	platform.val.string.val = TL_DEFAULT_PLATFORM;
	platform.val.string.len = strlen(TL_DEFAULT_PLATFORM);
	if (get(routing, "platform", &value))
		platform = value;
	tl_push_jsonb_compat(state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < lengthof(routed); i++)
		if (get(routing, routed[i], &value))
			push_member(state, routed[i], &value);
		else if (i < 2)
			push_member(state, routed[i], &platform);

	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(
		(GetCurrentTimestamp() + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY) / 1000);
	push_member(state, "timestamp", &value);
}

/* End the object: the turns that it ends. */
static Jsonb *
end(TlJsonbState *state, const text *const *ids, int nids)
{
	int			i;

	push_key(state, "messageId");
	push_text(state, WJB_VALUE, ids[0]);
	push_key(state, "processedMessageIds");
	tl_push_jsonb_compat(state, WJB_BEGIN_ARRAY, NULL);
	for (i = 0; i < nids; i++)
		push_text(state, WJB_ELEM, ids[i]);
	tl_push_jsonb_compat(state, WJB_END_ARRAY, NULL);
	tl_push_jsonb_compat(state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state->result);
}

Jsonb *
tl_payload_error(Jsonb *routing, const text *message_id,
				 const text *error, const text *error_code)
{
	TlJsonbState state = {0};

	begin(&state, routing);
	push_key(&state, "error");
	push_text(&state, WJB_VALUE, error);
	if (error_code)
	{
		push_key(&state, "errorCode");
		push_text(&state, WJB_VALUE, error_code);
	}
	return end(&state, &message_id, 1);
}

/*
 * Of two equal keys jsonb keeps the one that was pushed last: the reply's own
 * members replace the routing's, and our ids replace the reply's.
 */
Jsonb *
tl_payload_reply(Jsonb *reply, Jsonb *routing, text **won, int nwon)
{
	TlJsonbState state = {0};
	JsonbIterator *it = JsonbIteratorInit(&reply->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	begin(&state, routing);
	(void) JsonbIteratorNext(&it, &value, true);	/* its object begins */
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_END_OBJECT)
		tl_push_jsonb_compat(&state, token, &value);
	return end(&state, (const text *const *) won, nwon);
}

/* A non-empty "error": not null, false or "". */
bool
tl_payload_is_error(Jsonb *reply, text **error_code)
{
	JsonbValue	value;
	bool		is_error = get(reply, "error", &value) &&
		!(value.type == jbvString && value.val.string.len == 0) &&
		!(value.type == jbvBool && !value.val.boolean);
	*error_code = NULL;
	if (is_error && get(reply, "errorCode", &value) && value.type == jbvString)
		*error_code = cstring_to_text_with_len(value.val.string.val, value.val.string.len);
	return is_error;
}

/* Make the hash of some bytes part of both halves of a digest. */
static void
mix_text(uint64 *half, const uint64 *seeds, const text *value)
{
	int			i;

	for (i = 0; i < 2; i++)
		half[i] = hash_combine64(half[i],
								 hash_bytes_extended((const unsigned char *) VARDATA_ANY(value),
													 VARSIZE_ANY_EXHDR(value), seeds[i]));
}

/*
 * 128 bits of hash over the deployment, the ids and the reply apart from its
 * top-level timestamp.  Every token counts, also where a container ends
 * (jsonb_hash_extended leaves that out: [[1],2] and [[1,2]] are one to it).
 * Scalars are hashed as jsonb compares them, so numbers are equal however they
 * are written.
 */
pg_uuid_t *
tl_payload_request(const text *deployment, text **ids, int nids, Jsonb *reply)
{
	static const uint64 seeds[2] = {UINT64CONST(0x9ae16a3b2f90404f), UINT64CONST(0xc949c7defebe6f00)};
	pg_uuid_t  *result = palloc(sizeof(pg_uuid_t));
	uint64		half[2] = {0, 0};
	JsonbIterator *it = JsonbIteratorInit(&reply->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	int			depth = 0;
	int			i;

	mix_text(half, seeds, deployment);
	for (i = 0; i < nids; i++)
		mix_text(half, seeds, ids[i]);
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		bool		begins = token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY;
		bool		ends = token == WJB_END_OBJECT || token == WJB_END_ARRAY;

		depth += begins - ends;
		if (token == WJB_KEY && depth == 1 && value.val.string.len == 9 &&
			memcmp(value.val.string.val, "timestamp", 9) == 0)
		{
			/* the value as a whole */
			(void) JsonbIteratorNext(&it, &value, true);
			continue;
		}
		for (i = 0; i < 2; i++)
		{
			uint64		hash = 0;

			if (!begins && !ends)
				JsonbHashScalarValueExtended(&value, &hash, seeds[i]);
			half[i] = hash_combine64(hash_combine64(half[i], token), hash);
		}
	}
	memcpy(result->data, half, sizeof(half));
	return result;
}
