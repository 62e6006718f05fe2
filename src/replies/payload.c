/*
 * payload.c
 *		The JSON of a terminal reply.
 *
 * Pure functions, but for the timestamp, which comes from the wall clock.
 */
#include "base/turn_liveness.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "replies/outbox.h"

/*
 * The members that a payload may have besides those of the caller, in the order
 * in which jsonb keeps keys: shorter ones first.  finish() merges them with the
 * caller's, which come in the same order, so jsonb need not sort the pairs.
 */
enum
{
	ERROR_TEXT, TEAM_ID, USER_ID, PLATFORM, CHANNEL_ID, ERROR_CODE, MESSAGE_ID, TIMESTAMP,
	GENERATION, TRACEPARENT, CONVERSATION_ID, ORGANIZATION_ID, METADATA, MESSAGE_IDS,
	NMEMBERS
};

static const struct
{
	const char *key;
	bool		routed;			/* taken from the routing */
}			members[NMEMBERS] = {
	[ERROR_TEXT] = {"error", false},
	[TEAM_ID] = {"teamId", true},
	[USER_ID] = {"userId", true},
	[PLATFORM] = {"platform", true},
	[CHANNEL_ID] = {"channelId", true},
	[ERROR_CODE] = {"errorCode", false},
	[MESSAGE_ID] = {"messageId", false},
	[TIMESTAMP] = {"timestamp", false},
	[GENERATION] = {"generation", false},
	[TRACEPARENT] = {"traceparent", true},
	[CONVERSATION_ID] = {"conversationId", true},
	[ORGANIZATION_ID] = {"organizationId", true},
	[METADATA] = {"platformMetadata", true},
	[MESSAGE_IDS] = {"processedMessageIds", false},
};

/* a payload that is being made; a member of type jbvNull is not there */
typedef struct Payload
{
	JsonbValue	members[NMEMBERS];
	JsonbPair  *pairs;
	int			npairs;
} Payload;

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

/*
 * Begin a payload: what the routing gives, the generation, and the time.  The
 * platform and the team are always there.
 */
static void
begin(Payload *payload, Jsonb *routing, int32 generation)
{
	JsonbValue *value = payload->members;
	int			i;

	memset(payload, 0, sizeof(*payload));
	for (i = 0; i < NMEMBERS; i++)
		if (!members[i].routed || get(routing, members[i].key, &value[i]) == NULL)
			value[i].type = jbvNull;
	if (value[PLATFORM].type == jbvNull)
		value[PLATFORM] = cstring_value(TL_DEFAULT_PLATFORM);
	if (value[TEAM_ID].type == jbvNull)
		value[TEAM_ID] = value[PLATFORM];

	value[TIMESTAMP].type = value[GENERATION].type = jbvNumeric;
	value[TIMESTAMP].val.numeric = int64_to_numeric(
		GetCurrentTimestamp() / 1000 +
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (USECS_PER_DAY / 1000));
	value[GENERATION].val.numeric = int64_to_numeric(generation);
}

/* The turns that it ends. */
static void
set_ids(Payload *payload, const text *const *ids, int nids)
{
	JsonbValue *list = &payload->members[MESSAGE_IDS];
	int			i;

	payload->members[MESSAGE_ID] = text_value(ids[0]);
	list->type = jbvArray;
	list->val.array.rawScalar = false;
	list->val.array.nElems = nids;
	list->val.array.elems = palloc(nids * sizeof(JsonbValue));
	for (i = 0; i < nids; i++)
		list->val.array.elems[i] = text_value(ids[i]);
}

/*
 * JsonbIteratorNext returns a nested object or array as one block, and
 * JsonbValueToJsonb takes none: make values of it.
 */
static JsonbValue
unpack(JsonbValue value)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	part;
	TlJsonbState state = {0};

	if (value.type != jbvBinary)
		return value;
	it = JsonbIteratorInit(value.val.binary.data);
	while ((token = JsonbIteratorNext(&it, &part, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		tl_push_jsonb_compat(&state, token, token < WJB_BEGIN_ARRAY ? &part : NULL);
	}
	return *state.result;
}

static void
add_pair(Payload *payload, JsonbValue key, JsonbValue value)
{
	payload->pairs[payload->npairs++] = (JsonbPair) {.key = key, .value = unpack(value)};
}

/* Add a member that is there. */
static void
add_member(Payload *payload, int i)
{
	if (payload->members[i].type != jbvNull)
		add_pair(payload, cstring_value(members[i].key), payload->members[i]);
}

/* Where does a key stand to that of a member, in jsonb's order? */
static int
compare_key(const JsonbValue *key, int i)
{
	int			len = strlen(members[i].key);

	return key->val.string.len != len ? key->val.string.len - len :
		memcmp(key->val.string.val, members[i].key, len);
}

/*
 * Add all members, and those of the caller's object in between.  Of two equal
 * keys the caller's is kept, but for the ids of the turns.
 */
static Jsonb *
finish(Payload *payload, Jsonb *object)
{
	JsonbIterator *it = object != NULL ? JsonbIteratorInit(&object->root) : NULL;
	JsonbValue	result = {.type = jbvObject};
	JsonbValue	key;
	JsonbValue	value;
	int			i = 0;

	payload->pairs = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(JsonbPair) *
											(NMEMBERS + (object ? JB_ROOT_COUNT(object) : 0)));
	if (it != NULL)
		(void) JsonbIteratorNext(&it, &key, true);	/* its object begins */
	while (it != NULL && JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		CHECK_FOR_INTERRUPTS();
		(void) JsonbIteratorNext(&it, &value, true);
		while (i < NMEMBERS && compare_key(&key, i) > 0)
			add_member(payload, i++);
		if (i < NMEMBERS && compare_key(&key, i) == 0)
		{
			if ((i == MESSAGE_ID || i == MESSAGE_IDS) && payload->members[i].type != jbvNull)
				continue;
			i++;
		}
		add_pair(payload, key, value);
	}
	for (; i < NMEMBERS; i++)
		add_member(payload, i);
	result.val.object.nPairs = payload->npairs;
	result.val.object.pairs = payload->pairs;
	return JsonbValueToJsonb(&result);
}

Jsonb *
tl_payload_error(Jsonb *routing, const text *message_id, int32 generation,
				 const text *error, const text *error_code)
{
	Payload		payload;

	begin(&payload, routing, generation);
	payload.members[ERROR_TEXT] = text_value(error);
	if (error_code)
		payload.members[ERROR_CODE] = text_value(error_code);
	set_ids(&payload, &message_id, 1);
	return finish(&payload, NULL);
}

/*
 * The reply's own members replace the routing's, and our ids replace the
 * reply's.
 */
Jsonb *
tl_payload_reply(Jsonb *reply, Jsonb *routing, text **won, int nwon, int32 generation)
{
	Payload		payload;

	begin(&payload, routing, generation);
	set_ids(&payload, (const text *const *) won, nwon);
	return finish(&payload, reply);
}

Jsonb *
tl_payload_update(Jsonb *update, Jsonb *routing, const text *message_id, int32 generation)
{
	Payload		payload;

	begin(&payload, routing, generation);
	payload.members[MESSAGE_ID] = text_value(message_id);
	return finish(&payload, update);
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
	/* as long as those that the calls take: monitors read it in a column */
	if (is_error && get(reply, "errorCode", &value) && value.type == jbvString)
		*error_code = cstring_to_text_with_len(value.val.string.val,
											   pg_mbcliplen(value.val.string.val,
															value.val.string.len, TL_MAX_NAME));
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
