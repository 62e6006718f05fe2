/*
 * worker.c
 *		The background worker of one database: its process, and nothing of what it
 *		does (duty.c).
 *
 * The launcher starts it with the number of a slot.  It publishes itself before
 * it connects, so that DDL that needs the database to itself can find and stop
 * it at any time; the exit callback is registered before that and withdraws it.
 *
 * It sleeps on its latch until the time that a round named, a second at the most (the
 * tick of the liveness clock).  SIGTERM ends it between or inside rounds; the
 * launcher decides whether there is to be another.  An error ends a round: it is
 * reported, the transaction is aborted, and after a pause there is another.  The
 * log is told of an error that comes again and again once a minute.
 *
 * An error before the first round ends the process: the next one comes after a delay
 * that grows until one gets so far.  One that somebody terminated is no failure.
 */
#include "base/turn_liveness.h"

#include <math.h>

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "shared/clock.h"
#include "worker/worker_round.h"
#include "base/guc.h"
#include "worker/launcher.h"
#include "shared/shmem.h"
#include "worker/worker.h"

#define ERROR_PAUSE_MS	1000
#define SAME_ERROR_PAUSE	(60 * TL_SECOND)
#define MAX_TOLD		8

/* an error that was reported, known by the place that raised it */
typedef struct Told
{
	const char *filename;
	int			lineno;
	int			sqlerrcode;
	int64		when;
} Told;

static TlDatabase *my_slot = NULL;
static TlWorkerState state_at_exit = TL_WORKER_WANTED;
static volatile sig_atomic_t in_round = true;
static volatile sig_atomic_t terminated = false;
static char *database_name;
static Told told[MAX_TOLD];

static void end_soon(SIGNAL_ARGS);
static void withdraw(int code, Datum arg);
static void fix_settings(void);
static void name_database(void *arg);
static bool is_news(const ErrorData *error);
static bool run_round(int64 *again, MemoryContext context);

/*
 * SIGTERM.  Between rounds the worker leaves its loop; inside one, which may wait
 * for a lock, it ends there and then.
 */
static void
end_soon(SIGNAL_ARGS)
{
	terminated = true;
	if (in_round)
		die(postgres_signal_arg);
	else
		SignalHandlerForShutdownRequest(postgres_signal_arg);
}

/* Runs before shared memory is left; only atomics, an LWLock and a latch. */
static void
withdraw(int code, Datum arg)
{
	if (MyDatabaseId != InvalidOid)
		tl_clock_release();

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (my_slot->worker_pid == MyProcPid)
	{
		pg_atomic_write_u64(&my_slot->wake_us, PG_INT64_MAX);
		my_slot->worker_pid = 0;
		my_slot->worker_latch = NULL;
		/* the hook may have asked for another meanwhile */
		if (my_slot->state == TL_WORKER_STARTING || my_slot->state == TL_WORKER_RUNNING)
		{
			/* the configuration was changed again: what we saw of it is old */
			if (state_at_exit == TL_WORKER_DISABLED && ConfigReloadPending)
				state_at_exit = TL_WORKER_WANTED;
			my_slot->state = state_at_exit;
			if (state_at_exit == TL_WORKER_WANTED && code != 0 && !terminated)
				tl_database_want_later(my_slot);
			else
			{
				my_slot->retry_at_us = 0;
				my_slot->failures = 0;
			}
		}
	}
	LWLockRelease(&tl_shared->directory);
	tl_wake_launcher();
}

/* What a DBA set for sessions must not change what we do. */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"zero_damaged_pages", "off"},
	};
	int			i;

	for (i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	tl_no_transaction_timeout_compat();
}

/* Whatever this process logs is told from what the workers of other databases log. */
static void
name_database(void *arg)
{
	errcontext("%s worker in database \"%s\"", TL_EXTENSION, database_name);
}

/* False if the same was reported less than a minute ago. */
static bool
is_news(const ErrorData *error)
{
	int64		now = tl_monotonic();
	Told	   *oldest = &told[0];
	int			i;

	for (i = 0; i < MAX_TOLD; i++)
	{
		Told	   *t = &told[i];

		if (t->filename != NULL && strcmp(t->filename, error->filename) == 0 &&
			t->lineno == error->lineno && t->sqlerrcode == error->sqlerrcode)
		{
			if (now - t->when < SAME_ERROR_PAUSE)
				return false;
			oldest = t;
			break;
		}
		if (t->when < oldest->when)
			oldest = t;
	}
	oldest->filename = error->filename;
	oldest->lineno = error->lineno;
	oldest->sqlerrcode = error->sqlerrcode;
	oldest->when = now;
	return true;
}

void
tl_worker_recover(MemoryContext context)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (is_news(error))
		EmitErrorReport();
	FreeErrorData(error);
	AbortCurrentTransaction();
	LWLockReleaseAll();
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(context);
	FlushErrorState();
	RESUME_INTERRUPTS();
	tl_counter_add(TL_COUNT_SWEEP_ERRORS, 1);
}

/* False if the round ended in an error. */
static bool
run_round(int64 *again, MemoryContext context)
{
	volatile bool ok = true;

	PG_TRY();
	{
		*again = tl_worker_round(my_slot);
	}
	PG_CATCH();
	{
		tl_worker_recover(context);
		ok = false;
	}
	PG_END_TRY();
	return ok;
}

void
tl_worker_main(Datum arg)
{
	Oid			dboid;
	MemoryContext context;
	ErrorContextCallback callback;
	bool		barred;

	my_slot = &tl_shared->databases[DatumGetInt32(arg)];

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, end_soon);
	before_shmem_exit(withdraw, (Datum) 0);

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	dboid = my_slot->dboid;
	barred = my_slot->bars > 0 || dboid == InvalidOid ||
		my_slot->worker_pid != 0 || my_slot->state != TL_WORKER_STARTING;
	if (!barred)
	{
		my_slot->worker_pid = MyProcPid;
		my_slot->worker_latch = MyLatch;
	}
	else if (my_slot->bars > 0 && my_slot->worker_pid == 0 && my_slot->state == TL_WORKER_STARTING)
	{
		/* kept out, which is no failure */
		my_slot->state = TL_WORKER_WANTED;
		my_slot->retry_at_us = 0;
	}
	LWLockRelease(&tl_shared->directory);
	if (barred)
		proc_exit(0);

	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	fix_settings();
	SetConfigOption("application_name", "turn_liveness worker", PGC_USERSET, PGC_S_OVERRIDE);

	if (!tl_enabled)
	{
		state_at_exit = TL_WORKER_DISABLED;
		proc_exit(0);
	}

	StartTransactionCommand();
	database_name = MemoryContextStrdup(TopMemoryContext, get_database_name(MyDatabaseId));
	CommitTransactionCommand();
	callback.callback = name_database;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	if (!tl_worker_round_begin())
	{
		state_at_exit = TL_WORKER_NO_EXTENSION;
		proc_exit(0);
	}
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	if (my_slot->state == TL_WORKER_STARTING)
	{
		my_slot->state = TL_WORKER_RUNNING;
		my_slot->failures = 0;
	}
	LWLockRelease(&tl_shared->directory);
	tl_wake_launcher();

	context = AllocSetContextCreate(TopMemoryContext, "turn_liveness worker round",
									ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		int64		again = 0;
		int64		now;
		long		pause;
		bool		ok;

		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			break;
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (!tl_enabled)
			{
				state_at_exit = TL_WORKER_DISABLED;
				break;
			}
		}

		/* after an error the pause is kept, whoever sets the latch */
		in_round = true;
		ok = run_round(&again, context);
		in_round = false;
		if (!ok)
			pause = ERROR_PAUSE_MS;
		else if (tl_worker_round_extension_dropped())
		{
			state_at_exit = tl_worker_round_extension_recreated() ? TL_WORKER_WANTED : TL_WORKER_NO_EXTENSION;
			break;
		}
		else
		{
			now = tl_clock_now();
			pause = Max(0, (again - now + TL_MS - 1) / TL_MS);
		}
		if (pause > 0)
			(void) WaitLatch(MyLatch,
							 (ok ? WL_LATCH_SET : 0) | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 Min(pause, 1000), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}

	proc_exit(0);
}
