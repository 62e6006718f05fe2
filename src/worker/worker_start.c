/*
 * worker_start.c
 *		The workers that the launcher started: start them, and see how they end.
 *
 * A handle is the launcher's own; what the worker says of itself is in its slot.
 *
 * Rules:
 * - At most one worker for a slot: one is registered only while the slot has no
 *   pid, no bar, and the launcher no handle for it.  A worker that was started
 *   by an earlier launcher and publishes itself late finds a pid in the slot, or
 *   leaves its own there for the second one to find: the second one ends.
 * - WANTED is never overwritten by a worker that ends: what it has seen may be
 *   older than what the hook was told.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"

#include "shared/clock.h"
#include "worker/worker_start.h"
#include "worker/launcher.h"
#include "shared/shmem.h"

#define MAX_STARTING		2		/* most of them look and end at once */
#define STARTING_PATIENCE	(5 * TL_SECOND) /* then it waits for a lock: let others in */
#define NO_SLOT_RETRY		(10 * TL_SECOND)

/* what we know of the worker of a slot, besides the slot */
typedef struct Helper
{
	BackgroundWorkerHandle *handle; /* NULL: none that we started lives */
	Oid			dboid;			/* for which it was started */
	int64		started;
} Helper;

static Helper helpers[TL_MAX_DATABASES];
static bool complained_of_workers = false;	/* max_worker_processes */

static int	count_starting(void);

/*
 * Look after the workers that we started.  One that ends says what became of
 * it in its slot; one that could not is wanted again after a while.  The process
 * slot that it leaves may be what another database waits for.
 */
void
tl_crew_reap(void)
{
	int64		now = tl_monotonic();
	bool		freed = false;
	int			i;

	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];
		Helper	   *helper = &helpers[i];
		pid_t		pid;
		bool		stopped;
		bool		terminate = false;

		if (helper->handle == NULL)
			continue;
		stopped = GetBackgroundWorkerPid(helper->handle, &pid) == BGWH_STOPPED;

		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		if (db->dboid == helper->dboid)
		{
			/* it died before it could say so */
			if (stopped && db->worker_pid == 0 &&
				(db->state == TL_WORKER_STARTING || db->state == TL_WORKER_RUNNING))
				tl_database_want_later(db);
			terminate = !stopped && db->bars > 0 && db->worker_pid == 0;
		}
		else
			terminate = !stopped;	/* its database is gone */
		LWLockRelease(&tl_shared->directory);

		if (terminate)
			TerminateBackgroundWorker(helper->handle);
		if (stopped)
		{
			pfree(helper->handle);
			helper->handle = NULL;
			freed = true;
		}
	}
	if (!freed)
		return;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
		if (tl_shared->databases[i].state == TL_WORKER_NO_SLOT)
			tl_shared->databases[i].retry_at_us = now;
	LWLockRelease(&tl_shared->directory);
}

bool
tl_crew_has(int slot)
{
	return helpers[slot].handle != NULL;
}

bool
tl_crew_can_start(int slot, int64 now)
{
	TlDatabase *db = &tl_shared->databases[slot];

	return OidIsValid(db->dboid) && db->bars == 0 && db->worker_pid == 0 &&
		helpers[slot].handle == NULL &&
		(db->state == TL_WORKER_WANTED || db->state == TL_WORKER_NO_SLOT) &&
		db->retry_at_us <= now;
}

static int
count_starting(void)
{
	int64		now = tl_monotonic();
	int			count = 0;
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	for (i = 0; i < TL_MAX_DATABASES; i++)
		if (helpers[i].handle != NULL && now - helpers[i].started < STARTING_PATIENCE &&
			tl_shared->databases[i].state == TL_WORKER_STARTING)
			count++;
	LWLockRelease(&tl_shared->directory);
	return count;
}

bool
tl_crew_is_full(void)
{
	return count_starting() >= MAX_STARTING;
}

void
tl_crew_start(int slot, Oid dboid, const char *name)
{
	TlDatabase *db = &tl_shared->databases[slot];
	Helper	   *helper = &helpers[slot];
	BackgroundWorker worker;
	MemoryContext old;
	char	   *activity;
	bool		started;

	/* once more: what held a moment ago need not hold now */
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (db->dboid != dboid || !tl_crew_can_start(slot, tl_monotonic()))
	{
		LWLockRelease(&tl_shared->directory);
		return;
	}
	db->state = TL_WORKER_STARTING;
	LWLockRelease(&tl_shared->directory);

	if (helper->dboid != dboid)
		memset(helper, 0, sizeof(*helper));
	helper->dboid = dboid;
	helper->started = tl_monotonic();
	activity = psprintf("starting a worker in database \"%s\"", name);
	pgstat_report_activity(STATE_RUNNING, activity);

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_name, BGW_MAXLEN, TL_EXTENSION " worker");
	snprintf(worker.bgw_type, BGW_MAXLEN, TL_EXTENSION " worker");
	snprintf(worker.bgw_library_name, BGW_MAXLEN, TL_EXTENSION);
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "tl_worker_main");
	worker.bgw_main_arg = Int32GetDatum(slot);
	worker.bgw_notify_pid = MyProcPid;

	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &helper->handle);
	MemoryContextSwitchTo(old);
	if (started)
		return;

	helper->handle = NULL;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (db->dboid == dboid && db->state == TL_WORKER_STARTING)
	{
		db->state = TL_WORKER_NO_SLOT;
		db->retry_at_us = tl_monotonic() + NO_SLOT_RETRY;
	}
	LWLockRelease(&tl_shared->directory);

	/*
	 * One line for one shortage, whomever it hits: stat tells it in each
	 * database.  Those that only look will be gone in a moment, and then it
	 * is tried again at once.
	 */
	if (!complained_of_workers && count_starting() == 0)
	{
		complained_of_workers = true;
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("out of background worker slots: no %s worker for database \"%s\"",
						TL_EXTENSION, name),
				 errdetail("It is tried again every %d seconds.", (int) (NO_SLOT_RETRY / TL_SECOND)),
				 errhint("You might need to increase \"%s\". Until then, call turn_liveness.sweep_expired_turns() in that database.",
						 "max_worker_processes")));
	}
}

/* The next shortage is news again. */
void
tl_crew_note_no_shortage(void)
{
	if (count_starting() == 0)
		complained_of_workers = false;
}
