/*
 * watch_list.c
 *		The worker's watch list: which owed turn to look at when.
 *
 * A calendar of buckets of 50 ms, in the worker's own memory: 4096 of them,
 * three and a half minutes; what is due later is filed at the far end and filed
 * again from there.  An entry holds what a look needs, so that a look at a turn
 * that lives touches shared memory only: no row is read, let alone written.
 *
 * An entry is found by its row's address, so that a row that is told of twice
 * is watched once.  An entry whose row moved or went (its address shows another
 * row or none) is dropped when it is next due: the process that moved the row
 * told of the new address.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "shared/clock.h"
#include "shared/lease.h"
#include "shared/lease_table.h"
#include "store/turn_row.h"
#include "worker/watch_list.h"

#define BUCKET_US		(50 * TL_MS)
#define NBUCKETS		4096

#define NOWHERE			INT64CONST(-1)

typedef struct Entry
{
	ItemPointerData tid;		/* key */
	dlist_node	node;			/* in the bucket of due */
	int64		due;			/* NOWHERE: given out, and in no bucket */
	TlWatch		watch;
	int64		seen;			/* first seen, of a row that became visible late */
} Entry;

static HTAB *entries = NULL;
static dlist_head buckets[NBUCKETS];
static int64 position;			/* the first bucket that was not looked at */
static bool scanned;			/* since the last reset */
int32		tl_longest_silence_ms = 0;

void
tl_watch_list_reset(int64 now)
{
	HASHCTL		ctl;
	HTAB	   *old = entries;

	ctl.keysize = sizeof(ItemPointerData);
	ctl.entrysize = sizeof(Entry);
	ctl.hcxt = TopMemoryContext;
	/* if memory runs out here, the buckets still lead to the old entries */
	entries = hash_create("turn_liveness watch list", 1024, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	if (old != NULL)
		hash_destroy(old);
	memset(buckets, 0, sizeof(buckets));
	position = now / BUCKET_US;
	scanned = false;
}

/* File an entry that is in no bucket.  Cannot fail. */
static void
file_entry(Entry *entry, int64 due)
{
	/* the end of the bucket in which it is due: never early */
	int64		at = due / BUCKET_US + 1;

	at = Max(at, position);
	at = Min(at, position + NBUCKETS - 1);
	entry->due = due;
	dlist_push_head(&buckets[at % NBUCKETS], &entry->node);
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
	Entry	   *entry = hash_search(entries, &watch->tid, HASH_ENTER, &found);
	/* another turn's row may stand where one stood that has ended since */
	bool		same = found && memcmp(&entry->watch.turn, &watch->turn, sizeof(TlLeaseKey)) == 0;

	/* a restored row is seen from now, unless a sweep of this run stamped it */
	if (seen == 0 && is_restored(&watch->times))
		seen = now;

	/* the clock of another run may have been ahead of ours */
	due = Min(due, now + patience);

	entry->watch = *watch;
	if (!same)
		entry->seen = seen;
	if (!same || (entry->due != NOWHERE && due < entry->due && due > now))
	{
		if (found && entry->due != NOWHERE)
			dlist_delete(&entry->node);
		file_entry(entry, due);
	}
	tl_longest_silence_ms = Max(tl_longest_silence_ms, watch->times.silence_ms);
}

/*
 * Look at every entry that is due by now.  The deadline is computed from
 * memory; only what may have lapsed is given out.
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
		dlist_head *bucket = &buckets[position % NBUCKETS];
		Entry	   *entry;
		TlTimes		times;
		TlSigns		signs;
		TlVerdict	verdict;

		if (dlist_is_empty(bucket))
		{
			position++;
			continue;
		}
		if (n == max)
			break;
		entry = dlist_container(Entry, node, dlist_pop_head_node(bucket));
		if (!dlist_is_empty(bucket))
			tl_lease_prefetch(dlist_head_element(Entry, node, bucket)->watch.deployment);

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
		if (!dlist_is_empty(&buckets[i % NBUCKETS]))
			return Max(i * BUCKET_US, now);
	return now + TL_SECOND;
}

/*
 * Read all owed rows.  At the worker's start each row that no transaction
 * stamped is taken as it stands; later on, a row that was not known became
 * visible without a letter, and is seen from now.
 *
 * The time that it takes paces the next scan: on the liveness clock, which may
 * be moved on meanwhile by a test, and without the wait for the table, which
 * VACUUM FULL may hold for long.
 */
int64
tl_watch_list_scan(void)
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
	start = now = tl_clock_tick();
	start_mono = tl_monotonic();
	tl_scan_begin(&scan, &turns, TL_IDX_TURN_OWED_CHECK, snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		TlTurn		turn;
		TlWatch		watch;
		bool		late;

		CHECK_FOR_INTERRUPTS();
		if (++n % 1000 == 0)
			now = tl_clock_tick();
		tl_turn_decode(scan.slot, &turn);
		late = scanned || turn.times.seen == TL_SEEN_UNKNOWN || is_restored(&turn.times);
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
	scanned = true;
	now = tl_clock_tick();
	return Min(now - start, tl_monotonic() - start_mono);
}
