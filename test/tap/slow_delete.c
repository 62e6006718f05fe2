/*
 * slow_delete.c
 *		A session that waits before it deletes a row of a table.
 *
 * The session calls slow_delete() with the table and the name of a file.  When
 * it deletes a row next, it makes a file of that name with ".waits" after it,
 * and waits until the other one is there.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/relation.h"
#include "access/tableam.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(slow_delete);

static TableAmRoutine slow;
static const TableAmRoutine *quick;
static char go_on[MAXPGPATH];

static void
wait_for_file(void)
{
	char		waits[MAXPGPATH + 10];

	snprintf(waits, sizeof(waits), "%s.waits", go_on);
	close(open(waits, O_CREAT, 0600));
	while (access(go_on, F_OK) != 0)
		usleep(1000);
}

#if PG_VERSION_NUM >= 190000
static TM_Result
delete(Relation rel, ItemPointer tid, CommandId cid, uint32 options, Snapshot snapshot,
	   Snapshot crosscheck, bool wait, TM_FailureData *failure)
{
	wait_for_file();
	return quick->tuple_delete(rel, tid, cid, options, snapshot, crosscheck, wait, failure);
}
#else
static TM_Result
delete(Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot, Snapshot crosscheck,
	   bool wait, TM_FailureData *failure, bool moved)
{
	wait_for_file();
	return quick->tuple_delete(rel, tid, cid, snapshot, crosscheck, wait, failure, moved);
}
#endif

Datum
slow_delete(PG_FUNCTION_ARGS)
{
	Relation	rel = relation_open(PG_GETARG_OID(0), AccessShareLock);

	strlcpy(go_on, text_to_cstring(PG_GETARG_TEXT_PP(1)), sizeof(go_on));
	quick = rel->rd_tableam;
	slow = *quick;
	slow.tuple_delete = delete;
	rel->rd_tableam = &slow;
	relation_close(rel, NoLock);
	PG_RETURN_VOID();
}
