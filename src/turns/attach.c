/*
 * attach.c
 *		Tying deployments to this session.
 *
 * A session keeps the list of its deployments in its own memory; shared memory
 * counts the sessions of each deployment (shared/attach_table.c).  The exit
 * callback only counts down, writes a time and sets a latch: nothing in it can
 * fail.  The worker looks at deaths that are older than the reconnect window
 * (sweep.c).
 */
#include "base/turn_liveness.h"

#include "storage/ipc.h"
#include "utils/memutils.h"

#include "base/args.h"
#include "base/guc.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/database.h"

/* what one session may attach: a part of the table */
#define SESSION_MAX		Max(1, tl_attach_capacity / 4)

typedef struct Attached
{
	TlLeaseKey	key;
	int			entry;			/* of the shared table */
} Attached;

/* with room for SESSION_MAX, which the first attachment makes */
static Attached *attached = NULL;
static int	nattached = 0;

PG_FUNCTION_INFO_V1(turn_liveness_attach_worker);
PG_FUNCTION_INFO_V1(turn_liveness_detach_worker);

/* The place of a deployment in this session's list; -1 if it is not there. */
static int
find_attached(TlLeaseKey key)
{
	int			i;

	for (i = 0; i < nattached; i++)
		if (tl_lease_key_equal(attached[i].key, key))
			return i;
	return -1;
}

/*
 * The session ends, in whatever way.  Runs before shared memory is left; the
 * backend has released the LWLocks that an error left behind.
 */
static void
session_ends(int code, Datum arg)
{
	TlDatabase *db = tl_database();
	bool		deaths = false;
	int64		now;

	if (nattached == 0 || db == NULL)
		return;
	/* greater than each beat before, and not than those that come */
	now = tl_clock_arm_stamp();
	while (nattached > 0)
		deaths |= tl_attach_remove(attached[--nattached].entry, now);
	if (deaths)
	{
		pg_atomic_write_u64(&db->death_us, now);
		tl_wake_worker(db);
	}
}

Datum
turn_liveness_attach_worker(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	TlLeaseKey	key;
	int			entry;
	int64		now;

	tl_check_writable("attach_worker");
	if (tl_database() == NULL && tl_shared != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases use %s", TL_EXTENSION),
				 errdetail("At most %d of them have shared memory.", tl_database_capacity),
				 errhint("Increase \"%s\" and restart the server, or drop the extension where it is not needed.",
						 "turn_liveness.database_capacity")));
	if (tl_database() == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s must be loaded via \"%s\"", TL_EXTENSION, "shared_preload_libraries"),
				 errhint("Add \"%s\" to \"%s\" and restart the server.",
						 TL_EXTENSION, "shared_preload_libraries")));
	tl_grace_note_call(tl_clock_now());
	key = tl_lease_key(deployment);
	/* a hand-over that comes before this is this session's */
	now = tl_clock_arm_stamp();
	entry = find_attached(key);
	if (entry >= 0)
	{
		tl_attach_again(attached[entry].entry, now);
		PG_RETURN_INT32(MyProcPid);
	}

	/* all that can fail comes before the shared table is changed */
	if (attached == NULL)
	{
		attached = MemoryContextAlloc(TopMemoryContext, SESSION_MAX * sizeof(Attached));
		before_shmem_exit(session_ends, (Datum) 0);
	}
	entry = nattached < SESSION_MAX ? tl_attach_add(deployment, key, now) : -1;
	if (entry < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many deployments are attached to sessions"),
				 errdetail("One session may attach %d, all sessions together %d.",
						   SESSION_MAX, tl_attach_capacity),
				 errhint("Spread the deployments over several sessions, or raise \"%s\".",
						 "turn_liveness.attach_capacity")));
	attached[nattached++] = (Attached) {key, entry};
	PG_RETURN_INT32(MyProcPid);
}

Datum
turn_liveness_detach_worker(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	int			i;

	tl_check_writable("detach_worker");
	tl_grace_note_call(tl_clock_now());
	i = find_attached(tl_lease_key(deployment));
	if (i < 0)
		PG_RETURN_BOOL(false);
	(void) tl_attach_remove(attached[i].entry, 0);
	attached[i] = attached[--nattached];
	PG_RETURN_BOOL(true);
}
