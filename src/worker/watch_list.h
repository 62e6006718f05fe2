/*
 * watch_list.h
 *		The worker's watch list: which owed turn to look at when.
 */
#ifndef TL_WATCH_LIST_H
#define TL_WATCH_LIST_H

#include "shared/mailbox.h"
#include "turns/sweep_batch.h"

extern void tl_watch_list_reset(int64 now);
/* watch this row from now on; late: it is known to be first seen only now */
extern void tl_watch_list_add(const TlWatch *watch, bool late, int64 now);
/* its turn ended: watch it no more */
extern void tl_watch_list_remove(const TlEnded *ended);
/* up to max rows that may have lapsed; those that live are filed again */
extern int	tl_watch_list_take_expired(int64 now, const TlGrace *grace, TlSweepItem *items, int max);
/* what became of an item that the list gave out */
extern void tl_watch_list_settle(const TlSweepItem *item, int64 now);
/* when there is something to look at; at most a second ahead */
extern int64 tl_watch_list_next(int64 now);
/* the longest turn deadline of a row that was watched */
extern int32 tl_longest_silence_ms;
/* read all owed rows, in a transaction of the worker; how long it took */
extern int64 tl_watch_list_scan(void);

#endif							/* TL_WATCH_LIST_H */
