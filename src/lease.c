/*
 * lease.c
 *		Beats in shared memory, and the verdicts that are remembered with them.
 *
 * A lease is one cache line: a keyed 128-bit hash of who beats, the times of its
 * beats, a generation, and the count of owed turns that is good for just that
 * generation.  Chained hash table over a fixed array; a deployment and its named
 * turns hash to one partition by h1.
 *
 * Rules:
 * - A chain and the fields key, next and used change under the partition's lock, held
 *   exclusively.  The other fields are atomics: a beat writes them holding the
 *   lock shared.
 * - A generation is never used twice: each bump takes the next number of one
 *   counter.  A count is kept with the generation that was read before the snapshot of
 *   the probe, and 0 is never kept.
 * - tl_lease_condemn decides under the partition's lock, exclusively: a beat is
 *   either read by it, or finds its cached count void and the turn condemned.
 * - Nothing here allocates, waits for anything but an LWLock, or can fail.
 */
#include "turn_liveness.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "guc.h"
#include "lease.h"
#include "rel.h"
#include "shmem.h"

#define NPARTITIONS		128
#define NONE			PG_UINT32_MAX
#define RECHECK_SHIFT	20		/* cached_at counts in units of about a second */
#define RECHECK_UNITS	4

typedef struct Lease
{
	TlLeaseKey	key;
	pg_atomic_uint64 beat;		/* a deployment's or a named turn's last beat */
	pg_atomic_uint64 first;		/* deployment: solo beat; turn: first beat */
	pg_atomic_uint64 named;		/* deployment: last beat that named a turn */
	pg_atomic_uint64 cache;		/* generation << 32 | owed */
	pg_atomic_uint32 generation;	/* of a deployment */
	pg_atomic_uint32 cached_at;
	uint32		next;
	uint16		database;		/* slot number, for reclaiming and counting */
	bool		used;
	bool		is_turn;
} Lease;

StaticAssertDecl(sizeof(Lease) == 64, "a lease is one cache line");

/* The turn that a session is deciding: see tl_lease_condemn. */
typedef struct Sweeper
{
	TlLeaseKey	turn;			/* written under the turn's partition lock */
	pg_atomic_uint32 deciding;
} Sweeper;

typedef struct LeaseTable
{
	slock_t		free_mutex;		/* guards free_head and used */
	uint32		free_head;
	pg_atomic_uint32 used;
	pg_atomic_uint32 sweepers;	/* how many sessions are deciding */
	uint32		reclaim_hand;	/* the worker's, see tl_lease_reclaim */
	LWLockPadded partitions[NPARTITIONS];
} LeaseTable;

static LeaseTable *table = NULL;
static uint32 *buckets;
static Lease *leases;
static Sweeper *sweepers;
static uint32 bucket_mask;

/* the seeds of this database and extension */
static uint64 seed1;
static uint64 seed2;
static Oid	seeded_extension = InvalidOid;

static uint32 bucket_count(void);
static LWLock *partition(TlLeaseKey key);
static Lease *find(TlLeaseKey key);
static Lease *enter(TlLeaseKey key, bool is_turn);
static void remove_lease(Lease *lease);
static uint32 current_generation(Lease *deployment);
static void advance(pg_atomic_uint64 *stamp, int64 now);
static void bump(Lease *deployment);

static uint32
bucket_count(void)
{
	uint32		n = NPARTITIONS;

	while (n < tl_lease_capacity)
		n <<= 1;
	return n;
}

Size
tl_lease_shmem_size(void)
{
	Size		size = MAXALIGN(sizeof(LeaseTable)) + PG_CACHE_LINE_SIZE;

	size = add_size(size, mul_size(sizeof(Lease), tl_lease_capacity));
	size = add_size(size, MAXALIGN(mul_size(sizeof(uint32), bucket_count())));
	size = add_size(size, mul_size(sizeof(Sweeper), MaxBackends));
	return size;
}

void
tl_lease_shmem_startup(int tranche)
{
	bool		found;
	char	   *base;
	uint32		nbuckets = bucket_count();
	uint32		i;

	base = ShmemInitStruct("turn_liveness leases", tl_lease_shmem_size(), &found);
	table = (LeaseTable *) base;
	base += MAXALIGN(sizeof(LeaseTable));
	leases = (Lease *) TYPEALIGN(PG_CACHE_LINE_SIZE / 2, base);
	base = (char *) (leases + tl_lease_capacity);
	buckets = (uint32 *) base;
	base += MAXALIGN(nbuckets * sizeof(uint32));
	sweepers = (Sweeper *) base;
	bucket_mask = nbuckets - 1;
	seeded_extension = InvalidOid;

	if (found)
		return;

	SpinLockInit(&table->free_mutex);
	pg_atomic_init_u32(&table->used, 0);
	pg_atomic_init_u32(&table->sweepers, 0);
	table->reclaim_hand = 0;
	for (i = 0; i < NPARTITIONS; i++)
		LWLockInitialize(&table->partitions[i].lock, tranche);
	for (i = 0; i < nbuckets; i++)
		buckets[i] = NONE;
	for (i = 0; i < tl_lease_capacity; i++)
	{
		Lease	   *lease = &leases[i];

		memset(lease, 0, sizeof(Lease));
		pg_atomic_init_u64(&lease->beat, 0);
		pg_atomic_init_u64(&lease->first, 0);
		pg_atomic_init_u64(&lease->named, 0);
		pg_atomic_init_u64(&lease->cache, 0);
		pg_atomic_init_u32(&lease->generation, 0);
		pg_atomic_init_u32(&lease->cached_at, 0);
		lease->next = i + 1 < tl_lease_capacity ? i + 1 : NONE;
	}
	table->free_head = 0;
	memset(sweepers, 0, sizeof(Sweeper) * MaxBackends);
	for (i = 0; i < MaxBackends; i++)
		pg_atomic_init_u32(&sweepers[i].deciding, 0);
}

/*
 * Keys.  The seeds are secret, so that nobody can choose names that collide.
 */
TlLeaseKey
tl_lease_key(const char *deployment, int len)
{
	TlLeaseKey	key;
	Oid			extension = tl_extension_oid();

	if (extension != seeded_extension)
	{
		uint64		where = ((uint64) MyDatabaseId << 32) | extension;

		seed1 = hash_bytes_extended((unsigned char *) &where, sizeof(where),
									tl_shared ? tl_shared->seeds[0] : 0);
		seed2 = hash_bytes_extended((unsigned char *) &where, sizeof(where),
									tl_shared ? tl_shared->seeds[1] : 1);
		seeded_extension = extension;
	}
	key.h1 = hash_bytes_extended((const unsigned char *) deployment, len, seed1);
	key.h2 = hash_bytes_extended((const unsigned char *) deployment, len, seed2);
	return key;
}

TlLeaseKey
tl_lease_turn_key(TlLeaseKey deployment, const char *message_id, int len)
{
	TlLeaseKey	key;

	key.h1 = deployment.h1;
	key.h2 = hash_bytes_extended((const unsigned char *) message_id, len,
								 deployment.h2 ^ (tl_shared ? tl_shared->seeds[2] : 2));
	return key;
}

static inline LWLock *
partition(TlLeaseKey key)
{
	return &table->partitions[key.h1 % NPARTITIONS].lock;
}

static inline uint32 *
bucket(TlLeaseKey key)
{
	/* the low bits choose the partition, so a bucket is in one partition */
	uint32		spread = (uint32) ((key.h1 >> 32) ^ key.h2) & ~(uint32) (NPARTITIONS - 1);

	return &buckets[(spread | (uint32) (key.h1 % NPARTITIONS)) & bucket_mask];
}

static inline Lease *
find(TlLeaseKey key)
{
	uint32		i = *bucket(key);

	while (i != NONE)
	{
		Lease	   *lease = &leases[i];

		if (lease->key.h1 == key.h1 && lease->key.h2 == key.h2)
			return lease;
		i = lease->next;
	}
	return NULL;
}

/* Hints: read without a lock, and whatever they read is only an address. */
void
tl_lease_prefetch_bucket(TlLeaseKey key)
{
	if (table != NULL)
		tl_prefetch_compat(bucket(key));
}

void
tl_lease_prefetch(TlLeaseKey key)
{
	if (table != NULL)
	{
		uint32		i = *(volatile uint32 *) bucket(key);

		if (i != NONE)
			tl_prefetch_compat(&leases[i]);
	}
}

/* NULL if the table is full.  The caller holds the partition exclusively. */
static Lease *
enter(TlLeaseKey key, bool is_turn)
{
	Lease	   *lease = find(key);
	uint32		i;

	if (lease != NULL)
		return lease;

	SpinLockAcquire(&table->free_mutex);
	i = table->free_head;
	if (i != NONE)
		table->free_head = leases[i].next;
	SpinLockRelease(&table->free_mutex);
	if (i == NONE)
		return NULL;

	lease = &leases[i];
	lease->key = key;
	pg_atomic_write_u64(&lease->beat, 0);
	pg_atomic_write_u64(&lease->first, 0);
	pg_atomic_write_u64(&lease->named, 0);
	pg_atomic_write_u64(&lease->cache, 0);
	pg_atomic_write_u32(&lease->cached_at, 0);
	lease->is_turn = is_turn;
	lease->database = tl_database() - tl_shared->databases;
	bump(lease);
	lease->used = true;
	lease->next = *bucket(key);
	*bucket(key) = i;
	pg_atomic_fetch_add_u32(&table->used, 1);
	return lease;
}

/* The caller holds the partition exclusively. */
static void
remove_lease(Lease *lease)
{
	uint32		i = lease - leases;
	uint32	   *link = bucket(lease->key);

	while (*link != i)
		link = &leases[*link].next;
	*link = lease->next;
	lease->used = false;

	SpinLockAcquire(&table->free_mutex);
	lease->next = table->free_head;
	table->free_head = i;
	SpinLockRelease(&table->free_mutex);
	pg_atomic_fetch_sub_u32(&table->used, 1);
}

/* A cached count is good for one value of this sum, and neither part repeats. */
static inline uint32
current_generation(Lease *deployment)
{
	return pg_atomic_read_u32(&deployment->generation) +
		pg_atomic_read_u32(&tl_shared->databases[deployment->database].generation);
}

static void
bump(Lease *deployment)
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
cache_is_fresh(Lease *lease, int64 now)
{
	if (!pg_atomic_read_u32(&tl_shared->databases[lease->database].recheck))
		return true;
	return (uint32) (now >> RECHECK_SHIFT) - pg_atomic_read_u32(&lease->cached_at) < RECHECK_UNITS;
}

TlBeat
tl_lease_beat(TlLeaseKey deployment, int64 now, uint32 *generation, int32 *owed)
{
	LWLock	   *lock;
	Lease	   *lease;
	TlBeat		result = TL_BEAT_ABSENT;

	if (table == NULL)
		return TL_BEAT_ABSENT;

	lock = partition(deployment);
	LWLockAcquire(lock, LW_SHARED);
	lease = find(deployment);
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
	Lease	   *lease;
	Lease	   *named;
	TlBeat		result = TL_BEAT_ABSENT;

	if (table == NULL)
		return TL_BEAT_ABSENT;

	lock = partition(deployment);
	LWLockAcquire(lock, LW_SHARED);
	lease = find(deployment);
	named = lease ? find(turn) : NULL;
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
	Lease	   *lease;
	Lease	   *named = NULL;
	bool		by_name = deployment.h2 != turn.h2;

	if (table == NULL || tl_database() == NULL)
		return false;

	lock = partition(deployment);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	lease = enter(deployment, false);
	if (lease != NULL && by_name)
		named = enter(turn, true);
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
	LWLock	   *lock = partition(deployment);
	Lease	   *lease;
	bool		current = true;

	LWLockAcquire(lock, owed > 0 ? LW_SHARED : LW_EXCLUSIVE);
	lease = find(deployment);
	if (lease != NULL)
	{
		current = current_generation(lease) == generation;
		if (current && owed == 0)
		{
			if (keep)
				remove_lease(lease);
		}
		else if (current)
		{
			if (keep)
			{
				/* the first beat that finds this turn alone starts it */
				if (owed == 1 && (int64) pg_atomic_read_u64(&lease->first) <= sole_armed)
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
	LWLock	   *lock = partition(deployment);
	Lease	   *lease;
	Lease	   *named;
	bool		current = true;

	LWLockAcquire(lock, owed ? LW_SHARED : LW_EXCLUSIVE);
	lease = find(deployment);
	named = find(turn);
	if (lease != NULL && named != NULL)
	{
		current = current_generation(lease) == generation;
		if (current && !owed)
		{
			if (keep)
				remove_lease(named);
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
	LWLock	   *lock = partition(deployment);
	Lease	   *named;

	LWLockAcquire(lock, LW_SHARED);
	named = find(turn);
	if (named != NULL && (int64) pg_atomic_read_u64(&named->first) <= armed)
		pg_atomic_write_u64(&named->first, now);
	LWLockRelease(lock);
}

/* The caller holds the partition, shared or exclusively. */
static void
read_signs(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs)
{
	Lease	   *lease = find(deployment);
	Lease	   *named;

	memset(signs, 0, sizeof(*signs));
	if (lease == NULL)
		return;
	signs->beat = pg_atomic_read_u64(&lease->beat);
	signs->solo = pg_atomic_read_u64(&lease->first);
	if (pg_atomic_read_u64(&lease->named) == 0)
		return;
	named = find(turn);
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
	if (table == NULL)
		return;
	LWLockAcquire(partition(deployment), LW_SHARED);
	read_signs(deployment, turn, signs);
	LWLockRelease(partition(deployment));
}

int64
tl_lease_last_beat(TlLeaseKey deployment)
{
	Lease	   *lease;
	int64		last = 0;

	if (table == NULL)
		return 0;
	LWLockAcquire(partition(deployment), LW_SHARED);
	lease = find(deployment);
	if (lease != NULL)
		last = Max(pg_atomic_read_u64(&lease->beat), pg_atomic_read_u64(&lease->named));
	LWLockRelease(partition(deployment));
	return last;
}

/*
 * Has the turn lapsed?  If so it is condemned from here until
 * tl_lease_decided(): a beat that comes now does not count it as owed, one that
 * came before has been read here.  With died > 0 the session of its deployment
 * ended then; a beat since revokes that.
 */
bool
tl_lease_condemn(TlLeaseKey deployment, TlLeaseKey turn, const TlTimes *times,
				 const TlGrace *grace, int64 now, int64 died, TlVerdict *verdict)
{
	TlSigns		signs;
	bool		lapsed;
	Lease	   *lease;
	Sweeper    *me;

	if (table == NULL)
	{
		memset(&signs, 0, sizeof(signs));
		tl_deadline(times, &signs, grace, now, verdict);
		return verdict->deadline <= now && !verdict->held;
	}

	LWLockAcquire(partition(deployment), LW_EXCLUSIVE);
	read_signs(deployment, turn, &signs);
	lease = find(deployment);
	tl_deadline(times, &signs, grace, now, verdict);
	lapsed = verdict->deadline <= now && !verdict->held;
	if (died > 0 && !lapsed)
	{
		int64		last = Max(signs.beat, signs.turn_last);

		if (lease != NULL)
			last = Max(last, (int64) pg_atomic_read_u64(&lease->named));
		lapsed = last <= died && times->armed < died;
		verdict->code = TL_CODE_DIED;
	}
	if (lapsed)
	{
		me = &sweepers[tl_session_number_compat()];
		me->turn = turn;
		pg_atomic_write_u32(&me->deciding, 1);
		pg_atomic_fetch_add_u32(&table->sweepers, 1);
		if (lease != NULL)
			bump(lease);
	}
	LWLockRelease(partition(deployment));
	return lapsed;
}

/* The row has been updated, or will not be: its state speaks for itself now. */
void
tl_lease_decided(void)
{
	Sweeper    *me;

	if (table == NULL)
		return;
	me = &sweepers[tl_session_number_compat()];
	if (pg_atomic_exchange_u32(&me->deciding, 0) == 1)
		pg_atomic_fetch_sub_u32(&table->sweepers, 1);
}

/* Only for a turn whose partition was locked since the beat: see the rules. */
bool
tl_lease_is_condemned(TlLeaseKey turn)
{
	bool		condemned = false;
	int			i;

	if (table == NULL || pg_atomic_read_u32(&table->sweepers) == 0)
		return false;

	LWLockAcquire(partition(turn), LW_SHARED);
	for (i = 0; i < MaxBackends && !condemned; i++)
		condemned = pg_atomic_read_u32(&sweepers[i].deciding) == 1 &&
			sweepers[i].turn.h1 == turn.h1 && sweepers[i].turn.h2 == turn.h2;
	LWLockRelease(partition(turn));
	return condemned;
}

/*
 * Called after the commit is visible.  If the count was known and all of it
 * has ended, the lease has served.
 */
void
tl_lease_moved(TlLeaseKey deployment, int32 ended)
{
	LWLock	   *lock;
	Lease	   *lease;

	if (table == NULL)
		return;

	lock = partition(deployment);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	lease = find(deployment);
	if (lease != NULL)
	{
		uint64		cache = pg_atomic_read_u64(&lease->cache);

		if (ended > 0 && (uint32) (cache >> 32) == current_generation(lease) &&
			(int32) (cache & PG_UINT32_MAX) == ended)
			remove_lease(lease);
		else
			bump(lease);
	}
	LWLockRelease(lock);
}

void
tl_lease_remove_turn(TlLeaseKey deployment, TlLeaseKey turn)
{
	Lease	   *named;

	if (table == NULL)
		return;
	LWLockAcquire(partition(deployment), LW_EXCLUSIVE);
	named = find(turn);
	if (named != NULL)
		remove_lease(named);
	LWLockRelease(partition(deployment));
}

/* Rows changed in a way that nobody can put down to a deployment. */
void
tl_lease_move_database(void)
{
	TlDatabase *db = tl_database();

	if (db != NULL)
		pg_atomic_fetch_add_u32(&db->generation, 1);
}

/*
 * Look at the next n entries and drop those that have been silent for long: a
 * turn that still counts on such a beat has lapsed, and a beat makes a new one.
 */
void
tl_lease_reclaim(int n, int64 silent_since)
{
	uint16		database = tl_database() - tl_shared->databases;

	while (n-- > 0)
	{
		/* every worker walks; two at one place do no harm */
		uint32		i = table->reclaim_hand++ % tl_lease_capacity;
		Lease	   *lease = &leases[i];
		TlLeaseKey	key = lease->key;

		if (!lease->used || lease->database != database)
			continue;
		LWLockAcquire(partition(key), LW_EXCLUSIVE);
		if (lease->used && lease->key.h1 == key.h1 && lease->key.h2 == key.h2 &&
			(int64) pg_atomic_read_u64(&lease->beat) < silent_since &&
			(int64) pg_atomic_read_u64(&lease->named) < silent_since)
			remove_lease(lease);
		LWLockRelease(partition(key));
	}
}

/* Under the directory's lock, which nobody takes who holds a partition. */
void
tl_lease_clear_slot(int slot)
{
	uint32		i;

	for (i = 0; i < tl_lease_capacity; i++)
	{
		Lease	   *lease = &leases[i];
		TlLeaseKey	key = lease->key;

		if (!lease->used || lease->database != slot)
			continue;
		LWLockAcquire(partition(key), LW_EXCLUSIVE);
		if (lease->used && lease->database == slot &&
			lease->key.h1 == key.h1 && lease->key.h2 == key.h2)
			remove_lease(lease);
		LWLockRelease(partition(key));
	}
}

int
tl_lease_count_since(int64 since, int max)
{
	uint16		database = tl_database() - tl_shared->databases;
	int			count = 0;
	uint32		i;

	/* a hint: read without a lock */
	for (i = 0; i < tl_lease_capacity && count < max; i++)
	{
		Lease	   *lease = &leases[i];

		if (lease->used && !lease->is_turn && lease->database == database &&
			((int64) pg_atomic_read_u64(&lease->beat) >= since ||
			 (int64) pg_atomic_read_u64(&lease->named) >= since))
			count++;
	}
	return count;
}

int
tl_lease_used(void)
{
	return table ? pg_atomic_read_u32(&table->used) : 0;
}
