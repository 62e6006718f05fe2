/*
 * ddl_exclusion.c
 *		Keeps our worker out of a database while a command needs it to itself.
 *
 * DROP DATABASE and its like fail, after five seconds, when any process is
 * connected to the database.  The session that runs one excludes our worker
 * (worker_slot.c), ends the worker that is there, and waits until that has left
 * the database.  This takes some milliseconds.  After five seconds the session
 * gives up, and the command says by itself what is in its way.
 *
 * An exclusion expires by itself, so a session that dies leaves none behind.  It
 * need not last as long as the command: the command soon locks the database,
 * and from then on a worker that connects waits for that lock.
 */
#include "base/turn_liveness.h"

#include "pgstat.h"
#include "storage/latch.h"
#include "storage/procarray.h"

#include "admin/ddl_exclusion.h"
#include "shared/clock.h"
#include "shared/worker_slot.h"

#define EXCLUSION_US		(10 * TL_SECOND)
#define WORKER_PATIENCE_US	(5 * TL_SECOND)
#define CHECK_MS			10

void
tl_ddl_exclude_worker(Oid dboid)
{
	int64		start = tl_monotonic();
	pid_t		signaled = 0;

	tl_worker_exclude(dboid, start + EXCLUSION_US);

	/* a worker withdraws from its slot a moment before it leaves the database */
	while ((tl_worker_terminate(dboid, &signaled) != 0 ||
			(signaled != 0 && BackendPidGetProc(signaled) != NULL)) &&
		   tl_monotonic() < start + WORKER_PATIENCE_US)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 CHECK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
