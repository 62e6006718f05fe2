/*
 * lease.h
 *		Beats in shared memory, and the counts of owed turns that are
 *		remembered with them.
 */
#ifndef TL_LEASE_H
#define TL_LEASE_H

#include "rules/deadline.h"
#include "shared/lease_key.h"

typedef enum TlBeat
{
	TL_BEAT_ABSENT,				/* there is no lease: nothing was recorded */
	TL_BEAT_PROBE,				/* recorded; ask the table what is owed */
	TL_BEAT_KNOWN				/* recorded, and the count is known */
} TlBeat;

/*
 * A beat that names a turn passes its key, one for the whole deployment the
 * deployment's key again.  A fence is the turn's generation that a worker
 * holds; 0: it names none.  The generation is what tl_lease_found wants back.
 */
extern TlBeat tl_lease_beat(TlLeaseKey deployment, TlLeaseKey turn, int32 fence, int64 now,
							uint32 *generation, int32 *owed);
/* make the lease, and record a beat without a fence; false: no room */
extern bool tl_lease_enter(TlLeaseKey deployment, TlLeaseKey turn, int32 fence, int64 now);

/*
 * Note what a probe found: how many turns are owed, or of a named turn that is
 * owed its generation; the fence, if there is one, is that too.  False if the
 * lease's generation has moved meanwhile, or the lease of a turn that is owed
 * has gone, or a later holder of it has beaten: the caller beats and probes
 * again.  The number is remembered only if keep is set; 0 removes the lease.
 */
extern bool tl_lease_found(TlLeaseKey deployment, TlLeaseKey turn, int32 fence,
						   uint32 generation, int32 owed, int64 armed, int64 now, bool keep);

extern void tl_lease_read(TlLeaseKey deployment, TlLeaseKey turn, TlSigns *signs);
/* the last beat of the deployment, or of any turn of it; 0 if there is none */
extern int64 tl_lease_last_beat(TlLeaseKey deployment);

/*
 * A hand-over is about to commit, or has ended, in whatever way: until then
 * each beat looks at the rows.
 */
extern void tl_lease_announce(TlLeaseKey deployment, bool begins);
/* a commit changed what the deployment owes; served: it owes nothing now */
extern void tl_lease_moved(TlLeaseKey deployment, bool served, uint32 generation);
/* before it: the count that is known, and its generation; 0 if none is known */
extern int32 tl_lease_known(TlLeaseKey deployment, uint32 *generation);
extern void tl_lease_remove_turn(TlLeaseKey deployment, TlLeaseKey turn);
extern void tl_lease_move_database(void);

#endif							/* TL_LEASE_H */
