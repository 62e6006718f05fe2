/*
 * slow_heap.c
 *		Sessions and workers that wait before they delete a row of "turn", or
 *		before they fetch one to which an index entry has led them.
 *
 * slow_handler() is the handler of heap, but for this.  While the file is there
 * that the setting slow_heap.at_delete or slow_heap.at_fetch names, a process that
 * is about to do it makes a file of that name with ".waits" after it, and waits.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/tableam.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/rel.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(slow_handler);

static TableAmRoutine slow;

static void
wait_for_file(Relation rel, const char *setting)
{
	const char *stop = GetConfigOption(setting, true, false);
	char		waits[MAXPGPATH];

	if (stop == NULL || strcmp(RelationGetRelationName(rel), "turn") != 0)
		return;
	while (access(stop, F_OK) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		snprintf(waits, sizeof(waits), "%s.waits", stop);
		close(open(waits, O_CREAT, 0600));
		usleep(1000);
	}
}

#if PG_VERSION_NUM >= 190000
static TM_Result
delete(Relation rel, ItemPointer tid, CommandId cid, uint32 options, Snapshot snapshot,
	   Snapshot crosscheck, bool wait, TM_FailureData *failure)
{
	wait_for_file(rel, "slow_heap.at_delete");
	return GetHeapamTableAmRoutine()->tuple_delete(rel, tid, cid, options, snapshot, crosscheck,
												   wait, failure);
}
#else
static TM_Result
delete(Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot, Snapshot crosscheck,
	   bool wait, TM_FailureData *failure, bool moved)
{
	wait_for_file(rel, "slow_heap.at_delete");
	return GetHeapamTableAmRoutine()->tuple_delete(rel, tid, cid, snapshot, crosscheck, wait,
												   failure, moved);
}
#endif

static bool
fetch(struct IndexFetchTableData *scan, ItemPointer tid, Snapshot snapshot,
	  TupleTableSlot *slot, bool *call_again, bool *all_dead)
{
	wait_for_file(scan->rel, "slow_heap.at_fetch");
	return GetHeapamTableAmRoutine()->index_fetch_tuple(scan, tid, snapshot, slot, call_again,
														all_dead);
}

Datum
slow_handler(PG_FUNCTION_ARGS)
{
	slow = *GetHeapamTableAmRoutine();
	slow.tuple_delete = delete;
	slow.index_fetch_tuple = fetch;
	PG_RETURN_POINTER(&slow);
}
