/*
 * ddl_exclusion.c
 *		Keeps our worker out of a database while a command needs it to itself.
 *
 * DROP DATABASE and its like fail, after five seconds, when anybody is connected.
 * The session that runs one raises a bar in the database's slot, which keeps the
 * launcher from starting a worker; it ends the worker that is there, waits until
 * that has left the database, and lowers the bar when the command is over.  That
 * takes some milliseconds.  It waits five seconds at most: then the command says
 * by itself what is in its way.
 *
 * Rules: a bar is counted, for several sessions may have one up.  It belongs to
 * a database, not to a slot, which may serve another one when it is lowered.  A
 * session has at most one up, and lowers it also when it ends by a FATAL.
 */
#include "base/turn_liveness.h"

#include <signal.h>

#include "access/htup_details.h"
#include "catalog/pg_database.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "utils/syscache.h"

#include "admin/ddl_exclusion.h"
#include "shared/clock.h"
#include "shared/shmem.h"

#define WORKER_PATIENCE	(5 * TL_SECOND)

/* the database whose bar this session has raised */
static Oid	barred = InvalidOid;

static bool may_have_worker(Oid dboid);
static bool worker_is_gone(pid_t *signaled);
static void at_exit(int code, Datum arg);

/* May the launcher start a worker there?  The same rule as in launcher.c. */
static bool
may_have_worker(Oid dboid)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		result = form->datallowconn && !form->datistemplate;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Keep our worker out of the database, and wait until it is.
 */
void
tl_ddl_exclude_worker(Oid dboid)
{
	static bool exit_registered = false;
	bool		make = may_have_worker(dboid);
	TlDatabase *db;
	int64		give_up = tl_monotonic() + WORKER_PATIENCE;
	pid_t		signaled = 0;

	if (!exit_registered)
	{
		before_shmem_exit(at_exit, (Datum) 0);
		exit_registered = true;
	}

	/* no slot: no worker, and without a slot the launcher starts none */
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(dboid, make);
	if (db != NULL)
	{
		db->bars++;
		barred = dboid;
	}
	LWLockRelease(&tl_shared->directory);

	while (!worker_is_gone(&signaled) && tl_monotonic() < give_up)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Is there no worker, none on its way, and the last one no longer among the
 * sessions that the command will count?
 */
static bool
worker_is_gone(pid_t *signaled)
{
	TlDatabase *db;
	bool		gone = true;

	if (!OidIsValid(barred))
		return true;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(barred, false);
	if (db != NULL)
	{
		/* the launcher calls back one that it has registered */
		gone = db->worker_pid == 0 && db->state != TL_WORKER_STARTING;
		if (!gone && tl_shared->launcher_latch)
			SetLatch(tl_shared->launcher_latch);
		if (db->worker_pid != 0 && db->worker_pid != *signaled)
		{
			*signaled = db->worker_pid;
			db->state = TL_WORKER_WANTED;
			db->retry_at_us = 0;
			(void) kill(db->worker_pid, SIGTERM);
		}
	}
	LWLockRelease(&tl_shared->directory);

	/* it withdraws from the slot a moment before it leaves the database */
	return gone && (*signaled == 0 || BackendPidGetProc(*signaled) == NULL);
}

void
tl_ddl_readmit_worker(bool dropped)
{
	TlDatabase *db;

	if (!OidIsValid(barred))
		return;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(barred, false);
	if (db != NULL && dropped)
		tl_database_free(db);
	else if (db != NULL && db->bars > 0)
	{
		db->bars--;
		if (db->state == TL_WORKER_WANTED)
			db->retry_at_us = 0;
	}
	barred = InvalidOid;
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}

static void
at_exit(int code, Datum arg)
{
	tl_ddl_readmit_worker(false);
}
