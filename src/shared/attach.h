/*
 * attach.h
 *		Deployments that are tied to sessions.
 */
#ifndef TL_ATTACH_H
#define TL_ATTACH_H

#include "shared/lease.h"

extern Size tl_attach_shmem_size(void);
extern void tl_attach_shmem_startup(int tranche);

/* what the worker has to look at: an attached deployment whose last session ended */
typedef struct TlDeath
{
	TlLeaseKey	key;
	int			entry;			/* where it was found */
	int64		died;			/* liveness clock */
	char		deployment[TL_MAX_NAME + 1];
} TlDeath;

/* the next death of this database that is that old; *at starts at 0 */
extern bool tl_attach_next_death(int64 before, int *at, TlDeath *death);
extern int64 tl_attach_oldest_death(void);
/* a shutdown of the server ends every session: that is no death */
extern bool tl_attach_is_shutdown(void);
/* it was dealt with (or revoked by a beat): forget it unless it changed */
extern void tl_attach_settle(const TlDeath *death);
/* the extension they concern is gone */
extern void tl_attach_forget_deaths(void);

#endif							/* TL_ATTACH_H */
