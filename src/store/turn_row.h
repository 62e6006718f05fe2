/*
 * turn_row.h
 *		Rows of the table turn.
 */
#ifndef TL_TURN_ROW_H
#define TL_TURN_ROW_H

#include "utils/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "rules/deadline.h"
#include "shared/lease_key.h"
#include "store/rel.h"

enum
{
	TURN_DEPLOYMENT = 1, TURN_MESSAGE_ID, TURN_CONVERSATION, TURN_ARMED_AT, TURN_EPOCH,
	TURN_BEGUN, TURN_ARMED, TURN_CHECK, TURN_GENERATION, TURN_ADMISSION, TURN_SILENCE,
	TURN_DURATION, TURN_RESCUE, TURN_SEEN, TURN_BEAT, TURN_STARTED, TURN_FROZEN,
	TURN_SUSPENDED, TURN_WAIT_UNTIL, TURN_LAPSED, TURN_LAPSE_CODE, TURN_TAKEN, TURN_WORKER,
	TURN_REARMED_AT, TURN_OUTCOME, TURN_ROUTING, TURN_ERROR_CODE, TURN_REASON,
	TURN_WAIT_REASON, TURN_REQUEST, TURN_REPLY_ID, TURN_LAST_UPDATE,
	TURN_NATTS = TURN_LAST_UPDATE
};

/*
 * A row as it was read, or as it will be written.  The columns of its times
 * are decoded into times and next_check and encoded from there: values of
 * these columns are never used.  The other values point into the slot that the
 * row was read into, until tl_turn_detach() copies them.
 */
typedef struct TlTurn
{
	ItemPointerData tid;
	TupleTableSlot *slot;
	Datum		values[TURN_NATTS];
	bool		nulls[TURN_NATTS];
	TlTimes		times;
	int64		next_check;		/* a sweep looks at the row by then */
	TlLeaseKey	deployment_key;
	TlLeaseKey	turn_key;
} TlTurn;

#define tl_turn_value tl_row_value
#define tl_turn_isnull tl_row_isnull
#define tl_turn_set tl_row_set
#define tl_turn_set_null tl_row_set_null
#define tl_turn_is_owed(turn) tl_turn_isnull(turn, TURN_OUTCOME)

extern void tl_turn_decode(TupleTableSlot *slot, TlTurn *turn);
extern void tl_turn_detach(TlTurn *turn);
extern text *tl_turn_text(const TlTurn *turn, int att);
/* compute both lease keys from the turn's names */
extern void tl_turn_set_keys(TlTurn *turn);
/* when the turn was armed (again), by the wall clock */
extern TimestampTz tl_turn_armed_at(const TlTurn *turn);

/* write the row; turn->tid is the address of the new version then */
extern bool tl_turn_insert_unless_there(TlRel *turns, TlTurn *turn, TlFill fill, void *arg);
extern TM_Result tl_turn_update(TlRel *turns, TlTurn *turn, Snapshot snapshot);
/*
 * put back the rows of turns that were taken (tl_rel_take), which all have
 * ended or are all owed; of one alone, turn->tid is its new address then
 */
extern void tl_turn_rows_put_back(TlRel *turns, TlTurn **taken, int n);

/* which turn of a deployment, and the address at which its row was listed */
typedef struct TlTurnName
{
	const text *message_id;		/* first: tl_compare_texts sorts by it */
	ItemPointerData tid;		/* zero: not known */
} TlTurnName;

#define tl_turn_named(id)	(&(TlTurnName) {.message_id = (id)})

/*
 * Find the row of a key; the scan is zeroed, and the caller always ends it.  An
 * address counts only as long as the table has stayed locked since.
 */
extern bool tl_turn_find(TlRel *turns, TlScan *scan, const text *deployment,
						 const TlTurnName *name, Snapshot snapshot, TlTurn *turn);
/* begin a walk over the owed rows of a deployment */
extern void tl_turn_scan_owed(TlRel *turns, TlScan *scan, const text *deployment,
							  Snapshot snapshot);
/*
 * List the owed turns that are wanted, or all with a NULL there, in the order
 * of COLLATE "C" of their ids.
 */
typedef bool (*TlTurnWanted) (const TlTurn *turn, void *arg);
extern TlTurnName *tl_turn_list_owed(TlRel *turns, const text *deployment,
									 TlTurnWanted wanted, void *arg, int *n);

#endif							/* TL_TURN_ROW_H */
