/*
 * process_settings.c
 *		The settings that the launcher and the workers fix for themselves.
 *
 * A DBA sets these for sessions, for a database or a role say.  They must not
 * end our processes in the middle of their work, or change what it means.
 */
#include "base/turn_liveness.h"

#include "utils/guc.h"

#include "worker/process_settings.h"

void
tl_process_settings_fix(const char *application_name)
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

	for (i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	tl_no_transaction_timeout_compat();
	SetConfigOption("application_name", application_name, PGC_USERSET, PGC_S_OVERRIDE);
}
