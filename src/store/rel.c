/*
 * rel.c
 *		Reading and writing our tables directly.
 *
 * Functions read rows through index scans and write them through the table
 * access method and those of their indexes, not through SQL.  So no trigger and
 * no rule fires, no search_path is consulted, and the caller needs no privilege
 * on a table: EXECUTE on the function is the whole gate.  Indexes that a DBA
 * adds are kept up to date all the same.
 *
 * SQL does five things for its writers that are done otherwise here:
 * - CHECK constraints: the functions check their arguments.  Ours refuse what
 *   others write; a table with others of the DBA's is refused (rel_open.c).
 * - NOT NULL: store() refuses a NULL where the table forbids it.  Generated
 *   columns are refused in rel_open.c.
 * - ON CONFLICT: tl_rel_insert_unless_there looks first, under a lock of the
 *   key.
 * - Deferred uniqueness: such a table is refused (rel_open.c).
 * - Predicate locks: a scan under a dirty snapshot takes none; read.c takes
 *   them for itself.
 *
 * Tables are opened and closed in rel_open.c; scan.c walks their indexes.
 *
 * Each write is followed by CommandCounterIncrement, as SPI would do it: two
 * calls in one statement see each other.  A row that is taken is seen again, or
 * its last version, when that is put back.
 */
#include "base/turn_liveness.h"

#include "access/nbtree.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "shared/clock.h"
#include "store/rel.h"

#define LOCK_CLASS_KEY	0x5450	/* see outbox.c; and the table's number */

/* what is written: see index_row() */
typedef enum Written
{
	NEW_ROW,
	NEW_VERSION,
	LAST_VERSION				/* of a row that changes no more */
} Written;

/* Copy the columns that we know out of a slot. */
void
tl_row_get(TupleTableSlot *slot, Datum *values, bool *nulls, int natts)
{
	slot_getallattrs(slot);
	memcpy(values, slot->tts_values, natts * sizeof(Datum));
	memcpy(nulls, slot->tts_isnull, natts * sizeof(bool));
}

/* With assertions: the row belongs to no index that was left closed. */
static void
check_closed(TlRel *r, TupleTableSlot *slot)
{
#ifdef USE_ASSERT_CHECKING
	ExprContext *econtext = GetPerTupleExprContext(r->indexes->estate);
	int			i;

	econtext->ecxt_scantuple = slot;
	for (i = 0; i < r->indexes->rri->ri_NumIndices; i++)
	{
		IndexInfo  *info = r->indexes->rri->ri_IndexRelationInfo[i];

		if (r->indexes->rri->ri_IndexRelationDescs[i] != NULL)
			continue;
		Assert(info->ii_Predicate != NIL);
		if (info->ii_PredicateState == NULL)
			info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, r->indexes->estate);
		Assert(!ExecQual(info->ii_PredicateState, econtext));
	}
#endif
}

/*
 * Make a row of the table in a slot that is written.  Columns of a DBA's become
 * NULL; a NULL in a NOT NULL column would be read as a value.
 */
static void
store(TlRel *r, TupleTableSlot *slot, const Datum *values, const bool *nulls)
{
	TupleDesc	desc = RelationGetDescr(r->rel);
	int			i;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, r->natts * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, r->natts * sizeof(bool));
	memset(slot->tts_isnull + r->natts, true, (desc->natts - r->natts) * sizeof(bool));
	for (i = 0; i < desc->natts; i++)
		if (slot->tts_isnull[i] && TupleDescAttr(desc, i)->attnotnull)
			tl_not_as_installed(errmsg("column \"%s\" of table \"%s.%s\" must accept null values",
									   NameStr(TupleDescAttr(desc, i)->attname),
									   TL_SCHEMA, RelationGetRelationName(r->rel)),
								errhint("Use ALTER TABLE ... ALTER COLUMN ... DROP NOT NULL."));
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(r->rel);
	check_closed(r, slot);
}

/*
 * Make the entry of a row that was written in the i-th index, unless that is
 * closed or the row does not belong there.  The last version of a turn belongs
 * in no index of owed turns.  No update changes the key of a turn, so there it
 * finds no other row, and need not look.  Nor does the last version of a row
 * that was taken: until the transaction ends, other sessions find the row that
 * it has deleted (is_free), and in between it runs no code that could insert
 * one (tl_rel_is_plain).
 *
 * An index to which index_insert() passes a version of a row, as one whose
 * key has not changed, looks for entries of dead versions before it splits a
 * page.  This function passes it so of rows that may change many times.  The
 * last version of a row leaves one dead entry, and the look reads more pages
 * of the table than that entry is worth.
 */
static void
index_row(TlRel *r, int i, TupleTableSlot *slot, Written written, TU_UpdateIndexes which)
{
	EState	   *estate = r->indexes->estate;
	Relation	index = r->indexes->rri->ri_IndexRelationDescs[i];
	IndexInfo  *info = r->indexes->rri->ri_IndexRelationInfo[i];
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	if (index == NULL || !info->ii_ReadyForInserts || !tl_wants_entry_compat(which, info) ||
		(written == LAST_VERSION && (r->indexes->bits[i] & TL_OWED_INDEXES) != 0))
		return;
	GetPerTupleExprContext(estate)->ecxt_scantuple = slot;
	if (info->ii_Predicate != NIL)
	{
		if (info->ii_PredicateState == NULL)
			info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, estate);
		if (!ExecQual(info->ii_PredicateState, GetPerTupleExprContext(estate)))
			return;
	}
	FormIndexDatum(info, slot, estate, values, isnull);
	(void) index_insert(index, values, isnull, &slot->tts_tid, r->rel,
						index->rd_index->indisunique &&
						!(written != NEW_ROW && r->indexes->bits[i] == TL_BIT(TL_IDX_TURN_KEY)) ?
						UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, written == NEW_VERSION, info);
}

/*
 * Make the entries of rows that were written, index by index: one after the
 * other finds the pages of the index in the processor's cache.
 */
static void
index_rows(TlRel *r, TupleTableSlot **slots, int n, Written written, TU_UpdateIndexes which)
{
	int			i;
	int			j;

	for (i = 0; i < r->indexes->rri->ri_NumIndices; i++)
		for (j = 0; j < n; j++)
		{
			/* where the disk is slow the worker's clock goes on all the same */
			if (n > 1)
				tl_clock_keep_ticking();
			index_row(r, i, slots[j], written, which);
		}
	ResetPerTupleExprContext(r->indexes->estate);
}

/* Have that many slots, which live as long as the table is open. */
static TupleTableSlot **
make_slots(TlRel *r, int n)
{
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(r->slot));

	if (r->slots == NULL)
		r->slots = palloc(n * sizeof(TupleTableSlot *));
	else if (n > r->nslots)
		r->slots = repalloc(r->slots, n * sizeof(TupleTableSlot *));
	for (; r->nslots < n; r->nslots++)
		r->slots[r->nslots] = table_slot_create(r->rel, NULL);
	MemoryContextSwitchTo(old);
	return r->slots;
}

/* What many rows take is freed with the caller's memory context. */
static void
insert_many(TlRel *r, int n, const Datum *values, const bool *nulls, Written written)
{
	TupleTableSlot **slots = n == 1 ? &r->slot : make_slots(r, n);
	int			i;

	for (i = 0; i < n; i++)
		store(r, slots[i], values + i * r->natts, nulls + i * r->natts);
	if (n == 1)
		table_tuple_insert(r->rel, slots[0], GetCurrentCommandId(true), 0, NULL);
	else
		table_multi_insert(r->rel, slots, n, GetCurrentCommandId(true), 0, NULL);
	index_rows(r, slots, n, written, TU_All);
	CommandCounterIncrement();
}

void
tl_rel_insert_many(TlRel *r, int n, const Datum *values, const bool *nulls)
{
	insert_many(r, n, values, nulls, NEW_ROW);
}

void
tl_rel_put_back(TlRel *r, int n, const Datum *values, const bool *nulls, bool last)
{
	Assert(n <= r->ntaken);
	insert_many(r, n, values, nulls, last ? LAST_VERSION : NEW_ROW);
	r->ntaken -= n;
}

/* The short lock of a key: sessions that insert it look one after the other. */
static void
key_lock(LOCKTAG *tag, TlRel *r, TlIndex key, const Datum *values)
{
	uint64		hash = 0;
	int			i;

	if (key == TL_IDX_TURN_KEY)
		for (i = 0; i < 2; i++)
			hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(DatumGetPointer(values[i])),
									   VARSIZE_ANY_EXHDR(DatumGetPointer(values[i])), hash);
	else
		hash = hash_bytes_extended((unsigned char *) DatumGetPointer(values[0]), UUID_LEN, hash);
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 LOCK_CLASS_KEY + r->indexes->table);
}

/*
 * Has no row this key?  The key is the first two columns (text), or the first
 * (uuid).  *wait: an open transaction that inserts or deletes one decides.
 *
 * The scan reads the index before the row.  A transaction that replaces the row
 * in between, and commits, leaves a version that the dirty snapshot does not
 * see any more, and one whose entry came too late for the scan.  So where an
 * entry is without a row, a snapshot decides that is taken after that: it sees
 * the old version, or the new one with its entry.
 */
static bool
is_free(TlRel *r, TlIndex key, const Datum *values, TransactionId *wait, ItemPointer ctid)
{
	TlScan		scan = {0};
	SnapshotData dirty;
	Snapshot	latest;
	bool		has_entry = false;
	bool		found = false;

	InitDirtySnapshot(dirty);
	if (key == TL_IDX_TURN_KEY)
	{
		tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, values[1]);
		tl_scan_key_text(&scan, 2, BTEqualStrategyNumber, values[0]);
	}
	else
		ScanKeyInit(&scan.keys[scan.nkeys++], 1, BTEqualStrategyNumber, F_UUID_EQ, values[0]);
	tl_scan_begin(&scan, r, key, &dirty);
	while (!found && index_getnext_tid(scan.scan, ForwardScanDirection) != NULL)
	{
		has_entry = true;
		found = index_fetch_heap(scan.scan, scan.slot);
	}
	*ctid = scan.slot->tts_tid;
	tl_scan_end(&scan);
	*wait = InvalidTransactionId;
	if (!found)
	{
		if (!has_entry)
			return true;
		latest = tl_latest_snapshot();
		tl_scan_begin(&scan, r, key, latest);
		found = tl_scan_next(&scan, ForwardScanDirection);
		tl_scan_end(&scan);
		UnregisterSnapshot(latest);
		return !found;
	}

	/*
	 * An open update of a committed row changes nothing for us: the key is
	 * there whether it commits or not.  Nor does a sweep that takes the row of
	 * a turn and puts it back.  All else that is deleted, retention deletes, so
	 * the caller waits for an open insert or, at worst, retention.
	 */
	if (TransactionIdIsValid(dirty.xmin))
		*wait = dirty.xmin;
	else if (key != TL_IDX_TURN_KEY)
		*wait = dirty.xmax;
	return false;
}

/*
 * Insert a row unless one with its key is there: true if it was inserted.  A
 * key that is there costs one descent of its index; nothing is written and no
 * transaction id is taken.  A session holds the lock of the key from its look
 * to its index entries, and waits for no transaction meanwhile; so two sessions
 * do not both find the key free, and the speculative insertion of ON CONFLICT,
 * which writes WAL twice, is not needed.  "fill", if any, completes the values
 * of a key that is free; it runs under that lock, so it waits for no row.
 */
bool
tl_rel_insert_unless_there(TlRel *r, TlIndex key, const Datum *values, const bool *nulls,
						   TlFill fill, void *arg)
{
	LOCKTAG		tag;
	bool		inserted;
	TransactionId wait;
	ItemPointerData ctid;

	key_lock(&tag, r, key, values);
	do
	{
		CHECK_FOR_INTERRUPTS();
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
		inserted = is_free(r, key, values, &wait, &ctid);
		if (inserted && fill != NULL)
			fill(arg);
		if (inserted)
			tl_rel_insert(r, values, nulls);
		LockRelease(&tag, ExclusiveLock, false);
		if (TransactionIdIsValid(wait))
			XactLockTableWait(wait, r->rel, &ctid, XLTW_InsertIndex);
	} while (TransactionIdIsValid(wait));
	return inserted;
}

/*
 * An expression of a DBA's index may call us while we write a row.  Such a call
 * sees the version that is being replaced: it can neither change the row nor
 * wait until it may.
 */
static TM_Result
check_not_ours(TM_Result result)
{
	if (result == TM_SelfModified)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("row was already changed by the current command"),
				 errhint("The expression of an index must not call functions of %s.", TL_EXTENSION)));
	return result;
}

TM_Result
tl_rel_lock_into(TlRel *r, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot,
				 LockTupleMode mode, LockWaitPolicy wait)
{
	TM_FailureData failure;
	ItemPointerData at = *tid;

	return check_not_ours(table_tuple_lock(r->rel, &at, snapshot, ExecClearTuple(slot),
										   GetCurrentCommandId(true), mode, wait, 0, &failure));
}

TM_Result
tl_rel_lock(TlRel *r, ItemPointer tid, Snapshot snapshot, LockTupleMode mode, LockWaitPolicy wait)
{
	TM_Result	result;

	if (r->locked == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(r->slot));

		r->locked = table_slot_create(r->rel, NULL);
		MemoryContextSwitchTo(old);
	}
	result = tl_rel_lock_into(r, tid, snapshot, r->locked, mode, wait);
	/* a pinned page would not be pruned */
	ExecClearTuple(r->locked);
	return result;
}

/* Replace a row; waits for a transaction that holds it. */
TM_Result
tl_rel_update(TlRel *r, ItemPointer tid, Snapshot snapshot,
			  const Datum *values, const bool *nulls, bool last)
{
	TM_FailureData failure;
	LockTupleMode lockmode;
	TU_UpdateIndexes update_indexes;
	TM_Result	result;

	store(r, r->slot, values, nulls);
	result = check_not_ours(tl_table_tuple_update_compat(r->rel, tid, r->slot, snapshot,
														 &failure, &lockmode, &update_indexes));
	if (result == TM_Ok)
	{
		if (update_indexes != TU_None)
			index_rows(r, &r->slot, 1, last ? LAST_VERSION : NEW_VERSION, update_indexes);
		CommandCounterIncrement();
	}
	return result;
}

/*
 * heap_update() without a wait asserts that it meets no row that is held.  So
 * the caller's transaction locks the row before, which can pass over it, and as
 * strongly as an update of a key does: the death of a reply changes one.
 */
TM_Result
tl_rel_update_unless_held(TlRel *r, ItemPointer tid, Snapshot snapshot,
						  const Datum *values, const bool *nulls)
{
	TM_Result	result = tl_rel_lock(r, tid, snapshot, LockTupleExclusive, LockWaitSkip);

	return result == TM_Ok ? tl_rel_update(r, tid, snapshot, values, nulls, false) : result;
}

bool
tl_rel_is_plain(const TlRel *r)
{
	int			i;

	for (i = 0; i < r->indexes->rri->ri_NumIndices; i++)
		if (r->indexes->bits[i] == 0)
			return false;
	return true;
}

/*
 * No CommandCounterIncrement follows: nothing looks for the row until it is put
 * back.  To take a row twice is an error, ours or PostgreSQL's.
 */
bool
tl_rel_take(TlRel *r, ItemPointer tid, Snapshot snapshot)
{
	TM_FailureData failure;

	Assert(r->indexes->table == TL_TURN);
	if (check_not_ours(tl_table_tuple_delete_compat(r->rel, tid, snapshot, false,
													&failure)) != TM_Ok)
		return false;
	r->ntaken++;
	return true;
}

/* Delete a row; waits as tl_rel_update does. */
TM_Result
tl_rel_delete(TlRel *r, ItemPointer tid, Snapshot snapshot)
{
	TM_FailureData failure;
	TM_Result	result = tl_table_tuple_delete_compat(r->rel, tid, snapshot, true, &failure);

	if (result == TM_Ok)
		CommandCounterIncrement();
	return result;
}

/*
 * Functions judge rows under this, whatever the transaction sees.  A parallel
 * operation has its leader's snapshots and can take no other: a caller gets
 * there by a function of its own that is marked PARALLEL SAFE in error.
 */
Snapshot
tl_latest_snapshot(void)
{
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot judge turns during a parallel operation"),
				 errhint("Mark functions that call this one as PARALLEL UNSAFE.")));
	return RegisterSnapshot(GetLatestSnapshot());
}

bool
tl_rel_shows(TlRel *r, TupleTableSlot *slot, Snapshot snapshot)
{
	bool		isnull;
	Datum		xmin;

	if (table_tuple_satisfies_snapshot(r->rel, slot, snapshot))
		return true;
	xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);
	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

/*
 * Above READ COMMITTED a transaction may judge only rows that it can see: a row
 * that was written after its snapshot is a conflict.
 */
void
tl_rel_check_visible(TlRel *r, TupleTableSlot *slot)
{
	if (IsolationUsesXactSnapshot() && !tl_rel_shows(r, slot, GetTransactionSnapshot()))
		tl_serialization_failure();
}
