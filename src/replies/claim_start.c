/*
 * claim_start.c
 *		Where a claim of platforms begins.
 *
 * What gateways hold stays among what is due, until it is acknowledged or
 * parked (parking.c).  So that a claim need not pass over all of it each time,
 * the session remembers up to which id its last claim of the same platforms
 * left nothing that is due, and until when that holds: the first claim among
 * those that it passed over ends then.  Three things else make an earlier reply
 * due:
 *
 * - A transaction stores a reply and commits after a later one, or puts one
 *   back, or a DBA changes rows by hand: due_ids.c tells of these.
 * - The claim of this session is rolled back.  The session forgets all.
 * - The claim of another session is rolled back.  While that one held the
 *   reply, this one could not take it, and remembered no id beyond it.
 *
 * All the same the session remembers nothing for long.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"

#include "commit/xact.h"
#include "replies/claim_start.h"
#include "shared/clock.h"

#define MAX_NAMES		1024	/* bytes; with more the claim begins at first */
#define MAX_AGE_US		TL_SECOND

static struct
{
	char		names[MAX_NAMES];
	int			len;			/* 0: nothing is remembered */
	int64		after;
	int64		until;			/* liveness clock */
	int64		forget_at;		/* monotonic, as that clock can stand still */
	uint64		posts;			/* that were read */
	uint64		rollbacks;
}			last;

/* is it of the claim that goes on? */
static bool remembers = false;

/* The names, one after the other; 0 if they do not fit. */
static int
write_names(const TlCursors *platforms, char *names)
{
	int			len = 0;
	int			i;

	for (i = 0; i < platforms->n; i++)
	{
		const text *name = platforms->items[i].name;
		int			size = VARSIZE_ANY_EXHDR(name);

		Assert(size <= TL_MAX_NAME);
		if (len + 1 + size > MAX_NAMES)
			return 0;
		names[len++] = (char) size;
		memcpy(names + len, VARDATA_ANY(name), size);
		len += size;
	}
	return len;
}

int64
tl_claim_start(const TlCursors *platforms, int64 now, uint64 posts)
{
	TlDatabase *db = tl_database();
	char		names[MAX_NAMES];
	int			len = write_names(platforms, names);
	uint64		rollbacks = tl_xact_rollbacks();
	int64		own = tl_xact_lowest_due();
	int64		lowest;

	/*
	 * A serializable transaction shall look at all that it answers for.  No
	 * transaction of logical replication tells of what it writes, so where
	 * there is a subscription the session remembers nothing.
	 */
	remembers = db != NULL && len > 0 && !IsolationIsSerializable() &&
		pg_atomic_read_u32(&db->recheck) == 0;
	if (!remembers)
		return PG_INT64_MIN;
	lowest = tl_due_since(db, last.posts);
	lowest = Min(lowest, own);
	if (len != last.len || memcmp(names, last.names, len) != 0 ||
		rollbacks != last.rollbacks || now >= last.until ||
		tl_monotonic() >= last.forget_at || lowest == PG_INT64_MIN)
	{
		memcpy(last.names, names, len);
		last.len = len;
		last.rollbacks = rollbacks;
		last.after = PG_INT64_MIN;
		last.until = PG_INT64_MAX;
		last.forget_at = tl_monotonic() + MAX_AGE_US;
	}
	else if (lowest <= last.after)
		last.after = lowest - 1;
	last.posts = posts;
	return last.after;
}

void
tl_claim_remember(int64 after, int64 until)
{
	if (!remembers)
		return;
	last.after = Max(last.after, after);
	last.until = Min(last.until, until);
}
