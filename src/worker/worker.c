/*
 * worker.c
 *		The background worker of one database: its process, and nothing of what it
 *		does (worker_round.c).
 *
 * The launcher starts it with the oid of a database.  If the database has a slot,
 * the worker publishes itself there before it connects, so that a command that
 * needs the database without connections can end it at any time.  If there is
 * none, the worker connects first and looks for the extension; where it finds
 * none it exits, and leaves no trace but a word to the launcher.  The exit
 * callback withdraws the worker from its slot.
 *
 * The worker sleeps on its latch until the time that a round named, a second at
 * the most (the tick of the liveness clock).  SIGTERM ends it between or inside of
 * rounds; the launcher decides whether there is to be another.  An error ends a
 * round: the worker reports it (worker_error.c), pauses, and begins another.
 * An error before the first round ends the process, and the launcher starts another
 * after a while.  A worker that was terminated did not fail.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/guc.h"
#include "shared/clock.h"
#include "shared/worker_slot.h"
#include "worker/process_settings.h"
#include "worker/worker.h"
#include "worker/worker_error.h"
#include "worker/worker_round.h"
#include "worker/worker_xact.h"

#define ERROR_PAUSE_MS	1000
#define MAX_SLEEP_MS	1000

static TlDatabase *my_slot = NULL;
static TlWorkerState state_at_exit = TL_WORKER_WANTED;
static volatile sig_atomic_t terminated = false;
static char *database_name;

static void on_sigterm(SIGNAL_ARGS);
static void withdraw(int code, Datum arg);
static void name_database(void *arg);
static void connect_to(Oid dboid);
static void find_slot(Oid dboid);
static void exit_with(TlWorkerState state) pg_attribute_noreturn();
static void exit_if_told(void);
static bool run_round(int64 *again, MemoryContext context);
static void sleep_until(int64 again);

/* As die(), but an idle worker ends its loop, and leaves no FATAL in the log. */
static void
on_sigterm(SIGNAL_ARGS)
{
	terminated = true;
	ShutdownRequestPending = true;
	tl_call_signal_handler_compat(die);
}

/* Runs before shared memory is left: only atomics, an LWLock and a latch. */
static void
withdraw(int code, Datum arg)
{
	if (my_slot == NULL)
		return;
	if (MyDatabaseId != InvalidOid)
		tl_clock_release();
	/* the configuration was changed since the worker looked at it */
	if (state_at_exit == TL_WORKER_DISABLED && ConfigReloadPending)
		state_at_exit = TL_WORKER_WANTED;
	tl_worker_withdraw(my_slot, state_at_exit, code != 0 && !terminated);
}

/* The log tells this worker from those of other databases. */
static void
name_database(void *arg)
{
	errcontext("%s worker in database \"%s\"", TL_EXTENSION, database_name);
}

static void
connect_to(Oid dboid)
{
	static ErrorContextCallback callback;

	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	tl_process_settings_fix(TL_EXTENSION " worker");

	StartTransactionCommand();
	database_name = MemoryContextStrdup(TopMemoryContext, get_database_name(MyDatabaseId));
	CommitTransactionCommand();
	callback.callback = name_database;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
}

/* The launcher had no slot for this database: does it need one? */
static void
find_slot(Oid dboid)
{
	if (!tl_worker_xact_begin("looking for the extension"))
	{
		tl_worker_report_look(dboid, TL_LOOK_NO_EXTENSION);
		proc_exit(0);
	}
	tl_worker_xact_end(true);
	if (!tl_worker_publish(dboid, true, &my_slot))
	{
		my_slot = NULL;
		proc_exit(0);
	}
	if (my_slot == NULL)
	{
		tl_worker_report_look(dboid, TL_LOOK_NO_ROOM);
		proc_exit(0);
	}
}

static void
exit_with(TlWorkerState state)
{
	state_at_exit = state;
	proc_exit(0);
}

/* Between two rounds: were we told to end, or did the configuration change? */
static void
exit_if_told(void)
{
	if (ShutdownRequestPending)
		exit_with(TL_WORKER_WANTED);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		if (!tl_enabled)
			exit_with(TL_WORKER_DISABLED);
	}
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

static void
sleep_until(int64 again)
{
	long		pause = (long) Max(0, (again - tl_clock_now() + TL_MS - 1) / TL_MS);

	if (pause > 0)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(pause, MAX_SLEEP_MS), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

void
tl_worker_main(Datum arg)
{
	Oid			dboid = DatumGetObjectId(arg);
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, on_sigterm);
	before_shmem_exit(withdraw, (Datum) 0);
	if (!tl_worker_publish(dboid, false, &my_slot))
	{
		my_slot = NULL;
		proc_exit(0);
	}
	connect_to(dboid);
	if (my_slot == NULL)
		find_slot(dboid);
	tl_worker_xact_set_slot(my_slot);
	if (!tl_enabled)
		exit_with(TL_WORKER_DISABLED);
	if (!tl_worker_round_begin())
		exit_with(TL_WORKER_NONE);
	tl_worker_set_running(my_slot);

	context = AllocSetContextCreate(TopMemoryContext, "turn_liveness worker round",
									ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		int64		again = 0;

		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		exit_if_told();
		if (!run_round(&again, context))
		{
			/* no latch: the pause is kept, whatever mail comes */
			(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 ERROR_PAUSE_MS, PG_WAIT_EXTENSION);
			continue;
		}
		if (tl_worker_xact_extension_gone())
			exit_with(tl_worker_xact_extension_recreated() ? TL_WORKER_WANTED : TL_WORKER_NONE);
		sleep_until(again);
	}
}
