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
 * the slot and stays.  One that finds no slot free leaves the database's oid in
 * "refused".  The launcher forgets which databases were looked into when
 * rescan_us has come.
 *
 * The launcher tells the log once of each database that no worker serves for
 * want of a slot or of a process, and shows in pg_stat_activity how many there
 * are.  It serves none of them in turn: a database that has had its worker for
 * a while and then has none would meet its deadlines by chance.  A worker wakes
 * the launcher on its exit, but its process is free only when the postmaster
 * has noticed, and wakes the launcher again.  So a roll tries each database
 * that waits for a process, and tells the log when the want has lasted.
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

#include "base/guc.h"
#include "shared/clock.h"
#include "shared/worker_slot.h"
#include "worker/worker.h"

#define INVALID_DATABASE	(-2)	/* datconnlimit of a half-dropped one */
#define MAX_SLEEP			(3600 * TL_SECOND)
#define TOLD				PG_INT64_MAX	/* the log knows of it */

extern PGDLLEXPORT void tl_launcher_main(Datum arg);

/* one pass over pg_database */
typedef struct Roll
{
	int64		now;			/* monotonic */
	bool		may_look;
	Oid			refused;		/* the log is to be told of this one */
	int			without_slot;	/* databases that found none free */
	int			unlooked;		/* databases that a worker is to look into */
	Oid		   *gone;			/* for each slot: was due, and not seen yet */
} Roll;

static List *looked = NIL;		/* oids of databases that were looked into */
/* the worker of the last look; NULL: none was free */
static BackgroundWorkerHandle *look = NULL;
static Oid	look_dboid = InvalidOid;
static int64 look_until = 0;	/* no other before; 0: the last one is over */
static bool look_refused = false;	/* it found no slot free */
static int64 look_short_since = 0;	/* no process is free for it; 0: one was */
static List *refused = NIL;		/* oids of databases that found no slot free */

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
	for (i = 0; i < tl_database_capacity; i++)
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

/* No slot of shared memory was free for this database. */
static void
report_refusal(const char *database)
{
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("%s cannot serve database \"%s\"", TL_EXTENSION, database),
			 errdetail("At most %d databases can use the extension.", tl_database_capacity),
			 errhint("Increase \"%s\" and restart the server, drop the extension where it is not needed, or call turn_liveness.sweep_expired_turns() regularly in that database.",
					 "turn_liveness.database_capacity")));
}

/*
 * The launcher found no process free.  Returns when it is to try again, and
 * whether the log is to be told.  That happens once, where it lasts: the
 * postmaster of a busy machine takes seconds to free the process of a worker
 * that has ended.
 */
static int64
note_shortage(int64 *since, int64 now, bool *news)
{
	if (*since == 0)
		*since = now;
	*news = *since <= now - TL_WORKER_RETRY;
	if (*news)
		*since = TOLD;
	return now + (*since == TOLD ? TL_WORKER_RETRY : TL_SECOND);
}

/* No background worker is free for a database that has a slot. */
static void
report_shortage(TlDatabase *db, Form_pg_database form, int64 now)
{
	TlWorkerSlot *slot = &db->worker;
	bool		news = false;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (db->dboid == form->oid && slot->pid == 0 && slot->state == TL_WORKER_WANTED)
	{
		slot->state = TL_WORKER_NO_SLOT;
		slot->next_try_us = note_shortage(&slot->short_since_us, now, &news);
	}
	LWLockRelease(&tl_shared->directory);
	if (!news)
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("out of background worker slots: no %s worker for database \"%s\"",
					TL_EXTENSION, NameStr(form->datname)),
			 errdetail("It is tried again every %d seconds.", (int) (TL_WORKER_RETRY / TL_SECOND)),
			 errhint("You might need to increase \"%s\". Until then, call turn_liveness.sweep_expired_turns() in that database.",
					 "max_worker_processes")));
}

/* None is free to look into this database, nor into those after it. */
static void
report_no_look(Form_pg_database form, int64 now)
{
	bool		news;

	look_until = note_shortage(&look_short_since, now, &news);
	if (!news)
		return;
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("out of background worker slots: no process looks for %s in database \"%s\" and others",
					TL_EXTENSION, NameStr(form->datname)),
			 errdetail("It is tried again every %d seconds.", (int) (TL_WORKER_RETRY / TL_SECOND)),
			 errhint("Increase \"%s\": besides what others need, one for each database with the extension, and two.",
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

	if (db != NULL)
		refused = list_delete_oid(refused, form->oid);
	if (due && open && !start_worker(form->oid, NULL))
		report_shortage(db, form, roll->now);
	roll->without_slot += list_member_oid(refused, form->oid);
	if (form->oid == roll->refused)
		report_refusal(NameStr(form->datname));
	if (db != NULL || !open || list_member_oid(looked, form->oid))
		return;
	roll->unlooked++;
	if (!roll->may_look)
		return;
	roll->may_look = false;
	look_dboid = form->oid;
	look_until = roll->now + TL_WORKER_RETRY;
	look_refused = false;
	if (look != NULL)
		pfree(look);
	look = NULL;
	if (start_worker(look_dboid, &look))
	{
		looked = lappend_oid(looked, look_dboid);
		look_short_since = 0;
		roll->unlooked--;
	}
	else
		report_no_look(form, roll->now);
}

/*
 * A look that found the extension, and no slot for it, left the database's oid
 * before its process ended.
 */
static void
note_refusal(Roll *roll, Oid dboid, bool over)
{
	look_refused |= dboid == look_dboid;
	if (over && !look_refused)
		refused = list_delete_oid(refused, look_dboid);
	if (!OidIsValid(dboid) || list_member_oid(refused, dboid))
		return;
	refused = lappend_oid(refused, dboid);
	roll->refused = dboid;
}

/*
 * Another look may begin when the worker that looked has ended, or has found
 * the extension and stays, or has not come back for a while: then it waits for
 * a lock.
 */
static void
begin_roll(Roll *roll)
{
	bool		looking = look_until != 0 && look != NULL;
	Oid			dboid;
	pid_t		pid;
	int			i;

	roll->now = tl_monotonic();
	roll->refused = InvalidOid;
	roll->unlooked = roll->without_slot = 0;
	if (look_until <= roll->now ||
		(look != NULL && GetBackgroundWorkerPid(look, &pid) == BGWH_STOPPED))
		look_until = 0;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < tl_database_capacity; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		/* the postmaster may have freed a process */
		if (db->worker.state == TL_WORKER_NO_SLOT)
			db->worker.next_try_us = 0;
		roll->gone[i] = due_at(db) <= roll->now ? db->dboid : InvalidOid;
		if (db->dboid == look_dboid)
			look_until = 0;
	}
	dboid = tl_shared->refused;
	tl_shared->refused = InvalidOid;
	roll->may_look = look_until == 0 && tl_shared->no_looks_until_us <= roll->now;
	/* a look that is not over may have come too early */
	if (roll->may_look && tl_shared->rescan_us <= roll->now)
	{
		tl_shared->rescan_us = PG_INT64_MAX;
		list_free(looked);
		looked = NIL;
	}
	LWLockRelease(&tl_shared->directory);
	note_refusal(roll, dboid, looking && look_until == 0);
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
	StringInfoData activity;
	int			running = 0;
	int			waiting = 0;
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < tl_database_capacity; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		/* the session that dropped it may have died before it freed the slot */
		if (OidIsValid(roll->gone[i]) && db->dboid == roll->gone[i] && due_at(db) <= roll->now)
			tl_database_free(db);
		running += db->worker.state == TL_WORKER_RUNNING;
		waiting += db->worker.state == TL_WORKER_NO_SLOT;
		next = Min(next, due_at(db));
	}
	if (look_until > 0)
		next = Min(next, look_until);
	else if (tl_shared->no_looks_until_us > roll->now)
		next = Min(next, tl_shared->no_looks_until_us);
	else
		next = Min(next, tl_shared->rescan_us);
	LWLockRelease(&tl_shared->directory);
	initStringInfo(&activity);
	appendStringInfo(&activity, "workers running: %d", running);
	if (roll->without_slot > 0)
		appendStringInfo(&activity, ", no room for: %d", roll->without_slot);
	if (waiting > 0)
		appendStringInfo(&activity, ", no process for: %d", waiting);
	if (look_short_since != 0)
		appendStringInfo(&activity, ", not looked at: %d", roll->unlooked);
	pgstat_report_activity(STATE_IDLE, activity.data);
	pfree(activity.data);
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
	Roll		roll;

	tl_process_connect(InvalidOid, "launcher");
	/* what outlives a roll stays there */
	MemoryContextSwitchTo(TopMemoryContext);
	before_shmem_exit(withdraw, (Datum) 0);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	tl_shared->launcher_pid = MyProcPid;
	tl_shared->launcher_latch = MyLatch;
	LWLockRelease(&tl_shared->directory);
	roll.gone = MemoryContextAlloc(TopMemoryContext, tl_database_capacity * sizeof(Oid));
	for (;;)
	{
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
