/*
 * worker_slot.c
 *		The worker of a database, as the other processes see it.
 *
 * This is the state machine of TlWorkerSlot.  A slot begins as WANTED.  The
 * launcher starts a worker in a slot that is WANTED (or NO_SLOT) when
 * next_try_us has come; the worker publishes its pid, sets RUNNING, and on its
 * exit leaves the state that it ends in.  tl_worker_want() makes any slot
 * WANTED again; while a worker is there, look_again does so at that worker's
 * exit, because what the worker has seen may be older than the change.
 *
 * All of it but step_since_us is read and written under TlShared.directory, and
 * a process that holds that lock does nothing else: see database.c.  The worker
 * withdraws under the same lock, so a pid that is read and signaled under it is
 * the worker's.
 */
#include "base/turn_liveness.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"

#include "base/guc.h"
#include "shared/clock.h"
#include "shared/worker_slot.h"

/* after a worker that failed before it had a slot */
#define LOOK_RETRY		(60 * TL_SECOND)

/* The caller holds the directory exclusively. */
static void
want_in_slot(TlWorkerSlot *slot)
{
	slot->next_try_us = 0;
	slot->failed = false;
	slot->look_again = slot->pid != 0;
	if (slot->pid == 0)
		slot->state = TL_WORKER_WANTED;
	else
		(void) kill(slot->pid, SIGTERM);
}

void
tl_worker_want(Oid dboid)
{
	TlDatabase *db;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	/* a session says so of its own database when the extension is there */
	db = tl_database_find(dboid, dboid == MyDatabaseId);
	if (db != NULL)
		want_in_slot(&db->worker);
	else if (dboid == MyDatabaseId)
		/* a worker tells the log that there is no room */
		tl_shared->rescan_us = 0;
	/* any other database without a slot is new: a worker is to look there */
	tl_wake_launcher();
	LWLockRelease(&tl_shared->directory);
}

/*
 * One name for each slot is enough: transactions that change the settings of
 * one database wait for one another.  A worker without a slot reads them when
 * it starts.
 */
void
tl_worker_want_prepared(Oid dboid, uint64 name)
{
	TlDatabase *db;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(dboid, false);
	if (db != NULL)
		db->worker.prepared = name;
	LWLockRelease(&tl_shared->directory);
}

void
tl_worker_end_prepared(uint64 name, bool commit)
{
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < tl_database_capacity; i++)
	{
		TlWorkerSlot *slot = &tl_shared->databases[i].worker;

		if (slot->prepared != name)
			continue;
		slot->prepared = 0;
		if (commit)
			want_in_slot(slot);
	}
	tl_wake_launcher();
	LWLockRelease(&tl_shared->directory);
}

TlDatabase *
tl_worker_publish(Oid dboid, bool make)
{
	int64		now = tl_monotonic();
	TlDatabase *db;
	bool		taken = false;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(dboid, false);
	if (db != NULL)
		taken = db->worker.pid != 0 || db->worker.excluded_until_us > now;
	else if (make && tl_shared->no_looks_until_us > now)
	{
		/* the launcher has a worker look again when the command is over */
		taken = true;
		tl_shared->rescan_us = 0;
	}
	else if (make && (db = tl_database_find(dboid, true)) == NULL)
	{
		/* the launcher reads one at a time: a second is to be found again */
		if (OidIsValid(tl_shared->refused))
			tl_shared->rescan_us = 0;
		else
			tl_shared->refused = dboid;
	}
	if (db != NULL && !taken)
	{
		db->worker.pid = MyProcPid;
		db->worker.latch = MyLatch;
		db->worker.look_again = false;
		db->worker.short_since_us = 0;
	}
	LWLockRelease(&tl_shared->directory);
	/* the exit callback finds no slot to withdraw from */
	if (taken)
		proc_exit(0);
	return db;
}

void
tl_worker_set_running(TlDatabase *db)
{
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	Assert(db->worker.pid == MyProcPid);
	db->worker.state = TL_WORKER_RUNNING;
	db->worker.failed = false;
	tl_wake_launcher();
	LWLockRelease(&tl_shared->directory);
}

void
tl_worker_withdraw(TlDatabase *db, TlWorkerState state, bool failed)
{
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	/* the slot may be another's if its database was dropped meanwhile */
	if (db != NULL && db->worker.pid == MyProcPid)
	{
		TlWorkerSlot *slot = &db->worker;

		slot->failed = failed && !slot->look_again;
		slot->state = slot->look_again ? TL_WORKER_WANTED : state;
		slot->next_try_us = slot->failed ? tl_monotonic() + TL_WORKER_RETRY : 0;
		slot->pid = 0;
		slot->latch = NULL;
		slot->look_again = false;
		slot->skipped_since_us = 0;
		pg_atomic_write_u64(&db->wake_us, PG_INT64_MAX);
	}
	else if (db == NULL && failed)
		/* the launcher cannot tell a look that failed from a fruitless one */
		tl_shared->rescan_us = Min(tl_shared->rescan_us, tl_monotonic() + LOOK_RETRY);
	tl_wake_launcher();
	LWLockRelease(&tl_shared->directory);
}

pid_t
tl_worker_exclude(Oid dboid, int64 until_us)
{
	TlDatabase *db;
	pid_t		pid = 0;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(dboid, false);
	if (db != NULL)
	{
		db->worker.excluded_until_us = until_us;
		pid = db->worker.pid;
		if (pid != 0)
			(void) kill(pid, SIGTERM);
	}
	else
		tl_shared->no_looks_until_us = until_us;
	LWLockRelease(&tl_shared->directory);
	return pid;
}

void
tl_worker_readmit(Oid dboid, bool dropped)
{
	TlDatabase *db;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(dboid, false);
	/* no session is left that could hold a pointer to the slot */
	if (db != NULL && dropped)
		tl_database_free(db);
	else if (db != NULL)
		db->worker.excluded_until_us = db->worker.next_try_us = 0;
	else
		tl_shared->no_looks_until_us = 0;
	tl_wake_launcher();
	LWLockRelease(&tl_shared->directory);
}
