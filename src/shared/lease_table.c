/*
 * lease_table.c
 *		The lease table: its memory, and how leases come and go.
 *
 * Chained hash table over a fixed array; a deployment and its named turns hash
 * to one partition by h1.  Nothing here waits for anything but an LWLock,
 * allocates, or can fail.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "storage/shmem.h"

#include "base/guc.h"
#include "shared/database.h"
#include "shared/lease_table.h"

TlLeaseTable *tl_lease_table = NULL;
TlLease    *tl_leases;
uint32	   *tl_lease_buckets;
uint32		tl_lease_bucket_mask;


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
	tl_lease_bucket_mask = nbuckets - 1;

	if (found)
		return;

	SpinLockInit(&tl_lease_table->free_mutex);
	pg_atomic_init_u32(&tl_lease_table->used, 0);
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
}

/* Hints: they read without a lock, and use the result only as an address. */
TL_HOT void
tl_lease_prefetch_bucket(TlLeaseKey key)
{
	if (tl_lease_table != NULL)
		__builtin_prefetch(tl_lease_bucket(key));
}

TL_HOT void
tl_lease_prefetch(TlLeaseKey key)
{
	if (tl_lease_table != NULL)
	{
		uint32		i = *(volatile uint32 *) tl_lease_bucket(key);

		if (i != TL_NO_LEASE)
			__builtin_prefetch(&tl_leases[i]);
	}
}

TlLease *
tl_lease_make(TlLeaseKey key, bool is_turn)
{
	TlLease    *lease = tl_lease_find(key);
	uint32		i;

	Assert(LWLockHeldByMeInMode(tl_lease_partition(key), LW_EXCLUSIVE));
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
	lease->incarnation = tl_database()->incarnation;
	pg_atomic_write_u32(&lease->generation,
						pg_atomic_add_fetch_u32(&tl_shared->generation, 1));
	lease->used = true;
	lease->next = *tl_lease_bucket(key);
	*tl_lease_bucket(key) = i;
	pg_atomic_fetch_add_u32(&tl_lease_table->used, 1);
	return lease;
}

void
tl_lease_remove(TlLease *lease)
{
	uint32		i = lease - tl_leases;
	uint32	   *link = tl_lease_bucket(lease->key);

	Assert(LWLockHeldByMeInMode(tl_lease_partition(lease->key), LW_EXCLUSIVE));
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
 * turn that still counts on such a beat has lapsed, and a beat makes a new
 * one.
 */
void
tl_lease_reclaim(int n, int64 silent_since)
{
	uint16		database = tl_database() - tl_shared->databases;

	while (n-- > 0)
	{
		/* the workers of all databases share the hand; a race skips an entry */
		uint32		i = tl_lease_table->reclaim_hand++ % tl_lease_capacity;
		TlLease    *lease = &tl_leases[i];
		TlLeaseKey	key = lease->key;

		if (!lease->used || lease->database != database)
			continue;
		LWLockAcquire(tl_lease_partition(key), LW_EXCLUSIVE);
		if (lease->used && tl_lease_key_equal(lease->key, key) &&
			(lease->incarnation != tl_database()->incarnation ||
			 ((int64) pg_atomic_read_u64(&lease->beat) < silent_since &&
			  (int64) pg_atomic_read_u64(&lease->named) < silent_since)))
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

	/* a hint: this reads without a lock */
	for (i = 0; i < tl_lease_capacity && count < max; i++)
	{
		TlLease    *lease = &tl_leases[i];

		if (lease->used && !lease->is_turn && lease->database == database &&
			lease->incarnation == tl_database()->incarnation &&
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
