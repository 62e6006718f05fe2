/*
 * claim_start.h
 *		Where a claim of platforms begins.
 */
#ifndef TL_CLAIM_START_H
#define TL_CLAIM_START_H

#include "replies/read.h"
#include "shared/due_ids.h"

/*
 * Of these platforms the snapshot shows nothing that is due but parked up to
 * this id; posts: tl_due_posts() before the snapshot was taken.
 */
extern int64 tl_claim_start(const TlCursors *platforms, int64 now, uint64 posts);
/* nor is anything up to this id, until that time, now that the claim is done */
extern void tl_claim_remember(int64 after, int64 until);

#endif							/* TL_CLAIM_START_H */
