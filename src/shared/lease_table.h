/*
 * lease_table.h
 *		The lease table.  Its inside is for lease.c and lease_table.c only.
 *
 * A backend changes a chain and the fields key, next and used only while it
 * holds the partition's lock exclusively.  The other fields are atomics: a
 * beat writes them holding the lock shared.
 */
#ifndef TL_LEASE_TABLE_H
#define TL_LEASE_TABLE_H

#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "shared/lease_key.h"

typedef struct TlLease
{
	TlLeaseKey	key;
	pg_atomic_uint64 beat;		/* a deployment's or a named turn's last beat */
	pg_atomic_uint64 first;		/* deployment: solo beat; turn: first beat */
	/* deployment: last beat that named a turn; turn: its fence */
	pg_atomic_uint64 named;
	pg_atomic_uint64 cache;		/* generation << 32 | owed */
	pg_atomic_uint32 generation;	/* of a deployment */
	pg_atomic_uint32 cached_at;
	uint32		next;			/* in the chain; 0 = none */
	uint16		database;		/* slot number, for reclaiming and counting */
	uint8		incarnation;	/* of the slot, which changes hands */
	uint8		used:1;
	uint8		is_turn:1;
	uint8		moving:6;		/* hand-overs that are about to commit */
} pg_attribute_aligned(64) TlLease;

StaticAssertDecl(sizeof(TlLease) == 64, "a lease is one cache line");

#define TL_LEASE_PARTITIONS	128
#define TL_LEASES_PER_PAGE	60
#define TL_PAGE_UNITS		64	/* of the size of a lease */

/*
 * A session that was just switched to waits for the translation of an address
 * and for each line of memory that it touches.  So each key has one place, its
 * home, on the page of the deployment; the lease of a turn and that of its
 * deployment share the page.  A lease whose home another one has taken is in
 * the chain of the key's bucket, and stands on any page.
 */
typedef struct TlLeasePage
{
	uint64		taken;			/* a bit for each lease, under free_mutex */
	uint32		buckets[TL_LEASES_PER_PAGE];
	TlLease		leases[TL_LEASES_PER_PAGE];
} TlLeasePage;

StaticAssertDecl(sizeof(TlLeasePage) == TL_PAGE_UNITS * sizeof(TlLease), "leases are units of pages");

typedef struct TlLeaseTable
{
	slock_t		free_mutex;		/* guards the next, and the list "full" */
	uint32		used;
	uint32		reclaim_hand;	/* the worker's, see tl_lease_reclaim */
	LWLockPadded partitions[TL_LEASE_PARTITIONS];
	/* a bit for each page, set where there is no room */
	uint64		full[FLEXIBLE_ARRAY_MEMBER];
} TlLeaseTable;

/* Where everything is; "table" is NULL without preload. */
typedef struct TlLeases
{
	TlLeaseTable *table;
	TlLeasePage *pages;
	uint32		npartitions;
	uint32		pages_each;		/* of a partition */
} TlLeases;

extern TlLeases tl_leases;

/* the caller holds the partition exclusively; NULL if the table is full */
extern TlLease *tl_lease_make(TlLeaseKey deployment, TlLeaseKey key);
extern void tl_lease_remove(TlLease *lease);

extern Size tl_lease_shmem_size(void);
extern void tl_lease_shmem_startup(int tranche);

/* for the worker: drop up to n leases that have been silent since that time */
extern void tl_lease_reclaim(int n, int64 silent_since);
/* how many leases of this database beat since that time, counted up to max */
extern int	tl_lease_count_since(int64 since, int max);
extern int	tl_lease_used(void);

/* which of n: a hash of 32 bits is a fraction of 2^32 */
#define tl_lease_share(hash, n)	((uint32) (((uint64) (uint32) (hash) * (n)) >> 32))

static inline uint32
tl_lease_partition_number(TlLeaseKey key)
{
	return tl_lease_share(key.h1, tl_leases.npartitions);
}

static inline LWLock *
tl_lease_partition(TlLeaseKey key)
{
	return &tl_leases.table->partitions[tl_lease_partition_number(key)].lock;
}

/* The buckets of a deployment's turns are spread over its partition's pages. */
static inline uint32
tl_lease_page(TlLeaseKey key)
{
	return tl_lease_partition_number(key) * tl_leases.pages_each +
		tl_lease_share((key.h1 >> 32) ^ key.h2, tl_leases.pages_each);
}

/* where on its page a key has its home and its bucket */
static inline uint32
tl_lease_place(TlLeaseKey key)
{
	return tl_lease_share(key.h2 >> 32, TL_LEASES_PER_PAGE);
}

static inline TlLease *
tl_lease_home(TlLeaseKey deployment, TlLeaseKey key)
{
	return &tl_leases.pages[tl_lease_page(deployment)].leases[tl_lease_place(key)];
}

static inline uint32 *
tl_lease_bucket(TlLeaseKey key)
{
	return &tl_leases.pages[tl_lease_page(key)].buckets[tl_lease_place(key)];
}

/* A lease's number is its place in memory; that of a page's head is none. */
static inline TlLease *
tl_lease_at(uint32 number)
{
	return (TlLease *) tl_leases.pages + number;
}

/*
 * A lease of another partition may stand at the home, and a backend may write
 * its key meanwhile: h1 of that key is never the one that the caller has
 * locked.  A lease that is removed loses its key under the partition's lock.
 */
static inline TlLease *
tl_lease_find(TlLeaseKey deployment, TlLeaseKey key)
{
	TlLease    *lease = tl_lease_home(deployment, key);
	uint32		i;

	if (tl_lease_key_equal(lease->key, key))
		return lease;
	for (i = *tl_lease_bucket(key); i != 0; i = lease->next)
	{
		lease = tl_lease_at(i);
		if (tl_lease_key_equal(lease->key, key))
			return lease;
	}
	return NULL;
}

/* Ask the memory for a lease that will be wanted soon. */
static pg_attribute_always_inline void
tl_lease_prefetch(TlLeaseKey deployment, TlLeaseKey key, bool write)
{
	if (tl_leases.table != NULL)
		tl_prefetch(tl_lease_home(deployment, key), write);
}

#endif							/* TL_LEASE_TABLE_H */
