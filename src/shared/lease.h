/*
 * lease.h
 *		Beats in shared memory, and the verdicts that are remembered with them.
 */
#ifndef TL_LEASE_H
#define TL_LEASE_H

#include "rules/deadline.h"

/* who beats: a deployment, or one turn of it (same h1, so same partition) */
typedef struct TlLeaseKey
{
	uint64		h1;
	uint64		h2;
} TlLeaseKey;

typedef enum TlBeat
{
	TL_BEAT_ABSENT,				/* there is no lease: nothing was recorded */
	TL_BEAT_PROBE,				/* recorded; ask the table what is owed */
	TL_BEAT_KNOWN				/* recorded, and the count is known */
} TlBeat;

extern Size tl_lease_shmem_size(void);
extern void tl_lease_shmem_startup(int tranche);

extern TlLeaseKey tl_lease_key(const char *deployment, int len);
extern TlLeaseKey tl_lease_turn_key(TlLeaseKey deployment, const char *message_id, int len);

/*
 * A lease that will be wanted soon costs two trips to memory, one after the
 * other: a batch asks for the bucket well ahead, and for the lease a little later.
 */
extern void tl_lease_prefetch_bucket(TlLeaseKey key);
extern void tl_lease_prefetch(TlLeaseKey key);

/* a beat; the generation is what tl_lease_found wants back */
extern TlBeat tl_lease_beat(TlLeaseKey deployment, int64 now, uint32 *generation, int32 *owed);
extern TlBeat tl_lease_beat_turn(TlLeaseKey deployment, TlLeaseKey turn, int64 now,
								 uint32 *generation);
/* make the lease and record the beat; false if the table is full */
extern bool tl_lease_enter(TlLeaseKey deployment, TlLeaseKey turn, int64 now);

/*
 * What a probe found.  False if the generation has moved meanwhile, or the lease
 * of a turn that is owed has gone: beat and probe again.  A count is remembered only if keep is set; 0 removes the lease.
 */
extern bool tl_lease_found(TlLeaseKey deployment, uint32 generation, int32 owed,
						   int64 sole_armed, int64 now, bool keep);
extern bool tl_lease_found_turn(TlLeaseKey deployment, TlLeaseKey turn,
								uint32 generation, bool owed, bool keep);

extern void tl_lease_start_turn(TlLeaseKey deployment, TlLeaseKey turn, int64 armed, int64 now);
extern void tl_lease_read(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs);
/* the sweep: true if the turn has lapsed, and is condemned until decided */
extern bool tl_lease_condemn(TlLeaseKey deployment, TlLeaseKey turn,
							 const TlTimes *times, const TlGrace *grace,
							 int64 now, int64 seen, int64 died,
							 TlVerdict *verdict);
extern void tl_lease_decided(void);
extern bool tl_lease_is_condemned(TlLeaseKey turn);

/* a commit changed what the deployment owes; served: nothing is owed any more */
extern void tl_lease_moved(TlLeaseKey deployment, bool served, uint32 generation);
/* before it: the count that is known, and its generation */
extern int32 tl_lease_known(TlLeaseKey deployment, uint32 *generation);
extern void tl_lease_remove_turn(TlLeaseKey deployment, TlLeaseKey turn);
extern void tl_lease_move_database(void);

/* for the worker: drop up to n leases that have been silent since that time */
extern void tl_lease_reclaim(int n, int64 silent_since);
/* a slot is given to another database: the leases of the last one go */
extern void tl_lease_clear_slot(int slot);
/* how many leases of this database beat since that time, counted up to max */
extern int	tl_lease_count_since(int64 since, int max);
extern int	tl_lease_used(void);

#endif							/* TL_LEASE_H */
