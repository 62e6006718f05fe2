/*
 * database.c
 *		The slots of databases in shared memory, and their counters.
 *
 * TlShared.directory guards the list of databases and the processes in it.
 * Latches are set under it, so that no session sets the latch of a process that
 * has withdrawn.  A process that holds it takes no other lock, but for the
 * server's ProcArrayLock, to count the sessions of a database whose slot
 * another one is to get.
 *
 * All of it is soft: the postmaster makes it anew after a crash of the server,
 * and src/README.md says what its loss means.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "tcop/pquery.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "shared/database.h"

TlShared   *tl_shared = NULL;

TlDatabase *tl_my_database = NULL;

Size
tl_database_shmem_size(void)
{
	return add_size(offsetof(TlShared, databases),
					mul_size(tl_database_capacity, sizeof(TlDatabase)));
}

void
tl_database_shmem_startup(int tranche)
{
	bool		found;
	int			i;

	tl_my_database = NULL;
	tl_shared = ShmemInitStruct("turn_liveness", tl_database_shmem_size(), &found);
	if (found)
		return;
	memset(tl_shared, 0, tl_database_shmem_size());
	LWLockInitialize(&tl_shared->directory, tranche);
	if (!pg_strong_random(tl_shared->seeds, sizeof(tl_shared->seeds)) ||
		!pg_strong_random(&tl_shared->run, sizeof(tl_shared->run)))
		ereport(FATAL,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not obtain random numbers")));
	tl_shared->run |= 1;
	pg_atomic_init_u32(&tl_shared->generation, 1);
	for (i = 0; i < tl_database_capacity; i++)
		LWLockInitialize(&tl_shared->databases[i].mailbox_lock, tranche);
}

/*
 * A slot whose extension has gone may serve another database, once no session
 * is left that could hold a pointer to it.  A session takes that pointer under
 * the directory lock, so this counts the sessions under the same lock.  A
 * database that is merely closed keeps its slot, because its leases name it.
 */
TlDatabase *
tl_database_find(Oid dboid, bool make)
{
	TlDatabase *vacant = NULL;
	uint8		incarnation;
	int			i;

	Assert(make ? LWLockHeldByMeInMode(&tl_shared->directory, LW_EXCLUSIVE) :
		   LWLockHeldByMe(&tl_shared->directory));
	for (i = 0; i < tl_database_capacity; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (db->dboid == dboid)
			return db;
		if (db->dboid == InvalidOid && vacant == NULL)
			vacant = db;
	}
	if (!make)
		return NULL;
	for (i = 0; i < tl_database_capacity && vacant == NULL; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (db->worker.state == TL_WORKER_NONE && db->worker.pid == 0 &&
			!db->worker.closed && CountDBBackends(db->dboid) == 0)
			vacant = db;
	}
	if (vacant == NULL)
		return NULL;

	/* zero is the beginning of all but these: no other process looks yet */
	incarnation = vacant->incarnation + 1;
	memset(vacant, 0, offsetof(TlDatabase, mailbox_lock));
	vacant->incarnation = incarnation;
	vacant->dboid = dboid;
	vacant->worker.state = TL_WORKER_WANTED;
	vacant->stats_reset = GetCurrentTimestamp();
	pg_atomic_write_u64(&vacant->clock.limit, PG_INT64_MAX);
	pg_atomic_write_u32(&vacant->generation, 1);
	pg_atomic_write_u64(&vacant->wake_us, PG_INT64_MAX);
	pg_atomic_write_u64(&vacant->due_again_us, PG_INT64_MAX);
	pg_atomic_write_u64(&vacant->death_us, PG_INT64_MAX);
	vacant->look_turns = vacant->look_replies = true;
	tl_wake_launcher();
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
	tl_shared->rescan_us = 0;
}

TlDatabase *
tl_database_look_up(void)
{
	static TimestampTz no_room_until = 0;
	bool		make;

	/* what a commit posts must not get lost: there may be a slot by now */
	if (tl_shared == NULL || !OidIsValid(MyDatabaseId) ||
		(IsTransactionState() && GetCurrentStatementStartTimestamp() < no_room_until))
		return NULL;

	/* the catalog is read before the lock is taken, and never after a commit */
	make = IsTransactionState() && OidIsValid(tl_extension_oid());
	LWLockAcquire(&tl_shared->directory, make ? LW_EXCLUSIVE : LW_SHARED);
	tl_my_database = tl_database_find(MyDatabaseId, make);
	/* all other databases' sessions and workers want this lock too */
	if (tl_my_database == NULL && make)
		no_room_until = GetCurrentStatementStartTimestamp() + TL_SECOND;
	LWLockRelease(&tl_shared->directory);
	return tl_my_database;
}

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

/* Calls that count at this very moment may come through. */
void
tl_counters_reset(TlDatabase *db)
{
	int			i;

	for (i = 0; i < TL_STRIPES * TL_NCOUNTERS; i++)
		pg_atomic_write_u64(&db->stripes[i % TL_STRIPES].counters[i / TL_STRIPES], 0);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	db->stats_reset = GetCurrentTimestamp();
	LWLockRelease(&tl_shared->directory);
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

/* No beat goes to rows as long as there is room for leases. */
bool
tl_rows_are_beaten(void)
{
	TlDatabase *db = tl_database();

	return db == NULL || pg_atomic_read_u32(&db->rows_beaten) != 0;
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
	Assert(LWLockHeldByMe(&tl_shared->directory));
	if (tl_shared->launcher_latch)
		SetLatch(tl_shared->launcher_latch);
}

/*
 * The worker takes up what a DBA sets within a second, and tells the sessions
 * that run; without one, a session goes by its own setting.
 */
void
tl_check_accepts(void)
{
	TlDatabase *db = tl_database();

	if (db != NULL && pg_atomic_read_u32(&db->clock.ticking) != 0 ?
		pg_atomic_read_u32(&db->refuses) != 0 : !tl_accept)
		tl_not_as_installed(errmsg("this server does not accept calls that write"),
							errdetail("\"%s\" is off.", "turn_liveness.accept"),
							errhint("Ask the server that serves this database now."));
}

/*
 * PL/pgSQL checks the constraints of a domain even between a COMMIT and the
 * next statement, where no snapshot is active, and PostgreSQL writes a value to
 * a TOAST table only under one.  A caller without a portal sees to it itself.
 */
void
tl_check_writable(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandDuringRecovery(function);
	PreventCommandIfParallelMode(function);
	tl_check_accepts();
	if (ActivePortal != NULL)
		EnsurePortalSnapshotExists();
}
