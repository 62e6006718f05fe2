/*
 * time.pml
 *		When a turn lapses, and whether its worker could have beaten.
 *
 * One turn, in seconds.  Each second our worker ticks and sweeps, unless it or the
 * server is stopped; the turn's worker beats when it likes.  The rules are those
 * of src/rules/deadline.c, the clock is that of src/shared/clock.c.
 *
 * The properties do not know these rules.  They count for how many seconds the
 * turn's worker could have beaten and has not.
 *
 * README.md says how to choose a scenario and a broken variant.
 */

/* what may happen, how often */
#ifndef PAUSES
#define PAUSES		0			/* the server, or the machine, stands still */
#endif
#ifndef STALLS
#define STALLS		0			/* our worker stands still */
#endif
#ifndef RESTARTS
#define RESTARTS	0			/* crash, promotion */
#endif
#ifndef LATE
#define LATE		0			/* seconds for which the arm may stay open */
#endif
#ifndef REARMS
#define REARMS		0			/* arm_turn again */
#endif
#ifndef WAITS
#define WAITS		0			/* suspend_turn */
#endif
#ifndef WINDOW
#define WINDOW		0			/* rescue window */
#endif

/* seconds */
#define SILENCE		3
#ifndef ADMISSION
#define ADMISSION	4
#endif
#ifndef DURATION
#define DURATION	7
#endif
#define MAX_WAIT	4
#define REACH		2			/* how far a tick lets the clock go */
#define LONGEST		3			/* of a pause or a stall */
#define STEP		3			/* back, of the wall clock, while the server is down */
#define BEGIN		10			/* the line when all begins */
#define HORIZON		(DURATION + 2 * MAX_WAIT * WAITS + WINDOW + LATE + \
					 (SILENCE + LONGEST + WINDOW) * (PAUSES + STALLS + 2 * RESTARTS) + 4)

#define min(a, b)	((a) < (b) -> (a) : (b))
#define max(a, b)	((a) > (b) -> (a) : (b))

#define UNRESPONSIVE	1
#define NEVER_STARTED	2
#define TOO_LONG		3
#define WAIT_EXPIRED	4

/* --- The clock */

byte	line = BEGIN;			/* monotonic clock + offset */
byte	limit = BEGIN + REACH;
byte	pause;					/* end of the last one; 0: none */
byte	start;					/* of this run; 0: before all */
byte	downtime;
byte	run_no;
byte	lost;					/* by how much the wall clock is ahead of the line */

#define now			((line) < (limit) -> (line) : (limit))
#define standing	(line > limit)
/* A session that sweeps while the clock stands judges by the last tick. */
#ifdef NO_SWEEP_TIME
/* BROKEN: it judges by the clock as it stands */
#define session_now	now
#else
#define session_now	(line < limit -> line : limit - REACH)
#endif

/* --- The turn's row and lease */

bit		armed_yet, visible, ended;
byte	armed, begun, seen;
byte	row_run;				/* in which the times were written */
bit		suspended;
byte	wait_until, wait_begun;
byte	lapsed_at;				/* offered; 0: not */
byte	beat;					/* the lease; 0: none */
bit		beat_standing;			/* ... and the clock stood still */
bit		beat_before;			/* ... within the second, but before the last arm */

/* --- Within the second */

bit		ticked, swept, beaten, session_swept, stalled;
byte	stall_left;

/* --- What is true */

byte	chance;					/* seconds in which the worker could have beaten */
byte	waited;					/* since it was armed */
byte	total;					/* since it was first armed, without its waits */
byte	since_outage = SILENCE;	/* the end of the last pause, stall or restart */
byte	in_wait;				/* since it was suspended */
byte	offered;				/* since it was offered, without a sign of life */
byte	no_tick;				/* since our worker ticked */
byte	ran;
bit		on_offer;				/* ... which no sign of life has ended */
bit		ever;					/* it has beaten since it was armed */
bit		outage;					/* one since it was armed, or it was armed late */
bit		imprecise;				/* a restart: the row cannot know of the pauses before */

/* Beyond what a property asks for, it makes no difference how many. */
inline count(v, by, enough)
{
	v = (v + (by) > (enough) -> (enough) : v + (by))
}

/* --- The rules */

byte	j_armed, j_begun, j_deadline, j_long, j_code;
bit		j_other, j_started, j_flight;

#ifdef STILL_CLOCK
/* BROKEN: what has the same time is not counted, though the clock stands */
#define not_after(a, b)	(a < b)
#else
#define not_after(a, b)	(a <= b)
#endif

inline floor_for(by)
{
	if
	:: by != 0 ->
		j_deadline = (not_after(j_armed, by) -> max(j_deadline, by + SILENCE) : j_deadline);
		j_long = (not_after(j_begun, by) -> max(j_long, by + SILENCE) : j_long)
	:: else
	fi
}

/* Caller is a d_step. */
inline judge(grace_pause)
{
	j_other = (row_run != run_no);
	j_armed = armed;
	j_begun = begun;
	if
	:: j_other ->
		/* translated into this run */
		j_armed = min(armed, start - downtime) + downtime;
		j_begun = min(begun, start - downtime) + downtime
	:: else
	fi;
	if
	:: suspended ->
#ifdef SUSPENDED_BY_SILENCE
		/* BROKEN: a suspended turn is judged like any other */
		j_deadline = max(j_armed + ADMISSION, beat + SILENCE);
#else
		j_deadline = wait_until + (j_other -> downtime : 0);
#endif
		j_code = WAIT_EXPIRED;
#ifndef NO_SUSPENDED_FLOOR
		/* BROKEN without: an outage leaves no time for the answer */
		if
		:: start != 0 && j_other -> j_deadline = max(j_deadline, start + SILENCE)
		:: else
		fi;
		if
		:: grace_pause != 0 && (j_other || wait_begun <= grace_pause) ->
			j_deadline = max(j_deadline, grace_pause + SILENCE)
		:: else
		fi
#endif
	:: else ->
		j_started = (beat != 0 && !beat_before && (j_other -> beat >= start : beat >= j_armed)
#ifdef STILL_CLOCK
					 && !(beat == j_armed && beat_standing)
#endif
					);
		j_deadline = (j_started -> beat + SILENCE : j_armed + ADMISSION);
		j_long = j_begun + DURATION;
		j_flight = j_other || (start != 0 && j_armed <= start);
#ifndef NO_FLOOR
		/* BROKEN without: what was armed before the start has no floor */
#ifdef REARM_NO_FLOOR
		/* BROKEN: the floor of the duration goes by the last arm */
		if
		:: j_flight -> floor_for(start)
		:: else
		fi;
#else
		floor_for(start);
#endif
#endif
		if
		:: !j_flight && seen != 0 -> j_deadline = max(j_deadline, seen + SILENCE)
		:: else
		fi;
#ifdef GRACE_RAW
		/* BROKEN: the times of another run are compared as they are */
		j_armed = armed;
		j_begun = begun;
#endif
#ifndef NO_PAUSE_GRACE
		/* BROKEN without: a pause leaves no time to beat */
		floor_for(grace_pause);
#endif
		j_code = (j_started || j_flight -> UNRESPONSIVE : NEVER_STARTED);
		if
		:: j_long <= j_deadline -> j_deadline = j_long; j_code = TOO_LONG
		:: else
		fi
	fi;
	j_armed = 0;
	j_begun = 0;
	j_long = 0;
	j_other = 0;
	j_started = 0;
	j_flight = 0
}

inline forget_judgement()
{
	j_deadline = 0;
	j_code = 0
}

/* Before a row is written its times become times of this run. */
inline adopt()
{
	if
	:: row_run != run_no ->
		armed = min(armed, start - downtime) + downtime;
		begun = min(begun, start - downtime) + downtime;
		wait_begun = (suspended -> min(wait_begun, start - downtime) + downtime : 0);
		wait_until = (suspended -> wait_until + downtime : 0);
		lapsed_at = 0;
		seen = 0;
		row_run = run_no;
		downtime = 0
	:: else
	fi
}

inline fail_turn()
{
	printf("%d: fails the turn with code %d (line %d)\n", _pid, j_code, now);
	if
	:: j_code == UNRESPONSIVE || j_code == NEVER_STARTED ->
		/* PROPERTY: a worker that could beat for less than a deadline is not failed */
		assert(chance >= SILENCE || (!ever && !outage && chance >= ADMISSION));
		/* PROPERTY: nor one that has its admission yet */
		assert(ever || outage || waited >= ADMISSION);
		/* PROPERTY: it was offered for its whole window */
		assert(WINDOW == 0 || offered >= WINDOW);
		assert(!suspended)
	:: j_code == TOO_LONG ->
		/* PROPERTY: nor for its duration, right after an outage */
		assert(since_outage >= SILENCE);
		assert(imprecise || total >= DURATION)
	:: else ->
		/* PROPERTY: a wait is as long as was said, and not over right after an outage */
		assert(suspended && since_outage >= SILENCE);
		assert(imprecise || in_wait >= MAX_WAIT)
	fi;
	ended = 1;
	lapsed_at = 0;
	beat = 0;
	chance = 0;
	waited = 0;
	total = 0;
	in_wait = 0;
	on_offer = 0;
	offered = 0
}

#ifdef STALE_OFFER
/* BROKEN: an offer of an earlier lapse counts for this one */
#define offer_counts	(lapsed_at != 0)
#else
#define offer_counts	(lapsed_at != 0 && row_run == run_no && lapsed_at >= j_deadline)
#endif

inline sweep(t, grace_pause)
{
	d_step
	{
		if
		:: visible && !ended && r == run_no ->
			judge(grace_pause);
			if
			:: j_deadline <= t ->
				if
				:: WINDOW == 0 || j_code == TOO_LONG || j_code == WAIT_EXPIRED -> fail_turn()
				:: else ->
					if
					:: offer_counts ->
						if
						:: lapsed_at + WINDOW <= t -> fail_turn()
						:: else
						fi
					:: else ->
						printf("%d: offers the turn (line %d)\n", _pid, t);
						adopt();
						lapsed_at = t;
						on_offer = 1;
						offered = now - t
					fi
				fi
			:: else
			fi;
			forget_judgement()
		:: else
		fi
	}
}

/* --- Our worker */

active proctype Ticker()
{
	byte	t, r;

	do
	:: d_step
		{
			!ticked && !stalled ->
			if
			:: line > limit ->
				printf("the clock stood still for %d s\n", line - limit);
#ifdef WALL_CLOCK
				/* BROKEN: the clock goes on while nobody can beat */
				skip
#else
				lost = lost + (line - limit);
				line = limit;
				pause = limit
#endif
			:: else
			fi;
			limit = line + REACH;
			ticked = 1;
			/* what it judges by is the time of this tick */
			t = line;
			r = run_no;
			if
			:: no_tick > REACH ->
				chance = 0;
				since_outage = 0;
				outage = 1
			:: else
			fi;
			no_tick = 0
		};
	:: ticked && !swept && !stalled ->
#ifdef CLOCK_AFTER_TICK
		/* BROKEN: it reads the clock once more, and has perhaps stood still since */
		d_step { t = now; r = run_no };
#endif
		sweep(t, pause);
		d_step { t = 0; swept = (r == run_no) }
	:: ended || ran >= HORIZON -> break
	od
}

#ifdef SESSION_SWEEPS
/* A gateway that calls sweep_expired_turns(). */
active proctype Session()
{
	byte	t, p, r;

	do
	:: atomic { !session_swept && visible && !ended -> session_swept = 1 };
#ifdef GRACE_FIRST
		/* BROKEN: it reads the grace, then the clock */
		p = pause;
		d_step { t = session_now; r = run_no };
		sweep(t, p);
#else
		d_step { t = session_now; r = run_no };
		sweep(t, pause);
#endif
		d_step { t = 0; p = 0; r = 0 }
	:: ended || ran >= HORIZON -> break
	od
}
#endif

/* --- The turn's worker, and its gateway */

active proctype Agent()
{
	do
	:: d_step
		{
			!beaten && visible && !ended ->
			printf("a beat (line %d)\n", now);
			beaten = 1;
			beat = now;
			beat_standing = standing;
			beat_before = 0;
			ever = 1;
			chance = 0;
			on_offer = 0;
			offered = 0
		}
	:: ended || ran >= HORIZON -> break
	od
}

active proctype Gateway()
{
	byte	rearms, waits;

	d_step
	{
		printf("the arm is called (line %d)\n", now);
		armed_yet = 1;
		armed = now;
		begun = now;
		row_run = run_no
	};
	d_step
	{
		printf("the arm is visible (line %d)\n", now);
		visible = 1;
#ifndef NO_SEEN
		/* BROKEN without: what was visible late is not told from what lapsed */
		seen = (now > armed -> now : 0);
#endif
		outage = outage || (now > armed);
		chance = 0
	};
	do
#if REARMS > 0
	:: d_step
		{
			!ended && rearms < REARMS ->
			printf("armed again (line %d)\n", now);
			rearms++;
			adopt();
			armed = now;
			beat_before = (beat == armed);
			seen = 0;
			lapsed_at = 0;
			on_offer = 0;
			offered = 0;
			chance = 0;
			waited = 0;
			ever = 0;
			outage = standing
		}
#endif
#if WAITS > 0
	:: d_step
		{
			!ended && !suspended && waits < WAITS ->
			printf("suspended (line %d)\n", now);
			waits++;
			adopt();
			suspended = 1;
			wait_begun = now;
			wait_until = now + MAX_WAIT;
			lapsed_at = 0;
			on_offer = 0;
			offered = 0;
			in_wait = 0
		}
	:: d_step
		{
			!ended && suspended ->
			printf("resumed (line %d)\n", now);
			adopt();
			suspended = 0;
			begun = begun + (now - wait_begun);
			armed = now;
			beat_before = (beat == armed);
			seen = 0;
			wait_begun = 0;
			wait_until = 0;
			in_wait = 0;
			chance = 0;
			waited = 0;
			ever = 0;
			outage = standing
		}
#endif
	:: ended || ran >= HORIZON -> break
	od
}

/* --- Time, which may stand still for some */

/*
 * Some seconds go by.  In a pause nobody can beat, but the clock may go on until
 * it is at its limit: that is its resolution.
 */
inline pass(s, counts)
{
	gain = (counts || no_tick + s <= REACH -> s : (no_tick < REACH -> REACH - no_tick : 0));
	could = (counts -> s : 0);
	line = line + s;
	count(no_tick, s, REACH + 1);
	ran = ran + s;
	if
	:: armed_yet && !ended ->
		if
		:: !suspended ->
			count(chance, could, SILENCE);
			count(waited, gain, ADMISSION);
			count(total, gain, DURATION)
		:: else -> count(in_wait, gain, MAX_WAIT)
		fi;
		if
		:: on_offer -> count(offered, gain, WINDOW)
		:: else
		fi
	:: else
	fi;
	gain = 0;
	could = 0;
	if
	:: counts -> count(since_outage, s, SILENCE)
	:: else
	fi
}

active proctype Time()
{
	byte	pauses, stalls, restarts, s, step, gain, could;

	do
	:: d_step
		{
			/* a second in which all run that are not stopped */
			armed_yet && !ended && ran < HORIZON && (stalled -> stall_left > 0 : (ticked && swept)) &&
			(armed_yet && !visible -> line < armed + LATE : 1) ->
			pass(1, 1);
			if
			:: stalled -> stall_left--
			:: else
			fi;
			ticked = 0;
			swept = 0;
			beaten = 0;
			session_swept = 0
		}
#if PAUSES > 0
	:: atomic
		{
			!ended && visible && !stalled && pauses < PAUSES ->
			pauses++;
			if
			:: s = 1
			:: s = LONGEST
			fi;
			d_step
			{
				printf("the server stands still for %d s\n", s);
				if
				:: no_tick + s > REACH -> pass(s, 0)
				:: else -> pass(s, 1)
				fi;
				ticked = 0;
				swept = 0;
				beaten = 0;
				session_swept = 0;
				s = 0
			}
		}
#endif
#if STALLS > 0
	:: d_step
		{
			armed_yet && !ended && !stalled && stalls < STALLS ->
			printf("our worker stands still\n");
			stalls++;
			stalled = 1;
			stall_left = LONGEST
		}
	:: d_step
		{
			stalled ->
			printf("our worker goes on\n");
			stalled = 0;
			stall_left = 0
		}
#endif
#if RESTARTS > 0
	:: atomic
		{
			!ended && visible && !stalled && restarts < RESTARTS ->
			restarts++;
			/* seconds of downtime, and a step back of the wall clock meanwhile */
			if
			:: s = 0
			:: s = 2
			fi;
			if
			:: step = 0
			:: step = STEP
			fi;
			d_step
			{
				imprecise = imprecise || lost > 0 || line > limit || row_run != run_no;
				/* the control file tells the wall clock of the end */
				downtime = line + lost;
				start = downtime + s - step;
				downtime = (start > downtime -> start - downtime : 0);
				imprecise = imprecise || step != 0;
				line = start;
				limit = start + REACH;
				lost = 0;
				pause = 0;
				run_no++;
				printf("the server starts again after %d s (line %d)\n", s, start);
				beat = 0;
				beat_before = 0;
				chance = 0;
				since_outage = 0;
				outage = 1;
				no_tick = 0;
				ticked = 0;
				swept = 0;
				beaten = 0;
				session_swept = 0;
				s = 0;
				step = 0
			}
		}
#endif
	:: ended || ran >= HORIZON -> break
	od;
	/* PROPERTY: every armed turn ends */
	assert(ended)
}
