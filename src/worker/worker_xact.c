/*
 * worker_xact.c
 *		How a step of the worker begins, ends, or fails.
 *
 * A step is a short transaction of its own.  pg_stat_activity says which it is,
 * and the slot since when, so that stat can tell that it waits.  A step that fails
 * has done nothing, and has seen to it that it is done again: the worker tries it
 * each second.  The log is told of an error that comes again once a minute.
 *
 * The extension is locked while its tables are used, as DROP EXTENSION locks it: once
 * the worker has it, it is there until the end of the transaction.
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
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "base/catalog.h"
#include "shared/clock.h"
#include "worker/worker_xact.h"

#define SAME_ERROR_PAUSE	(60 * TL_SECOND)
#define MAX_REPORTED		64

static Oid	served = InvalidOid;	/* the extension */
static TlWorkerState found = TL_WORKER_RUNNING;

bool
tl_worker_xact_begin(const char *what)
{
	/* outside of a transaction, in which this call would make the slot */
	TlDatabase *db = tl_database();
	TlWorkerState state = TL_WORKER_NONE;
	Oid			extension;

	if (db != NULL)
		pg_atomic_write_u64(&db->worker.step_since_us, tl_monotonic());
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, what);

	extension = get_extension_oid(TL_EXTENSION, true);
	if (OidIsValid(extension))
	{
		/* a session that drops it waits for the worker, or the worker sees it gone */
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
		AcceptInvalidationMessages();
		if (get_extension_oid(TL_EXTENSION, true) == extension && OidIsValid(tl_extension_oid()))
		{
			if (!OidIsValid(served))
				served = extension;
			if (served == extension)
				return true;
			/* another has come before the worker saw the first one go: its time is another */
			state = TL_WORKER_WANTED;
		}
	}
	found = state;
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

TlWorkerState
tl_worker_xact_extension(void)
{
	return found;
}

/*
 * False if the same error was reported less than a minute ago.  An error is known
 * by a hash of the place that raised it, because it owns the name of its file.
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

	if (reported[i].place == place && now < reported[i].until)
		return false;
	reported[i].place = place;
	reported[i].until = now + SAME_ERROR_PAUSE;
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
