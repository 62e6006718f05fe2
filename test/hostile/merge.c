/*
 * merge.c
 *		libFuzzer on the JSON of replies: src/replies/payload.c itself, in a backend.
 *
 * hostile_merge(text[]) hands the process over to libFuzzer with these options;
 * it never returns, so a server in single-user mode calls it (see "run").  Each
 * input is a program that writes the JSON of a reply and of a routing, which the
 * type jsonb then reads: all inputs are JSON, and libFuzzer looks for those that
 * take our code another way.  What the code makes of them is held to the rules
 * of the README, told again here in another way.  A rule that is broken aborts
 * the process, and libFuzzer keeps the input.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "replies/outbox.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(hostile_merge);

extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								int (*callback) (const uint8_t *data, size_t size));

#define must(rule) \
	do { if (!(rule)) broken(#rule, __LINE__); } while (0)

#define MAX_DEPTH	3000
#define GENERATION	7

static const char *const keys[] = {
	"platform", "teamId", "channelId", "conversationId", "userId", "platformMetadata",
	"organizationId", "traceparent", "timestamp", "generation", "messageId",
	"processedMessageIds", "error", "errorCode", "content", "", "platfor", "platforms",
	"errorcode", "a", "b", "c", "\\u00e9", "\\ud83d\\ude00", "\\u0001", "timestamq"
};
static const char *const routed[] = {
	"platform", "teamId", "channelId", "conversationId", "userId", "platformMetadata",
	"organizationId", "traceparent"
};
static const char *const scalars[] = {
	"null", "true", "false", "0", "-0", "1.0", "1.00", "1e3", "1000", "1e-5", "1e400", "\"\"",
	"\"x\"", "\"api\"", "\"\\u0001\"", "\"null\"", "12345678901234567890.5"
};
static const char *const idents[] = {"m1", "m2", "m3", "\"", "\\", "null", "\xc3\xa9", "m"};

/* the input, and how far it has been read */
typedef struct Program
{
	const uint8_t *data;
	size_t		size;
	size_t		at;
} Program;

static Jsonb *shown_reply;
static Jsonb *shown_routing;

static void
show(const char *name, Jsonb *json)
{
	if (json)
		fprintf(stderr, "%s: %s\n", name, JsonbToCString(NULL, &json->root, VARSIZE(json)));
}

static void
broken(const char *rule, int line)
{
	fprintf(stderr, "merge.c:%d: not so: %s\n", line, rule);
	show("reply", shown_reply);
	show("routing", shown_routing);
	abort();
}

/* The next byte; 0 for ever at the end, which ends each list. */
static uint8_t
next(Program *p)
{
	return p->at < p->size ? p->data[p->at++] : 0;
}

/* Any bytes as a JSON string, some of them as escapes. */
static void
write_string(Program *p, StringInfo out)
{
	int			len = next(p) % 32;

	appendStringInfoChar(out, '"');
	if (len == 31)
	{
		for (len = next(p) * 64; len > 0; len--)
			appendStringInfoChar(out, 'x');
	}
	for (; len > 0; len--)
	{
		uint8_t		c = next(p);

		if (c < ' ' || c == '"' || c == '\\' || c >= 127)
			appendStringInfo(out, "\\u%04x", c == 0 ? 1 : c);
		else
			appendStringInfoChar(out, c);
	}
	appendStringInfoChar(out, '"');
}

static void write_value(Program *p, StringInfo out, int depth);

static void
write_key(Program *p, StringInfo out)
{
	uint8_t		which = next(p);

	if (which % 4 == 3)
		write_string(p, out);
	else
		appendStringInfo(out, "\"%s\"", keys[which / 4 % lengthof(keys)]);
}

static void
write_object(Program *p, StringInfo out, int depth)
{
	int			n = 0;

	appendStringInfoChar(out, '{');
	while (p->at < p->size && next(p) % 8 != 0)
	{
		if (n++ > 0)
			appendStringInfoChar(out, ',');
		write_key(p, out);
		appendStringInfoChar(out, ':');
		write_value(p, out, depth + 1);
	}
	appendStringInfoChar(out, '}');
}

static void
write_value(Program *p, StringInfo out, int depth)
{
	uint8_t		kind = next(p);
	int			n = 0;

	CHECK_FOR_INTERRUPTS();
	switch (depth > MAX_DEPTH ? 0 : kind % 8)
	{
		case 0:
		case 1:
		case 2:
			appendStringInfoString(out, scalars[kind / 8 % lengthof(scalars)]);
			break;
		case 3:
			write_string(p, out);
			break;
		case 4:
			appendStringInfo(out, "%d.%d", (int8_t) next(p), next(p));
			break;
		case 5:
			write_object(p, out, depth);
			break;
		case 6:
			appendStringInfoChar(out, '[');
			while (p->at < p->size && next(p) % 8 != 0)
			{
				if (n++ > 0)
					appendStringInfoChar(out, ',');
				write_value(p, out, depth + 1);
			}
			appendStringInfoChar(out, ']');
			break;
		default:
			/* a well of arrays */
			n = next(p) * (kind >= 240 ? 16 : 1);
			for (int i = 0; i < n; i++)
				appendStringInfoChar(out, '[');
			for (int i = 0; i < n; i++)
				appendStringInfoChar(out, ']');
			if (n == 0)
				appendStringInfoString(out, "[]");
	}
}

static Jsonb *
read_jsonb(const char *string)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(string)));
}

static Jsonb *
write_jsonb(Program *p)
{
	StringInfoData out;

	initStringInfo(&out);
	write_object(p, &out, 0);
	return read_jsonb(out.data);
}

static bool
same(Jsonb *a, Jsonb *b)
{
	return compareJsonbContainers(&a->root, &b->root) == 0;
}

/* A member of an object, as a jsonb of its own; NULL if it has none. */
static Jsonb *
member(Jsonb *object, const char *key)
{
	JsonbValue *value = object == NULL ? NULL :
		getKeyJsonValueFromContainer(&object->root, key, strlen(key), NULL);

	return value == NULL ? NULL : JsonbValueToJsonb(value);
}

static bool
is_null(Jsonb *json)
{
	return json == NULL || strcmp(JsonbToCString(NULL, &json->root, VARSIZE(json)), "null") == 0;
}

static bool
is_string(Jsonb *json, const char *string, int len)
{
	JsonbValue	value;

	return json != NULL && JsonbExtractScalar(&json->root, &value) && value.type == jbvString &&
		value.val.string.len == len && memcmp(value.val.string.val, string, len) == 0;
}

/* The jsonb is sound: it says what it reads back as. */
static void
check_sound(Jsonb *json)
{
	char	   *string = JsonbToCString(NULL, &json->root, VARSIZE(json));
	Jsonb	   *again = read_jsonb(string);

	must(JB_ROOT_IS_OBJECT(json));
	must(same(json, again));
	must(VARSIZE(json) == VARSIZE(again));
	must(memcmp(json, again, VARSIZE(json)) == 0);
}

/* Each of our keys is there with the value that the README says. */
static void
check_filled(Jsonb *made, Jsonb *caller, Jsonb *routing, const text *id)
{
	uint32		nkeys = 0;

	for (int i = 0; i < lengthof(routed); i++)
	{
		Jsonb	   *given = member(caller, routed[i]);
		Jsonb	   *from = member(routing, routed[i]);
		Jsonb	   *is = member(made, routed[i]);

		if (given != NULL)
			must(is != NULL && same(is, given));
		else if (!is_null(from))
			must(is != NULL && same(is, from));
		else if (i < 2)
		{
			Jsonb	   *platform = member(routing, "platform");

			must(is_null(platform) ? is_string(is, "api", 3) : same(is, platform));
		}
		else
			must(is == NULL);
		if (given == NULL && is != NULL)
			nkeys++;
	}
	must(member(made, "timestamp") != NULL);
	if (member(caller, "timestamp") != NULL)
		must(same(member(made, "timestamp"), member(caller, "timestamp")));
	else
		nkeys++;
	if (member(caller, "generation") != NULL)
		must(same(member(made, "generation"), member(caller, "generation")));
	else
	{
		must(same(member(made, "generation"), read_jsonb(CppAsString2(GENERATION))));
		nkeys++;
	}
	must(is_string(member(made, "messageId"), VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id)));
	if (member(caller, "messageId") == NULL)
		nkeys++;
	if (caller != NULL)
	{
		bool		lists = member(made, "processedMessageIds") != NULL &&
			member(caller, "processedMessageIds") == NULL;

		must(JB_ROOT_COUNT(made) == JB_ROOT_COUNT(caller) + nkeys + lists);
	}
}

/* What the caller gave is there, but for our ids. */
static void
check_kept(Jsonb *made, Jsonb *caller, bool ids_are_ours)
{
	JsonbIterator *it = JsonbIteratorInit(&caller->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	(void) JsonbIteratorNext(&it, &value, true);
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_KEY)
	{
		char	   *key = pnstrdup(value.val.string.val, value.val.string.len);

		(void) JsonbIteratorNext(&it, &value, true);
		if (strcmp(key, "messageId") != 0 &&
			!(ids_are_ours && strcmp(key, "processedMessageIds") == 0))
			must(same(member(made, key), JsonbValueToJsonb(&value)));
	}
}

static void
check_request(Jsonb *reply, text **ids, int nids)
{
	text	   *deployment = cstring_to_text("d");
	pg_uuid_t  *digest = tl_payload_request(deployment, ids, nids, reply);
	char	   *string = JsonbToCString(NULL, &reply->root, VARSIZE(reply));
	bool		is_empty = JB_ROOT_COUNT(reply) == 0;
	const char *comma = is_empty ? "" : ",";

#define request(json) tl_payload_request(deployment, ids, nids, read_jsonb(json))
#define differs(a, b) (memcmp(a, b, sizeof(pg_uuid_t)) != 0)
	must(!differs(digest, request(string)));
	/* of equal keys the last one counts: another time, another content */
	string[strlen(string) - 1] = '\0';
	if (member(reply, "timestamp") != NULL)
		must(!differs(digest, request(psprintf("%s%s\"timestamp\":[12]}", string, comma))));
#define with(more) request(psprintf("%s%s\"another key\":%s}", string, comma, more))
	must(differs(digest, with("1")));
	must(differs(with("[[1],2]"), with("[[1,2]]")));
	must(differs(with("{\"timestamp\":1}"), with("{\"timestamp\":2}")));
	must(differs(with("1,\"timestamps\":1"), with("1,\"timestamps\":2")));
	must(!differs(with("1,\"timestamp\":1"), with("1.0,\"timestamp\":2")));
	must(differs(digest, tl_payload_request(deployment, ids, nids - 1, reply)));
	must(differs(digest, tl_payload_request(ids[0], ids, nids, reply)));
}

static void
check_error(Jsonb *reply)
{
	text	   *code;
	Jsonb	   *error = member(reply, "error");
	Jsonb	   *error_code = member(reply, "errorCode");
	JsonbValue	value;
	bool		is_error = !is_null(error) && !is_string(error, "", 0) &&
		!(JsonbExtractScalar(&error->root, &value) && value.type == jbvBool && !value.val.boolean);

	must(tl_payload_is_error(reply, &code) == is_error);
	if (code != NULL)
		must(is_error && is_string(error_code, VARDATA_ANY(code), VARSIZE_ANY_EXHDR(code)));
	else
		must(!is_error || error_code == NULL ||
			 !(JsonbExtractScalar(&error_code->root, &value) && value.type == jbvString));
}

static void
run(Program *p)
{
	text	   *ids[4];
	int			nids = 1 + next(p) % lengthof(ids);
	Jsonb	   *reply;
	Jsonb	   *routing;
	Jsonb	   *made;
	Jsonb	   *listed;
	bool		has_routing = next(p) % 8 != 0;

	for (int i = 0; i < nids; i++)
		ids[i] = cstring_to_text(idents[next(p) % lengthof(idents)]);
	routing = has_routing ? write_jsonb(p) : NULL;
	reply = write_jsonb(p);
	shown_reply = reply;
	shown_routing = routing;

	made = tl_payload_reply(reply, routing, ids, nids, GENERATION);
	check_sound(made);
	check_filled(made, reply, routing, ids[0]);
	check_kept(made, reply, true);
	listed = member(made, "processedMessageIds");
	must(listed != NULL && JB_ROOT_IS_ARRAY(listed) && JB_ROOT_COUNT(listed) == nids);
	for (int i = 0; i < nids; i++)
	{
		JsonbValue *id = getIthJsonbValueFromContainer(&listed->root, i);

		must(is_string(JsonbValueToJsonb(id), VARDATA_ANY(ids[i]), VARSIZE_ANY_EXHDR(ids[i])));
	}

	made = tl_payload_update(reply, routing, ids[0], GENERATION);
	check_sound(made);
	check_filled(made, reply, routing, ids[0]);
	check_kept(made, reply, false);

	made = tl_payload_error(routing, ids[0], GENERATION, cstring_to_text("went wrong"),
							next(p) % 2 ? cstring_to_text("CODE") : NULL);
	check_sound(made);
	check_filled(made, NULL, routing, ids[0]);
	must(is_string(member(made, "error"), "went wrong", 10));

	check_request(reply, ids, nids);
	check_error(reply);
}

/* One input.  JSON that jsonb or the stack refuses is no fault. */
static int
one_input(const uint8_t *data, size_t size)
{
	static MemoryContext context = NULL;
	MemoryContext caller = CurrentMemoryContext;
	Program		p = {data, size, 0};

	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "merge", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		run(&p);
	}
	PG_CATCH();
	{
		int			state = geterrcode();

		FlushErrorState();
		if (ERRCODE_TO_CATEGORY(state) != ERRCODE_DATA_EXCEPTION &&
			ERRCODE_TO_CATEGORY(state) != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			broken(unpack_sql_state(state), __LINE__);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextReset(context);
	return 0;
}

Datum
hostile_merge(PG_FUNCTION_ARGS)
{
	Datum	   *elements;
	int			n;
	int			argc = 1;
	char	  **argv;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &n);
	argv = palloc0((n + 2) * sizeof(char *));
	argv[0] = "merge";
	for (int i = 0; i < n; i++)
		argv[argc++] = TextDatumGetCString(elements[i]);
	PG_RETURN_INT32(LLVMFuzzerRunDriver(&argc, &argv, one_input));
}
