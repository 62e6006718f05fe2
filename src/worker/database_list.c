/*
 * database_list.c
 *		Which databases there are, and which of them the launcher looks at next.
 *
 * Databases that nobody has looked at yet are worked through, a few at a time.
 * Whom else to look at is written in the slots of shared memory (state WANTED).
 * Slots of databases that are gone, or have not the extension, serve others.
 *
 * Rule: pg_database is read outside of the directory's lock, so what it says is
 * old by the time it is used: a slot is judged again under the lock.
 */
#include "base/turn_liveness.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "pgstat.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "worker/database_list.h"
#include "shared/clock.h"
#include "worker/worker_start.h"
#include "shared/shmem.h"

#define REFUSED_RETRY		(60 * TL_SECOND)
#define INVALID_DATABASE	(-2)	/* datconnlimit of a half-dropped one */

/* a row of pg_database */
typedef struct Database
{
	Oid			oid;
	bool		wanted;			/* a worker may run there */
	NameData	name;
} Database;

static List *unlooked = NIL;	/* databases that nobody has looked at, by oid */
static bool refused = false;	/* one of them found no slot in shared memory */
static bool complained_of_slots = false;
static int64 next_slot_retry = 0;

static List *read_databases(void);
static Database *find_database(List *databases, Oid dboid);
static void free_slots(const Oid *slots, List *databases);
static void note_unlooked(List *databases);
static TlDatabase *recycle_slot(Oid dboid);
static void start_wanted(List *databases);
static void start_unlooked(List *databases);

bool
tl_census_is_due(void)
{
	int64		now = tl_monotonic();
	bool		result = false;
	int			i;

	if (tl_crew_is_full())
		return false;
	if (unlooked != NIL)
		return true;
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		/* somebody waits for that */
		if (refused && !OidIsValid(tl_shared->databases[i].dboid))
			tl_shared->look_everywhere = true;
		result |= tl_crew_can_start(i, now);
	}
	if (refused && next_slot_retry <= now)
		tl_shared->look_everywhere = true;
	result |= tl_shared->look_everywhere;
	LWLockRelease(&tl_shared->directory);
	return result;
}

/* All databases, in the caller's memory context. */
static List *
read_databases(void)
{
	List	   *result = NIL;
	MemoryContext caller = CurrentMemoryContext;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	pgstat_report_activity(STATE_RUNNING, "reading the list of databases");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();

	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old = MemoryContextSwitchTo(caller);
		Database   *database = palloc(sizeof(Database));

		database->oid = form->oid;
		database->wanted = form->datallowconn && !form->datistemplate &&
			form->datconnlimit != INVALID_DATABASE;
		database->name = form->datname;
		result = lappend(result, database);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);

	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return result;
}

static Database *
find_database(List *databases, Oid dboid)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);

		if (database->oid == dboid)
			return database;
	}
	return NULL;
}

/*
 * Slots of databases that are gone serve others.  Only what was there before
 * the list was read can be told to be gone.
 */
static void
free_slots(const Oid *slots, List *databases)
{
	int			i;

	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if (!OidIsValid(slots[i]) || find_database(databases, slots[i]) != NULL)
			continue;
		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		if (db->dboid == slots[i] && db->worker_pid == 0 && db->bars == 0 && !tl_crew_has(i))
			tl_database_free(db);
		LWLockRelease(&tl_shared->directory);
	}
}

/* When told to look everywhere: at every database of which nothing is known. */
static void
note_unlooked(List *databases)
{
	ListCell   *lc;

	list_free(unlooked);
	unlooked = NIL;
	refused = false;
	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		if (database->wanted)
			unlooked = lappend_oid(unlooked, database->oid);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Take the slot of a database that has not the extension, and no session that
 * could hold a pointer to its slot, for another.  Sessions fetch that pointer
 * under the directory lock, so they are counted under it too.  The caller holds it
 * exclusively.
 */
static TlDatabase *
recycle_slot(Oid dboid)
{
	int			i;

	for (i = 0; i < TL_MAX_DATABASES; i++)
	{
		TlDatabase *db = &tl_shared->databases[i];

		if ((db->state == TL_WORKER_NO_EXTENSION || db->state == TL_WORKER_NONE) &&
			db->worker_pid == 0 && db->bars == 0 && !tl_crew_has(i) &&
			CountDBBackends(db->dboid) == 0)
		{
			tl_database_free(db);
			return tl_database_find(dboid, true);
		}
	}
	return NULL;
}

static void
start_wanted(List *databases)
{
	int			i;

	for (i = 0; i < TL_MAX_DATABASES && !tl_crew_is_full(); i++)
	{
		TlDatabase *db = &tl_shared->databases[i];
		Database   *database;
		Oid			dboid;
		bool		startable;

		LWLockAcquire(&tl_shared->directory, LW_SHARED);
		startable = tl_crew_can_start(i, tl_monotonic());
		dboid = db->dboid;
		LWLockRelease(&tl_shared->directory);
		if (!startable)
			continue;

		database = find_database(databases, dboid);
		if (database != NULL && database->wanted)
		{
			tl_crew_start(i, database->oid, NameStr(database->name));
			continue;
		}
		/* a template, closed, or too new for the list: the hook tells when that changes */
		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		if (db->dboid == dboid && tl_crew_can_start(i, tl_monotonic()))
		{
			db->state = TL_WORKER_NONE;
			if (database == NULL)
				tl_shared->look_everywhere = true;
		}
		LWLockRelease(&tl_shared->directory);
	}
}

static void
start_unlooked(List *databases)
{
	while (unlooked != NIL && !tl_crew_is_full())
	{
		Oid			dboid = linitial_oid(unlooked);
		Database   *database = find_database(databases, dboid);
		TlDatabase *db;
		bool		start = false;

		unlooked = list_delete_first(unlooked);
		if (database == NULL || !database->wanted)
			continue;

		LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
		db = tl_database_find(dboid, true);
		if (db == NULL)
			db = recycle_slot(dboid);
		if (db != NULL && db->state == TL_WORKER_NONE)
		{
			db->state = TL_WORKER_WANTED;
			db->retry_at_us = 0;
			start = tl_crew_can_start(db - tl_shared->databases, tl_monotonic());
		}
		LWLockRelease(&tl_shared->directory);

		if (start)
			tl_crew_start(db - tl_shared->databases, database->oid, NameStr(database->name));
		if (db != NULL)
			continue;
		refused = true;
		next_slot_retry = tl_monotonic() + REFUSED_RETRY;
		if (!complained_of_slots)
		{
			complained_of_slots = true;
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("%s cannot serve database \"%s\"", TL_EXTENSION, NameStr(database->name)),
					 errdetail("At most %d databases can use the extension.", TL_MAX_DATABASES),
					 errhint("Drop the extension where it is not needed, or call turn_liveness.sweep_expired_turns() regularly there.")));
		}
	}
	if (unlooked == NIL && !refused)
		complained_of_slots = false;
}

void
tl_census_round(void)
{
	List	   *databases;
	Oid			slots[TL_MAX_DATABASES];
	bool		look;
	int			i;

	/*
	 * The slots and the flag first: what appears meanwhile is of a database that the
	 * list may not show.  An error ends the launcher, and the next one looks everywhere.
	 */
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_DATABASES; i++)
		slots[i] = tl_shared->databases[i].dboid;
	look = tl_shared->look_everywhere;
	tl_shared->look_everywhere = false;
	LWLockRelease(&tl_shared->directory);

	databases = read_databases();
	free_slots(slots, databases);
	if (look)
		note_unlooked(databases);
	start_wanted(databases);
	start_unlooked(databases);
}

bool
tl_census_goes_on(void)
{
	return unlooked != NIL;
}

int64
tl_census_next_retry(void)
{
	return refused ? next_slot_retry : PG_INT64_MAX;
}
