/*
 * launcher.c
 *		The process that keeps a worker in each database that has the extension.
 *
 * It is connected to no database, so it is in nobody's way, and cannot know
 * which database has the extension: it starts a worker, and the worker looks.
 * Whom to look at is written in the slots of shared memory (state WANTED) by
 * the utility hook and by workers that end, who then set the launcher's latch.
 * What there is to look at is census.c's, the workers that were started crew.c's.
 *
 * Rules:
 * - A slot's state, pid and bars are read and written under the directory lock
 *   only, and nothing else happens under it: no catalog, no wait, no other lock
 *   (but see the top of shmem.c).  The worker glances at its bars without it.
 * - The postmaster signals us when a worker ends, hook and workers set the latch:
 *   the only timeouts are those of a retry, and while a worker is on its way.
 */
#include "base/turn_liveness.h"

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "worker/database_list.h"
#include "shared/clock.h"
#include "worker/worker_start.h"
#include "worker/launcher.h"
#include "shared/shmem.h"

#define FIRST_RETRY			TL_SECOND
#define LAST_RETRY			(60 * TL_SECOND)
#define STARTING_CHECK		TL_SECOND
#define STARTING_CHECK_BUSY	(50 * TL_MS)	/* when others wait for their turn */

static void on_sigterm(SIGNAL_ARGS);
static void publish(void);
static void withdraw(int code, Datum arg);
static void adopt_orphans(void);
static void want_reloaded(void);
static bool mark_wanted(TlDatabase *db);
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
	tl_no_transaction_timeout_compat();
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
			want_reloaded();
		}

		tl_crew_reap();
		if (tl_census_is_due())
		{
			MemoryContextSwitchTo(loop_context);
			tl_census_round();
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

/*
 * turn_liveness.enabled may have been changed in the configuration file, and whoever has
 * mended what made workers fail has a way to say so.
 */
static void
want_reloaded(void)
{
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (OidIsValid(db->dboid) &&
			(db->state == TL_WORKER_DISABLED ||
			 (db->state == TL_WORKER_WANTED && db->worker_pid == 0)))
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
	db->failures = 0;
	if (db->worker_pid != 0)
		(void) kill(db->worker_pid, SIGTERM);
	return true;
}

/*
 * One that comes to run counts the failures from zero again: then the first delay is
 * all there is.  The others double, up to the last.
 */
void
tl_database_want_later(TlDatabase *db)
{
	int64		delay = FIRST_RETRY << Min(db->failures, 6);

	db->state = TL_WORKER_WANTED;
	db->retry_at_us = tl_monotonic() + Min(delay, LAST_RETRY);
	db->failures++;
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
	tl_shared->look_everywhere = true;	/* and at those of which nothing is known */
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}

/* When to look again, unless the latch is set before. */
static int64
next_appointment(void)
{
	int64		now = tl_monotonic();
	int64		next = PG_INT64_MAX;
	bool		full = tl_crew_is_full();
	bool		starting = false;
	bool		waiting;
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	waiting = tl_census_goes_on() || tl_shared->look_everywhere;
	if (!full && waiting)
		next = now;
	next = Min(next, tl_census_next_retry());
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (tl_crew_has(i))
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
	if (!shortage)
		tl_crew_note_no_shortage();
	snprintf(activity, sizeof(activity), "workers running: %d", running);
	pgstat_report_activity(STATE_IDLE, activity);
}
