/*
 * grants.c
 *		grant_gateway, grant_worker, grant_monitor, and their revokes.
 *
 * What each kind of role may do stands in the tables below and nowhere else.
 * The statements run with the caller's rights, through SPI, with every name
 * qualified.  Only the owner of the extension may call these functions: from
 * anybody else GRANT would give a warning and grant nothing.
 *
 * A role can be of several kinds.  What another kind needs is granted again
 * after a revoke.  A gateway may do all that a worker may, so a role that is
 * both is known as a gateway; revoke_gateway takes all of it.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/args.h"
#include "store/rel.h"

typedef enum Kind
{
	GATEWAY = 1 << 0,
	WORKER = 1 << 1,
	MONITOR = 1 << 2
} Kind;

/* functions of ours are never overloaded: the name is enough */
static const struct
{
	const char *name;
	int			kinds;
}			functions[] =
{
	{"arm_turn", GATEWAY},
	{"heartbeat", GATEWAY | WORKER},
	{"heartbeats", GATEWAY | WORKER},
	{"commit_terminal_reply", GATEWAY | WORKER},
	{"fail_turn", GATEWAY},
	{"fail_deployment", GATEWAY},
	{"reject_turn", GATEWAY},
	{"discharge_turn", GATEWAY},
	{"has_live_turn", GATEWAY | WORKER},
	{"mark_provider_failed", GATEWAY},
	{"clear_provider_failed", GATEWAY},
	{"attach_worker", GATEWAY | WORKER},
	{"detach_worker", GATEWAY | WORKER},
	{"sweep_expired_turns", GATEWAY},
	{"read_replies", GATEWAY},
	{"claim_replies", GATEWAY},
	{"ack_replies", GATEWAY},
	{"release_replies", GATEWAY},
	{"retry_dead_reply", GATEWAY},
	/* inside the views, where the reader's privilege counts */
	{"clock_now", GATEWAY | MONITOR},
	{"turn_status", GATEWAY | MONITOR},
	{"stat_row", GATEWAY | MONITOR},
};

/* monitor: the columns of a view that show neither routing nor answers */
static const struct
{
	const char *name;
	const char *monitor;		/* NULL: all of it */
}			views[] =
{
	{"turns",
		"deployment, message_id, conversation_id, platform, organization_id, "
		"armed_at, first_beat, last_beat, deadline, state, error_code, reason"},
	{"replies",
		"reply_id, deployment, message_ids, conversation_id, platform, organization_id, "
		"outcome, error_code, decided_by, armed_at, first_beat, last_beat, created_at, "
		"state, attempt, gateway, claimed_at, due_at, delivered_at, last_error"},
	{"late_replies",
		"deployment, message_ids, conversation_id, verdict, created_at"},
	{"stat", NULL},
};

/* what tells which kinds a role is */
#define GATEWAY_FUNCTION	"arm_turn"
#define WORKER_FUNCTION		"commit_terminal_reply"
#define MONITOR_VIEW		"turns"
#define MONITOR_COLUMN		"deployment"

static Oid	arg_role(FunctionCallInfo fcinfo);
static void check_owner(void);
static bool acl_names(Datum acl, Oid role, AclMode privilege);
static bool may_execute(const char *function, Oid role);
static bool may_read_column(const char *view, const char *column, Oid role);
static int	kinds_of(Oid role);
static void run(const char *statement);
static void change(bool grant, Kind kind, const char *role);
static Datum grant_or_revoke(FunctionCallInfo fcinfo, const char *function, bool grant, Kind kind);

PG_FUNCTION_INFO_V1(turn_liveness_grant_gateway);
PG_FUNCTION_INFO_V1(turn_liveness_grant_worker);
PG_FUNCTION_INFO_V1(turn_liveness_grant_monitor);
PG_FUNCTION_INFO_V1(turn_liveness_revoke_gateway);
PG_FUNCTION_INFO_V1(turn_liveness_revoke_worker);
PG_FUNCTION_INFO_V1(turn_liveness_revoke_monitor);

/* A role, and not all of them. */
static Oid
arg_role(FunctionCallInfo fcinfo)
{
	Oid			role = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);

	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("role must name a role"),
				 errdetail("Neither NULL nor \"-\", which stands for PUBLIC, is accepted."),
				 errhint("Create a role for it and make others its members.")));
	return role;
}

static void
check_owner(void)
{
	Oid			extension = tl_extension_oid();

	if (!OidIsValid(extension))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" does not exist", TL_EXTENSION),
				 errhint("Install the extension in this database with CREATE EXTENSION.")));
	if (!tl_owns_extension_compat(extension))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_EXTENSION, TL_EXTENSION);
}

/*
 * Which kinds is it?  What was granted to the role itself tells, not what it
 * has as a member of others or as a superuser.
 */

static bool
acl_names(Datum acl, Oid role, AclMode privilege)
{
	Acl		   *list = DatumGetAclP(acl);
	int			i;

	for (i = 0; i < ACL_NUM(list); i++)
	{
		AclItem    *item = &ACL_DAT(list)[i];

		if (item->ai_grantee == role && (ACLITEM_GET_PRIVS(*item) & privilege) != 0)
			return true;
	}
	return false;
}

static bool
may_execute(const char *function, Oid role)
{
	FuncCandidateList found;
	HeapTuple	tuple;
	Datum		acl;
	bool		isnull;
	bool		result;

	found = FuncnameGetCandidates(list_make2(makeString(TL_SCHEMA), makeString(pstrdup(function))),
								  -1, NIL, false, false, false, true);
	if (found == NULL)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(found->oid));
	if (!HeapTupleIsValid(tuple))
		return false;
	acl = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proacl, &isnull);
	result = !isnull && acl_names(acl, role, ACL_EXECUTE);
	ReleaseSysCache(tuple);
	return result;
}

static bool
may_read_column(const char *view, const char *column, Oid role)
{
	Oid			relid = get_relname_relid(view, get_namespace_oid(TL_SCHEMA, false));
	HeapTuple	tuple;
	Datum		acl;
	bool		isnull;
	bool		result;

	tuple = SearchSysCacheAttName(relid, column);
	if (!HeapTupleIsValid(tuple))
		return false;
	acl = SysCacheGetAttr(ATTNAME, tuple, Anum_pg_attribute_attacl, &isnull);
	result = !isnull && acl_names(acl, role, ACL_SELECT);
	ReleaseSysCache(tuple);
	return result;
}

static int
kinds_of(Oid role)
{
	int			kinds = 0;

	if (may_execute(GATEWAY_FUNCTION, role))
		kinds |= GATEWAY;
	else if (may_execute(WORKER_FUNCTION, role))
		kinds |= WORKER;
	if (may_read_column(MONITOR_VIEW, MONITOR_COLUMN, role))
		kinds |= MONITOR;
	return kinds;
}

static void
run(const char *statement)
{
	int			result = SPI_execute(statement, false, 0);

	if (result != SPI_OK_UTILITY)
		elog(ERROR, "unexpected result of \"%s\": %s", statement, SPI_result_code_string(result));
}

/* Within SPI. */
static void
change(bool grant, Kind kind, const char *role)
{
	const char *verb = grant ? "GRANT" : "REVOKE";
	const char *direction = grant ? "TO" : "FROM";
	StringInfoData s;
	int			n = 0;
	int			i;

	initStringInfo(&s);
	appendStringInfo(&s, "%s USAGE ON SCHEMA %s %s %s", verb, TL_SCHEMA, direction, role);
	run(s.data);

	resetStringInfo(&s);
	appendStringInfo(&s, "%s EXECUTE ON FUNCTION ", verb);
	for (i = 0; i < lengthof(functions); i++)
		if (functions[i].kinds & kind)
			appendStringInfo(&s, "%s%s.%s", n++ > 0 ? ", " : "", TL_SCHEMA, functions[i].name);
	appendStringInfo(&s, " %s %s", direction, role);
	run(s.data);

	if (kind == WORKER)
		return;
	for (i = 0; i < lengthof(views); i++)
	{
		resetStringInfo(&s);
		appendStringInfo(&s, "%s SELECT", verb);
		if (kind == MONITOR && views[i].monitor != NULL)
			appendStringInfo(&s, " (%s)", views[i].monitor);
		appendStringInfo(&s, " ON %s.%s %s %s", TL_SCHEMA, views[i].name, direction, role);
		run(s.data);
	}
}

static Datum
grant_or_revoke(FunctionCallInfo fcinfo, const char *function, bool grant, Kind kind)
{
	Oid			role;
	const char *name;
	int			others;
	int			other;

	tl_check_writable(function);
	role = arg_role(fcinfo);
	check_owner();
	name = quote_identifier(GetUserNameFromId(role, false));
	others = kinds_of(role) & ~kind;
	SPI_connect();
	change(grant, kind, name);

	/* kinds overlap, and REVOKE knows privileges only */
	for (other = GATEWAY; !grant && other <= MONITOR; other <<= 1)
		if (others & other)
			change(true, other, name);
	SPI_finish();
	PG_RETURN_VOID();
}

Datum
turn_liveness_grant_gateway(PG_FUNCTION_ARGS)
{
	return grant_or_revoke(fcinfo, "grant_gateway()", true, GATEWAY);
}

Datum
turn_liveness_grant_worker(PG_FUNCTION_ARGS)
{
	return grant_or_revoke(fcinfo, "grant_worker()", true, WORKER);
}

Datum
turn_liveness_grant_monitor(PG_FUNCTION_ARGS)
{
	return grant_or_revoke(fcinfo, "grant_monitor()", true, MONITOR);
}

Datum
turn_liveness_revoke_gateway(PG_FUNCTION_ARGS)
{
	return grant_or_revoke(fcinfo, "revoke_gateway()", false, GATEWAY);
}

Datum
turn_liveness_revoke_worker(PG_FUNCTION_ARGS)
{
	return grant_or_revoke(fcinfo, "revoke_worker()", false, WORKER);
}

Datum
turn_liveness_revoke_monitor(PG_FUNCTION_ARGS)
{
	return grant_or_revoke(fcinfo, "revoke_monitor()", false, MONITOR);
}
