/*
 * rel.c
 *		Reading and writing our tables directly.
 *
 * Functions read rows through index scans and write them through the table
 * access method and ExecInsertIndexTuples, not through SQL.  So no trigger and
 * no rule fires, no search_path is consulted, and the caller needs no privilege
 * on a table: EXECUTE on the function is the whole gate.  Indexes that a DBA
 * adds are kept up to date all the same.
 *
 * SQL does five things for its writers that are done otherwise here:
 * - CHECK constraints: the functions check their arguments.  Ours refuse what
 *   others write; a table with others of the DBA's is refused (rel_check.c).
 * - NOT NULL: store() refuses a NULL where the table forbids it.  Generated
 *   columns are refused in rel_check.c.
 * - ON CONFLICT: tl_rel_insert_unless_there probes first, and takes each unique
 *   index over the key's columns as an arbiter.
 * - Deferred uniqueness: such a table is refused (rel_check.c).
 * - Predicate locks: a scan under a dirty snapshot takes none; read.c takes
 *   them for itself.
 *
 * Tables are opened and closed in rel_open.c.
 *
 * Each write is followed by CommandCounterIncrement, as SPI would do it: two
 * calls in one statement see each other.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "store/rel.h"

static void store(TlRel *r, const Datum *values, const bool *nulls);
static bool wait_until_free(TlRel *r, TlIndex key, const Datum *values);

/*
 * Make a row of the table in the slot that is written.  Columns of a DBA's
 * become NULL; a NULL in a NOT NULL column would be read as a value.
 */
static void
store(TlRel *r, const Datum *values, const bool *nulls)
{
	TupleDesc	desc = RelationGetDescr(r->rel);
	int			i;

	ExecClearTuple(r->slot);
	memcpy(r->slot->tts_values, values, r->natts * sizeof(Datum));
	memcpy(r->slot->tts_isnull, nulls, r->natts * sizeof(bool));
	memset(r->slot->tts_isnull + r->natts, true, (desc->natts - r->natts) * sizeof(bool));
	for (i = 0; i < desc->natts; i++)
		if (r->slot->tts_isnull[i] && TupleDescAttr(desc, i)->attnotnull)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" of table \"%s.%s\" must accept null values",
							NameStr(TupleDescAttr(desc, i)->attname),
							TL_SCHEMA, RelationGetRelationName(r->rel)),
					 errhint("Use ALTER TABLE ... ALTER COLUMN ... DROP NOT NULL.")));
	ExecStoreVirtualTuple(r->slot);
	r->slot->tts_tableOid = RelationGetRelid(r->rel);
	tl_rel_check_closed(r);
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
 * does it: true if it was inserted.  A key that is there costs one descent of
 * its index; nothing is written and no transaction id is taken.
 */
bool
tl_rel_insert_unless_there(TlRel *r, TlIndex key,
						   const Datum *values, const bool *nulls,
						   ItemPointer tid)
{
	Assert(r->arbiters != NIL);
	while (wait_until_free(r, key, values))
	{
		uint32		token;
		bool		conflict = false;

		CHECK_FOR_INTERRUPTS();

		store(r, values, nulls);
		token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
		table_tuple_insert_speculative(r->rel, r->slot, GetCurrentCommandId(true),
									   0, NULL, token);
		tl_insert_index_tuples_compat(r->rri, r->slot, r->estate, false, true,
									  &conflict, r->arbiters, TL_INDEXES_ALL);
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
	}
	return false;
}

/*
 * True if no row has this key once every open transaction that inserts or
 * deletes one has ended; false if there is one.  The key is the first two
 * columns (text), or the first (uuid).
 */
static bool
wait_until_free(TlRel *r, TlIndex key, const Datum *values)
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
		if (key == TL_IDX_TURN_KEY)
		{
			tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, values[0]);
			tl_scan_key_text(&scan, 2, BTEqualStrategyNumber, values[1]);
		}
		else
		{
			Assert(key == TL_IDX_LATE_REPLY_KEY);
			ScanKeyInit(&scan.keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, values[0]);
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
		 * wait for below is an open insert or, at worst, retention.
		 */
		if (!TransactionIdIsValid(xwait) ||
			(!TransactionIdIsValid(dirty.xmin) && key == TL_IDX_TURN_KEY))
			return false;
		if (token != 0)
			SpeculativeInsertionWait(xwait, token);
		else
			XactLockTableWait(xwait, r->rel, &ctid, XLTW_InsertIndex);
	}
}

/*
 * Lock a row, or pass it over: false if another transaction holds it or has
 * changed it since the snapshot.  table_tuple_update has no way to pass over,
 * so a caller that does not want to wait locks first.
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
 * Lock a row of a table that is open for writing, and wait for it or not.  A
 * caller that judges a row before it writes others locks first.
 */
TM_Result
tl_rel_lock(TlRel *r, ItemPointer tid, Snapshot snapshot, LockTupleMode mode,
			LockWaitPolicy wait)
{
	TM_FailureData failure;
	ItemPointerData at = *tid;
	TM_Result	result;

	ExecClearTuple(r->slot);
	result = table_tuple_lock(r->rel, &at, snapshot, r->slot, GetCurrentCommandId(true),
							  mode, wait, 0, &failure);
	ExecClearTuple(r->slot);
	return result;
}

/*
 * Replace a row.  Waits for a transaction that holds it, and returns what that
 * one made of it if it was not TM_Ok.
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
	result = tl_table_tuple_update_compat(r->rel, tid, r->slot, snapshot,
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

/* Delete a row; waits as tl_rel_update does. */
TM_Result
tl_rel_delete(TlRel *r, ItemPointer tid, Snapshot snapshot)
{
	TM_FailureData failure;
	TM_Result	result;

	result = tl_table_tuple_delete_compat(r->rel, tid, snapshot, &failure);
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

/*
 * Begin a walk under a snapshot.  r is open, so no index of it can be dropped.
 */
void
tl_scan_begin(TlScan *s, TlRel *r, TlIndex index, Snapshot snapshot)
{
	Oid			indexid = tl_index_oid(index);

	/* open already, if the table is open for writing */
	s->index = tl_rel_written_index(r, indexid);
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

/*
 * The snapshot that functions judge rows under, whatever the transaction sees.
 */
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
