/*
 * xact.h
 *		What a transaction of ours leads to once it has committed.
 */
#ifndef TL_XACT_H
#define TL_XACT_H

#include "shared/attach.h"
#include "shared/mailbox.h"
#include "store/turn_row.h"

/* a row that a transaction armed: before its commit no sweep can see it */
typedef struct TlArmed
{
	ItemPointerData tid;
	int64		armed;
	int64		patience;		/* the shorter of admission and silence */
} TlArmed;

extern void tl_xact_init(void);

/* this transaction changed what the deployment owes; ended of its turns ended */
extern void tl_xact_touch(TlLeaseKey deployment, int ended);
extern bool tl_xact_has_touched(TlLeaseKey deployment);
/* it ended this turn: its lease is of no more use */
extern void tl_xact_forget_turn(TlLeaseKey deployment, TlLeaseKey turn);
/* it wrote this owed row: the worker shall watch it; by_arm: see the stamp in xact.c */
extern void tl_xact_watch(const TlWatch *watch, bool by_arm);
extern void tl_xact_watch_turn(const TlTurn *turn, ItemPointer tid, bool by_arm);
/* is this the row of a turn that this transaction armed? */
extern bool tl_xact_has_armed(ItemPointer tid);
/* all of them */
extern const TlArmed *tl_xact_armed(int *n);
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
