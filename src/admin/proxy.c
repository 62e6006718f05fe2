/*
 * proxy.c
 *		Calls of PL/Proxy functions, each with a limit of time.
 *
 * In a proxy database (sql/install/turn_liveness_proxy.sql) each function that
 * goes to one node is turn_liveness_on_node().  It calls the PL/Proxy function
 * of the same arguments and of the same name with an underscore before it, in
 * the schema turn_liveness_nodes.
 *
 * PL/Proxy up to 2.12 looks at its query_timeout only when a node has sent
 * something, so it waits without end for a node that hangs.  A cancel does not
 * help: PL/Proxy then has libpq ask the node to cancel, and libpq waits as
 * long.  The backend therefore ends the wait by the timer of lock_timeout.
 * PL/Proxy does not take that error for a cancel, and drops the connection at
 * its next call.  The backend waits for no lock meanwhile but those of catalog
 * lookups.
 */
#include "base/turn_liveness.h"

#include "catalog/namespace.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "catalog/pg_proc.h"

#define NODES_SCHEMA	"turn_liveness_nodes"
#define DEFAULT_LIMIT	5		/* seconds */

PG_FUNCTION_INFO_V1(turn_liveness_on_node);

/* The query_timeout of the cluster, in seconds. */
static int
call_limit(void)
{
	ForeignServer *server = GetForeignServerByName(TL_EXTENSION, true);
	ListCell   *cell;

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no server \"%s\" names the nodes", TL_EXTENSION),
				 errhint("CREATE SERVER %s FOREIGN DATA WRAPPER plproxy "
						 "OPTIONS (p0 'host=...', p1 'host=...').", TL_EXTENSION)));
	/* cppcheck-suppress nullPointerRedundantCheck ; an error goes away */
	foreach(cell, server->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (pg_strcasecmp(option->defname, "query_timeout") == 0)
		{
			int			seconds = atoi(defGetString(option));

			if (seconds > 0)
				return Min(seconds, 24 * 3600);
		}
	}
	return DEFAULT_LIMIT;
}

/* The PL/Proxy function behind this one, looked up once for each call site. */
static FmgrInfo *
remote_function(FmgrInfo *flinfo)
{
	Oid			schema = get_namespace_oid(NODES_SCHEMA, false);
	HeapTuple	self = SearchSysCache1(PROCOID, ObjectIdGetDatum(flinfo->fn_oid));
	Form_pg_proc form;
	char	   *name;
	Oid			oid;

	if (!HeapTupleIsValid(self))
		elog(ERROR, "cache lookup failed for function %u", flinfo->fn_oid);
	form = (Form_pg_proc) GETSTRUCT(self);
	name = psprintf("_%s", NameStr(form->proname));
	oid = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
						  PointerGetDatum(&form->proargtypes), ObjectIdGetDatum(schema));
	ReleaseSysCache(self);
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s.%s does not exist", NODES_SCHEMA, name),
				 errhint("Load turn_liveness_proxy.sql again.")));

	flinfo->fn_extra = MemoryContextAlloc(flinfo->fn_mcxt, sizeof(FmgrInfo));
	fmgr_info_cxt(oid, flinfo->fn_extra, flinfo->fn_mcxt);
	return flinfo->fn_extra;
}

/*
 * PL/Proxy gives its own errors, and those of libpq, the code of an internal
 * error; to a caller they are the loss of a connection, and worth a repetition.
 * So is the node's own statement_timeout, whose code would make a caller's
 * block that serves the other nodes believe in a cancel of its own.
 */
static void
rethrow(ErrorData *error, bool timed_out, int limit)
{
	if (timed_out && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
	{
		error->sqlerrcode = ERRCODE_CONNECTION_FAILURE;
		error->message = psprintf("a node did not answer within %d s", limit);
		error->hint = pstrdup("The node may have done it nevertheless.");
	}
	else if (error->sqlerrcode == ERRCODE_INTERNAL_ERROR &&
			 strstr(error->message, "REMOTE (null)") != NULL)
	{
		error->sqlerrcode = ERRCODE_CONNECTION_FAILURE;
		error->message = pstrdup("the connection to a node was lost");
	}
	else if ((error->sqlerrcode == ERRCODE_INTERNAL_ERROR &&
			  strncmp(error->message, "PL/Proxy function", 17) == 0) ||
			 (error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
			  strstr(error->message, "REMOTE") != NULL))
		error->sqlerrcode = ERRCODE_CONNECTION_FAILURE;
	ReThrowError(error);
}

/* Each function of a proxy database that goes to one node. */
Datum
turn_liveness_on_node(PG_FUNCTION_ARGS)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;
	FmgrInfo   *remote = flinfo->fn_extra ? flinfo->fn_extra : remote_function(flinfo);
	MemoryContext context = CurrentMemoryContext;
	int			limit = call_limit();
	Datum		result = (Datum) 0;
	bool		timed_out;

	enable_timeout_after(LOCK_TIMEOUT, limit * 1000);
	fcinfo->flinfo = remote;
	PG_TRY();
	{
		result = FunctionCallInvoke(fcinfo);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		fcinfo->flinfo = flinfo;
		timed_out = !get_timeout_active(LOCK_TIMEOUT);
		disable_timeout(LOCK_TIMEOUT, false);
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		/* it fired while another error was on its way */
		if (timed_out && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			QueryCancelPending = false;
		rethrow(error, timed_out, limit);
	}
	PG_END_TRY();
	fcinfo->flinfo = flinfo;
	timed_out = !get_timeout_active(LOCK_TIMEOUT);
	disable_timeout(LOCK_TIMEOUT, false);
	/* the answer came just before the backend would have looked */
	if (timed_out)
		QueryCancelPending = false;
	return result;
}
