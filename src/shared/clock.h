/*
 * clock.h
 *		The liveness clock: microseconds in which the server ran.
 */
#ifndef TL_CLOCK_H
#define TL_CLOCK_H

#include "datatype/timestamp.h"

struct TlDatabase;

/* the time; reads tables when the clock of the database is not up yet */
extern int64 tl_clock_now(void);
/* the clock at the start of the server; grace counts from there */
extern int64 tl_clock_server_start(void);
/* which home and which start of the server a row that is armed now belongs to */
extern int64 tl_epoch(void);
/* the wall clock's name for a time of the liveness clock */
extern TimestampTz tl_wall_clock(int64 us, int64 now);

/* microseconds of the machine's monotonic clock */
extern int64 tl_monotonic(void);

/* for the worker: take over, tick (at least once a second), hand back */
extern void tl_clock_take_over(void);
/* or find no extension where that one was */
extern void tl_clock_forget(Oid extension);
/* rows of a restore may have come: go on from their time; true if that moved the clock */
extern bool tl_clock_settle(void);
/* our own row counts alone; times were written here */
extern bool tl_clock_is_settled(void);
extern bool tl_clock_is_used(void);
extern void tl_clock_note_use(struct TlDatabase *db);
/* before the commit of times, of which this is the least that was armed */
extern void tl_clock_keep(int64 least, bool prepare);
extern int64 tl_clock_moved_to(void);
extern int64 tl_clock_tick(void);
/* the same inside of long work that others may do too: only the worker ticks */
extern void tl_clock_tick_on(void);
extern void tl_clock_hand_back(void);
/* for whoever sweeps: write the base into its row, if it is due or if forced */
extern void tl_clock_save(bool force);
/* for whoever sweeps: whether it may; and when that changed last from no to yes */
extern void tl_clock_note_sweep(bool on);
extern int64 tl_clock_resumed(void);

#endif							/* TL_CLOCK_H */
