/*
 * worker.c
 *		The background worker of one database: its process.  What it does is
 *		in worker_round.c.
 *
 * The launcher starts it with the oid of a database.  If the database has a
 * slot, the worker publishes itself there before it connects, so that a command
 * that needs the database without connections can end it at any time.  If there
 * is none, the worker connects first and looks for the extension; where it
 * finds none it exits, and leaves no trace.  The exit callback withdraws the
 * worker from its slot.
 *
 * The worker sleeps on its latch until the time that a round named, a second at
 * the most (the tick of the liveness clock).  SIGTERM ends it between or inside
 * of rounds; the launcher decides whether there is to be another.  An error
 * inside of a step ends that step (worker_xact.c).  Any other error, such as
 * one before the first round, ends the process, and the launcher starts another
 * after a while.  A worker that was terminated did not fail.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "base/guc.h"
#include "shared/clock.h"
#include "shared/worker_slot.h"
#include "worker/worker.h"

#define MAX_SLEEP_MS	1000

extern PGDLLEXPORT void tl_worker_main(Datum arg);

static TlDatabase *my_slot = NULL;
static TlWorkerState state_at_exit = TL_WORKER_WANTED;
static char *database_name;

/* Runs before shared memory is left: only atomics, an LWLock and a latch. */
static void
withdraw(int code, Datum arg)
{
	if (my_slot != NULL && OidIsValid(MyDatabaseId))
		tl_clock_release();
	/* the configuration was changed since the worker looked at it */
	if (state_at_exit == TL_WORKER_DISABLED && ConfigReloadPending)
		state_at_exit = TL_WORKER_WANTED;
	/* a look that was terminated is to be done again, too */
	tl_worker_withdraw(my_slot, state_at_exit,
					   code != 0 && (my_slot == NULL || !ShutdownRequestPending));
}

/* The log tells this worker from those of other databases. */
static void
name_database(void *arg)
{
	errcontext("%s worker in database \"%s\"", TL_EXTENSION, database_name);
}

static void
exit_with(TlWorkerState state)
{
	state_at_exit = state;
	proc_exit(0);
}

/*
 * Find the extension, and what the worker serves it with: its slot, which the
 * launcher may not have had for this database, and the clock.
 */
static void
begin_service(Oid dboid)
{
	static ErrorContextCallback callback = {.callback = name_database};

	if (!tl_worker_xact_begin("looking for the extension"))
		exit_with(TL_WORKER_NONE);
	database_name = MemoryContextStrdup(TopMemoryContext, get_database_name(MyDatabaseId));
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	if (my_slot == NULL)
		my_slot = tl_worker_publish(dboid, true);
	if (my_slot == NULL)
		proc_exit(0);			/* the launcher tells the log */
	if (!tl_enabled)
		exit_with(TL_WORKER_DISABLED);
	/* sessions go by this in place of their own setting once the clock ticks */
	pg_atomic_write_u32(&my_slot->refuses, !tl_accept);
	tl_clock_acquire();
	(void) tl_clock_epoch();
	tl_worker_xact_end();
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

	before_shmem_exit(withdraw, (Datum) 0);
	my_slot = tl_worker_publish(dboid, false);
	tl_process_connect(dboid, "worker");
	begin_service(dboid);
	tl_worker_round_begin();
	tl_worker_set_running(my_slot);
	for (;;)
	{
		int64		again;

		if (tl_process_handle_signals(0) && !tl_enabled)
			exit_with(TL_WORKER_DISABLED);
		again = tl_worker_round(my_slot);
		if (tl_worker_extension != TL_WORKER_RUNNING)
			exit_with(tl_worker_extension);
		sleep_until(again);
	}
}
