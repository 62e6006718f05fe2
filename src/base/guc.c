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

#include <limits.h>

#include "storage/lwlock.h"
#include "utils/guc.h"

#include "base/guc.h"

#define HOUR_MS		(60 * 60 * 1000)
#define DAY_MS		(24 * HOUR_MS)

int			tl_admission_deadline = 180 * 1000;
int			tl_attach_capacity = 2048;
int			tl_claim_timeout = 30 * 1000;
bool		tl_enabled = true;
int			tl_lease_capacity = 131072;
bool		tl_log_failures = true;
int			tl_mass_silence_hold = 60 * 1000;
int			tl_max_attempts = 30;
int			tl_max_late_replies = 100000;
int			tl_max_reply_size = 1024;
int			tl_max_routing_size = 64;
int			tl_max_turn_duration = 4 * HOUR_MS;
char	   *tl_message_died = NULL;
char	   *tl_message_never_started = NULL;
char	   *tl_message_too_long = NULL;
char	   *tl_message_unresponsive = NULL;
char	   *tl_notify_channel = NULL;
bool		tl_notify_detail = true;
int			tl_reconnect_window = 2000;
int			tl_restore_grace = 10 * 60 * 1000;
int			tl_retention = DAY_MS;
int			tl_retry_delay = 1000;
bool		tl_sweep = true;
int			tl_sweep_batch = 1000;
int			tl_turn_deadline = 60 * 1000;
int			tl_undelivered_retention = 7 * DAY_MS;

static bool check_channel(char **newval, void **extra, GucSource source);
static bool check_message(char **newval, void **extra, GucSource source);
static void log_contradiction(bool *logged, const char *shorter, const char *longer);

/* A setting; its default is the value of the variable, or text. */
typedef struct Setting
{
	const char *name;
	const char *what;
	int		   *number;			/* of these three, one is not NULL */
	bool	   *flag;
	char	  **string;
	int			minimum;		/* of a number */
	int			maximum;
	int			flags;			/* GUC_UNIT_... */
	const char *text;			/* of a string */
	GucStringCheckHook check;
	bool		sizes_memory;	/* read at the start, with preload only */
} Setting;

#define TIME(variable, minimum_ms) \
	.number = &variable, .minimum = minimum_ms, .maximum = INT_MAX, .flags = GUC_UNIT_MS
#define NUMBER(variable, least, most) \
	.number = &variable, .minimum = least, .maximum = most
#define MESSAGE(variable, default_text) \
	.string = &variable, .text = default_text, .check = check_message

static const Setting settings[] = {
	{"turn_liveness.admission_deadline",
		"How long an armed turn may wait for its worker's first beat.",
	TIME(tl_admission_deadline, 1)},
	{"turn_liveness.attach_capacity",
		"How many deployments can be attached to sessions at once.",
	NUMBER(tl_attach_capacity, 16, 1024 * 1024), .sizes_memory = true},
	{"turn_liveness.claim_timeout",
		"How long a gateway may hold a claimed reply before it is due again.",
	TIME(tl_claim_timeout, 1)},
	{"turn_liveness.enabled",
		"Runs a background worker for the database.",
	.flag = &tl_enabled},
	{"turn_liveness.lease_capacity",
		"How many deployments and named turns can beat in shared memory; other beats are written to rows.",
	NUMBER(tl_lease_capacity, 16, 64 * 1024 * 1024), .sizes_memory = true},
	{"turn_liveness.log_failures",
		"Logs one line for each turn that is failed by the extension.",
	.flag = &tl_log_failures},
	{"turn_liveness.mass_silence_hold",
		"How long lapses are held back when all workers fall silent at once.",
	TIME(tl_mass_silence_hold, 0)},
	{"turn_liveness.max_attempts",
		"How many times a reply is claimed before it is dead.",
	NUMBER(tl_max_attempts, 1, INT_MAX)},
	{"turn_liveness.max_late_replies",
		"How many late replies the database keeps for inspection.",
	NUMBER(tl_max_late_replies, 0, INT_MAX)},
	{"turn_liveness.max_reply_size",
		"Largest terminal reply that is accepted.",
	NUMBER(tl_max_reply_size, 1, 256 * 1024), .flags = GUC_UNIT_KB},
	{"turn_liveness.max_routing_size",
		"Largest routing that is accepted.",
	NUMBER(tl_max_routing_size, 1, 16 * 1024), .flags = GUC_UNIT_KB},
	{"turn_liveness.max_turn_duration",
		"How long a turn may take in all, beats or not.",
	TIME(tl_max_turn_duration, 1)},
	{"turn_liveness.message_died",
		"Text of the error WORKER_DIED.",
		MESSAGE(tl_message_died,
	"The worker handling your request stopped unexpectedly before it could reply. Please retry in a moment.")},
	{"turn_liveness.message_never_started",
		"Text of the error WORKER_NEVER_STARTED.",
		MESSAGE(tl_message_never_started,
	"No worker could be started for your request. Please retry in a moment.")},
	{"turn_liveness.message_too_long",
		"Text of the error TURN_TOO_LONG.",
		MESSAGE(tl_message_too_long,
	"Your request took longer than is allowed and was ended.")},
	{"turn_liveness.message_unresponsive",
		"Text of the error WORKER_UNRESPONSIVE.",
		MESSAGE(tl_message_unresponsive,
	"The worker handling your request stopped responding before it could reply. Please retry in a moment.")},
	{"turn_liveness.notify_channel",
		"Channel on which gateways are told what to look at; empty for none.",
	.string = &tl_notify_channel, .text = TL_EXTENSION, .check = check_channel},
	{"turn_liveness.notify_detail",
		"Names conversations and platforms in notifications.",
	.flag = &tl_notify_detail},
	{"turn_liveness.reconnect_window",
		"How long after its session's end an attached deployment may come back.",
	TIME(tl_reconnect_window, 0)},
	{"turn_liveness.restore_grace",
		"How long turns that this server did not arm are left alone.",
	TIME(tl_restore_grace, 0)},
	{"turn_liveness.retention",
		"How long delivered, discharged and late records are kept.",
	TIME(tl_retention, 1)},
	{"turn_liveness.retry_delay",
		"How long a released reply waits before it is due again; doubled with every attempt.",
	TIME(tl_retry_delay, 1)},
	{"turn_liveness.sweep",
		"Fails lapsed turns; off holds every automatic failure.",
	.flag = &tl_sweep},
	{"turn_liveness.sweep_batch",
		"How many lapsed turns one transaction of the sweep fails.",
	NUMBER(tl_sweep_batch, 1, 1000000)},
	{"turn_liveness.turn_deadline",
		"How long a turn may stay silent after a beat.",
	TIME(tl_turn_deadline, 1)},
	{"turn_liveness.undelivered_retention",
		"How long due and dead replies are kept.",
	TIME(tl_undelivered_retention, 1)},
};

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

void
tl_guc_init(void)
{
	int			i;

	for (i = 0; i < lengthof(settings); i++)
	{
		const Setting *s = &settings[i];
		GucContext	context = s->sizes_memory ? PGC_POSTMASTER : PGC_SUSET;

		if (s->sizes_memory && !process_shared_preload_libraries_in_progress)
			continue;
		if (s->number != NULL)
			DefineCustomIntVariable(s->name, s->what, NULL, s->number, *s->number,
									s->minimum, s->maximum, context, s->flags, NULL, NULL, NULL);
		else if (s->flag != NULL)
			DefineCustomBoolVariable(s->name, s->what, NULL, s->flag, *s->flag,
									 context, s->flags, NULL, NULL, NULL);
		else
			DefineCustomStringVariable(s->name, s->what, NULL, s->string, s->text,
									   context, s->flags, s->check, NULL, NULL);
	}
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
