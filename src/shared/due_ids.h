/*
 * due_ids.h
 *		From which id on replies became due.
 */
#ifndef TL_DUE_IDS_H
#define TL_DUE_IDS_H

#include "shared/database.h"

extern Size tl_due_shmem_size(void);
extern void tl_due_shmem_startup(void);

/*
 * For a transaction that makes replies due: before its commit it announces the
 * lowest of their ids, after it the mailbox posts that (its lock is held), and
 * then the transaction withdraws.  None of these can fail.
 */
extern void tl_due_announce(int64 lowest);
extern void tl_due_post(TlDatabase *db, int64 lowest);
extern void tl_due_withdraw(void);

/* the posts so far, for a claim that is about to take its snapshot */
extern uint64 tl_due_posts(TlDatabase *db);
/*
 * For a claim that has taken its snapshot: the lowest id of which is announced,
 * or was posted since there were so many posts; PG_INT64_MIN if too many came.
 */
extern int64 tl_due_since(TlDatabase *db, uint64 posts);

#endif							/* TL_DUE_IDS_H */
