/*
 * rel_open.c
 *		Opening and closing our tables, and what is kept from one time to the next.
 *
 * Opening, locking and closing an index costs a fifth of writing its entry, and
 * a backend has 16 cheap lock slots.  So who knows that no row it writes belongs to some of
 * our partial indexes leaves those closed; a server with assertions checks it.
 *
 * What is kept is used by one at a time.  It is made anew after an invalidation,
 * and after an abort that found it in use: what the abort closed is not ours any more.
 */
#include "base/turn_liveness.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "store/rel.h"

/* columns that the library knows: those of the newest install script */
static const int table_natts[TL_NTABLES] = {
	[TL_TURN] = 21,
	[TL_REPLY] = 14,
	[TL_DELIVERY] = 11,
	[TL_LATE_REPLY] = 8,
};

/*
 * What opening a table for writing needs of its indexes: kept from call to
 * call, because it costs as much as writing a row.  Void with the first
 * invalidation of the table or of one of its indexes.
 */
typedef struct TlIndexCache
{
	MemoryContext context;
	EState	   *estate;
	ResultRelInfo *rri;
	Oid			table;
	int			nindexes;
	Oid		   *indexes;
	uint32	   *bits;			/* which of ours it is; 0: a DBA's */
	bool		in_use;
	int			nest_level;		/* transaction or savepoint of its user */
	bool		stale;
} TlIndexCache;

static TlIndexCache kept[TL_NTABLES];

static void forget(Datum arg, Oid relid);
static void open_table(TlRel *r, TlTable table, LOCKMODE lockmode);
static void open_indexes(TlRel *r, TlTable table, uint32 without);
static bool keeps_notes(Relation index);

void
tl_rel_init(void)
{
	CacheRegisterRelcacheCallback(forget, (Datum) 0);
}

static void
forget(Datum arg, Oid relid)
{
	int			i;
	int			j;

	for (i = 0; i < TL_NTABLES; i++)
	{
		bool		hit = relid == InvalidOid || kept[i].table == relid;

		for (j = 0; j < kept[i].nindexes && !hit; j++)
			hit = kept[i].indexes[j] == relid;
		kept[i].stale |= hit;
	}
}

/*
 * A transaction or a savepoint ends in an abort, which has closed what was open
 * in it.  The memory goes with the next use.
 */
void
tl_rel_at_abort(int nest_level)
{
	int			i;

	for (i = 0; i < TL_NTABLES; i++)
		if (kept[i].in_use && kept[i].nest_level >= nest_level)
		{
			kept[i].in_use = false;
			kept[i].stale = true;
		}
}

void
tl_rel_open(TlRel *r, TlTable table, bool write)
{
	open_table(r, table, write ? RowExclusiveLock : AccessShareLock);
	if (write)
		open_indexes(r, table, 0);
}

void
tl_rel_open_skipping(TlRel *r, TlTable table, uint32 without)
{
	open_table(r, table, RowExclusiveLock);
	open_indexes(r, table, without);
}

bool
tl_rel_try_lock_table(TlTable table)
{
	return ConditionalLockRelationOid(tl_table_oid(table), RowExclusiveLock);
}

static void
open_table(TlRel *r, TlTable table, LOCKMODE lockmode)
{
	Relation	rel;

	memset(r, 0, sizeof(*r));

	/*
	 * The id may be stale until the lock is ours and pending invalidations are
	 * read, as with any name: look again then.
	 */
	for (;;)
	{
		Oid			relid = tl_table_oid(table);

		CHECK_FOR_INTERRUPTS();
		rel = try_relation_open(relid, lockmode);
		if (rel != NULL && tl_table_oid(table) == relid)
			break;
		if (rel != NULL)
			relation_close(rel, lockmode);
	}

	r->rel = rel;
	r->natts = table_natts[table];
	if (RelationGetDescr(rel)->natts < r->natts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" has fewer columns than the library knows", TL_SCHEMA, tl_table_name(table)),
				 errhint("Bring the extension up to date with ALTER EXTENSION %s UPDATE.", TL_EXTENSION)));
}

/*
 * GIN looks its support functions up for half the price of an entry.  What it
 * notes of them holds pointers into the relcache entry of the index, which do not move
 * without an invalidation: then all of it goes.  Others may hold buffers.
 */
static bool
keeps_notes(Relation index)
{
	return index != NULL && index->rd_rel->relam == GIN_AM_OID;
}

/*
 * Make r->estate and r->rri, from what is kept if it is current and free: an
 * index expression of a DBA's may call us while we are at it.
 */
static void
open_indexes(TlRel *r, TlTable table, uint32 without)
{
	TlIndexCache	   *k = &kept[table];
	MemoryContext old;
	int			i;

	r->slot = table_slot_create(r->rel, NULL);
	if (k->in_use)
	{
		r->estate = CreateExecutorState();
		tl_init_range_table_compat(r->estate, r->rel);
		r->rri = makeNode(ResultRelInfo);
		InitResultRelInfo(r->rri, r->rel, 1, NULL, 0);
		ExecOpenIndices(r->rri, true);
		return;
	}

	if (k->context == NULL || k->stale)
	{
		if (k->context != NULL)
			MemoryContextDelete(k->context);
		memset(k, 0, sizeof(*k));
		k->context = AllocSetContextCreate(CacheMemoryContext, "turn_liveness indexes",
										   ALLOCSET_SMALL_SIZES);
		/* an error on the way leaves it to be made again */
		k->stale = true;
		old = MemoryContextSwitchTo(k->context);
		k->estate = CreateExecutorState();
		MemoryContextSwitchTo(k->estate->es_query_cxt);
		tl_init_range_table_compat(k->estate, r->rel);
		k->rri = makeNode(ResultRelInfo);
		InitResultRelInfo(k->rri, r->rel, 1, NULL, 0);
		ExecOpenIndices(k->rri, true);
		k->table = RelationGetRelid(r->rel);
		k->nindexes = k->rri->ri_NumIndices;
		k->indexes = palloc(sizeof(Oid) * Max(k->nindexes, 1));
		k->bits = palloc(sizeof(uint32) * Max(k->nindexes, 1));
		for (i = 0; i < k->nindexes; i++)
		{
			k->indexes[i] = RelationGetRelid(k->rri->ri_IndexRelationDescs[i]);
			k->bits[i] = tl_index_bit(k->indexes[i]);
		}
		MemoryContextSwitchTo(old);
		k->stale = false;
		for (i = 0; i < k->nindexes; i++)
			if (k->bits[i] & without)
			{
				index_close(k->rri->ri_IndexRelationDescs[i], NoLock);
				k->rri->ri_IndexRelationDescs[i] = NULL;
			}
	}
	else
	{
		k->rri->ri_RelationDesc = r->rel;
		/* ExecInsertIndexTuples passes over what is not open */
		for (i = 0; i < k->nindexes; i++)
			k->rri->ri_IndexRelationDescs[i] = k->bits[i] & without ? NULL :
				index_open(k->indexes[i], RowExclusiveLock);
	}
	/* what access methods note down lives as long as this call does, or as long as k */
	for (i = 0; i < k->nindexes; i++)
		k->rri->ri_IndexRelationInfo[i]->ii_Context =
			keeps_notes(k->rri->ri_IndexRelationDescs[i]) ? k->context : CurrentMemoryContext;
	k->in_use = true;
	k->nest_level = GetCurrentTransactionNestLevel();
	r->kept = k;
	r->estate = k->estate;
	r->rri = k->rri;
}

/* Locks stay until the end of the transaction, as with any statement. */
void
tl_rel_close(TlRel *r)
{
	if (r->kept)
	{
		int			i;

		ExecDropSingleTupleTableSlot(r->slot);
		for (i = 0; i < r->kept->nindexes; i++)
		{
			Relation	index = r->rri->ri_IndexRelationDescs[i];
			IndexInfo  *info = r->rri->ri_IndexRelationInfo[i];

			if (index == NULL)
				continue;
			if (!keeps_notes(index))
			{
				tl_index_insert_cleanup_compat(index, info);
				info->ii_AmCache = NULL;
			}
			index_close(index, NoLock);
		}
		r->kept->in_use = false;
	}
	else if (r->rri)
	{
		ExecDropSingleTupleTableSlot(r->slot);
		ExecCloseIndices(r->rri);
		FreeExecutorState(r->estate);
	}
	relation_close(r->rel, NoLock);
}

/* This index, if the table is open for writing and the index with it; else NULL. */
Relation
tl_rel_written_index(const TlRel *r, Oid index)
{
	int			i;

	for (i = 0; r->kept && i < r->kept->nindexes; i++)
		if (r->kept->indexes[i] == index)
			return r->rri->ri_IndexRelationDescs[i];
	return NULL;
}

/* The row belongs to no index that was left closed. */
void
tl_rel_check_closed(TlRel *r)
{
#ifdef USE_ASSERT_CHECKING
	int			i;

	for (i = 0; r->kept && i < r->kept->nindexes; i++)
	{
		IndexInfo  *info = r->rri->ri_IndexRelationInfo[i];
		ExprContext *econtext = GetPerTupleExprContext(r->estate);

		if (r->rri->ri_IndexRelationDescs[i] != NULL)
			continue;
		Assert(info->ii_Predicate != NIL);
		if (info->ii_PredicateState == NULL)
			info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, r->estate);
		econtext->ecxt_scantuple = r->slot;
		Assert(!ExecQual(info->ii_PredicateState, econtext));
	}
#endif
}
