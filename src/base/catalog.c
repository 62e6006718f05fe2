/*
 * catalog.c
 *		Where our tables, indexes and the sequence are.
 *
 * Object ids are looked up once and forgotten on any relcache invalidation of
 * one of ours, which DROP EXTENSION sends too.  As long as anything is missing
 * it is looked for each time.
 */
#include "base/turn_liveness.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"

static const char *const table_names[TL_NTABLES] = {
	[TL_TURN] = "turn",
	[TL_REPLY] = "reply",
	[TL_DELIVERY] = "delivery",
	[TL_LATE_REPLY] = "late_reply",
};

static const char *const index_names[TL_NINDEXES] = {
	[TL_IDX_TURN_KEY] = "turn_pkey",
	[TL_IDX_TURN_OWED_DEPLOYMENT] = "turn_owed_deployment",
	[TL_IDX_TURN_OWED_CHECK] = "turn_owed_check",
	[TL_IDX_TURN_OWED_CONVERSATION] = "turn_owed_conversation",
	[TL_IDX_REPLY_KEY] = "reply_pkey",
	[TL_IDX_DELIVERY_KEY] = "delivery_pkey",
	[TL_IDX_DELIVERY_OPEN_CONVERSATION] = "delivery_open_conversation",
	[TL_IDX_DELIVERY_OPEN_PLATFORM] = "delivery_open_platform",
	[TL_IDX_DELIVERY_DELIVERED] = "delivery_delivered",
	[TL_IDX_DELIVERY_DEAD] = "delivery_dead",
	[TL_IDX_LATE_REPLY_KEY] = "late_reply_pkey",
	[TL_IDX_LATE_REPLY_KEPT] = "late_reply_kept",
};

/* what we know of this database; valid until an invalidation says otherwise */
static struct
{
	bool		valid;
	Oid			extension;
	Oid			tables[TL_NTABLES];
	Oid			indexes[TL_NINDEXES];
	Oid			sequence;
	uint32		generation;
}			known;

static void forget(Datum arg, Oid relid);
static void look_up(void);

void
tl_catalog_init(void)
{
	CacheRegisterRelcacheCallback(forget, (Datum) 0);
}

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

uint32
tl_catalog_generation(void)
{
	return known.generation;
}

static void
look_up(void)
{
	uint32		before = known.generation;
	Oid			nspid = get_namespace_oid(TL_SCHEMA, true);
	int			i;

	for (i = 0; i < TL_NTABLES; i++)
		known.tables[i] = OidIsValid(nspid) ? get_relname_relid(table_names[i], nspid) : InvalidOid;
	for (i = 0; i < TL_NINDEXES; i++)
		known.indexes[i] = OidIsValid(nspid) ? get_relname_relid(index_names[i], nspid) : InvalidOid;
	known.extension = get_extension_oid(TL_EXTENSION, true);
	known.sequence = OidIsValid(nspid) ? get_relname_relid("reply_id_seq", nspid) : InvalidOid;

	/* as long as anything is missing, or has changed meanwhile, it is looked for each time */
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

Oid
tl_index_oid(TlIndex index)
{
	if (!known.valid)
		look_up();
	if (!OidIsValid(known.indexes[index]))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s.%s\" does not exist", TL_SCHEMA, index_names[index]),
				 errhint("Bring the extension up to date with ALTER EXTENSION %s UPDATE.", TL_EXTENSION)));
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

const char *
tl_table_name(TlTable table)
{
	return table_names[table];
}
