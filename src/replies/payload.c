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

#include "replies/payload.h"

#define EPOCH_OFFSET_US \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* a payload that is being made */
typedef struct Payload
{
	TlJsonbState state;
} Payload;

static void push(Payload *payload, JsonbIteratorToken token, JsonbValue *value);
static void push_string(Payload *payload, JsonbIteratorToken token, const char *string, int len);
static void push_key(Payload *payload, const char *key);
static void push_text(Payload *payload, JsonbIteratorToken token, const text *value);
static JsonbValue *get(Jsonb *object, const char *key, JsonbValue *value);
static void push_routing(Payload *payload, Jsonb *routing);
static void push_ids(Payload *payload, const text *const *ids, int nids);

static void
push(Payload *payload, JsonbIteratorToken token, JsonbValue *value)
{
	tl_push_jsonb_compat(&payload->state, token, value);
}

static void
push_string(Payload *payload, JsonbIteratorToken token, const char *string, int len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = len;
	push(payload, token, &value);
}

static void
push_key(Payload *payload, const char *key)
{
	push_string(payload, WJB_KEY, key, strlen(key));
}

static void
push_text(Payload *payload, JsonbIteratorToken token, const text *value)
{
	push_string(payload, token, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
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

/* What the routing gives, and the time. */
static void
push_routing(Payload *payload, Jsonb *routing)
{
	static const char *const optional[] = {
		"channelId", "conversationId", "userId", "platformMetadata", "organizationId"
	};
	JsonbValue	platform;
	JsonbValue	value;
	int			i;

	if (!get(routing, "platform", &platform))
	{
		platform.type = jbvString;
		platform.val.string.val = TL_DEFAULT_PLATFORM;
		platform.val.string.len = strlen(TL_DEFAULT_PLATFORM);
	}
	push_key(payload, "platform");
	push(payload, WJB_VALUE, &platform);
	push_key(payload, "teamId");
	push(payload, WJB_VALUE, get(routing, "teamId", &value) ? &value : &platform);
	for (i = 0; i < lengthof(optional); i++)
		if (get(routing, optional[i], &value))
		{
			push_key(payload, optional[i]);
			push(payload, WJB_VALUE, &value);
		}

	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric((GetCurrentTimestamp() + EPOCH_OFFSET_US) / 1000);
	push_key(payload, "timestamp");
	push(payload, WJB_VALUE, &value);
}

static void
push_ids(Payload *payload, const text *const *ids, int nids)
{
	int			i;

	push_key(payload, "messageId");
	push_text(payload, WJB_VALUE, ids[0]);
	push_key(payload, "processedMessageIds");
	push(payload, WJB_BEGIN_ARRAY, NULL);
	for (i = 0; i < nids; i++)
		push_text(payload, WJB_ELEM, ids[i]);
	push(payload, WJB_END_ARRAY, NULL);
}

Jsonb *
tl_payload_error(Jsonb *routing, const text *message_id,
				 const text *error, const text *error_code)
{
	Payload		payload = {0};

	push(&payload, WJB_BEGIN_OBJECT, NULL);
	push_routing(&payload, routing);
	push_ids(&payload, &message_id, 1);
	push_key(&payload, "error");
	push_text(&payload, WJB_VALUE, error);
	if (error_code)
	{
		push_key(&payload, "errorCode");
		push_text(&payload, WJB_VALUE, error_code);
	}
	push(&payload, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(payload.state.result);
}

/*
 * Of two equal keys jsonb keeps the one that was pushed last: the reply's own
 * members replace the routing's, and our ids replace the reply's.
 */
Jsonb *
tl_payload_reply(Jsonb *reply, Jsonb *routing, text **won, int nwon)
{
	Payload		payload = {0};
	JsonbIterator *it = JsonbIteratorInit(&reply->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	(void) JsonbIteratorNext(&it, &value, true);	/* the object begins */
	push(&payload, WJB_BEGIN_OBJECT, NULL);
	push_routing(&payload, routing);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_END_OBJECT)
		push(&payload, token, &value);
	push_ids(&payload, (const text *const *) won, nwon);
	push(&payload, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(payload.state.result);
}

/* A non-empty "error": not null, false or "". */
bool
tl_payload_is_error(Jsonb *reply, text **error_code)
{
	JsonbValue	value;
	bool		is_error;

	*error_code = NULL;
	is_error = get(reply, "error", &value) &&
		!(value.type == jbvString && value.val.string.len == 0) &&
		!(value.type == jbvBool && !value.val.boolean);
	if (is_error && get(reply, "errorCode", &value) && value.type == jbvString)
		*error_code = cstring_to_text_with_len(value.val.string.val, value.val.string.len);
	return is_error;
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
	uint64		half[2];
	JsonbIterator *it = JsonbIteratorInit(&reply->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	int			depth = 0;
	int			i;
	int			j;

	for (i = 0; i < 2; i++)
	{
		half[i] = hash_bytes_extended((const unsigned char *) VARDATA_ANY(deployment),
									  VARSIZE_ANY_EXHDR(deployment), seeds[i]);
		for (j = 0; j < nids; j++)
			half[i] = hash_combine64(half[i],
									 hash_bytes_extended((const unsigned char *) VARDATA_ANY(ids[j]),
														 VARSIZE_ANY_EXHDR(ids[j]), seeds[i]));
	}
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		bool		scalar = false;

		if (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY)
			depth++;
		else if (token == WJB_END_OBJECT || token == WJB_END_ARRAY)
			depth--;
		else if (token == WJB_KEY && depth == 1 && value.val.string.len == 9 &&
				 memcmp(value.val.string.val, "timestamp", 9) == 0)
		{
			/* the value as a whole */
			(void) JsonbIteratorNext(&it, &value, true);
			continue;
		}
		else
			scalar = true;

		for (i = 0; i < 2; i++)
		{
			uint64		hash = 0;

			if (scalar)
				JsonbHashScalarValueExtended(&value, &hash, seeds[i]);
			half[i] = hash_combine64(hash_combine64(half[i], token), hash);
		}
	}
	memcpy(result->data, half, sizeof(half));
	return result;
}
