/*
 * xact.c
 *		What a transaction of ours leads to at its commit.
 *
 * The backend gathers it while the transaction runs, in TopTransactionContext,
 * and does it at XACT_EVENT_COMMIT, where nothing may fail: only LWLocks,
 * atomics and latches.  ABORT and PREPARE forget it.  COMMIT PREPARED runs no
 * callback: the utility hook (ddl_hook.c) raises the look flags then.
 *
 * A rolled-back savepoint leaves its part in the lists, which costs a needless
 * look; only the deaths that it settled are taken back, and the worker goes on
 * watching what it ended.  And only a transaction that rolled back no savepoint
 * and did nothing but end turns drops a lease with its last turn: a turn that
 * is armed and ended in one transaction is none of those that were counted, and
 * a turn that is owed must keep its beats.
 *
 * Before the commit the transaction stamps rows that become visible later than
 * they were armed.  A transaction that stays open for long after it armed a
 * turn does so, for the turn must not lapse at the instant when its row becomes
 * visible.  Where beats go to rows the transaction stamps every owed row that
 * it wrote, for a beat may have given up on the row meanwhile (beat.c).
 * Before PREPARE TRANSACTION every such row gets the stamp TL_SEEN_UNKNOWN; the
 * first sweep that sees the row replaces it.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "commit/xact.h"
#include "shared/clock.h"
#include "shared/due_ids.h"
#include "shared/lease.h"

#define MAX_TOUCHED	10000		/* more: the whole database's generation */
#define MAX_LETTER	(TL_MAILBOX_SIZE / 2)
/* shorter than the time for which a beat tries a row that is held (beat.c) */
#define LONG_US		(500 * TL_MS)

/* a lease: of a deployment whose count changes, or of a turn that ended */
typedef struct Touched
{
	TlLeaseKey	deployment;
	TlLeaseKey	key;			/* equal to deployment, or a turn's */
	bool		hands_over;		/* a turn of it */
	int			ended;
	int32		known;			/* what was owed when it ended them, if known */
	uint32		generation;
} Touched;

/* an owed row that the transaction wrote: no sweep sees it before the commit */
typedef struct Written
{
	ItemPointerData tid;
	bool		armed;			/* it armed the turn, too */
	int64		since;			/* written then */
	int64		patience;		/* a transaction that takes longer stamps it */
} Written;

/* a death whose turns are dealt with, unless this savepoint is rolled back */
typedef struct Settled
{
	TlDeath		death;
	SubTransactionId savepoint;
} Settled;

/* a growing array in TopTransactionContext; its room is a power of two */
typedef struct Array
{
	void	   *items;
	int			n;
} Array;

#define ITEM(type, array, i)	((type *) (array)->items + (i))

typedef struct Pending
{
	Array		touched;
	Array		written;
	Array		deaths;
	StringInfoData letter;
	int64		lowest_due;		/* from this reply on some became due */
	int64		due_again;
	bool		everything;		/* too many touched to name */
	bool		announced;		/* the hand-overs, to the leases */
	/* a savepoint: numbers of ended turns are void */
	bool		rolled_back;
	bool		owes_more;		/* it armed or changed turns: void too */
	bool		lapsed;			/* it offered turns for rescue */
	bool		look_turns;
	bool		look_replies;
} Pending;

/* NULL if this transaction did nothing of ours; it dies with its context */
static Pending *pending = NULL;

/* of this session, savepoints too; a prepared transaction may yet be one */
static uint64 rollbacks = 0;

static Pending *
get_pending(void)
{
	if (pending == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		pending = palloc0(sizeof(Pending));
		initStringInfo(&pending->letter);
		pending->lowest_due = pending->due_again = PG_INT64_MAX;
		MemoryContextSwitchTo(old);
		/* after_commit must not have to find it first */
		(void) tl_database();
	}
	return pending;
}

/* Make room for one more item, and return it. */
static void *
append(Array *array, Size size)
{
	if (array->n == 0)
		array->items = MemoryContextAlloc(TopTransactionContext, 16 * size);
	else if (array->n >= 16 && (array->n & (array->n - 1)) == 0)
		array->items = repalloc_huge(array->items, 2 * size * array->n);
	return (char *) array->items + size * array->n++;
}

/* The entry of a lease; where an equal one stands far up there are two. */
static Touched *
add_touched(TlLeaseKey deployment, TlLeaseKey key)
{
	Array	   *array = &get_pending()->touched;
	Touched    *touched;
	int			i;

	/* the last few: a batch goes deployment by deployment */
	for (i = array->n - 1; i >= 0 && i >= array->n - 4; i--)
	{
		touched = ITEM(Touched, array, i);
		if (tl_lease_key_equal(touched->deployment, deployment) &&
			tl_lease_key_equal(touched->key, key))
			return touched;
	}
	touched = append(array, sizeof(Touched));
	*touched = (Touched) {.deployment = deployment, .key = key};
	return touched;
}

/* A long letter keeps its room for the other messages: this is a help only. */
static void
unwatch(const TlTurn *turn)
{
	if (pending->letter.len <= MAX_LETTER / 2)
		tl_mail_ended(&pending->letter, &(TlEnded) {
			.tid = turn->tid, .turn = turn->turn_key, .begun = turn->times.begun
		});
}

/*
 * What the deployment is known to owe is read before the commit: a count that
 * a beat remembers after it is no evidence that these turns were all.
 */
void
tl_xact_count(const TlTurn *turn, bool ends)
{
	Touched    *touched;

	if (tl_shared == NULL)
		return;
	get_pending()->owes_more |= !ends;
	/* the worker reclaims the leases of turns that are not named */
	pending->everything |= pending->touched.n >= MAX_TOUCHED;
	if (pending->everything)
		return;
	if (ends)
	{
		(void) add_touched(turn->deployment_key, turn->turn_key);
		unwatch(turn);
	}
	touched = add_touched(turn->deployment_key, turn->deployment_key);
	touched->ended += ends;
	/* after_commit asks for it only where the transaction just ended turns */
	if (!get_pending()->owes_more)
		touched->known = tl_lease_known(turn->deployment_key, &touched->generation);
}

void
tl_xact_hand_over(const TlTurn *turn)
{
	tl_xact_count(turn, false);
	if (tl_shared != NULL && !get_pending()->everything)
		add_touched(turn->deployment_key, turn->deployment_key)->hands_over = true;
}

/*
 * Right before the commit, and after it or in place of it: nothing of this
 * can fail.
 */
static void
announce_hand_overs(Pending *p, bool begins)
{
	int			i;

	if (p->announced == begins)
		return;
	p->announced = begins;
	for (i = 0; i < p->touched.n; i++)
		if (ITEM(Touched, &p->touched, i)->hands_over)
			tl_lease_announce(ITEM(Touched, &p->touched, i)->deployment, begins);
}

bool
tl_xact_has_touched(TlLeaseKey deployment)
{
	int			i;

	for (i = 0; pending != NULL && i < pending->touched.n; i++)
		if (tl_lease_key_equal(ITEM(Touched, &pending->touched, i)->deployment, deployment))
			return true;
	return pending != NULL && pending->everything;
}

/* The worker shall watch the row; fresh: it was armed just now. */
static void
watch(const TlTurn *turn, bool fresh)
{
	Pending    *p = get_pending();
	TlWatch		message = {
		.tid = turn->tid, .deployment = turn->deployment_key, .turn = turn->turn_key,
		.times = turn->times, .fresh = fresh
	};

	if (p->letter.len > MAX_LETTER)
		p->look_turns = true;
	else
		tl_mail_watch(&p->letter, &message);
}

void
tl_xact_wrote(const TlTurn *turn, bool armed)
{
	int64		patience = Min(turn->times.admission_ms, turn->times.silence_ms) * TL_MS / 4;

	watch(turn, armed);
	/* a beat in shared memory meets no row, so only an arm can be late */
	if (armed || tl_rows_are_beaten())
		*(Written *) append(&get_pending()->written, sizeof(Written)) = (Written) {
			.tid = turn->tid, .armed = armed,
			.since = armed ? turn->times.armed : tl_clock_now(),
			.patience = Min(patience, LONG_US)
		};
}

bool
tl_xact_has_armed(ItemPointer tid)
{
	int			i;

	for (i = pending != NULL ? pending->written.n - 1 : -1; i >= 0; i--)
		if (ItemPointerEquals(&ITEM(Written, &pending->written, i)->tid, tid))
			return ITEM(Written, &pending->written, i)->armed;
	return false;
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
tl_xact_due(int64 reply_id)
{
	Pending    *p = get_pending();

	p->lowest_due = Min(p->lowest_due, reply_id);
}

int64
tl_xact_lowest_due(void)
{
	return pending == NULL ? PG_INT64_MAX : pending->lowest_due;
}

uint64
tl_xact_rollbacks(void)
{
	return rollbacks;
}

void
tl_xact_lapsed(const text *deployment)
{
	Pending    *p = get_pending();

	p->lapsed = true;
	if (p->letter.len > MAX_LETTER ||
		!tl_mail_lapsed(&p->letter, VARDATA_ANY(deployment), VARSIZE_ANY_EXHDR(deployment)))
		p->look_replies = true;
}

bool
tl_xact_has_lapsed(void)
{
	return pending != NULL && pending->lapsed;
}

void
tl_xact_due_again(int64 due_us)
{
	Pending    *p = get_pending();

	p->due_again = Min(p->due_again, due_us);
}

/*
 * The ids are the first fields of structs.  A claim of so many that the letter
 * would not hold them has the worker look at all claims.
 */
void
tl_xact_claimed(int64 due_us, const void *ids, int64 n, Size size)
{
	Pending    *p = get_pending();
	int64		i;

	tl_xact_due_again(due_us);
	for (i = 0; i < n && p->letter.len <= MAX_LETTER; i++)
		tl_mail_claimed(&p->letter, *(const int64 *) ((const char *) ids + i * size), due_us);
	p->look_replies |= i < n;
}

void
tl_xact_settle(const TlDeath *death)
{
	*(Settled *) append(&get_pending()->deaths, sizeof(Settled)) = (Settled) {
		.death = *death, .savepoint = GetCurrentSubTransactionId()
	};
}

void
tl_xact_foreign_change(void)
{
	Pending    *p = get_pending();

	p->everything = p->look_turns = p->look_replies = true;
	p->lowest_due = PG_INT64_MIN;
}

/*
 * Before the commit, or the prepare.  The rows are our own transaction's, so no
 * other can have touched them.  A row that a savepoint rolled back, or that a
 * later statement of ours replaced, is not visible and is passed over: the
 * later statement has told of its own row.
 */
static void
stamp_late_rows(const Array *written, bool prepare)
{
	int64		now;
	TlGrace		grace;
	TlRel		turns;
	TupleTableSlot *slot = NULL;
	int			i;

	/* the extension may have been dropped since */
	if (written->n == 0 || !OidIsValid(tl_extension_oid()))
		return;
	now = tl_clock_now();
	for (i = 0; i < written->n; i++)
	{
		Written    *row = ITEM(Written, written, i);
		TlTurn		turn;
		bool		isnull;

		if (!prepare && now - row->since <= row->patience)
			continue;
		if (slot == NULL)
		{
			PushActiveSnapshot(GetLatestSnapshot());
			tl_rel_open(&turns, TL_TURN, true);
			slot = table_slot_create(turns.rel, NULL);
			tl_grace_get(&grace);
		}
		/* a row that this loop has replaced is not visible either */
		UpdateActiveSnapshotCommandId();
		/* it may be another table, if the extension was made anew since */
		if (ItemPointerGetBlockNumber(&row->tid) >= RelationGetNumberOfBlocks(turns.rel) ||
			!table_tuple_fetch_row_version(turns.rel, &row->tid, GetActiveSnapshot(), slot) ||
			!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(
				slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull))))
			continue;
		tl_turn_decode(slot, &turn);
		tl_times_adopt(&turn.times, &grace, 0, now);
		turn.times.seen = prepare ? TL_SEEN_UNKNOWN : now;
		if (tl_turn_is_owed(&turn) &&
			tl_turn_update(&turns, &turn, GetActiveSnapshot()) == TM_Ok)
			watch(&turn, false);
	}
	if (slot != NULL)
	{
		ExecDropSingleTupleTableSlot(slot);
		tl_rel_close(&turns);
		PopActiveSnapshot();
	}
}

/* Everything here is visible already; nothing here can fail. */
static void
after_commit(Pending *p)
{
	TlDatabase *db = tl_database();
	int			i;

	if (db == NULL)
		return;
	for (i = 0; i < p->touched.n; i++)
	{
		Touched    *t = ITEM(Touched, &p->touched, i);

		if (tl_lease_key_equal(t->deployment, t->key))
			tl_lease_moved(t->deployment,
						   !p->rolled_back && !p->owes_more && t->ended > 0 && t->known == t->ended,
						   t->generation);
		else if (!p->rolled_back)
			tl_lease_remove_turn(t->deployment, t->key);
	}
	if (p->everything)
		tl_lease_move_database();
	for (i = 0; i < p->deaths.n; i++)
		tl_attach_settle(&ITEM(Settled, &p->deaths, i)->death);
	if (p->due_again < PG_INT64_MAX)
		tl_due_again_by(db, p->due_again);
	if (p->rolled_back)
		tl_mail_void_ended(&p->letter);
	if (p->letter.len > 0 || p->look_turns || p->look_replies)
		tl_mailbox_post(db, &p->letter, p->look_turns, p->look_replies, p->lowest_due);
}

static void
at_end_of_xact(XactEvent event, void *arg)
{
	Pending    *p = pending;

	if ((event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE) && p != NULL)
		stamp_late_rows(&p->written, event == XACT_EVENT_PRE_PREPARE);
	if (event == XACT_EVENT_PRE_COMMIT && p != NULL)
		announce_hand_overs(p, true);
	if (event == XACT_EVENT_PRE_COMMIT && p != NULL && tl_shared != NULL &&
		p->lowest_due < PG_INT64_MAX)
		tl_due_announce(p->lowest_due);
	/* a parallel worker has events of its own, at which nothing ends */
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		pending = NULL;
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		rollbacks++;
	if (event == XACT_EVENT_COMMIT && p != NULL)
		after_commit(p);
	if ((event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT) && p != NULL)
		announce_hand_overs(p, false);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		tl_due_withdraw();
}

static void
at_end_of_subxact(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	rollbacks++;
	if (pending == NULL)
		return;
	pending->rolled_back = true;

	/*
	 * Savepoints are numbered as they begin, so the deaths of this one, and of
	 * those inside of it, stand at the end.  The others stay settled: a sweep
	 * rolls back a savepoint of its own for each bad row.
	 */
	while (pending->deaths.n > 0 &&
		   ITEM(Settled, &pending->deaths, pending->deaths.n - 1)->savepoint >= mine)
		pending->deaths.n--;
}

void
tl_xact_init(void)
{
	RegisterXactCallback(at_end_of_xact, NULL);
	RegisterSubXactCallback(at_end_of_subxact, NULL);
}
