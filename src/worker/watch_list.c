/*
 * watch_list.c
 *		The worker's watch list: which owed turn to look at when.
 *
 * A calendar of buckets of 50 ms, in the worker's own memory: 4096 of them, three
 * and a half minutes; what is due later is filed at the far end and filed again
 * from there.  An entry holds what a look needs, so that a look at a turn that
 * lives touches shared memory only: no row is read, let alone written.
 *
 * An entry is found by its row's address, so that a row that is told of twice is
 * watched once.  An entry whose row moved or went (its address shows another row or none)
 * is dropped when it is next due: who moved the row told of the new address.
 * What hangs in a bucket is a ticket: it counts only while its entry is due just
 * then, so an entry is moved by giving it another ticket.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "shared/clock.h"
#include "shared/grace.h"
#include "shared/lease.h"
#include "shared/lease_table.h"
#include "base/guc.h"
#include "store/turn_row.h"
#include "worker/watch_list.h"

#define BUCKET_US		(50 * TL_MS)
#define NBUCKETS		4096

#define NOWHERE			INT64CONST(-1)

typedef struct Entry
{
	ItemPointerData tid;		/* key */
	int64		due;			/* of the ticket that counts; NOWHERE: given out */
	TlWatch		watch;
	int64		seen;			/* first seen, of a row that became visible late */
} Entry;

typedef struct Ticket
{
	struct Ticket *next;
	Entry	   *entry;
	int64		due;
} Ticket;

static HTAB *entries = NULL;
static MemoryContext tickets = NULL;
static Ticket *free_tickets = NULL;
static Ticket *buckets[NBUCKETS];
static int64 position;			/* the first bucket that was not looked at */
static int32 longest_silence = 0;

static void keep_ticket(void);
static void file_entry(Entry *entry, int64 due);

void
tl_watch_list_reset(int64 now)
{
	HASHCTL		ctl;

	if (entries != NULL)
		hash_destroy(entries);
	ctl.keysize = sizeof(ItemPointerData);
	ctl.entrysize = sizeof(Entry);
	ctl.hcxt = TopMemoryContext;
	entries = hash_create("turn_liveness watch list", 1024, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	if (tickets != NULL)
		MemoryContextDelete(tickets);
	tickets = AllocSetContextCreate(TopMemoryContext, "turn_liveness tickets",
									ALLOCSET_DEFAULT_SIZES);
	free_tickets = NULL;
	memset(buckets, 0, sizeof(buckets));
	position = now / BUCKET_US;
}

/* An entry without a ticket would never be looked at: have one before it is made. */
static void
keep_ticket(void)
{
	Ticket	   *ticket;
	int			i;

	if (free_tickets != NULL)
		return;
	ticket = MemoryContextAlloc(tickets, sizeof(Ticket) * 256);
	for (i = 0; i < 256; i++)
	{
		ticket[i].next = free_tickets;
		free_tickets = &ticket[i];
	}
}

/* Cannot fail where a ticket was kept or has just come back. */
static void
file_entry(Entry *entry, int64 due)
{
	/* the end of the bucket in which it is due: never early */
	int64		at = due / BUCKET_US + 1;
	Ticket	   *ticket;

	keep_ticket();
	ticket = free_tickets;
	free_tickets = ticket->next;

	at = Max(at, position);
	at = Min(at, position + NBUCKETS - 1);
	entry->due = due;
	ticket->entry = entry;
	ticket->due = due;
	ticket->next = buckets[at % NBUCKETS];
	buckets[at % NBUCKETS] = ticket;
}

/* It was armed elsewhere, and its times were written there too. */
static bool
is_restored(const TlTimes *times)
{
	int64		epoch = tl_clock_epoch();

	return tl_epoch_place(times->epoch) != tl_epoch_place(epoch) &&
		tl_epoch_run(times->epoch) != tl_epoch_run(epoch);
}

void
tl_watch_list_add(const TlWatch *watch, int64 seen, int64 now)
{
	int64		due = tl_times_next_check(&watch->times);
	int64		patience = Min(watch->times.admission_ms, watch->times.silence_ms) * TL_MS;
	bool		found;
	Entry	   *entry;

	keep_ticket();
	entry = hash_search(entries, &watch->tid, HASH_ENTER, &found);

	/* a restored row is seen from now, unless a sweep of this run has stamped it */
	if (seen == 0 && is_restored(&watch->times))
		seen = now;

	/* the clock of another run may have been ahead of ours */
	due = Min(due, now + patience);

	/* another turn's row may stand where one stood that has ended since */
	if (!found || memcmp(&entry->watch.turn, &watch->turn, sizeof(TlLeaseKey)) != 0)
	{
		entry->seen = seen;
		entry->watch = *watch;
		file_entry(entry, due);
	}
	else
	{
		entry->watch = *watch;
		if (entry->due != NOWHERE && due < entry->due && due > now)
			file_entry(entry, due);
	}
	longest_silence = Max(longest_silence, watch->times.silence_ms);
}

/*
 * Look at every entry that is due by now.  The deadline is computed from memory; only what
 * may have lapsed is given out.
 */
int
tl_watch_list_take_expired(int64 now, const TlGrace *grace, TlSweepItem *items, int max)
{
	int			n = 0;
	int64		last = now / BUCKET_US;

	/* after a long pause every bucket is passed once */
	if (last - position >= NBUCKETS)
		position = last - NBUCKETS + 1;

	while (position <= last)
	{
		Ticket	   *ticket = buckets[position % NBUCKETS];
		Entry	   *entry;
		TlTimes		times;
		TlSigns		signs;
		TlVerdict	verdict;

		if (ticket == NULL)
		{
			position++;
			continue;
		}
		if (n == max)
			break;
		buckets[position % NBUCKETS] = ticket->next;
		if (ticket->next != NULL)
			tl_lease_prefetch(ticket->next->entry->watch.deployment);
		entry = ticket->entry;
		ticket->next = free_tickets;
		free_tickets = ticket;
		if (entry->due != ticket->due)
			continue;

		times = entry->watch.times;
		tl_lease_read(entry->watch.deployment, entry->watch.turn, &signs);
		signs.seen = entry->seen;
		tl_deadline(&times, &signs, grace, now, &verdict);
		if (verdict.held)
			file_entry(entry, Max(now + TL_SECOND, (position + 1) * BUCKET_US));
		else if (verdict.deadline > now)
		{
			int64		due = verdict.deadline;

			/*
			 * A first beat can bring the deadline of a waiting turn forward:
			 * never look later than that allows.
			 */
			if (!verdict.started && times.frozen == 0)
				due = Min(due, now + times.silence_ms * TL_MS);
			file_entry(entry, Max(due, position * BUCKET_US));
		}
		else
		{
			entry->due = NOWHERE;
			memset(&items[n], 0, sizeof(TlSweepItem));
			items[n].tid = entry->tid;
			items[n].seen = entry->seen;
			n++;
		}
	}
	return n;
}

void
tl_watch_list_settle(const TlSweepItem *item, int64 now)
{
	Entry	   *entry = hash_search(entries, &item->tid, HASH_FIND, NULL);

	if (entry == NULL || entry->due != NOWHERE)
		return;
	if (item->status == TL_SWEEP_GONE || item->status == TL_SWEEP_FAILED)
		(void) hash_search(entries, &item->tid, HASH_REMOVE, NULL);
	else
		file_entry(entry, Max(item->look_us, now));
}

int64
tl_watch_list_next(int64 now)
{
	int64		i;

	for (i = position; i < position + TL_SECOND / BUCKET_US; i++)
		if (buckets[i % NBUCKETS] != NULL)
			return Max(i * BUCKET_US, now);
	return now + TL_SECOND;
}

long
tl_watch_list_size(void)
{
	return entries ? hash_get_num_entries(entries) : 0;
}

int32
tl_watch_list_longest_silence(void)
{
	return longest_silence;
}

/*
 * Read all owed rows.  At the worker's start each row without a stamp is taken as
 * it stands.  Later on, a row that the watch list does not know became visible
 * without mail, and is seen from now.
 *
 * The time that it takes paces the next scan: on the liveness clock, which may be
 * moved on meanwhile by a test, and without the wait for the table, which VACUUM
 * FULL may hold for long.
 */
int64
tl_watch_list_scan(bool first, int64 (*tick) (void))
{
	Snapshot	snapshot;
	TlRel		turns;
	TlScan		scan = {0};
	int64		start;
	int64		start_mono;
	int64		now;
	int			n = 0;

	tl_rel_open(&turns, TL_TURN, false);
	snapshot = tl_latest_snapshot();
	start = now = tick();
	start_mono = tl_monotonic();
	tl_scan_begin(&scan, &turns, TL_IDX_TURN_OWED_CHECK, snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		TlTurn		turn;
		TlWatch		watch;
		bool		late;

		CHECK_FOR_INTERRUPTS();
		if (++n % 1000 == 0)
			now = tick();
		tl_turn_decode(scan.slot, &turn);
		late = !first || turn.times.seen == TL_SEEN_UNKNOWN || is_restored(&turn.times);
		memset(&watch, 0, sizeof(watch));
		watch.tid = turn.tid;
		watch.deployment = turn.deployment_key;
		watch.turn = turn.turn_key;
		watch.times = turn.times;
		tl_watch_list_add(&watch, late ? now : 0, now);
	}
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	now = tick();
	return Min(now - start, tl_monotonic() - start_mono);
}
