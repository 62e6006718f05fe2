/*
 * process.c
 *		What the launcher and the workers share as processes: their signals,
 *		and the settings that they fix for themselves.
 *
 * A DBA sets these for sessions, for a database or a role say.  They must not
 * end our processes in the middle of their work, or change what it means.
 */
#include "base/turn_liveness.h"

#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"

#include "worker/worker.h"

/* As die(), but an idle process ends its loop and logs no FATAL. */
static void
on_sigterm(SIGNAL_ARGS)
{
	ShutdownRequestPending = true;
	tl_call_signal_handler_compat(die);
}

void
tl_process_connect(Oid dboid, const char *kind)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"zero_damaged_pages", "off"},
	};
	int			i;

	/* the postmaster started this process with signals blocked */
	pqsignal(SIGTERM, on_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	for (i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", psprintf("%s %s", TL_EXTENSION, kind),
					PGC_USERSET, PGC_S_OVERRIDE);
}

bool
tl_process_handle_signals(int exit_code)
{
	if (ShutdownRequestPending)
		proc_exit(exit_code);
	CHECK_FOR_INTERRUPTS();
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}
