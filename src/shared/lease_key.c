/*
 * lease_key.c
 *		What a deployment, or one of its turns, is called in shared memory.
 */
#include "base/turn_liveness.h"

#include "common/hashfn.h"
#include "miscadmin.h"

#include "base/catalog.h"
#include "shared/database.h"
#include "shared/lease_key.h"

/* the seeds of this database and extension */
static uint64 seed1;
static uint64 seed2;
static Oid	seeded_extension = InvalidOid;

/* The seeds are secret, so that no caller can choose names that collide. */
TL_HOT TlLeaseKey
tl_lease_key(const text *deployment)
{
	TlLeaseKey	key;
	Oid			extension = tl_extension_oid();

	if (extension != seeded_extension)
	{
		uint64		where = ((uint64) MyDatabaseId << 32) | extension;

		seed1 = hash_bytes_extended((unsigned char *) &where, sizeof(where),
									tl_shared ? tl_shared->seeds[0] : 0);
		seed2 = hash_bytes_extended((unsigned char *) &where, sizeof(where),
									tl_shared ? tl_shared->seeds[1] : 1);
		seeded_extension = extension;
	}
	key.h1 = hash_bytes_extended((const unsigned char *) VARDATA_ANY(deployment),
								 VARSIZE_ANY_EXHDR(deployment), seed1);
	key.h2 = hash_bytes_extended((const unsigned char *) VARDATA_ANY(deployment),
								 VARSIZE_ANY_EXHDR(deployment), seed2);
	return key;
}

TlLeaseKey
tl_lease_turn_key(TlLeaseKey deployment, const text *message_id)
{
	TlLeaseKey	key;

	key.h1 = deployment.h1;
	key.h2 = hash_bytes_extended((const unsigned char *) VARDATA_ANY(message_id),
								 VARSIZE_ANY_EXHDR(message_id),
								 deployment.h2 ^ (tl_shared ? tl_shared->seeds[2] : 2));
	return key;
}
