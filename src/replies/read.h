/*
 * read.h
 *		What reading and claiming share: which replies, and how they are shown.
 */
#ifndef TL_READ_H
#define TL_READ_H

#include "funcapi.h"

#include "store/rel.h"

/*
 * The oldest `want` of the rows that walks offer.  A walk that offers ids in
 * ascending order may stop at the first that tl_picks_add refuses.
 */
typedef struct TlPick
{
	int64		reply_id;
	ItemPointerData tid;
} TlPick;

typedef struct TlPicks
{
	TlPick	   *items;
	int64		n;
	int64		size;
	int64		want;
	bool		bounded;		/* there are enough, all below bound */
	int64		bound;
} TlPicks;

extern void tl_picks_init(TlPicks *picks, int64 want);
extern bool tl_picks_add(TlPicks *picks, int64 reply_id, ItemPointer tid);
/* sort them, drop what was offered twice, keep the oldest */
extern void tl_picks_settle(TlPicks *picks);

/* max_replies of a caller; 22023 if negative */
extern int	tl_arg_max_replies(FunctionCallInfo fcinfo, int argno);
/* one row of read_replies or claim_replies, from a row of the table reply */
extern void tl_put_reply(ReturnSetInfo *rsinfo, TupleTableSlot *reply,
						 const char *state, int32 attempt);

#endif							/* TL_READ_H */
