/*
 * row_beat.h
 *		Beats on the rows of turns: where there is no room for a lease, and
 *		without preload.
 */
#ifndef TL_ROW_BEAT_H
#define TL_ROW_BEAT_H

#include "nodes/pg_list.h"

/* the beats of one call, at one time */
typedef struct TlRowBeats
{
	int64		now;
	List	   *held;			/* beats whose row another transaction holds */
} TlRowBeats;

/*
 * Beat on one turn, or with message_id NULL on all turns that the deployment
 * owes; *owed is how many of them are.  What the beats point to must live
 * until tl_row_beats_finish(), which tries the held rows again and lowers
 * *owed for turns that have ended meanwhile.
 */
extern void tl_row_beat(TlRowBeats *beats, text *deployment, text *message_id,
						bool starts, int32 *owed);
extern void tl_row_beats_finish(TlRowBeats *beats);

#endif							/* TL_ROW_BEAT_H */
