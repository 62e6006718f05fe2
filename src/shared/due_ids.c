/*
 * due_ids.c
 *		From which id on replies became due.
 *
 * Ids come before the commit, so a transaction may commit a lower id after a
 * higher one, and a claim that begins where the session's last one ended
 * (claim_start.c) must know of it from the instant at which the reply is
 * visible:
 *
 * - Before its commit the transaction announces the lowest id, in a place of
 *   its own.  After the commit it posts the id, under the lock of the mailbox,
 *   and then withdraws.
 * - A claim takes its snapshot first, then reads what is announced, then what
 *   was posted.  A commit that the snapshot shows is still announced, or has
 *   been posted.
 * - With its next claim the session reads the posts again that came since
 *   before the snapshot, as the snapshot need not have shown their commits.
 *
 * The last posts stand in a ring, which a claim reads without a lock.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "shared/due_ids.h"

/* of one process */
typedef struct Announcement
{
	pg_atomic_uint32 dboid;
	pg_atomic_uint64 lowest;	/* PG_INT64_MAX: none */
} Announcement;

static Announcement *announcements = NULL;
static bool announced = false;	/* by this process */

Size
tl_due_shmem_size(void)
{
	return mul_size(sizeof(Announcement), MaxBackends);
}

void
tl_due_shmem_startup(void)
{
	bool		found;
	int			i;

	announcements = ShmemInitStruct("turn_liveness announcements", tl_due_shmem_size(), &found);
	for (i = 0; i < MaxBackends && !found; i++)
	{
		pg_atomic_init_u32(&announcements[i].dboid, InvalidOid);
		pg_atomic_init_u64(&announcements[i].lowest, PG_INT64_MAX);
	}
}

void
tl_due_announce(int64 lowest)
{
	Announcement *mine = &announcements[tl_proc_number_compat()];

	Assert(tl_proc_number_compat() < MaxBackends);
	/* a reader of the id finds the database that it belongs to */
	pg_atomic_write_u32(&mine->dboid, MyDatabaseId);
	pg_write_barrier();
	pg_atomic_write_u64(&mine->lowest, lowest);
	announced = true;
}

/* After a commit the lock of the mailbox stands between the post and this. */
void
tl_due_withdraw(void)
{
	if (announced)
		pg_atomic_write_u64(&announcements[tl_proc_number_compat()].lowest, PG_INT64_MAX);
	announced = false;
}

void
tl_due_post(TlDatabase *db, int64 lowest)
{
	uint64		n = pg_atomic_read_u64(&db->ndue);

	Assert(LWLockHeldByMeInMode(&db->mailbox_lock, LW_EXCLUSIVE));
	/* a reader counts no id that is not there yet */
	pg_atomic_write_u64(&db->due_ids[n % TL_DUE_IDS], lowest);
	pg_write_barrier();
	pg_atomic_write_u64(&db->ndue, n + 1);
}

uint64
tl_due_posts(TlDatabase *db)
{
	uint64		n = pg_atomic_read_u64(&db->ndue);

	pg_memory_barrier();
	return n;
}

/*
 * The next post overwrites the oldest that is kept: a reader that finds the
 * number there, after it has read, trusts nothing that it has read.
 */
int64
tl_due_since(TlDatabase *db, uint64 posts)
{
	int64		lowest = PG_INT64_MAX;
	uint64		n;
	uint64		i;

	pg_memory_barrier();
	for (i = 0; i < MaxBackends; i++)
	{
		int64		id = (int64) pg_atomic_read_u64(&announcements[i].lowest);

		pg_read_barrier();
		if (id < lowest && pg_atomic_read_u32(&announcements[i].dboid) == MyDatabaseId)
			lowest = id;
	}
	pg_read_barrier();
	n = pg_atomic_read_u64(&db->ndue);
	pg_read_barrier();
	for (i = Max(posts, n - Min(n, TL_DUE_IDS)); i < n; i++)
	{
		int64		id = (int64) pg_atomic_read_u64(&db->due_ids[i % TL_DUE_IDS]);

		lowest = Min(lowest, id);
	}
	pg_read_barrier();
	return pg_atomic_read_u64(&db->ndue) - posts >= TL_DUE_IDS ? PG_INT64_MIN : lowest;
}
