/*
 * catalog.c
 *		Where our tables, indexes, the sequence and the enum values are.
 *
 * A backend looks object ids up by name once and forgets them on any relcache
 * invalidation of one of our objects; DROP EXTENSION sends these too.  As long
 * as an object is missing, the backend looks for all of them at each call.
 *
 * An index is found by its name, so a DBA can put another index in its place.
 * Reading that one would give wrong answers, and an index that CREATE INDEX
 * CONCURRENTLY has not finished may lack rows.  The backend therefore compares
 * each index with the definition below before the first scan of it and again at
 * each new generation.
 */
#include "base/turn_liveness.h"

#include "catalog/namespace.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_index.h"
#include "catalog/pg_sequence.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/catalog.h"

/*
 * What we look for by name.  Columns and predicate of an index are written as
 * pg_get_indexdef does; without a predicate every row is in the index.
 */
typedef struct Definition
{
	const char *name;
	TlTable		table;			/* of an index */
	const char *unique;
	const char *columns;
	const char *predicate;
} Definition;

#define OWED	"outcome IS NULL"

static const Definition definitions[TL_NRELATIONS] = {
	[TL_TURN] = {.name = "turn"},
	[TL_REPLY] = {.name = "reply"},
	[TL_DELIVERY] = {.name = "delivery"},
	[TL_LATE_REPLY] = {.name = "late_reply"},
	[TL_REPLY_SEQUENCE] = {.name = "reply_id_seq"},
	[TL_IDX_TURN_KEY] =
	{"turn_pkey", TL_TURN, "UNIQUE ", "message_id, deployment", NULL},
	[TL_IDX_TURN_OWED_DEPLOYMENT] =
	{"turn_owed_deployment", TL_TURN, "", "deployment", OWED},
	[TL_IDX_TURN_OWED_CHECK] =
	{"turn_owed_check", TL_TURN, "", "next_check", OWED},
	[TL_IDX_TURN_OWED_CONVERSATION] =
	{"turn_owed_conversation", TL_TURN, "", "conversation_id",
	"(" OWED ") AND (conversation_id <> deployment)"},
	[TL_IDX_TURN_OWED_LAPSED] =
	{"turn_owed_lapsed", TL_TURN, "", "lapsed", "(" OWED ") AND (lapsed IS NOT NULL)"},
	[TL_IDX_REPLY_KEY] =
	{"reply_pkey", TL_REPLY, "UNIQUE ", "reply_id", NULL},
	[TL_IDX_DELIVERY_KEY] =
	{"delivery_pkey", TL_DELIVERY, "UNIQUE ", "conversation_id, is_open, reply_id", NULL},
	[TL_IDX_DELIVERY_OPEN_PLATFORM] =
	{"delivery_open_platform", TL_DELIVERY, "", "platform, reply_id",
	"is_open AND (parked_until IS NULL)"},
	[TL_IDX_DELIVERY_PARKED] =
	{"delivery_parked", TL_DELIVERY, "", "platform, parked_until", "parked_until IS NOT NULL"},
	[TL_IDX_DELIVERY_DEAD] =
	{"delivery_dead", TL_DELIVERY, "", "reply_id",
	"(NOT is_open) AND (delivered_at IS NULL)"},
	[TL_IDX_LATE_REPLY_KEY] =
	{"late_reply_pkey", TL_LATE_REPLY, "UNIQUE ", "digest", NULL},
	[TL_IDX_LATE_REPLY_KEPT] =
	{"late_reply_kept", TL_LATE_REPLY, "", "kept_at", NULL},
};

/* What the backend knows of its database. */
static struct
{
	bool		valid;			/* no invalidation since, and nothing missing */
	Oid			extension;
	Oid			oids[TL_NRELATIONS];
	uint32		generation;		/* moved on by each invalidation and change */
}			known = {.generation = 1};

/* Relcache callback: relid, or everything if it is InvalidOid, has changed. */
static void
forget(Datum arg, Oid relid)
{
	bool		ours = relid == InvalidOid;
	int			i;

	for (i = 0; i < TL_NRELATIONS && !ours; i++)
		ours = known.oids[i] == relid;
	if (ours)
	{
		known.valid = false;
		known.generation++;
	}
}

/*
 * Syscache callback: the owner of a table may not be a superuser any more, or a
 * sequence has other parameters.
 */
static void
forget_checks(Datum arg, int cacheid, uint32 hashvalue)
{
	known.generation++;
}

void
tl_catalog_init(void)
{
	CacheRegisterRelcacheCallback(forget, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, forget_checks, (Datum) 0);
	CacheRegisterSyscacheCallback(SEQRELID, forget_checks, (Datum) 0);
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
	bool		changed = false;
	int			i;

	known.extension = get_extension_oid(TL_EXTENSION, true);
	known.valid = OidIsValid(known.extension);
	for (i = 0; i < TL_NRELATIONS; i++)
	{
		Oid			oid = OidIsValid(nspid) ?
			get_relname_relid(definitions[i].name, nspid) : InvalidOid;

		changed |= known.oids[i] != oid;
		known.oids[i] = oid;
		known.valid &= OidIsValid(oid);
	}
	/* an invalidation that came meanwhile may concern what was read before */
	known.valid &= known.generation == before;
	known.generation += changed;
}

TL_HOT Oid
tl_extension_oid(void)
{
	if (!known.valid)
		look_up();
	return OidIsValid(known.oids[TL_TURN]) ? known.extension : InvalidOid;
}

Oid
tl_table_oid(TlTable table)
{
	if (!known.valid)
		look_up();
	if (!OidIsValid(known.oids[table]))
		tl_not_as_installed(errmsg("%s \"%s.%s\" does not exist",
								   table == TL_REPLY_SEQUENCE ? "sequence" : "table",
								   TL_SCHEMA, definitions[table].name),
							errhint("Install the extension in this database with CREATE EXTENSION, "
									"or bring it up to date with ALTER EXTENSION %s UPDATE.",
									TL_EXTENSION));
	return known.oids[table];
}

/*
 * Ids that a session keeps for later (CACHE), or that go down, would come below
 * a cursor that a client holds; so would those of a sequence that is not
 * logged, after a crash.
 */
bool
tl_sequence_is_altered(void)
{
	Oid			oid = tl_table_oid(TL_REPLY_SEQUENCE);
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(oid));
	bool		altered = true;

	if (HeapTupleIsValid(tuple))
	{
		Form_pg_sequence form = (Form_pg_sequence) GETSTRUCT(tuple);

		altered = get_rel_persistence(oid) != RELPERSISTENCE_PERMANENT ||
			form->seqcache != 1 || form->seqincrement != 1 || form->seqcycle ||
			form->seqmin != 1 || form->seqmax != PG_INT64_MAX;
		ReleaseSysCache(tuple);
	}
	return altered;
}

Oid
tl_sequence_oid(void)
{
	static uint32 checked = 0;
	Oid			oid = tl_table_oid(TL_REPLY_SEQUENCE);
	uint32		generation = known.generation;

	if (checked == generation)
		return oid;
	if (tl_sequence_is_altered())
		tl_not_as_installed(errmsg("sequence \"%s.%s\" has other parameters than it was installed with",
								   TL_SCHEMA, definitions[TL_REPLY_SEQUENCE].name),
							errhint("ALTER SEQUENCE %s.%s %s",
									TL_SCHEMA, definitions[TL_REPLY_SEQUENCE].name,
									get_rel_persistence(oid) != RELPERSISTENCE_PERMANENT ? "SET LOGGED" :
									"AS bigint INCREMENT 1 MINVALUE 1 NO MAXVALUE CACHE 1 NO CYCLE"));
	checked = generation;
	return oid;
}

/* The command that makes an index, but for its predicate. */
static char *
create_index(const Definition *index, const char *method)
{
	return psprintf("CREATE %sINDEX %s ON %s.%s%s (%s)", index->unique, index->name,
					TL_SCHEMA, definitions[index->table].name, method, index->columns);
}

/*
 * What is wrong with the index that stands under this name, or NULL.  Its
 * definition is compared as text; only storage parameters are the DBA's.
 */
static const char *
index_fault(const Definition *index, Oid oid)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(oid));
	char	   *head = create_index(index, " USING btree");
	char	   *tail = index->predicate ? psprintf(" WHERE (%s)", index->predicate) : "";
	bool		usable;
	int			nest_level;
	char	   *is;
	int			between;

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
	is = TextDatumGetCString(DirectFunctionCall1(pg_get_indexdef, ObjectIdGetDatum(oid)));
	AtEOXact_GUC(false, nest_level);

	between = strlen(is) - strlen(head) - strlen(tail);
	if (between >= 0 && strncmp(is, head, strlen(head)) == 0 &&
		strcmp(is + strlen(head) + between, tail) == 0 &&
		(between == 0 || strncmp(is + strlen(head), " WITH (", 7) == 0))
		return NULL;
	return "has another definition";
}

/* the generation at which an index was last found to be as installed */
static uint32 checked[TL_NRELATIONS];

Oid
tl_index_oid(TlIndex index)
{
	const Definition *definition = &definitions[index];

	if (!known.valid)
		look_up();
	while (checked[index] != known.generation)
	{
		uint32		generation = known.generation;
		const char *fault = index_fault(definition, known.oids[index]);

		/*
		 * REINDEX CONCURRENTLY may have put another index under the name since
		 * the look-up, and its invalidation may not be read yet.
		 */
		AcceptInvalidationMessages();
		if (generation != known.generation)
		{
			CHECK_FOR_INTERRUPTS();
			look_up();
		}
		else if (fault == NULL)
			checked[index] = generation;
		else
			tl_not_as_installed(errmsg("index \"%s.%s\" %s", TL_SCHEMA, definition->name, fault),
								errhint("Bring the extension up to date with ALTER EXTENSION %s UPDATE, "
										"or drop the index if it exists and create it again: %s%s%s.",
										TL_EXTENSION, create_index(definition, ""),
										definition->predicate ? " WHERE " : "",
										definition->predicate ? definition->predicate : ""));
	}
	return known.oids[index];
}

/* Writers pass over an index of ours; one with another definition is none. */
uint32
tl_index_bit(Oid oid)
{
	uint32		generation;
	int			i;

	if (!known.valid)
		look_up();
	generation = known.generation;
	for (i = TL_REPLY_SEQUENCE + 1; i < TL_NRELATIONS; i++)
	{
		if (known.oids[i] != oid)
			continue;
		if (checked[i] != generation && index_fault(&definitions[i], oid) != NULL)
			return 0;
		checked[i] = generation;
		return TL_BIT(i);
	}
	return 0;
}

Oid
tl_enum_oid(const char *type, int value)
{
	static const char *const labels[] = {
		[TL_WON] = "won", [TL_LOST] = "lost", [TL_STALE] = "stale", [TL_UNKNOWN] = "unknown",
		[TL_ARMED] = "armed", [TL_PENDING] = "pending", [TL_ANSWERED] = "answered",
	};
	/* good until the extension may be another one */
	static Oid	oids[lengthof(labels)];
	static uint32 generations[lengthof(labels)];
	uint32		generation = known.generation;

	if (generations[value] != generation)
	{
		Oid			nspid = get_namespace_oid(TL_SCHEMA, false);
		Oid			typid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
											CStringGetDatum(type), ObjectIdGetDatum(nspid));

		oids[value] = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
									  ObjectIdGetDatum(typid), CStringGetDatum(labels[value]));
		if (!OidIsValid(oids[value]))
			tl_not_as_installed(errmsg("type \"%s.%s\" has no value \"%s\"",
									   TL_SCHEMA, type, labels[value]),
								errhint("Bring the extension up to date with ALTER EXTENSION %s UPDATE.",
										TL_EXTENSION));
		generations[value] = generation;
	}
	return oids[value];
}
