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

static inline uint64
hash_text(const text *t, uint64 seed)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(t),
							   VARSIZE_ANY_EXHDR(t), seed);
}

/* The seeds are secret, so that no caller can choose names that collide. */
TL_HOT TlLeaseKey
tl_lease_key(const text *deployment)
{
	/* of this database and extension */
	static uint64 seeds[2];
	static Oid	seeded_extension = InvalidOid;
	Oid			extension = tl_extension_oid();

	if (extension != seeded_extension)
	{
		uint64		where = ((uint64) MyDatabaseId << 32) | extension;
		int			i;

		for (i = 0; i < 2; i++)
			seeds[i] = hash_bytes_extended((unsigned char *) &where, sizeof(where),
										   tl_shared ? tl_shared->seeds[i] : i);
		seeded_extension = extension;
	}
	return (TlLeaseKey) {hash_text(deployment, seeds[0]), hash_text(deployment, seeds[1])};
}

TlLeaseKey
tl_lease_turn_key(TlLeaseKey deployment, const text *message_id)
{
	uint64		seed = deployment.h2 ^ (tl_shared ? tl_shared->seeds[2] : 2);

	return (TlLeaseKey) {deployment.h1, hash_text(message_id, seed)};
}
