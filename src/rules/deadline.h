/*
 * deadline.h
 *		When a turn lapses, and why: a pure function of a row, the signs of
 *		life and the grace that is in force.
 */
#ifndef TL_DEADLINE_H
#define TL_DEADLINE_H

/* became visible by COMMIT PREPARED: whoever sweeps first notes the time */
#define TL_SEEN_UNKNOWN	PG_INT64_MAX

/* what of a turn's row decides; microseconds of the liveness clock, 0 = none */
typedef struct TlTimes
{
	int64		epoch;
	int64		begun;
	int64		armed;
	int64		seen;			/* it became visible later than it was armed */
	int64		beat;			/* row-backed beats */
	int64		started;
	int64		frozen;			/* withheld: beats do not count */
	int32		admission_ms;
	int32		silence_ms;
	int32		duration_ms;
} TlTimes;

/* what the leases say; 0 = nothing */
typedef struct TlSigns
{
	int64		beat;			/* last beat of the deployment */
	int64		solo;			/* its beat that started the only turn it owed */
	int64		turn_first;		/* first and last beat that named the turn */
	int64		turn_last;
} TlSigns;

/* what holds for all turns of the database */
typedef struct TlGrace
{
	int64		epoch;
	int64		start;			/* start of the server */
	int64		resumed;		/* sweep was turned on again; 0 = never off */
	int64		pause;			/* end of the last pause of server or sweeper; 0 = none */
	int64		restore_grace;
	bool		silent;			/* mass silence: see grace.c */
	int64		hold_until;
	int64		hold_max;
} TlGrace;

typedef struct TlVerdict
{
	int64		deadline;		/* effective: the turn is live before it */
	int64		first_beat;		/* 0 = none */
	int64		last_beat;
	bool		started;
	bool		held;			/* lapsed, but held back (mass silence) */
	const char *code;			/* what it is failed with at the deadline */
} TlVerdict;

extern void tl_deadline(const TlTimes *turn, const TlSigns *signs,
						const TlGrace *grace, int64 now, TlVerdict *verdict);

#endif							/* TL_DEADLINE_H */
