/*
 * xact.h
 *		What a transaction of ours leads to once it has committed.
 */
#ifndef TL_XACT_H
#define TL_XACT_H

#include "shared/attach_table.h"
#include "shared/mailbox.h"
#include "store/turn_row.h"

/*
 * A transaction that holds a row for longer may make a beat on the row give up
 * (row_beat.c), so it stamps the row before its commit.
 */
#define TL_LONG_US		(500 * TL_MS)

/* an owed row that a transaction wrote: before its commit no sweep can see it */
typedef struct TlWritten
{
	ItemPointerData tid;
	bool		armed;			/* it armed the turn, too */
	int64		since;			/* written then */
	int64		patience;		/* it is stamped if the transaction takes longer */
} TlWritten;

extern void tl_xact_init(void);

/* this transaction changed what the deployment owes; ended of its turns ended */
extern void tl_xact_touch(TlLeaseKey deployment, int ended);
extern bool tl_xact_has_touched(TlLeaseKey deployment);
/* it ended this turn: its lease is of no more use */
extern void tl_xact_forget_turn(TlLeaseKey deployment, TlLeaseKey turn);
/* the worker shall watch the owed row at turn->tid; fresh: it was armed just now */
extern void tl_xact_watch_turn(const TlTurn *turn, bool fresh);
/* this transaction wrote that row: it may have to be stamped */
extern void tl_xact_wrote_turn(const TlTurn *turn, bool armed);
/* is this the row of a turn that this transaction armed? */
extern bool tl_xact_has_armed(ItemPointer tid);
/* all rows that it wrote, and may have to stamp */
extern const TlWritten *tl_xact_written(int *n);
/* something is due, is due again, or ended in this conversation */
extern void tl_xact_reply(const text *conversation, const text *platform);
/* something of this transaction is due again at that time (liveness clock) */
extern void tl_xact_due_again(int64 due_us);
/* what this transaction has to tell so far, for a sweep that notifies by itself */
extern StringInfo tl_xact_letter(bool *look_replies);
/* these turns of a dead session are dealt with */
extern void tl_xact_settle(const TlDeath *death);
/* rows changed by other means than our functions */
extern void tl_xact_foreign_change(void);

#endif							/* TL_XACT_H */
