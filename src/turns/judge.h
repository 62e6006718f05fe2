/*
 * judge.h
 *		What is known of an owed turn now: its deadline, and beats that may be
 *		missing.
 */
#ifndef TL_JUDGE_H
#define TL_JUDGE_H

#include "store/turn_row.h"

/*
 * When an owed turn lapses, and why, by its row, the leases and the grace that
 * is in force; returns the time at which that was judged.
 */
extern int64 tl_turn_judge(const TlTurn *turn, TlVerdict *verdict);
/* the same for a sweep, which may have seen the row first at "seen" */
extern int64 tl_turn_judge_seen(const TlTurn *turn, int64 seen, TlVerdict *verdict);

/* before the row is rewritten: its times become times of this run */
extern void tl_turn_adopt(TlTurn *turn, int64 seen);

/* may a beat have met the row while a transaction held it that rolled back? */
extern bool tl_turn_beat_may_be_missing(const TlTurn *turn);

#endif							/* TL_JUDGE_H */
