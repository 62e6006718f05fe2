/*
 * worker_slot.c
 *		The worker of a database, as the other processes see it.
 *
 * This is the state machine of TlWorkerSlot.  A slot begins as WANTED.  The
 * launcher starts a worker in a slot that is WANTED (or NO_SLOT) when next_try_us
 * has come; the worker publishes its pid, sets RUNNING, and on its exit leaves
 * the state that it ends in.  tl_worker_want() makes any slot WANTED again; while
 * a worker is there, look_again does so at that worker's exit, because what the
 * worker has seen may be older than the change.
 *
 * Rule: all of it is read and written under TlShared.directory, and a process
 * that holds that lock does nothing else: no catalog access, no wait, no other
 * lock but those named at the top of shmem.c.  The worker withdraws under the
 * same lock, so a pid that is read and signaled under it is the worker's.  The
 * step is the exception: the worker alone writes it, without a lock.
 */
#include "base/turn_liveness.h"

#include <signal.h>

#include "miscadmin.h"

#include "shared/clock.h"
#include "shared/worker_slot.h"

void
tl_worker_want(Oid dboid)
{
	TlDatabase *db;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	/* a session says so of its own database when the extension is there */
	db = tl_database_find(dboid, dboid == MyDatabaseId);
	if (db == NULL)
		tl_shared->rescan_databases = true;
	else
	{
		db->worker.next_try_us = 0;
		db->worker.failed = false;
		if (db->worker.pid == 0)
			db->worker.state = TL_WORKER_WANTED;
		else
		{
			db->worker.look_again = true;
			(void) kill(db->worker.pid, SIGTERM);
		}
	}
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}

bool
tl_worker_publish(Oid dboid, bool make, TlDatabase **db)
{
	bool		result = false;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	*db = tl_database_find(dboid, make);
	if (tl_worker_excluded_until(dboid) == 0 && (*db == NULL || (*db)->worker.pid == 0))
	{
		result = true;
		if (*db != NULL)
		{
			(*db)->worker.pid = MyProcPid;
			(*db)->worker.latch = MyLatch;
			(*db)->worker.look_again = false;
		}
	}
	LWLockRelease(&tl_shared->directory);
	return result;
}

void
tl_worker_set_running(TlDatabase *db)
{
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	Assert(db->worker.pid == MyProcPid);
	db->worker.state = TL_WORKER_RUNNING;
	db->worker.failed = false;
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}

void
tl_worker_withdraw(TlDatabase *db, TlWorkerState state, bool failed)
{
	TlWorkerSlot *slot = &db->worker;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (slot->pid == MyProcPid)
	{
		if (slot->look_again)
		{
			state = TL_WORKER_WANTED;
			failed = false;
		}
		slot->pid = 0;
		slot->latch = NULL;
		slot->look_again = false;
		slot->state = state;
		slot->failed = failed;
		slot->next_try_us = failed ? tl_monotonic() + TL_WORKER_RETRY : 0;
		pg_atomic_write_u64(&slot->running.since_us, 0);
		pg_atomic_write_u64(&slot->skipped.since_us, 0);
		pg_atomic_write_u64(&db->wake_us, PG_INT64_MAX);
	}
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}

void
tl_worker_report_look(Oid dboid, TlLookResult result)
{
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (tl_shared->look_dboid == dboid)
		tl_shared->look_result = result;
	LWLockRelease(&tl_shared->directory);
}

void
tl_worker_exclude(Oid dboid, int64 until_us)
{
	TlExclusion *mine = &tl_shared->exclusions[0];
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_EXCLUSIONS; i++)
	{
		TlExclusion *exclusion = &tl_shared->exclusions[i];

		if (exclusion->dboid == dboid)
		{
			mine = exclusion;
			break;
		}
		if (exclusion->until_us < mine->until_us)
			mine = exclusion;
	}
	mine->dboid = dboid;
	mine->until_us = until_us;
	LWLockRelease(&tl_shared->directory);
}

int64
tl_worker_excluded_until(Oid dboid)
{
	int			i;

	Assert(LWLockHeldByMe(&tl_shared->directory));
	for (i = 0; i < TL_MAX_EXCLUSIONS; i++)
	{
		TlExclusion *exclusion = &tl_shared->exclusions[i];

		if (exclusion->dboid == dboid && exclusion->until_us > tl_monotonic())
			return exclusion->until_us;
	}
	return 0;
}

void
tl_worker_readmit(Oid dboid, bool dropped)
{
	TlDatabase *db;
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_EXCLUSIONS; i++)
		if (tl_shared->exclusions[i].dboid == dboid)
			tl_shared->exclusions[i].until_us = 0;
	db = tl_database_find(dboid, false);
	if (db != NULL && dropped)
		tl_database_free(db);
	else if (db != NULL)
		db->worker.next_try_us = 0;
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}

pid_t
tl_worker_terminate(Oid dboid, pid_t *signaled)
{
	TlDatabase *db;
	pid_t		pid = 0;

	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	db = tl_database_find(dboid, false);
	if (db != NULL)
		pid = db->worker.pid;
	if (pid != 0 && pid != *signaled)
	{
		*signaled = pid;
		(void) kill(pid, SIGTERM);
	}
	LWLockRelease(&tl_shared->directory);
	return pid;
}

/* since_us is 0 while the name changes, so that no reader takes half of it. */
void
tl_worker_note_step(TlStep *step, const char *name)
{
	pg_atomic_write_u64(&step->since_us, 0);
	if (name == NULL)
		return;
	pg_write_barrier();
	strlcpy(step->name, name, TL_STEP_LEN);
	pg_write_barrier();
	pg_atomic_write_u64(&step->since_us, tl_monotonic());
}

int64
tl_worker_read_step(TlStep *step, char *name)
{
	uint64		since = pg_atomic_read_u64(&step->since_us);

	pg_read_barrier();
	strlcpy(name, step->name, TL_STEP_LEN);
	pg_read_barrier();
	return pg_atomic_read_u64(&step->since_us) == since ? since : 0;
}
