/*
 * turn_liveness.c
 *		The library's entry point.
 */
#include "turn_liveness.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "guc.h"
#include "hook.h"
#include "launcher.h"
#include "names.h"
#include "rel.h"
#include "shmem.h"
#include "xact.h"

PG_MODULE_MAGIC;

/*
 * Without preload there is no shared memory and no worker: beats go to the
 * rows, and somebody calls sweep_expired_turns().  In binary-upgrade mode nothing may run.
 */
void
_PG_init(void)
{
	tl_guc_init();
	tl_names_init();
	tl_rel_init();
	tl_xact_init();
	if (!process_shared_preload_libraries_in_progress)
		return;
	tl_shmem_init();
	if (IsBinaryUpgrade)
		return;
	tl_hook_init();
	tl_launcher_register();
}
