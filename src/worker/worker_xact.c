/*
 * worker_xact.c
 *		The transactions of the worker: how a step begins, ends, or fails.
 *
 * Each step of a round is a short transaction.  pg_stat_activity says which it
 * is, and the slot since when, so that stat can tell that it waits.  A step
 * that fails has done nothing, and its caller sees to it that it is done again,
 * each second.  The log is told of an error that comes again once a minute.
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
#include "worker/worker_xact.h"

#define OPTIONAL_LOCK_TIMEOUT	"100ms"
#define SAME_ERROR_PAUSE	(60 * TL_SECOND)
#define MAX_REPORTED		64

static Oid	served = InvalidOid;	/* the extension */
static TlWorkerState found = TL_WORKER_RUNNING;
/* literals: a step is known by its address */
static const char *running = NULL;	/* the step */
static const char *skipped = NULL;	/* the step that stat tells of */

/* Stat tells of one step at a time: of another when this is done. */
static void
note_skipped(const char *step)
{
	TlWorkerSlot *slot = &tl_database()->worker;

	skipped = step;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	slot->skipped_since_us = step != NULL ? tl_monotonic() : 0;
	strlcpy(slot->skipped, step != NULL ? step : "", TL_STEP_LEN);
	LWLockRelease(&tl_shared->directory);
}

bool
tl_worker_xact_begin(const char *step)
{
	/* outside of a transaction, in which this call would make the slot */
	TlDatabase *db = tl_database();
	TlWorkerState state = TL_WORKER_NONE;
	Oid			extension;

	running = step;
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
		if (get_extension_oid(TL_EXTENSION, true) == extension && OidIsValid(tl_extension_oid()))
		{
			if (!OidIsValid(served))
				served = extension;
			if (served == extension)
				return true;
			/* the worker did not see the first one go: its state is of that */
			state = TL_WORKER_WANTED;
		}
	}
	found = state;
	PopActiveSnapshot();
	CommitTransactionCommand();
	return false;
}

void
tl_worker_xact_end(bool done)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (!done && skipped == NULL)
		note_skipped(running);
	else if (done && skipped == running)
		note_skipped(NULL);
}

bool
tl_worker_xact_try_begin(const char *step, LOCKMODE mode, uint32 tables)
{
	int			i;

	if (!tl_worker_xact_begin(step))
		return false;
	/* for the locks that the step itself takes, of rows and of the commit */
	(void) set_config_option("lock_timeout", OPTIONAL_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	for (i = 0; i < TL_NTABLES; i++)
		if ((tables & TL_BIT(i)) && !ConditionalLockRelationOid(tl_table_oid(i), mode))
		{
			tl_worker_xact_end(false);
			return false;
		}
	return true;
}

TlWorkerState
tl_worker_xact_extension(void)
{
	return found;
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

void
tl_worker_recover(MemoryContext context, const char *step)
{
	ErrorData  *error;
	bool		failed;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	/* stat tells of a step that found no lock */
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
	else if (step != NULL && skipped == NULL)
		note_skipped(step);
}
