/*
 * lease.h
 *		Beats in shared memory, and the counts of owed turns that are
 *		remembered with them.
 */
#ifndef TL_LEASE_H
#define TL_LEASE_H

#include "rules/deadline.h"

/* a deployment, or one turn of it (same h1, so same partition) */
typedef struct TlLeaseKey
{
	uint64		h1;
	uint64		h2;
} TlLeaseKey;

#define tl_lease_key_equal(a, b)	((a).h1 == (b).h1 && (a).h2 == (b).h2)

typedef enum TlBeat
{
	TL_BEAT_ABSENT,				/* there is no lease: nothing was recorded */
	TL_BEAT_PROBE,				/* recorded; ask the table what is owed */
	TL_BEAT_KNOWN				/* recorded, and the count is known */
} TlBeat;

/*
 * lease_table.c
 */
extern Size tl_lease_shmem_size(void);
extern void tl_lease_shmem_startup(int tranche);

extern TlLeaseKey tl_lease_key(const text *deployment);
extern TlLeaseKey tl_lease_turn_key(TlLeaseKey deployment, const text *message_id);

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

/*
 * lease.c
 */
/* a beat; the generation is what tl_lease_found wants back */
extern TlBeat tl_lease_beat(TlLeaseKey deployment, int64 now, uint32 *generation, int32 *owed);
extern TlBeat tl_lease_beat_turn(TlLeaseKey deployment, TlLeaseKey turn, int64 now,
								 uint32 *generation);
/* make the lease and record the beat; false if the table is full */
extern bool tl_lease_enter(TlLeaseKey deployment, TlLeaseKey turn, int64 now);

/*
 * Note what a probe found.  False if the generation has moved meanwhile, or
 * the lease of a turn that is owed has gone: the caller beats and probes
 * again.  A count is remembered only if keep is set; 0 removes the lease.
 */
extern bool tl_lease_found(TlLeaseKey deployment, uint32 generation, int32 owed,
						   int64 sole_armed, int64 now, bool keep);
extern bool tl_lease_found_turn(TlLeaseKey deployment, TlLeaseKey turn,
								uint32 generation, bool owed, bool keep);

extern void tl_lease_start_turn(TlLeaseKey deployment, TlLeaseKey turn, int64 armed, int64 now);
extern void tl_lease_read(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs);
/* the last beat of the deployment, or of any turn of it; 0 if there is none */
extern int64 tl_lease_last_beat(TlLeaseKey deployment);

/* a commit changed what the deployment owes; served: it owes nothing now */
extern void tl_lease_moved(TlLeaseKey deployment, bool served, uint32 generation);
/* before it: the count that is known, and its generation; 0 if none is known */
extern int32 tl_lease_known(TlLeaseKey deployment, uint32 *generation);
extern void tl_lease_remove_turn(TlLeaseKey deployment, TlLeaseKey turn);
extern void tl_lease_move_database(void);

#endif							/* TL_LEASE_H */
