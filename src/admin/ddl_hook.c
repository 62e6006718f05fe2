/*
 * ddl_hook.c
 *		What the utility commands of other sessions mean to us.
 *
 * Two things are done here, both in the session that runs the command:
 *
 * 1. A command that decides whether a database needs a worker (CREATE and ALTER
 *    EXTENSION, ALTER DATABASE ... SET, CREATE DATABASE, ...) is noted, and the
 *    launcher hears of it once it is committed.  PREPARE TRANSACTION keeps the
 *    note in the database's slot, under the identifier of the transaction, for
 *    the session that runs COMMIT PREPARED.
 *
 * 2. DROP DATABASE and its like (RENAME, SET TABLESPACE, and the template of
 *    CREATE DATABASE) fail, after five seconds, when any process is connected
 *    to the database.  The session that runs one excludes our worker
 *    (worker_slot.c), ends the worker that is there, and waits until that has
 *    left the database.  This takes some milliseconds.  After five seconds the
 *    session gives up, and the command says by itself what is in its way.  The
 *    exclusion ends with the transaction, or expires before.  It need not last
 *    as long as the command: the command soon locks the database, and from then
 *    on a worker that connects waits for that lock.
 *
 * DROP EXTENSION needs nothing of us: it locks the extension, which the worker
 * locks in each of its transactions, and so waits for the worker.  It locks the
 * tables in an order of its own, and may be the victim of a deadlock once.
 *
 * Rules: any other command costs one switch.  After a commit only shared memory
 * is changed and signals are sent.
 */
#include "base/turn_liveness.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/inval.h"

#include "admin/ddl_hook.h"
#include "base/catalog.h"
#include "shared/clock.h"
#include "shared/due_ids.h"
#include "shared/lease.h"
#include "shared/mailbox.h"
#include "shared/worker_slot.h"

#define EXCLUSION_US		(10 * TL_SECOND)
#define WORKER_PATIENCE_US	(5 * TL_SECOND)
#define CHECK_MS			10

static ProcessUtility_hook_type prev_utility = NULL;

/* databases to look at once this transaction is committed; in its memory */
static List *wanted = NIL;
static uint64 preparing = 0;	/* hash of the name in PREPARE TRANSACTION */
/* no worker there until this transaction ends */
static Oid	excluded = InvalidOid;
static bool dropping;			/* the command drops that one */
/* COMMIT PREPARED goes on: its transaction may be visible already */
static bool committing_prepared = false;
static bool subscribing = false;	/* this transaction */

static bool
is_our_setting(VariableSetStmt *stmt)
{
	return stmt->kind == VAR_RESET_ALL ||
		(stmt->name != NULL &&
		 pg_strncasecmp(stmt->name, TL_EXTENSION ".", strlen(TL_EXTENSION ".")) == 0);
}

static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, name) == 0)
			return lfirst_node(DefElem, lc);
	return NULL;
}

/*
 * Which database does the command concern once it is committed, and which must
 * be free of connections for it?
 */
static void
classify(Node *node, Oid *concerned, const char **freed)
{
	DefElem    *option;

	switch (nodeTag(node))
	{
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) node)->extname, TL_EXTENSION) == 0)
				*concerned = MyDatabaseId;
			break;
		case T_DropStmt:
			/* an idle worker would not notice it for long */
			if (((DropStmt *) node)->removeType == OBJECT_EXTENSION &&
				list_member(((DropStmt *) node)->objects, makeString(TL_EXTENSION)))
				*concerned = MyDatabaseId;
			break;
		case T_AlterDatabaseSetStmt:
			if (is_our_setting(((AlterDatabaseSetStmt *) node)->setstmt))
				*concerned = get_database_oid(((AlterDatabaseSetStmt *) node)->dbname, true);
			break;
		case T_AlterDatabaseStmt:
			{
				AlterDatabaseStmt *stmt = (AlterDatabaseStmt *) node;

				if (find_option(stmt->options, "tablespace"))
					*freed = stmt->dbname;
				else if (find_option(stmt->options, "allow_connections") ||
						 find_option(stmt->options, "is_template"))
					*concerned = get_database_oid(stmt->dbname, true);
				break;
			}
		case T_DropdbStmt:
			*freed = ((DropdbStmt *) node)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) node)->renameType == OBJECT_DATABASE)
				*freed = ((RenameStmt *) node)->subname;
			break;
		case T_CreatedbStmt:
			option = find_option(((CreatedbStmt *) node)->options, "template");
			*freed = option && option->arg ? defGetString(option) : "template1";
			break;
		default:
			break;
	}
}

/*
 * Returns when our worker has left the database, or after five seconds.  Does
 * nothing if the command will refuse: a session that may not run it must not be
 * able to end the worker.  The rules are those of dbcommands.c.  A template
 * that another role owns may be copied, too, but no template has a worker.
 */
static void
free_database(Node *node, const char *name, bool top)
{
	bool		creates = IsA(node, CreatedbStmt);
	bool		renames = IsA(node, RenameStmt);
	Oid			dboid = get_database_oid(name, true);
	int64		start = tl_monotonic();
	pid_t		last = 0;
	pid_t		pid;

	/*
	 * A database can be copied by a session of its own, and not else changed;
	 * of these commands, RENAME alone may be run in a transaction block.
	 */
	if (!OidIsValid(dboid) || !object_ownercheck(DatabaseRelationId, dboid, GetUserId()) ||
		(dboid == MyDatabaseId && !creates) ||
		((creates || renames) && !tl_have_createdb_privilege_compat()) ||
		(!renames && IsInTransactionBlock(top)))
		return;

	if (OidIsValid(excluded))
		tl_worker_readmit(excluded, false);
	excluded = dboid;
	dropping = IsA(node, DropdbStmt);
	/* a worker withdraws from its slot just before it leaves the database */
	while (((pid = tl_worker_exclude(dboid, start + EXCLUSION_US)) != 0 ||
			(last != 0 && BackendPidGetProc(last) != NULL)) &&
		   tl_monotonic() < start + WORKER_PATIENCE_US)
	{
		last = pid != 0 ? pid : last;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 CHECK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * No callback runs at COMMIT PREPARED, so this function does for the prepared
 * transaction what its commit asks for: the session may not know it, hence the
 * worker looks at all rows, and beats look at the table again.  It cannot fail.
 * Returns whether a worker serves the database.
 */
static bool
tell_of_prepared(bool commit)
{
	char		empty[1] = "";
	StringInfoData nothing = {.data = empty};
	TlDatabase *db;
	bool		served;

	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	db = tl_database_find(MyDatabaseId, false);
	served = db != NULL && db->worker.pid != 0;
	LWLockRelease(&tl_shared->directory);
	if (db != NULL)
	{
		if (commit)
			tl_lease_move_database();
		tl_mailbox_post(db, &nothing, true, commit, PG_INT64_MIN);
	}
	tl_due_withdraw();
	committing_prepared = false;
	return served;
}

static void
end_prepared(uint64 name, bool commit)
{
	tl_worker_end_prepared(name, commit);
	if (tell_of_prepared(commit) || !commit)
		return;
	/* it may have created the extension */
	AcceptInvalidationMessages();
	if (OidIsValid(tl_extension_oid()))
		tl_worker_want(MyDatabaseId);
}

static void
utility(PlannedStmt *pstmt, const char *query, bool read_only,
		ProcessUtilityContext context, ParamListInfo params,
		QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *node = pstmt->utilityStmt;
	/* the end of a transaction may free the statement */
	NodeTag		tag = nodeTag(node);
	TransactionStmtKind kind = TRANS_STMT_BEGIN;
	uint64		name = 0;
	Oid			extension = InvalidOid;
	Oid			concerned = InvalidOid;
	const char *freed = NULL;

	/* in a process without a database nothing of this can happen */
	if (tl_shared == NULL || !OidIsValid(MyDatabaseId))
		tag = T_Invalid;
	else if (tag == T_TransactionStmt)
	{
		const char *gid = ((TransactionStmt *) node)->gid;

		kind = ((TransactionStmt *) node)->kind;
		if (gid != NULL)
			name = hash_bytes_extended((unsigned char *) gid, strlen(gid), MyDatabaseId) | 1;
		/* the transaction is prepared after this command returns */
		if (kind == TRANS_STMT_PREPARE)
			preparing = name;
	}
	else if (tag == T_CreateExtensionStmt)
		/* IF NOT EXISTS may create none, and CASCADE create ours unnamed */
		extension = get_extension_oid(TL_EXTENSION, true);
	else
		classify(node, &concerned, &freed);

	if (freed != NULL)
		free_database(node, freed, context == PROCESS_UTILITY_TOPLEVEL);
	if (kind == TRANS_STMT_COMMIT_PREPARED)
	{
		committing_prepared = true;
		tl_due_announce(PG_INT64_MIN);
	}
	(prev_utility ? prev_utility : standard_ProcessUtility)
		(pstmt, query, read_only, context, params, env, dest, qc);

	if (kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED)
		end_prepared(name, kind == TRANS_STMT_COMMIT_PREPARED);
	else if (tag == T_CreateExtensionStmt && get_extension_oid(TL_EXTENSION, true) != extension)
		concerned = MyDatabaseId;
	else if (tag == T_CreatedbStmt)
	{
		/* the new row is not visible before this */
		CommandCounterIncrement();
		concerned = get_database_oid(((CreatedbStmt *) node)->dbname, true);
	}
	else if (tag == T_CreateSubscriptionStmt)
		subscribing = tl_database() != NULL;
	if (OidIsValid(concerned))
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		wanted = list_append_unique_oid(wanted, concerned);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Nothing here can fail.  What a rolled-back savepoint noted costs a needless
 * look.
 */
static void
at_end_of_xact(XactEvent event, void *arg)
{
	ListCell   *cell;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_PREPARE && event != XACT_EVENT_ABORT)
		return;
	if (committing_prepared)
		(void) tell_of_prepared(true);
	foreach(cell, wanted)
	{
		if (event == XACT_EVENT_COMMIT)
			tl_worker_want(lfirst_oid(cell));
		else if (event == XACT_EVENT_PREPARE && preparing != 0)
			tl_worker_want_prepared(lfirst_oid(cell), preparing);
	}
	/* the worker would notice within ten seconds, and corrects this */
	if (subscribing && event == XACT_EVENT_COMMIT)
		pg_atomic_write_u32(&tl_my_database->recheck, 1);
	subscribing = false;
	wanted = NIL;
	preparing = 0;
	if (OidIsValid(excluded))
		tl_worker_readmit(excluded, dropping && event == XACT_EVENT_COMMIT);
	excluded = InvalidOid;
}

static void
at_end_of_subxact(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && committing_prepared)
		(void) tell_of_prepared(true);
}

void
tl_ddl_hook_init(void)
{
	prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = utility;
	RegisterXactCallback(at_end_of_xact, NULL);
	RegisterSubXactCallback(at_end_of_subxact, NULL);
}
