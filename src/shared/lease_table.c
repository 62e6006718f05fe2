/*
 * lease_table.c
 *		The lease table: its memory, its keys, and what comes into it and goes.
 *
 * Chained hash table over a fixed array; a deployment and its named turns hash to one
 * partition by h1.  Nothing here waits for anything but an LWLock, allocates, or
 * can fail.
 */
#include "base/turn_liveness.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/shmem.h"

#include "base/guc.h"
#include "shared/lease_table.h"
#include "store/rel.h"
#include "shared/shmem.h"

TlLeaseTable *tl_lease_table = NULL;
TlLease    *tl_leases;
TlSweeper  *tl_sweepers;
uint32	   *tl_lease_buckets;
uint32		tl_lease_bucket_mask;

/* the seeds of this database and extension */
static uint64 seed1;
static uint64 seed2;
static Oid	seeded_extension = InvalidOid;

static uint32 bucket_count(void);

static uint32
bucket_count(void)
{
	uint32		n = TL_LEASE_PARTITIONS;

	while (n < tl_lease_capacity)
		n <<= 1;
	return n;
}

Size
tl_lease_shmem_size(void)
{
	Size		size = MAXALIGN(sizeof(TlLeaseTable)) + PG_CACHE_LINE_SIZE;

	size = add_size(size, mul_size(sizeof(TlLease), tl_lease_capacity));
	size = add_size(size, MAXALIGN(mul_size(sizeof(uint32), bucket_count())));
	size = add_size(size, mul_size(sizeof(TlSweeper), MaxBackends));
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
	tl_lease_table = (TlLeaseTable *) base;
	base += MAXALIGN(sizeof(TlLeaseTable));
	tl_leases = (TlLease *) TYPEALIGN(PG_CACHE_LINE_SIZE / 2, base);
	base = (char *) (tl_leases + tl_lease_capacity);
	tl_lease_buckets = (uint32 *) base;
	base += MAXALIGN(nbuckets * sizeof(uint32));
	tl_sweepers = (TlSweeper *) base;
	tl_lease_bucket_mask = nbuckets - 1;
	seeded_extension = InvalidOid;

	if (found)
		return;

	SpinLockInit(&tl_lease_table->free_mutex);
	pg_atomic_init_u32(&tl_lease_table->used, 0);
	pg_atomic_init_u32(&tl_lease_table->sweepers, 0);
	tl_lease_table->reclaim_hand = 0;
	for (i = 0; i < TL_LEASE_PARTITIONS; i++)
		LWLockInitialize(&tl_lease_table->partitions[i].lock, tranche);
	for (i = 0; i < nbuckets; i++)
		tl_lease_buckets[i] = TL_NO_LEASE;
	for (i = 0; i < tl_lease_capacity; i++)
	{
		TlLease    *lease = &tl_leases[i];

		memset(lease, 0, sizeof(TlLease));
		pg_atomic_init_u64(&lease->beat, 0);
		pg_atomic_init_u64(&lease->first, 0);
		pg_atomic_init_u64(&lease->named, 0);
		pg_atomic_init_u64(&lease->cache, 0);
		pg_atomic_init_u32(&lease->generation, 0);
		pg_atomic_init_u32(&lease->cached_at, 0);
		lease->next = i + 1 < tl_lease_capacity ? i + 1 : TL_NO_LEASE;
	}
	tl_lease_table->free_head = 0;
	memset(tl_sweepers, 0, sizeof(TlSweeper) * MaxBackends);
	for (i = 0; i < MaxBackends; i++)
		pg_atomic_init_u32(&tl_sweepers[i].deciding, 0);
}

/*
 * Keys.  The seeds are secret, so that nobody can choose names that collide.
 */
TL_HOT TlLeaseKey
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

/* Hints: read without a lock, and whatever they read is only an address. */
TL_HOT void
tl_lease_prefetch_bucket(TlLeaseKey key)
{
	if (tl_lease_table != NULL)
		tl_prefetch_compat(tl_lease_bucket(key));
}

TL_HOT void
tl_lease_prefetch(TlLeaseKey key)
{
	if (tl_lease_table != NULL)
	{
		uint32		i = *(volatile uint32 *) tl_lease_bucket(key);

		if (i != TL_NO_LEASE)
			tl_prefetch_compat(&tl_leases[i]);
	}
}

/* NULL if the table is full.  The caller holds the partition exclusively. */
TlLease *
tl_lease_make(TlLeaseKey key, bool is_turn)
{
	TlLease    *lease = tl_lease_find(key);
	uint32		i;

	if (lease != NULL)
		return lease;

	SpinLockAcquire(&tl_lease_table->free_mutex);
	i = tl_lease_table->free_head;
	if (i != TL_NO_LEASE)
		tl_lease_table->free_head = tl_leases[i].next;
	SpinLockRelease(&tl_lease_table->free_mutex);
	if (i == TL_NO_LEASE)
		return NULL;

	lease = &tl_leases[i];
	lease->key = key;
	pg_atomic_write_u64(&lease->beat, 0);
	pg_atomic_write_u64(&lease->first, 0);
	pg_atomic_write_u64(&lease->named, 0);
	pg_atomic_write_u64(&lease->cache, 0);
	pg_atomic_write_u32(&lease->cached_at, 0);
	lease->is_turn = is_turn;
	lease->database = tl_database() - tl_shared->databases;
	pg_atomic_write_u32(&lease->generation,
						pg_atomic_add_fetch_u32(&tl_shared->generation, 1));
	lease->used = true;
	lease->next = *tl_lease_bucket(key);
	*tl_lease_bucket(key) = i;
	pg_atomic_fetch_add_u32(&tl_lease_table->used, 1);
	return lease;
}

/* The caller holds the partition exclusively. */
void
tl_lease_remove(TlLease *lease)
{
	uint32		i = lease - tl_leases;
	uint32	   *link = tl_lease_bucket(lease->key);

	while (*link != i)
		link = &tl_leases[*link].next;
	*link = lease->next;
	lease->used = false;

	SpinLockAcquire(&tl_lease_table->free_mutex);
	lease->next = tl_lease_table->free_head;
	tl_lease_table->free_head = i;
	SpinLockRelease(&tl_lease_table->free_mutex);
	pg_atomic_fetch_sub_u32(&tl_lease_table->used, 1);
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
		uint32		i = tl_lease_table->reclaim_hand++ % tl_lease_capacity;
		TlLease    *lease = &tl_leases[i];
		TlLeaseKey	key = lease->key;

		if (!lease->used || lease->database != database)
			continue;
		LWLockAcquire(tl_lease_partition(key), LW_EXCLUSIVE);
		if (lease->used && lease->key.h1 == key.h1 && lease->key.h2 == key.h2 &&
			(int64) pg_atomic_read_u64(&lease->beat) < silent_since &&
			(int64) pg_atomic_read_u64(&lease->named) < silent_since)
			tl_lease_remove(lease);
		LWLockRelease(tl_lease_partition(key));
	}
}

/* Under the directory's lock, which nobody takes who holds a partition. */
void
tl_lease_clear_slot(int slot)
{
	uint32		i;

	for (i = 0; i < tl_lease_capacity; i++)
	{
		TlLease    *lease = &tl_leases[i];
		TlLeaseKey	key = lease->key;

		if (!lease->used || lease->database != slot)
			continue;
		LWLockAcquire(tl_lease_partition(key), LW_EXCLUSIVE);
		if (lease->used && lease->database == slot &&
			lease->key.h1 == key.h1 && lease->key.h2 == key.h2)
			tl_lease_remove(lease);
		LWLockRelease(tl_lease_partition(key));
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
		TlLease    *lease = &tl_leases[i];

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
	return tl_lease_table ? pg_atomic_read_u32(&tl_lease_table->used) : 0;
}
