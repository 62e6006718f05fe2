/*
 * worker_wait.c
 *		What the worker of a database waits for, in words.
 *
 * stat tells the person on call which step of the worker does not go on, since
 * when, for which lock, and which process is in its way.  The step and the time
 * come from the worker's slot, the lock from the lock manager, whose locks are
 * copied only when a step has waited for longer than a second.
 */
#include "base/turn_liveness.h"

#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "catalog/pg_subscription.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/backend_status.h"
#include "utils/lsyscache.h"
#include "utils/wait_event.h"

#include "admin/worker_wait.h"
#include "shared/clock.h"

#define TICKS_NO_MORE	(10 * TL_SECOND)	/* more than a busy machine takes */

/* The lock that a session takes in a commit that notifies. */
static bool
is_notify_lock(const LOCKTAG *tag)
{
	return tag->locktag_type == LOCKTAG_OBJECT && tag->locktag_field1 == 0 &&
		tag->locktag_field2 == DatabaseRelationId && tag->locktag_field3 == 0;
}

/* A table of this database, or one that all databases share. */
static bool
is_table(const LOCKTAG *tag)
{
	return tag->locktag_type == LOCKTAG_RELATION &&
		(tag->locktag_field1 == MyDatabaseId || tag->locktag_field1 == 0);
}

/*
 * A step that does not wait takes locks of our tables, of the subscriptions, or
 * that of notifications, for writing.
 */
static bool
may_be_wanted(const LOCKTAG *tag)
{
	if (!is_table(tag))
		return is_notify_lock(tag);
	return tag->locktag_field2 == SubscriptionRelationId ||
		get_rel_namespace(tag->locktag_field2) == get_namespace_oid(TL_SCHEMA, true);
}

/* Does a process hold the lock in a mode that conflicts with this one? */
static bool
conflicts(const LockInstanceData *held, LOCKMODE wanted)
{
	LOCKMODE	mode;

	for (mode = 1; mode <= MaxLockMode; mode++)
		if ((held->holdMask & LOCKBIT_ON(mode)) && DoLockModesConflict(mode, wanted))
			return true;
	return false;
}

/*
 * Add the lock that the worker waits for, and one of the processes that hold
 * it.  A step that was skipped waits for none: then it is the first one that
 * would be in its way now.
 */
static void
append_lock(StringInfo text, pid_t worker)
{
	LockData   *locks = GetLockStatusData();
	const LockInstanceData *wait = NULL;
	const LockInstanceData *holder = NULL;
	const LOCKTAG *tag;
	char	   *name = NULL;
	int			i;

	for (i = 0; i < locks->nelements && wait == NULL; i++)
		if (locks->locks[i].pid == worker && locks->locks[i].waitLockMode != NoLock)
			wait = &locks->locks[i];
	for (i = 0; i < locks->nelements && holder == NULL; i++)
	{
		const LockInstanceData *lock = &locks->locks[i];

		if (lock->pid != worker &&
			conflicts(lock, wait != NULL ? wait->waitLockMode : RowExclusiveLock) &&
			(wait != NULL ? memcmp(&lock->locktag, &wait->locktag, sizeof(LOCKTAG)) == 0 :
			 may_be_wanted(&lock->locktag)))
			holder = lock;
	}
	if (wait == NULL && holder == NULL)
		return;
	tag = wait != NULL ? &wait->locktag : &holder->locktag;
	appendStringInfoString(text, ": ");
	if (is_table(tag))
		name = get_rel_name(tag->locktag_field2);
	if (name != NULL)
		appendStringInfo(text, "\"%s.%s\"",
						 get_namespace_name(get_rel_namespace(tag->locktag_field2)), name);
	else if (is_notify_lock(tag))
		appendStringInfoString(text, "the queue of notifications");
	else
		DescribeLockTag(text, tag);
	if (holder != NULL && holder->pid != 0)
		appendStringInfo(text, ", held by process %d", holder->pid);
	else if (holder != NULL)
		appendStringInfoString(text, ", held by a prepared transaction");
}

/*
 * A step that has waited for longer than a second: for a lock, or in its commit
 * for a standby.  An optional step does not wait, but is skipped until it finds
 * its locks free.
 */
const char *
tl_worker_wait(const TlWorkerSlot *slot)
{
	PGPROC	   *proc = BackendPidGetProc(slot->pid);
	uint32		wait = proc != NULL ? proc->wait_event_info : 0;
	uint32		class = wait & 0xFF000000U;
	const char *what = "a lock";
	const char *name = slot->skipped;
	int64		now = tl_monotonic();
	int64		since = (int64) pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &slot->step_since_us));
	int64		tick_age = tl_clock_tick_age();
	StringInfoData text;

	/* an idle worker has no wait of these types, however old its step */
	if (now - since >= TL_SECOND && (class == PG_WAIT_LOCK || class == PG_WAIT_IPC))
	{
		name = pgstat_get_backend_current_activity(slot->pid, false);
		if (class == PG_WAIT_IPC)
			what = pgstat_get_wait_event(wait);
	}
	else
		since = slot->skipped_since_us;

	initStringInfo(&text);
	if (since != 0 && now - since >= TL_SECOND)
	{
		appendStringInfo(&text, "waits for %s in step \"%s\" since " INT64_FORMAT " s",
						 what, name, (now - since) / TL_SECOND);
		if (class != PG_WAIT_IPC)
			append_lock(&text, slot->pid);
	}
	else if (tick_age >= TICKS_NO_MORE)
		appendStringInfo(&text, "has not ticked for " INT64_FORMAT " s: the process is stopped, or gets no processor",
						 tick_age / TL_SECOND);
	return text.len > 0 ? text.data : NULL;
}
