/*
 * rel.c
 *		Reading and writing our tables directly.
 *
 * Rows are read through index scans and written through the table access
 * method and ExecInsertIndexTuples, not through SQL.  So no trigger and no rule
 * fires, no search_path is consulted, and the caller needs no privilege on a
 * table: EXECUTE on the function is the whole gate.  Indexes that a DBA adds
 * are kept up to date all the same.
 *
 * Opening, locking and closing an index costs a fifth of writing its entry, and
 * a backend has 16 cheap lock slots.  So who knows that no row it writes belongs to some of
 * our partial indexes leaves those closed; a server with assertions checks it.
 *
 * Each write is followed by CommandCounterIncrement, as SPI would do it: two
 * calls in one statement see each other.
 */
#include "turn_liveness.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "rel.h"

/* columns that the library knows: those of the newest install script */
static const int table_natts[TL_NTABLES] = {
	[TL_TURN] = 21,
	[TL_REPLY] = 14,
	[TL_DELIVERY] = 11,
	[TL_LATE_REPLY] = 8,
	[TL_CLOCK] = 6,
	[TL_HOME] = 1,
};

/*
 * What opening a table for writing needs of its indexes: kept from call to
 * call, because it costs as much as writing a row.  Void with the first
 * invalidation of the table or of one of its indexes.
 */
typedef struct TlKept
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
} TlKept;

static TlKept kept[TL_NTABLES];

static void forget(Datum arg, Oid relid);
static void open_table(TlRel *r, TlTable table, LOCKMODE lockmode);
static void open_indexes(TlRel *r, TlTable table, uint32 without);
static bool keeps_notes(Relation index);
static void check_closed(TlRel *r);
static void store(TlRel *r, const Datum *values, const bool *nulls);
static bool wait_for_conflict(TlRel *r, TlIndex key, const Datum *values);

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
tl_rel_open_without(TlRel *r, TlTable table, uint32 without)
{
	open_table(r, table, RowExclusiveLock);
	open_indexes(r, table, without);
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
	TlKept	   *k = &kept[table];
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

/* Make a row of the table in the slot that is written. */
static void
store(TlRel *r, const Datum *values, const bool *nulls)
{
	int			natts = RelationGetDescr(r->rel)->natts;

	ExecClearTuple(r->slot);
	memcpy(r->slot->tts_values, values, r->natts * sizeof(Datum));
	memcpy(r->slot->tts_isnull, nulls, r->natts * sizeof(bool));
	/* columns that are not ours */
	memset(r->slot->tts_isnull + r->natts, true, (natts - r->natts) * sizeof(bool));
	ExecStoreVirtualTuple(r->slot);
	r->slot->tts_tableOid = RelationGetRelid(r->rel);
	check_closed(r);
}

/* The row belongs to no index that was left closed. */
static void
check_closed(TlRel *r)
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

ItemPointer
tl_rel_insert(TlRel *r, const Datum *values, const bool *nulls)
{
	store(r, values, nulls);
	table_tuple_insert(r->rel, r->slot, GetCurrentCommandId(true), 0, NULL);
	if (r->rri->ri_NumIndices > 0)
		tl_insert_index_tuples_compat(r->rri, r->slot, r->estate, false, false,
									  NULL, NIL, TL_INDEXES_ALL);
	ResetPerTupleExprContext(r->estate);
	CommandCounterIncrement();
	return &r->slot->tts_tid;
}

/*
 * Insert a row unless one with its key is there, as ON CONFLICT DO NOTHING
 * does it: true if it was inserted.  The index itself is asked first: a key that is
 * there is the rare case.  An open insert of the same key is waited for.  The key is the first two columns (text), or the first (uuid, integer).
 */
bool
tl_rel_insert_unless_there(TlRel *r, TlIndex key,
						   const Datum *values, const bool *nulls,
						   ItemPointer tid)
{
	List	   *arbiters = list_make1_oid(tl_index_oid(key));

	for (;;)
	{
		uint32		token;
		bool		conflict = false;

		CHECK_FOR_INTERRUPTS();

		store(r, values, nulls);
		token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
		table_tuple_insert_speculative(r->rel, r->slot, GetCurrentCommandId(true),
									   0, NULL, token);
		tl_insert_index_tuples_compat(r->rri, r->slot, r->estate, false, true,
									  &conflict, arbiters, TL_INDEXES_ALL);
		table_tuple_complete_speculative(r->rel, r->slot, token, !conflict);
		SpeculativeInsertionLockRelease(GetCurrentTransactionId());
		ResetPerTupleExprContext(r->estate);

		if (!conflict)
		{
			if (tid)
				*tid = r->slot->tts_tid;
			CommandCounterIncrement();
			return true;
		}
		if (!wait_for_conflict(r, key, values))
			return false;
	}
}

/*
 * True if no row has this key once every open transaction that inserts or
 * deletes one has ended; false if there is one.
 */
static bool
wait_for_conflict(TlRel *r, TlIndex key, const Datum *values)
{
	for (;;)
	{
		SnapshotData dirty;
		TlScan		scan = {0};
		bool		found;
		TransactionId xwait = InvalidTransactionId;
		uint32		token = 0;
		ItemPointerData ctid;

		InitDirtySnapshot(dirty);
		if (key == TL_TURN_KEY)
		{
			tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, values[0]);
			tl_scan_key_text(&scan, 2, BTEqualStrategyNumber, values[1]);
		}
		else
		{
			Assert(key == TL_CLOCK_KEY || key == TL_LATE_REPLY_KEY);
			ScanKeyInit(&scan.keys[0], 1, BTEqualStrategyNumber,
						key == TL_CLOCK_KEY ? F_INT4EQ : F_UUID_EQ, values[0]);
			scan.nkeys = 1;
		}
		tl_scan_begin(&scan, r, key, &dirty);
		found = tl_scan_next(&scan, ForwardScanDirection);
		if (found)
		{
			xwait = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
			token = TransactionIdIsValid(dirty.xmin) ? dirty.speculativeToken : 0;
			ctid = scan.slot->tts_tid;
		}
		tl_scan_end(&scan);

		if (!found)
			return true;

		/*
		 * An open update of a committed row changes nothing for us: the key is
		 * there whether it commits or not.  Only retention deletes, so what we
		 * wait for below is an open insert or, at worst, that.
		 */
		if (!TransactionIdIsValid(xwait) ||
			(!TransactionIdIsValid(dirty.xmin) && key == TL_TURN_KEY))
			return false;
		if (token != 0)
			SpeculativeInsertionWait(xwait, token);
		else
			XactLockTableWait(xwait, r->rel, &ctid, XLTW_InsertIndex);
	}
}

/*
 * Lock a row, or pass it over.  heap_update itself cannot pass over: who does
 * not want to wait locks first.
 */
bool
tl_rel_try_lock(TlRel *r, ItemPointer tid, Snapshot snapshot,
				TupleTableSlot *slot, LockTupleMode mode)
{
	TM_FailureData failure;
	ItemPointerData at = *tid;

	return table_tuple_lock(r->rel, &at, snapshot, slot, GetCurrentCommandId(true),
							mode, LockWaitSkip, 0, &failure) == TM_Ok;
}

/*
 * Replace a row.  Waits for whoever holds it, and then says what became of it.
 */
TM_Result
tl_rel_update(TlRel *r, ItemPointer tid, Snapshot snapshot,
			  const Datum *values, const bool *nulls)
{
	TM_FailureData failure;
	LockTupleMode lockmode;
	TlUpdateIndexes update_indexes;
	TM_Result	result;

	store(r, values, nulls);
	result = table_tuple_update(r->rel, tid, r->slot, GetCurrentCommandId(true),
								snapshot, InvalidSnapshot, true,
								&failure, &lockmode, &update_indexes);
	if (result == TM_Ok)
	{
		if (tl_indexes_need_update_compat(update_indexes) && r->rri->ri_NumIndices > 0)
			tl_insert_index_tuples_compat(r->rri, r->slot, r->estate, true, false,
										  NULL, NIL, update_indexes);
		ResetPerTupleExprContext(r->estate);
		CommandCounterIncrement();
	}
	return result;
}

TM_Result
tl_rel_delete(TlRel *r, ItemPointer tid, Snapshot snapshot)
{
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_delete(r->rel, tid, GetCurrentCommandId(true), snapshot,
								InvalidSnapshot, true, &failure, false);
	if (result == TM_Ok)
		CommandCounterIncrement();
	return result;
}

/* Every text column of an index of ours has COLLATE "C". */
void
tl_scan_key_text(TlScan *s, int attno, StrategyNumber strategy, Datum value)
{
	RegProcedure proc = strategy == BTEqualStrategyNumber ? F_TEXTEQ :
		strategy == BTGreaterStrategyNumber ? F_TEXT_GT : F_TEXT_GE;

	Assert(s->nkeys < lengthof(s->keys));
	ScanKeyEntryInitialize(&s->keys[s->nkeys++], 0, attno, strategy, InvalidOid,
						   C_COLLATION_OID, proc, value);
}

void
tl_scan_key_int8(TlScan *s, int attno, StrategyNumber strategy, int64 value)
{
	RegProcedure proc = strategy == BTEqualStrategyNumber ? F_INT8EQ :
		strategy == BTGreaterStrategyNumber ? F_INT8GT :
		strategy == BTLessEqualStrategyNumber ? F_INT8LE : F_INT8GE;

	Assert(s->nkeys < lengthof(s->keys));
	ScanKeyInit(&s->keys[s->nkeys++], attno, strategy, proc, Int64GetDatum(value));
}

void
tl_scan_begin(TlScan *s, TlRel *r, TlIndex index, Snapshot snapshot)
{
	Oid			indexid = tl_index_oid(index);
	int			i;

	/* open already, if the table is open for writing */
	s->index = NULL;
	for (i = 0; r->kept && i < r->kept->nindexes && s->index == NULL; i++)
		if (r->kept->indexes[i] == indexid)
			s->index = r->rri->ri_IndexRelationDescs[i];
	s->opened = s->index == NULL;
	if (s->opened)
		s->index = index_open(indexid, AccessShareLock);
	s->scan = tl_index_beginscan_compat(r->rel, s->index, snapshot, s->nkeys);
	s->slot = table_slot_create(r->rel, NULL);
	index_rescan(s->scan, s->keys, s->nkeys, NULL, 0);
}

bool
tl_scan_next(TlScan *s, ScanDirection direction)
{
	return index_getnext_slot(s->scan, direction, s->slot);
}

/* Begin again with the keys as they are now. */
void
tl_scan_restart(TlScan *s)
{
	index_rescan(s->scan, s->keys, s->nkeys, NULL, 0);
}

void
tl_scan_end(TlScan *s)
{
	ExecDropSingleTupleTableSlot(s->slot);
	index_endscan(s->scan);
	if (s->opened)
		index_close(s->index, NoLock);
}

Snapshot
tl_latest_snapshot(void)
{
	return RegisterSnapshot(GetLatestSnapshot());
}

/*
 * Above READ COMMITTED a transaction may judge only rows that it can see: a row
 * that was written after its snapshot is a conflict.
 */
void
tl_rel_check_visible(TlRel *r, TupleTableSlot *slot)
{
	bool		isnull;
	TransactionId xmin;

	if (!IsolationUsesXactSnapshot())
		return;
	xmin = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));
	if (TransactionIdIsCurrentTransactionId(xmin))
		return;
	if (!table_tuple_satisfies_snapshot(r->rel, slot, GetTransactionSnapshot()))
		tl_serialization_failure();
}

void
tl_serialization_failure(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update")));
}
