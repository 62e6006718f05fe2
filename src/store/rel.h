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
	ResultRelInfo *rri;			/* NULL when open for reading only */
	EState	   *estate;
	TupleTableSlot *slot;		/* the row that is written */
	List	   *arbiters;		/* unique indexes over our key's columns */
	struct TlIndexCache *cache; /* owns rri and estate; NULL: r does */
} TlRel;

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

/*
 * rel_check.c: 55000 unless the table, or one of its indexes, is as installed;
 * returns how many columns of it we know
 */
extern int	tl_rel_check(TlTable table, Relation rel, bool write);
extern void tl_rel_check_index(Relation rel, Relation index);

/* rel_open.c */
extern void tl_rel_init(void);
/* an error may have left tables open */
extern void tl_rel_at_abort(int nest_level);

/* raise 55000 where the table is not as installed */
extern void tl_rel_open(TlRel *r, TlTable table, bool write);
/* false, and nothing is open, where a lock on the table has to be waited for */
extern bool tl_rel_open_if_free(TlRel *r, TlTable table, bool write);
/* for writing rows that will be in none of these indexes (TL_BIT) */
extern void tl_rel_open_skipping(TlRel *r, TlTable table, uint32 without);
extern void tl_rel_close(TlRel *r);
/* for rel.c only */
extern Relation tl_rel_written_index(const TlRel *r, Oid index);
extern void tl_rel_check_closed(TlRel *r);

/* rel.c */
extern ItemPointer tl_rel_insert(TlRel *r, const Datum *values, const bool *nulls);
/* false, and nothing was written, if a row with this key is there */
extern bool tl_rel_insert_unless_there(TlRel *r, TlIndex key,
									   const Datum *values, const bool *nulls,
									   ItemPointer tid);
extern TM_Result tl_rel_update(TlRel *r, ItemPointer tid, Snapshot snapshot,
							   const Datum *values, const bool *nulls);
/*
 * without waiting: false if another transaction holds the row, or changed it
 * since
 */
extern bool tl_rel_try_lock(TlRel *r, ItemPointer tid, Snapshot snapshot,
							TupleTableSlot *slot, LockTupleMode mode);
/* TM_Updated or TM_Deleted if the row was changed since the snapshot */
extern TM_Result tl_rel_lock(TlRel *r, ItemPointer tid, Snapshot snapshot,
							 LockTupleMode mode, LockWaitPolicy wait);
extern TM_Result tl_rel_delete(TlRel *r, ItemPointer tid, Snapshot snapshot);

/* a condition on column attno (from 1) of the index */
extern void tl_scan_key_text(TlScan *s, int attno, StrategyNumber strategy, Datum value);
extern void tl_scan_key_int8(TlScan *s, int attno, StrategyNumber strategy, int64 value);
extern void tl_scan_begin(TlScan *s, TlRel *r, TlIndex index, Snapshot snapshot);
extern bool tl_scan_next(TlScan *s, ScanDirection direction);
extern void tl_scan_restart(TlScan *s);
extern void tl_scan_end(TlScan *s);

/*
 * the latest committed state, registered; give it back with UnregisterSnapshot
 */
extern Snapshot tl_latest_snapshot(void);
/* 40001 unless the transaction's own snapshot shows the row of this slot */
extern void tl_rel_check_visible(TlRel *r, TupleTableSlot *slot);
extern void tl_serialization_failure(void) pg_attribute_noreturn();

#endif							/* TL_REL_H */
