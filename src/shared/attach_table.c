/*
 * attach_table.c
 *		Which deployments are tied to how many sessions, and when the last of
 *		these sessions ended.
 *
 * One array, guarded by one LWLock, for attaching is rare.  A session's exit
 * callback takes the lock too, so nothing here allocates, raises an error or
 * reads a table while it holds the lock.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "shared/attach_table.h"
#include "shared/database.h"

/* all zero: free */
typedef struct Entry
{
	TlDeath		death;			/* died = 0: alive */
	Oid			dboid;
	Oid			extension;
	int			sessions;
} Entry;

typedef struct AttachTable
{
	LWLock		lock;
	int			high;			/* entries from here on were never used */
	int			deaths;			/* entries whose last session has ended */
	Entry		entries[FLEXIBLE_ARRAY_MEMBER];
} AttachTable;

static AttachTable *table = NULL;

Size
tl_attach_shmem_size(void)
{
	return add_size(offsetof(AttachTable, entries),
					mul_size(sizeof(Entry), tl_attach_capacity));
}

void
tl_attach_shmem_startup(int tranche)
{
	bool		found;

	table = ShmemInitStruct("turn_liveness attached sessions", tl_attach_shmem_size(), &found);
	if (found)
		return;
	memset(table, 0, tl_attach_shmem_size());
	LWLockInitialize(&table->lock, tranche);
}

/* The session of an entry ends, or, with 0, comes again or is forgotten. */
static void
set_died(Entry *entry, int64 died)
{
	Assert(LWLockHeldByMeInMode(&table->lock, LW_EXCLUSIVE));
	table->deaths += (died > 0) - (entry->death.died > 0);
	entry->death.died = died;
}

static void
clear(Entry *entry)
{
	set_died(entry, 0);
	memset(entry, 0, sizeof(Entry));
}

/*
 * Will a worker fail turns for this death within the reconnect window?  It
 * does so up to a whole turn deadline later where the sweep was off.  A hint:
 * the slots are read without their lock.
 */
static bool
is_needed(const Entry *entry)
{
	int			i;

	for (i = 0; i < tl_database_capacity; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (db->dboid == entry->dboid)
			return pg_atomic_read_u32(&db->clock.ticking) != 0 &&
				entry->death.died > (int64) pg_atomic_read_u64(&db->grace.resumed_us);
	}
	return false;
}

/*
 * Choose the deployment's entry, else a free one, else the entry of a death in
 * a database without a worker, or from before its sweep was on again: there the
 * deadlines fail the turns.
 */
int
tl_attach_add(const text *deployment, TlLeaseKey key, int64 now)
{
	Oid			extension = tl_extension_oid();
	Entry	   *entries = table->entries;
	int			at = -1;
	int			i;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	for (i = 0; i < table->high; i++)
	{
		if (tl_lease_key_equal(entries[i].death.key, key))
		{
			at = i;
			break;
		}
		if (entries[i].dboid == InvalidOid && at < 0)
			at = i;
	}
	if (at < 0 && table->high < tl_attach_capacity)
		at = table->high++;
	for (i = 0; at < 0 && i < table->high; i++)
		if (entries[i].death.died > 0 && !is_needed(&entries[i]))
			at = i;
	if (at >= 0)
	{
		Entry	   *entry = &entries[at];

		if (!tl_lease_key_equal(entry->death.key, key))
		{
			clear(entry);
			entry->dboid = MyDatabaseId;
			entry->extension = extension;
			entry->death.key = key;
			entry->death.entry = at;
			text_to_cstring_buffer(deployment, entry->death.deployment, TL_MAX_NAME + 1);
		}
		entry->sessions++;
		entry->death.attached = now;
		set_died(entry, 0);
	}
	LWLockRelease(&table->lock);
	return at;
}

void
tl_attach_again(int at, int64 now)
{
	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	table->entries[at].death.attached = now;
	LWLockRelease(&table->lock);
}

bool
tl_attach_remove(int at, int64 died)
{
	Entry	   *entry = &table->entries[at];
	bool		last;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	last = --entry->sessions == 0;
	if (last && died > 0)
		set_died(entry, died);
	else if (last)
		clear(entry);
	LWLockRelease(&table->lock);
	return last;
}

/*
 * A session that attached to an extension that was dropped since leaves a death
 * of no turn of the present one: forget it.  The caller deals with a death
 * without the lock, so the place in the array is its cursor.
 */
bool
tl_attach_next_death(int64 before, int *at, TlDeath *death)
{
	Oid			extension = tl_extension_oid();
	bool		found = false;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	for (; *at < table->high && !found; (*at)++)
	{
		Entry	   *entry = &table->entries[*at];

		if (entry->dboid != MyDatabaseId ||
			entry->death.died == 0 || entry->death.died > before)
			continue;
		found = entry->extension == extension;
		if (found)
			*death = entry->death;
		else
			clear(entry);
	}
	LWLockRelease(&table->lock);
	return found;
}

int64
tl_attach_oldest_death(void)
{
	int64		oldest = PG_INT64_MAX;
	int			i;

	if (table == NULL)
		return oldest;
	LWLockAcquire(&table->lock, LW_SHARED);
	for (i = 0; i < table->high; i++)
		if (table->entries[i].dboid == MyDatabaseId && table->entries[i].death.died > 0)
			oldest = Min(oldest, table->entries[i].death.died);
	LWLockRelease(&table->lock);
	return oldest;
}

int64
tl_attach_death_of(TlLeaseKey key, int64 *attached)
{
	int64		died = 0;
	int			i;

	/* a view asks this for each row: it is a hint */
	if (table == NULL || table->deaths == 0)
		return 0;
	LWLockAcquire(&table->lock, LW_SHARED);
	for (i = 0; i < table->high && died == 0; i++)
		if (tl_lease_key_equal(table->entries[i].death.key, key))
		{
			died = table->entries[i].death.died;
			*attached = table->entries[i].death.attached;
		}
	LWLockRelease(&table->lock);
	return died;
}

int
tl_attach_used(void)
{
	int			used = 0;
	int			i;

	LWLockAcquire(&table->lock, LW_SHARED);
	for (i = 0; i < table->high; i++)
		used += OidIsValid(table->entries[i].dboid);
	LWLockRelease(&table->lock);
	return used;
}

void
tl_attach_settle(const TlDeath *death)
{
	Entry	   *entry = &table->entries[death->entry];

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (entry->death.died == death->died && tl_lease_key_equal(entry->death.key, death->key))
		clear(entry);
	LWLockRelease(&table->lock);
}
