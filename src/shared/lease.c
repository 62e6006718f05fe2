/*
 * lease.c
 *		Beats in shared memory, and the verdicts that are remembered with them.
 *
 * A lease is one cache line: a keyed 128-bit hash of who beats, the times of its
 * beats, a generation, and the count of owed turns that is good for just that
 * generation.  The table itself is in lease_table.c.
 *
 * Rules:
 * - A generation is never used twice: each bump takes the next number of one
 *   counter.  A count is kept with the generation that was read before the snapshot of
 *   the probe, and 0 is never kept.
 * - tl_lease_condemn decides under the partition's lock, exclusively: a beat is
 *   either read by it, or finds its cached count void and the turn condemned.
 * - Nothing here allocates, waits for anything but an LWLock, or can fail.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"

#include "shared/lease_table.h"
#include "shared/shmem.h"

#define RECHECK_SHIFT	20		/* cached_at counts in units of about a second */
#define RECHECK_UNITS	4

/* in a count: some of these turns are condemned; as a number it is below 0 */
#define CONDEMNED		UINT64CONST(0x80000000)

static uint32 current_generation(TlLease *deployment);
static void advance(pg_atomic_uint64 *stamp, int64 now);
static bool cache_is_fresh(TlLease *lease, int64 now);
static void bump(TlLease *deployment);
static void read_signs(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs);

/* A cached count is good for one value of this sum, and neither part repeats. */
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
 * The two keys are equal for a beat of the whole deployment.  A turn's lease
 * stands beside one of its deployment, which carries the generation.
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
		if (current && owed == 0)
		{
			if (keep)
				tl_lease_remove(lease);
		}
		else if (current)
		{
			if (keep)
			{
				/* the first beat that finds this turn alone starts it */
				if (owed == 1 && (int64) pg_atomic_read_u64(&lease->first) < sole_armed)
					pg_atomic_write_u64(&lease->first, now);
				pg_atomic_write_u32(&lease->cached_at, (uint32) (now >> RECHECK_SHIFT));
				pg_atomic_write_u64(&lease->cache, ((uint64) generation << 32) | (uint32) owed);
			}
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
		if (current && !owed)
		{
			if (keep)
				tl_lease_remove(named);
		}
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

/* The caller holds the partition, shared or exclusively. */
static void
read_signs(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs)
{
	TlLease    *lease = tl_lease_find(deployment);
	TlLease    *named;

	memset(signs, 0, sizeof(*signs));
	if (lease == NULL)
		return;
	signs->beat = pg_atomic_read_u64(&lease->beat);
	signs->solo = pg_atomic_read_u64(&lease->first);
	if (pg_atomic_read_u64(&lease->named) == 0)
		return;
	named = tl_lease_find(turn);
	if (named != NULL)
	{
		signs->turn_first = pg_atomic_read_u64(&named->first);
		signs->turn_last = pg_atomic_read_u64(&named->beat);
	}
}

void
tl_lease_read(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs)
{
	memset(signs, 0, sizeof(*signs));
	if (tl_lease_table == NULL)
		return;
	LWLockAcquire(tl_lease_partition(deployment), LW_SHARED);
	read_signs(deployment, turn, signs);
	LWLockRelease(tl_lease_partition(deployment));
}

/*
 * Has the turn lapsed?  If so it is condemned from here until
 * tl_lease_decided(): a beat that comes now does not count it as owed, one that
 * came before has been read here.  With died > 0 the session of its deployment
 * ended then; a beat since revokes that.
 */
bool
tl_lease_condemn(TlLeaseKey deployment, TlLeaseKey turn, const TlTimes *times,
				 const TlGrace *grace, int64 now, int64 seen, int64 died,
				 TlVerdict *verdict)
{
	TlSigns		signs;
	bool		lapsed;
	TlLease    *lease;
	TlSweeper  *me;

	if (tl_lease_table == NULL)
	{
		memset(&signs, 0, sizeof(signs));
		signs.seen = seen;
		tl_deadline(times, &signs, grace, now, verdict);
		return verdict->deadline <= now && !verdict->held;
	}

	LWLockAcquire(tl_lease_partition(deployment), LW_EXCLUSIVE);
	read_signs(deployment, turn, &signs);
	signs.seen = seen;
	lease = tl_lease_find(deployment);
	tl_deadline(times, &signs, grace, now, verdict);
	lapsed = verdict->deadline <= now && !verdict->held;
	if (died > 0 && !lapsed)
	{
		int64		last = Max(Max(signs.beat, signs.turn_last), times->beat);

		if (lease != NULL)
			last = Max(last, (int64) pg_atomic_read_u64(&lease->named));
		/* a death is stamped like an arm: see tl_clock_arm_stamp */
		lapsed = last < died && times->armed < died;
		verdict->code = TL_CODE_DIED;
	}
	if (lapsed)
	{
		me = &tl_sweepers[tl_session_number_compat()];
		me->turn = turn;
		pg_atomic_write_u32(&me->deciding, 1);
		pg_atomic_fetch_add_u32(&tl_lease_table->sweepers, 1);
		if (lease != NULL)
		{
			uint64		cache = pg_atomic_read_u64(&lease->cache);
			bool		known = (uint32) (cache >> 32) == current_generation(lease);

			/* no beat may take the count any more, but the commit may: see tl_lease_moved */
			bump(lease);
			if (known)
				pg_atomic_write_u64(&lease->cache,
									((uint64) current_generation(lease) << 32) |
									(cache & PG_UINT32_MAX) | CONDEMNED);
		}
	}
	LWLockRelease(tl_lease_partition(deployment));
	return lapsed;
}

/* The row has been updated, or will not be: its state speaks for itself now. */
void
tl_lease_decided(void)
{
	TlSweeper  *me;

	if (tl_lease_table == NULL)
		return;
	me = &tl_sweepers[tl_session_number_compat()];
	if (pg_atomic_exchange_u32(&me->deciding, 0) == 1)
		pg_atomic_fetch_sub_u32(&tl_lease_table->sweepers, 1);
}

/* Only for a turn whose partition was locked since the beat: see the rules. */
bool
tl_lease_is_condemned(TlLeaseKey turn)
{
	bool		condemned = false;
	int			i;

	if (tl_lease_table == NULL || pg_atomic_read_u32(&tl_lease_table->sweepers) == 0)
		return false;

	LWLockAcquire(tl_lease_partition(turn), LW_SHARED);
	for (i = 0; i < MaxBackends && !condemned; i++)
		condemned = pg_atomic_read_u32(&tl_sweepers[i].deciding) == 1 &&
			tl_sweepers[i].turn.h1 == turn.h1 && tl_sweepers[i].turn.h2 == turn.h2;
	LWLockRelease(tl_lease_partition(turn));
	return condemned;
}

/*
 * Before the commit: how many turns are known to be owed, in which generation;
 * 0 if that is not known.
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
			known = (int32) (cache & PG_UINT32_MAX & ~CONDEMNED);
	}
	LWLockRelease(tl_lease_partition(deployment));
	return known;
}

/*
 * Called after the commit is visible.  If all that was known to be owed before
 * it has ended, and nothing else happened since, the lease has served.  What a
 * beat counts between the commit and here is no evidence: it sees the commit.
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

/* Rows changed in a way that nobody can put down to a deployment. */
void
tl_lease_move_database(void)
{
	TlDatabase *db = tl_database();

	if (db != NULL)
		pg_atomic_fetch_add_u32(&db->generation, 1);
}

