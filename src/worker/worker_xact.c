/*
 * worker_xact.c
 *		The steps of the worker: how each begins and ends, and those that need to know
 *		nothing of the others in the round (duty.c).
 *
 * A step is a short transaction of its own, and pg_stat_activity says which it is.
 * One that fails has done nothing, and has seen to it that it is done again.
 *
 * The extension is locked while its tables are used, as DROP EXTENSION locks it: once we
 * have it, it is there until the end of the transaction.
 */
#include "base/turn_liveness.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_subscription.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/grace.h"
#include "base/guc.h"
#include "base/catalog.h"
#include "worker/worker_xact.h"
#include "turns/sweep.h"
#include "worker/watch_list.h"

static Oid	served = InvalidOid;	/* the extension */
static bool extension_gone = false;
static bool replaced = false;
static int64 next_death_look = 0;
/* so few that letters of the meantime fit into the mailbox */
static TlSweepItem items[200];

bool
tl_worker_xact_begin(const char *what)
{
	Oid			extension;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, what);

	extension = get_extension_oid(TL_EXTENSION, true);
	if (OidIsValid(extension))
	{
		/* who drops it waits for us, or we see it gone */
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
		AcceptInvalidationMessages();
		if (get_extension_oid(TL_EXTENSION, true) == extension && OidIsValid(tl_extension_oid()))
		{
			if (!OidIsValid(served))
				served = extension;
			if (served == extension)
				return true;
			/* another one has come before we saw the first one go: our time is not its */
			replaced = true;
		}
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	extension_gone = true;
	return false;
}

void
tl_worker_xact_end(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

bool
tl_worker_xact_extension_gone(void)
{
	return extension_gone;
}

bool
tl_worker_xact_extension_recreated(void)
{
	return replaced;
}

/* A worker begins. */
void
tl_worker_xact_reset(void)
{
	next_death_look = 0;
}

int
tl_step_fail_lapsed(TlDatabase *db)
{
	TlGrace		grace;
	int64		start = tl_monotonic();
	int64		now = tl_clock_tick();
	int			nitems;
	int			i;

	/* no transaction for a look at what lives: all of it is in memory */
	tl_grace_get(&grace);
	nitems = tl_watch_list_take_expired(now, &grace, items, lengthof(items));
	if (nitems == 0)
		return 0;

	PG_TRY();
	{
		if (tl_worker_xact_begin("failing lapsed turns"))
		{
			(void) tl_sweep_items(items, nitems, nitems, false);
			tl_worker_xact_end();
		}
	}
	PG_CATCH();
	{
		/* nothing of it happened: look at all of them again */
		for (i = 0; i < nitems; i++)
		{
			items[i].status = TL_SWEEP_BUSY;
			items[i].look_us = now + TL_SECOND;
			tl_watch_list_settle(&items[i], now);
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
	for (i = 0; i < nitems; i++)
		tl_watch_list_settle(&items[i], now);
	pg_atomic_write_u64(&db->last_sweep_us, now);
	pg_atomic_write_u64(&db->last_sweep_took_us, tl_monotonic() - start);
	tl_counter_add(TL_COUNT_SWEEPS, 1);
	return nitems;
}

/* Sessions that ended with deployments attached. */
void
tl_step_fail_dead(TlDatabase *db)
{
	int64		window = tl_reconnect_window * TL_MS;
	int64		now = tl_clock_now();
	int64		oldest;

	if (pg_atomic_exchange_u64(&db->death_us, PG_INT64_MAX) != PG_INT64_MAX)
		next_death_look = 0;
	if (now < next_death_look)
		return;
	oldest = tl_attach_oldest_death();
	if (oldest <= now - window)
	{
		int			failed = 0;

		next_death_look = now + TL_SECOND;	/* if this fails */
		if (tl_worker_xact_begin("failing the turns of ended sessions"))
		{
			failed = tl_sweep_deaths(now - window, tl_sweep_batch);
			tl_worker_xact_end();
		}
		/* what an open transaction held is left over, or there are more */
		oldest = tl_attach_oldest_death();
		next_death_look = oldest == PG_INT64_MAX ? PG_INT64_MAX :
			Max(oldest + window, failed > 0 ? now : now + TL_SECOND);
	}
	else
		next_death_look = oldest == PG_INT64_MAX ? PG_INT64_MAX : oldest + window;
}

int64
tl_step_next_death_look(void)
{
	return next_death_look;
}

/*
 * A logical replication worker can change our tables, and end a prepared
 * transaction, unseen by our hook and trigger: counts go stale by time then.
 */
void
tl_step_look_for_subscriptions(TlDatabase *db)
{
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	if (!tl_worker_xact_begin("looking for subscriptions"))
		return;
	rel = table_open(SubscriptionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_subscription_subdbid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(MyDatabaseId));
	scan = systable_beginscan(rel, SubscriptionNameIndexId, true, NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	tl_worker_xact_end();
	pg_atomic_write_u32(&db->recheck, found);
}
