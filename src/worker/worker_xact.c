/*
 * worker_xact.c
 *		The transactions of the worker: each step of a round is a short one.
 *
 * pg_stat_activity says which step is running.  A step that fails has done
 * nothing, and its caller sees to it that it is done again.
 *
 * The worker locks the extension while it uses the tables, as DROP EXTENSION
 * does: once the worker has the lock, the extension is there until the end of
 * the transaction.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "shared/worker_slot.h"
#include "worker/worker_xact.h"

#define OPTIONAL_LOCK_TIMEOUT	"100ms"

static TlDatabase *my_slot = NULL;
static Oid	served = InvalidOid;	/* the extension */
static bool extension_gone = false;
static bool recreated = false;
static const char *running = NULL;	/* the step */
static const char *skipped = NULL;	/* the step that stat tells of */

static void end(void);

void
tl_worker_xact_set_slot(TlDatabase *db)
{
	my_slot = db;
}

bool
tl_worker_xact_begin(const char *step)
{
	Oid			extension;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, step);
	running = step;
	if (my_slot != NULL)
		tl_worker_note_step(&my_slot->worker.running, step);

	extension = get_extension_oid(TL_EXTENSION, true);
	if (OidIsValid(extension))
	{
		/* DROP EXTENSION waits for this transaction, or this one sees it done */
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
		AcceptInvalidationMessages();
		if (get_extension_oid(TL_EXTENSION, true) == extension && OidIsValid(tl_extension_oid()))
		{
			if (!OidIsValid(served))
				served = extension;
			if (served == extension)
				return true;
			/* the worker did not see the first extension go: its state is of that */
			recreated = true;
		}
	}
	end();
	extension_gone = true;
	return false;
}

bool
tl_worker_xact_try_begin(const char *step, LOCKMODE mode, uint32 tables)
{
	int			i;

	if (!tl_worker_xact_begin(step))
		return false;
	(void) set_config_option("lock_timeout", OPTIONAL_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	for (i = 0; i < TL_NTABLES; i++)
		if ((tables & TL_BIT(i)) && !ConditionalLockRelationOid(tl_table_oid(i), mode))
		{
			end();
			tl_worker_xact_note_skipped(step);
			return false;
		}
	return true;
}

static void
end(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (my_slot != NULL)
		tl_worker_note_step(&my_slot->worker.running, NULL);
}

void
tl_worker_xact_end(bool done)
{
	end();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (!done)
		tl_worker_xact_note_skipped(running);
	else if (skipped != NULL && strcmp(skipped, running) == 0)
	{
		skipped = NULL;
		tl_worker_note_step(&my_slot->worker.skipped, NULL);
	}
}

/* One step at a time: another that is skipped too is told of when this is done. */
void
tl_worker_xact_note_skipped(const char *step)
{
	if (skipped != NULL)
		return;
	skipped = step;
	tl_worker_note_step(&my_slot->worker.skipped, step);
}

bool
tl_worker_xact_extension_gone(void)
{
	return extension_gone;
}

bool
tl_worker_xact_extension_recreated(void)
{
	return recreated;
}
