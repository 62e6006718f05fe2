/*
 * launcher.c
 *		The process that keeps a worker in each database with the extension.
 *
 * The launcher calls a roll.  Each time it wakes it reads pg_database once.  In
 * each slot of shared memory that is WANTED and has no worker it starts one,
 * and if none has published itself after a while it starts another.  It keeps
 * no handle of these workers: a slot says all there is.
 *
 * The launcher is connected to no database, so it cannot see where the
 * extension is, and a database may have it without a slot: after a start of the
 * server, or as a copy.  So the launcher has a worker look into each database
 * without a slot, one after the other.  A worker that finds the extension makes
 * the slot and stays.  The launcher forgets which databases were looked into
 * when rescan_us has come.
 *
 * The postmaster signals the launcher when a worker ends.  Workers and sessions
 * set its latch when they change a slot.  So the launcher sleeps until the next
 * retry, or for an hour.
 */
#include "base/turn_liveness.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "shared/clock.h"
#include "shared/worker_slot.h"
#include "worker/worker.h"

#define INVALID_DATABASE	(-2)	/* datconnlimit of a half-dropped one */
#define MAX_SLEEP			(3600 * TL_SECOND)

extern PGDLLEXPORT void tl_launcher_main(Datum arg);

/* one pass over pg_database */
typedef struct Roll
{
	int64		now;			/* monotonic */
	bool		may_look;
	Oid			gone[TL_MAX_DATABASES]; /* slots that were due, and not seen yet */
} Roll;

static List *looked = NIL;		/* oids of databases that a worker looked into */
static BackgroundWorkerHandle *look = NULL; /* the last worker that did; NULL: none was free */
static Oid	look_dboid = InvalidOid;
static int64 look_until = 0;	/* no other look before; 0: the last one is over */
static bool reported_shortage = false;	/* of background worker slots */

/* Until then sessions set the latch under the directory lock. */
static void
withdraw(int code, Datum arg)
{
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	tl_shared->launcher_pid = 0;
	tl_shared->launcher_latch = NULL;
	LWLockRelease(&tl_shared->directory);
}

/*
 * The configuration file may have changed turn_liveness.enabled.  A DBA that
 * removed the cause of a failing worker can also ask for another this way.
 */
static void
want_reloaded(void)
{
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlWorkerSlot *slot = &tl_shared->databases[i].worker;

		if (slot->state == TL_WORKER_DISABLED)
			slot->state = TL_WORKER_WANTED;
		slot->next_try_us = 0;
	}
	LWLockRelease(&tl_shared->directory);
}

static void
describe_process(BackgroundWorker *worker, const char *kind, const char *function)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	snprintf(worker->bgw_name, BGW_MAXLEN, "%s %s", TL_EXTENSION, kind);
	snprintf(worker->bgw_type, BGW_MAXLEN, "%s %s", TL_EXTENSION, kind);
	snprintf(worker->bgw_library_name, BGW_MAXLEN, TL_EXTENSION);
	snprintf(worker->bgw_function_name, BGW_MAXLEN, "%s", function);
}

/* False if no background worker is free. */
static bool
start_worker(Oid dboid, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	describe_process(&worker, "worker", "tl_worker_main");
	worker.bgw_flags |= BGWORKER_INTERRUPTIBLE;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(dboid);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* When a worker may be started in this slot.  Caller holds the directory. */
static int64
due_at(TlDatabase *db)
{
	if (!OidIsValid(db->dboid) || db->worker.pid != 0 ||
		(db->worker.state != TL_WORKER_WANTED && db->worker.state != TL_WORKER_NO_SLOT))
		return PG_INT64_MAX;
	return Max(db->worker.next_try_us, db->worker.excluded_until_us);
}

/* The log is told of one shortage once: stat tells of it in each database. */
static void
report_shortage(TlDatabase *db, Form_pg_database form)
{
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (db->dboid == form->oid && db->worker.pid == 0 && db->worker.state == TL_WORKER_WANTED)
		db->worker.state = TL_WORKER_NO_SLOT;
	LWLockRelease(&tl_shared->directory);
	if (reported_shortage)
		return;
	reported_shortage = true;
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("out of background worker slots: no %s worker for database \"%s\"",
					TL_EXTENSION, NameStr(form->datname)),
			 errdetail("It is tried again every %d seconds.", (int) (TL_WORKER_RETRY / TL_SECOND)),
			 errhint("You might need to increase \"%s\". Until then, call turn_liveness.sweep_expired_turns() in that database.",
					 "max_worker_processes")));
}

/* Start a worker in this database if its slot is due, a look if it has none. */
static void
visit_database(Roll *roll, Form_pg_database form)
{
	/* a worker needs a database that allows connections and is no template */
	bool		open = form->datallowconn && !form->datistemplate &&
		form->datconnlimit != INVALID_DATABASE;
	bool		due;
	TlDatabase *db;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(form->oid, false);
	due = db != NULL && due_at(db) <= roll->now;
	if (db != NULL)
	{
		roll->gone[db - tl_shared->databases] = InvalidOid;
		db->worker.closed = !open;
	}
	if (due)
	{
		db->worker.state = open ? TL_WORKER_WANTED : TL_WORKER_NONE;
		db->worker.next_try_us = roll->now + TL_WORKER_RETRY;
	}
	LWLockRelease(&tl_shared->directory);

	if (due && open && !start_worker(form->oid, NULL))
		report_shortage(db, form);
	if (db != NULL || !open || !roll->may_look || list_member_oid(looked, form->oid))
		return;
	roll->may_look = false;
	look_dboid = form->oid;
	look_until = roll->now + TL_WORKER_RETRY;
	if (look != NULL)
		pfree(look);
	look = NULL;
	/* if all background workers are in use, the look is tried again then */
	if (start_worker(look_dboid, &look))
		looked = lappend_oid(looked, look_dboid);
}

/*
 * Another look may begin when the worker that looked has ended, or has found
 * the extension and stays, or has not come back for a while: then it waits for
 * a lock.
 */
static void
begin_roll(Roll *roll)
{
	pid_t		pid;
	int			i;

	roll->now = tl_monotonic();
	if (look_until <= roll->now ||
		(look != NULL && GetBackgroundWorkerPid(look, &pid) == BGWH_STOPPED))
		look_until = 0;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		roll->gone[i] = due_at(db) <= roll->now ? db->dboid : InvalidOid;
		if (db->dboid == look_dboid)
			look_until = 0;
	}
	roll->may_look = look_until == 0 && tl_shared->no_looks_until_us <= roll->now;
	/* a look that is not over may have come too early */
	if (roll->may_look && tl_shared->rescan_us <= roll->now)
	{
		tl_shared->rescan_us = PG_INT64_MAX;
		list_free(looked);
		looked = NIL;
	}
	LWLockRelease(&tl_shared->directory);
}

static void
read_databases(Roll *roll)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	pgstat_report_activity(STATE_RUNNING, "reading the list of databases");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	MemoryContextSwitchTo(TopMemoryContext);
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
		visit_database(roll, (Form_pg_database) GETSTRUCT(tuple));
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/* Returns when the next roll is to be called, if no latch asks for it. */
static int64
end_roll(const Roll *roll)
{
	int64		next = PG_INT64_MAX;
	char		activity[64];
	bool		shortage = false;
	int			running = 0;
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		/* the session that dropped it may have died before it freed the slot */
		if (OidIsValid(roll->gone[i]) && db->dboid == roll->gone[i] && due_at(db) <= roll->now)
			tl_database_free(db);
		running += db->worker.state == TL_WORKER_RUNNING;
		shortage |= db->worker.state == TL_WORKER_NO_SLOT;
		next = Min(next, due_at(db));
	}
	if (look_until > 0)
		next = Min(next, look_until);
	else if (tl_shared->no_looks_until_us > roll->now)
		next = Min(next, tl_shared->no_looks_until_us);
	else
		next = Min(next, tl_shared->rescan_us);
	LWLockRelease(&tl_shared->directory);
	/* the next shortage is worth another line in the log */
	reported_shortage &= shortage;
	snprintf(activity, sizeof(activity), "workers running: %d", running);
	pgstat_report_activity(STATE_IDLE, activity);
	return next;
}

void
tl_launcher_register(void)
{
	BackgroundWorker worker;

	describe_process(&worker, "launcher", "tl_launcher_main");
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
}

void
tl_launcher_main(Datum arg)
{
	tl_process_connect(InvalidOid, "launcher");
	before_shmem_exit(withdraw, (Datum) 0);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	tl_shared->launcher_pid = MyProcPid;
	tl_shared->launcher_latch = MyLatch;
	LWLockRelease(&tl_shared->directory);
	for (;;)
	{
		Roll		roll;
		int64		pause;

		ResetLatch(MyLatch);
		/* with this code the postmaster starts it again */
		if (tl_process_handle_signals(1))
			want_reloaded();
		begin_roll(&roll);
		read_databases(&roll);
		pause = Max(end_roll(&roll) - tl_monotonic(), 0);
		/* rounded up, or the launcher would wake a little early */
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) (Min(pause, MAX_SLEEP) / TL_MS) + 1, PG_WAIT_EXTENSION);
	}
}
