/*
 * worker_round.c
 *		What the worker does, round by round: take the mail, fail the turns
 *		that have lapsed, notify the gateways, and keep house.
 *
 * Each step is a short transaction of its own (worker_xact.c), and none is open
 * when a round ends.  No step loses anything by being done again.
 *
 * The sweep is the essential step.  It waits for a lock on our tables, and an
 * error of it, but for that of ended sessions, leaves this file by longjmp and
 * ends the round: worker.c reports it and begins another round.  All other
 * steps are optional: run_optional() tries them, and what a lock or an error
 * keeps from being done is tried again a second later, while the sweep goes on.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_subscription.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "replies/delivery.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/counters.h"
#include "shared/grace.h"
#include "shared/lease_table.h"
#include "shared/mailbox.h"
#include "store/rel.h"
#include "turns/sweep.h"
#include "worker/watch_list.h"
#include "worker/worker_round.h"
#include "worker/worker_xact.h"

#define GATHER_US			(5 * TL_MS)		/* between notifications under load */
#define GATHER_MANY_US		(20 * TL_MS)	/* if each names many, for all listeners wake */
#define MANY				16
#define LATE_US				TL_SECOND		/* from an arm to its commit */
#define RETRY_US			TL_SECOND		/* of an optional step */
#define RETENTION_US		(10 * TL_SECOND)
#define RETENTION_MORE_US	(100 * TL_MS)	/* a batch was full */
#define RESCAN_SHARE		100		/* a scan may take a hundredth of the time, */
#define REVIEW_US			(60 * TL_SECOND)
#define REVIEW_SHARE		400		/* one without a reason even less */

static uint32 generation;		/* of catalog.c, when the tables were looked at */
static Oid	turn_file = InvalidOid; /* the watch list's addresses are of this file */
static int64 next_notify = 0;
static int64 next_tables = 0;
static int64 next_rescan = 0;
static int64 next_review = 0;
static int64 next_retention = 0;
static int64 next_subscriptions = 0;
static int64 next_death_look = 0;
static int64 due_again_from = DT_NOBEGIN;
static int	retention_gone = 0;
static bool tables_known = false;	/* of this generation */
static bool first_scan = true;	/* the watch list has none of the rows yet */
static bool rescan_wanted = false;
static bool notify_all_wanted = false;
static bool used_here = false;	/* there are rows, or were: else nothing is kept */
static StringInfoData letter;
/* so few that letters of the meantime fit into the mailbox */
static TlSweepItem items[200];

/*
 * Try a step that must not hold the sweep up.  False if it was not done: one of
 * the tables is locked, or the step itself found a lock that it did not wait
 * for.
 */
static bool
run_optional(const char *step, LOCKMODE mode, uint32 tables, bool (*work) (void))
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		if (tl_worker_xact_try_begin(step, mode, tables))
		{
			done = work();
			tl_worker_xact_end(done);
		}
	}
	PG_CATCH();
	{
		/* the commit may have failed */
		done = false;
		tl_worker_recover(context, step);
	}
	PG_END_TRY();
	return done;
}

/* Which file are the turns in, and has it rows?  A restore sends no letter. */
static bool
look_at_tables(void)
{
	TlRel		turns;
	TlRel		late;
	Oid			file;

	tl_rel_open(&turns, TL_TURN, false);
	tl_rel_open(&late, TL_LATE_REPLY, false);
	file = turns.rel->rd_rel->relfilenode;
	if (RelationGetNumberOfBlocks(turns.rel) > 0 || RelationGetNumberOfBlocks(late.rel) > 0)
		used_here = true;
	tl_rel_close(&late);
	tl_rel_close(&turns);

	/*
	 * VACUUM FULL and CLUSTER give every row another address.  Until the watch
	 * list is made anew, rows are merely not found under their old addresses.
	 */
	if (file != turn_file)
	{
		tl_watch_list_reset(tl_clock_now());
		turn_file = file;
		first_scan = true;
		next_rescan = 0;
	}
	return true;
}

static bool
scan_turns(void)
{
	int64		took = tl_watch_list_scan(first_scan);
	int64		now = tl_clock_now();

	first_scan = false;
	rescan_wanted = false;
	/* rows that came unseen may have replies with them */
	tl_due_again_by(tl_database(), now);
	next_rescan = now + Max(TL_SECOND, took * RESCAN_SHARE);
	next_review = now + Max(REVIEW_US, took * REVIEW_SHARE);
	return true;
}

/* Make the watch list, or look for rows that moved or came without a letter. */
static void
rescan(int64 now)
{
	if (tl_catalog_generation() != generation)
		tables_known = false;
	if (!tables_known && now >= next_tables)
	{
		uint32		seen = tl_catalog_generation();

		next_tables = now + RETRY_US;
		tables_known = run_optional("looking at the tables", AccessShareLock,
									TL_BIT(TL_TURN) | TL_BIT(TL_LATE_REPLY), look_at_tables);
		generation = seen;
	}
	if ((first_scan || rescan_wanted) ? now >= next_rescan : now >= next_review)
		if (!run_optional("looking at the owed turns", AccessShareLock, TL_BIT(TL_TURN), scan_turns))
		{
			rescan_wanted = true;
			next_rescan = now + RETRY_US;
		}
}

bool
tl_worker_round_begin(void)
{
	MemoryContext old;
	int64		now;

	if (!tl_worker_xact_begin("looking for the extension"))
		return false;
	tl_clock_acquire();
	now = tl_clock_now();
	(void) tl_clock_epoch();
	tl_worker_xact_end(true);

	old = MemoryContextSwitchTo(TopMemoryContext);
	initStringInfo(&letter);
	MemoryContextSwitchTo(old);
	tl_watch_list_reset(now);
	rescan(now);

	/* between the last worker and this one none has notified */
	if (used_here || !tables_known)
		tl_notify_add_all();
	tl_due_again_by(tl_database(), now);
	tl_counter_add(TL_COUNT_WORKER_STARTS, 1);
	return true;
}

static void
take_mail(TlDatabase *db)
{
	TlMail		mail;
	int			at = 0;
	bool		rescan_asked;
	bool		notify_asked;
	int64		now = tl_clock_now();

	if (tl_mailbox_take(db, &letter, &rescan_wanted, &notify_all_wanted))
		used_here = true;
	/* if memory runs out on the way, the tables tell the same */
	rescan_asked = rescan_wanted;
	notify_asked = notify_all_wanted;
	rescan_wanted = notify_all_wanted = true;
	while (tl_mail_next(&letter, &at, &mail))
	{
		if (mail.type == TL_MAIL_WATCH)
		{
			/*
			 * The commit of the row may have waited, for a standby say, long
			 * after its transaction looked at the clock for the last time.
			 */
			bool		late = mail.watch.times.seen == TL_SEEN_UNKNOWN ||
				(mail.watch.fresh && mail.watch.times.seen == 0 &&
				 mail.watch.visible - mail.watch.times.armed > LATE_US);

			tl_watch_list_add(&mail.watch, late ? now : 0, now);
		}
		else
			tl_notify_add(&mail);
	}
	rescan_wanted = rescan_asked;
	notify_all_wanted = false;
	if (notify_asked)
		tl_notify_add_all();
}

/* A notification is a hint: no flush; a crash in between costs a look. */
static bool
send_notifications(void)
{
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	tl_notify_send();
	return true;
}

/*
 * A full queue makes this fail, and so does a session of any database whose
 * commit holds the lock of the queue, while it waits for a standby say.
 */
static void
notify(void)
{
	int64		now = tl_clock_now();

	if (tl_notify_pending() == 0 || now < next_notify)
		return;
	next_notify = now + (tl_notify_pending() >= MANY ? GATHER_MANY_US : GATHER_US);
	if (!run_optional("notifying", NoLock, 0, send_notifications))
	{
		tl_notify_add_all();
		next_notify = now + RETRY_US;
	}
}

/*
 * Fail the turns of sessions that ended with deployments attached.  An error
 * ends here, for what has lapsed is to be failed all the same.
 */
static void
fail_dead(TlDatabase *db)
{
	MemoryContext context = CurrentMemoryContext;
	int64		window = tl_reconnect_window * TL_MS;
	int64		now = tl_clock_now();
	volatile int64 retry = now;
	int64		oldest;

	if (pg_atomic_exchange_u64(&db->death_us, PG_INT64_MAX) != PG_INT64_MAX)
		next_death_look = 0;
	if (now < next_death_look)
		return;
	oldest = tl_attach_oldest_death();
	if (oldest <= now - window)
	{
		PG_TRY();
		{
			if (tl_worker_xact_begin("failing the turns of ended sessions"))
			{
				/* there may be more, or an open transaction holds some */
				if (tl_sweep_deaths(now - window, tl_sweep_batch) == 0)
					retry = now + RETRY_US;
				tl_worker_xact_end(true);
			}
		}
		PG_CATCH();
		{
			retry = now + RETRY_US;
			tl_worker_recover(context, NULL);
		}
		PG_END_TRY();
		oldest = tl_attach_oldest_death();
	}
	next_death_look = oldest == PG_INT64_MAX ? PG_INT64_MAX : Max(oldest + window, retry);
}

/* Fail a batch of turns that have lapsed; false if there was none. */
static bool
fail_expired(TlDatabase *db)
{
	TlGrace		grace;
	int64		start = tl_monotonic();
	int64		now = tl_clock_tick();
	volatile bool done = false;
	int			nitems;
	int			i;

	/* no transaction for a look at what lives: all of it is in memory */
	tl_grace_get(&grace);
	nitems = tl_watch_list_take_expired(now, &grace, items, lengthof(items));
	if (nitems == 0)
		return false;

	PG_TRY();
	{
		if (tl_worker_xact_begin("failing lapsed turns"))
		{
			(void) tl_sweep_items(items, nitems, nitems, false);
			tl_worker_xact_end(true);
			done = true;
		}
	}
	PG_FINALLY();
	{
		for (i = 0; i < nitems; i++)
		{
			/* nothing of it happened: look at all of them again */
			if (!done)
			{
				items[i].status = TL_SWEEP_BUSY;
				items[i].look_us = now + RETRY_US;
			}
			tl_watch_list_settle(&items[i], now);
		}
	}
	PG_END_TRY();
	pg_atomic_write_u64(&db->last_sweep_us, now);
	pg_atomic_write_u64(&db->last_sweep_took_us, tl_monotonic() - start);
	tl_counter_add(TL_COUNT_SWEEPS, 1);
	return true;
}

static bool
look_for_due_again(void)
{
	int64		now = tl_clock_now();
	int64		next;

	if (!tl_delivery_due_again(due_again_from, now, false, &next))
		return false;
	due_again_from = now;
	tl_due_again_by(tl_database(), next);
	return true;
}

/* Notify of replies whose claim or delay has ended. */
static void
redeliver(TlDatabase *db, int64 now)
{
	int64		from;

	if (now < (int64) pg_atomic_read_u64(&db->due_again_us))
		return;

	/*
	 * Taken before the look, so that a commit meanwhile is not lost.  A commit
	 * that came late may name a time that an earlier look has passed.
	 */
	from = (int64) pg_atomic_exchange_u64(&db->due_again_us, PG_INT64_MAX) - 1;
	from = due_again_from = Min(due_again_from, from);
	if (run_optional("looking for replies that are due again", NoLock, 0, look_for_due_again))
		return;
	/* the look may have been rolled back */
	due_again_from = from;
	tl_due_again_by(db, now + RETRY_US);
}

static bool
run_retention(void)
{
	return tl_retention_run(tl_sweep_batch, false, &retention_gone);
}

/*
 * A logical replication worker can change our tables, and end a prepared
 * transaction, unseen by our hook and trigger.  Where there is a subscription,
 * the counts that leases remember grow stale with time.
 */
static bool
look_for_subscriptions(void)
{
	pg_atomic_write_u32(&tl_database()->recheck, CountDBSubscriptions(MyDatabaseId) > 0);
	return true;
}

static void
housekeeping(int64 now)
{
	if (now >= next_subscriptions)
	{
		next_subscriptions = now + RETENTION_US;
		if (!run_optional("looking for subscriptions", NoLock, 0, look_for_subscriptions))
			next_subscriptions = now + RETRY_US;
		if (tl_lease_used() > tl_lease_capacity / 4 * 3)
			tl_lease_reclaim(tl_lease_capacity / 8 + 1,
							 now - Max(tl_longest_silence_ms, tl_turn_deadline) * TL_MS -
							 60 * TL_SECOND);
	}
	if (now < next_retention)
		return;
	next_retention = now + RETENTION_US;
	if (!used_here)
		tables_known = false;	/* the next round looks for rows */
	else if (!run_optional("retention", NoLock, 0, run_retention))
		next_retention = now + RETRY_US;
	else if (retention_gone > 0)
		next_retention = now + RETENTION_MORE_US;
}

/* When the next round is, and whether mail shall wake the worker before it. */
static int64
plan_sleep(TlDatabase *db, int64 now)
{
	int64		again = now + TL_SECOND;
	bool		gather = now < next_notify;

	again = Min(again, (int64) pg_atomic_read_u64(&db->due_again_us));
	again = Min(again, next_retention);
	if (tl_sweep)
		again = Min(again, Min(tl_watch_list_next(now), next_death_look));

	/* under load the worker gathers, and no session need set its latch */
	gather = gather && next_notify <= now + GATHER_MANY_US;
	if (gather || tl_notify_pending() > 0)
		again = Min(again, next_notify);
	tl_mailbox_arm_latch(db, !gather, again);
	return again;
}

int64
tl_worker_round(TlDatabase *db)
{
	int64		now = tl_clock_tick();

	tl_grace_watch(now);
	take_mail(db);
	notify();
	if (tl_sweep)
	{
		fail_dead(db);
		/* the configuration may turn the sweep off */
		while (fail_expired(db) && !ConfigReloadPending)
		{
			take_mail(db);
			notify();
			CHECK_FOR_INTERRUPTS();
		}
	}
	now = tl_clock_tick();
	redeliver(db, now);
	rescan(now);
	housekeeping(now);
	/* what these steps posted */
	take_mail(db);
	notify();
	return plan_sleep(db, now);
}
