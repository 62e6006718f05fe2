/*
 * launcher.c
 *		The process that keeps a worker in each database that has the extension.
 *
 * The launcher calls a roll.  In each slot of shared memory that is WANTED and
 * has no worker it starts one, and if none has published itself after a while it
 * starts another.  It keeps no handle of these workers: a slot says all there is.
 *
 * The launcher is connected to no database, so it cannot see where the extension
 * is, and a database may have it without a slot: after a start of the server, or
 * as a copy.  When rescan_databases is set, the launcher reads pg_database and
 * has a worker look into each database without a slot, one after the other.  A
 * worker that finds the extension makes the slot and stays.
 *
 * The postmaster signals the launcher when a worker ends.  Workers and sessions
 * set its latch when they change a slot.  So the launcher sleeps until the next
 * retry, and without one for good.
 */
#include "base/turn_liveness.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "shared/clock.h"
#include "shared/worker_slot.h"
#include "worker/launcher.h"
#include "worker/process_settings.h"

#define LOOK_PATIENCE		(5 * TL_SECOND) /* then that worker waits for a lock */
#define RESCAN_AFTER		(60 * TL_SECOND)	/* when a look came to nothing */
#define INVALID_DATABASE	(-2)	/* datconnlimit of a half-dropped one */

/* a database to look into */
typedef struct Candidate
{
	Oid			oid;
	NameData	name;
} Candidate;

static List *candidates = NIL;	/* of the last scan, not looked into yet */
static List *without_extension = NIL;	/* oids: a look found none */
static List *without_room = NIL;	/* oids: all slots were taken, and the log says so */
static BackgroundWorkerHandle *look = NULL; /* the worker that is looking */
static NameData look_name;
static int64 look_started;
static int64 next_look = 0;
static int64 next_scan = PG_INT64_MAX;
static bool reported_shortage = false;	/* of background worker slots */

/* As die(), but also ends the loop, in which the launcher nearly always sleeps. */
static void
on_sigterm(SIGNAL_ARGS)
{
	ShutdownRequestPending = true;
	tl_call_signal_handler_compat(die);
}

static void
withdraw(int code, Datum arg)
{
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (tl_shared->launcher_pid == MyProcPid)
	{
		tl_shared->launcher_pid = 0;
		tl_shared->launcher_latch = NULL;
	}
	LWLockRelease(&tl_shared->directory);
}

static void
publish(void)
{
	before_shmem_exit(withdraw, (Datum) 0);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	tl_shared->launcher_pid = MyProcPid;
	tl_shared->launcher_latch = MyLatch;
	/* an earlier launcher may not have got through its list */
	tl_shared->rescan_databases = true;
	LWLockRelease(&tl_shared->directory);
}

/*
 * The configuration file may have changed turn_liveness.enabled.  A DBA who has
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

/* Only a database that allows connections and is no template has a worker. */
static bool
takes_workers(HeapTuple tuple)
{
	Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

	return form->datallowconn && !form->datistemplate && form->datconnlimit != INVALID_DATABASE;
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
start_worker(Oid dboid, const char *name, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;
	char		activity[NAMEDATALEN + 64];

	snprintf(activity, sizeof(activity), "starting a worker in database \"%s\"", name);
	pgstat_report_activity(STATE_RUNNING, activity);
	describe_process(&worker, "worker", "tl_worker_main");
	worker.bgw_flags |= TL_BGWORKER_INTERRUPTIBLE_COMPAT;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(dboid);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* May a worker be started in this slot now?  Caller holds the directory. */
static bool
is_due(TlDatabase *db, int64 now)
{
	return OidIsValid(db->dboid) && db->worker.pid == 0 && db->worker.next_try_us <= now &&
		(db->worker.state == TL_WORKER_WANTED || db->worker.state == TL_WORKER_NO_SLOT) &&
		tl_worker_excluded_until(db->dboid) == 0;
}

/*
 * False if the database is gone.  This function reads the table, not the cache:
 * a session sets the launcher's latch before it sends its invalidations.
 */
static bool
read_database(Oid dboid, NameData *name, bool *open)
{
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	StartTransactionCommand();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_database_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(dboid));
	/* without a database there is no cache for the index */
	scan = systable_beginscan(rel, DatabaseOidIndexId, false, NULL, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		*name = ((Form_pg_database) GETSTRUCT(tuple))->datname;
		*open = takes_workers(tuple);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return found;
}

static void
report_shortage(const char *name)
{
	if (reported_shortage)
		return;
	/* one line for one shortage: stat tells of it in each database */
	reported_shortage = true;
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("out of background worker slots: no %s worker for database \"%s\"",
					TL_EXTENSION, name),
			 errdetail("It is tried again every %d seconds.", (int) (TL_WORKER_RETRY / TL_SECOND)),
			 errhint("You might need to increase \"%s\". Until then, call turn_liveness.sweep_expired_turns() in that database.",
					 "max_worker_processes")));
}

/*
 * The catalog is read without the directory lock, so the slot may have changed
 * when the launcher comes back to it.
 */
static void
start_due_worker(TlDatabase *db, Oid dboid)
{
	NameData	name;
	bool		start = false;
	bool		exists = read_database(dboid, &name, &start);

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (db->dboid != dboid || !is_due(db, tl_monotonic()))
		start = false;
	else if (!exists)
		tl_database_free(db);
	else if (!start)
		db->worker.state = TL_WORKER_NONE;
	else
	{
		db->worker.state = TL_WORKER_WANTED;
		db->worker.next_try_us = tl_monotonic() + TL_WORKER_RETRY;
	}
	LWLockRelease(&tl_shared->directory);

	if (!start || start_worker(dboid, NameStr(name), NULL))
		return;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (db->dboid == dboid && db->worker.pid == 0 && db->worker.state == TL_WORKER_WANTED)
		db->worker.state = TL_WORKER_NO_SLOT;
	LWLockRelease(&tl_shared->directory);
	report_shortage(NameStr(name));
}

static void
start_due_workers(void)
{
	int			i;

	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];
		Oid			dboid = InvalidOid;

		LWLockAcquire(&tl_shared->directory, LW_SHARED);
		if (is_due(db, tl_monotonic()))
			dboid = db->dboid;
		LWLockRelease(&tl_shared->directory);
		if (OidIsValid(dboid))
			start_due_worker(db, dboid);
	}
}

/* Which databases there are that no look has found without the extension. */
static void
scan_databases(void)
{
	MemoryContext old;
	List	   *known = without_extension;
	List	   *no_room = without_room;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	list_free_deep(candidates);
	candidates = without_extension = without_room = NIL;
	next_scan = PG_INT64_MAX;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	tl_shared->rescan_databases = false;
	LWLockRelease(&tl_shared->directory);

	pgstat_report_activity(STATE_RUNNING, "reading the list of databases");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	old = MemoryContextSwitchTo(TopMemoryContext);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		/* the lists are made anew, without databases that are gone */
		if (list_member_oid(no_room, form->oid))
			without_room = lappend_oid(without_room, form->oid);
		if (list_member_oid(known, form->oid))
			without_extension = lappend_oid(without_extension, form->oid);
		else if (takes_workers(tuple))
		{
			Candidate  *candidate = palloc(sizeof(Candidate));

			candidate->oid = form->oid;
			candidate->name = form->datname;
			candidates = lappend(candidates, candidate);
		}
	}
	MemoryContextSwitchTo(old);
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	list_free(known);
	list_free(no_room);
}

/*
 * The worker that looked has ended, or has found the extension and stays, or has
 * not come back for so long that others shall not wait for it.
 */
static bool
look_is_over(void)
{
	MemoryContext old;
	pid_t		pid;
	bool		stopped = GetBackgroundWorkerPid(look, &pid) == BGWH_STOPPED;
	TlLookResult result;
	TlDatabase *db;
	Oid			dboid;
	bool		served;

	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	dboid = tl_shared->look_dboid;
	result = tl_shared->look_result;
	db = tl_database_find(dboid, false);
	served = db != NULL;
	LWLockRelease(&tl_shared->directory);
	if (!stopped && !served && tl_monotonic() < look_started + LOOK_PATIENCE)
		return false;
	pfree(look);
	look = NULL;
	if (served)
		return true;

	old = MemoryContextSwitchTo(TopMemoryContext);
	if (result == TL_LOOK_NO_EXTENSION)
		without_extension = lappend_oid(without_extension, dboid);
	else
		next_scan = Min(next_scan, tl_monotonic() + RESCAN_AFTER);
	if (result == TL_LOOK_NO_ROOM && !list_member_oid(without_room, dboid))
	{
		without_room = lappend_oid(without_room, dboid);
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("%s cannot serve database \"%s\"", TL_EXTENSION, NameStr(look_name)),
				 errdetail("At most %d databases can use the extension.", TL_MAX_DATABASES),
				 errhint("Drop the extension where it is not needed, or call turn_liveness.sweep_expired_turns() regularly there.")));
	}
	MemoryContextSwitchTo(old);
	return true;
}

/* One look at a time: most of them take some milliseconds. */
static void
look_into_databases(void)
{
	int64		now = tl_monotonic();

	if (look != NULL && !look_is_over())
		return;
	if (tl_shared->rescan_databases || now >= next_scan)
		scan_databases();
	while (candidates != NIL && look == NULL && now >= next_look)
	{
		Candidate  *candidate = linitial(candidates);
		MemoryContext old;
		bool		start;

		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		start = tl_database_find(candidate->oid, false) == NULL;
		tl_shared->look_dboid = candidate->oid;
		tl_shared->look_result = TL_LOOK_PENDING;
		LWLockRelease(&tl_shared->directory);

		look_name = candidate->name;
		look_started = now;
		old = MemoryContextSwitchTo(TopMemoryContext);
		if (start && !start_worker(candidate->oid, NameStr(candidate->name), &look))
		{
			/* all background workers are in use: try again in a while */
			look = NULL;
			next_look = now + TL_WORKER_RETRY;
		}
		else
		{
			candidates = list_delete_first(candidates);
			pfree(candidate);
		}
		MemoryContextSwitchTo(old);
	}
}

/* When the launcher has something to do, unless its latch is set before. */
static int64
next_appointment(void)
{
	int64		next = next_scan;
	int			i;

	if (look != NULL)
		next = Min(next, look_started + LOOK_PATIENCE);
	else if (candidates != NIL)
		next = Min(next, next_look);
	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (is_due(db, PG_INT64_MAX))
			next = Min(next, db->worker.next_try_us);
		else if (OidIsValid(db->dboid) && tl_worker_excluded_until(db->dboid) > 0)
			next = Min(next, tl_worker_excluded_until(db->dboid));
	}
	LWLockRelease(&tl_shared->directory);
	return next;
}

static void
report_idle(void)
{
	char		activity[64];
	bool		shortage = false;
	int			running = 0;
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlWorkerState state = tl_shared->databases[i].worker.state;

		running += state == TL_WORKER_RUNNING;
		shortage |= state == TL_WORKER_NO_SLOT;
	}
	LWLockRelease(&tl_shared->directory);
	/* the next shortage is worth another line in the log */
	reported_shortage &= shortage;
	snprintf(activity, sizeof(activity), "workers running: %d", running);
	pgstat_report_activity(STATE_IDLE, activity);
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
	pqsignal(SIGTERM, on_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	tl_process_settings_fix(TL_EXTENSION " launcher");
	publish();

	for (;;)
	{
		int64		next;
		long		timeout = -1;
		int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

		ResetLatch(MyLatch);
		/* an idle launcher leaves no FATAL in the log; with 1 it is started again */
		if (ShutdownRequestPending)
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			want_reloaded();
		}
		start_due_workers();
		look_into_databases();
		report_idle();

		next = next_appointment();
		if (next < PG_INT64_MAX)
		{
			events |= WL_TIMEOUT;
			/* rounded up, or the launcher would wake a little early */
			timeout = (long) ((Max(next - tl_monotonic(), 0) + TL_MS - 1) / TL_MS);
		}
		(void) WaitLatch(MyLatch, events, timeout, PG_WAIT_EXTENSION);
	}
}
