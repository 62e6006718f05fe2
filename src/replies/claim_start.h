/*
 * claim_start.h
 *		Where a claim of platforms begins.
 */
#ifndef TL_CLAIM_START_H
#define TL_CLAIM_START_H

#include "replies/read.h"

/*
 * Of these platforms nothing but parked replies is due up to this id.  The
 * claim asks before it takes a snapshot.
 */
extern int64 tl_claim_start(const TlCursors *platforms, int64 now);
/* nor is anything up to this id, until that time, now that the claim is done */
extern void tl_claim_remember(int64 after, int64 until);

#endif							/* TL_CLAIM_START_H */
