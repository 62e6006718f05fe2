/*
 * enums.c
 *		The values of our enum types, by their labels.
 */
#include "turn_liveness.h"

#include "catalog/namespace.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "enums.h"

static Oid
value_oid(const char *type, const char *label)
{
	Oid			typid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										CStringGetDatum(type),
										ObjectIdGetDatum(get_namespace_oid(TL_SCHEMA, false)));
	Oid			value = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
										ObjectIdGetDatum(typid), CStringGetDatum(label));

	if (!OidIsValid(value))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("type \"%s.%s\" has no value \"%s\"", TL_SCHEMA, type, label),
				 errhint("Bring the extension up to date with ALTER EXTENSION %s UPDATE.", TL_EXTENSION)));
	return value;
}

Oid
tl_election_oid(TlElection value)
{
	static const char *const labels[] = {
		[TL_WON] = "won", [TL_LOST] = "lost", [TL_UNKNOWN] = "unknown"
	};

	return value_oid("election", labels[value]);
}

Oid
tl_arm_result_oid(TlArmResult value)
{
	static const char *const labels[] = {
		[TL_ARMED] = "armed", [TL_PENDING] = "pending", [TL_ANSWERED] = "answered"
	};

	return value_oid("arm_result", labels[value]);
}
