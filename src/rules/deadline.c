/*
 * deadline.c
 *		When a turn lapses, and why.
 *
 * The one place where the rules of the contract's part 3 stand.  A pure
 * function: no clock, no table, no shared memory, so that the sweep, the beat,
 * the views and the worker's watch list cannot differ.
 */
#include "base/turn_liveness.h"

#include "rules/deadline.h"

void
tl_deadline(const TlTimes *turn, const TlSigns *signs, const TlGrace *grace,
			int64 now, TlVerdict *verdict)
{
	int64		admission = turn->admission_ms * TL_MS;
	int64		silence = turn->silence_ms * TL_MS;
	bool		foreign = (turn->epoch >> 32) != (grace->epoch >> 32);
	bool		earlier = !foreign && turn->epoch != grace->epoch;
	int64		armed = turn->armed;
	int64		begun = turn->begun;
	int64		first = 0;
	int64		last = 0;
	int64		deadline;
	int64		too_long;
	int64		seen = turn->seen == TL_SEEN_UNKNOWN ? now : turn->seen;
	int64		beat = turn->beat;
	int64		started = turn->started;

	/*
	 * A clock that started behind after a crash: what was armed before cannot
	 * have been armed after the start.
	 */
	if (earlier)
	{
		armed = Min(armed, grace->start);
		begun = Min(begun, grace->start);
	}
	/* what a restored row tells of sweeps and beats was elsewhere */
	if (foreign)
	{
		if (seen < grace->start)
			seen = 0;
		if (beat < grace->start)
			beat = 0;
		if (started < grace->start)
			started = 0;
	}
	/* its stamps may be ahead, if it was dumped between two saves */
	if (foreign && seen > 0)
	{
		armed = Min(armed, seen);
		begun = Min(begun, seen);
	}

	/*
	 * A beat covers what was armed before it.  One that came in the very
	 * microsecond of the arm is taken as earlier.
	 */
	if (beat > armed)
		last = beat;
	if (signs->beat > armed)
		last = Max(last, signs->beat);
	if (signs->turn_last > armed)
		last = Max(last, signs->turn_last);

	/* the beat that started it: the first that named it, or found it alone */
	if (started > armed)
		first = started;
	if (signs->turn_first > armed && (first == 0 || signs->turn_first < first))
		first = signs->turn_first;
	if (signs->solo > armed && (first == 0 || signs->solo < first))
		first = signs->solo;

	if (first > 0)
		deadline = Max(first, last) + silence;
	else
	{
		deadline = armed + admission;
		if (last > 0)
			deadline = Max(deadline, last + silence);
	}
	if (turn->frozen > 0)
		deadline = turn->frozen;

	too_long = begun + turn->duration_ms * TL_MS;

	/* grace: beats before the start are lost, so its worker gets one deadline */
	if (earlier)
		deadline = Max(deadline, grace->start + silence);
	if (seen > 0)
		deadline = Max(deadline, seen + Min(admission, silence));
	if (foreign && last == 0)
	{
		int64		until = (seen > 0 ? seen : now) + grace->restore_grace;

		deadline = Max(deadline, until);
		too_long = Max(too_long, until);
	}
	if (turn->armed < grace->pause)
		deadline = Max(deadline, grace->pause + silence);
	if (turn->armed < grace->resumed)
	{
		deadline = Max(deadline, grace->resumed + silence);
		too_long = Max(too_long, grace->resumed + silence);
	}

	verdict->held = false;
	if (too_long <= deadline)
	{
		verdict->deadline = too_long;
		verdict->code = TL_CODE_TOO_LONG;
	}
	else
	{
		verdict->deadline = deadline;
		/* whether it had beaten before the start is not known any more */
		verdict->code = first > 0 || earlier || foreign ?
			TL_CODE_UNRESPONSIVE : TL_CODE_NEVER_STARTED;

		/*
		 * An outage of the path to the database is not the death of the
		 * workers: hold back, but no lapse for longer than the hold.
		 */
		if ((first > 0 || earlier) && deadline <= now &&
			now < deadline + grace->hold_max &&
			(grace->silent || now < grace->hold_until))
			verdict->held = true;

		/* the duration limit is not held */
		if (verdict->held && too_long <= now)
		{
			verdict->held = false;
			verdict->deadline = too_long;
			verdict->code = TL_CODE_TOO_LONG;
		}
	}
	verdict->first_beat = first;
	verdict->last_beat = Max(first, last);
	verdict->started = first > 0;
}
