/*
 * rel.h
 *		Reading and writing our tables directly.
 */
#ifndef TL_REL_H
#define TL_REL_H

#include "access/skey.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "base/catalog.h"

/* one of our tables, open for as long as a function works on it */
typedef struct TlRel
{
	Relation	rel;
	int			natts;			/* columns that we know */
	TupleTableSlot *slot;		/* the row to write; NULL: reading only */
	TupleTableSlot *locked;		/* the row that was locked last, or NULL */
	TupleTableSlot **slots;		/* many rows that are written */
	int			nslots;
	int			ntaken;			/* rows that were taken and are not back */
	struct TlIndexes *indexes;	/* likewise */
} TlRel;

/* what writing needs of a table's indexes; rel_open.c keeps it between calls */
typedef struct TlIndexes
{
	TlTable		table;
	uint32		generation;		/* of the catalog, when this was made */
	EState	   *estate;			/* its memory holds all of this */
	ResultRelInfo *rri;			/* its indexes are NULL where they are closed */
	Oid		   *oids;
	uint32	   *bits;			/* TL_BIT of each; 0: an index of the DBA's */
} TlIndexes;

/* a walk over an index; it ends before its table is closed */
typedef struct TlScan
{
	Relation	index;
	bool		opened;			/* by the walk, not with the table */
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* the row that the walk stands on */
	ScanKeyData keys[3];
	int			nkeys;
} TlScan;

/* columns (from 1) of a struct that has values and nulls of a row */
#define tl_row_value(row, att)	((row)->values[(att) - 1])
#define tl_row_isnull(row, att)	((row)->nulls[(att) - 1])
#define tl_row_set(row, att, value) \
	(tl_row_isnull(row, att) = false, tl_row_value(row, att) = (value))
#define tl_row_set_null(row, att) \
	(tl_row_isnull(row, att) = true, tl_row_value(row, att) = (Datum) 0)

/*
 * rel_open.c: open a table, for writing with its indexes but those (TL_BIT)
 * that the rows will be in none of.  55000 where it is not as installed; false,
 * and nothing is open, where the caller would have to wait.
 */
extern bool tl_rel_open_with(TlRel *r, TlTable table, bool write, bool wait, uint32 without);
#define tl_rel_open(r, table, write)	((void) tl_rel_open_with(r, table, write, true, 0))
#define tl_rel_open_skipping(r, table, without) \
	((void) tl_rel_open_with(r, table, true, true, without))
#define tl_rel_try_open(r, table, wait)	tl_rel_open_with(r, table, true, wait, 0)
extern void tl_rel_close(TlRel *r);
/* does a row of that shape have our columns, and of our types? */
extern bool tl_rel_has_columns(TlTable table, TupleDesc desc);

/* rel.c */
extern void tl_row_get(TupleTableSlot *slot, Datum *values, bool *nulls, int natts);
/* insert n rows: r->natts values of the first, then those of the next */
extern void tl_rel_insert_many(TlRel *r, int n, const Datum *values, const bool *nulls);
#define tl_rel_insert(r, values, nulls)	tl_rel_insert_many(r, 1, values, nulls)
/* false, and nothing was written, if a row with this key is there */
typedef void (*TlFill) (void *arg);
extern bool tl_rel_insert_unless_there(TlRel *r, TlIndex key, const Datum *values,
									   const bool *nulls, TlFill fill, void *arg);
/*
 * replace a row: waits for a transaction that holds it, and returns what that
 * one made of it if it was not TM_Ok.  "last": the row changes no more.
 */
extern TM_Result tl_rel_update(TlRel *r, ItemPointer tid, Snapshot snapshot,
							   const Datum *values, const bool *nulls, bool last);
/* the same, but TM_WouldBlock if another transaction holds the row */
extern TM_Result tl_rel_update_unless_held(TlRel *r, ItemPointer tid, Snapshot snapshot,
										   const Datum *values, const bool *nulls);
/*
 * lock a row and read it into a slot; TM_Updated or TM_Deleted if it was
 * changed since the snapshot, TM_WouldBlock with LockWaitSkip if it is held
 */
extern TM_Result tl_rel_lock_into(TlRel *r, ItemPointer tid, Snapshot snapshot,
								  TupleTableSlot *slot, LockTupleMode mode, LockWaitPolicy wait);
extern TM_Result tl_rel_lock(TlRel *r, ItemPointer tid, Snapshot snapshot, LockTupleMode mode,
							 LockWaitPolicy wait);
extern TM_Result tl_rel_delete(TlRel *r, ItemPointer tid, Snapshot snapshot);
/* has the table no index of a DBA's?  then writing runs no code but ours */
extern bool tl_rel_is_plain(const TlRel *r);
/*
 * Take a turn's row: delete it, for its next version to be put back, with
 * others, by the same batch.  Rows that are inserted together cost less than as
 * many updates.  False, and nothing is done, where a transaction, this one
 * too, has locked the row, or where the row has changed.  All tables that are
 * written until then are plain.  "last": the rows change no more.
 */
extern bool tl_rel_take(TlRel *r, ItemPointer tid, Snapshot snapshot);
extern void tl_rel_put_back(TlRel *r, int n, const Datum *values, const bool *nulls, bool last);

/* scan.c: a condition on column attno (from 1) of the index */
extern void tl_scan_key_text(TlScan *s, int attno, StrategyNumber strategy, Datum value);
extern void tl_scan_key_int8(TlScan *s, int attno, StrategyNumber strategy, int64 value);
extern void tl_scan_key_bool(TlScan *s, int attno, bool value);
extern void tl_scan_begin(TlScan *s, TlRel *r, TlIndex index, Snapshot snapshot);
extern bool tl_scan_next(TlScan *s, ScanDirection direction);
/* begin again with the keys as they are now */
extern void tl_scan_restart(TlScan *s);
/*
 * begin again with these arguments of the first and the last key (of one key:
 * the first counts); find the first row
 */
extern bool tl_scan_find(TlScan *s, Datum first, Datum last);
/*
 * the same over the entries of the index, also those of rows that no snapshot
 * shows; a column of the entry on which such a walk stands, none of which is
 * NULL; and a look at its row
 */
extern bool tl_scan_find_entry(TlScan *s, Datum first, Datum last, ScanDirection direction);
extern bool tl_scan_next_entry(TlScan *s, ScanDirection direction);
extern Datum tl_scan_entry(TlScan *s, int attno);
extern void tl_scan_look(TlScan *s);
extern void tl_scan_end(TlScan *s);

/* the latest committed state, registered: UnregisterSnapshot gives it back */
extern Snapshot tl_latest_snapshot(void);
/* does the snapshot show this slot's row, or did this transaction write it? */
extern bool tl_rel_shows(TlRel *r, TupleTableSlot *slot, Snapshot snapshot);
/* 40001 above READ COMMITTED unless the transaction's snapshot shows the row */
extern void tl_rel_check_visible(TlRel *r, TupleTableSlot *slot);
#define tl_serialization_failure() \
	ereport(ERROR, \
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE), \
			 errmsg("could not serialize access due to concurrent update")))

#endif							/* TL_REL_H */
