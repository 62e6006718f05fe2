/*
 * scan.c
 *		Walking the indexes of our tables.
 *
 * A walk finds rows, or only the entries of the index: an entry tells that a
 * version of its row was there, whatever became of it.
 */
#include "base/turn_liveness.h"

#include "access/nbtree.h"
#include "access/relscan.h"
#include "catalog/index.h"
#include "catalog/pg_collation.h"
#include "utils/fmgroids.h"

#include "store/rel.h"

/* Every text column of an index of ours has COLLATE "C". */
void
tl_scan_key_text(TlScan *s, int attno, StrategyNumber strategy, Datum value)
{
	Assert(s->nkeys < lengthof(s->keys));
	ScanKeyEntryInitialize(&s->keys[s->nkeys++], 0, attno, strategy, InvalidOid, C_COLLATION_OID,
						   strategy == BTEqualStrategyNumber ? F_TEXTEQ : F_TEXT_GT, value);
}

/* Times of our indexes compare as int8 do. */
void
tl_scan_key_int8(TlScan *s, int attno, StrategyNumber strategy, int64 value)
{
	Assert(s->nkeys < lengthof(s->keys));
	ScanKeyInit(&s->keys[s->nkeys++], attno, strategy,
				strategy == BTEqualStrategyNumber ? F_INT8EQ :
				strategy == BTGreaterStrategyNumber ? F_INT8GT : F_INT8LE, Int64GetDatum(value));
}

void
tl_scan_key_bool(TlScan *s, int attno, bool value)
{
	Assert(s->nkeys < lengthof(s->keys));
	ScanKeyInit(&s->keys[s->nkeys++], attno, BTEqualStrategyNumber, F_BOOLEQ, BoolGetDatum(value));
}

/* Begin a walk.  r is open, so no index of it can be dropped. */
void
tl_scan_begin(TlScan *s, TlRel *r, TlIndex index, Snapshot snapshot)
{
	Oid			oid = tl_index_oid(index);
	int			i;

	/* it is open already if the table is open for writing with its indexes */
	s->index = NULL;
	for (i = 0; r->indexes != NULL && i < r->indexes->rri->ri_NumIndices && s->index == NULL; i++)
		if (r->indexes->oids[i] == oid)
			s->index = r->indexes->rri->ri_IndexRelationDescs[i];
	s->opened = s->index == NULL;
	if (s->opened)
		s->index = index_open(oid, AccessShareLock);
	s->scan = tl_index_beginscan_compat(r->rel, s->index, snapshot, s->nkeys);
	s->slot = table_slot_create(r->rel, NULL);
	tl_scan_restart(s);
}

bool
tl_scan_next(TlScan *s, ScanDirection direction)
{
	return index_getnext_slot(s->scan, direction, s->slot);
}

bool
tl_scan_next_entry(TlScan *s, ScanDirection direction)
{
	return index_getnext_tid(s->scan, direction) != NULL;
}

Datum
tl_scan_entry(TlScan *s, int attno)
{
	bool		isnull;

	return index_getattr(s->scan->xs_itup, attno, s->scan->xs_itupdesc, &isnull);
}

/*
 * The index learns from the row whether any transaction may still see it, and
 * marks the entry of one that is dead, which the next walk is spared.
 */
void
tl_scan_look(TlScan *s)
{
	(void) index_fetch_heap(s->scan, s->slot);
}

/* An index looks at its keys' arguments with the first row, not before. */
void
tl_scan_restart(TlScan *s)
{
	index_rescan(s->scan, s->keys, s->nkeys, NULL, 0);
}

static void
set_keys(TlScan *s, Datum first, Datum last)
{
	s->keys[s->nkeys - 1].sk_argument = last;
	s->keys[0].sk_argument = first;
	tl_scan_restart(s);
}

bool
tl_scan_find(TlScan *s, Datum first, Datum last)
{
	set_keys(s, first, last);
	return tl_scan_next(s, ForwardScanDirection);
}

bool
tl_scan_find_entry(TlScan *s, Datum first, Datum last, ScanDirection direction)
{
	/* the access method then keeps the entries for us */
	s->scan->xs_want_itup = true;
	set_keys(s, first, last);
	return tl_scan_next_entry(s, direction);
}

void
tl_scan_end(TlScan *s)
{
	ExecDropSingleTupleTableSlot(s->slot);
	if (s->scan != NULL)
		index_endscan(s->scan);
	if (s->opened)
		index_close(s->index, NoLock);
}
