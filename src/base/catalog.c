/*
 * catalog.c
 *		Where our tables, indexes and the sequence are.
 *
 * A backend looks object ids up by name once and forgets them on any relcache
 * invalidation of one of our objects; DROP EXTENSION sends these too.  As long
 * as an object is missing, the backend looks for all of them at each call.
 *
 * An index is found by its name, so a DBA can put another index in its place.
 * Reading that one would give wrong answers, and an index that CREATE INDEX
 * CONCURRENTLY has not finished may lack rows.  The backend therefore compares
 * each index with the definition below before the first scan of it and again
 * after each invalidation.
 */
#include "base/turn_liveness.h"

#include "catalog/namespace.h"
#include "catalog/pg_index.h"
#include "commands/extension.h"
#include "utils/builtins.h"
#include "utils/inval.h"

#include "base/catalog.h"

static const char *const table_names[TL_NTABLES] = {
	[TL_TURN] = "turn",
	[TL_REPLY] = "reply",
	[TL_DELIVERY] = "delivery",
	[TL_LATE_REPLY] = "late_reply",
};

/*
 * An index of ours; columns and predicate are written as pg_get_indexdef does.
 */
typedef struct IndexDefinition
{
	const char *name;
	TlTable		table;
	bool		unique;
	const char *columns;
	const char *predicate;		/* NULL: every row is in the index */
} IndexDefinition;

#define OWED	"outcome IS NULL"
#define STATE(letter) "state = '" letter "'::\"char\""

static const IndexDefinition index_definitions[TL_NINDEXES] = {
	[TL_IDX_TURN_KEY] =
	{"turn_pkey", TL_TURN, true, "deployment, message_id", NULL},
	[TL_IDX_TURN_OWED_DEPLOYMENT] =
	{"turn_owed_deployment", TL_TURN, false, "deployment", OWED},
	[TL_IDX_TURN_OWED_CHECK] =
	{"turn_owed_check", TL_TURN, false, "next_check", OWED},
	[TL_IDX_TURN_OWED_CONVERSATION] =
	{"turn_owed_conversation", TL_TURN, false, "conversation_id",
	"(" OWED ") AND (conversation_id <> deployment)"},
	[TL_IDX_REPLY_KEY] =
	{"reply_pkey", TL_REPLY, true, "conversation_id, reply_id", NULL},
	[TL_IDX_DELIVERY_KEY] =
	{"delivery_pkey", TL_DELIVERY, true, "reply_id", NULL},
	[TL_IDX_DELIVERY_OPEN_CONVERSATION] =
	{"delivery_open_conversation", TL_DELIVERY, false, "conversation_id, reply_id", STATE("o")},
	[TL_IDX_DELIVERY_OPEN_PLATFORM] =
	{"delivery_open_platform", TL_DELIVERY, false, "platform, due_at, reply_id", STATE("o")},
	[TL_IDX_DELIVERY_DELIVERED] =
	{"delivery_delivered", TL_DELIVERY, false, "kept_at", STATE("d")},
	[TL_IDX_DELIVERY_DEAD] =
	{"delivery_dead", TL_DELIVERY, false, "reply_id", STATE("x")},
	[TL_IDX_LATE_REPLY_KEY] =
	{"late_reply_pkey", TL_LATE_REPLY, true, "digest", NULL},
	[TL_IDX_LATE_REPLY_KEPT] =
	{"late_reply_kept", TL_LATE_REPLY, false, "kept_at", NULL},
};

/* What the backend knows of its database. */
static struct
{
	bool		valid;			/* no invalidation since, and nothing missing */
	Oid			extension;
	Oid			tables[TL_NTABLES];
	Oid			indexes[TL_NINDEXES];
	Oid			sequence;
	uint32		generation;		/* moved on by each invalidation */
}			known;

/* The index that was last found to be as installed, and at which generation. */
static struct
{
	Oid			index;
	uint32		generation;
}			checked[TL_NINDEXES];

/* Relcache callback: relid, or everything if it is InvalidOid, has changed. */
static void
forget(Datum arg, Oid relid)
{
	int			i;
	bool		ours = relid == InvalidOid;

	for (i = 0; i < TL_NTABLES && !ours; i++)
		ours = known.tables[i] == relid;
	for (i = 0; i < TL_NINDEXES && !ours; i++)
		ours = known.indexes[i] == relid;
	if (ours)
	{
		known.valid = false;
		known.generation++;
	}
}

/* Syscache callback: the owner of a table may not be a superuser any more. */
static void
forget_roles(Datum arg, int cacheid, uint32 hashvalue)
{
	known.generation++;
}

void
tl_catalog_init(void)
{
	CacheRegisterRelcacheCallback(forget, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_roles, (Datum) 0);
}

uint32
tl_catalog_generation(void)
{
	return known.generation;
}

/* Fill in "known"; what does not exist becomes InvalidOid. */
static void
look_up(void)
{
	uint32		before = known.generation;
	Oid			nspid = get_namespace_oid(TL_SCHEMA, true);
	int			i;

	for (i = 0; i < TL_NTABLES; i++)
		known.tables[i] = OidIsValid(nspid) ? get_relname_relid(table_names[i], nspid) : InvalidOid;
	for (i = 0; i < TL_NINDEXES; i++)
		known.indexes[i] = OidIsValid(nspid) ?
			get_relname_relid(index_definitions[i].name, nspid) : InvalidOid;
	known.extension = get_extension_oid(TL_EXTENSION, true);
	known.sequence = OidIsValid(nspid) ? get_relname_relid("reply_id_seq", nspid) : InvalidOid;

	/*
	 * An invalidation that came meanwhile may concern what was read before it.
	 */
	known.valid = OidIsValid(known.extension) && OidIsValid(known.sequence) &&
		known.generation == before;
	for (i = 0; i < TL_NTABLES; i++)
		known.valid &= OidIsValid(known.tables[i]);
	for (i = 0; i < TL_NINDEXES; i++)
		known.valid &= OidIsValid(known.indexes[i]);
}

Oid
tl_reply_sequence_oid(void)
{
	if (!known.valid)
		look_up();
	if (!OidIsValid(known.sequence))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"%s.%s\" does not exist", TL_SCHEMA, "reply_id_seq"),
				 errhint("Bring the extension up to date with ALTER EXTENSION %s UPDATE.", TL_EXTENSION)));
	return known.sequence;
}

TL_HOT Oid
tl_extension_oid(void)
{
	if (!known.valid)
		look_up();
	return OidIsValid(known.tables[TL_TURN]) ? known.extension : InvalidOid;
}

Oid
tl_table_oid(TlTable table)
{
	if (!known.valid)
		look_up();
	if (!OidIsValid(known.tables[table]))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" does not exist", TL_SCHEMA, table_names[table]),
				 errhint("Install the extension in this database with CREATE EXTENSION, or bring it up to date with ALTER EXTENSION %s UPDATE.", TL_EXTENSION)));
	return known.tables[table];
}

/* Refuse an index of ours, and say how it is to be made. */
static void
index_error(const IndexDefinition *definition, const char *what)
{
	char	   *create = psprintf("CREATE %sINDEX %s ON %s.%s (%s)%s%s",
								  definition->unique ? "UNIQUE " : "", definition->name,
								  TL_SCHEMA, table_names[definition->table], definition->columns,
								  definition->predicate ? " WHERE " : "",
								  definition->predicate ? definition->predicate : "");

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("index \"%s.%s\" %s", TL_SCHEMA, definition->name, what),
			 errhint("Bring the extension up to date with ALTER EXTENSION %s UPDATE, or drop the index if it exists and create it again: %s.",
					 TL_EXTENSION, create)));
}

/*
 * What is wrong with the index that stands under this name, or NULL.  Its
 * definition is compared as text; only storage parameters are the DBA's.
 */
static const char *
index_fault(const IndexDefinition *definition, Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		usable;
	int			nest_level;
	char	   *is;
	char	   *head;
	char	   *tail;
	const char *between;

	if (!HeapTupleIsValid(tuple))
		return "does not exist";
	usable = ((Form_pg_index) GETSTRUCT(tuple))->indisvalid &&
		((Form_pg_index) GETSTRUCT(tuple))->indisready;
	ReleaseSysCache(tuple);
	if (!usable)
		return "is not valid";

	/* operators are written with their schema where the path shows others */
	nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	is = TextDatumGetCString(DirectFunctionCall1(pg_get_indexdef, ObjectIdGetDatum(index)));
	AtEOXact_GUC(false, nest_level);

	head = psprintf("CREATE %sINDEX %s ON %s.%s USING btree (%s)",
					definition->unique ? "UNIQUE " : "", definition->name,
					TL_SCHEMA, table_names[definition->table], definition->columns);
	tail = definition->predicate ? psprintf(" WHERE (%s)", definition->predicate) : "";
	if (strlen(is) < strlen(head) + strlen(tail) ||
		strncmp(is, head, strlen(head)) != 0 ||
		strcmp(is + strlen(is) - strlen(tail), tail) != 0)
		return "has another definition";
	between = is + strlen(head);
	if (strlen(between) > strlen(tail) && strncmp(between, " WITH (", 7) != 0)
		return "has another definition";
	return NULL;
}

Oid
tl_index_oid(TlIndex index)
{
	const IndexDefinition *definition = &index_definitions[index];
	const char *fault;

	if (!known.valid)
		look_up();
	while (OidIsValid(known.indexes[index]) &&
		   (checked[index].index != known.indexes[index] ||
			checked[index].generation != known.generation))
	{
		Oid			found = known.indexes[index];
		uint32		generation = known.generation;

		fault = index_fault(definition, found);

		/*
		 * REINDEX CONCURRENTLY may have put another index under the name since
		 * the look-up, and its invalidation may not be read yet.
		 */
		AcceptInvalidationMessages();
		if (generation != known.generation)
		{
			CHECK_FOR_INTERRUPTS();
			look_up();
			continue;
		}
		if (fault != NULL)
			index_error(definition, fault);
		checked[index].index = found;
		checked[index].generation = generation;
	}
	if (!OidIsValid(known.indexes[index]))
		index_error(definition, "does not exist");
	return known.indexes[index];
}

uint32
tl_index_bit(Oid index)
{
	int			i;

	if (!known.valid)
		look_up();
	for (i = 0; i < TL_NINDEXES; i++)
		if (known.indexes[i] == index)
			return TL_BIT(i);
	return 0;
}
