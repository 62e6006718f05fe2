/*
 * catalog.h
 *		Where our tables, indexes, the sequence and the enum values are.
 */
#ifndef TL_CATALOG_H
#define TL_CATALOG_H

typedef enum TlTable
{
	TL_TURN,
	TL_REPLY,
	TL_DELIVERY,
	TL_LATE_REPLY,
	TL_NTABLES,
	TL_REPLY_SEQUENCE = TL_NTABLES
} TlTable;

typedef enum TlIndex
{
	TL_IDX_TURN_KEY = TL_REPLY_SEQUENCE + 1,
	TL_IDX_TURN_OWED_DEPLOYMENT,
	TL_IDX_TURN_OWED_CHECK,
	TL_IDX_TURN_OWED_CONVERSATION,
	TL_IDX_TURN_OWED_LAPSED,
	TL_IDX_REPLY_KEY,
	TL_IDX_DELIVERY_KEY,
	TL_IDX_DELIVERY_OPEN_PLATFORM,
	TL_IDX_DELIVERY_PARKED,
	TL_IDX_DELIVERY_DEAD,
	TL_IDX_LATE_REPLY_KEY,
	TL_IDX_LATE_REPLY_KEPT,
	TL_NRELATIONS
} TlIndex;

typedef enum TlElection
{
	TL_WON,
	TL_LOST,					/* it has ended */
	TL_STALE,					/* the holder of another generation owes it */
	TL_UNKNOWN					/* there is no such turn */
} TlElection;

typedef enum TlArmResult
{
	TL_ARMED = TL_UNKNOWN + 1,
	TL_PENDING,
	TL_ANSWERED
} TlArmResult;

#define TL_BIT(relation)	(UINT32_C(1) << (relation))
/* the indexes that hold owed rows only */
#define TL_OWED_INDEXES	(TL_BIT(TL_IDX_TURN_OWED_DEPLOYMENT) | TL_BIT(TL_IDX_TURN_OWED_CHECK) | \
						 TL_BIT(TL_IDX_TURN_OWED_CONVERSATION) | TL_BIT(TL_IDX_TURN_OWED_LAPSED))

/* the extension of this database; InvalidOid if there is none */
extern Oid	tl_extension_oid(void);
/* 55000 if it is missing */
extern Oid	tl_table_oid(TlTable table);
/* the sequence of ids; 55000 if it is missing, or was altered */
extern Oid	tl_sequence_oid(void);
extern bool tl_sequence_is_altered(void);
/* 55000 if it is missing, not valid, or not as installed; its table is open */
extern Oid	tl_index_oid(TlIndex index);
/* TL_BIT of this index; 0 if it is none of ours */
extern uint32 tl_index_bit(Oid index);
/* 55000 if the installed script does not know the value */
#define tl_election_oid(value)		tl_enum_oid("election", value)
#define tl_arm_result_oid(value)	tl_enum_oid("arm_result", value)
extern Oid	tl_enum_oid(const char *type, int value);
/* moves on whenever an object that was looked up by name may have changed */
extern uint32 tl_catalog_generation(void);
extern void tl_catalog_init(void);

#endif							/* TL_CATALOG_H */
