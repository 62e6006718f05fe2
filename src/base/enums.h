/*
 * enums.h
 *		The values of our enum types.
 */
#ifndef TL_ENUMS_H
#define TL_ENUMS_H

typedef enum TlElection
{
	TL_WON,
	TL_LOST,					/* it has ended */
	TL_UNKNOWN					/* there is no such turn */
} TlElection;

typedef enum TlArmResult
{
	TL_ARMED,
	TL_PENDING,
	TL_ANSWERED
} TlArmResult;

/* 55000 if the installed script does not know the value */
extern Oid	tl_election_oid(TlElection value);
extern Oid	tl_arm_result_oid(TlArmResult value);

#endif							/* TL_ENUMS_H */
