/*
 * rel_open.c
 *		Opening and closing our tables, and what a backend keeps in between.
 *
 * Opening, locking and closing an index costs a fifth of writing its entry, and
 * a backend has 16 cheap lock slots.  A caller that knows that the rows it
 * writes belong to some of our partial indexes leaves those closed; a server
 * with assertions checks it.
 *
 * The cache of a table serves one user at a time.  The backend makes it anew
 * after an invalidation, and after an abort that found it in use: that abort
 * has closed its indexes.
 */
#include "base/turn_liveness.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "store/rel.h"

/*
 * The state of a table's indexes that writing needs, kept from call to call:
 * making it costs as much as writing a row.  Void after the first invalidation
 * of the table or of one of its indexes.
 */
typedef struct TlIndexCache
{
	MemoryContext context;
	EState	   *estate;
	ResultRelInfo *rri;
	Oid			table;
	int			nindexes;
	Oid		   *indexes;
	uint32	   *bits;			/* TL_BIT of each; 0: an index of the DBA's */
	List	   *arbiters;		/* see make_arbiters */
	bool		in_use;
	int			nest_level;		/* transaction or savepoint of its user */
	bool		complete;		/* false while, or because, it was not made */
	bool		stale;
} TlIndexCache;

static TlIndexCache caches[TL_NTABLES];

static void forget(Datum arg, Oid relid);
static bool open_table(TlRel *r, TlTable table, LOCKMODE lockmode, bool wait);
static bool has_key_of(Relation index, Relation key);
static List *make_arbiters(TlTable table, const ResultRelInfo *rri);
static void make_result_rel(Relation rel, EState **estate, ResultRelInfo **rri);
static void make_cache(TlIndexCache *cache, TlTable table, Relation rel);
static void open_indexes(TlRel *r, TlTable table, uint32 without);
static bool keeps_notes(Relation index);

void
tl_rel_init(void)
{
	CacheRegisterRelcacheCallback(forget, (Datum) 0);
}

/*
 * Relcache callback.  While a cache is being made, its indexes are not known
 * yet: any invalidation may be of one of them.
 */
static void
forget(Datum arg, Oid relid)
{
	int			i;
	int			j;

	for (i = 0; i < TL_NTABLES; i++)
	{
		TlIndexCache *cache = &caches[i];
		bool		hit = relid == InvalidOid || !cache->complete || cache->table == relid;

		for (j = 0; j < cache->nindexes && !hit; j++)
			hit = cache->indexes[j] == relid;
		cache->stale |= hit;
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
		if (caches[i].in_use && caches[i].nest_level >= nest_level)
		{
			caches[i].in_use = false;
			caches[i].stale = true;
		}
}

void
tl_rel_open(TlRel *r, TlTable table, bool write)
{
	(void) open_table(r, table, write ? RowExclusiveLock : AccessShareLock, true);
	if (write)
		open_indexes(r, table, 0);
}

bool
tl_rel_open_if_free(TlRel *r, TlTable table, bool write)
{
	if (!open_table(r, table, write ? RowExclusiveLock : AccessShareLock, false))
		return false;
	if (write)
		open_indexes(r, table, 0);
	return true;
}

void
tl_rel_open_skipping(TlRel *r, TlTable table, uint32 without)
{
	(void) open_table(r, table, RowExclusiveLock, true);
	open_indexes(r, table, without);
}

/* False if a lock has to be waited for and the caller does not want to wait. */
static bool
open_table(TlRel *r, TlTable table, LOCKMODE lockmode, bool wait)
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
		if (!wait && !ConditionalLockRelationOid(relid, lockmode))
			return false;
		rel = try_relation_open(relid, lockmode);
		if (rel != NULL && tl_table_oid(table) == relid)
			break;
		if (rel != NULL)
			relation_close(rel, lockmode);
	}

	r->rel = rel;
	r->natts = tl_rel_check(table, rel, lockmode == RowExclusiveLock);
	return true;
}

/*
 * GIN looks its support functions up for half the price of an entry.  What it
 * notes of them holds pointers into the relcache entry of the index, which do
 * not move without an invalidation, and that one voids the cache.  Other access
 * methods may hold buffers in their notes.
 */
static bool
keeps_notes(Relation index)
{
	return index != NULL && index->rd_rel->relam == GIN_AM_OID;
}

/*
 * Is this a unique index over the columns of key, in any order, and every row?
 */
static bool
has_key_of(Relation index, Relation key)
{
	int			nkeys = IndexRelationGetNumberOfKeyAttributes(key);
	int			i;
	int			j;

	if (!index->rd_index->indisunique || !index->rd_index->indimmediate ||
		index->rd_rel->relam != BTREE_AM_OID ||
		IndexRelationGetNumberOfKeyAttributes(index) != nkeys ||
		RelationGetIndexPredicate(index) != NIL)
		return false;
	for (i = 0; i < nkeys; i++)
	{
		/* an expression is column 0, which our keys do not have */
		for (j = 0; j < nkeys; j++)
			if (key->rd_index->indkey.values[i] == index->rd_index->indkey.values[j] &&
				key->rd_indcollation[i] == index->rd_indcollation[j] &&
				key->rd_opfamily[i] == index->rd_opfamily[j])
				break;
		if (j == nkeys)
			return false;
	}
	return true;
}

/*
 * The unique indexes that hold the same key as the primary key: the key itself,
 * its copy while REINDEX CONCURRENTLY makes one or after it was cancelled, and
 * an index of the DBA's over these columns.  A row that is there is in each of
 * them, so a conflict in any is the same conflict.
 */
static List *
make_arbiters(TlTable table, const ResultRelInfo *rri)
{
	Oid			key_oid = table == TL_TURN ? tl_index_oid(TL_IDX_TURN_KEY) :
		table == TL_LATE_REPLY ? tl_index_oid(TL_IDX_LATE_REPLY_KEY) : InvalidOid;
	Relation	key = NULL;
	List	   *arbiters = NIL;
	int			i;

	for (i = 0; i < rri->ri_NumIndices; i++)
		if (RelationGetRelid(rri->ri_IndexRelationDescs[i]) == key_oid)
			key = rri->ri_IndexRelationDescs[i];
	for (i = 0; i < rri->ri_NumIndices && key != NULL; i++)
		if (has_key_of(rri->ri_IndexRelationDescs[i], key))
			arbiters = lappend_oid(arbiters, RelationGetRelid(rri->ri_IndexRelationDescs[i]));
	return arbiters;
}

/* Make what ExecInsertIndexTuples wants, with every index open. */
static void
make_result_rel(Relation rel, EState **estate, ResultRelInfo **rri)
{
	MemoryContext old;
	int			i;

	*estate = CreateExecutorState();
	old = MemoryContextSwitchTo((*estate)->es_query_cxt);
	tl_init_range_table_compat(*estate, rel);
	*rri = makeNode(ResultRelInfo);
	InitResultRelInfo(*rri, rel, 1, NULL, 0);
	ExecOpenIndices(*rri, true);
	MemoryContextSwitchTo(old);

	for (i = 0; i < (*rri)->ri_NumIndices; i++)
		tl_rel_check_index(rel, (*rri)->ri_IndexRelationDescs[i]);
}

/*
 * Make the cache of a table anew and leave all indexes open.  Opening the first
 * of them reads invalidations, so the cache is fresh from here on and forget()
 * marks it stale again; an error on the way leaves it incomplete.
 */
static void
make_cache(TlIndexCache *cache, TlTable table, Relation rel)
{
	MemoryContext old;
	int			i;

	if (cache->context != NULL)
		MemoryContextDelete(cache->context);
	memset(cache, 0, sizeof(*cache));
	cache->table = RelationGetRelid(rel);
	cache->context = AllocSetContextCreate(CacheMemoryContext, "turn_liveness indexes",
										   ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(cache->context);
	make_result_rel(rel, &cache->estate, &cache->rri);
	cache->indexes = palloc(sizeof(Oid) * Max(cache->rri->ri_NumIndices, 1));
	cache->bits = palloc(sizeof(uint32) * Max(cache->rri->ri_NumIndices, 1));
	for (i = 0; i < cache->rri->ri_NumIndices; i++)
	{
		cache->indexes[i] = RelationGetRelid(cache->rri->ri_IndexRelationDescs[i]);
		cache->bits[i] = tl_index_bit(cache->indexes[i]);
	}
	cache->arbiters = make_arbiters(table, cache->rri);
	cache->nindexes = cache->rri->ri_NumIndices;
	cache->complete = true;
	MemoryContextSwitchTo(old);
}

/*
 * Make r->estate and r->rri, from the cache if it is free: an expression of a
 * DBA's index may call us while we write.
 */
static void
open_indexes(TlRel *r, TlTable table, uint32 without)
{
	TlIndexCache *cache = &caches[table];
	int			i;

	r->slot = table_slot_create(r->rel, NULL);
	if (cache->in_use)
	{
		make_result_rel(r->rel, &r->estate, &r->rri);
		r->arbiters = make_arbiters(table, r->rri);
		return;
	}

	if (!cache->complete || cache->stale)
	{
		make_cache(cache, table, r->rel);
		for (i = 0; i < cache->nindexes; i++)
			if (cache->bits[i] & without)
			{
				index_close(cache->rri->ri_IndexRelationDescs[i], NoLock);
				cache->rri->ri_IndexRelationDescs[i] = NULL;
			}
	}
	else
	{
		cache->rri->ri_RelationDesc = r->rel;
		/* ExecInsertIndexTuples passes over what is not open */
		for (i = 0; i < cache->nindexes; i++)
			cache->rri->ri_IndexRelationDescs[i] = cache->bits[i] & without ? NULL :
				index_open(cache->indexes[i], RowExclusiveLock);
	}
	/* notes of access methods live as long as this call, or as the cache */
	for (i = 0; i < cache->nindexes; i++)
		cache->rri->ri_IndexRelationInfo[i]->ii_Context =
			keeps_notes(cache->rri->ri_IndexRelationDescs[i]) ? cache->context : CurrentMemoryContext;
	cache->in_use = true;
	cache->nest_level = GetCurrentTransactionNestLevel();
	r->cache = cache;
	r->estate = cache->estate;
	r->rri = cache->rri;
	r->arbiters = cache->arbiters;
}

/* Locks stay until the end of the transaction, as with any statement. */
void
tl_rel_close(TlRel *r)
{
	if (r->cache)
	{
		int			i;

		ExecDropSingleTupleTableSlot(r->slot);
		for (i = 0; i < r->cache->nindexes; i++)
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
		r->cache->in_use = false;
	}
	else if (r->rri)
	{
		ExecDropSingleTupleTableSlot(r->slot);
		ExecCloseIndices(r->rri);
		FreeExecutorState(r->estate);
	}
	relation_close(r->rel, NoLock);
}

/*
 * This index, if the table is open for writing and the index with it; else
 * NULL.
 */
Relation
tl_rel_written_index(const TlRel *r, Oid index)
{
	int			i;

	for (i = 0; r->cache && i < r->cache->nindexes; i++)
		if (r->cache->indexes[i] == index)
			return r->rri->ri_IndexRelationDescs[i];
	return NULL;
}

/* With assertions: the row belongs to no index that was left closed. */
void
tl_rel_check_closed(TlRel *r)
{
#ifdef USE_ASSERT_CHECKING
	int			i;

	for (i = 0; r->cache && i < r->cache->nindexes; i++)
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
