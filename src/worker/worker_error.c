/*
 * worker_error.c
 *		How a worker reports an error and goes on.
 *
 * The worker tries again each second what has failed.  The log is told of an
 * error that comes again once a minute.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared/counters.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "shared/clock.h"
#include "shared/database.h"
#include "worker/worker_error.h"

#define SAME_ERROR_PAUSE	(60 * TL_SECOND)
#define MAX_REPORTED		8

/*
 * An error that was reported, known by the place that raised it.  The name of
 * the file is kept as a hash, because the error owns the string.
 */
typedef struct ReportedError
{
	uint32		file;
	int			lineno;
	int			sqlerrcode;
	int64		when;
} ReportedError;

static ReportedError reported[MAX_REPORTED];

static bool is_news(const ErrorData *error);

/* False if the same error was reported less than a minute ago. */
static bool
is_news(const ErrorData *error)
{
	int64		now = tl_monotonic();
	const char *name = error->filename ? error->filename : "";
	uint32		file = hash_bytes((const unsigned char *) name, strlen(name));
	ReportedError *place = &reported[0];
	int			i;

	for (i = 0; i < MAX_REPORTED; i++)
	{
		ReportedError *r = &reported[i];

		if (r->when > 0 && r->file == file && r->lineno == error->lineno &&
			r->sqlerrcode == error->sqlerrcode)
		{
			if (now - r->when < SAME_ERROR_PAUSE)
				return false;
			place = r;
			break;
		}
		if (r->when < place->when)
			place = r;
	}
	place->file = file;
	place->lineno = error->lineno;
	place->sqlerrcode = error->sqlerrcode;
	place->when = now;
	return true;
}

void
tl_worker_recover(MemoryContext context)
{
	ErrorData  *error;
	bool		failed;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	/* stat tells of a step that found no lock */
	failed = error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE;
	if (failed && is_news(error))
		EmitErrorReport();
	FreeErrorData(error);
	AbortCurrentTransaction();
	LWLockReleaseAll();
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(context);
	FlushErrorState();
	RESUME_INTERRUPTS();
	if (failed)
		tl_counter_add(TL_COUNT_SWEEP_ERRORS, 1);
}
