/*
 * read.h
 *		What reading and claiming share: which replies, and how they look.
 */
#ifndef TL_READ_H
#define TL_READ_H

#include "funcapi.h"

#include "store/rel.h"

/* a conversation or platform, and the last id of it that the reader has */
typedef struct TlCursor
{
	text	   *name;			/* first: see tl_compare_texts */
	int64		after;
} TlCursor;

typedef struct TlCursors
{
	TlCursor   *items;
	int			n;
} TlCursors;

typedef struct TlPick
{
	int64		reply_id;		/* first: see tl_compare_ids */
	ItemPointerData tid;
	bool		is_open;		/* so the walk found it */
} TlPick;

/*
 * the oldest `want` of the rows that walks find, sorted, each once; zeroed but
 * for want and by_age
 */
typedef struct TlPicks
{
	TlPick	   *items;
	int64		n;
	int64		size;
	int64		want;
	int64		bound;			/* not 0: there are enough, all below it */
	bool		by_age;			/* the walk finds ids in ascending order */
} TlPicks;

/*
 * The names of an array, sorted, each once, with the cursors of the argument
 * `after` (none where it is negative).
 */
extern TlCursors tl_arg_cursors(FunctionCallInfo fcinfo, int argno, const char *name,
								int after);
/* max_replies of a caller; 22023 if negative */
extern int	tl_arg_max_replies(FunctionCallInfo fcinfo, int argno);

/* what a walk makes of a row: it ends, passes over it, or picks it */
typedef enum TlStep
{
	TL_STEP_END,
	TL_STEP_PASS,
	TL_STEP_TAKE
} TlStep;
typedef TlStep (*TlWalkRow) (TupleTableSlot *row, void *arg);
/*
 * Walk an index of deliveries for each cursor: its name comes first, its last
 * column is greater than `after`, and of the key only open ones count.  The
 * walk ends when enough older rows are known.
 */
extern void tl_walk(TlRel *deliveries, TlIndex index, Snapshot snapshot, const TlCursors *cursors,
					TlPicks *picks, TlWalkRow row, void *arg);

/* one row of read_replies or claim_replies, from a row of the table reply */
extern void tl_put_reply(ReturnSetInfo *rsinfo, TupleTableSlot *reply,
						 const char *state, int32 attempt);
/*
 * The state of a reply, as the view replies shows it, by a scan of
 * tl_delivery_scan; NULL if its snapshot shows no row.  The caller expects it
 * open, or not open.
 */
extern const char *tl_find_delivery_state(TlScan *scan, const text *conversation, int64 reply_id,
										  bool is_open, int64 now, int32 *attempt);
/* for qsort over ids, or structs that begin with one */
extern int	tl_compare_ids(const void *a, const void *b);

#endif							/* TL_READ_H */
