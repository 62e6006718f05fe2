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
 * order here and of TlCounter in step with the function stat_row in the SQL
 * script.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "admin/worker_wait.h"
#include "base/guc.h"
#include "replies/outbox.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/lease_table.h"
#include "shared/worker_slot.h"

#define MAX_COLUMNS		(32 + TL_NCOUNTERS)

/* the row that is made, column by column in their order */
typedef struct StatRow
{
	int			n;
	Datum		values[MAX_COLUMNS];
	bool		nulls[MAX_COLUMNS];
} StatRow;

/* as the README and the column's comment name them */
static const char *const state_names[] = {
	[TL_WORKER_NONE] = "none", [TL_WORKER_WANTED] = "wanted", [TL_WORKER_RUNNING] = "running",
	[TL_WORKER_DISABLED] = "disabled", [TL_WORKER_NO_SLOT] = "no slot"
};

/* Add a column; NULL where it is not known. */
static void
add(StatRow *row, bool known, Datum value)
{
	Assert(row->n < MAX_COLUMNS);
	row->values[row->n] = value;
	row->nulls[row->n++] = !known;
}

/* The same for a text; NULL or empty is not known. */
static void
add_text(StatRow *row, const char *text)
{
	bool		known = text != NULL && *text != '\0';

	add(row, known, known ? CStringGetTextDatum(text) : (Datum) 0);
}

/*
 * What the launcher and the worker say of themselves, and why no worker serves
 * this database, or does so badly, for the person on call: the first reason
 * that holds.
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
	/* a worker that is starting serves the database only once it runs */
	if (slot.state == TL_WORKER_RUNNING)
	{
		problem = tl_worker_wait(&slot);
		if (problem == NULL)
			problem = tl_reply_id_problem();
	}
	else
	{
		/* the more a reason explains, the earlier it stands */
		const struct
		{
			bool		holds;
			const char *text;
		}			reasons[] = {
			{tl_shared == NULL, "turn_liveness is not in shared_preload_libraries"},
			{standby, "the server is a standby"},
			{db == NULL, "too many databases use the extension: increase turn_liveness.database_capacity"},
			/* this session knows the database's setting, a worker not yet */
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
	add_text(row, state_names[slot.state]);
	add(row, slot.state == TL_WORKER_RUNNING, Int32GetDatum(slot.pid));
	add_text(row, problem);
	add(row, launcher != 0, Int32GetDatum(launcher));
}

/*
 * What keeps turns from being failed in the whole database, and until when if
 * that is known.  The end is reckoned with the default deadline, though a turn
 * may have one of its own.
 */
static void
describe_grace(StatRow *row, TlDatabase *db, const TlGrace *grace, int64 now)
{
	int64		deadline = tl_turn_deadline * TL_MS;
	bool		sweeps = db != NULL && pg_atomic_read_u32(&db->clock.ticking) ?
		pg_atomic_read_u32(&db->grace.sweep_off) == 0 : tl_sweep && tl_accept;
	int64		until = 0;
	StringInfoData text;
	int			i;
	/* no turn is failed until then; PG_INT64_MAX: the end is not known */
	const struct
	{
		const char *name;
		int64		until;
	}			causes[] = {
		{"sweep off", sweeps ? 0 : PG_INT64_MAX},
		{"server start", grace->start + deadline},
		{"pause", grace->pause > 0 ? grace->pause + deadline : 0},
		{"sweep on again", grace->resumed > 0 ? grace->resumed + deadline : 0},
		{"mass silence", !tl_is_held(grace, deadline, now, now) ? 0 :
			now - grace->last_call >= deadline / 2 ? PG_INT64_MAX :
			grace->gaps[0].to + deadline},
	};

	initStringInfo(&text);
	for (i = 0; i < lengthof(causes); i++)
		if (causes[i].until > now)
		{
			appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", causes[i].name);
			until = Max(until, causes[i].until);
		}
	add(row, true, BoolGetDatum(sweeps));
	add_text(row, text.data);
	add(row, until > 0 && until < PG_INT64_MAX, TimestampTzGetDatum(tl_clock_to_wall(until, now)));
}

/*
 * The columns in the order of the function's declaration.  Their number is
 * checked at the end: the installed script may be of another version than the
 * library.
 */
PG_FUNCTION_INFO_V1(turn_liveness_stat_row);
PG_FUNCTION_INFO_V1(turn_liveness_stat_reset);

Datum
turn_liveness_stat_row(PG_FUNCTION_ARGS)
{
	TlDatabase *db = tl_database();
	int64		now = tl_clock_now();
	int64		last = db ? (int64) pg_atomic_read_u64(&db->last_sweep_us) : 0;
	int64		tick_age = tl_clock_tick_age();
	Interval	age = {.time = tick_age};
	StatRow		row = {0};
	TlGrace		grace;
	TupleDesc	desc;
	int			i;

	tl_grace_get(&grace);
	describe_worker(&row, db);
	add(&row, tl_shared != NULL, Int32GetDatum(tl_shared ? tl_lease_used() : 0));
	add(&row, tl_shared != NULL, Int32GetDatum(tl_lease_capacity));
	add(&row, tl_shared != NULL, Int32GetDatum(tl_shared ? tl_attach_used() : 0));
	add(&row, tl_shared != NULL, Int32GetDatum(tl_attach_capacity));
	add(&row, last > 0, TimestampTzGetDatum(tl_clock_to_wall(last, now)));
	add(&row, last > 0, Float8GetDatum(db ? pg_atomic_read_u64(&db->last_sweep_took_us) / 1000.0 : 0));
	add(&row, tick_age >= 0, IntervalPGetDatum(&age));
	describe_grace(&row, db, &grace, now);
	for (i = 0; i < TL_NCOUNTERS; i++)
		add(&row, db != NULL, Int64GetDatum(db ? (int64) tl_counter_read(db, (TlCounter) i) : 0));
	add(&row, db != NULL, TimestampTzGetDatum(db ? db->stats_reset : 0));

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (desc->natts != row.n)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the loaded library of %s shows other statistics than the installed extension",
						TL_EXTENSION),
				 errhint("Run ALTER EXTENSION %s UPDATE, and restart the server if the library was replaced.",
						 TL_EXTENSION)));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), row.values, row.nulls)));
}

/* Without preload no call is counted: there is nothing to do or to report. */
Datum
turn_liveness_stat_reset(PG_FUNCTION_ARGS)
{
	TlDatabase *db = tl_database();

	if (db != NULL)
		tl_counters_reset(db);
	PG_RETURN_VOID();
}
