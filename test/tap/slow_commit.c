/*
 * slow_commit.c
 *		A session whose commit is visible for long before anything else that
 *		happens at a commit: LOAD this after turn_liveness.
 *
 * The server calls the callbacks of a commit beginning with the last one that
 * was registered.  This one waits until the session is told to go on, by the
 * file that SLOW_COMMIT names.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xact.h"
#include "fmgr.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static char *go_on = NULL;

static void
at_end_of_xact(XactEvent event, void *arg)
{
	while (event == XACT_EVENT_COMMIT && go_on[0] != '\0' && access(go_on, F_OK) != 0)
		usleep(1000);
}

void
_PG_init(void)
{
	DefineCustomStringVariable("slow_commit.go_on", "The session's commit waits for this file.",
							   NULL, &go_on, "", PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(at_end_of_xact, NULL);
}
