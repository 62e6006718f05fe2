/*
 * worker_round.c
 *		What the worker does, round by round: read the mail, look at what may have
 *		lapsed, fail it, tell the gateways, keep the clock and the retention.
 *
 * Each step is a short transaction of its own (worker_xact.c); none is open when
 * a round ends.  An error leaves this file by longjmp and ends the round: worker.c
 * reports it, aborts and calls again; no step loses anything by being done again.
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
#include "replies/notify.h"
#include "replies/retention.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/grace.h"
#include "shared/mailbox.h"
#include "store/rel.h"
#include "turns/sweep.h"
#include "worker/watch_list.h"
#include "worker/worker_round.h"
#include "worker/worker_xact.h"

#define GATHER_US		(5 * TL_MS)	/* between notifications under load */
#define GATHER_MANY_US	(20 * TL_MS)	/* where each names many: every one wakes every listener */
#define MANY			16
#define LATE_US			TL_SECOND	/* from an arm to its commit */
#define RETRY_US		TL_SECOND	/* of a step that failed */
#define RETENTION_US	(10 * TL_SECOND)
#define LOOK_SHARE		100		/* a scan that is asked for may take a hundredth of the time */
#define REVIEW_US		(60 * TL_SECOND)	/* one that no flag asks for: seldom */
#define REVIEW_SHARE	400

static uint32 generation;		/* of the catalog, when the tables were looked at */
static Oid	turn_file;			/* what the watch list's addresses are good for */
static int64 last_notify = 0;
static int64 gather_us = GATHER_US;
static int64 next_retention = 0;
static int64 next_look = 0;
static int64 next_review = 0;
static int64 next_death_look = 0;
static int64 next_due = 0;
static int64 due_again_from = DT_NOBEGIN;
static bool look_wanted = false;
static bool hint_wanted = false;
static bool used_here = false;	/* there are, or were, rows: else nothing is written */
static StringInfoData letter;
/* so few that letters of the meantime fit into the mailbox */
static TlSweepItem items[200];

/*
 * Are there rows?  Late replies and restored rows come without mail.  True if the
 * turns are in another file than before.
 */
static bool
look_at_tables(void)
{
	Oid			before = turn_file;
	TlRel		turns;
	TlRel		late;

	if (!tl_worker_xact_begin("looking at the tables"))
		return false;
	tl_rel_open(&turns, TL_TURN, false);
	tl_rel_open(&late, TL_LATE_REPLY, false);
	turn_file = turns.rel->rd_rel->relfilenode;
	if (RelationGetNumberOfBlocks(turns.rel) > 0 || RelationGetNumberOfBlocks(late.rel) > 0)
		used_here = true;
	tl_rel_close(&late);
	tl_rel_close(&turns);
	tl_worker_xact_end();
	generation = tl_catalog_generation();
	return turn_file != before;
}

static void
scan_turns(bool first)
{
	int64		now;
	int64		took;

	if (!tl_worker_xact_begin("looking at the owed turns"))
		return;
	took = tl_watch_list_scan(first);
	tl_worker_xact_end();
	/* rows that came unseen may have replies with them */
	now = tl_clock_now();
	next_due = now;
	next_look = now + Max(TL_SECOND, took * LOOK_SHARE);
	next_review = now + Max(REVIEW_US, took * REVIEW_SHARE);
	look_wanted = false;
}

bool
tl_worker_round_begin(void)
{
	MemoryContext old;

	if (!tl_worker_xact_begin("looking for the extension"))
		return false;
	tl_clock_acquire();
	(void) tl_clock_epoch();
	tl_worker_xact_end();

	old = MemoryContextSwitchTo(TopMemoryContext);
	initStringInfo(&letter);
	MemoryContextSwitchTo(old);
	tl_watch_list_reset(tl_clock_now());
	(void) look_at_tables();
	scan_turns(true);

	/* no process has notified since the last worker */
	if (used_here)
		tl_notify_add_all();
	next_look = 0;
	tl_counter_add(TL_COUNT_WORKER_STARTS, 1);
	return true;
}

static void
read_mail(TlDatabase *db)
{
	TlMail		mail;
	int			at = 0;
	bool		look_turns;
	bool		look_replies;
	int64		now = tl_clock_now();

	if (tl_mailbox_take(db, &letter, &look_wanted, &hint_wanted))
		used_here = true;
	/* should there be no memory for it, the tables tell the same */
	look_turns = look_wanted;
	look_replies = hint_wanted;
	look_wanted = hint_wanted = true;
	while (tl_mail_next(&letter, &at, &mail))
	{
		if (mail.type == TL_MAIL_WATCH)
		{
			/*
			 * Its commit may have waited, for a standby say, long after the
			 * transaction looked at the clock for the last time.
			 */
			bool		late = mail.watch.times.seen == TL_SEEN_UNKNOWN ||
				(mail.watch.fresh && mail.watch.times.seen == 0 &&
				 mail.watch.visible - mail.watch.times.armed > LATE_US);

			tl_watch_list_add(&mail.watch, late ? now : 0, now);
		}
		else
			tl_notify_add(&mail);
	}
	look_wanted = look_turns;
	hint_wanted = false;
	if (look_replies)
		tl_notify_add_all();
}

/*
 * A full notification queue makes this fail: that must not keep turns from
 * being failed, so its errors end here.
 */
static void
notify(void)
{
	int64		now = tl_clock_now();
	MemoryContext context = CurrentMemoryContext;

	if (tl_notify_pending() == 0 || now - last_notify < gather_us)
		return;
	last_notify = now;
	gather_us = tl_notify_pending() >= MANY ? GATHER_MANY_US : GATHER_US;
	PG_TRY();
	{
		/* a hint: no flush, and a crash in between costs a look at start */
		if (tl_worker_xact_begin("notifying"))
		{
			(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_LOCAL, true, 0, false);
			tl_notify_send();
			tl_worker_xact_end();
		}
	}
	PG_CATCH();
	{
		tl_worker_recover(context);
		tl_notify_add_all();
		last_notify = now + RETRY_US;
	}
	PG_END_TRY();
}

/* Sessions that ended with deployments attached. */
static void
fail_dead(TlDatabase *db)
{
	int64		window = tl_reconnect_window * TL_MS;
	int64		now = tl_clock_now();
	int64		retry = now;
	int64		oldest;

	if (pg_atomic_exchange_u64(&db->death_us, PG_INT64_MAX) != PG_INT64_MAX)
		next_death_look = 0;
	if (now < next_death_look)
		return;
	oldest = tl_attach_oldest_death();
	if (oldest <= now - window)
	{
		next_death_look = now + RETRY_US;	/* if this fails */
		if (tl_worker_xact_begin("failing the turns of ended sessions"))
		{
			/* what an open transaction held is left over, or there are more */
			if (tl_sweep_deaths(now - window, tl_sweep_batch) == 0)
				retry = now + TL_SECOND;
			tl_worker_xact_end();
		}
		oldest = tl_attach_oldest_death();
	}
	next_death_look = oldest == PG_INT64_MAX ? PG_INT64_MAX : Max(oldest + window, retry);
}

/* Returns how many rows were looked at: more than none, and there may be more. */
static int
fail_lapsed(TlDatabase *db)
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
		return 0;

	PG_TRY();
	{
		if (tl_worker_xact_begin("failing lapsed turns"))
		{
			(void) tl_sweep_items(items, nitems, nitems, false);
			tl_worker_xact_end();
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
	return nitems;
}

/* When claims and delays end: committed calls name a time, and so did the last look. */
static int64
due_again(TlDatabase *db)
{
	return Min(next_due, (int64) pg_atomic_read_u64(&db->due_again_us));
}

static void
look_for_due_replies(TlDatabase *db, int64 now)
{
	int64		first = PG_INT64_MAX;
	int64		named;
	bool		all;

	if (now < due_again(db))
		return;

	/*
	 * Before the look, so that a commit meanwhile is not lost; one that came late
	 * may name a time that an earlier look has passed.
	 */
	named = (int64) pg_atomic_exchange_u64(&db->due_again_us, PG_INT64_MAX);
	due_again_from = Min(due_again_from, named - 1);
	next_due = now + RETRY_US;
	if (!tl_worker_xact_begin("looking for replies that are due again"))
		return;
	all = tl_delivery_due_again(due_again_from, now, false, &first);
	tl_worker_xact_end();
	if (all)
	{
		due_again_from = now;
		next_due = first;
	}
}

static void
look_for_rewrite(void)
{
	/*
	 * VACUUM FULL and CLUSTER give every row another address: the watch list is
	 * made anew.  Until it is, rows under their old addresses are merely not found.
	 */
	if (tl_catalog_generation() == generation || !look_at_tables())
		return;
	tl_watch_list_reset(tl_clock_now());
	/* should the scan fail */
	look_wanted = true;
	next_look = 0;
	scan_turns(true);
}

/* What is done every ten seconds. */
static void
keep_house(TlDatabase *db, int64 now)
{
	if (now < next_retention)
		return;
	next_retention = now + RETENTION_US;
	if (!used_here)
		(void) look_at_tables();
	if (used_here && tl_worker_xact_begin("retention"))
	{
		int			gone;
		bool		done = tl_retention_run(tl_sweep_batch, false, &gone);

		tl_worker_xact_end();
		if (!done)
			next_retention = now + RETRY_US;
		else if (gone > 0)
			next_retention = now + 100 * TL_MS;
	}

	/*
	 * A logical replication worker can change our tables, and end a prepared
	 * transaction, unseen by our hook and trigger: counts go stale by time then.
	 */
	if (tl_worker_xact_begin("looking for subscriptions"))
	{
		pg_atomic_write_u32(&db->recheck, CountDBSubscriptions(MyDatabaseId) > 0);
		tl_worker_xact_end();
	}
	if (tl_lease_used() > tl_lease_capacity / 4 * 3)
		tl_lease_reclaim(tl_lease_capacity / 8 + 1,
						 now - Max(tl_longest_silence_ms, tl_turn_deadline) * TL_MS -
						 60 * TL_SECOND);
}

int64
tl_worker_round(TlDatabase *db)
{
	int64		now = tl_clock_tick();
	int64		again;
	bool		gather;

	tl_grace_watch(now);
	read_mail(db);
	notify();

	if (tl_sweep)
	{
		fail_dead(db);
		while (fail_lapsed(db) > 0)
		{
			read_mail(db);
			notify();
			CHECK_FOR_INTERRUPTS();
			/* a DBA may have turned the sweep off */
			if (ConfigReloadPending)
				break;
		}
	}
	now = tl_clock_tick();
	look_for_due_replies(db, now);
	look_for_rewrite();
	/* whatever moved a row unseen by the worker, its turn is not lost */
	if ((look_wanted && now >= next_look) || now >= next_review)
		scan_turns(false);
	keep_house(db, now);
	/* what the steps above posted */
	read_mail(db);
	notify();

	again = Min(now + TL_SECOND, due_again(db));
	if (tl_sweep)
		again = Min(again, Min(tl_watch_list_next(now), next_death_look));

	/* under load: gather for a moment, in which no session has to wake the worker */
	gather = now - last_notify < gather_us;
	if (gather || tl_notify_pending() > 0)
		again = Min(again, last_notify + gather_us);
	tl_mailbox_arm_latch(db, !gather, again);
	return again;
}
