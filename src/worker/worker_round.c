/*
 * worker_round.c
 *		What the worker does, round by round: read the mail, look at what may have
 *		lapsed, fail it, tell the gateways, keep the clock and the retention.
 *
 * Each step is a short transaction of its own (step.c); none is open when a round ends.
 * An error leaves this file by longjmp and ends the round: worker.c reports it,
 * aborts and calls again; no step loses anything by being done again.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/bufmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "shared/clock.h"
#include "replies/delivery.h"
#include "worker/worker_round.h"
#include "shared/grace.h"
#include "shared/lease_table.h"
#include "base/guc.h"
#include "shared/mailbox.h"
#include "replies/notify.h"
#include "store/rel.h"
#include "replies/retention.h"
#include "worker/worker_xact.h"
#include "worker/watch_list.h"
#include "worker/worker_error.h"

#define GATHER_US			(5 * TL_MS)		/* between notifications under load */
#define GATHER_MANY_US	(20 * TL_MS)	/* where each names many: every one wakes every listener */
#define MANY				16
#define NOTIFY_PAUSE_US		TL_SECOND		/* after one that failed */
#define LATE_US				TL_SECOND	/* from an arm to its commit */
#define RETENTION_US		(10 * TL_SECOND)
#define LOOK_SHARE			100		/* a scan that is asked for may take a hundredth of the time */
#define REVIEW_US			(60 * TL_SECOND)	/* one that nobody asks for: seldom */
#define REVIEW_SHARE		400

static uint32 generation;		/* of names.c, when it was last looked for a rewrite */
static Oid	turn_file;			/* what the watch list's addresses are good for */
static int64 last_notify = 0;
static int64 gather_us = GATHER_US;
static int64 next_retention = 0;
static int64 next_look = 0;
static int64 next_review = 0;
static int64 due_again_from = 0;
static bool look_wanted = false;
static bool hint_wanted = false;
static bool used_here = false;	/* there are, or were, rows: else nothing is written */
static StringInfoData letter;

static bool look_at_tables(Oid *file);
static void scan_turns(bool first);
static void read_mail(TlDatabase *db);
static void notify(TlDatabase *db);
static void look_for_rewrite(void);
static int64 tick(void);

static int64
tick(void)
{
	return tl_clock_tick();
}

bool
tl_worker_round_begin(void)
{
	int64		now;

	if (!tl_worker_xact_begin("looking for the extension"))
		return false;
	tl_clock_acquire();
	now = tl_clock_now();
	(void) tl_clock_epoch();
	tl_worker_xact_end();

	if (letter.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(&letter);
		MemoryContextSwitchTo(old);
	}
	tl_watch_list_reset(now);
	if (look_at_tables(&turn_file))
		generation = tl_catalog_generation();
	scan_turns(true);

	/* between the last worker and us nobody notified */
	if (used_here)
		tl_notify_add_all();
	due_again_from = DT_NOBEGIN;
	tl_due_again_by(tl_database(), now);
	next_retention = now;
	next_look = 0;
	tl_worker_xact_reset();
	look_wanted = false;
	tl_counter_add(TL_COUNT_WORKER_STARTS, 1);
	return true;
}

/* Which file are the turns in, and are there rows?  Late and restored ones come without mail. */
static bool
look_at_tables(Oid *file)
{
	TlRel		turns;
	TlRel		late;

	if (!tl_worker_xact_begin("looking at the tables"))
		return false;
	tl_rel_open(&turns, TL_TURN, false);
	tl_rel_open(&late, TL_LATE_REPLY, false);
	*file = turns.rel->rd_rel->relfilenode;
	if (RelationGetNumberOfBlocks(turns.rel) > 0 || RelationGetNumberOfBlocks(late.rel) > 0)
		used_here = true;
	tl_rel_close(&late);
	tl_rel_close(&turns);
	tl_worker_xact_end();
	return true;
}

static void
scan_turns(bool first)
{
	int64		took;

	if (!tl_worker_xact_begin("looking at the owed turns"))
		return;
	took = tl_watch_list_scan(first, tick);
	if (tl_watch_list_size() > 0)
		used_here = true;
	tl_worker_xact_end();
	/* rows that came unseen may have replies with them */
	tl_due_again_by(tl_database(), tl_clock_now());
	next_look = tl_clock_now() + Max(TL_SECOND, took * LOOK_SHARE);
	next_review = tl_clock_now() + Max(REVIEW_US, took * REVIEW_SHARE);
	look_wanted = false;
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
notify(TlDatabase *db)
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
		last_notify = now + NOTIFY_PAUSE_US;
	}
	PG_END_TRY();
}

/*
 * VACUUM FULL and CLUSTER give every row another address: the watch list is
 * made anew.  Until it is, rows under their old addresses are merely not found.
 */
static void
look_for_rewrite(void)
{
	Oid			file;

	if (tl_catalog_generation() == generation || !look_at_tables(&file))
		return;
	generation = tl_catalog_generation();
	if (file != turn_file)
	{
		turn_file = file;
		tl_watch_list_reset(tl_clock_now());
		/* should the scan fail */
		look_wanted = true;
		next_look = 0;
		scan_turns(true);
	}
}

int64
tl_worker_round(TlDatabase *db)
{
	int64		now = tick();
	int64		again;
	bool		gather;
	Oid			file;

	tl_grace_watch(now);
	read_mail(db);
	notify(db);

	if (tl_sweep)
	{
		tl_step_fail_dead(db);
		while (tl_step_fail_lapsed(db) > 0)
		{
			read_mail(db);
			notify(db);
			CHECK_FOR_INTERRUPTS();
			/* somebody may have turned the sweep off */
			if (ConfigReloadPending)
				break;
		}
	}
	now = tick();

	/* claims and delays that ended */
	if (now >= (int64) pg_atomic_read_u64(&db->due_again_us))
	{
		/*
		 * Before the look, so that a commit meanwhile is not lost; one that came late
		 * may name a time that an earlier look has passed.
		 */
		int64		due = (int64) pg_atomic_exchange_u64(&db->due_again_us, PG_INT64_MAX);

		due_again_from = Min(due_again_from, due - 1);
		PG_TRY();
		{
			int64		next = PG_INT64_MAX;

			if (tl_worker_xact_begin("looking for replies that are due again"))
			{
				if (tl_delivery_due_again(due_again_from, now, false, &next))
					due_again_from = now;
				else
					next = now + TL_SECOND;
				tl_worker_xact_end();
			}
			tl_due_again_by(db, next);
		}
		PG_CATCH();
		{
			tl_due_again_by(db, now + TL_SECOND);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}

	look_for_rewrite();
	/* whatever moved a row unseen by us, its turn is not lost */
	if ((look_wanted && now >= next_look) || now >= next_review)
		scan_turns(false);

	if (now >= next_retention)
	{
		next_retention = now + RETENTION_US;
		if (!used_here)
			(void) look_at_tables(&file);
		if (used_here && tl_worker_xact_begin("retention"))
		{
			int			gone;
			bool		done = tl_retention_run(tl_sweep_batch, false, &gone);

			tl_worker_xact_end();
			if (!done)
				next_retention = now + TL_SECOND;
			else if (gone > 0)
				next_retention = now + 100 * TL_MS;
		}
		tl_step_look_for_subscriptions(db);
		if (tl_lease_used() > tl_lease_capacity / 4 * 3)
			tl_lease_reclaim(tl_lease_capacity / 8 + 1,
							 now - Max(tl_watch_list_longest_silence(), tl_turn_deadline) * TL_MS - 60 * TL_SECOND);
	}
	/* what the steps above posted */
	read_mail(db);
	notify(db);

	again = tl_sweep ? tl_watch_list_next(now) : now + TL_SECOND;
	again = Min(again, now + TL_SECOND);
	again = Min(again, (int64) pg_atomic_read_u64(&db->due_again_us));
	if (tl_sweep)
		again = Min(again, tl_step_next_death_look());

	/*
	 * Under load: gather for a moment, and let nobody spend a system call on
	 * waking us.
	 */
	gather = now - last_notify < gather_us;
	if (gather || tl_notify_pending() > 0)
		again = Min(again, last_notify + gather_us);
	tl_mailbox_arm_latch(db, !gather, again);
	return again;
}
