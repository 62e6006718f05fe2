/*
 * turn_liveness.c
 *		The library's entry point.
 */
#include "base/turn_liveness.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "admin/ddl_hook.h"
#include "base/catalog.h"
#include "base/guc.h"
#include "commit/xact.h"
#include "shared/area.h"
#include "worker/launcher.h"

PG_MODULE_MAGIC;

/*
 * Without preload there is no shared memory and no worker: beats go to the
 * rows, and sessions call sweep_expired_turns().  In binary-upgrade mode no
 * process of ours may run.
 */
void
_PG_init(void)
{
	tl_guc_init();
	tl_catalog_init();
	tl_xact_init();
	if (!process_shared_preload_libraries_in_progress)
		return;
	tl_area_init();
	if (IsBinaryUpgrade)
		return;
	tl_ddl_hook_init();
	tl_launcher_register();
}
