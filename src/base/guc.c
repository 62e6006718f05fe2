/*
 * guc.c
 *		The settings, in alphabetical order.
 *
 * Whatever decides who is failed or what is kept is the superuser's (SUSET), so
 * that ALTER DATABASE ... SET works too; what sizes shared memory needs a
 * restart.  Ranges are refused when a value is set.  A check hook cannot look
 * at another setting, so a pair that contradicts itself is settled where it is
 * used: it is logged once, and the longer time holds.
 */
#include "base/turn_liveness.h"

#include <limits.h>

#include "storage/lwlock.h"
#include "utils/guc.h"

#include "base/guc.h"

#define TL_HOUR_MS		(60 * 60 * 1000)
#define TL_DAY_MS		(24 * TL_HOUR_MS)

int			tl_admission_deadline = 180 * 1000;
int			tl_attach_capacity = 2048;
int			tl_claim_timeout = 30 * 1000;
bool		tl_enabled = true;
int			tl_lease_capacity = 131072;
bool		tl_log_failures = true;
int			tl_mass_silence_hold = 60 * 1000;
int			tl_max_attempts = 30;
int			tl_max_reply_size = 1024;
int			tl_max_routing_size = 64;
int			tl_max_turn_duration = 4 * TL_HOUR_MS;
char	   *tl_message_died = NULL;
char	   *tl_message_never_started = NULL;
char	   *tl_message_too_long = NULL;
char	   *tl_message_unresponsive = NULL;
char	   *tl_notify_channel = NULL;
bool		tl_notify_detail = true;
int			tl_reconnect_window = 2000;
int			tl_restore_grace = 10 * 60 * 1000;
int			tl_retention = TL_DAY_MS;
int			tl_retry_delay = 1000;
bool		tl_sweep = true;
int			tl_sweep_batch = 1000;
int			tl_turn_deadline = 60 * 1000;
int			tl_undelivered_retention = 7 * TL_DAY_MS;

static bool check_channel(char **newval, void **extra, GucSource source);
static bool check_message(char **newval, void **extra, GucSource source);

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

static void
define_time(const char *name, const char *what, int *variable, int minimum)
{
	DefineCustomIntVariable(name, what, NULL, variable, *variable,
							minimum, INT_MAX, PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
}

static void
define_bool(const char *name, const char *what, bool *variable)
{
	DefineCustomBoolVariable(name, what, NULL, variable, *variable,
							 PGC_SUSET, 0, NULL, NULL, NULL);
}

static void
define_message(const char *name, const char *what, char **variable, const char *text)
{
	DefineCustomStringVariable(name, what, NULL, variable, text,
							   PGC_SUSET, 0, check_message, NULL, NULL);
}

void
tl_guc_init(void)
{
	bool		preload = process_shared_preload_libraries_in_progress;

	define_time("turn_liveness.admission_deadline",
				"How long an armed turn may wait for its worker's first beat.",
				&tl_admission_deadline, 1);
	if (preload)
		DefineCustomIntVariable("turn_liveness.attach_capacity",
								"How many deployments can be attached to sessions at once.",
								NULL, &tl_attach_capacity, tl_attach_capacity,
								16, 1024 * 1024, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	define_time("turn_liveness.claim_timeout",
				"How long a gateway may hold a claimed reply before it is due again.",
				&tl_claim_timeout, 1);
	define_bool("turn_liveness.enabled",
				"Runs a background worker for the database.",
				&tl_enabled);
	if (preload)
		DefineCustomIntVariable("turn_liveness.lease_capacity",
								"How many deployments and named turns can beat in shared memory.",
								"A beat that finds no room is written to the marker rows instead.",
								&tl_lease_capacity, tl_lease_capacity,
								16, 64 * 1024 * 1024, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	define_bool("turn_liveness.log_failures",
				"Logs one line for each turn that is failed by the extension.",
				&tl_log_failures);
	define_time("turn_liveness.mass_silence_hold",
				"How long lapses are held back when all workers fall silent at once.",
				&tl_mass_silence_hold, 0);
	DefineCustomIntVariable("turn_liveness.max_attempts",
							"How many times a reply is claimed before it is dead.",
							NULL, &tl_max_attempts, tl_max_attempts,
							1, INT_MAX, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("turn_liveness.max_reply_size",
							"Largest terminal reply that is accepted.",
							NULL, &tl_max_reply_size, tl_max_reply_size,
							1, 256 * 1024, PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("turn_liveness.max_routing_size",
							"Largest routing that is accepted.",
							NULL, &tl_max_routing_size, tl_max_routing_size,
							1, 16 * 1024, PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	define_time("turn_liveness.max_turn_duration",
				"How long a turn may take in all, beats or not.",
				&tl_max_turn_duration, 1);
	define_message("turn_liveness.message_died",
				   "Text of the error WORKER_DIED.", &tl_message_died,
				   "The worker handling your request stopped unexpectedly before it could reply. Please retry in a moment.");
	define_message("turn_liveness.message_never_started",
				   "Text of the error WORKER_NEVER_STARTED.", &tl_message_never_started,
				   "No worker could be started for your request. Please retry in a moment.");
	define_message("turn_liveness.message_too_long",
				   "Text of the error TURN_TOO_LONG.", &tl_message_too_long,
				   "Your request took longer than is allowed and was ended.");
	define_message("turn_liveness.message_unresponsive",
				   "Text of the error WORKER_UNRESPONSIVE.", &tl_message_unresponsive,
				   "The worker handling your request stopped responding before it could reply. Please retry in a moment.");
	DefineCustomStringVariable("turn_liveness.notify_channel",
							   "Channel on which gateways are told what to look at; empty for none.",
							   NULL, &tl_notify_channel, TL_EXTENSION,
							   PGC_SUSET, 0, check_channel, NULL, NULL);
	define_bool("turn_liveness.notify_detail",
				"Names conversations and platforms in notifications.",
				&tl_notify_detail);
	define_time("turn_liveness.reconnect_window",
				"How long after its session's end an attached deployment may come back.",
				&tl_reconnect_window, 0);
	define_time("turn_liveness.restore_grace",
				"How long turns that this server did not arm are left alone.",
				&tl_restore_grace, 0);
	define_time("turn_liveness.retention",
				"How long delivered, discharged and late records are kept.",
				&tl_retention, 1);
	define_time("turn_liveness.retry_delay",
				"How long a released reply waits before it is due again; doubled with every attempt.",
				&tl_retry_delay, 1);
	define_bool("turn_liveness.sweep",
				"Fails lapsed turns; off holds every automatic failure.",
				&tl_sweep);
	DefineCustomIntVariable("turn_liveness.sweep_batch",
							"How many lapsed turns one transaction of the sweep fails.",
							NULL, &tl_sweep_batch, tl_sweep_batch,
							1, 1000000, PGC_SUSET, 0, NULL, NULL, NULL);
	define_time("turn_liveness.turn_deadline",
				"How long a turn may stay silent after a beat.",
				&tl_turn_deadline, 1);
	define_time("turn_liveness.undelivered_retention",
				"How long due and dead replies are kept.",
				&tl_undelivered_retention, 1);

	MarkGUCPrefixReserved(TL_EXTENSION);
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

	if (deadline > tl_max_turn_duration && !logged)
	{
		logged = true;
		ereport(LOG,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is shorter than a deadline within it, the longer time holds",
						"turn_liveness.max_turn_duration")));
	}
	return Max(deadline, tl_max_turn_duration);
}

int64
tl_undelivered_retention_us(void)
{
	static bool logged = false;

	if (tl_retention > tl_undelivered_retention && !logged)
	{
		logged = true;
		ereport(LOG,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is shorter than \"%s\", the longer time holds",
						"turn_liveness.undelivered_retention",
						"turn_liveness.retention")));
	}
	return Max(tl_retention, tl_undelivered_retention) * TL_MS;
}

const char *
tl_code_name(TlCode code)
{
	static const char *const names[TL_NCODES] = {
		[TL_CODE_UNRESPONSIVE] = "WORKER_UNRESPONSIVE",
		[TL_CODE_NEVER_STARTED] = "WORKER_NEVER_STARTED",
		[TL_CODE_DIED] = "WORKER_DIED",
		[TL_CODE_TOO_LONG] = "TURN_TOO_LONG",
	};

	Assert(code < TL_NCODES);
	return names[code];
}

const char *
tl_code_message(TlCode code)
{
	switch (code)
	{
		case TL_CODE_NEVER_STARTED:
			return tl_message_never_started;
		case TL_CODE_DIED:
			return tl_message_died;
		case TL_CODE_TOO_LONG:
			return tl_message_too_long;
		default:
			return tl_message_unresponsive;
	}
}
