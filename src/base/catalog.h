/*
 * catalog.h
 *		Where our tables, indexes and the sequence are.
 */
#ifndef TL_CATALOG_H
#define TL_CATALOG_H

typedef enum TlTable
{
	TL_TURN,
	TL_REPLY,
	TL_DELIVERY,
	TL_LATE_REPLY,
	TL_NTABLES
} TlTable;

typedef enum TlIndex
{
	TL_IDX_TURN_KEY,
	TL_IDX_TURN_OWED_DEPLOYMENT,
	TL_IDX_TURN_OWED_CHECK,
	TL_IDX_TURN_OWED_CONVERSATION,
	TL_IDX_REPLY_KEY,
	TL_IDX_DELIVERY_KEY,
	TL_IDX_DELIVERY_OPEN_CONVERSATION,
	TL_IDX_DELIVERY_OPEN_PLATFORM,
	TL_IDX_DELIVERY_DELIVERED,
	TL_IDX_DELIVERY_DEAD,
	TL_IDX_LATE_REPLY_KEY,
	TL_IDX_LATE_REPLY_KEPT,
	TL_NINDEXES
} TlIndex;

#define TL_BIT(index)	(UINT32_C(1) << (index))
/* the indexes that hold owed rows only */
#define TL_OWED_INDEXES	(TL_BIT(TL_IDX_TURN_OWED_DEPLOYMENT) | TL_BIT(TL_IDX_TURN_OWED_CHECK) | \
						 TL_BIT(TL_IDX_TURN_OWED_CONVERSATION))

/* the extension of this database; InvalidOid if there is none */
extern Oid	tl_extension_oid(void);
extern Oid	tl_table_oid(TlTable table);
/*
 * 55000 if it is missing, not valid, or not as installed; the table must be
 * open
 */
extern Oid	tl_index_oid(TlIndex index);
/* TL_BIT of this index; 0 if it is none of ours */
extern uint32 tl_index_bit(Oid index);
extern Oid	tl_reply_sequence_oid(void);
/* moves on whenever an object that was looked up by name may have changed */
extern uint32 tl_catalog_generation(void);
extern void tl_catalog_init(void);

#endif							/* TL_CATALOG_H */
