/*
 * payload.c
 *		The JSON of a terminal reply.
 *
 * Takes values, gives values; only the timestamp comes from the clock.
 */
#include "base/turn_liveness.h"

#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "replies/payload.h"

#define EPOCH_OFFSET_US \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/*
 * What we put into a payload, in the order in which jsonb keeps keys: by length, then by
 * bytes.  What is pushed in that order need not be sorted.
 */
typedef enum Member
{
	MEMBER_ERROR,
	MEMBER_TEAM_ID,
	MEMBER_USER_ID,
	MEMBER_PLATFORM,
	MEMBER_CHANNEL_ID,
	MEMBER_ERROR_CODE,
	MEMBER_MESSAGE_ID,
	MEMBER_TIMESTAMP,
	MEMBER_CONVERSATION_ID,
	MEMBER_ORGANIZATION_ID,
	MEMBER_PLATFORM_METADATA,
	MEMBER_PROCESSED_MESSAGE_IDS,
	NMEMBERS
} Member;

static const char *const member_keys[NMEMBERS] = {
	"error", "teamId", "userId", "platform", "channelId", "errorCode", "messageId", "timestamp",
	"conversationId", "organizationId", "platformMetadata", "processedMessageIds"
};

/* a payload that is being made */
typedef struct Payload
{
	TlJsonbState state;
	Member		next;			/* those before it are pushed, or left out */
	Jsonb	   *routing;
	const text *const *ids;
	int			nids;
	const text *error;
	const text *error_code;
} Payload;

/* As jsonb compares keys. */
static int
compare_key(Member member, const JsonbValue *key)
{
	int			len = strlen(member_keys[member]);

	if (len != key->val.string.len)
		return len < key->val.string.len ? -1 : 1;
	return memcmp(member_keys[member], key->val.string.val, len);
}

static void
push_string(Payload *payload, JsonbIteratorToken token, const char *string, int len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = len;
	tl_push_jsonb_compat(&payload->state, token, &value);
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

static void
push_member(Payload *payload, Member member)
{
	const char *key = member_keys[member];
	JsonbValue	value;
	int			i;

	switch (member)
	{
		case MEMBER_ERROR:
		case MEMBER_ERROR_CODE:
			{
				const text *error = member == MEMBER_ERROR ? payload->error : payload->error_code;

				if (error == NULL)
					return;
				push_string(payload, WJB_KEY, key, strlen(key));
				push_text(payload, WJB_VALUE, error);
				return;
			}

		case MEMBER_PLATFORM:
		case MEMBER_TEAM_ID:
			push_string(payload, WJB_KEY, key, strlen(key));
			if (get(payload->routing, key, &value) || get(payload->routing, "platform", &value))
				tl_push_jsonb_compat(&payload->state, WJB_VALUE, &value);
			else
				push_string(payload, WJB_VALUE, "api", 3);
			return;

		case MEMBER_MESSAGE_ID:
			push_string(payload, WJB_KEY, key, strlen(key));
			push_text(payload, WJB_VALUE, payload->ids[0]);
			return;

		case MEMBER_TIMESTAMP:
			push_string(payload, WJB_KEY, key, strlen(key));
			value.type = jbvNumeric;
			value.val.numeric = int64_to_numeric((GetCurrentTimestamp() + EPOCH_OFFSET_US) / 1000);
			tl_push_jsonb_compat(&payload->state, WJB_VALUE, &value);
			return;

		case MEMBER_PROCESSED_MESSAGE_IDS:
			push_string(payload, WJB_KEY, key, strlen(key));
			tl_push_jsonb_compat(&payload->state, WJB_BEGIN_ARRAY, NULL);
			for (i = 0; i < payload->nids; i++)
				push_text(payload, WJB_ELEM, payload->ids[i]);
			tl_push_jsonb_compat(&payload->state, WJB_END_ARRAY, NULL);
			return;

		case MEMBER_USER_ID:
		case MEMBER_CHANNEL_ID:
		case MEMBER_CONVERSATION_ID:
		case MEMBER_ORGANIZATION_ID:
		case MEMBER_PLATFORM_METADATA:
			/* as it stands in the routing, if it is there */
			if (!get(payload->routing, key, &value))
				return;
			push_string(payload, WJB_KEY, key, strlen(key));
			tl_push_jsonb_compat(&payload->state, WJB_VALUE, &value);
			return;

		case NMEMBERS:
			break;
	}
}

/* Ours that come before that key; all that are left if it is NULL. */
static void
push_members(Payload *payload, const JsonbValue *key)
{
	while (payload->next < NMEMBERS && (key == NULL || compare_key(payload->next, key) < 0))
		push_member(payload, payload->next++);
}

Jsonb *
tl_payload_error(Jsonb *routing, const text *message_id,
				 const text *error, const text *error_code)
{
	Payload		payload = {.routing = routing, .ids = &message_id, .nids = 1,
	.error = error, .error_code = error_code};

	tl_push_jsonb_compat(&payload.state, WJB_BEGIN_OBJECT, NULL);
	push_members(&payload, NULL);
	tl_push_jsonb_compat(&payload.state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(payload.state.result);
}

/* The reply's own members stay, but for the ids. */
Jsonb *
tl_payload_reply(Jsonb *reply, Jsonb *routing, text **won, int nwon)
{
	Payload		payload = {.routing = routing, .ids = (const text *const *) won, .nids = nwon};
	JsonbIterator *it = JsonbIteratorInit(&reply->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		skip = false;

	(void) JsonbIteratorNext(&it, &value, true);	/* the object begins */
	tl_push_jsonb_compat(&payload.state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_END_OBJECT)
	{
		if (token == WJB_KEY)
		{
			push_members(&payload, &value);
			skip = false;
			if (payload.next < NMEMBERS && compare_key(payload.next, &value) == 0)
			{
				skip = payload.next == MEMBER_MESSAGE_ID || payload.next == MEMBER_PROCESSED_MESSAGE_IDS;
				if (skip)
					push_member(&payload, payload.next);
				payload.next++;
			}
		}
		if (!skip)
			tl_push_jsonb_compat(&payload.state, token, &value);
	}
	push_members(&payload, NULL);
	tl_push_jsonb_compat(&payload.state, WJB_END_OBJECT, NULL);
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
