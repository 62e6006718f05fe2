/*
 * rel.h
 *		Our tables: where they are, and reading and writing them directly.
 */
#ifndef TL_REL_H
#define TL_REL_H

#include "access/skey.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

typedef enum TlTable
{
	TL_TURN,
	TL_REPLY,
	TL_DELIVERY,
	TL_LATE_REPLY,
	TL_CLOCK,
	TL_HOME,
	TL_NTABLES
} TlTable;

typedef enum TlIndex
{
	TL_TURN_KEY,
	TL_TURN_OWED_DEPLOYMENT,
	TL_TURN_OWED_CHECK,
	TL_REPLY_KEY,
	TL_REPLY_CONVERSATION,
	TL_DELIVERY_KEY,
	TL_DELIVERY_OPEN_CONVERSATION,
	TL_DELIVERY_OPEN_PLATFORM,
	TL_DELIVERY_DELIVERED,
	TL_DELIVERY_DEAD_ONES,
	TL_LATE_REPLY_KEY,
	TL_LATE_REPLY_KEPT,
	TL_CLOCK_KEY,
	TL_NINDEXES
} TlIndex;

/* one of our tables, open for as long as a function works on it */
typedef struct TlRel
{
	Relation	rel;
	int			natts;			/* columns that we know */
	ResultRelInfo *rri;			/* NULL when open for reading only */
	EState	   *estate;
	TupleTableSlot *slot;		/* what is written */
	struct TlKept *kept;		/* rri and estate are kept here; NULL: our own */
} TlRel;

/* a walk over an index */
typedef struct TlScan
{
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* the row that the walk stands on */
	ScanKeyData keys[3];
	int			nkeys;
} TlScan;

/* the extension of this database; InvalidOid if there is none */
extern Oid	tl_extension_oid(void);
extern Oid	tl_table_oid(TlTable table);
extern int32 tl_home(void);
extern Oid	tl_reply_sequence_oid(void);
/* moves on whenever what was looked up by name may have changed */
extern uint32 tl_rel_generation(void);
extern void tl_rel_init(void);
/* an error may have left kept tables open */
extern void tl_rel_at_abort(int nest_level);

extern void tl_rel_open(TlRel *r, TlTable table, bool write);
extern void tl_rel_close(TlRel *r);
extern ItemPointer tl_rel_insert(TlRel *r, const Datum *values, const bool *nulls);
extern bool tl_rel_insert_unless_there(TlRel *r, TlIndex key,
									   const Datum *values, const bool *nulls,
									   ItemPointer tid);
extern TM_Result tl_rel_update(TlRel *r, ItemPointer tid, Snapshot snapshot,
							   const Datum *values, const bool *nulls);
/* without waiting: false if somebody holds the row, or changed it since the snapshot */
extern bool tl_rel_try_lock(TlRel *r, ItemPointer tid, Snapshot snapshot,
							TupleTableSlot *slot, LockTupleMode mode);
extern TM_Result tl_rel_delete(TlRel *r, ItemPointer tid, Snapshot snapshot);

/* "column attno (1-based) of the index, strategy (BTEqualStrategyNumber, ...)" */
extern void tl_scan_key_text(TlScan *s, int attno, StrategyNumber strategy, Datum value);
extern void tl_scan_key_int8(TlScan *s, int attno, StrategyNumber strategy, int64 value);
extern void tl_scan_begin(TlScan *s, TlRel *r, TlIndex index, Snapshot snapshot);
extern bool tl_scan_next(TlScan *s, ScanDirection direction);
extern void tl_scan_restart(TlScan *s);
extern void tl_scan_end(TlScan *s);

/* the latest committed state, registered; give it back with UnregisterSnapshot */
extern Snapshot tl_latest_snapshot(void);
/* 40001 unless the transaction's own snapshot shows the row of this slot */
extern void tl_rel_check_visible(TlRel *r, TupleTableSlot *slot);
extern void tl_serialization_failure(void) pg_attribute_noreturn();

#endif							/* TL_REL_H */
