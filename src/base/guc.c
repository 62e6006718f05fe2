/*
 * guc.c
 *		The settings, in alphabetical order.
 *
 * A setting that decides which turns are failed or what is kept is the
 * superuser's (SUSET), so that ALTER DATABASE ... SET works too; one that sizes
 * shared memory needs a restart.  The server refuses a range when a value is
 * set.  A check hook cannot look at another setting, so a pair that contradicts
 * itself is settled where it is used: the process logs it once, and the longer
 * time holds.
 */
#include "base/turn_liveness.h"

#include "storage/lwlock.h"
#include "utils/guc.h"

#include "base/guc.h"

#define DEFINE_INT(name, value, ...)	int tl_##name = value;
#define DEFINE_BOOL(name, value, ...)	bool tl_##name = value;
#define DEFINE_STRING(name, ...)		char *tl_##name = NULL;
TL_SETTINGS(DEFINE_INT, DEFINE_INT, DEFINE_INT, DEFINE_INT, DEFINE_BOOL, DEFINE_STRING)

/* A channel name must be shorter than NAMEDATALEN, or NOTIFY fails. */
static bool
check_channel(char **newval, void **extra, GucSource source)
{
	if (strlen(*newval) >= NAMEDATALEN)
	{
		GUC_check_errdetail("A channel name must be shorter than %d bytes.", NAMEDATALEN);
		return false;
	}
	return true;
}

/* An error that says nothing would not count as an error. */
static bool
check_message(char **newval, void **extra, GucSource source)
{
	if ((*newval)[0] == '\0')
	{
		GUC_check_errdetail("The text of an error must not be empty.");
		return false;
	}
	return true;
}

#define INT(name, value, least, most, context, unit, what) \
	DefineCustomIntVariable("turn_liveness." #name, what, NULL, &tl_##name, value, \
							least, most, context, unit, NULL, NULL, NULL);
#define TIME(name, value, least, most, what) \
	INT(name, value, least, most, PGC_SUSET, GUC_UNIT_MS, what)
#define NUMBER(name, value, least, most, what) \
	INT(name, value, least, most, PGC_SUSET, 0, what)
#define SIZE(name, value, least, most, what) \
	INT(name, value, least, most, PGC_SUSET, GUC_UNIT_KB, what)
#define MEMORY(name, value, least, most, what) \
	if (process_shared_preload_libraries_in_progress) \
		INT(name, value, least, most, PGC_POSTMASTER, 0, what)
#define FLAG(name, value, what) \
	DefineCustomBoolVariable("turn_liveness." #name, what, NULL, &tl_##name, value, \
							 PGC_SUSET, 0, NULL, NULL, NULL);
#define TEXT(name, check, what, value) \
	DefineCustomStringVariable("turn_liveness." #name, what, NULL, &tl_##name, value, \
							   PGC_SUSET, 0, check, NULL, NULL);

void
tl_guc_init(void)
{
	TL_SETTINGS(TIME, NUMBER, SIZE, MEMORY, FLAG, TEXT)
	MarkGUCPrefixReserved(TL_EXTENSION);
}

/* Log once in this process that two settings contradict each other. */
static void
log_contradiction(bool *logged, const char *shorter, const char *longer)
{
	if (*logged)
		return;
	*logged = true;
	ereport(LOG,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is shorter than \"%s\", using the longer time", shorter, longer)));
}

/*
 * The duration limit of a turn that names none: never below the deadlines that
 * count within it.
 */
int
tl_default_duration(void)
{
	static bool logged = false;
	int			deadline = Max(tl_admission_deadline, tl_turn_deadline);

	if (deadline > tl_max_turn_duration)
		log_contradiction(&logged, "turn_liveness.max_turn_duration",
						  tl_admission_deadline > tl_turn_deadline ?
						  "turn_liveness.admission_deadline" : "turn_liveness.turn_deadline");
	return Max(deadline, tl_max_turn_duration);
}

/* How long due and dead replies are kept: never shorter than delivered ones. */
int64
tl_undelivered_retention_us(void)
{
	static bool logged = false;

	if (tl_retention > tl_undelivered_retention)
		log_contradiction(&logged, "turn_liveness.undelivered_retention",
						  "turn_liveness.retention");
	return Max(tl_retention, tl_undelivered_retention) * TL_MS;
}

/* Each code's name, and the setting that is its text. */
static const struct
{
	const char *name;
	char	  **message;
}			codes[TL_NCODES] = {
	[TL_CODE_UNRESPONSIVE] = {"WORKER_UNRESPONSIVE", &tl_message_unresponsive},
	[TL_CODE_NEVER_STARTED] = {"WORKER_NEVER_STARTED", &tl_message_never_started},
	[TL_CODE_DIED] = {"WORKER_DIED", &tl_message_died},
	[TL_CODE_TOO_LONG] = {"TURN_TOO_LONG", &tl_message_too_long},
	[TL_CODE_WAIT_EXPIRED] = {"WAIT_EXPIRED", &tl_message_wait_expired},
};

const char *
tl_code_name(TlCode code)
{
	return codes[code].name;
}

const char *
tl_code_message(TlCode code)
{
	return *codes[code].message;
}
