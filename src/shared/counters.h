/*
 * counters.h
 *		What stat counts.
 */
#ifndef TL_COUNTERS_H
#define TL_COUNTERS_H

#include "port/atomics.h"

#define TL_STRIPES	16			/* copies of each counter */

/* cumulative counters, in the order of the columns of stat_row */
typedef enum TlCounter
{
	TL_COUNT_ARMED,
	TL_COUNT_ANSWERED,
	TL_COUNT_FAILED_UNRESPONSIVE,
	TL_COUNT_FAILED_NEVER_STARTED,
	TL_COUNT_FAILED_DIED,
	TL_COUNT_FAILED_TOO_LONG,
	TL_COUNT_FAILED_OTHER,
	TL_COUNT_DISCHARGED,
	TL_COUNT_LATE,
	TL_COUNT_UNKNOWN,
	TL_COUNT_LATE_DROPPED,
	TL_COUNT_BEATS,
	TL_COUNT_BEATS_IN_ROWS,
	TL_COUNT_SWEEPS,
	TL_COUNT_SWEEP_ERRORS,
	TL_COUNT_NOTIFICATIONS,
	TL_COUNT_CLAIMS,
	TL_COUNT_ACKNOWLEDGED,
	TL_COUNT_REDELIVERIES,
	TL_COUNT_DEAD,
	TL_COUNT_EXPIRED_UNDELIVERED,
	TL_COUNT_WORKER_STARTS,
	TL_NCOUNTERS
} TlCounter;

/*
 * One copy of the counters, in cache lines of its own: each beat counts, and
 * processes on different cores shall not take the line from one another.
 */
typedef struct TlStripe
{
	pg_atomic_uint64 counters[TL_NCOUNTERS];
} pg_attribute_aligned(64) TlStripe;

struct TlDatabase;

/* counts of this database; a call counts, whatever becomes of its transaction */
extern void tl_counter_add(TlCounter counter, uint64 n);
extern uint64 tl_counter_read(struct TlDatabase *db, TlCounter counter);
extern void tl_counters_reset(struct TlDatabase *db);

#endif							/* TL_COUNTERS_H */
