/*
 * xact.h
 *		What a transaction of ours leads to at its commit.
 */
#ifndef TL_XACT_H
#define TL_XACT_H

#include "shared/attach_table.h"
#include "shared/mailbox.h"
#include "store/turn_row.h"

extern void tl_xact_init(void);

/* the transaction changes what a deployment owes: it arms or ends this turn */
extern void tl_xact_count(const TlTurn *turn, bool ends);
/* it hands this turn over, too */
extern void tl_xact_hand_over(const TlTurn *turn);
/* did it do so with any turn of the deployment? */
extern bool tl_xact_has_touched(TlLeaseKey deployment);
/* it wrote the owed row at turn->tid, and armed it if it says so */
extern void tl_xact_wrote(const TlTurn *turn, bool armed);
/* is this the row of a turn that this transaction armed? */
extern bool tl_xact_has_armed(ItemPointer tid);
/* something is due, is due again, or ended in this conversation */
extern void tl_xact_reply(const text *conversation, const text *platform);
/* this reply stands among those that are due, and did not before */
extern void tl_xact_due(int64 reply_id);
/* the lowest of those of the transaction; PG_INT64_MAX: none */
extern int64 tl_xact_lowest_due(void);
/* counts rollbacks of this session, and what may yet be one */
extern uint64 tl_xact_rollbacks(void);
/* a turn of the deployment is offered for rescue */
extern void tl_xact_lapsed(const text *deployment);
/* did it say so of any? */
extern bool tl_xact_has_lapsed(void);
/* something of this transaction is due again at that time (liveness clock) */
extern void tl_xact_due_again(int64 due_us);
/* that many replies were claimed until then */
extern void tl_xact_claimed(int64 due_us, const void *ids, int64 n, Size size);
/* these turns of a dead session are dealt with */
extern void tl_xact_settle(const TlDeath *death);
/* rows changed by other means than our functions */
extern void tl_xact_foreign_change(void);

#endif							/* TL_XACT_H */
