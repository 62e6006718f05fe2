/*
 * payload.c
 *		The JSON of a terminal reply.
 *
 * Takes values, gives values; only the timestamp comes from the clock.
 */
#include "turn_liveness.h"

#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "payload.h"

#define EPOCH_OFFSET_US \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* copied from the routing as they stand, if they are there */
static const char *const copied_keys[] = {
	"channelId", "conversationId", "userId", "platformMetadata", "organizationId"
};

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, key);
	value.val.string.len = strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_text(JsonbParseState **state, JsonbIteratorToken token, const text *value)
{
	JsonbValue	json;

	json.type = jbvString;
	json.val.string.val = VARDATA_ANY(value);
	json.val.string.len = VARSIZE_ANY_EXHDR(value);
	(void) pushJsonbValue(state, token, &json);
}

static void
push_timestamp(JsonbParseState **state)
{
	JsonbValue	json;
	int64		ms = (GetCurrentTimestamp() + EPOCH_OFFSET_US) / 1000;

	push_key(state, "timestamp");
	json.type = jbvNumeric;
	json.val.numeric = int64_to_numeric(ms);
	(void) pushJsonbValue(state, WJB_VALUE, &json);
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

static bool
has(Jsonb *object, const char *key)
{
	JsonbValue	value;

	return object != NULL &&
		getKeyJsonValueFromContainer(&object->root, key, strlen(key), &value) != NULL;
}

/*
 * What a reply takes from the routing.  Keys of taken, if given, are left
 * alone.
 */
static void
push_routing(JsonbParseState **state, Jsonb *routing, Jsonb *taken)
{
	JsonbValue	value;
	JsonbValue	platform;
	int			i;

	for (i = 0; i < lengthof(copied_keys); i++)
		if (!has(taken, copied_keys[i]) && get(routing, copied_keys[i], &value))
		{
			push_key(state, copied_keys[i]);
			(void) pushJsonbValue(state, WJB_VALUE, &value);
		}

	if (!get(routing, "platform", &platform))
	{
		platform.type = jbvString;
		platform.val.string.val = "api";
		platform.val.string.len = 3;
	}
	if (!has(taken, "platform"))
	{
		push_key(state, "platform");
		(void) pushJsonbValue(state, WJB_VALUE, &platform);
	}
	if (!has(taken, "teamId"))
	{
		push_key(state, "teamId");
		(void) pushJsonbValue(state, WJB_VALUE, get(routing, "teamId", &value) ? &value : &platform);
	}
}

static void
push_turns(JsonbParseState **state, const text *const *ids, int nids)
{
	int			i;

	push_key(state, "messageId");
	push_text(state, WJB_VALUE, ids[0]);
	push_key(state, "processedMessageIds");
	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (i = 0; i < nids; i++)
		push_text(state, WJB_ELEM, ids[i]);
	(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

Jsonb *
tl_payload_error(Jsonb *routing, const text *message_id,
				 const text *error, const text *error_code)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_routing(&state, routing, NULL);
	push_turns(&state, &message_id, 1);
	push_key(&state, "error");
	push_text(&state, WJB_VALUE, error);
	if (error_code != NULL)
	{
		push_key(&state, "errorCode");
		push_text(&state, WJB_VALUE, error_code);
	}
	push_timestamp(&state);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

Jsonb *
tl_payload_reply(Jsonb *reply, Jsonb *routing, text **won, int nwon)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it = JsonbIteratorInit(&reply->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		skip = false;

	(void) JsonbIteratorNext(&it, &value, true);	/* the object begins */
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_END_OBJECT)
	{
		if (token == WJB_KEY)
			skip = (value.val.string.len == 9 && memcmp(value.val.string.val, "messageId", 9) == 0) ||
				(value.val.string.len == 19 && memcmp(value.val.string.val, "processedMessageIds", 19) == 0);
		if (!skip)
			(void) pushJsonbValue(&state, token, &value);
	}
	push_routing(&state, routing, reply);
	push_turns(&state, (const text *const *) won, nwon);
	if (!has(reply, "timestamp"))
		push_timestamp(&state);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
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
 * top-level timestamp.  Every token counts, also where a container ends (jsonb_hash_extended
 * leaves that out: [[1],2] and [[1,2]] are one to it); scalars are hashed as
 * jsonb compares them, so numbers are equal however they are written.
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
