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
 * - Of a named turn the backend remembers the turn's own generation in place of
 *   the count.  The lease's fence is the generation of the beats that it has:
 *   a beat with a fence is recorded only where the fence is that one, or, under
 *   the exclusive lock, after a probe has found the row with it.  A session
 *   announces a hand-over before it commits: until its callback has run no
 *   backend remembers anything, so an earlier holder hears 0 as soon as the
 *   commit is visible.  A beat that it gets in before that stands under the old
 *   fence, and rules/deadline.c does not count it.
 * - A sweep reads the beats while it holds the turn's row.  A beat that comes
 *   after that, and before the sweep's commit, may count the turn once more;
 *   the commit moves the generation, so the next beat does not.
 * - Nothing here allocates, waits for anything but an LWLock, or can fail.
 */
#include "base/turn_liveness.h"

#include "shared/database.h"
#include "shared/lease.h"
#include "shared/lease_table.h"

#define RECHECK_SHIFT	20		/* cached_at counts about seconds */
#define RECHECK_UNITS	4
#define MAX_MOVING		63		/* that the field can hold */

/* A beat for a whole deployment passes two equal keys. */
#define names_turn(deployment, turn)	((deployment).h2 != (turn).h2)

/* Without preload there is no table to lock: each function finds nothing. */
static inline bool
lock(TlLeaseKey deployment, LWLockMode mode)
{
	if (tl_leases.table == NULL)
		return false;
	LWLockAcquire(tl_lease_partition(deployment), mode);
	return true;
}

static inline void
unlock(TlLeaseKey deployment)
{
	LWLockRelease(tl_lease_partition(deployment));
}

/* A cached count is good for one value of this sum; neither part repeats. */
static inline uint32
current_generation(TlLease *deployment)
{
	return pg_atomic_read_u32(&deployment->generation) +
		pg_atomic_read_u32(&tl_shared->databases[deployment->database].generation);
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

/*
 * The lease that a beat is for: the deployment's, or the one of the turn that
 * it names.  A turn's lease stands beside the lease of its deployment, which
 * carries the generation.
 */
static inline TlLease *
find_target(TlLease *lease, TlLeaseKey deployment, TlLeaseKey turn)
{
	return lease == NULL || !names_turn(deployment, turn) ? lease : tl_lease_find(deployment, turn);
}

static inline void
record(TlLease *lease, TlLease *target, int64 now)
{
	if (target != lease)
		advance(&lease->named, now);
	advance(&target->beat, now);
}

TL_HOT TlBeat
tl_lease_beat(TlLeaseKey deployment, TlLeaseKey turn, int32 fence, int64 now,
			  uint32 *generation, int32 *owed)
{
	TlLease    *lease;
	TlLease    *target;
	TlBeat		result = TL_BEAT_ABSENT;

	Assert(fence == 0 || names_turn(deployment, turn));

	if (!lock(deployment, LW_SHARED))
		return TL_BEAT_ABSENT;
	lease = tl_lease_find(deployment, deployment);
	target = find_target(lease, deployment, turn);
	if (target != NULL)
	{
		uint64		cache;
		bool		fresh;

		/* the beat comes first: a commit that it misses makes it probe */
		if (fence == 0)
			record(lease, target, now);
		*generation = current_generation(lease);
		cache = pg_atomic_read_u64(&target->cache);
		*owed = (int32) (cache & PG_UINT32_MAX);
		fresh = *owed > 0 && (uint32) (cache >> 32) == *generation && cache_is_fresh(target, now);
		result = fresh ? TL_BEAT_KNOWN : TL_BEAT_PROBE;
		if (target != lease)
		{
			if (fence == 0)
			{
				if (pg_atomic_read_u64(&target->named) != 0)
					pg_atomic_write_u64(&target->named, 0);
				*owed = 1;
			}
			else if (fresh && *owed == fence && pg_atomic_read_u64(&target->named) == (uint64) fence)
			{
				record(lease, target, now);
				*owed = 1;
			}
			/* the turn has another holder */
			else if (fresh && fence < *owed)
				*owed = 0;
			else
				result = TL_BEAT_PROBE;
		}
	}
	unlock(deployment);
	return result;
}

bool
tl_lease_enter(TlLeaseKey deployment, TlLeaseKey turn, int32 fence, int64 now)
{
	TlLease    *lease;
	TlLease    *target;

	if (tl_database() == NULL || !lock(deployment, LW_EXCLUSIVE))
		return false;
	lease = target = tl_lease_make(deployment, deployment);
	if (lease != NULL && names_turn(deployment, turn))
		target = tl_lease_make(deployment, turn);
	if (target != NULL)
	{
		/* with a fence it is recorded once the row was probed */
		if (fence == 0)
			record(lease, target, now);
	}
	/* the beat goes to the turn's row, and shows that its deployment lives */
	else if (lease != NULL)
		advance(&lease->named, now);
	unlock(deployment);
	return target != NULL;
}

bool
tl_lease_found(TlLeaseKey deployment, TlLeaseKey turn, int32 fence, uint32 generation,
			   int32 owed, int64 armed, int64 now, bool keep)
{
	TlLease    *lease;
	TlLease    *target;
	/* the lease went meanwhile, and the beat with it */
	bool		current = owed == 0;

	(void) lock(deployment, owed > 0 && fence == 0 ? LW_SHARED : LW_EXCLUSIVE);
	lease = tl_lease_find(deployment, deployment);
	target = find_target(lease, deployment, turn);
	if (target != NULL)
	{
		current = current_generation(lease) == generation;
		keep = keep && current && lease->moving == 0;
		if (fence != 0 && owed > 0)
		{
			uint64		held = pg_atomic_read_u64(&target->named);

			/*
			 * A later holder has beaten.  If the lease's generation still
			 * stands no hand-over was committed since the probe: that holder
			 * is in a transaction that is open, or was rolled back.
			 */
			if (held > (uint64) fence && !current)
				keep = false;
			else
			{
				/* what an earlier holder's beats began ends here */
				if (held != 0 && held != (uint64) fence)
					pg_atomic_write_u64(&target->first, 0);
				record(lease, target, now);
				pg_atomic_write_u64(&target->named, fence);
			}
		}

		/*
		 * The first beat that names the turn, or that finds it alone, starts
		 * it.  A turn that was armed again starts again.
		 */
		if ((target != lease ? owed > 0 : owed == 1 && keep) &&
			(fence == 0 || pg_atomic_read_u64(&target->named) == (uint64) fence) &&
			(int64) pg_atomic_read_u64(&target->first) < armed)
			pg_atomic_write_u64(&target->first, now);
		if (keep && owed == 0)
			tl_lease_remove(target);
		else if (keep)
		{
			pg_atomic_write_u32(&target->cached_at, (uint32) (now >> RECHECK_SHIFT));
			pg_atomic_write_u64(&target->cache, ((uint64) generation << 32) | (uint32) owed);
		}
	}
	unlock(deployment);
	return current;
}

void
tl_lease_read(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs)
{
	TlLease    *lease;
	TlLease    *named = NULL;

	memset(signs, 0, sizeof(*signs));
	if (!lock(deployment, LW_SHARED))
		return;
	lease = tl_lease_find(deployment, deployment);
	if (lease != NULL)
	{
		signs->beat = pg_atomic_read_u64(&lease->beat);
		signs->solo = pg_atomic_read_u64(&lease->first);
		if (pg_atomic_read_u64(&lease->named) != 0)
			named = tl_lease_find(deployment, turn);
	}
	if (named != NULL)
	{
		signs->turn_first = pg_atomic_read_u64(&named->first);
		signs->turn_last = pg_atomic_read_u64(&named->beat);
		signs->fence = (int32) pg_atomic_read_u64(&named->named);
	}
	unlock(deployment);
}

int64
tl_lease_last_beat(TlLeaseKey deployment)
{
	TlLease    *lease;
	int64		last = 0;

	if (!lock(deployment, LW_SHARED))
		return 0;
	lease = tl_lease_find(deployment, deployment);
	if (lease != NULL)
		last = Max((int64) pg_atomic_read_u64(&lease->beat),
				   (int64) pg_atomic_read_u64(&lease->named));
	unlock(deployment);
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
	if (!lock(deployment, LW_SHARED))
		return 0;
	lease = tl_lease_find(deployment, deployment);
	if (lease != NULL)
	{
		uint64		cache = pg_atomic_read_u64(&lease->cache);

		*generation = current_generation(lease);
		if ((uint32) (cache >> 32) == *generation)
			known = (int32) (cache & PG_UINT32_MAX);
	}
	unlock(deployment);
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
	TlLease    *lease;

	if (!lock(deployment, LW_EXCLUSIVE))
		return;
	lease = tl_lease_find(deployment, deployment);
	if (lease != NULL && served && lease->moving == 0 &&
		generation == current_generation(lease))
		tl_lease_remove(lease);
	else if (lease != NULL)
		pg_atomic_write_u32(&lease->generation,
							pg_atomic_add_fetch_u32(&tl_shared->generation, 1));
	unlock(deployment);
}

void
tl_lease_remove_turn(TlLeaseKey deployment, TlLeaseKey turn)
{
	TlLease    *named;

	if (!lock(deployment, LW_EXCLUSIVE))
		return;
	named = tl_lease_find(deployment, turn);
	if (named != NULL)
		tl_lease_remove(named);
	unlock(deployment);
}

/*
 * A session that ends its transaction without the commit leaves the generation
 * as the announcement made it: nothing was remembered since.  The count stays
 * where it is full; the lease is of no use then, but to record beats.
 */
void
tl_lease_announce(TlLeaseKey deployment, bool begins)
{
	TlLease    *lease;

	if (tl_database() == NULL || !lock(deployment, LW_EXCLUSIVE))
		return;
	/* without a lease a beat would make one, and remember what it found */
	lease = begins ? tl_lease_make(deployment, deployment) : tl_lease_find(deployment, deployment);
	if (lease != NULL && begins)
		pg_atomic_write_u32(&lease->generation,
							pg_atomic_add_fetch_u32(&tl_shared->generation, 1));
	if (lease != NULL && lease->moving < MAX_MOVING)
	{
		if (begins)
			lease->moving++;
		else if (lease->moving > 0)
			lease->moving--;
	}
	unlock(deployment);
}

/* Rows changed in a way that names no deployment. */
void
tl_lease_move_database(void)
{
	TlDatabase *db = tl_database();

	if (db != NULL)
		pg_atomic_fetch_add_u32(&db->generation, 1);
}
