/*
 * launcher.c
 *		The process that keeps a worker in each database that has the extension.
 *
 * It is connected to no database, so it is in nobody's way, and cannot know
 * which database has the extension: it starts a worker, and the worker looks.
 * Whom to look at is written in the slots of shared memory (state WANTED) by
 * the utility hook and by workers that end, who then set the launcher's latch.
 * Databases that nobody has looked at yet are worked through, a few at a time,
 * when the launcher starts.
 *
 * Rules:
 * - A slot's state, pid and bars are read and written under the directory lock
 *   only, and nothing else happens under it: no catalog, no wait, no other lock
 *   (but see recycle_slot).
 * - At most one worker for a slot: one is registered only while the slot has no
 *   pid, no bar, and the launcher no handle for it.  A worker that was started
 *   by an earlier launcher and publishes itself late finds a pid in the slot, or
 *   leaves its own there for the second one to find: the second one ends.
 * - WANTED is never overwritten by a worker that ends: what it has seen may be
 *   older than what the hook was told.
 * - The postmaster signals us when a worker ends, hook and workers set the latch:
 *   the only timeouts are those of a retry, and while a worker is on its way.
 */
#include "turn_liveness.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "clock.h"
#include "launcher.h"
#include "shmem.h"

#define MAX_STARTING		2		/* most of them look and end at once */
#define STARTING_PATIENCE	(5 * TL_SECOND) /* then it waits for a lock: let others in */
#define STARTING_CHECK		TL_SECOND
#define STARTING_CHECK_BUSY	(50 * TL_MS)	/* when others wait for their turn */
#define NO_SLOT_RETRY		(10 * TL_SECOND)
#define REFUSED_RETRY		(60 * TL_SECOND)
#define FIRST_RETRY			TL_SECOND
#define LAST_RETRY			(64 * TL_SECOND)
#define INVALID_DATABASE	(-2)	/* datconnlimit of a half-dropped one */

/* a row of pg_database */
typedef struct Database
{
	Oid			oid;
	bool		wanted;			/* a worker may run there */
	NameData	name;
} Database;

/* what we know of the worker of a slot, besides the slot */
typedef struct Helper
{
	BackgroundWorkerHandle *handle; /* NULL: none that we started lives */
	Oid			dboid;			/* for which it was started */
	int64		started;
	int			failures;		/* ends in a row before it ran */
} Helper;

static Helper helpers[TL_MAX_DATABASES];
static List *unlooked = NIL;	/* databases that nobody has looked at, by oid */
static bool refused = false;	/* one of them found no slot in shared memory */
static bool complained_of_slots = false;
static int64 next_slot_retry = 0;
static bool complained_of_workers = false;	/* max_worker_processes */

static void on_sigterm(SIGNAL_ARGS);
static void publish(void);
static void withdraw(int code, Datum arg);
static void adopt_orphans(void);
static void want_disabled(void);
static bool mark_wanted(TlDatabase *db);
static void reap_workers(void);
static bool anything_to_start(void);
static List *read_databases(void);
static Database *find_database(List *databases, Oid dboid);
static void free_slots(const Oid *slots, List *databases);
static void note_unlooked(List *databases);
static TlDatabase *recycle_slot(Oid dboid);
static int	count_starting(void);
static void start_wanted(List *databases);
static void start_unlooked(List *databases);
static void start_worker(int slot, Database *database);
static int64 next_appointment(void);
static void report_idle(void);

void
tl_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	snprintf(worker.bgw_name, BGW_MAXLEN, TL_EXTENSION " launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, TL_EXTENSION " launcher");
	snprintf(worker.bgw_library_name, BGW_MAXLEN, TL_EXTENSION);
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "tl_launcher_main");
	RegisterBackgroundWorker(&worker);
}

void
tl_launcher_main(Datum arg)
{
	MemoryContext loop_context;

	pqsignal(SIGTERM, on_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	/* nothing that somebody configured for sessions may stop us */
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", TL_EXTENSION " launcher", PGC_USERSET, PGC_S_OVERRIDE);

	loop_context = AllocSetContextCreate(TopMemoryContext, TL_EXTENSION " launcher",
										 ALLOCSET_DEFAULT_SIZES);
	publish();
	adopt_orphans();

	for (;;)
	{
		int64		next;
		long		timeout = -1;
		int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

		ResetLatch(MyLatch);
		/* idle, we go without a FATAL in the log at each shutdown; 1: start us again */
		if (ShutdownRequestPending)
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			want_disabled();
		}

		reap_workers();
		if (anything_to_start())
		{
			List	   *databases;
			Oid			slots[TL_MAX_DATABASES];
			int			i;

			MemoryContextSwitchTo(loop_context);

			/* the slots first: one that appears meanwhile is of a database that we may not see */
			LWLockAcquire(&tl_shared->directory, LW_SHARED);
			for (i = 0; i < TL_MAX_DATABASES; i++)
				slots[i] = tl_shared->databases[i].dboid;
			LWLockRelease(&tl_shared->directory);

			databases = read_databases();
			free_slots(slots, databases);
			note_unlooked(databases);
			start_wanted(databases);
			start_unlooked(databases);

			MemoryContextSwitchTo(TopMemoryContext);
			MemoryContextReset(loop_context);
		}
		report_idle();

		next = next_appointment();
		if (next < PG_INT64_MAX)
		{
			events |= WL_TIMEOUT;
			/* rounded up, or we would wake a little early */
			timeout = (long) ((Max(next - tl_monotonic(), 0) + TL_MS - 1) / TL_MS);
		}
		(void) WaitLatch(MyLatch, events, timeout, PG_WAIT_EXTENSION);
	}
}

/* As die(), but tells the loop too, which is where we nearly always are. */
static void
on_sigterm(SIGNAL_ARGS)
{
	ShutdownRequestPending = true;
	die(postgres_signal_arg);
}

static void
publish(void)
{
	before_shmem_exit(withdraw, (Datum) 0);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	tl_shared->launcher_pid = MyProcPid;
	tl_shared->launcher_latch = MyLatch;
	/* an earlier launcher may not have got through its list */
	tl_shared->look_everywhere = true;
	LWLockRelease(&tl_shared->directory);
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

/*
 * Workers of an earlier launcher go on, and wake us when they end.  One that it
 * had registered may have died before it published itself: nobody knows, so
 * another one is started after a moment.
 */
static void
adopt_orphans(void)
{
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (OidIsValid(db->dboid) && db->state == TL_WORKER_STARTING && db->worker_pid == 0)
		{
			db->state = TL_WORKER_WANTED;
			db->retry_at_us = tl_monotonic() + FIRST_RETRY;
		}
	}
	LWLockRelease(&tl_shared->directory);
}

/* turn_liveness.enabled may have been changed in the configuration file. */
static void
want_disabled(void)
{
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (OidIsValid(db->dboid) && db->state == TL_WORKER_DISABLED)
			(void) mark_wanted(db);
	}
	LWLockRelease(&tl_shared->directory);
}

/*
 * The caller holds the directory exclusively, which keeps the pid from being
 * given to another process: the worker withdraws under the same lock.
 */
static bool
mark_wanted(TlDatabase *db)
{
	/* it has not connected yet, so it will see what there is to see */
	if (db->state == TL_WORKER_STARTING && db->worker_pid == 0)
		return false;
	db->state = TL_WORKER_WANTED;
	db->retry_at_us = 0;
	if (db->worker_pid != 0)
		(void) kill(db->worker_pid, SIGTERM);
	return true;
}

void
tl_database_want(Oid dboid)
{
	TlDatabase *db;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db = tl_database_find(dboid, true);
	if (db != NULL)
		(void) mark_wanted(db);
	else
		tl_shared->look_everywhere = true;	/* the launcher can make room */
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}

void
tl_database_want_all(void)
{
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (OidIsValid(db->dboid) && db->state != TL_WORKER_NO_EXTENSION)
			(void) mark_wanted(db);
	}
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}

/*
 * Look after the workers that we started.  One that ends says what became of
 * it in its slot; one that could not is wanted again after a while.  The process
 * slot that it leaves may be what another database waits for.
 */
static void
reap_workers(void)
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
			if (db->state == TL_WORKER_RUNNING)
				helper->failures = 0;
			/* it died before it could say so */
			if (stopped && db->worker_pid == 0 &&
				(db->state == TL_WORKER_STARTING || db->state == TL_WORKER_RUNNING))
			{
				int64		delay = FIRST_RETRY << Min(helper->failures, 6);

				db->state = TL_WORKER_WANTED;
				db->retry_at_us = now + Min(delay, LAST_RETRY);
				helper->failures++;
			}
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

/* The caller holds the directory. */
static inline bool
is_startable(int slot, int64 now)
{
	TlDatabase *db = &tl_shared->databases[slot];

	return OidIsValid(db->dboid) && db->bars == 0 && db->worker_pid == 0 &&
		helpers[slot].handle == NULL &&
		(db->state == TL_WORKER_WANTED || db->state == TL_WORKER_NO_SLOT) &&
		db->retry_at_us <= now;
}

static bool
anything_to_start(void)
{
	int64		now = tl_monotonic();
	bool		result = false;
	int			i;

	if (count_starting() >= MAX_STARTING)
		return false;
	if (unlooked != NIL)
		return true;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		/* somebody waits for that */
		if (refused && !OidIsValid(tl_shared->databases[i].dboid))
			tl_shared->look_everywhere = true;
		result |= is_startable(i, now);
	}
	if (refused && next_slot_retry <= now)
		tl_shared->look_everywhere = true;
	result |= tl_shared->look_everywhere;
	LWLockRelease(&tl_shared->directory);
	return result;
}

/* All databases, in the caller's memory context. */
static List *
read_databases(void)
{
	List	   *result = NIL;
	MemoryContext caller = CurrentMemoryContext;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	pgstat_report_activity(STATE_RUNNING, "reading the list of databases");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();

	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old = MemoryContextSwitchTo(caller);
		Database   *database = palloc(sizeof(Database));

		database->oid = form->oid;
		database->wanted = form->datallowconn && !form->datistemplate &&
			form->datconnlimit != INVALID_DATABASE;
		database->name = form->datname;
		result = lappend(result, database);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);

	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return result;
}

static Database *
find_database(List *databases, Oid dboid)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);

		if (database->oid == dboid)
			return database;
	}
	return NULL;
}

/*
 * Slots of databases that are gone serve others.  Only what was there before
 * the list was read can be told to be gone.
 */
static void
free_slots(const Oid *slots, List *databases)
{
	int			i;

	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (!OidIsValid(slots[i]) || find_database(databases, slots[i]) != NULL)
			continue;
		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		if (db->dboid == slots[i] && db->worker_pid == 0 && db->bars == 0 && helpers[i].handle == NULL)
			tl_database_free(db);
		LWLockRelease(&tl_shared->directory);
	}
}

/* When told to look everywhere: at every database of which nothing is known. */
static void
note_unlooked(List *databases)
{
	ListCell   *lc;
	bool		look;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	look = tl_shared->look_everywhere;
	tl_shared->look_everywhere = false;
	LWLockRelease(&tl_shared->directory);
	if (!look)
		return;

	list_free(unlooked);
	unlooked = NIL;
	refused = false;
	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		if (database->wanted)
			unlooked = lappend_oid(unlooked, database->oid);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Take the slot of a database that has not the extension, and no session that
 * could hold a pointer to its slot, for another.  Sessions fetch that pointer
 * under the directory lock, so they are counted under it too: the only place
 * where it is held while another lock is taken.  The caller holds it exclusively.
 */
static TlDatabase *
recycle_slot(Oid dboid)
{
	int			i;

	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if ((db->state == TL_WORKER_NO_EXTENSION || db->state == TL_WORKER_NONE) &&
			db->worker_pid == 0 && db->bars == 0 && helpers[i].handle == NULL &&
			CountDBBackends(db->dboid) == 0)
		{
			tl_database_free(db);
			return tl_database_find(dboid, true);
		}
	}
	return NULL;
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

static void
start_wanted(List *databases)
{
	int			i;

	for (i = 0; i < TL_MAX_DATABASES && count_starting() < MAX_STARTING; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];
		Database   *database;
		Oid			dboid;
		bool		startable;

		LWLockAcquire(&tl_shared->directory, LW_SHARED);
		startable = is_startable(i, tl_monotonic());
		dboid = db->dboid;
		LWLockRelease(&tl_shared->directory);
		if (!startable)
			continue;

		database = find_database(databases, dboid);
		if (database != NULL && database->wanted)
		{
			start_worker(i, database);
			continue;
		}
		/* a template, closed, or too new for the list: the hook tells when that changes */
		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		if (db->dboid == dboid && is_startable(i, tl_monotonic()))
		{
			db->state = TL_WORKER_NONE;
			if (database == NULL)
				tl_shared->look_everywhere = true;
		}
		LWLockRelease(&tl_shared->directory);
	}
}

static void
start_unlooked(List *databases)
{
	while (unlooked != NIL && count_starting() < MAX_STARTING)
	{
		Oid			dboid = linitial_oid(unlooked);
		Database   *database = find_database(databases, dboid);
		TlDatabase *db;
		bool		start = false;

		unlooked = list_delete_first(unlooked);
		if (database == NULL || !database->wanted)
			continue;

		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		db = tl_database_find(dboid, true);
		if (db == NULL)
			db = recycle_slot(dboid);
		if (db != NULL && db->state == TL_WORKER_NONE)
		{
			db->state = TL_WORKER_WANTED;
			db->retry_at_us = 0;
			start = is_startable(db - tl_shared->databases, tl_monotonic());
		}
		LWLockRelease(&tl_shared->directory);

		if (start)
			start_worker(db - tl_shared->databases, database);
		if (db != NULL)
			continue;
		refused = true;
		next_slot_retry = tl_monotonic() + REFUSED_RETRY;
		if (!complained_of_slots)
		{
			complained_of_slots = true;
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("%s cannot serve database \"%s\"", TL_EXTENSION, NameStr(database->name)),
					 errdetail("At most %d databases can use the extension.", TL_MAX_DATABASES),
					 errhint("Drop the extension where it is not needed, or call turn_liveness.sweep_expired_turns() regularly there.")));
		}
	}
	if (unlooked == NIL && !refused)
		complained_of_slots = false;
}

static void
start_worker(int slot, Database *database)
{
	TlDatabase *db = &tl_shared->databases[slot];
	Helper	   *helper = &helpers[slot];
	BackgroundWorker worker;
	MemoryContext old;
	char	   *activity;
	bool		started;

	/* once more: what held a moment ago need not hold now */
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (db->dboid != database->oid || !is_startable(slot, tl_monotonic()))
	{
		LWLockRelease(&tl_shared->directory);
		return;
	}
	db->state = TL_WORKER_STARTING;
	LWLockRelease(&tl_shared->directory);

	if (helper->dboid != database->oid)
		memset(helper, 0, sizeof(*helper));
	helper->dboid = database->oid;
	helper->started = tl_monotonic();
	activity = psprintf("starting a worker in database \"%s\"", NameStr(database->name));
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
	if (db->dboid == database->oid && db->state == TL_WORKER_STARTING)
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
						TL_EXTENSION, NameStr(database->name)),
				 errdetail("It is tried again every %d seconds.", (int) (NO_SLOT_RETRY / TL_SECOND)),
				 errhint("You might need to increase \"%s\". Until then, call turn_liveness.sweep_expired_turns() in that database.",
						 "max_worker_processes")));
	}
}

/* When to look again, unless the latch is set before. */
static int64
next_appointment(void)
{
	int64		now = tl_monotonic();
	int64		next = PG_INT64_MAX;
	bool		full = count_starting() >= MAX_STARTING;
	bool		starting = false;
	bool		waiting;
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	waiting = unlooked != NIL || tl_shared->look_everywhere;
	if (!full && waiting)
		next = now;
	if (refused)
		next = Min(next, next_slot_retry);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (helpers[i].handle != NULL)
			starting |= db->state == TL_WORKER_STARTING;
		else if (OidIsValid(db->dboid) && db->bars == 0 && db->worker_pid == 0 &&
				 (db->state == TL_WORKER_WANTED || db->state == TL_WORKER_NO_SLOT))
		{
			if (!full || db->retry_at_us > now)
				next = Min(next, db->retry_at_us);
			else
				waiting = true;
		}
	}
	LWLockRelease(&tl_shared->directory);

	/* a worker that has started does not say so, only one that ends */
	if (starting)
		next = Min(next, now + (waiting ? STARTING_CHECK_BUSY : STARTING_CHECK));
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
		TlDatabase *db = &tl_shared->databases[i];

		if (!OidIsValid(db->dboid))
			continue;
		if (db->state == TL_WORKER_RUNNING)
			running++;
		if (db->state == TL_WORKER_NO_SLOT)
			shortage = true;
	}
	LWLockRelease(&tl_shared->directory);
	if (!shortage && count_starting() == 0)
		complained_of_workers = false;
	snprintf(activity, sizeof(activity), "workers running: %d", running);
	pgstat_report_activity(STATE_IDLE, activity);
}
