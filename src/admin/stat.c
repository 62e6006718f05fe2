/*
 * stat.c
 *		What the view stat shows of shared memory: one row.
 *
 * Counters and gauges that live in shared memory come from here, what the
 * tables know is added by the view.  Without preload, and on a standby for what
 * a worker tells, a column is NULL rather than a zero that nobody counted.
 *
 * Rules: no lock but the directory's, and that for a copy; numbers that belong
 * together may be an instant apart.  Columns are found by position: keep the
 * order here and of TlCounter in step with the function stat_row in the SQL script.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "shared/clock.h"
#include "shared/counters.h"
#include "shared/grace.h"
#include "base/guc.h"
#include "shared/lease_table.h"
#include "shared/worker_slot.h"

enum
{
	STAT_WORKER_STATE,
	STAT_WORKER_PID,
	STAT_WORKER_PROBLEM,
	STAT_LAUNCHER_PID,
	STAT_LEASES_USED,
	STAT_LEASE_CAPACITY,
	STAT_LAST_SWEEP,
	STAT_LAST_SWEEP_MS,
	STAT_SWEEP_ENABLED,
	STAT_GRACE,
	STAT_GRACE_UNTIL,
	STAT_COUNTERS,
	STAT_RESET = STAT_COUNTERS + TL_NCOUNTERS,
	STAT_NATTS
};

/* what the launcher and the worker say of themselves, copied at one instant */
typedef struct Processes
{
	TlWorkerState state;
	pid_t		worker;
	pid_t		launcher;
	bool		excluded;
	bool		failed;
} Processes;

static void read_processes(TlDatabase *db, Processes *p);
static const char *state_name(TlWorkerState state);
static const char *stuck_step(TlDatabase *db, pid_t pid);
static const char *problem(TlDatabase *db, const Processes *p);
static bool describe_grace(TlDatabase *db, int64 now, StringInfo what, int64 *until);

PG_FUNCTION_INFO_V1(turn_liveness_stat_row);
PG_FUNCTION_INFO_V1(turn_liveness_stat_reset);

Datum
turn_liveness_stat_row(PG_FUNCTION_ARGS)
{
	TlDatabase *db = tl_database();
	int64		now = tl_clock_now();
	int64		until;
	Datum		values[STAT_NATTS] = {0};
	bool		nulls[STAT_NATTS];
	TupleDesc	desc;
	StringInfoData grace;
	Processes	p;
	const char *why;
	int			i;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (desc->natts != STAT_NATTS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the loaded library of %s shows other statistics than the installed extension",
						TL_EXTENSION),
				 errhint("Run ALTER EXTENSION %s UPDATE, and restart the server if the library was replaced.",
						 TL_EXTENSION)));
	desc = BlessTupleDesc(desc);
	memset(nulls, true, sizeof(nulls));

#define SET(att, value) (values[att] = (value), nulls[att] = false)

	read_processes(db, &p);
	why = problem(db, &p);
	SET(STAT_WORKER_STATE, CStringGetTextDatum(state_name(p.state)));
	if (p.worker != 0)
		SET(STAT_WORKER_PID, Int32GetDatum(p.worker));
	if (why != NULL)
		SET(STAT_WORKER_PROBLEM, CStringGetTextDatum(why));
	if (p.launcher != 0)
		SET(STAT_LAUNCHER_PID, Int32GetDatum(p.launcher));

	if (tl_shared != NULL)
	{
		SET(STAT_LEASES_USED, Int32GetDatum(tl_lease_used()));
		SET(STAT_LEASE_CAPACITY, Int32GetDatum(tl_lease_capacity));
	}
	if (db != NULL && pg_atomic_read_u64(&db->last_sweep_us) > 0)
	{
		SET(STAT_LAST_SWEEP,
			TimestampTzGetDatum(tl_clock_to_wall(pg_atomic_read_u64(&db->last_sweep_us), now)));
		SET(STAT_LAST_SWEEP_MS,
			Float8GetDatum(pg_atomic_read_u64(&db->last_sweep_took_us) / 1000.0));
	}

	SET(STAT_SWEEP_ENABLED,
		BoolGetDatum(db != NULL && pg_atomic_read_u32(&db->clock.ticking) ?
					 pg_atomic_read_u32(&db->grace.sweep_off) == 0 : tl_sweep));
	initStringInfo(&grace);
	if (describe_grace(db, now, &grace, &until))
	{
		SET(STAT_GRACE, CStringGetTextDatum(grace.data));
		if (until > 0)
			SET(STAT_GRACE_UNTIL, TimestampTzGetDatum(tl_clock_to_wall(until, now)));
	}

	if (db != NULL)
	{
		for (i = 0; i < TL_NCOUNTERS; i++)
			SET(STAT_COUNTERS + i, Int64GetDatum((int64) tl_counter_read(db, (TlCounter) i)));
		SET(STAT_RESET, TimestampTzGetDatum(db->stats_reset));
	}
#undef SET

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

static void
read_processes(TlDatabase *db, Processes *p)
{
	memset(p, 0, sizeof(*p));
	if (tl_shared == NULL)
		return;
	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	p->launcher = tl_shared->launcher_pid;
	if (db != NULL)
	{
		p->state = RecoveryInProgress() ? TL_WORKER_NONE : db->worker.state;
		/* a worker that is starting serves the database only once it runs */
		if (p->state == TL_WORKER_RUNNING)
			p->worker = db->worker.pid;
		p->excluded = tl_worker_excluded_until(db->dboid) > 0;
		p->failed = db->worker.failed;
	}
	LWLockRelease(&tl_shared->directory);
}

static const char *
state_name(TlWorkerState state)
{
	switch (state)
	{
		case TL_WORKER_NONE:
			return "none";
		case TL_WORKER_WANTED:
			return "wanted";
		case TL_WORKER_RUNNING:
			return "running";
		case TL_WORKER_DISABLED:
			return "disabled";
		case TL_WORKER_NO_SLOT:
			return "no slot";
	}
	return "unknown";
}

/*
 * A step of the worker that has waited for longer than a second, for a lock or
 * in its commit for a standby; NULL if there is none.  An optional step does
 * not wait, but is skipped until it finds its locks free.
 */
static const char *
stuck_step(TlDatabase *db, pid_t pid)
{
	char		name[TL_STEP_LEN];
	PGPROC	   *proc = BackendPidGetProc(pid);
	uint32		wait = proc != NULL ? proc->wait_event_info : 0;
	const char *type = pgstat_get_wait_event_type(wait);
	const char *what = NULL;
	int64		now = tl_monotonic();
	int64		since = tl_worker_read_step(&db->worker.running, name);

	if (since > 0 && now - since >= TL_SECOND && type != NULL)
	{
		if (strcmp(type, "Lock") == 0)
			what = "a lock";
		else if (strcmp(type, "IPC") == 0)
			what = pgstat_get_wait_event(wait);
	}
	if (what == NULL)
	{
		since = tl_worker_read_step(&db->worker.skipped, name);
		if (since == 0 || now - since < TL_SECOND)
			return NULL;
		what = "a lock";
	}
	return psprintf("waits for %s in step \"%s\" since " INT64_FORMAT " s",
					what, name, (now - since) / TL_SECOND);
}

/* Why no worker serves this database, or does so badly, for the person on call. */
static const char *
problem(TlDatabase *db, const Processes *p)
{
	if (tl_shared == NULL)
		return "turn_liveness is not in shared_preload_libraries";
	if (RecoveryInProgress())
		return "the server is a standby";
	if (db == NULL)
		return "too many databases use the extension";
	if (p->state == TL_WORKER_RUNNING)
		return stuck_step(db, p->worker);
	/* the setting of this session is that of the database: a worker may not have looked yet */
	if (p->state == TL_WORKER_DISABLED || !tl_enabled)
		return "turn_liveness.enabled is off";
	if (p->launcher == 0)
		return "the launcher is not running: look for free max_worker_processes and at the server log";
	if (p->state == TL_WORKER_NO_SLOT)
		return "no background worker is free: increase max_worker_processes";
	if (p->excluded)
		return "another session runs a command that needs the database without connections";
	if (p->failed)
		return "the last worker ended with an error: look at the server log";
	if (p->state == TL_WORKER_WANTED)
		return "the worker is being started";
	return "the database is a template, or allows no connections";
}

/*
 * What keeps turns from being failed in the whole database, and until when if
 * that is known (0 = it is not).  The end is reckoned with the default deadline,
 * though a turn may have one of its own.
 */
static bool
describe_grace(TlDatabase *db, int64 now, StringInfo what, int64 *until)
{
	int64		deadline = tl_turn_deadline * TL_MS;
	bool		open_end = false;
	TlGrace		grace;

	*until = 0;
	tl_grace_get(&grace);

	if (db != NULL && pg_atomic_read_u32(&db->clock.ticking) ?
		pg_atomic_read_u32(&db->grace.sweep_off) != 0 : !tl_sweep)
	{
		appendStringInfoString(what, "sweep off, ");
		open_end = true;
	}
	if (now < grace.start + deadline)
	{
		appendStringInfoString(what, "server start, ");
		*until = Max(*until, grace.start + deadline);
	}
	if (grace.pause > 0 && now < grace.pause + deadline)
	{
		appendStringInfoString(what, "pause, ");
		*until = Max(*until, grace.pause + deadline);
	}
	if (grace.resumed > 0 && now < grace.resumed + deadline)
	{
		appendStringInfoString(what, "sweep on again, ");
		*until = Max(*until, grace.resumed + deadline);
	}
	if (tl_is_held(&grace, deadline, now, now))
	{
		appendStringInfoString(what, "mass silence, ");
		if (now - grace.last_call >= deadline / 2)
			open_end = true;
		else
			*until = Max(*until, grace.gaps[0].to + deadline);
	}
	if (what->len == 0)
		return false;
	what->data[what->len - 2] = '\0';
	if (open_end)
		*until = 0;
	return true;
}

/* Without preload no call is counted: there is nothing to do, nor to complain of. */
Datum
turn_liveness_stat_reset(PG_FUNCTION_ARGS)
{
	TlDatabase *db = tl_database();

	if (db != NULL)
		tl_counters_reset(db);
	PG_RETURN_VOID();
}
