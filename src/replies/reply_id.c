/*
 * reply_id.c
 *		The next id of a reply: ids rise, whatever a server goes through.
 *
 * A client holds the last id that it has seen.  It may have seen what a server
 * lost (a standby that lagged when it was promoted, a recovery to a point in
 * time), so no id is given out again.  Each promotion and each such recovery
 * begins a timeline, and timeline n + 1 gives out ids from n * 2^32 on: nothing
 * has to be stored.  A base backup that starts without either stays on its
 * timeline: the postmaster has seen its backup label, and the sequence moves on
 * to the next multiple of 2^32 once.
 *
 * Node n gives out ids from n * 2^44 on, so that no two servers give out the
 * same.  All of them are exact in a double.
 */
#include "base/turn_liveness.h"

#include "access/xlog.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "replies/outbox.h"
#include "shared/database.h"

#define LOCK_CLASS_SEQUENCE		0x544d	/* see outbox.c */
#define NODE_SHIFT				44
#define TIMELINE_SHIFT			32
#define MAX_TIMELINE			(UINT32_C(1) << (NODE_SHIFT - TIMELINE_SHIFT))

/* No id is given out up to this one. */
static int64
floor_of_server(void)
{
	uint32		timeline = GetWALInsertionTimeLine();

	return ((int64) tl_node << NODE_SHIFT) +
		((int64) (Min(timeline, MAX_TIMELINE) - 1) << TIMELINE_SHIFT);
}

/* This run begins with a base backup whose ids no session has moved yet. */
bool
tl_reply_id_must_move(void)
{
	TlDatabase *db = tl_database();

	return db != NULL && tl_shared->clock.from_backup &&
		pg_atomic_read_u32(&db->ids_moved) == 0;
}

/*
 * Move the sequence on.  The caller was granted a function and no right on the
 * sequence, which setval() asks for.
 */
static void
move_to(Oid sequence, int64 id)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(id));
	SetUserIdAndSecContext(user, context);
}

/* One session moves the sequence, so that none moves it back. */
static int64
move_on(Oid sequence)
{
	LOCKTAG		tag;
	int64		id;
	int64		floor = floor_of_server();

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, sequence, LOCK_CLASS_SEQUENCE);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	id = nextval_internal(sequence, false);
	if (tl_reply_id_must_move())
		floor = Max(floor, ((id >> TIMELINE_SHIFT) + 1) << TIMELINE_SHIFT);
	if (id <= floor)
	{
		move_to(sequence, floor);
		id = nextval_internal(sequence, false);
	}
	if (tl_database() != NULL)
		pg_atomic_write_u32(&tl_database()->ids_moved, 1);
	LockRelease(&tag, ExclusiveLock, false);
	return id;
}

int64
tl_reply_id_next(void)
{
	Oid			sequence = tl_table_oid(TL_REPLY_SEQUENCE);
	int64		id;

	if (tl_reply_id_must_move())
		return move_on(sequence);
	id = nextval_internal(sequence, false);
	return id > floor_of_server() ? id : move_on(sequence);
}

void
tl_reply_id_move(void)
{
	(void) move_on(tl_table_oid(TL_REPLY_SEQUENCE));
}
