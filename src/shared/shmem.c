/*
 * shmem.c
 *		Shared memory: asked for at preload, laid out at start.
 *
 * The postmaster runs the startup hook again after a crash of the server:
 * everything in here is soft, and src/README.md says what its loss means.
 *
 * TlShared.directory guards the list of databases and the processes in it.
 * Latches are set under it, so that no session sets the latch of a process that
 * has withdrawn.  A process that holds it takes no other lock, with one
 * exception: tl_database_find() takes the locks of the leases' partitions and of
 * the attached sessions when it gives a slot to another database, and the
 * server's ProcArrayLock to count the sessions of the earlier one.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "shared/attach.h"
#include "shared/clock.h"
#include "shared/lease.h"
#include "shared/shmem.h"

TlShared   *tl_shared = NULL;

static shmem_request_hook_type prev_request = NULL;
static shmem_startup_hook_type prev_startup = NULL;
static TlDatabase *my_database = NULL;

static void request(void);
static void startup(void);
static bool may_recycle(TlDatabase *db);

void
tl_shmem_init(void)
{
	prev_request = shmem_request_hook;
	shmem_request_hook = request;
	prev_startup = shmem_startup_hook;
	shmem_startup_hook = startup;
}

static void
request(void)
{
	if (prev_request)
		prev_request();

	RequestAddinShmemSpace(MAXALIGN(sizeof(TlShared)));
	RequestAddinShmemSpace(tl_lease_shmem_size());
	RequestAddinShmemSpace(tl_attach_shmem_size());
	/* one tranche: which of our locks is waited for shows in the code, not here */
	RequestNamedLWLockTranche(TL_EXTENSION, 1);
}

static void
startup(void)
{
	bool		found;
	int			tranche;

	if (prev_startup)
		prev_startup();

	tl_shared = NULL;
	my_database = NULL;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	tranche = GetNamedLWLockTranche(TL_EXTENSION)->lock.tranche;
	tl_shared = ShmemInitStruct("turn_liveness", sizeof(TlShared), &found);
	if (!found)
	{
		int			i;

		memset(tl_shared, 0, sizeof(TlShared));
		LWLockInitialize(&tl_shared->directory, tranche);
		if (!pg_strong_random(tl_shared->seeds, sizeof(tl_shared->seeds)) ||
			!pg_strong_random(&tl_shared->run, sizeof(tl_shared->run)))
			ereport(FATAL,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not obtain random numbers")));
		tl_shared->run |= 1;
		tl_clock_init(tl_shared);
		pg_atomic_init_u32(&tl_shared->generation, 1);
		tl_shared->rescan_databases = true;
		for (i = 0; i < TL_MAX_DATABASES; i++)
			LWLockInitialize(&tl_shared->databases[i].mailbox_lock, tranche);
	}
	tl_lease_shmem_startup(tranche);
	tl_attach_shmem_startup(tranche);
	LWLockRelease(AddinShmemInitLock);
}

/*
 * A slot whose extension has gone may serve another database, once no session
 * is left that could hold a pointer to it.  A session takes that pointer under the
 * directory lock, so its caller counts the sessions under the same lock.
 */
static bool
may_recycle(TlDatabase *db)
{
	return db->worker.state == TL_WORKER_NONE && db->worker.pid == 0 &&
		CountDBBackends(db->dboid) == 0;
}

TlDatabase *
tl_database_find(Oid dboid, bool make)
{
	TlDatabase *vacant = NULL;
	int			i;
	int			j;

	Assert(make ? LWLockHeldByMeInMode(&tl_shared->directory, LW_EXCLUSIVE) :
		   LWLockHeldByMe(&tl_shared->directory));
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (db->dboid == dboid)
			return db;
		if (db->dboid == InvalidOid && vacant == NULL)
			vacant = db;
	}
	if (!make)
		return NULL;
	for (i = 0; i < TL_MAX_DATABASES && vacant == NULL; i++)
		if (may_recycle(&tl_shared->databases[i]))
			vacant = &tl_shared->databases[i];
	if (vacant == NULL)
		return NULL;

	if (vacant->used_before)
		tl_lease_clear_slot(vacant - tl_shared->databases);
	vacant->used_before = true;
	vacant->dboid = dboid;
	memset(&vacant->worker, 0, sizeof(vacant->worker));
	vacant->worker.state = TL_WORKER_WANTED;
	pg_atomic_init_u64(&vacant->worker.running.since_us, 0);
	pg_atomic_init_u64(&vacant->worker.skipped.since_us, 0);
	tl_clock_init_database(tl_shared, vacant);
	pg_atomic_init_u64(&vacant->grace.resumed_us, 0);
	pg_atomic_init_u32(&vacant->grace.sweep_off, 0);
	pg_atomic_init_u64(&vacant->grace.asked_us, 0);
	pg_atomic_init_u32(&vacant->grace.crowd, 0);
	memset(vacant->grace.gaps, 0, sizeof(vacant->grace.gaps));
	pg_atomic_init_u64(&vacant->last_call_us, 0);
	pg_atomic_init_u32(&vacant->generation, 1);
	pg_atomic_init_u32(&vacant->recheck, 0);
	pg_atomic_init_u32(&vacant->warned_full, 0);
	pg_atomic_init_u64(&vacant->wake_us, PG_INT64_MAX);
	pg_atomic_init_u64(&vacant->due_again_us, PG_INT64_MAX);
	pg_atomic_init_u64(&vacant->death_us, PG_INT64_MAX);
	pg_atomic_init_u64(&vacant->last_sweep_us, 0);
	pg_atomic_init_u64(&vacant->last_sweep_took_us, 0);
	vacant->mailbox_head = vacant->mailbox_tail = 0;
	vacant->look_turns = vacant->look_replies = true;
	vacant->latch_set = false;
	for (i = 0; i < TL_STRIPES; i++)
		for (j = 0; j < TL_NCOUNTERS; j++)
			pg_atomic_init_u64(&vacant->stripes[i].counters[j], 0);
	vacant->stats_reset = GetCurrentTimestamp();
	return vacant;
}

/* The database is gone.  The caller holds the directory exclusively. */
void
tl_database_free(TlDatabase *db)
{
	Assert(LWLockHeldByMeInMode(&tl_shared->directory, LW_EXCLUSIVE));
	db->dboid = InvalidOid;
	memset(&db->worker, 0, sizeof(db->worker));
	/* a database that found no slot may have this one */
	tl_shared->rescan_databases = true;
}

TL_HOT TlDatabase *
tl_database(void)
{
	bool		make;

	if (my_database != NULL)
		return my_database;
	if (tl_shared == NULL || !OidIsValid(MyDatabaseId))
		return NULL;

	/* the catalog is read before the lock is taken, and never after a commit */
	make = IsTransactionState() && OidIsValid(tl_extension_oid());
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	my_database = tl_database_find(MyDatabaseId, false);
	if (my_database == NULL && make)
	{
		my_database = tl_database_find(MyDatabaseId, true);
		if (my_database != NULL && tl_shared->launcher_latch)
			SetLatch(tl_shared->launcher_latch);
	}
	LWLockRelease(&tl_shared->directory);
	return my_database;
}

/* Striped, so that sessions seldom share a cache line; no lock. */
TL_HOT void
tl_counter_add(TlCounter counter, uint64 n)
{
	TlDatabase *db = tl_database();

	if (db != NULL && n > 0)
		pg_atomic_fetch_add_u64(&db->stripes[MyProcPid % TL_STRIPES].counters[counter], n);
}

uint64
tl_counter_read(TlDatabase *db, TlCounter counter)
{
	uint64		sum = 0;
	int			i;

	for (i = 0; i < TL_STRIPES; i++)
		sum += pg_atomic_read_u64(&db->stripes[i].counters[counter]);
	return sum;
}

/* The worker looks for replies that are due again by then at the latest. */
void
tl_due_again_by(TlDatabase *db, int64 us)
{
	uint64		old = pg_atomic_read_u64(&db->due_again_us);

	while (us < (int64) old &&
		   !pg_atomic_compare_exchange_u64(&db->due_again_us, &old, us))
		;
}

void
tl_wake_worker(TlDatabase *db)
{
	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	if (db->worker.latch)
		SetLatch(db->worker.latch);
	LWLockRelease(&tl_shared->directory);
}

void
tl_wake_launcher(void)
{
	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
	LWLockRelease(&tl_shared->directory);
}
