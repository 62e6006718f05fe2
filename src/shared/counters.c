/*
 * counters.c
 *		What stat counts.
 *
 * Each counter has a copy in each stripe, so that sessions seldom share a cache
 * line.  A session adds to the stripe that its pid chooses, and takes no lock.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "shared/counters.h"

TL_HOT void
tl_counter_add(TlCounter counter, uint64 n)
{
	TlDatabase *db = tl_database();

	if (db != NULL && n > 0)
		pg_atomic_fetch_add_u64(&db->stripes[MyProcPid % TL_STRIPES].counters[counter], n);
}

uint64
tl_counter_read(TlDatabase *db, TlCounter counter)
{
	uint64		sum = 0;
	int			i;

	for (i = 0; i < TL_STRIPES; i++)
		sum += pg_atomic_read_u64(&db->stripes[i].counters[counter]);
	return sum;
}

/* Calls that count at this very moment may come through. */
void
tl_counters_reset(TlDatabase *db)
{
	int			i;
	int			j;

	for (i = 0; i < TL_STRIPES; i++)
		for (j = 0; j < TL_NCOUNTERS; j++)
			pg_atomic_write_u64(&db->stripes[i].counters[j], 0);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db->stats_reset = GetCurrentTimestamp();
	LWLockRelease(&tl_shared->directory);
}
