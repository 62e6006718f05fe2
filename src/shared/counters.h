/*
 * counters.h
 *		What stat counts.
 */
#ifndef TL_COUNTERS_H
#define TL_COUNTERS_H

#include "shared/database.h"

/* counts of this database; a call counts, even if its transaction aborts */
extern void tl_counter_add(TlCounter counter, uint64 n);
extern uint64 tl_counter_read(TlDatabase *db, TlCounter counter);
extern void tl_counters_reset(TlDatabase *db);

#endif							/* TL_COUNTERS_H */
