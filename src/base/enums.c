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

/* The oid of a value; 55000 if the installed script does not know it. */
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

/*
 * The same from a cache that lasts until the extension may have been created
 * anew.
 */
static Oid
cached_oid(Oid *cache, uint32 *generation, int n, int value,
		   const char *type, const char *const *labels)
{
	if (*generation != tl_catalog_generation())
	{
		memset(cache, 0, n * sizeof(Oid));
		*generation = tl_catalog_generation();
	}
	if (!OidIsValid(cache[value]))
		cache[value] = value_oid(type, labels[value]);
	return cache[value];
}

Oid
tl_election_oid(TlElection value)
{
	static const char *const labels[] = {
		[TL_WON] = "won", [TL_LOST] = "lost", [TL_UNKNOWN] = "unknown"
	};
	static Oid	cache[lengthof(labels)];
	static uint32 generation = 0;

	return cached_oid(cache, &generation, lengthof(labels), value, "election", labels);
}

Oid
tl_arm_result_oid(TlArmResult value)
{
	static const char *const labels[] = {
		[TL_ARMED] = "armed", [TL_PENDING] = "pending", [TL_ANSWERED] = "answered"
	};
	static Oid	cache[lengthof(labels)];
	static uint32 generation = 0;

	return cached_oid(cache, &generation, lengthof(labels), value, "arm_result", labels);
}
