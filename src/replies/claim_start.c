/*
 * claim_start.c
 *		Where a claim of platforms begins.
 *
 * What gateways hold stays among what is due, until it is acknowledged or
 * parked (parking.c).  So that a claim need not pass over all of it each time,
 * the session remembers up to which id its last claim of the same platforms
 * left nothing that is due, and until when that holds: the first claim among
 * those that it passed over ends then.  Four things else make an earlier reply
 * due:
 *
 * - A transaction stores a reply and commits after a later one, or puts one
 *   back.  It posts the lowest of its ids after its commit (mailbox.c), and the
 *   session reads these before it takes a snapshot: a post that it misses then
 *   belongs to a commit that it reads of the next time.
 * - The claim of this session is rolled back.  The session forgets all.
 * - The claim of another session is rolled back.  While that one held the
 *   reply, this one could not take it, and remembered no id beyond it.
 * - A DBA changes the row by hand.  The session remembers nothing for long.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"

#include "commit/xact.h"
#include "replies/claim_start.h"
#include "shared/mailbox.h"

#define MAX_NAMES		1024	/* bytes; with more the claim begins at first */
#define MAX_AGE_US		TL_SECOND

static struct
{
	char		names[MAX_NAMES];
	int			len;			/* 0: nothing is remembered */
	int64		after;
	int64		until;			/* liveness clock */
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
tl_claim_start(const TlCursors *platforms, int64 now)
{
	TlDatabase *db = tl_database();
	char		names[MAX_NAMES];
	int			len = write_names(platforms, names);
	uint64		rollbacks = tl_xact_rollbacks();
	int64		lowest;

	/* a serializable transaction shall look at all that it answers for */
	remembers = db != NULL && len > 0 && !IsolationIsSerializable();
	if (!remembers)
		return PG_INT64_MIN;
	lowest = tl_mailbox_lowest_due(db, &last.posts);
	lowest = Min(lowest, tl_xact_lowest_due());
	if (len != last.len || memcmp(names, last.names, len) != 0 ||
		rollbacks != last.rollbacks || now >= last.until || lowest == PG_INT64_MIN)
	{
		memcpy(last.names, names, len);
		last.len = len;
		last.rollbacks = rollbacks;
		last.after = PG_INT64_MIN;
		last.until = now + MAX_AGE_US;
	}
	else if (lowest <= last.after)
		last.after = lowest - 1;
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
