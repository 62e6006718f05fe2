/*
 * ddl_hook.c
 *		What the utility commands of other sessions mean to us.
 *
 * Two things are done here, both in the session that runs the command:
 *
 * 1. A command that decides whether a database needs a worker (CREATE and ALTER
 *    EXTENSION, ALTER DATABASE ... SET, CREATE DATABASE, ...) is noted, and the
 *    launcher hears of it once it is committed.  PREPARE TRANSACTION keeps the
 *    notes in shared memory, under the identifier of the transaction, for the
 *    session that runs COMMIT PREPARED.
 *
 * 2. Commands that need a database without connections (DROP, RENAME, SET
 *    TABLESPACE, and the template of CREATE DATABASE) keep our worker out
 *    while they run: ddl_exclusion.c.  A session that may not run the command
 *    must not be able to end the worker, so privilege and transaction block are
 *    checked first, by the rules of dbcommands.c.
 *
 * DROP EXTENSION needs nothing of us: it locks the extension, which the worker
 * locks in each of its transactions, and so waits for the worker.  It locks the
 * tables in an order of its own, and may be the victim of a deadlock once.
 *
 * Rules: any other command costs one switch.  After a commit only shared memory
 * is changed and signals are sent.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "admin/ddl_exclusion.h"
#include "admin/ddl_hook.h"
#include "base/catalog.h"
#include "shared/lease.h"
#include "shared/mailbox.h"
#include "shared/worker_slot.h"

/* what a utility hook is called with, to be handed on */
typedef struct Command
{
	PlannedStmt *pstmt;
	const char *query;
	bool		read_only;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *env;
	DestReceiver *dest;
	QueryCompletion *qc;
} Command;

static ProcessUtility_hook_type prev_utility = NULL;

/* databases to look at afresh once this transaction is committed; in its memory */
static List *wanted = NIL;
static uint64 preparing = 0;	/* hash of the identifier in PREPARE TRANSACTION */

static void utility(PlannedStmt *pstmt, const char *query, bool read_only,
					ProcessUtilityContext context, ParamListInfo params,
					QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc);
static void run(Command *command);
static void run_transaction(Command *command, TransactionStmt *stmt);
static void run_excluded(Command *command, Oid dboid, bool dropping);
static void keep_prepared(void);
static void take_prepared(uint64 name, bool commit);
static void at_end_of_xact(XactEvent event, void *arg);
static void want(Oid dboid);
static void want_by_name(const char *name);
static bool is_our_setting(VariableSetStmt *stmt);
static bool is_our_extension(List *names);
static DefElem *find_option(List *options, const char *name);
static Oid	database_to_drop(DropdbStmt *stmt);
static Oid	database_to_rename(RenameStmt *stmt);
static Oid	database_to_move(AlterDatabaseStmt *stmt);
static Oid	database_to_copy(CreatedbStmt *stmt);

void
tl_ddl_hook_init(void)
{
	prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = utility;
	RegisterXactCallback(at_end_of_xact, NULL);
}

static void
run(Command *c)
{
	(prev_utility ? prev_utility : standard_ProcessUtility)
		(c->pstmt, c->query, c->read_only, c->context, c->params, c->env, c->dest, c->qc);
}

static void
utility(PlannedStmt *pstmt, const char *query, bool read_only,
		ProcessUtilityContext context, ParamListInfo params,
		QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Command		command = {pstmt, query, read_only, context, params, env, dest, qc};
	Node	   *node = pstmt->utilityStmt;
	bool		top = context == PROCESS_UTILITY_TOPLEVEL;
	Oid			dboid;

	/* in a process without a database nothing of this can happen */
	if (tl_shared == NULL || !OidIsValid(MyDatabaseId))
	{
		run(&command);
		return;
	}

	switch (nodeTag(node))
	{
		case T_CreateExtensionStmt:
			/* IF NOT EXISTS creates none, and CASCADE may create ours without naming it */
			dboid = get_extension_oid(TL_EXTENSION, true);
			run(&command);
			if (get_extension_oid(TL_EXTENSION, true) != dboid)
				want(MyDatabaseId);
			break;

		case T_AlterExtensionStmt:
			run(&command);
			if (strcmp(((AlterExtensionStmt *) node)->extname, TL_EXTENSION) == 0)
				want(MyDatabaseId);
			break;

		case T_DropStmt:
			if (((DropStmt *) node)->removeType == OBJECT_EXTENSION &&
				is_our_extension(((DropStmt *) node)->objects))
			{
				run(&command);
				/* an idle worker would not notice it for long */
				want(MyDatabaseId);
			}
			else
				run(&command);
			break;

		case T_AlterDatabaseSetStmt:
			run(&command);
			if (is_our_setting(((AlterDatabaseSetStmt *) node)->setstmt))
				want_by_name(((AlterDatabaseSetStmt *) node)->dbname);
			break;

		case T_CreatedbStmt:
			dboid = database_to_copy((CreatedbStmt *) node);
			if (OidIsValid(dboid))
			{
				PreventInTransactionBlock(top, "CREATE DATABASE");
				run_excluded(&command, dboid, false);
			}
			else
				run(&command);
			/* the new row is not visible before this */
			CommandCounterIncrement();
			want_by_name(((CreatedbStmt *) node)->dbname);
			break;

		case T_DropdbStmt:
			dboid = database_to_drop((DropdbStmt *) node);
			if (OidIsValid(dboid))
			{
				PreventInTransactionBlock(top, "DROP DATABASE");
				run_excluded(&command, dboid, true);
			}
			else
				run(&command);
			break;

		case T_AlterDatabaseStmt:
			dboid = database_to_move((AlterDatabaseStmt *) node);
			if (OidIsValid(dboid))
			{
				PreventInTransactionBlock(top, "ALTER DATABASE SET TABLESPACE");
				run_excluded(&command, dboid, false);
			}
			else
			{
				run(&command);
				if (find_option(((AlterDatabaseStmt *) node)->options, "allow_connections") != NULL ||
					find_option(((AlterDatabaseStmt *) node)->options, "is_template") != NULL)
					want_by_name(((AlterDatabaseStmt *) node)->dbname);
			}
			break;

		case T_RenameStmt:
			dboid = database_to_rename((RenameStmt *) node);
			if (OidIsValid(dboid))
				run_excluded(&command, dboid, false);
			else
				run(&command);
			break;

		case T_TransactionStmt:
			run_transaction(&command, (TransactionStmt *) node);
			break;

		default:
			run(&command);
			break;
	}
}

/*
 * Run a transaction command.  No callback runs at COMMIT PREPARED, so this
 * function does for the prepared transaction what its commit asks for: the
 * session may not know it, hence the worker looks at all rows, and beats look
 * at the table again.
 */
static void
run_transaction(Command *command, TransactionStmt *stmt)
{
	bool		commit = stmt->kind == TRANS_STMT_COMMIT_PREPARED;
	char		empty[1] = "";
	StringInfoData nothing = {.data = empty};
	TlDatabase *db;
	uint64		name = 0;
	bool		served;

	if (stmt->gid != NULL)
		name = hash_bytes_extended((const unsigned char *) stmt->gid, strlen(stmt->gid),
								   MyDatabaseId) | 1;
	/* the transaction is prepared after this command has returned */
	if (stmt->kind == TRANS_STMT_PREPARE)
		preparing = name;
	run(command);
	if (!commit && stmt->kind != TRANS_STMT_ROLLBACK_PREPARED)
		return;

	take_prepared(name, commit);
	LWLockAcquire(&tl_shared->directory, LW_SHARED);
	db = tl_database_find(MyDatabaseId, false);
	served = db != NULL && db->worker.pid != 0;
	LWLockRelease(&tl_shared->directory);
	if (db != NULL)
	{
		if (commit)
			tl_lease_move_database();
		tl_mailbox_post(db, &nothing, true, commit);
	}

	/* it may have created the extension */
	if (commit && !served)
	{
		AcceptInvalidationMessages();
		if (OidIsValid(tl_extension_oid()))
			tl_worker_want(MyDatabaseId);
	}
}

/*
 * At PREPARE, where nothing may fail: keep what the commit of the transaction
 * will ask for.  A restart of the server forgets it; an entry that was left by
 * an earlier transaction of the same name goes.
 */
static void
keep_prepared(void)
{
	ListCell   *cell;

	take_prepared(preparing, false);
	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	foreach(cell, wanted)
	{
		TlPreparedDdl *entry = &tl_shared->prepared[tl_shared->next_prepared++ % TL_MAX_PREPARED];

		entry->name = preparing;
		entry->dboid = lfirst_oid(cell);
	}
	LWLockRelease(&tl_shared->directory);
}

/* Forget what this prepared transaction asks for; if it was committed, do it. */
static void
take_prepared(uint64 name, bool commit)
{
	Oid			dboids[TL_MAX_PREPARED];
	int			n = 0;
	int			i;

	LWLockAcquire(&tl_shared->directory, LW_EXCLUSIVE);
	for (i = 0; i < TL_MAX_PREPARED; i++)
		if (tl_shared->prepared[i].name == name)
		{
			dboids[n++] = tl_shared->prepared[i].dboid;
			tl_shared->prepared[i].name = 0;
		}
	LWLockRelease(&tl_shared->directory);
	for (i = 0; i < n && commit; i++)
		tl_worker_want(dboids[i]);
}

/*
 * Nothing here can fail.  What a rolled-back savepoint noted costs a needless
 * look.
 */
static void
at_end_of_xact(XactEvent event, void *arg)
{
	ListCell   *cell;

	if (event == XACT_EVENT_COMMIT)
	{
		foreach(cell, wanted)
			tl_worker_want(lfirst_oid(cell));
	}
	else if (event == XACT_EVENT_PREPARE && preparing != 0)
		keep_prepared();
	else if (event != XACT_EVENT_ABORT)
		return;
	wanted = NIL;
	preparing = 0;
}

static void
want(Oid dboid)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	wanted = list_append_unique_oid(wanted, dboid);
	MemoryContextSwitchTo(old);
}

static void
want_by_name(const char *name)
{
	Oid			dboid = get_database_oid(name, true);

	if (OidIsValid(dboid))
		want(dboid);
}

static bool
is_our_setting(VariableSetStmt *stmt)
{
	if (stmt->kind == VAR_RESET_ALL)
		return true;
	return stmt->name != NULL &&
		pg_strncasecmp(stmt->name, TL_EXTENSION ".", strlen(TL_EXTENSION ".")) == 0;
}

static bool
is_our_extension(List *names)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(strVal(lfirst(lc)), TL_EXTENSION) == 0)
			return true;
	return false;
}

static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			return option;
	}
	return NULL;
}

/*
 * Which database must be free of connections for this command; InvalidOid if
 * none, or if the command will refuse.  The rules are those of dbcommands.c.
 */
static Oid
database_to_drop(DropdbStmt *stmt)
{
	Oid			dboid = get_database_oid(stmt->dbname, true);

	if (!OidIsValid(dboid) || dboid == MyDatabaseId || !tl_owns_database_compat(dboid))
		return InvalidOid;
	return dboid;
}

static Oid
database_to_rename(RenameStmt *stmt)
{
	Oid			dboid;

	if (stmt->renameType != OBJECT_DATABASE)
		return InvalidOid;
	dboid = get_database_oid(stmt->subname, true);
	if (!OidIsValid(dboid) || dboid == MyDatabaseId ||
		!tl_owns_database_compat(dboid) || !tl_have_createdb_privilege_compat())
		return InvalidOid;
	return dboid;
}

static Oid
database_to_move(AlterDatabaseStmt *stmt)
{
	Oid			dboid;

	if (find_option(stmt->options, "tablespace") == NULL)
		return InvalidOid;
	dboid = get_database_oid(stmt->dbname, true);
	if (!OidIsValid(dboid) || dboid == MyDatabaseId || !tl_owns_database_compat(dboid))
		return InvalidOid;
	return dboid;
}

static Oid
database_to_copy(CreatedbStmt *stmt)
{
	DefElem    *option = find_option(stmt->options, "template");
	const char *name = option && option->arg ? defGetString(option) : "template1";
	Oid			dboid = get_database_oid(name, true);
	HeapTuple	tuple;
	bool		is_template;

	if (!OidIsValid(dboid) || !tl_have_createdb_privilege_compat())
		return InvalidOid;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	is_template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return is_template || tl_owns_database_compat(dboid) ? dboid : InvalidOid;
}

/* Run a command that needs this database without connections. */
static void
run_excluded(Command *command, Oid dboid, bool dropping)
{
	if (TL_DDL_ENDS_WORKERS_COMPAT)
		run(command);
	else
	{
		PG_TRY();
		{
			tl_ddl_exclude_worker(dboid);
			run(command);
		}
		PG_CATCH();
		{
			tl_worker_readmit(dboid, false);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	tl_worker_readmit(dboid, dropping);
}
