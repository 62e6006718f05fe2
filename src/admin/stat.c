/*
 * stat.c
 *		What the view stat shows of shared memory: one row.
 *
 * Counters and gauges that live in shared memory come from here, what the
 * tables know is added by the view.  Without preload, and on a standby for what
 * a worker tells, a column is NULL rather than a zero that no process counted.
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
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "base/guc.h"
#include "shared/clock.h"
#include "shared/grace.h"
#include "shared/lease.h"
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

/* the row that is made */
typedef struct StatRow
{
	Datum		values[STAT_NATTS];
	bool		nulls[STAT_NATTS];
} StatRow;

static const char *const state_names[] = {
	[TL_WORKER_NONE] = "none",
	[TL_WORKER_WANTED] = "wanted",
	[TL_WORKER_RUNNING] = "running",
	[TL_WORKER_DISABLED] = "disabled",
	[TL_WORKER_NO_SLOT] = "no slot",
};

static void
set(StatRow *row, int column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

/*
 * A step of the worker that waits for a lock, or for a standby, for longer than a
 * second; NULL if there is none.
 */
static const char *
stuck_step(TlDatabase *db, pid_t pid)
{
	int64		since = (int64) pg_atomic_read_u64(&db->worker.step_since_us);
	int64		seconds = (tl_monotonic() - since) / TL_SECOND;
	PGPROC	   *proc = BackendPidGetProc(pid);
	const char *type = proc ? pgstat_get_wait_event_type(proc->wait_event_info) : NULL;
	bool		lock = type && strcmp(type, "Lock") == 0;

	if (seconds < 1 || !(lock || (type && strcmp(type, "IPC") == 0)))
		return NULL;
	return psprintf("waits for a %s in step \"%s\" since " INT64_FORMAT " s",
					lock ? "lock" : "process", pgstat_get_backend_current_activity(pid, false),
					seconds);
}

/*
 * What the launcher and the worker say of themselves, and why no worker serves this
 * database, or does so badly, for the person on call: the first reason that holds.
 */
static void
describe_worker(StatRow *row, TlDatabase *db)
{
	TlWorkerSlot slot = {0};
	pid_t		launcher = 0;
	bool		standby = RecoveryInProgress();
	const char *problem = NULL;
	int			i;

	if (tl_shared != NULL)
	{
		LWLockAcquire(&tl_shared->directory, LW_SHARED);
		launcher = tl_shared->launcher_pid;
		if (db != NULL)
			slot = db->worker;
		LWLockRelease(&tl_shared->directory);
	}
	if (standby)
		slot.state = TL_WORKER_NONE;
	set(row, STAT_WORKER_STATE, CStringGetTextDatum(state_names[slot.state]));
	if (launcher != 0)
		set(row, STAT_LAUNCHER_PID, Int32GetDatum(launcher));
	if (slot.state == TL_WORKER_RUNNING)
	{
		/* a worker that is starting serves the database only once it runs */
		set(row, STAT_WORKER_PID, Int32GetDatum(slot.pid));
		problem = stuck_step(db, slot.pid);
	}
	else
	{
		const struct
		{
			bool		holds;
			const char *text;
		}			reasons[] = {
			{tl_shared == NULL, "turn_liveness is not in shared_preload_libraries"},
			{standby, "the server is a standby"},
			{db == NULL, "too many databases use the extension"},
			/* the setting of this session is that of the database: a worker may not know it yet */
			{slot.state == TL_WORKER_DISABLED || !tl_enabled, "turn_liveness.enabled is off"},
			{launcher == 0, "the launcher is not running: look for free max_worker_processes and at the server log"},
			{slot.state == TL_WORKER_NO_SLOT, "no background worker is free: increase max_worker_processes"},
			{slot.excluded_until_us > tl_monotonic(), "another session runs a command that needs the database without connections"},
			{slot.failed, "the last worker ended with an error: look at the server log"},
			{slot.state == TL_WORKER_WANTED, "the worker is being started"},
			{true, "the database is a template, or allows no connections"},
		};

		for (i = 0; !reasons[i].holds; i++)
			;
		problem = reasons[i].text;
	}
	if (problem != NULL)
		set(row, STAT_WORKER_PROBLEM, CStringGetTextDatum(problem));
}

/*
 * What keeps turns from being failed in the whole database, and until when if
 * that is known.  The end is reckoned with the default deadline, though a turn may
 * have one of its own.
 */
static void
describe_grace(StatRow *row, TlDatabase *db, int64 now)
{
	int64		deadline = tl_turn_deadline * TL_MS;
	bool		sweeps = db != NULL && pg_atomic_read_u32(&db->clock.ticking) ?
		pg_atomic_read_u32(&db->grace.sweep_off) == 0 : tl_sweep;
	int64		until = 0;
	TlGrace		grace;
	int64		silent = 0;
	StringInfoData text;
	int			i;

	tl_grace_get(&grace);
	if (tl_is_held(&grace, deadline, now, now))
		silent = now - grace.last_call >= deadline / 2 ? PG_INT64_MAX : grace.gaps[0].to + deadline;
	{
		/* no turn is failed until then; PG_INT64_MAX: the end is not known */
		const struct
		{
			const char *name;
			int64		until;
		}			causes[] = {
			{"sweep off", sweeps ? 0 : PG_INT64_MAX},
			{"server start", grace.start + deadline},
			{"pause", grace.pause > 0 ? grace.pause + deadline : 0},
			{"sweep on again", grace.resumed > 0 ? grace.resumed + deadline : 0},
			{"mass silence", silent},
		};

		initStringInfo(&text);
		for (i = 0; i < lengthof(causes); i++)
			if (causes[i].until > now)
			{
				appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", causes[i].name);
				until = Max(until, causes[i].until);
			}
	}
	set(row, STAT_SWEEP_ENABLED, BoolGetDatum(sweeps));
	if (text.len > 0)
		set(row, STAT_GRACE, CStringGetTextDatum(text.data));
	if (until > 0 && until < PG_INT64_MAX)
		set(row, STAT_GRACE_UNTIL, TimestampTzGetDatum(tl_clock_to_wall(until, now)));
}

PG_FUNCTION_INFO_V1(turn_liveness_stat_row);
PG_FUNCTION_INFO_V1(turn_liveness_stat_reset);

Datum
turn_liveness_stat_row(PG_FUNCTION_ARGS)
{
	TlDatabase *db = tl_database();
	int64		now = tl_clock_now();
	int64		last;
	StatRow		row;
	TupleDesc	desc;
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
	memset(row.values, 0, sizeof(row.values));
	memset(row.nulls, true, sizeof(row.nulls));

	describe_worker(&row, db);
	describe_grace(&row, db, now);
	if (tl_shared != NULL)
	{
		set(&row, STAT_LEASES_USED, Int32GetDatum(tl_lease_used()));
		set(&row, STAT_LEASE_CAPACITY, Int32GetDatum(tl_lease_capacity));
	}
	if (db != NULL)
	{
		last = (int64) pg_atomic_read_u64(&db->last_sweep_us);
		if (last > 0)
		{
			set(&row, STAT_LAST_SWEEP, TimestampTzGetDatum(tl_clock_to_wall(last, now)));
			set(&row, STAT_LAST_SWEEP_MS,
				Float8GetDatum(pg_atomic_read_u64(&db->last_sweep_took_us) / 1000.0));
		}
		for (i = 0; i < TL_NCOUNTERS; i++)
			set(&row, STAT_COUNTERS + i, Int64GetDatum((int64) tl_counter_read(db, (TlCounter) i)));
		set(&row, STAT_RESET, TimestampTzGetDatum(db->stats_reset));
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), row.values, row.nulls)));
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
