/*
 * lease_key.h
 *		What a deployment, or one of its turns, is called in shared memory
 *		(lease_table.c).
 */
#ifndef TL_LEASE_KEY_H
#define TL_LEASE_KEY_H

/* a keyed hash; a deployment and its turns have the same h1 */
typedef struct TlLeaseKey
{
	uint64		h1;
	uint64		h2;
} TlLeaseKey;

#define tl_lease_key_equal(a, b)	((a).h1 == (b).h1 && (a).h2 == (b).h2)

extern TlLeaseKey tl_lease_key(const text *deployment);
extern TlLeaseKey tl_lease_turn_key(TlLeaseKey deployment, const text *message_id);

#endif							/* TL_LEASE_KEY_H */
