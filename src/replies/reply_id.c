/*
 * reply_id.c
 *		The next id of a reply: ids rise, whatever a server goes through.
 *
 * A client holds the last id that it has seen.  It may have seen what a server
 * lost (a standby that lagged when it was promoted, a recovery to a point in
 * time), so no id is given out again.  Each promotion and each such recovery
 * begins a timeline, and timeline n + 1 gives out ids from n * 2^32 on: nothing
 * has to be stored.  A sequence may be ahead of that, by a DBA's setval(), a
 * dump or another node.  So a sequence whose page was last logged on an earlier
 * timeline also moves on by one multiple of 2^32 for each number between that
 * timeline and this one.  A base backup that starts without a new timeline
 * stays on its own: copied.c tells whether the sequence is still as the other
 * server left it, and then it moves on to the next multiple of 2^32.
 *
 * Node n gives out ids from n * 2^44 on, so that no two servers give out the
 * same.  All of them are exact in a double.
 *
 * A session settles the sequence before its database gives out the first id of
 * a run, the worker does at its start, when its settings change, and every few
 * seconds.  Each id is held against node and timeline once more, because a DBA
 * may set either, or the sequence, at any time.
 */
#include "base/turn_liveness.h"

#include "access/relation.h"
#include "access/timeline.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "replies/outbox.h"
#include "shared/database.h"

#define LOCK_CLASS_SEQUENCE		0x544d	/* see outbox.c */
#define NODE_SHIFT				44
#define TIMELINE_SHIFT			32
#define MAX_TIMELINE			(UINT32_C(1) << (NODE_SHIFT - TIMELINE_SHIFT))

static bool fits = false;		/* as ids_fit, where there is no slot */

/* No id is given out up to this one. */
static int64
floor_of_server(void)
{
	uint32		timeline = GetWALInsertionTimeLine();

	return ((int64) tl_node << NODE_SHIFT) +
		((int64) (Min(timeline, MAX_TIMELINE) - 1) << TIMELINE_SHIFT);
}

/* The last id that was given out, and the end of its record in WAL. */
static int64
read_sequence(Oid sequence, XLogRecPtr *lsn)
{
	Relation	rel = relation_open(sequence, AccessShareLock);
	Buffer		buffer = ReadBuffer(rel, 0);
	Page		page = BufferGetPage(buffer);
	ItemId		item;
	FormData_pg_sequence_data *data;
	int64		last;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	item = PageGetItemId(page, FirstOffsetNumber);
	data = (FormData_pg_sequence_data *)
		GETSTRUCT(&(HeapTupleData) {.t_data = (HeapTupleHeader) PageGetItem(page, item)});
	last = data->is_called ? data->last_value : data->last_value - 1;
	*lsn = PageGetLSN(page);
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	return last;
}

/*
 * By how much is our timeline's number greater than that of the timeline on
 * which the record that ends at lsn lies?  A record that ends where a timeline
 * begins is of the one before.  Without its history file, our timeline counts
 * as the only one.
 */
static int64
timelines_since(XLogRecPtr lsn)
{
	TimeLineID	current = GetWALInsertionTimeLine();
	TimeLineID	logged = current;
	ListCell   *cell;

	if (current == 1)
		return 0;
	/* from the newest to the oldest */
	foreach(cell, readTimeLineHistory(current))
	{
		TimeLineHistoryEntry *entry = lfirst(cell);

		logged = entry->tli;
		if (entry->begin < lsn)
			break;
	}
	return (int64) current - logged;
}

/*
 * Move the sequence on.  The caller was granted a function and no right on the
 * sequence, which setval() asks for.
 */
static void
move_to(Oid sequence, int64 last, int64 to)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(to));
	SetUserIdAndSecContext(user, context);
	ereport(LOG,
			(errcode(ERRCODE_SUCCESSFUL_COMPLETION),
			 errmsg("the ids of replies of database \"%s\" go on after " INT64_FORMAT,
					get_database_name(MyDatabaseId), to),
			 errdetail("The last one was " INT64_FORMAT ".", last)));
}

/* One session moves the sequence, so that none moves it back. */
static void
settle(Oid sequence)
{
	TlDatabase *db = tl_database();
	LOCKTAG		tag;
	XLogRecPtr	lsn;
	int64		last;
	int64		steps;
	int64		floor;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, sequence, LOCK_CLASS_SEQUENCE);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	last = read_sequence(sequence, &lsn);
	steps = timelines_since(lsn);
	if (tl_copied_since(lsn))
		steps = Max(steps, 1);
	/* without a step the second is not beyond the last id */
	floor = Max(floor_of_server(), ((last >> TIMELINE_SHIFT) + steps) << TIMELINE_SHIFT);
	if (last < floor)
		move_to(sequence, last, floor);
	if (db != NULL)
		pg_atomic_write_u32(&db->ids_fit, 1);
	fits = true;
	LockRelease(&tag, ExclusiveLock, false);
}

/* Has a session settled the sequence in this run of the server? */
static bool
is_settled(void)
{
	TlDatabase *db = tl_database();

	return db != NULL ? pg_atomic_read_u32(&db->ids_fit) != 0 : fits;
}

int64
tl_reply_id_next(void)
{
	Oid			sequence = tl_sequence_oid();
	int64		id;

	if (!is_settled())
		settle(sequence);
	id = nextval_internal(sequence, false);
	if (id > floor_of_server())
		return id;
	settle(sequence);
	return nextval_internal(sequence, false);
}

void
tl_reply_id_settle(void)
{
	Oid			sequence = tl_sequence_oid();
	XLogRecPtr	lsn;

	if (!is_settled() || read_sequence(sequence, &lsn) < floor_of_server())
		settle(sequence);
}

const char *
tl_reply_id_problem(void)
{
	Oid			sequence = tl_table_oid(TL_REPLY_SEQUENCE);
	XLogRecPtr	lsn;
	int64		last;

	/* what shows it waits for no DBA's command */
	if (RecoveryInProgress() || !ConditionalLockRelationOid(sequence, AccessShareLock))
		return NULL;
	if (tl_sequence_is_altered())
		return "the sequence of the ids of replies has other parameters than it was installed with";
	last = read_sequence(sequence, &lsn);
	if (last < (int64) tl_node << NODE_SHIFT)
		return psprintf("the ids of replies are not yet those of turn_liveness.node %d: the next one will be",
						tl_node);
	if (last >> NODE_SHIFT > tl_node)
		return psprintf("the ids of replies are those of node " INT64_FORMAT ", and cannot go back to those of turn_liveness.node %d: set it to that number, or to a greater one that no other server has",
						last >> NODE_SHIFT, tl_node);
	return NULL;
}
