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

/* do beats go to rows, so that one of them can meet a row that is held? */
extern bool tl_rows_are_beaten(void);
/* may a beat have met the row while a transaction held it that rolled back? */
extern bool tl_turn_beat_may_be_missing(const TlTurn *turn);

#endif							/* TL_JUDGE_H */
