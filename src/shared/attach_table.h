/*
 * attach_table.h
 *		Which deployments are tied to how many sessions, and when the last of
 *		these sessions ended.
 */
#ifndef TL_ATTACH_TABLE_H
#define TL_ATTACH_TABLE_H

#include "shared/lease_key.h"

/* an attached deployment whose last session ended without detaching it */
typedef struct TlDeath
{
	TlLeaseKey	key;
	int			entry;			/* where it was found */
	int64		attached;		/* liveness clock; the last session that did */
	int64		died;			/* its end */
	char		deployment[TL_MAX_NAME + 1];
} TlDeath;

extern Size tl_attach_shmem_size(void);
extern void tl_attach_shmem_startup(int tranche);

/* count one more session of a deployment; -1 if the table is full */
extern int	tl_attach_add(const text *deployment, TlLeaseKey key, int64 now);
/* a session that is counted attaches again */
extern void tl_attach_again(int entry, int64 now);
/* count one session less, which ended if died > 0; true: it was the last */
extern bool tl_attach_remove(int entry, int64 died);

/* the next death of this database that is that old, if any; *at starts at 0 */
extern bool tl_attach_next_death(int64 before, int *at, TlDeath *death);
/* PG_INT64_MAX if there is none */
extern int64 tl_attach_oldest_death(void);
/* when the deployment's last session ended; 0: it has one, or never had */
extern int64 tl_attach_death_of(TlLeaseKey key, int64 *attached);
extern int	tl_attach_used(void);
/* it was dealt with (or revoked by a beat): forget it unless it changed */
extern void tl_attach_settle(const TlDeath *death);

#endif							/* TL_ATTACH_TABLE_H */
