/*
 * turn_liveness.c
 *		The library's entry point: hooks, and the layout of shared memory.
 */
#include "base/turn_liveness.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "admin/ddl_hook.h"
#include "base/catalog.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/due_ids.h"
#include "shared/lease_table.h"
#include "store/rel.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

static shmem_request_hook_type prev_request = NULL;
static shmem_startup_hook_type prev_startup = NULL;

static void
request_shmem(void)
{
	if (prev_request)
		prev_request();
	RequestAddinShmemSpace(tl_database_shmem_size());
	RequestAddinShmemSpace(tl_due_shmem_size());
	RequestAddinShmemSpace(tl_lease_shmem_size());
	RequestAddinShmemSpace(tl_attach_shmem_size());
	/* one tranche: which of our locks is waited for, the stack shows */
	RequestNamedLWLockTranche(TL_EXTENSION, 1);
}

/* The postmaster runs this again after a crash of the server. */
static void
startup_shmem(void)
{
	int			tranche;

	if (prev_startup)
		prev_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	tranche = GetNamedLWLockTranche(TL_EXTENSION)->lock.tranche;
	tl_database_shmem_startup(tranche);
	tl_due_shmem_startup();
	tl_clock_shmem_startup();
	tl_lease_shmem_startup(tranche);
	tl_attach_shmem_startup(tranche);
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Without preload there is no shared memory and no worker: beats go to the
 * rows, and sessions call sweep_expired_turns().  In binary-upgrade mode no
 * process of ours may run.
 */
void
_PG_init(void)
{
	/*
	 * Settings of a name that the library does not know are warnings, and a
	 * warning lets a cancel in.  A session that left half of this behind would
	 * load the library again with each call, and could not define the settings
	 * a second time.
	 */
	HOLD_INTERRUPTS();
	tl_guc_init();
	tl_catalog_init();
	tl_xact_init();
	RESUME_INTERRUPTS();
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_startup = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
	if (IsBinaryUpgrade)
		return;
	tl_ddl_hook_init();
	tl_launcher_register();
}
