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
	"organizationId", "traceparent"
};

static JsonbValue
string_value(const char *string, int len)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, string);
	value.val.string.len = len;
	return value;
}

#define text_value(value)	string_value(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value))
#define cstring_value(value)	string_value(value, strlen(value))

static void
push(TlJsonbState *state, JsonbIteratorToken token, JsonbValue value)
{
	tl_push_jsonb_compat(state, token, &value);
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

/* Begin the object: what the routing gives, the generation, and the time. */
static void
begin(TlJsonbState *state, Jsonb *routing, int32 generation)
{
	JsonbValue	platform = cstring_value(TL_DEFAULT_PLATFORM);
	JsonbValue	value;
	int			i;

	if (get(routing, "platform", &value))
		platform = value;
	tl_push_jsonb_compat(state, WJB_BEGIN_OBJECT, NULL);
	for (i = 0; i < lengthof(routed); i++)
	{
		bool		is_given = get(routing, routed[i], &value);

		if (!is_given && i >= 2)
			continue;
		push(state, WJB_KEY, cstring_value(routed[i]));
		push(state, WJB_VALUE, is_given ? value : platform);
	}

	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(
		GetCurrentTimestamp() / 1000 +
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (USECS_PER_DAY / 1000));
	push(state, WJB_KEY, cstring_value("timestamp"));
	push(state, WJB_VALUE, value);
	value.val.numeric = int64_to_numeric(generation);
	push(state, WJB_KEY, cstring_value("generation"));
	push(state, WJB_VALUE, value);
}

/* The members of the caller's object, as they are. */
static void
push_members(TlJsonbState *state, Jsonb *object)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	(void) JsonbIteratorNext(&it, &value, true);	/* its object begins */
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_END_OBJECT)
		tl_push_jsonb_compat(state, token, &value);
}

/* End the object: the turns that it ends. */
static Jsonb *
end(TlJsonbState *state, const text *const *ids, int nids)
{
	int			i;

	push(state, WJB_KEY, cstring_value("messageId"));
	push(state, WJB_VALUE, text_value(ids[0]));
	push(state, WJB_KEY, cstring_value("processedMessageIds"));
	tl_push_jsonb_compat(state, WJB_BEGIN_ARRAY, NULL);
	for (i = 0; i < nids; i++)
		push(state, WJB_ELEM, text_value(ids[i]));
	tl_push_jsonb_compat(state, WJB_END_ARRAY, NULL);
	tl_push_jsonb_compat(state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state->result);
}

Jsonb *
tl_payload_error(Jsonb *routing, const text *message_id, int32 generation,
				 const text *error, const text *error_code)
{
	TlJsonbState state = {0};

	begin(&state, routing, generation);
	push(&state, WJB_KEY, cstring_value("error"));
	push(&state, WJB_VALUE, text_value(error));
	if (error_code)
	{
		push(&state, WJB_KEY, cstring_value("errorCode"));
		push(&state, WJB_VALUE, text_value(error_code));
	}
	return end(&state, &message_id, 1);
}

/*
 * Of two equal keys jsonb keeps the one that was pushed last: the reply's own
 * members replace the routing's, and our ids replace the reply's.
 */
Jsonb *
tl_payload_reply(Jsonb *reply, Jsonb *routing, text **won, int nwon, int32 generation)
{
	TlJsonbState state = {0};

	begin(&state, routing, generation);
	push_members(&state, reply);
	return end(&state, (const text *const *) won, nwon);
}

Jsonb *
tl_payload_update(Jsonb *update, Jsonb *routing, const text *message_id, int32 generation)
{
	TlJsonbState state = {0};

	begin(&state, routing, generation);
	push_members(&state, update);
	push(&state, WJB_KEY, cstring_value("messageId"));
	push(&state, WJB_VALUE, text_value(message_id));
	tl_push_jsonb_compat(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
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

/* Make a token of the call, and its value if it has one, part of a digest. */
static void
mix(uint64 *half, JsonbIteratorToken token, const JsonbValue *value)
{
	static const uint64 seeds[] = {UINT64CONST(0x9ae16a3b2f90404f), UINT64CONST(0xc949c7defebe6f00)};
	int			i;

	for (i = 0; i < lengthof(seeds); i++)
	{
		uint64		hash = 0;

		if (value != NULL)
			JsonbHashScalarValueExtended(value, &hash, seeds[i]);
		half[i] = hash_combine64(hash_combine64(half[i], token), hash);
	}
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
	pg_uuid_t  *result = palloc(sizeof(pg_uuid_t));
	uint64		half[2] = {0, 0};
	JsonbIterator *it = JsonbIteratorInit(&reply->root);
	JsonbIteratorToken token;
	JsonbValue	value = text_value(deployment);
	int			depth = 0;
	int			i;

	mix(half, WJB_ELEM, &value);
	for (i = 0; i < nids; i++)
	{
		value = text_value(ids[i]);
		mix(half, WJB_ELEM, &value);
	}
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		bool		begins = token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY;
		bool		ends = token == WJB_END_OBJECT || token == WJB_END_ARRAY;

		depth += begins - ends;
		if (token == WJB_KEY && depth == 1 && value.val.string.len == 9 &&
			memcmp(value.val.string.val, "timestamp", 9) == 0)
			(void) JsonbIteratorNext(&it, &value, true);	/* its value */
		else
			mix(half, token, begins || ends ? NULL : &value);
	}
	memcpy(result->data, half, sizeof(half));
	return result;
}
