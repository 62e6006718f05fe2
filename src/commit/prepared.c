/*
 * prepared.c
 *		What prepared transactions lead to once somebody ends them.
 *
 * Their rows speak for themselves (xact.c), and whoever runs COMMIT PREPARED raises the look
 * flags.  What no row tells is kept in shared memory from PREPARE on, under the name of
 * the transaction: what it counts, and which databases need to be looked at afresh.
 *
 * There is an entry for each transaction that the server can hold.  One that ended
 * unseen, because its session died just then, stays until its place is needed.
 * A restart of the server forgets all, as it does the counters; a prepared
 * ALTER DATABASE ... SET then acts when the worker starts next.
 */
#include "base/turn_liveness.h"

#include "access/twophase.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/inval.h"

#include "worker/launcher.h"
#include "shared/lease.h"
#include "shared/mailbox.h"
#include "base/catalog.h"
#include "commit/prepared.h"

typedef struct Prepared
{
	uint64		name;			/* hash of database and identifier; 0: free */
	uint64		since;			/* ascends */
	uint32		counts[TL_NCOUNTERS];
	Oid			wanted;			/* InvalidOid: none */
	bool		want_all;		/* there are several, or any is */
} Prepared;

typedef struct PreparedTable
{
	LWLock		lock;
	uint64		last;
	Prepared	entries[FLEXIBLE_ARRAY_MEMBER];
} PreparedTable;

static PreparedTable *table = NULL;
static uint64 preparing = 0;	/* the name of the one that this session prepares */
static bool is_new = false;		/* it has no entry yet */

static uint64 hash_name(const char *gid);
static Prepared *find(uint64 name);
static Prepared *make(void);

Size
tl_prepared_shmem_size(void)
{
	return add_size(offsetof(PreparedTable, entries),
					mul_size(sizeof(Prepared), max_prepared_xacts));
}

void
tl_prepared_shmem_startup(int tranche)
{
	bool		found;

	table = ShmemInitStruct("turn_liveness prepared transactions", tl_prepared_shmem_size(), &found);
	preparing = 0;
	if (found)
		return;
	memset(table, 0, tl_prepared_shmem_size());
	LWLockInitialize(&table->lock, tranche);
}

static uint64
hash_name(const char *gid)
{
	return hash_bytes_extended((const unsigned char *) gid, strlen(gid), MyDatabaseId) | 1;
}

/* The caller holds the lock. */
static Prepared *
find(uint64 name)
{
	int			i;

	for (i = 0; i < max_prepared_xacts; i++)
		if (table->entries[i].name == name)
			return &table->entries[i];
	return NULL;
}

/*
 * The entry of the one that is being prepared; NULL if no command said what it is called
 * (a logical replication worker prepares without one).  The caller holds the lock exclusively.
 */
static Prepared *
make(void)
{
	Prepared   *entry;
	int			i;

	if (preparing == 0)
		return NULL;
	entry = find(preparing);
	if (entry != NULL && !is_new)
		return entry;

	/* the place of one of the same name that ended unseen, a free one, the oldest */
	if (entry == NULL)
		entry = find(0);
	if (entry == NULL)
	{
		entry = &table->entries[0];
		for (i = 1; i < max_prepared_xacts; i++)
			if (table->entries[i].since < entry->since)
				entry = &table->entries[i];
	}
	memset(entry, 0, sizeof(*entry));
	entry->name = preparing;
	entry->since = ++table->last;
	is_new = false;
	return entry;
}

void
tl_prepared_begin(TransactionStmt *stmt)
{
	if (stmt->kind != TRANS_STMT_PREPARE)
		return;
	preparing = hash_name(stmt->gid);
	is_new = true;
}

void
tl_prepared_count(const uint32 *counts)
{
	Prepared   *entry;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	entry = make();
	if (entry != NULL)
		memcpy(entry->counts, counts, sizeof(entry->counts));
	LWLockRelease(&table->lock);
}

void
tl_prepared_want(Oid dboid)
{
	Prepared   *entry;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	entry = make();
	if (entry != NULL)
	{
		if (OidIsValid(dboid) && !OidIsValid(entry->wanted))
			entry->wanted = dboid;
		else
			entry->want_all = true;
	}
	LWLockRelease(&table->lock);
}

/*
 * No callback of ours ran for it.  It may have armed and ended turns, and even created
 * the extension.  It has ended: what may fail, the catalog, comes last.
 */
void
tl_prepared_end(TransactionStmt *stmt)
{
	char		nowhere[1] = "";
	StringInfoData nothing = {.data = nowhere};
	Prepared	entry = {0};
	Prepared   *found;
	TlDatabase *db;
	TlWorkerState state = TL_WORKER_NONE;
	bool		commit = stmt->kind == TRANS_STMT_COMMIT_PREPARED;
	int			i;

	if (!commit && stmt->kind != TRANS_STMT_ROLLBACK_PREPARED)
		return;
	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	found = find(hash_name(stmt->gid));
	if (found != NULL)
	{
		entry = *found;
		found->name = 0;
	}
	LWLockRelease(&table->lock);

	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	db = tl_database_find(MyDatabaseId, false);
	if (db != NULL)
		state = db->state;
	LWLockRelease(&tl_shared->directory);

	if (db != NULL && commit)
		tl_lease_move_database();
	if (db != NULL)
		tl_mailbox_post(db, &nothing, true, commit);
	if (!commit)
		return;

	for (i = 0; i < TL_NCOUNTERS; i++)
		if (entry.counts[i] > 0)	/* a database that is not ours needs no slot */
			tl_counter_add(i, entry.counts[i]);
	if (entry.want_all)
		tl_database_want_all();
	if (OidIsValid(entry.wanted))
		tl_database_want(entry.wanted);

	/* the entry is lost if the server was restarted: then the catalog tells */
	if (state == TL_WORKER_NONE || state == TL_WORKER_STARTING || state == TL_WORKER_NO_EXTENSION)
	{
		AcceptInvalidationMessages();
		if (OidIsValid(tl_extension_oid()))
			tl_database_want(MyDatabaseId);
	}
}
