/*
 * watch_list.c
 *		The worker's watch list: which owed turn to look at when.
 *
 * A calendar of buckets of 50 ms, in the worker's own memory: 4096 of them,
 * three and a half minutes.  What is due later is filed in the last quarter,
 * spread by the place of its row, and filed again from there: millions of
 * patient turns do not come at once.  An entry holds what a look needs, so that
 * a look at a turn that lives touches shared memory only: but for the two cases
 * below the worker reads no row, let alone writes one.
 *
 * An entry is found by its row's address, so that a row that is told of twice
 * is watched once.  The transaction that ends a turn tells so, and the worker
 * drops the entry of just that turn at just that address.
 *
 * Letters come in another order than commits where a session is slow to post
 * its own, so a letter may be about a row whose place has another one by now.
 * The worker cannot tell which of the two letters is right.  It keeps the entry
 * as contested then: no letter takes it off, it is due at the earlier time, and
 * the sweep reads its row each time.
 *
 * An entry whose row moved or went stays under its old address: the process
 * that moved the row told of the new one.  A scan of the owed rows does not
 * meet it.  The sweep reads the row of such an entry, too, when it is next due,
 * finds none that is owed, and the worker drops it.
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
/* for so many looks the worker asks the memory at once */
#define AHEAD			8

#define NOWHERE			INT64CONST(-1)

typedef struct Entry
{
	ItemPointerData tid;		/* key */
	dlist_node	node;			/* in the bucket of due */
	int64		due;			/* NOWHERE: given out, and in no bucket */
	TlWatch		watch;
	int64		seen;			/* first seen, if it became visible late */
	int64		busy_since;		/* it has lapsed, and a transaction holds it */
	uint32		scan;			/* the last that had begun when it was met */
	bool		contested;		/* letters said different things of its row */
} Entry;

static HTAB *entries = NULL;
static dlist_head buckets[NBUCKETS];
static int64 position;			/* the first bucket that was not looked at */
static bool scanned;			/* since the last reset */
static uint32 scans_begun = 0;
static uint32 last_scan = 0;	/* the last one that met all that is owed */
int32		tl_longest_silence_ms = 0;

void
tl_watch_list_reset(int64 now)
{
	HASHCTL		ctl = {.keysize = sizeof(ItemPointerData), .entrysize = sizeof(Entry)};
	HTAB	   *old = entries;

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
	if (at >= position + NBUCKETS)
		at = position + NBUCKETS / 4 * 3 +
			ItemPointerGetBlockNumberNoCheck(&entry->tid) % (NBUCKETS / 4);
	entry->due = due;
	dlist_push_head(&buckets[at % NBUCKETS], &entry->node);
}

void
tl_watch_list_add(const TlWatch *watch, bool late, int64 now)
{
	const TlTimes *times = &watch->times;
	int64		epoch = tl_clock_epoch();
	/* the clock of another run may have been ahead of ours */
	int64		due = Min(tl_times_next_check(times),
						  now + Min(times->admission_ms, times->silence_ms) * TL_MS);
	bool		found;
	Entry	   *entry = hash_search(entries, &watch->tid, HASH_ENTER, &found);
	/* another turn's row may stand where one stood that has ended since, */
	bool		same = found && memcmp(&entry->watch.turn, &watch->turn, sizeof(TlLeaseKey)) == 0;
	/* and a later version of a turn's row where an earlier one stood */
	bool		moved = same && tl_times_next_check(&entry->watch.times) != tl_times_next_check(times);

	entry->scan = scans_begun;
	entry->contested = found && (entry->contested || !same || moved);
	if (found && !same && entry->due != NOWHERE)
		due = Min(due, entry->due);

	/* so is a row that was armed and written elsewhere: no sweep stamped it */
	late |= times->seen == TL_SEEN_UNKNOWN ||
		(tl_epoch_place(times->epoch) != tl_epoch_place(epoch) &&
		 tl_epoch_run(times->epoch) != tl_epoch_run(epoch));
	entry->watch = *watch;
	if (!same)
	{
		entry->seen = Max(found ? entry->seen : 0, late ? now : 0);
		entry->busy_since = 0;
	}
	if (!same || (entry->due != NOWHERE && due < entry->due && (due > now || moved)))
	{
		if (found && entry->due != NOWHERE)
			dlist_delete(&entry->node);
		file_entry(entry, due);
	}
	tl_longest_silence_ms = Max(tl_longest_silence_ms, times->silence_ms);
}

void
tl_watch_list_remove(const TlEnded *ended)
{
	Entry	   *entry = hash_search(entries, &ended->tid, HASH_FIND, NULL);

	/* the row of another turn may stand there by now */
	if (entry == NULL || entry->contested || entry->watch.times.begun != ended->begun ||
		memcmp(&entry->watch.turn, &ended->turn, sizeof(TlLeaseKey)) != 0)
		return;
	if (entry->due != NOWHERE)
		dlist_delete(&entry->node);
	(void) hash_search(entries, &ended->tid, HASH_REMOVE, NULL);
}

/*
 * Take the next entries out of a bucket.  The worker asks the memory for the
 * leases of their deployments, which stand anywhere, and for the entry that
 * comes after the next.
 */
static int
take_some(dlist_head *bucket, Entry **taken, int max)
{
	int			n;

	for (n = 0; n < max && !dlist_is_empty(bucket); n++)
	{
		Entry	   *entry = dlist_container(Entry, node, dlist_pop_head_node(bucket));

		taken[n] = entry;
		tl_lease_prefetch(entry->watch.deployment, entry->watch.deployment, false);
		if (!dlist_is_empty(bucket) && dlist_has_next(bucket, dlist_head_node(bucket)))
		{
			dlist_node *after = dlist_next_node(bucket, dlist_head_node(bucket));
			char	   *address = (char *) dlist_container(Entry, node, after);
			int			i;

			for (i = 0; i < sizeof(Entry); i += PG_CACHE_LINE_SIZE / 2)
				tl_prefetch(address + i, true);
		}
	}
	return n;
}

/*
 * The worker computes the deadline of an entry that it has taken out of its
 * bucket, from memory, and files the entry of a turn that lives.  False: the
 * turn may have lapsed, or its row may not be as the entry says.  Nothing here
 * can fail: other entries are in no bucket meanwhile.
 */
static bool
look_at(Entry *entry, const TlGrace *grace, int64 now)
{
	TlSigns		signs;
	TlVerdict	verdict;
	int64		due;

	tl_lease_read(entry->watch.deployment, entry->watch.turn, &signs);
	signs.seen = entry->seen;
	tl_deadline(&entry->watch.times, &signs, grace, now, &verdict);
	due = verdict.held ? now + TL_SECOND : tl_next_look(&entry->watch.times, &verdict, now);
	if (due <= now || entry->contested || (int32) (entry->scan - last_scan) < 0)
		return false;
	entry->busy_since = 0;
	file_entry(entry, due);
	return true;
}

/*
 * The worker looks at the entries that are due by now, until it has given out
 * "max" that may have lapsed, or may not be as their rows are.
 */
int
tl_watch_list_take_expired(int64 now, const TlGrace *grace, TlSweepItem *items, int max)
{
	int			n = 0;
	int64		last = now / BUCKET_US;

	/* after a long pause every bucket is passed once */
	if (last - position >= NBUCKETS)
		position = last - NBUCKETS + 1;

	while (position <= last && n < max)
	{
		Entry	   *taken[AHEAD];
		int			ntaken = take_some(&buckets[position % NBUCKETS], taken, Min(AHEAD, max - n));
		int			i;

		if (ntaken == 0)
			position++;
		for (i = 0; i < ntaken; i++)
		{
			Entry	   *entry = taken[i];

			if (look_at(entry, grace, now))
				continue;
			entry->due = NOWHERE;
			items[n++] = (TlSweepItem) {
				.tid = entry->tid, .turn = entry->contested ? NULL : &entry->watch.turn,
				.seen = entry->seen, .busy_since = entry->busy_since
			};
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
	{
		entry->busy_since = item->status == TL_SWEEP_BUSY ? item->busy_since : 0;
		entry->scan = scans_begun;
		file_entry(entry, Max(item->look_us, now));
	}
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

	scans_begun++;
	tl_rel_open(&turns, TL_TURN, false);
	snapshot = tl_latest_snapshot();
	start = now = tl_clock_tick();
	start_mono = tl_monotonic();
	tl_scan_begin(&scan, &turns, TL_IDX_TURN_OWED_CHECK, snapshot);
	while (tl_scan_next(&scan, ForwardScanDirection))
	{
		TlTurn		turn;
		TlWatch		watch;

		CHECK_FOR_INTERRUPTS();
		if (++n % 1000 == 0)
			now = tl_clock_tick();
		tl_turn_decode(scan.slot, &turn);
		watch = (TlWatch) {
			.tid = turn.tid,
			.deployment = turn.deployment_key,
			.turn = turn.turn_key,
			.times = turn.times
		};
		/* one that a sweep offered, or that waits, is not failed for silence */
		tl_watch_list_add(&watch, scanned && turn.times.lapsed == 0 &&
						  turn.times.wait_until == 0, now);
	}
	tl_scan_end(&scan);
	tl_rel_close(&turns);
	UnregisterSnapshot(snapshot);
	scanned = true;
	last_scan = scans_begun;
	now = tl_clock_tick();
	return Min(now - start, tl_monotonic() - start_mono);
}
