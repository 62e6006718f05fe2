/*
 * area.c
 *		Shared memory: asked for at preload, laid out at start.
 *
 * The postmaster runs the startup hook again after a crash of the server.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "shared/area.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/lease_table.h"

static shmem_request_hook_type prev_request = NULL;
static shmem_startup_hook_type prev_startup = NULL;

static void
request(void)
{
	if (prev_request)
		prev_request();
	RequestAddinShmemSpace(tl_database_shmem_size());
	RequestAddinShmemSpace(tl_lease_shmem_size());
	RequestAddinShmemSpace(tl_attach_shmem_size());
	/* one tranche: which of our locks is waited for, the stack shows */
	RequestNamedLWLockTranche(TL_EXTENSION, 1);
}

static void
startup(void)
{
	int			tranche;

	if (prev_startup)
		prev_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	tranche = GetNamedLWLockTranche(TL_EXTENSION)->lock.tranche;
	tl_database_shmem_startup(tranche);
	tl_clock_shmem_startup();
	tl_lease_shmem_startup(tranche);
	tl_attach_shmem_startup(tranche);
	LWLockRelease(AddinShmemInitLock);
}

void
tl_area_init(void)
{
	prev_request = shmem_request_hook;
	shmem_request_hook = request;
	prev_startup = shmem_startup_hook;
	shmem_startup_hook = startup;
}
