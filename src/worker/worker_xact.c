/*
 * worker_xact.c
 *		The transactions of the worker: how a step begins, ends, or fails.
 *
 * Each step of a round is a short transaction.  pg_stat_activity says which it
 * is, and the slot since when, so that stat can tell that it waits.  A step
 * that fails has done nothing, and is tried again a second later.  The log is
 * told of an error that comes again once a minute.
 *
 * The worker locks the extension while it uses the tables, as DROP EXTENSION
 * does: once the worker has the lock, the extension is there until the end of
 * the transaction.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "base/catalog.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "worker/worker.h"

#define OPTIONAL_LOCK_TIMEOUT	"100ms"
#define RETRY_US			TL_SECOND	/* of a step */
#define SAME_ERROR_PAUSE	(60 * TL_SECOND)
#define MAX_REPORTED		64

static Oid	served = InvalidOid;	/* the extension */
TlWorkerState tl_worker_extension = TL_WORKER_RUNNING;
static TlStep *skipped = NULL;	/* the step that stat tells of */

/* Stat tells of one step at a time: of another when this is done. */
static void
note_skipped(TlStep *step)
{
	TlWorkerSlot *slot = &tl_database()->worker;

	skipped = step;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	slot->skipped_since_us = step != NULL ? tl_monotonic() : 0;
	strlcpy(slot->skipped, step != NULL ? step->name : "", TL_STEP_LEN);
	LWLockRelease(&tl_shared->directory);
}

bool
tl_worker_xact_begin(const char *step)
{
	/* outside of a transaction, in which this call would make the slot */
	TlDatabase *db = tl_database();
	Oid			extension;

	if (db != NULL)
		pg_atomic_write_u64(&db->worker.step_since_us, tl_monotonic());
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, step);

	extension = get_extension_oid(TL_EXTENSION, true);
	if (OidIsValid(extension))
	{
		/* DROP EXTENSION waits for this transaction, or was done before it */
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
		AcceptInvalidationMessages();
		if (get_extension_oid(TL_EXTENSION, true) != extension ||
			!OidIsValid(tl_extension_oid()))
			extension = InvalidOid;
	}
	if (!OidIsValid(served))
		served = extension;
	if (OidIsValid(extension) && extension == served)
		return true;
	/* the worker did not see the first one go: its state is of that */
	tl_worker_extension = OidIsValid(extension) ? TL_WORKER_WANTED : TL_WORKER_NONE;
	PopActiveSnapshot();
	CommitTransactionCommand();
	return false;
}

void
tl_worker_xact_end(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * False if the same error was reported less than a minute ago.  An error is
 * known by a hash of the place that raised it, because it owns the name of its
 * file.
 */
static bool
is_news(const ErrorData *error)
{
	static struct
	{
		uint32		place;
		int64		until;
	}			reported[MAX_REPORTED];
	int64		now = tl_monotonic();
	const char *name = error->filename ? error->filename : "";
	uint32		place = hash_combine(hash_bytes((const unsigned char *) name, strlen(name)),
									 hash_combine(error->lineno, error->sqlerrcode));
	int			i = place % MAX_REPORTED;

	/* two errors that share an entry are reported more often, and not lost */
	if (reported[i].place == place && now < reported[i].until)
		return false;
	reported[i].place = place;
	reported[i].until = now + SAME_ERROR_PAUSE;
	return true;
}

/*
 * Report the current error, and clean up after it as the main loop of a backend
 * does.  False if the step merely found a lock: stat tells of that.
 */
static bool
recover(MemoryContext context)
{
	ErrorData  *error;
	bool		failed;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	failed = error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE;
	if (failed && is_news(error))
		EmitErrorReport();
	FreeErrorData(error);
	AbortCurrentTransaction();
	LWLockReleaseAll();
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(context);
	FlushErrorState();
	RESUME_INTERRUPTS();
	if (failed)
		tl_counter_add(TL_COUNT_SWEEP_ERRORS, 1);
	return failed;
}

/*
 * A step that must not hold the sweep up begins only if its tables are free,
 * and waits for any other lock, of a row or of the commit, for a moment only.
 */
static bool
is_free(const TlStep *step)
{
	int			i;

	if (step->essential)
		return true;
	(void) set_config_option("lock_timeout", OPTIONAL_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	for (i = 0; i < TL_NTABLES; i++)
		if ((step->tables & TL_BIT(i)) &&
			!ConditionalLockRelationOid(tl_table_oid(i), AccessShareLock))
			return false;
	return true;
}

bool
tl_worker_step(TlStep *step, int64 now)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int64 next = 0;
	volatile bool failed = false;

	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
		if (tl_worker_xact_begin(step->name))
		{
			if (is_free(step))
				next = step->work(now);
			tl_worker_xact_end();
		}
	}
	PG_CATCH();
	{
		/* the commit may have failed */
		next = 0;
		failed = recover(context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	if (next > 0 ? skipped == step : skipped == NULL && !failed)
		note_skipped(next > 0 ? NULL : step);
	step->next = next > 0 ? next : tl_clock_now() + RETRY_US;
	return next > 0;
}
