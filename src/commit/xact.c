/*
 * xact.c
 *		What a transaction of ours leads to once it has committed.
 *
 * Gathered while the transaction runs, in its own memory; done at
 * XACT_EVENT_COMMIT, where nothing may fail: only LWLocks, atomics and latches.
 * Forgotten on ABORT and on PREPARE.  COMMIT PREPARED runs no callback: the
 * utility hook (ddl_hook.c) raises the look flags then.
 *
 * What a rolled-back savepoint left in the list costs a needless look and nothing
 * more; but a lease is dropped with its last turn only by a transaction that
 * rolled back none and did nothing but end turns: who arms one and ends it again has
 * ended none of those that were counted.  A turn that is owed must keep its beats.
 *
 * Rows that it armed, and others that a beat may have met meanwhile, are stamped
 * before the commit: see stamp.c.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/lease.h"
#include "store/turn_row.h"

#define MAX_TOUCHED	10000		/* more than that: the whole database's generation */
#define MAX_LETTER	(TL_MAILBOX_SIZE / 2)

typedef struct Touched
{
	TlLeaseKey	deployment;
	TlLeaseKey	turn;			/* equal to deployment, or a turn to forget */
	int			ended;
	int32		known;			/* what was owed when it ended them, if known */
	uint32		generation;
} Touched;


typedef struct Pending
{
	Touched    *touched;
	int			ntouched;
	int			maxtouched;
	bool		everything;		/* too many to name */
	bool		rolled_back;	/* a savepoint: numbers of ended turns are void */
	bool		owes_more;		/* it armed or changed turns: they are void too */
	TlWritten  *written;
	int			nwritten;
	int			maxwritten;
	StringInfoData letter;
	bool		look_turns;
	bool		look_replies;
	int64		due_again;
	TlDeath    *deaths;
	int			ndeaths;
	int			maxdeaths;
} Pending;

/* in TopTransactionContext; NULL if this transaction did nothing of ours */
static Pending *pending = NULL;

static Pending *get_pending(void);
static void at_end_of_xact(XactEvent event, void *arg);
static void at_end_of_subxact(SubXactEvent event, SubTransactionId mine,
							  SubTransactionId parent, void *arg);
static void after_commit(Pending *p);

void
tl_xact_init(void)
{
	RegisterXactCallback(at_end_of_xact, NULL);
	RegisterSubXactCallback(at_end_of_subxact, NULL);
}

static Pending *
get_pending(void)
{
	MemoryContext old;

	if (pending != NULL)
		return pending;
	old = MemoryContextSwitchTo(TopTransactionContext);
	pending = palloc0(sizeof(Pending));
	initStringInfo(&pending->letter);
	pending->due_again = PG_INT64_MAX;
	MemoryContextSwitchTo(old);

	/* after_commit must not have to find it first */
	(void) tl_database();
	return pending;
}

static Touched *
add_touched(TlLeaseKey deployment, TlLeaseKey turn)
{
	Pending    *p = get_pending();
	int			i;

	/* the last few: a batch goes deployment by deployment */
	for (i = p->ntouched - 1; i >= 0 && i >= p->ntouched - 4; i--)
		if (memcmp(&p->touched[i].deployment, &deployment, sizeof(TlLeaseKey)) == 0 &&
			memcmp(&p->touched[i].turn, &turn, sizeof(TlLeaseKey)) == 0)
			return &p->touched[i];

	if (p->ntouched == p->maxtouched)
	{
		p->maxtouched = Max(16, p->maxtouched * 2);
		p->touched = p->touched ?
			repalloc(p->touched, p->maxtouched * sizeof(Touched)) :
			MemoryContextAlloc(TopTransactionContext, p->maxtouched * sizeof(Touched));
	}
	p->touched[p->ntouched].deployment = deployment;
	p->touched[p->ntouched].turn = turn;
	p->touched[p->ntouched].ended = 0;
	p->touched[p->ntouched].known = 0;
	return &p->touched[p->ntouched++];
}

void
tl_xact_touch(TlLeaseKey deployment, int ended)
{
	if (tl_shared == NULL)
		return;
	if (ended == 0)
		get_pending()->owes_more = true;
	if (get_pending()->ntouched >= MAX_TOUCHED)
		pending->everything = true;
	else
	{
		Touched    *t = add_touched(deployment, deployment);

		t->ended += ended;
		t->known = tl_lease_known(deployment, &t->generation);
	}
}

bool
tl_xact_has_touched(TlLeaseKey deployment)
{
	int			i;

	if (pending == NULL)
		return false;
	if (pending->everything)
		return true;
	for (i = 0; i < pending->ntouched; i++)
		if (memcmp(&pending->touched[i].deployment, &deployment, sizeof(TlLeaseKey)) == 0)
			return true;
	return false;
}

void
tl_xact_forget_turn(TlLeaseKey deployment, TlLeaseKey turn)
{
	/* what is not named here the worker reclaims */
	if (tl_shared != NULL && get_pending()->ntouched < MAX_TOUCHED)
		(void) add_touched(deployment, turn);
}

void
tl_xact_watch_turn(const TlTurn *turn, bool fresh)
{
	Pending    *p = get_pending();
	TlWatch		watch;

	memset(&watch, 0, sizeof(watch));
	watch.tid = turn->tid;
	watch.deployment = turn->deployment_key;
	watch.turn = turn->turn_key;
	watch.times = turn->times;
	watch.fresh = fresh;
	if (p->letter.len > MAX_LETTER)
		p->look_turns = true;
	else
		tl_mail_watch(&p->letter, &watch);
}

void
tl_xact_wrote_turn(const TlTurn *turn, bool armed)
{
	Pending    *p;
	TlWritten  *written;

	if (!armed && !tl_rows_are_beaten())
		return;
	p = get_pending();
	if (p->nwritten == p->maxwritten)
	{
		p->maxwritten = Max(16, p->maxwritten * 2);
		p->written = p->written ?
			repalloc_huge(p->written, p->maxwritten * sizeof(TlWritten)) :
			MemoryContextAlloc(TopTransactionContext, p->maxwritten * sizeof(TlWritten));
	}
	written = &p->written[p->nwritten++];
	written->tid = turn->tid;
	written->armed = armed;
	written->since = armed ? turn->times.armed : tl_clock_now();
	written->patience = Min(turn->times.admission_ms, turn->times.silence_ms) * TL_MS / 4;
	if (tl_rows_are_beaten())
		written->patience = Min(written->patience, TL_LONG_US);
}

/*
 * A function that changes such a row tells of its new address as of an arm, so
 * that the stamp below finds it.
 */
bool
tl_xact_has_armed(ItemPointer tid)
{
	int			i;

	if (pending != NULL)
		for (i = pending->nwritten - 1; i >= 0; i--)
			if (ItemPointerEquals(&pending->written[i].tid, tid))
				return pending->written[i].armed;
	return false;
}

const TlWritten *
tl_xact_written(int *n)
{
	*n = pending != NULL ? pending->nwritten : 0;
	return *n > 0 ? pending->written : NULL;
}

void
tl_xact_reply(const text *conversation, const text *platform)
{
	Pending    *p = get_pending();

	if (p->letter.len > MAX_LETTER ||
		!tl_mail_reply(&p->letter,
					   VARDATA_ANY(conversation), VARSIZE_ANY_EXHDR(conversation),
					   VARDATA_ANY(platform), VARSIZE_ANY_EXHDR(platform)))
		p->look_replies = true;
}

void
tl_xact_due_again(int64 due_us)
{
	Pending    *p = get_pending();

	p->due_again = Min(p->due_again, due_us);
}

void
tl_xact_settle(const TlDeath *death)
{
	Pending    *p = get_pending();

	if (p->ndeaths == p->maxdeaths)
	{
		p->maxdeaths = Max(8, p->maxdeaths * 2);
		p->deaths = p->deaths ?
			repalloc(p->deaths, p->maxdeaths * sizeof(TlDeath)) :
			MemoryContextAlloc(TopTransactionContext, p->maxdeaths * sizeof(TlDeath));
	}
	p->deaths[p->ndeaths++] = *death;
}

void
tl_xact_foreign_change(void)
{
	Pending    *p = get_pending();

	p->everything = true;
	p->look_turns = true;
}

/* The conversations of this transaction so far; NULL if there are none. */
StringInfo
tl_xact_letter(bool *look_replies)
{
	*look_replies = pending != NULL && pending->look_replies;
	return pending != NULL ? &pending->letter : NULL;
}

static void
at_end_of_xact(XactEvent event, void *arg)
{
	Pending    *p = pending;

	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		return;
	if (event == XACT_EVENT_PARALLEL_PRE_COMMIT || event == XACT_EVENT_PARALLEL_COMMIT ||
		event == XACT_EVENT_PARALLEL_ABORT)
		return;

	pending = NULL;
	if (event == XACT_EVENT_ABORT)
		tl_rel_at_abort(0);
	if (p == NULL || tl_database() == NULL)
		return;
	if (event == XACT_EVENT_COMMIT)
		after_commit(p);
}

static void
at_end_of_subxact(SubXactEvent event, SubTransactionId mine,
				  SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	tl_rel_at_abort(GetCurrentTransactionNestLevel());
	if (pending != NULL)
		pending->rolled_back = true;
}

/* Everything here is visible already; nothing here can fail. */
static void
after_commit(Pending *p)
{
	TlDatabase *db = tl_database();
	int			i;

	for (i = 0; i < p->ntouched; i++)
	{
		Touched    *t = &p->touched[i];

		if (memcmp(&t->deployment, &t->turn, sizeof(TlLeaseKey)) == 0)
			tl_lease_moved(t->deployment,
						   !p->rolled_back && !p->owes_more && t->ended > 0 && t->known == t->ended,
						   t->generation);
		else if (!p->rolled_back)
			tl_lease_remove_turn(t->deployment, t->turn);
	}
	if (p->everything)
		tl_lease_move_database();
	for (i = 0; i < p->ndeaths && !p->rolled_back; i++)
		tl_attach_settle(&p->deaths[i]);
	if (p->due_again < PG_INT64_MAX)
		tl_due_again_by(db, p->due_again);
	if (p->nwritten > 0)
		tl_mail_stamp(&p->letter, tl_clock_now());
	if (p->letter.len > 0 || p->look_turns || p->look_replies)
		tl_mailbox_post(db, &p->letter, p->look_turns, p->look_replies);
}
