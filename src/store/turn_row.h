/*
 * turn_row.h
 *		Rows of the table turn.
 */
#ifndef TL_TURN_ROW_H
#define TL_TURN_ROW_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "rules/deadline.h"
#include "shared/lease.h"
#include "store/rel.h"

enum
{
	TURN_DEPLOYMENT = 1,
	TURN_MESSAGE_ID,
	TURN_OUTCOME,
	TURN_EPOCH,
	TURN_BEGUN,
	TURN_ARMED,
	TURN_CHECK,
	TURN_SEEN,
	TURN_BEAT,
	TURN_STARTED,
	TURN_FROZEN,
	TURN_ADMISSION,
	TURN_SILENCE,
	TURN_DURATION,
	TURN_ARMED_AT,
	TURN_REARMED_AT,
	TURN_CONVERSATION,
	TURN_ROUTING,
	TURN_ERROR_CODE,
	TURN_REASON,
	TURN_REQUEST,
	TURN_NATTS = TURN_REQUEST
};

/* a row as it was read; values point into the slot it came from */
typedef struct TlTurn
{
	ItemPointerData tid;
	TupleTableSlot *slot;
	Datum		values[TURN_NATTS];
	bool		nulls[TURN_NATTS];
	TlTimes		times;
	int64		check;			/* a sweep looks at it next */
	TlLeaseKey	deployment_key;
	TlLeaseKey	turn_key;
} TlTurn;

#define tl_turn_value(turn, att) ((turn)->values[(att) - 1])
#define tl_turn_isnull(turn, att) ((turn)->nulls[(att) - 1])
#define tl_turn_is_owed(turn) tl_turn_isnull(turn, TURN_OUTCOME)

/* a new row, armed now; checks the address (22023); palloc'd where needed */
extern void tl_turn_make(TlTurn *turn, text *deployment, text *message_id, Jsonb *routing,
						 int32 admission_ms, int32 silence_ms, int32 duration_ms);
extern void tl_turn_decode(TupleTableSlot *slot, TlTurn *turn);
extern void tl_turn_set(TlTurn *turn, int att, Datum value);
extern void tl_turn_set_null(TlTurn *turn, int att);
/* times to columns; and replace the row, with them */
extern void tl_turn_encode(TlTurn *turn);
extern TM_Result tl_turn_update(TlRel *turns, TlTurn *turn, Snapshot snapshot);

/* the row of a key under a snapshot; scan must be zeroed, and is to be ended in any case */
extern bool tl_turn_find(TlRel *turns, TlScan *scan, Datum deployment, Datum message_id,
						 Snapshot snapshot, TlTurn *turn);

/* has a sweep that is still open taken this row?  For beats: it is not owed */
extern bool tl_turn_is_being_swept(TlRel *turns, const TlTurn *turn);

/* the owed rows of a deployment, one after another */
extern void tl_turn_scan_owed(TlRel *turns, TlScan *scan, Datum deployment, Snapshot snapshot);
/* the ids of those that were armed (again) before that time (DT_NOEND: of all), in their order */
extern text **tl_turn_list_owed(TlRel *turns, const text *deployment, TimestampTz before, int *n);
/* when an owed turn lapses, and why, by all that is known now; returns what time it is */
extern int64 tl_turn_judge(const TlTurn *turn, TlVerdict *verdict);

#endif							/* TL_TURN_ROW_H */
