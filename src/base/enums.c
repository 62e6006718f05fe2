/*
 * enums.c
 *		The values of our enum types, by their labels.
 */
#include "base/turn_liveness.h"

#include "catalog/namespace.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "base/catalog.h"
#include "base/enums.h"

/* A value; the backend knows its oid until the extension may be another one. */
typedef struct Value
{
	const char *label;
	Oid			oid;
	uint32		generation;		/* of the catalog */
} Value;

static Oid
value_oid(const char *type, Value *value)
{
	Oid			typid;

	if (OidIsValid(value->oid) && value->generation == tl_catalog_generation())
		return value->oid;
	value->generation = tl_catalog_generation();
	typid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(type),
							ObjectIdGetDatum(get_namespace_oid(TL_SCHEMA, false)));
	value->oid = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
								 ObjectIdGetDatum(typid), CStringGetDatum(value->label));
	if (!OidIsValid(value->oid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("type \"%s.%s\" has no value \"%s\"", TL_SCHEMA, type, value->label),
				 errhint("Bring the extension up to date with ALTER EXTENSION %s UPDATE.", TL_EXTENSION)));
	return value->oid;
}

Oid
tl_election_oid(TlElection value)
{
	static Value values[] = {[TL_WON] = {"won"}, [TL_LOST] = {"lost"}, [TL_UNKNOWN] = {"unknown"}};

	return value_oid("election", &values[value]);
}

Oid
tl_arm_result_oid(TlArmResult value)
{
	static Value values[] = {
		[TL_ARMED] = {"armed"}, [TL_PENDING] = {"pending"}, [TL_ANSWERED] = {"answered"}
	};

	return value_oid("arm_result", &values[value]);
}
