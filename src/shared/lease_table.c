/*
 * lease_table.c
 *		The lease table: its memory, its keys, and how leases come and go.
 *
 * Chained hash table over a fixed array; a deployment and its named turns hash
 * to one partition by h1.  Nothing here waits for anything but an LWLock,
 * allocates, or can fail.
 */
#include "base/turn_liveness.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "shared/database.h"
#include "shared/lease_table.h"

TlLeaseTable *tl_lease_table = NULL;
uint32	   *tl_lease_buckets;
uint32		tl_lease_bucket_mask;

#define NBUCKETS	pg_nextpower2_32(Max(tl_lease_capacity, TL_LEASE_PARTITIONS))

/* Hash a name, which may have a short header. */
static inline uint64
hash_text(const text *t, uint64 seed)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(t),
							   VARSIZE_ANY_EXHDR(t), seed);
}

/* The seeds are secret, so that no caller can choose names that collide. */
TL_HOT TlLeaseKey
tl_lease_key(const text *deployment)
{
	/* of this database and extension */
	static uint64 seeds[2];
	static Oid	seeded_extension = InvalidOid;
	Oid			extension = tl_extension_oid();

	if (extension != seeded_extension)
	{
		uint64		where = ((uint64) MyDatabaseId << 32) | extension;
		int			i;

		for (i = 0; i < 2; i++)
			seeds[i] = hash_bytes_extended((unsigned char *) &where, sizeof(where),
										   tl_shared ? tl_shared->seeds[i] : i);
		seeded_extension = extension;
	}
	return (TlLeaseKey) {hash_text(deployment, seeds[0]), hash_text(deployment, seeds[1])};
}

TL_HOT TlLeaseKey
tl_lease_turn_key(TlLeaseKey deployment, const text *message_id)
{
	uint64		seed = deployment.h2 ^ (tl_shared ? tl_shared->seeds[2] : 2);

	return (TlLeaseKey) {deployment.h1, hash_text(message_id, seed)};
}

Size
tl_lease_shmem_size(void)
{
	Size		size = add_size(offsetof(TlLeaseTable, leases),
								mul_size(sizeof(TlLease), tl_lease_capacity + 1));

	return add_size(size, mul_size(sizeof(uint32), NBUCKETS));
}

void
tl_lease_shmem_startup(int tranche)
{
	bool		found;
	int			i;

	tl_lease_table = ShmemInitStruct("turn_liveness leases", tl_lease_shmem_size(), &found);
	tl_lease_buckets = (uint32 *) &tl_lease_table->leases[tl_lease_capacity + 1];
	tl_lease_bucket_mask = NBUCKETS - 1;
	if (found)
		return;
	memset(tl_lease_table, 0, tl_lease_shmem_size());
	SpinLockInit(&tl_lease_table->free_mutex);
	for (i = 0; i < TL_LEASE_PARTITIONS; i++)
		LWLockInitialize(&tl_lease_table->partitions[i].lock, tranche);
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
		__builtin_prefetch(&tl_lease_table->leases[*(volatile uint32 *) tl_lease_bucket(key)]);
}

/*
 * A lease comes from the free list, or from those that were never in use.  The
 * backend links it last, when all of it is written.
 */
TlLease *
tl_lease_make(TlLeaseKey key, bool is_turn)
{
	TlLeaseTable *table = tl_lease_table;
	TlLease    *lease = tl_lease_find(key);
	uint32	   *bucket = tl_lease_bucket(key);
	uint32		i;

	Assert(LWLockHeldByMeInMode(tl_lease_partition(key), LW_EXCLUSIVE));
	if (lease != NULL)
		return lease;

	SpinLockAcquire(&table->free_mutex);
	i = table->free_head;
	if (i != 0)
		table->free_head = table->leases[i].next;
	else if (table->fresh < tl_lease_capacity)
		i = ++table->fresh;
	table->used += i != 0;
	SpinLockRelease(&table->free_mutex);
	if (i == 0)
		return NULL;

	lease = &table->leases[i];
	memset(lease, 0, sizeof(TlLease));
	lease->key = key;
	lease->is_turn = is_turn;
	lease->database = tl_database() - tl_shared->databases;
	lease->incarnation = tl_database()->incarnation;
	pg_atomic_write_u32(&lease->generation,
						pg_atomic_add_fetch_u32(&tl_shared->generation, 1));
	lease->next = *bucket;
	lease->used = true;
	*bucket = i;
	return lease;
}

void
tl_lease_remove(TlLease *lease)
{
	TlLeaseTable *table = tl_lease_table;
	uint32		i = lease - table->leases;
	uint32	   *link = tl_lease_bucket(lease->key);

	Assert(LWLockHeldByMeInMode(tl_lease_partition(lease->key), LW_EXCLUSIVE));
	while (*link != i)
		link = &table->leases[*link].next;
	*link = lease->next;
	lease->used = false;

	SpinLockAcquire(&table->free_mutex);
	lease->next = table->free_head;
	table->free_head = i;
	table->used--;
	SpinLockRelease(&table->free_mutex);
}

/* A lease of an earlier owner of the slot did not. */
static bool
has_beaten_since(TlLease *lease, int64 since)
{
	return lease->incarnation == tl_database()->incarnation &&
		((int64) pg_atomic_read_u64(&lease->beat) >= since ||
		 (int64) pg_atomic_read_u64(&lease->named) >= since);
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
		uint32		i = tl_lease_table->reclaim_hand++ % tl_lease_capacity + 1;
		TlLease    *lease = &tl_lease_table->leases[i];
		TlLeaseKey	key = lease->key;

		if (!lease->used || lease->database != database)
			continue;
		LWLockAcquire(tl_lease_partition(key), LW_EXCLUSIVE);
		if (lease->used && lease->moving == 0 && tl_lease_key_equal(lease->key, key) &&
			!has_beaten_since(lease, silent_since))
			tl_lease_remove(lease);
		LWLockRelease(tl_lease_partition(key));
	}
}

/* A hint: it reads without a lock. */
int
tl_lease_count_since(int64 since, int max)
{
	uint16		database = tl_database() - tl_shared->databases;
	int			count = 0;
	uint32		i;

	for (i = 1; i <= tl_lease_table->fresh && count < max; i++)
	{
		TlLease    *lease = &tl_lease_table->leases[i];

		count += lease->used && !lease->is_turn && lease->database == database &&
			has_beaten_since(lease, since);
	}
	return count;
}

int
tl_lease_used(void)
{
	return tl_lease_table != NULL ? tl_lease_table->used : 0;
}
