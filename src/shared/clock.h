/*
 * clock.h
 *		The liveness clock: the only place where time enters; and what holds
 *		lapses back for a whole database (grace.c).
 */
#ifndef TL_CLOCK_H
#define TL_CLOCK_H

#include "datatype/timestamp.h"

#include "rules/deadline.h"

/* microseconds of the liveness clock of this database */
extern int64 tl_clock_now(void);
/* the same for a sweep: at the last tick, while the clock stands still */
extern int64 tl_clock_sweep_time(void);
/* for an arm, or a session's end: greater than every time given out before */
extern int64 tl_clock_arm_stamp(void);
/* the clock at the start of the server, or at its promotion; 0 in recovery */
extern int64 tl_clock_server_start(void);
/* how long the server was down, or recovered, before that start */
extern int64 tl_clock_downtime(void);
/* place and run in which a row's times are written: see rules/deadline.h */
extern int64 tl_clock_epoch(void);
/* the wall clock at a time of the liveness clock */
extern TimestampTz tl_clock_to_wall(int64 us, int64 now);

/* microseconds of the machine's monotonic clock */
extern int64 tl_monotonic(void);
/* microseconds since the worker's last tick; -1: no worker ticks */
extern int64 tl_clock_tick_age(void);

/* for the worker: take the clock, tick at least once a second, release it */
extern void tl_clock_acquire(void);
extern int64 tl_clock_tick(void);
extern void tl_clock_keep_ticking(void);	/* in loops that may be long */
extern void tl_clock_release(void);

extern void tl_clock_shmem_startup(void);

/* a worker called: the path of the workers to the database lives */
extern void tl_grace_note_call(int64 now);
/* the grace that is in force now */
extern void tl_grace_get(TlGrace *grace);
/* for sweeps, the worker's each second: watch for mass silence, sweep = off */
extern void tl_grace_watch(int64 now);

#endif							/* TL_CLOCK_H */
