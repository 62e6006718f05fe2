/*
 * attach.c
 *		Deployments that are tied to sessions.
 *
 * A session keeps the list of what it attached in its own memory; shared
 * memory has one entry for each attached deployment: how many sessions hold
 * it, and when the last of them ended without detaching.  The worker looks at
 * deaths that are older than the reconnect window (sweep.c).
 *
 * All entries are guarded by one LWLock: attaching is rare.  The exit callback
 * only counts down, writes a time and sets a latch: nothing in it can fail.
 * What it needs of the clock is atomics.  A shutdown of the server is no death.
 */
#include "base/turn_liveness.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"

#include "base/args.h"
#include "shared/attach.h"
#include "shared/clock.h"
#include "shared/grace.h"
#include "base/guc.h"
#include "shared/shmem.h"
#include "commit/xact.h"

typedef struct Entry
{
	TlLeaseKey	key;			/* both 0: free */
	Oid			dboid;
	int			sessions;
	int64		died;			/* 0 = alive */
	char		deployment[TL_MAX_NAME + 1];
} Entry;

typedef struct AttachTable
{
	LWLock		lock;
	int			high;			/* entries from here on were never used */
	Entry		entries[FLEXIBLE_ARRAY_MEMBER];
} AttachTable;

typedef struct Mine
{
	TlLeaseKey	key;
	int			entry;
} Mine;

static AttachTable *table = NULL;
static Mine *mine = NULL;
static int	n_mine = 0;
static int	max_mine = 0;
static bool exit_registered = false;

static void session_ends(int code, Datum arg);
static int	find_mine(TlLeaseKey key);
static bool has_worker(Oid dboid);

PG_FUNCTION_INFO_V1(turn_liveness_attach_worker);
PG_FUNCTION_INFO_V1(turn_liveness_detach_worker);

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
	n_mine = 0;
	if (found)
		return;
	memset(table, 0, tl_attach_shmem_size());
	LWLockInitialize(&table->lock, tranche);
}

static int
find_mine(TlLeaseKey key)
{
	int			i;

	for (i = 0; i < n_mine; i++)
		if (mine[i].key.h1 == key.h1 && mine[i].key.h2 == key.h2)
			return i;
	return -1;
}

/* A hint, read without a lock: it may have come or gone by now. */
static bool
has_worker(Oid dboid)
{
	int			i;

	for (i = 0; i < TL_MAX_DATABASES; i++)
		if (tl_shared->databases[i].dboid == dboid)
			return pg_atomic_read_u32(&tl_shared->databases[i].clock.ticking) != 0;
	return false;
}

Datum
turn_liveness_attach_worker(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	TlDatabase *db;
	TlLeaseKey	key;
	int			at = -1;
	int			i;

	tl_check_writable("attach_worker");
	db = tl_database();
	if (db == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("attach_worker needs the library to be preloaded"),
				 errhint("Add \"%s\" to \"%s\" and restart the server.",
						 TL_EXTENSION, "shared_preload_libraries")));
	tl_grace_note_call();
	key = tl_lease_key(VARDATA_ANY(deployment), VARSIZE_ANY_EXHDR(deployment));
	if (find_mine(key) >= 0)
		PG_RETURN_INT32(MyProcPid);

	/* all that can fail comes before the entry is taken */
	if (n_mine == max_mine)
	{
		int			size = Max(8, max_mine * 2);

		mine = mine ? repalloc(mine, size * sizeof(Mine)) :
			MemoryContextAlloc(TopMemoryContext, size * sizeof(Mine));
		max_mine = size;
	}
	if (!exit_registered)
	{
		before_shmem_exit(session_ends, (Datum) 0);
		exit_registered = true;
	}

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	for (i = 0; i < table->high; i++)
	{
		Entry	   *entry = &table->entries[i];

		if (entry->dboid == MyDatabaseId && entry->key.h1 == key.h1 && entry->key.h2 == key.h2)
		{
			at = i;
			break;
		}
		if (entry->dboid == InvalidOid && at < 0)
			at = i;
	}
	if (at < 0 && table->high < tl_attach_capacity)
		at = table->high++;
	/* a death where nobody sweeps is left to the deadlines; a worker will look at the others */
	for (i = 0; at < 0 && i < table->high; i++)
		if (table->entries[i].died > 0 && !has_worker(table->entries[i].dboid))
		{
			memset(&table->entries[i], 0, sizeof(Entry));
			at = i;
		}
	if (at >= 0)
	{
		Entry	   *entry = &table->entries[at];

		if (entry->dboid == InvalidOid)
		{
			entry->dboid = MyDatabaseId;
			entry->key = key;
			entry->sessions = 0;
			text_to_cstring_buffer(deployment, entry->deployment, sizeof(entry->deployment));
		}
		entry->sessions++;
		entry->died = 0;
		mine[n_mine].key = key;
		mine[n_mine].entry = at;
		n_mine++;
	}
	LWLockRelease(&table->lock);

	if (at < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many deployments are attached to sessions"),
				 errhint("Raise \"%s\".", "turn_liveness.attach_capacity")));
	PG_RETURN_INT32(MyProcPid);
}

Datum
turn_liveness_detach_worker(PG_FUNCTION_ARGS)
{
	text	   *deployment = tl_arg_name(fcinfo, 0, "deployment");
	TlLeaseKey	key;
	int			i;

	tl_check_writable("detach_worker");
	if (tl_database() == NULL)
		PG_RETURN_BOOL(false);
	tl_grace_note_call();
	key = tl_lease_key(VARDATA_ANY(deployment), VARSIZE_ANY_EXHDR(deployment));
	i = find_mine(key);
	if (i < 0)
		PG_RETURN_BOOL(false);

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (--table->entries[mine[i].entry].sessions == 0)
		memset(&table->entries[mine[i].entry], 0, sizeof(Entry));
	LWLockRelease(&table->lock);
	mine[i] = mine[--n_mine];
	PG_RETURN_BOOL(true);
}

/*
 * The session ends, in whatever way.  Runs before shared memory is left; LWLocks
 * that an error left behind were released before.
 */
static void
session_ends(int code, Datum arg)
{
	TlDatabase *db = tl_database();
	int64		now;
	bool		deaths = false;
	int			i;

	if (n_mine == 0 || db == NULL)
		return;
	/* greater than each beat before, and not than those that come */
	now = tl_clock_arm_stamp();

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	for (i = 0; i < n_mine; i++)
	{
		Entry	   *entry = &table->entries[mine[i].entry];

		if (--entry->sessions == 0)
		{
			entry->died = Max(now, 1);
			deaths = true;
		}
	}
	n_mine = 0;
	LWLockRelease(&table->lock);

	if (deaths)
	{
		pg_atomic_write_u64(&db->death_us, now);
		tl_wake_worker(db);
	}
}

/*
 * A session may have been attached to an extension that was dropped since: its
 * end says nothing of the turns of another one that came in its place.
 */
bool
tl_attach_next_death(int64 before, int *at, TlDeath *death)
{
	TlLeaseKey	key;

	if (table == NULL)
		return false;
	for (;;)
	{
		death->died = 0;
		LWLockAcquire(&table->lock, LW_SHARED);
		for (; *at < table->high && death->died == 0; (*at)++)
		{
			Entry	   *entry = &table->entries[*at];

			if (entry->dboid == MyDatabaseId && entry->died > 0 && entry->died <= before)
			{
				death->key = entry->key;
				death->entry = *at;
				death->died = entry->died;
				strlcpy(death->deployment, entry->deployment, sizeof(death->deployment));
			}
		}
		LWLockRelease(&table->lock);
		if (death->died == 0)
			return false;
		key = tl_lease_key(death->deployment, strlen(death->deployment));
		if (key.h1 == death->key.h1 && key.h2 == death->key.h2)
			return true;
		tl_attach_settle(death);
	}
}

/*
 * The postmaster writes into its lock file that it stops before it signals
 * anybody; nothing else tells a session that was ended by a shutdown from one that
 * an administrator ended.  Read only when there are deaths to look at.
 */
bool
tl_attach_is_shutdown(void)
{
	FILE	   *file = AllocateFile("postmaster.pid", "r");
	char		line[MAXPGPATH];
	bool		stopping = false;
	int			i;

	if (file == NULL)
		return false;
	for (i = 1; fgets(line, sizeof(line), file) != NULL; i++)
		if (i == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	FreeFile(file);
	return stopping;
}

/* PG_INT64_MAX if there is none */
int64
tl_attach_oldest_death(void)
{
	int64		oldest = PG_INT64_MAX;
	int			i;

	if (table == NULL)
		return oldest;
	LWLockAcquire(&table->lock, LW_SHARED);
	for (i = 0; i < table->high; i++)
		if (table->entries[i].dboid == MyDatabaseId && table->entries[i].died > 0)
			oldest = Min(oldest, table->entries[i].died);
	LWLockRelease(&table->lock);
	return oldest;
}

void
tl_attach_settle(const TlDeath *death)
{
	Entry	   *entry = &table->entries[death->entry];

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (entry->dboid == MyDatabaseId && entry->died == death->died &&
		entry->key.h1 == death->key.h1 && entry->key.h2 == death->key.h2)
		memset(entry, 0, sizeof(Entry));
	LWLockRelease(&table->lock);
}

void
tl_attach_forget_deaths(void)
{
	int			i;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	for (i = 0; i < table->high; i++)
		if (table->entries[i].dboid == MyDatabaseId && table->entries[i].died > 0)
			memset(&table->entries[i], 0, sizeof(Entry));
	LWLockRelease(&table->lock);
}
