/*
 * lease.c
 *		Beats in shared memory, and the counts of owed turns that are
 *		remembered with them.
 *
 * A lease is one cache line: a keyed 128-bit hash of the deployment or turn,
 * the times of its beats, a generation, and the count of owed turns that is
 * good for just that generation.  The table itself is in lease_table.c.
 *
 * Rules:
 * - A generation is never used twice: each bump takes the next number of one
 *   counter.  A count is kept with the generation that the backend read before
 *   it took the snapshot of its probe, and 0 is never kept.
 * - A sweep reads the beats while it holds the lock of the turn's row.  A beat
 *   that comes after that, and before the sweep's commit, may count the turn
 *   once more; the commit moves the generation, so the next beat does not.
 * - Nothing here allocates, waits for anything but an LWLock, or can fail.
 */
#include "base/turn_liveness.h"

#include "shared/database.h"
#include "shared/lease.h"
#include "shared/lease_table.h"

#define RECHECK_SHIFT	20		/* cached_at counts in units of about a second */
#define RECHECK_UNITS	4

static void bump(TlLease *deployment);

/* A cached count is good for one value of this sum; neither part repeats. */
static inline uint32
current_generation(TlLease *deployment)
{
	return pg_atomic_read_u32(&deployment->generation) +
		pg_atomic_read_u32(&tl_shared->databases[deployment->database].generation);
}

static void
bump(TlLease *deployment)
{
	pg_atomic_write_u32(&deployment->generation,
						pg_atomic_add_fetch_u32(&tl_shared->generation, 1));
}

static inline void
advance(pg_atomic_uint64 *stamp, int64 now)
{
	uint64		old = pg_atomic_read_u64(stamp);

	while ((int64) old < now &&
		   !pg_atomic_compare_exchange_u64(stamp, &old, now))
		;
}

static inline bool
cache_is_fresh(TlLease *lease, int64 now)
{
	if (!pg_atomic_read_u32(&tl_shared->databases[lease->database].recheck))
		return true;
	return (uint32) (now >> RECHECK_SHIFT) - pg_atomic_read_u32(&lease->cached_at) < RECHECK_UNITS;
}

TL_HOT TlBeat
tl_lease_beat(TlLeaseKey deployment, int64 now, uint32 *generation, int32 *owed)
{
	LWLock	   *lock;
	TlLease    *lease;
	TlBeat		result = TL_BEAT_ABSENT;

	if (tl_lease_table == NULL)
		return TL_BEAT_ABSENT;

	lock = tl_lease_partition(deployment);
	LWLockAcquire(lock, LW_SHARED);
	lease = tl_lease_find(deployment);
	if (lease != NULL)
	{
		uint64		cache;

		advance(&lease->beat, now);
		*generation = current_generation(lease);
		cache = pg_atomic_read_u64(&lease->cache);
		*owed = (int32) (cache & PG_UINT32_MAX);
		result = *owed > 0 && (uint32) (cache >> 32) == *generation && cache_is_fresh(lease, now) ?
			TL_BEAT_KNOWN : TL_BEAT_PROBE;
	}
	LWLockRelease(lock);
	return result;
}

TlBeat
tl_lease_beat_turn(TlLeaseKey deployment, TlLeaseKey turn, int64 now, uint32 *generation)
{
	LWLock	   *lock;
	TlLease    *lease;
	TlLease    *named;
	TlBeat		result = TL_BEAT_ABSENT;

	if (tl_lease_table == NULL)
		return TL_BEAT_ABSENT;

	lock = tl_lease_partition(deployment);
	LWLockAcquire(lock, LW_SHARED);
	lease = tl_lease_find(deployment);
	named = lease ? tl_lease_find(turn) : NULL;
	if (named != NULL)
	{
		uint64		cache;

		advance(&lease->named, now);
		advance(&named->beat, now);
		*generation = current_generation(lease);
		cache = pg_atomic_read_u64(&named->cache);
		result = (cache & PG_UINT32_MAX) > 0 && (uint32) (cache >> 32) == *generation && cache_is_fresh(named, now) ?
			TL_BEAT_KNOWN : TL_BEAT_PROBE;
	}
	LWLockRelease(lock);
	return result;
}

/*
 * The caller passes two equal keys for a beat of the whole deployment.  A
 * turn's lease stands beside the lease of its deployment, which carries the
 * generation.
 */
bool
tl_lease_enter(TlLeaseKey deployment, TlLeaseKey turn, int64 now)
{
	LWLock	   *lock;
	TlLease    *lease;
	TlLease    *named = NULL;
	bool		by_name = deployment.h2 != turn.h2;

	if (tl_lease_table == NULL || tl_database() == NULL)
		return false;

	lock = tl_lease_partition(deployment);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	lease = tl_lease_make(deployment, false);
	if (lease != NULL && by_name)
		named = tl_lease_make(turn, true);
	if (lease != NULL)
		advance(by_name ? &lease->named : &lease->beat, now);
	if (named != NULL)
		advance(&named->beat, now);
	LWLockRelease(lock);
	return by_name ? named != NULL : lease != NULL;
}

bool
tl_lease_found(TlLeaseKey deployment, uint32 generation, int32 owed,
			   int64 sole_armed, int64 now, bool keep)
{
	LWLock	   *lock = tl_lease_partition(deployment);
	TlLease    *lease;
	bool		current = owed == 0;	/* the lease went meanwhile, and the beat with it */

	LWLockAcquire(lock, owed > 0 ? LW_SHARED : LW_EXCLUSIVE);
	lease = tl_lease_find(deployment);
	if (lease != NULL)
	{
		current = current_generation(lease) == generation;
		if (current && keep && owed == 0)
			tl_lease_remove(lease);
		else if (current && keep)
		{
			/* the first beat that finds this turn alone starts it */
			if (owed == 1 && (int64) pg_atomic_read_u64(&lease->first) < sole_armed)
				pg_atomic_write_u64(&lease->first, now);
			pg_atomic_write_u32(&lease->cached_at, (uint32) (now >> RECHECK_SHIFT));
			pg_atomic_write_u64(&lease->cache, ((uint64) generation << 32) | (uint32) owed);
		}
	}
	LWLockRelease(lock);
	return current;
}

bool
tl_lease_found_turn(TlLeaseKey deployment, TlLeaseKey turn, uint32 generation,
					bool owed, bool keep)
{
	LWLock	   *lock = tl_lease_partition(deployment);
	TlLease    *lease;
	TlLease    *named;
	bool		current = !owed;

	LWLockAcquire(lock, owed ? LW_SHARED : LW_EXCLUSIVE);
	lease = tl_lease_find(deployment);
	named = tl_lease_find(turn);
	if (lease != NULL && named != NULL)
	{
		current = current_generation(lease) == generation;
		if (current && keep && !owed)
			tl_lease_remove(named);
		else if (current && keep)
		{
			int64		now = pg_atomic_read_u64(&named->beat);

			pg_atomic_write_u32(&named->cached_at, (uint32) (now >> RECHECK_SHIFT));
			pg_atomic_write_u64(&named->cache, ((uint64) generation << 32) | 1);
		}
	}
	LWLockRelease(lock);
	return current;
}

/* A turn that was armed again starts again: its first beat moves on. */
void
tl_lease_start_turn(TlLeaseKey deployment, TlLeaseKey turn, int64 armed, int64 now)
{
	LWLock	   *lock = tl_lease_partition(deployment);
	TlLease    *named;

	LWLockAcquire(lock, LW_SHARED);
	named = tl_lease_find(turn);
	if (named != NULL && (int64) pg_atomic_read_u64(&named->first) < armed)
		pg_atomic_write_u64(&named->first, now);
	LWLockRelease(lock);
}

void
tl_lease_read(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs)
{
	TlLease    *lease;
	TlLease    *named = NULL;

	memset(signs, 0, sizeof(*signs));
	if (tl_lease_table == NULL)
		return;
	LWLockAcquire(tl_lease_partition(deployment), LW_SHARED);
	lease = tl_lease_find(deployment);
	if (lease != NULL)
	{
		signs->beat = pg_atomic_read_u64(&lease->beat);
		signs->solo = pg_atomic_read_u64(&lease->first);
		if (pg_atomic_read_u64(&lease->named) != 0)
			named = tl_lease_find(turn);
	}
	if (named != NULL)
	{
		signs->turn_first = pg_atomic_read_u64(&named->first);
		signs->turn_last = pg_atomic_read_u64(&named->beat);
	}
	LWLockRelease(tl_lease_partition(deployment));
}

int64
tl_lease_last_beat(TlLeaseKey deployment)
{
	TlLease    *lease;
	int64		last = 0;

	if (tl_lease_table == NULL)
		return 0;
	LWLockAcquire(tl_lease_partition(deployment), LW_SHARED);
	lease = tl_lease_find(deployment);
	if (lease != NULL)
		last = Max((int64) pg_atomic_read_u64(&lease->beat),
				   (int64) pg_atomic_read_u64(&lease->named));
	LWLockRelease(tl_lease_partition(deployment));
	return last;
}

/*
 * A transaction asks before its commit how many turns are known to be owed,
 * and in which generation.
 */
int32
tl_lease_known(TlLeaseKey deployment, uint32 *generation)
{
	TlLease    *lease;
	int32		known = 0;

	*generation = 0;
	if (tl_lease_table == NULL)
		return 0;
	LWLockAcquire(tl_lease_partition(deployment), LW_SHARED);
	lease = tl_lease_find(deployment);
	if (lease != NULL)
	{
		uint64		cache = pg_atomic_read_u64(&lease->cache);

		*generation = current_generation(lease);
		if ((uint32) (cache >> 32) == *generation)
			known = (int32) (cache & PG_UINT32_MAX);
	}
	LWLockRelease(tl_lease_partition(deployment));
	return known;
}

/*
 * A transaction calls this after its commit is visible.  If it ended all turns
 * that were known to be owed, and nothing else happened since, the lease has
 * served.  A count that a beat keeps between the commit and here is no
 * evidence: it sees the commit.
 */
void
tl_lease_moved(TlLeaseKey deployment, bool served, uint32 generation)
{
	LWLock	   *lock;
	TlLease    *lease;

	if (tl_lease_table == NULL)
		return;

	lock = tl_lease_partition(deployment);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	lease = tl_lease_find(deployment);
	if (lease != NULL)
	{
		if (served && generation == current_generation(lease))
			tl_lease_remove(lease);
		else
			bump(lease);
	}
	LWLockRelease(lock);
}

void
tl_lease_remove_turn(TlLeaseKey deployment, TlLeaseKey turn)
{
	TlLease    *named;

	if (tl_lease_table == NULL)
		return;
	LWLockAcquire(tl_lease_partition(deployment), LW_EXCLUSIVE);
	named = tl_lease_find(turn);
	if (named != NULL)
		tl_lease_remove(named);
	LWLockRelease(tl_lease_partition(deployment));
}

/* Rows changed in a way that names no deployment. */
void
tl_lease_move_database(void)
{
	TlDatabase *db = tl_database();

	if (db != NULL)
		pg_atomic_fetch_add_u32(&db->generation, 1);
}
