/*
 * rel_open.c
 *		Opening and closing our tables, and what a backend keeps in between.
 *
 * A DBA can change our tables.  Rows are written without SQL, so what SQL would
 * do for the DBA's changes does not happen; the checks refuse changes that the
 * functions cannot honour, with SQLSTATE 55000.  base/catalog.c checks our
 * indexes likewise.  A backend checks a table when it opens it first, and again
 * after an invalidation.
 *
 * Opening, locking and closing an index costs a fifth of writing its entry, and
 * a backend has 16 cheap lock slots.  A caller that knows that the rows it
 * writes belong to some of our partial indexes leaves those closed; a server
 * with assertions checks it.
 *
 * The state of a table's indexes that writing needs is kept from call to call,
 * for making it costs as much as writing a row.  A call takes it out and puts
 * it back at its end; meanwhile the transaction's memory holds it, so an abort
 * takes it away.  The backend makes it anew at a new generation of the catalog.
 */
#include "base/turn_liveness.h"

#include "access/relation.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "store/rel.h"

static TlIndexes *kept[TL_NTABLES];

/*
 * What the newest install script makes: the type of each column as has_type()
 * reads it, and the number of CHECK constraints.
 */
static const struct
{
	const char *columns;
	int			nchecks;
}			shapes[TL_NTABLES] = {
	[TL_TURN] = {"tttzlzzziiiiizzzzzzzcitzcjtttull", 12},
	[TL_REPLY] = {"ltatttjctcitzzzzz", 7},
	[TL_DELIVERY] = {"lttbiztzztz", 6},
	[TL_LATE_REPLY] = {"utatjezz", 3},
};

/* The generation at which a table was last found to be as installed. */
static uint32 checked[TL_NTABLES][2];	/* for reading, for writing */

/* A table of ours is not as the install script made it. */
static void
refuse(Relation rel, const char *what, const char *hint)
{
	tl_not_as_installed(errmsg("table \"%s.%s\" %s", TL_SCHEMA,
							   RelationGetRelationName(rel), what),
						errhint("%s", hint));
}

static bool
has_type(Form_pg_attribute column, char type)
{
	Oid			oid = column->atttypid;

	return type == 't' ? oid == TEXTOID : type == 'a' ? oid == TEXTARRAYOID :
		type == 'b' ? oid == BOOLOID : type == 'c' ? oid == CHAROID : type == 'i' ? oid == INT4OID :
		type == 'l' ? oid == INT8OID : type == 'z' ? oid == TIMESTAMPTZOID :
		type == 'j' ? oid == JSONBOID : type == 'u' ? oid == UUIDOID :
		type_is_enum(oid);
}

/*
 * Rows are read and written by position, and a value of another type would be
 * taken for an address.
 */
bool
tl_rel_has_columns(TlTable table, TupleDesc desc)
{
	const char *columns = shapes[table].columns;
	int			i;

	for (i = 0; columns[i] != '\0'; i++)
		if (i >= desc->natts || !has_type(TupleDescAttr(desc, i), columns[i]))
			return false;
	return true;
}

/* A direct write fires no trigger, and a foreign key is kept by triggers. */
static bool
has_foreign_key(Relation rel)
{
	const TriggerDesc *triggers = rel->trigdesc;
	int			i;

	for (i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (RI_FKey_trigger_type(triggers->triggers[i].tgfoid) != RI_TRIGGER_NONE)
			return true;
	return false;
}

/*
 * Every column of ours is there, and of our type.  Only superusers own the
 * table, because the worker, which is one, evaluates expressions of the owner's
 * indexes.  A table to write to asks nothing of a row that a direct write does
 * not do; rel.c checks NOT NULL for each row.
 */
static int
check_table(TlTable table, Relation rel, bool write)
{
	int			natts = strlen(shapes[table].columns);
	TupleDesc	desc = RelationGetDescr(rel);
	uint32		generation = tl_catalog_generation();
	int			i;

	if (checked[table][write] == generation)
		return natts;
	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		refuse(rel, "is not an ordinary table any more",
			   "Restore it from a backup, or create the extension anew.");
	if (desc->natts < natts)
		refuse(rel, "has fewer columns than the library knows",
			   "Bring the extension up to date with ALTER EXTENSION " TL_EXTENSION " UPDATE.");
	if (!tl_rel_has_columns(table, desc))
		refuse(rel, "lacks a column that the extension created, or it has another type",
			   "Restore it from a backup, or create the extension anew.");
	if (!superuser_arg(rel->rd_rel->relowner))
		refuse(rel, "is not owned by a superuser",
			   "Give it back to the owner of the extension with ALTER TABLE ... OWNER TO.");
	if (write)
	{
		for (i = natts; i < desc->natts; i++)
			if (TupleDescAttr(desc, i)->attgenerated != '\0' && !TupleDescAttr(desc, i)->attisdropped)
				refuse(rel, "has a generated column, which the extension does not compute",
					   "Drop the column, or compute it in a view.");
		if (desc->constr != NULL && desc->constr->num_check > shapes[table].nchecks)
			refuse(rel, "has a CHECK constraint that the extension does not know",
				   "Drop the constraint: the extension would write rows that violate it.");
		if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
			refuse(rel, "is not logged: a crash would empty it",
				   "Use ALTER TABLE ... SET LOGGED.");
		if (has_foreign_key(rel))
			refuse(rel, "has a foreign key, or one of another table refers to it",
				   "Drop the constraint: the extension would delete and write rows that violate it.");
		CheckCmdReplicaIdentity(rel, CMD_UPDATE);
		CheckCmdReplicaIdentity(rel, CMD_DELETE);
	}
	checked[table][write] = generation;
	return natts;
}

/*
 * With an exclusion constraint a lost race would be 23P01, and a deferrable
 * constraint wants a list of rows to check again, and a direct write keeps
 * none.
 */
static void
check_index(Relation rel, Relation index)
{
	if (index->rd_index->indisexclusion || !index->rd_index->indimmediate)
		refuse(rel, "has an exclusion constraint or a deferrable unique constraint",
			   "Drop the constraint, or make a unique one NOT DEFERRABLE.");
}

/* Make the state of a table's indexes, in a context of its own. */
static TlIndexes *
make_indexes(TlTable table, Relation rel)
{
	uint32		generation = tl_catalog_generation();
	MemoryContext old = MemoryContextSwitchTo(CurTransactionContext);
	EState	   *estate = CreateExecutorState();
	TlIndexes  *indexes;
	ResultRelInfo *rri;
	int			i;

	MemoryContextSwitchTo(estate->es_query_cxt);
	indexes = palloc0(sizeof(TlIndexes));
	indexes->table = table;
	indexes->generation = generation;
	indexes->estate = estate;
	indexes->rri = rri = makeNode(ResultRelInfo);

	/* without a range table: index_row() tells the index of an update */
	InitResultRelInfo(rri, rel, 0, NULL, 0);
	ExecOpenIndices(rri, false);
	indexes->oids = palloc(sizeof(Oid) * Max(rri->ri_NumIndices, 1));
	indexes->bits = palloc(sizeof(uint32) * Max(rri->ri_NumIndices, 1));
	for (i = 0; i < rri->ri_NumIndices; i++)
	{
		check_index(rel, rri->ri_IndexRelationDescs[i]);
		indexes->oids[i] = RelationGetRelid(rri->ri_IndexRelationDescs[i]);
		indexes->bits[i] = tl_index_bit(indexes->oids[i]);
	}
	ExecCloseIndices(rri);
	MemoryContextSwitchTo(old);
	return indexes;
}

/*
 * Open the indexes but these.  An expression of a DBA's index may call us while
 * we write: such a call finds nothing kept and makes a state of its own.
 */
static void
open_indexes(TlRel *r, TlTable table, uint32 without)
{
	TlIndexes  *indexes = kept[table];
	ResultRelInfo *rri;
	int			i;

	kept[table] = NULL;
	if (indexes != NULL && indexes->generation == tl_catalog_generation())
		MemoryContextSetParent(indexes->estate->es_query_cxt, CurTransactionContext);
	else
	{
		if (indexes != NULL)
			FreeExecutorState(indexes->estate);
		indexes = make_indexes(table, r->rel);
	}
	rri = indexes->rri;
	rri->ri_RelationDesc = r->rel;
	for (i = 0; i < rri->ri_NumIndices; i++)
	{
		Relation	index = (indexes->bits[i] & without) != 0 ? NULL :
			index_open(indexes->oids[i], RowExclusiveLock);

		/* ExecInsertIndexTuples passes over what is not open */
		rri->ri_IndexRelationDescs[i] = index;
		/* an index becomes ready without a word to its table */
		if (index != NULL)
			rri->ri_IndexRelationInfo[i]->ii_ReadyForInserts = index->rd_index->indisready;
		/* notes of access methods live as long as this call */
		rri->ri_IndexRelationInfo[i]->ii_Context = CurrentMemoryContext;
	}
	r->slot = table_slot_create(r->rel, NULL);
	r->indexes = indexes;
}

bool
tl_rel_open_with(TlRel *r, TlTable table, bool write, bool wait, uint32 without)
{
	LOCKMODE	lockmode = write ? RowExclusiveLock : AccessShareLock;
	Oid			relid;

	memset(r, 0, sizeof(*r));

	/*
	 * The id may be stale until the lock is ours and pending invalidations are
	 * read, as with any name: look again then.  A table that still has its name
	 * is there as long as we hold the lock.
	 */
	for (;;)
	{
		relid = tl_table_oid(table);
		CHECK_FOR_INTERRUPTS();
		if (wait)
			LockRelationOid(relid, lockmode);
		else if (!ConditionalLockRelationOid(relid, lockmode))
			return false;
		if (tl_table_oid(table) == relid)
			break;
		UnlockRelationOid(relid, lockmode);
	}
	r->rel = relation_open(relid, NoLock);
	r->natts = check_table(table, r->rel, write);
	if (write)
		open_indexes(r, table, without);
	return true;
}

/* Locks stay until the end of the transaction, as with any statement. */
void
tl_rel_close(TlRel *r)
{
	TlIndexes  *indexes = r->indexes;
	int			i;

	/* an error undoes what would lose a turn */
	if (r->ntaken != 0)
		elog(ERROR, "%d taken rows of table \"%s\" are not back", r->ntaken,
			 RelationGetRelationName(r->rel));
	for (i = 0; indexes != NULL && i < indexes->rri->ri_NumIndices; i++)
	{
		Relation	index = indexes->rri->ri_IndexRelationDescs[i];
		IndexInfo  *info = indexes->rri->ri_IndexRelationInfo[i];

		if (index == NULL)
			continue;
		index_insert_cleanup(index, info);
		info->ii_AmCache = NULL;
		index_close(index, NoLock);
	}
	if (indexes != NULL)
	{
		ExecDropSingleTupleTableSlot(r->slot);
		if (r->locked != NULL)
			ExecDropSingleTupleTableSlot(r->locked);
		for (i = 0; i < r->nslots; i++)
			ExecDropSingleTupleTableSlot(r->slots[i]);
		if (kept[indexes->table] == NULL)
		{
			kept[indexes->table] = indexes;
			MemoryContextSetParent(indexes->estate->es_query_cxt, CacheMemoryContext);
		}
		else
			FreeExecutorState(indexes->estate);
	}
	relation_close(r->rel, NoLock);
}
