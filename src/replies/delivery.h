/*
 * delivery.h
 *		From stored to delivered: what others need of it.
 */
#ifndef TL_DELIVERY_H
#define TL_DELIVERY_H

#include "store/rel.h"

/* the next platform (NULL: the first) that has open replies; frees this one */
extern text *tl_delivery_next_platform(TlRel *deliveries, text *platform, Snapshot snapshot);

/*
 * Note for the listeners what became due again after one time and until the
 * other; *next is when the next reply will, PG_INT64_MAX for never.  False, and
 * nothing is done, if the caller does not wait and the table is locked.
 */
extern bool tl_delivery_due_again(int64 after, int64 until, bool wait, int64 *next);

#endif							/* TL_DELIVERY_H */
