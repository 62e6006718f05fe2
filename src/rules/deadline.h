/*
 * deadline.h
 *		When a turn lapses, and why: pure functions of a row's times, the
 *		signs of life and the grace that is in force.
 *
 * All times are microseconds of the liveness clock; 0 means that there is none.
 */
#ifndef TL_DEADLINE_H
#define TL_DEADLINE_H

/* the row became visible by COMMIT PREPARED: no sweep has seen it yet */
#define TL_SEEN_UNKNOWN	PG_INT64_MAX

/*
 * An epoch is place << 32 | run: the installation in which the turn was armed,
 * and the run of a server (at one place) in which the row's times were written.
 */
#define tl_epoch_place(epoch)	((uint32) ((uint64) (epoch) >> 32))
#define tl_epoch_run(epoch)		((uint32) (epoch))

/* what of a turn's row decides */
typedef struct TlTimes
{
	int64		epoch;
	int64		begun;			/* first armed: the duration counts from here */
	int64		armed;			/* armed, or armed again */
	int64		seen;			/* it became visible later than it was armed */
	int64		beat;			/* last row-backed beat */
	int64		started;		/* row-backed beat that started it */
	/* withheld: its deadline, which beats do not move */
	int64		frozen;
	int64		suspended;		/* it waits for a human since then */
	int64		wait_until;		/* and for so long at most */
	int64		lapsed;			/* it was offered for rescue then */
	int32		admission_ms;
	int32		silence_ms;
	int32		duration_ms;
	int32		rescue_ms;		/* how long it is offered; 0 = it is not */
	int32		generation;
	char		lapse_code;		/* why it was offered, a TlLapse */
} TlTimes;

/* why a turn was offered for rescue, as its row says it; 0 = it was not */
typedef enum TlLapse
{
	TL_LAPSE_UNRESPONSIVE = 'u',
	TL_LAPSE_NEVER_STARTED = 'n',
	TL_LAPSE_DIED = 'd'
} TlLapse;

/* what shared memory and the process that asks know of the turn */
typedef struct TlSigns
{
	int64		beat;			/* last beat of the deployment */
	int64		solo;			/* its beat that started its only owed turn */
	int64		turn_first;		/* first and last beat that named the turn */
	int64		turn_last;
	int32		fence;			/* the generation of these two; 0 = any */
	/* first look of this process at a row that came late */
	int64		seen;
} TlSigns;

/*
 * A mass silence that calls ended.  The latest comes first; the other is a
 * longer one before it, which may still hold turns that the latest does not
 * concern.
 */
#define TL_GAPS		2
typedef struct TlGap
{
	int64		from;
	int64		to;
} TlGap;

/* what holds for all turns of the database */
typedef struct TlGrace
{
	int64		epoch;			/* of this place and run */
	int64		start;			/* start of the server, or its promotion */
	int64		downtime;		/* before that start */
	/* rows of another run count from their first sight */
	bool		start_is_unsure;
	int64		resumed;		/* sweep was turned on again */
	int64		pause;			/* end of the last pause of server or sweeper */
	int64		restore_grace;
	/* mass silence: many beat before the last call */
	bool		crowd;
	int64		last_call;		/* of any worker */
	TlGap		gaps[TL_GAPS];	/* mass silences that calls ended */
	int64		hold_max;
} TlGrace;

typedef struct TlVerdict
{
	int64		deadline;		/* effective: the turn is live before it */
	/* it lapsed, and the deadline ends its rescue window */
	bool		offered;
	bool		offer;			/* at the deadline it is offered, not failed */
	int64		first_beat;		/* 0 = none */
	int64		last_beat;
	bool		started;
	bool		held;			/* lapsed, but held back (mass silence) */
	TlCode		code;			/* what it is failed with at the deadline */
} TlVerdict;

/* is a lapsed turn of this silence and this deadline held back at that time? */
extern bool tl_is_held(const TlGrace *grace, int64 silence, int64 deadline, int64 now);
extern void tl_deadline(const TlTimes *turn, const TlSigns *signs,
						const TlGrace *grace, int64 now, TlVerdict *verdict);

/*
 * Before a row is rewritten: its times become times of this run.  "seen" is
 * when the calling process first saw a row that came late, 0 if it did not.
 */
extern void tl_times_adopt(TlTimes *times, const TlGrace *grace, int64 seen, int64 now);

/* what a turn that was offered is failed with, and the other way round */
extern TlCode tl_code_of_lapse(char lapse);
extern char tl_lapse_of_code(TlCode code);

/* when a sweep must look at the row next, if no beat comes */
extern int64 tl_times_next_check(const TlTimes *times);
/* the same of a turn that lives, once it was judged */
extern int64 tl_next_look(const TlTimes *times, const TlVerdict *verdict, int64 now);

#endif							/* TL_DEADLINE_H */
