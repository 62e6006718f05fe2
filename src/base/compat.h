/*
 * compat.h
 *		The differences between PostgreSQL 15 and 19, so that no other file
 *		needs to know the version.
 */
#ifndef TL_COMPAT_H
#define TL_COMPAT_H

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parse_relation.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#if PG_VERSION_NUM < 150000
#error "turn_liveness needs PostgreSQL 15 or newer"
#endif

/* 19 declares get_database_name in utils/lsyscache.h, included above */
#if PG_VERSION_NUM < 190000
#include "commands/dbcommands.h"
#endif

/* 18 has pg_noreturn instead, which stands before the declaration */
#ifndef pg_attribute_noreturn
#define pg_attribute_noreturn() __attribute__((noreturn))
#endif

/* 15 declares it nowhere, 16 in fmgr.h */
extern PGDLLEXPORT void _PG_init(void);

/*
 * From 16 on, an update that is HOT but for summarizing indexes asks for new
 * entries in those only.
 */
#if PG_VERSION_NUM >= 160000
#define TlUpdateIndexes TU_UpdateIndexes
#else
#define TlUpdateIndexes bool
#endif

/* Make the index entries of a row that was inserted or updated. */
static inline List *
tl_insert_index_tuples_compat(ResultRelInfo *rri, TupleTableSlot *slot,
							  EState *estate, bool update, bool no_dup_error,
							  bool *spec_conflict, List *arbiters,
							  TlUpdateIndexes which)
{
#if PG_VERSION_NUM >= 190000
	return ExecInsertIndexTuples(rri, estate,
								 (update ? EIIT_IS_UPDATE : 0) |
								 (no_dup_error ? EIIT_NO_DUPE_ERROR : 0) |
								 (which == TU_Summarizing ? EIIT_ONLY_SUMMARIZING : 0),
								 slot, arbiters, spec_conflict);
#elif PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, update, no_dup_error,
								 spec_conflict, arbiters,
								 which == TU_Summarizing);
#else
	return ExecInsertIndexTuples(rri, slot, estate, update, no_dup_error,
								 spec_conflict, arbiters);
#endif
}

/*
 * ExecInsertIndexTuples asks the range table which columns an update touched.
 * An empty answer lets every index try bottom-up deletion, which serves tables
 * whose rows are updated once.
 */
static inline void
tl_init_range_table_compat(EState *estate, Relation rel)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
#if PG_VERSION_NUM >= 160000
	List	   *perminfos = NIL;
#endif

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rel);
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
#if PG_VERSION_NUM >= 160000
	(void) addRTEPermissionInfo(&perminfos, rte);
#endif
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), perminfos, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, list_make1(rte), perminfos);
#else
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

/* Does the update want index entries at all? */
static inline bool
tl_indexes_need_update_compat(TlUpdateIndexes which)
{
#if PG_VERSION_NUM >= 160000
	return which != TU_None;
#else
	return which;
#endif
}

#if PG_VERSION_NUM >= 160000
#define TL_INDEXES_ALL	TU_All
#else
#define TL_INDEXES_ALL	true
#endif

/* Begin a scan of an index. */
static inline IndexScanDesc
tl_index_beginscan_compat(Relation heap, Relation index, Snapshot snapshot,
						  int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0, SO_NONE);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/* Update a row as our own command; wait for a transaction that holds it. */
static inline TM_Result
tl_table_tuple_update_compat(Relation rel, ItemPointer tid, TupleTableSlot *slot,
							 Snapshot snapshot, TM_FailureData *failure,
							 LockTupleMode *lockmode, TlUpdateIndexes *which)
{
	return table_tuple_update(rel, tid, slot, GetCurrentCommandId(true),
#if PG_VERSION_NUM >= 190000
							  0,
#endif
							  snapshot, InvalidSnapshot, true,
							  failure, lockmode, which);
}

/* Delete a row as our own command; wait for a transaction that holds it. */
static inline TM_Result
tl_table_tuple_delete_compat(Relation rel, ItemPointer tid, Snapshot snapshot,
							 TM_FailureData *failure)
{
#if PG_VERSION_NUM >= 190000
	return table_tuple_delete(rel, tid, GetCurrentCommandId(true), 0, snapshot,
							  InvalidSnapshot, true, failure);
#else
	return table_tuple_delete(rel, tid, GetCurrentCommandId(true), snapshot,
							  InvalidSnapshot, true, failure, false);
#endif
}

/* 19 keeps the result of pushJsonbValue in the state */
#if PG_VERSION_NUM >= 190000
typedef JsonbInState TlJsonbState;
#else
typedef struct TlJsonbState
{
	JsonbParseState *parseState;
	JsonbValue *result;
} TlJsonbState;
#endif

/* Push a token; after the last one state->result is the whole value. */
static inline void
tl_push_jsonb_compat(TlJsonbState *state, JsonbIteratorToken token, JsonbValue *value)
{
#if PG_VERSION_NUM >= 190000
	pushJsonbValue(state, token, value);
#else
	state->result = pushJsonbValue(&state->parseState, token, value);
#endif
}

/*
 * Call another signal handler, such as die, from a handler declared with
 * SIGNAL_ARGS.  19 passes it the sender of the signal too.
 */
#if PG_VERSION_NUM >= 190000
#define tl_call_signal_handler_compat(handler) \
	handler(postgres_signal_arg, pg_siginfo)
#else
#define tl_call_signal_handler_compat(handler) \
	handler(postgres_signal_arg)
#endif

/* Release what an access method keeps for more inserts; from 17 on it may. */
static inline void
tl_index_insert_cleanup_compat(Relation index, IndexInfo *info)
{
#if PG_VERSION_NUM >= 170000
	index_insert_cleanup(index, info);
#endif
}

/* Is the user, or a role of the user's, the owner?  16 has one function. */
static inline bool
tl_owns_database_compat(Oid dboid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, dboid, GetUserId());
#else
	return pg_database_ownercheck(dboid, GetUserId());
#endif
}

/*
 * The core function is exported from 16 on; in 15, from some minor release on.
 */
static inline bool
tl_have_createdb_privilege_compat(void)
{
	HeapTuple	tuple;
	bool		result = superuser();

	if (result)
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return result;
}

/* the statistics system's count of a table's live rows; 0 if it has none */
static inline int64
tl_live_rows_compat(Oid relid)
{
	PgStat_StatTabEntry *entry = pgstat_fetch_stat_tabentry(relid);

#if PG_VERSION_NUM >= 160000
	return entry ? entry->live_tuples : 0;
#else
	return entry ? entry->n_live_tuples : 0;
#endif
}

/* Ask the memory for bytes that the caller reads in a moment. */
#if defined(__GNUC__)
#define tl_prefetch_compat(address) __builtin_prefetch(address)
#else
#define tl_prefetch_compat(address) ((void) 0)
#endif

/* from 19 on DROP DATABASE and its like end such a worker themselves */
#if PG_VERSION_NUM >= 190000
#define TL_BGWORKER_INTERRUPTIBLE_COMPAT	BGWORKER_INTERRUPTIBLE
#else
#define TL_BGWORKER_INTERRUPTIBLE_COMPAT	0
#endif

/*
 * Switch off a setting of 17 that would end a background worker in a long
 * transaction.
 */
static inline void
tl_no_transaction_timeout_compat(void)
{
#if PG_VERSION_NUM >= 170000
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#endif
}

#endif							/* TL_COMPAT_H */
