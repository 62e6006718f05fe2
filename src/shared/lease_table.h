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

#define TL_LEASE_PARTITIONS	128

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
	uint32		next;			/* in the chain or the free list; 0 = none */
	uint16		database;		/* slot number, for reclaiming and counting */
	uint8		incarnation;	/* of the slot, which changes hands */
	uint8		used:1;
	uint8		is_turn:1;
	uint8		moving:6;		/* hand-overs that are about to commit */
} pg_attribute_aligned(64) TlLease;

StaticAssertDecl(sizeof(TlLease) == 64, "a lease is one cache line");

typedef struct TlLeaseTable
{
	slock_t		free_mutex;		/* guards the next three */
	uint32		free_head;
	uint32		fresh;			/* leases up to this one have been in use */
	uint32		used;
	uint32		reclaim_hand;	/* the worker's, see tl_lease_reclaim */
	LWLockPadded partitions[TL_LEASE_PARTITIONS];
	TlLease		leases[FLEXIBLE_ARRAY_MEMBER];	/* none has the number 0 */
} TlLeaseTable;

/* NULL without preload */
extern TlLeaseTable *tl_lease_table;
extern uint32 *tl_lease_buckets;
extern uint32 tl_lease_bucket_mask;

/* the caller holds the partition exclusively; NULL if the table is full */
extern TlLease *tl_lease_make(TlLeaseKey key, bool is_turn);
extern void tl_lease_remove(TlLease *lease);

extern Size tl_lease_shmem_size(void);
extern void tl_lease_shmem_startup(int tranche);

/*
 * A lease that will be wanted soon costs two trips to memory, one after the
 * other: a batch asks for the bucket well ahead, and for the lease a little
 * later.
 */
extern void tl_lease_prefetch_bucket(TlLeaseKey key);
extern void tl_lease_prefetch(TlLeaseKey key);

/* for the worker: drop up to n leases that have been silent since that time */
extern void tl_lease_reclaim(int n, int64 silent_since);
/* how many leases of this database beat since that time, counted up to max */
extern int	tl_lease_count_since(int64 since, int max);
extern int	tl_lease_used(void);

static inline LWLock *
tl_lease_partition(TlLeaseKey key)
{
	return &tl_lease_table->partitions[key.h1 % TL_LEASE_PARTITIONS].lock;
}

static inline uint32 *
tl_lease_bucket(TlLeaseKey key)
{
	/* the low bits choose the partition, so a bucket is in one partition */
	uint32		spread = (uint32) ((key.h1 >> 32) ^ key.h2) & ~(uint32) (TL_LEASE_PARTITIONS - 1);

	return &tl_lease_buckets[(spread | (uint32) (key.h1 % TL_LEASE_PARTITIONS)) & tl_lease_bucket_mask];
}

static inline TlLease *
tl_lease_find(TlLeaseKey key)
{
	TlLease    *leases = tl_lease_table->leases;
	uint32		i;

	for (i = *tl_lease_bucket(key); i != 0; i = leases[i].next)
		if (tl_lease_key_equal(leases[i].key, key))
			return &leases[i];
	return NULL;
}

#endif							/* TL_LEASE_TABLE_H */
