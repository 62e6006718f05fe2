/*
 * worker_round.c
 *		What the worker does, round by round: take the mail, fail the turns
 *		that have lapsed, notify the gateways, and keep house.
 *
 * Each step is a short transaction of its own (worker_xact.c), and none is open
 * when a round ends.  No step loses anything by being done again.
 *
 * The sweeps are the essential steps: they wait for a lock on our tables.  All
 * other steps are optional.  What a lock or an error keeps from being done is
 * tried again a second later, while the other steps go on.
 */
#include "base/turn_liveness.h"

#include "catalog/pg_subscription.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "replies/delivery.h"
#include "replies/outbox.h"
#include "shared/attach_table.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "shared/lease_table.h"
#include "shared/mailbox.h"
#include "store/rel.h"
#include "turns/sweep.h"
#include "worker/watch_list.h"
#include "worker/worker.h"

#define LATE_US				TL_SECOND		/* from an arm to its commit */
/* before a look that is asked for again */
#define PAUSE_US			TL_SECOND
#define HOUSEKEEPING_US		(10 * TL_SECOND)
#define GATHER_FEW_US		(5 * TL_MS)		/* between notifications */
/* names: so many are load, see notify_interval */
#define MANY				16
#define RESCAN_SHARE		100		/* a scan takes a hundredth of the time, */
#define REVIEW_US			(60 * TL_SECOND)
#define REVIEW_SHARE		400		/* one without a reason even less */

typedef enum Step
{
	ENDED_SESSIONS,
	LAPSED_TURNS,
	NOTIFYING,
	PARKING,
	DUE_AGAIN,
	TABLES,
	OWED_TURNS,
	SUBSCRIPTIONS,
	IDS,
	RETENTION
} Step;

static TlStep steps[RETENTION + 1];
static int64 generation = -1;	/* of catalog.c, at the look at the tables */
static Oid	turn_file = InvalidOid; /* the watch list's addresses are of it */
static int64 next_rescan = 0;	/* of the owed turns, if a letter asks for it */
static int64 due_again_from = DT_NOBEGIN;
static StringInfoData letter;
/* so few that letters of the meantime fit into the mailbox */
static TlSweepItem items[200];
static int	nitems;

/* Fail turns of sessions that ended with deployments attached. */
static int64
sweep_ended_sessions(int64 now)
{
	int64		next;

	/* there may be more, or an open transaction holds some */
	return tl_sweep_deaths(now, tl_sweep_batch, &next) > 0 ? now : Min(next, now + PAUSE_US);
}

static int64
sweep_lapsed_turns(int64 now)
{
	(void) tl_sweep_items(items, nitems, nitems, false);
	return now;
}

/* A notification is a hint: no flush; a crash in between costs a look. */
static int64
send_notifications(int64 now)
{
	int64		interval = tl_notify_interval * TL_MS;

	/* one that named few is no load: the next may follow soon */
	if (tl_notify_pending() < MANY)
		interval = Min(interval, GATHER_FEW_US);
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	tl_notify_send();
	return now + interval;
}

static int64
park_claims(int64 now)
{
	return tl_parking_run(now, false) ? now : 0;
}

static int64
look_for_due_again(int64 now)
{
	int64		next;

	return tl_delivery_due_again(due_again_from, now, false, &next) ? next : 0;
}

/*
 * Which file are the turns in?  VACUUM FULL and CLUSTER give every row another
 * address.  Until the watch list is made anew, rows are merely not found under
 * their old addresses.
 */
static int64
look_at_tables(int64 now)
{
	TlRel		turns;
	Oid			file;

	tl_rel_open(&turns, TL_TURN, false);
	file = turns.rel->rd_rel->relfilenode;
	tl_rel_close(&turns);
	if (file != turn_file)
	{
		tl_watch_list_reset(tl_clock_now());
		turn_file = file;
		steps[OWED_TURNS].next = 0;
	}
	return now + PAUSE_US;
}

static int64
scan_turns(int64 now)
{
	int64		took = tl_watch_list_scan();

	now = tl_clock_now();
	/* rows that came unseen may have replies with them, and claims of these */
	if (pg_atomic_read_u32(&tl_database()->recheck) != 0)
		tl_parking_note_all();
	tl_due_again_by(tl_database(), now);
	next_rescan = now + Max(PAUSE_US, took * RESCAN_SHARE);
	return now + Max(REVIEW_US, took * REVIEW_SHARE);
}

/*
 * A logical replication worker can change our tables, and end a prepared
 * transaction, unseen by our hook and trigger.  Where there is a subscription,
 * the counts that leases remember grow stale with time.
 */
static int64
look_for_subscriptions(int64 now)
{
	pg_atomic_write_u32(&tl_database()->recheck, CountDBSubscriptions(MyDatabaseId) > 0);
	return now + HOUSEKEEPING_US;
}

static int64
run_retention(int64 now)
{
	int64		pause;

	return tl_retention_run(tl_sweep_batch, false, &pause) ? now + pause : 0;
}

/* A DBA may have set the node or the sequence. */
static int64
settle_ids(int64 now)
{
	tl_reply_id_settle();
	return now + HOUSEKEEPING_US;
}

static TlStep steps[] = {
	[ENDED_SESSIONS] = {"failing the turns of ended sessions", sweep_ended_sessions, true},
	[LAPSED_TURNS] = {"failing lapsed turns", sweep_lapsed_turns, true},
	[NOTIFYING] = {"notifying", send_notifications},
	[PARKING] = {"parking claimed replies", park_claims},
	[DUE_AGAIN] = {"looking for replies that are due again", look_for_due_again},
	[TABLES] = {"looking at the tables", look_at_tables, .tables = TL_BIT(TL_TURN)},
	[OWED_TURNS] = {"looking at the owed turns", scan_turns, .tables = TL_BIT(TL_TURN)},
	[SUBSCRIPTIONS] = {"looking for subscriptions", look_for_subscriptions},
	[RETENTION] = {"retention", run_retention},
	[IDS] = {"looking at the ids of replies", settle_ids},
};

/* Make the watch list, or look for rows that moved or came without a letter. */
static void
rescan(int64 now)
{
	int64		seen = tl_catalog_generation();

	if (seen != generation && now >= steps[TABLES].next)
		generation = tl_worker_step(&steps[TABLES], now) ? seen : -1;
	if (now >= steps[OWED_TURNS].next && !tl_worker_step(&steps[OWED_TURNS], now))
		next_rescan = steps[OWED_TURNS].next;
}

void
tl_worker_round_begin(void)
{
	int64		now = tl_clock_now();

	Assert(CurrentMemoryContext == TopMemoryContext);
	initStringInfo(&letter);
	tl_watch_list_reset(now);
	rescan(now);

	/* between the last worker and this one none has notified */
	tl_notify_add_all();
	tl_parking_note_all();
	tl_due_again_by(tl_database(), now);
	tl_counter_add(TL_COUNT_WORKER_STARTS, 1);
}

/*
 * Read what committed transactions posted, and notify the gateways.  A full
 * queue makes this fail, and so does a session of any database whose commit
 * holds the lock of the queue, while it waits for a standby say.
 */
static void
take_mail(TlDatabase *db)
{
	TlMail		mail;
	int			at = 0;
	bool		look_turns = false;
	bool		look_replies = false;
	int64		now = tl_clock_now();

	tl_mailbox_take(db, &letter, &look_turns, &look_replies);
	if (look_turns)
		steps[OWED_TURNS].next = Min(steps[OWED_TURNS].next, next_rescan);
	if (look_replies)
	{
		tl_notify_add_all();
		tl_parking_note_all();
	}

	/*
	 * The commit of an arm may have waited, for a standby say, long after its
	 * transaction looked at the clock for the last time.
	 */
	while (tl_mail_next(&letter, &at, &mail))
		if (mail.type == TL_MAIL_WATCH)
			tl_watch_list_add(&mail.watch,
							  mail.watch.fresh && mail.watch.times.seen == 0 &&
							  mail.watch.visible - mail.watch.times.armed > LATE_US, now);
		else if (mail.type == TL_MAIL_ENDED)
			tl_watch_list_remove(&mail.ended);
		else if (mail.type == TL_MAIL_CLAIMED)
			tl_parking_note(&mail, now);
		else
			tl_notify_add(&mail);

	if (tl_notify_pending() > 0 && now >= steps[NOTIFYING].next &&
		!tl_worker_step(&steps[NOTIFYING], now))
		tl_notify_add_all();
}

/* Fail the turns whose session ended a reconnect window ago. */
static void
fail_dead(TlDatabase *db)
{
	static int64 planned_for = 0;	/* the window, which a reload may change */
	TlStep	   *step = &steps[ENDED_SESSIONS];
	int64		window = tl_reconnect_window * TL_MS;
	int64		now = tl_clock_now();
	int64		oldest;

	if (pg_atomic_exchange_u64(&db->death_us, PG_INT64_MAX) != PG_INT64_MAX ||
		window != planned_for)
		step->next = 0;
	planned_for = window;
	if (now < step->next)
		return;
	oldest = tl_attach_oldest_death();
	if (oldest <= now - window)
	{
		(void) tl_worker_step(step, now);
		oldest = tl_attach_oldest_death();
	}
	step->next = oldest == PG_INT64_MAX ? PG_INT64_MAX : Max(oldest + window, step->next);
}

/* Fail a batch of turns that have lapsed; false if there was none. */
static bool
fail_lapsed(TlDatabase *db)
{
	TlStep	   *step = &steps[LAPSED_TURNS];
	TlGrace		grace;
	int64		start = tl_monotonic();
	int64		now = tl_clock_tick();
	bool		done;
	int			i;

	/* no transaction for a look at what lives: all of it is in memory */
	tl_grace_get(&grace);
	nitems = now < step->next ? 0 :
		tl_watch_list_take_expired(now, &grace, items, lengthof(items));
	if (nitems == 0)
		return false;

	done = tl_worker_step(step, now);
	for (i = 0; i < nitems; i++)
	{
		/* nothing of it happened: look at all of them again */
		if (!done)
		{
			items[i].status = TL_SWEEP_BUSY;
			items[i].look_us = step->next;
		}
		tl_watch_list_settle(&items[i], now);
	}
	if (!done)
		return false;
	pg_atomic_write_u64(&db->last_sweep_us, now);
	pg_atomic_write_u64(&db->last_sweep_took_us, tl_monotonic() - start);
	tl_counter_add(TL_COUNT_SWEEPS, 1);
	return true;
}

/* Park claims that last; notify of replies whose claim or delay has ended. */
static void
redeliver(TlDatabase *db, int64 now)
{
	int64		from;

	/* an error may have taken a part of the list with it */
	if (now >= Max(tl_parking_next(), steps[PARKING].next) &&
		!tl_worker_step(&steps[PARKING], now))
		tl_parking_note_all();
	if (now < (int64) pg_atomic_read_u64(&db->due_again_us))
		return;

	/*
	 * Taken before the look, so that a commit meanwhile is not lost.  A commit
	 * that came late may name a time that an earlier look has passed.
	 */
	from = (int64) pg_atomic_exchange_u64(&db->due_again_us, PG_INT64_MAX) - 1;
	due_again_from = Min(due_again_from, from);
	if (tl_worker_step(&steps[DUE_AGAIN], now))
		due_again_from = now;
	tl_due_again_by(db, steps[DUE_AGAIN].next);
}

static void
keep_house(int64 now)
{
	static int	node = 0;		/* the setting, when the ids were looked at */

	if (now >= steps[SUBSCRIPTIONS].next)
	{
		(void) tl_worker_step(&steps[SUBSCRIPTIONS], now);
		if (tl_lease_used() > tl_lease_capacity / 4 * 3)
			tl_lease_reclaim(tl_lease_capacity / 8 + 1, now - 60 * TL_SECOND -
							 Max(tl_longest_silence_ms, tl_turn_deadline) * TL_MS);
	}
	if (tl_accept && now >= steps[RETENTION].next)
		(void) tl_worker_step(&steps[RETENTION], now);
	if (now >= steps[IDS].next || tl_node != node)
		(void) tl_worker_step(&steps[IDS], now);
	node = tl_node;
}

/* When the next round is, and whether mail shall wake the worker before it. */
static int64
plan_sleep(TlDatabase *db, int64 now)
{
	int64		next_notify = steps[NOTIFYING].next;
	int64		again = Min(now + TL_SECOND, steps[RETENTION].next);
	bool		gather;

	again = Min(again, (int64) pg_atomic_read_u64(&db->due_again_us));
	again = Min(again, Max(tl_parking_next(), steps[PARKING].next));
	if (tl_sweep && tl_accept)
	{
		again = Min(again, Max(tl_watch_list_next(now), steps[LAPSED_TURNS].next));
		again = Min(again, steps[ENDED_SESSIONS].next);
	}

	/* under load the worker gathers, and no session need set its latch */
	gather = now < next_notify && next_notify <= now + tl_notify_interval * TL_MS;
	if (gather || tl_notify_pending() > 0)
		again = Min(again, next_notify);
	tl_mailbox_arm_latch(db, !gather, again);
	return again;
}

int64
tl_worker_round(TlDatabase *db)
{
	int64		now = tl_clock_tick();

	pg_atomic_write_u32(&db->refuses, !tl_accept);
	tl_grace_watch(now);
	take_mail(db);
	if (tl_sweep && tl_accept)
	{
		fail_dead(db);
		/* the configuration may turn the sweep off */
		while (fail_lapsed(db) && !ConfigReloadPending)
			take_mail(db);
	}
	now = tl_clock_tick();
	if (tl_accept)
		redeliver(db, now);
	rescan(now);
	keep_house(now);
	/* what these steps posted */
	take_mail(db);
	return plan_sleep(db, now);
}
