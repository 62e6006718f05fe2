/*
 * deadline.c
 *		When a turn lapses, and why.
 *
 * All rules of time stand here.  The functions are pure: no clock, no table and
 * no shared memory, so that the sweep, the beat, the views and the worker's
 * watch list cannot differ.
 *
 * Times of one run of a server are exact among themselves.  A row that another
 * run wrote (before a restart, on the primary of a promoted standby, on the
 * server of a backup) has times of the same line, for every run is anchored at
 * the wall clock, but how far its clock stood from ours is not known.  So such
 * a row is judged under a floor: nothing of it lapses before one whole turn
 * deadline has passed since this run began, or since a sweeper first saw it.
 */
#include "base/turn_liveness.h"

#include "rules/deadline.h"

/*
 * When was a row that came late first seen: by a sweep of this run that stamped
 * it, by the calling process, or just now?  0 for all other rows.
 */
static int64
first_sight(const TlTimes *times, const TlGrace *grace, int64 seen, int64 now)
{
	bool		other_run = tl_epoch_run(times->epoch) != tl_epoch_run(grace->epoch);
	bool		restored = tl_epoch_place(times->epoch) != tl_epoch_place(grace->epoch);

	if (times->seen != TL_SEEN_UNKNOWN && !other_run)
		return Max(seen, times->seen);
	if (seen == 0 && (times->seen == TL_SEEN_UNKNOWN ||
					  (other_run && (restored || grace->start_is_unsure))))
		return now;
	return seen;
}

/* Move a time that may be none, and may be any. */
static void
move_on(int64 *time, int64 by)
{
	if (*time > 0)
		*time = Min(*time, PG_INT64_MAX - by) + by;
}

/*
 * Translate the times of a row of another run into this run's.  Its beats and
 * looks say nothing here, for the leases of that run are gone.  Downtime right
 * before this run does not count, and no row was armed, suspended or offered
 * after its first sight: the wall clock may have gone back.  That sight stays
 * in the row: as a row of this run it still has its floor.
 */
void
tl_times_adopt(TlTimes *times, const TlGrace *grace, int64 seen, int64 now)
{
	bool		ours = tl_epoch_place(times->epoch) == tl_epoch_place(grace->epoch);
	int64		downtime = ours ? grace->downtime : 0;
	int64		since;
	int64		ahead;

	if (tl_epoch_run(times->epoch) == tl_epoch_run(grace->epoch))
		return;
	seen = first_sight(times, grace, seen, now);
	since = Max(grace->start, seen);
	times->epoch = (int64) ((uint64) tl_epoch_place(times->epoch) << 32 |
							tl_epoch_run(grace->epoch));
	/* the times may be any: the sum must not overflow */
	times->armed = Min(times->armed, since - downtime) + downtime;
	times->begun = Min(times->begun, since - downtime) + downtime;
	/* nor did it begin to wait after that: the clock of that run was ahead */
	ahead = times->suspended - (since - downtime);
	if (times->wait_until > 0 && ahead > 0)
	{
		times->suspended -= ahead;
		times->wait_until = Max(times->wait_until - ahead, 1);
	}
	move_on(&times->frozen, downtime);
	move_on(&times->suspended, downtime);
	move_on(&times->wait_until, downtime);
	/* a beat of that run may have revived it */
	times->lapsed = 0;
	if (times->seen != TL_SEEN_UNKNOWN)
		times->seen = seen;
	times->beat = 0;
	times->started = 0;
}

/*
 * A first beat can bring the deadline forward, to the turn deadline after it,
 * so that is when a sweep looks first.  So can a beat that revives a turn which
 * was offered.  The deadline of a suspended or withheld turn is known.
 */
int64
tl_times_next_check(const TlTimes *times)
{
	if (times->wait_until > 0)
		return times->wait_until;
	if (times->frozen > 0)
		return times->frozen;
	if (times->lapsed > 0)
		return Min(times->lapsed + Min(times->rescue_ms, times->silence_ms) * TL_MS,
				   times->begun + times->duration_ms * TL_MS);
	return Min(times->armed + Min(times->admission_ms, times->silence_ms) * TL_MS,
			   times->begun + times->duration_ms * TL_MS);
}

int64
tl_next_look(const TlTimes *times, const TlVerdict *verdict, int64 now)
{
	bool		fixed = times->wait_until > 0 || times->frozen > 0 ||
		(verdict->started && !verdict->offered);

	return fixed ? verdict->deadline : Min(verdict->deadline, now + times->silence_ms * TL_MS);
}

/*
 * Read the beats that cover the turn: those at or after its arm.  An arm's
 * stamp is greater than every time that was given out before it (clock.c), so a
 * beat that came before the arm is less.  Of a row of another run, every beat
 * of this run counts.
 */
static void
read_beats(const TlTimes *turn, const TlSigns *signs, int64 armed, TlVerdict *verdict)
{
	/* an earlier holder's beats count for nothing */
	bool		named = signs->fence == 0 || signs->fence >= turn->generation;
	int64		first = 0;
	int64		last = 0;

	if (turn->beat >= armed)
		last = turn->beat;
	if (signs->beat >= armed)
		last = Max(last, signs->beat);
	if (named && signs->turn_last >= armed)
		last = Max(last, signs->turn_last);

	/* the beat that started it: the first that named it, or found it alone */
	if (turn->started >= armed)
		first = turn->started;
	if (named && signs->turn_first >= armed && (first == 0 || signs->turn_first < first))
		first = signs->turn_first;
	if (signs->solo >= armed && (first == 0 || signs->solo < first))
		first = signs->solo;

	verdict->first_beat = first;
	verdict->last_beat = Max(first, last);
	verdict->started = first > 0;
}

/*
 * Has no worker given a sign here that it knows of a turn of another place?  A
 * beat that the deployment made before the row was first seen is none.  A beat
 * that the row keeps was written to it here.
 */
static bool
is_unclaimed(const TlTimes *turn, int64 sight, const TlVerdict *verdict)
{
	return verdict->last_beat == 0 || (turn->beat == 0 && verdict->last_beat < sight);
}

/* Nothing that was armed or begun by then lapses before the new floor. */
static void
raise_floor(const TlTimes *turn, int64 by, int64 floor, int64 *deadline, int64 *too_long)
{
	if (turn->armed <= by)
		*deadline = Max(*deadline, floor);
	if (turn->begun <= by)
		*too_long = Max(*too_long, floor);
}

/*
 * An outage of the workers' path to the database is not their death.  Their own
 * calls tell that the path lives.  While none has come for half of the turn's
 * silence deadline, though many deployments beat before, and then for one whole
 * silence deadline after calls came again, the lapse is held back; but for no
 * longer than the hold in all.
 */
bool
tl_is_held(const TlGrace *grace, int64 silence, int64 deadline, int64 now)
{
	bool		silent = grace->crowd && now - grace->last_call >= silence / 2;
	bool		again = false;
	int			i;

	for (i = 0; i < TL_GAPS; i++)
		again |= now < grace->gaps[i].to + silence &&
			grace->gaps[i].to - grace->gaps[i].from >= silence / 2;
	return (silent || again) && deadline <= now && now < deadline + grace->hold_max;
}

TlCode
tl_code_of_lapse(char lapse)
{
	return lapse == TL_LAPSE_DIED ? TL_CODE_DIED :
		lapse == TL_LAPSE_NEVER_STARTED ? TL_CODE_NEVER_STARTED : TL_CODE_UNRESPONSIVE;
}

char
tl_lapse_of_code(TlCode code)
{
	return code == TL_CODE_DIED ? TL_LAPSE_DIED :
		code == TL_CODE_NEVER_STARTED ? TL_LAPSE_NEVER_STARTED : TL_LAPSE_UNRESPONSIVE;
}

void
tl_deadline(const TlTimes *row, const TlSigns *signs, const TlGrace *grace,
			int64 now, TlVerdict *verdict)
{
	TlTimes		turn = *row;
	/* the row keeps intervals that are longer than a later, shorter duration */
	int64		admission = Min(turn.admission_ms, turn.duration_ms) * TL_MS;
	int64		silence = Min(turn.silence_ms, turn.duration_ms) * TL_MS;
	bool		restored = tl_epoch_place(row->epoch) != tl_epoch_place(grace->epoch);
	bool		other_run = tl_epoch_run(row->epoch) != tl_epoch_run(grace->epoch);
	bool		in_flight;		/* it was armed before this run */
	int64		seen;
	int64		sight;			/* the same, if it is known already */
	int64		since;
	int64		deadline;
	int64		too_long;

	seen = first_sight(row, grace, signs->seen, now);
	sight = other_run ? signs->seen : seen;
	since = Max(grace->start, seen);
	tl_times_adopt(&turn, grace, seen, now);
	in_flight = other_run || restored || turn.armed <= grace->start;
	read_beats(&turn, signs, Max(other_run ? grace->start : turn.armed, 1), verdict);

	/* a beat after the offer revives the turn */
	verdict->offered = turn.lapsed > 0 && turn.wait_until == 0 &&
		verdict->last_beat < turn.lapsed;
	if (turn.wait_until > 0)
		deadline = turn.wait_until;
	else if (verdict->offered)
		deadline = turn.lapsed + turn.rescue_ms * TL_MS;
	else if (turn.frozen > 0)
		deadline = turn.frozen;
	else if (verdict->started)
		deadline = verdict->last_beat + silence;
	else
	{
		deadline = turn.armed + admission;
		if (verdict->last_beat > 0)
			deadline = Max(deadline, verdict->last_beat + silence);
	}
	/* while it waits for a human its duration stands still */
	too_long = turn.wait_until > 0 ? PG_INT64_MAX : turn.begun + turn.duration_ms * TL_MS;

	/* grace: beats before the start are lost, so the worker gets a deadline */
	if (in_flight)
		raise_floor(&turn, since, since + silence, &deadline, &too_long);
	else if (seen > 0)
		deadline = Max(deadline, seen + Min(admission, silence));
	if (restored && is_unclaimed(&turn, sight, verdict))
		raise_floor(&turn, since, since + grace->restore_grace, &deadline, &too_long);
	/* begun before the start, and armed again since */
	raise_floor(&turn, grace->start, grace->start + silence, &deadline, &too_long);
	raise_floor(&turn, grace->pause, grace->pause + silence, &deadline, &too_long);
	raise_floor(&turn, grace->resumed, grace->resumed + silence, &deadline, &too_long);

	verdict->held = verdict->offer = false;
	if (too_long <= deadline)
	{
		verdict->deadline = too_long;
		verdict->code = TL_CODE_TOO_LONG;
		return;
	}
	verdict->deadline = deadline;
	if (turn.wait_until > 0 || verdict->offered)
	{
		verdict->code = verdict->offered ? tl_code_of_lapse(turn.lapse_code) : TL_CODE_WAIT_EXPIRED;
		return;
	}
	verdict->offer = turn.rescue_ms > 0 && turn.frozen == 0;
	/* whether it had beaten before the start is not known any more */
	verdict->code = verdict->started || in_flight ?
		TL_CODE_UNRESPONSIVE : TL_CODE_NEVER_STARTED;

	verdict->held = (verdict->started || in_flight) &&
		tl_is_held(grace, silence, deadline, now);

	/* the duration limit is not held */
	if (verdict->held && too_long <= now)
	{
		verdict->held = verdict->offer = false;
		verdict->deadline = too_long;
		verdict->code = TL_CODE_TOO_LONG;
	}
}
