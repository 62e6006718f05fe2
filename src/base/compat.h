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
#include "commands/dbcommands.h"
#include "executor/executor.h"
#include "miscadmin.h"
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

/* 15 declares it nowhere, 16 in fmgr.h */
extern PGDLLEXPORT void _PG_init(void);

/*
 * From 16 on, an update that is HOT but for summarizing indexes asks for new
 * entries in those only.
 */
#if PG_VERSION_NUM < 160000
typedef bool TU_UpdateIndexes;
#define TU_None		false
#define TU_All		true
#define tl_wants_entry_compat(which, info)	(which)
#else
#define tl_wants_entry_compat(which, info) \
	((which) == TU_All || ((which) == TU_Summarizing && (info)->ii_Summarizing))
#endif

/* This process's place among all, from 0 on. */
#if PG_VERSION_NUM >= 170000
#define tl_proc_number_compat()	((int) MyProcNumber)
#else
#define tl_proc_number_compat()	((int) MyProc->pgprocno)
#endif

/* Begin a scan of an index. */
#if PG_VERSION_NUM >= 190000
#define tl_index_beginscan_compat(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0, SO_NONE)
#elif PG_VERSION_NUM >= 180000
#define tl_index_beginscan_compat(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define tl_index_beginscan_compat(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/*
 * Update or delete a row as our own command; an update waits for a transaction
 * that holds it, a delete may.
 */
#if PG_VERSION_NUM >= 190000
#define tl_table_tuple_update_compat(rel, tid, slot, snapshot, failure, lockmode, which) \
	table_tuple_update(rel, tid, slot, GetCurrentCommandId(true), 0, snapshot, \
					   InvalidSnapshot, true, failure, lockmode, which)
#define tl_table_tuple_delete_compat(rel, tid, snapshot, wait, failure) \
	table_tuple_delete(rel, tid, GetCurrentCommandId(true), 0, snapshot, \
					   InvalidSnapshot, wait, failure)
#else
#define tl_table_tuple_update_compat(rel, tid, slot, snapshot, failure, lockmode, which) \
	table_tuple_update(rel, tid, slot, GetCurrentCommandId(true), snapshot, \
					   InvalidSnapshot, true, failure, lockmode, which)
#define tl_table_tuple_delete_compat(rel, tid, snapshot, wait, failure) \
	table_tuple_delete(rel, tid, GetCurrentCommandId(true), snapshot, \
					   InvalidSnapshot, wait, failure, false)
#endif

/* From 17 on, an access method may keep something for more inserts. */
#if PG_VERSION_NUM < 170000
#define index_insert_cleanup(index, info)	((void) 0)
#endif

/*
 * After the last token, state->result is the whole value; 19 keeps it there by
 * itself.
 */
#if PG_VERSION_NUM >= 190000
#define TlJsonbState	JsonbInState
#define tl_push_jsonb_compat(state, token, value)	pushJsonbValue(state, token, value)
#else
typedef struct TlJsonbState
{
	JsonbParseState *parseState;
	JsonbValue *result;
} TlJsonbState;

#define tl_push_jsonb_compat(state, token, value) \
	((state)->result = pushJsonbValue(&(state)->parseState, token, value))
#endif

/*
 * Call another signal handler, such as die, from a handler declared with
 * SIGNAL_ARGS.  19 passes it the sender of the signal too.
 */
#if PG_VERSION_NUM >= 190000
#define tl_call_signal_handler_compat(handler)	handler(postgres_signal_arg, pg_siginfo)
#else
#define tl_call_signal_handler_compat(handler)	handler(postgres_signal_arg)
#endif

/* 16 has one such function for all kinds of objects. */
#if PG_VERSION_NUM < 160000
#define object_ownercheck(catalog, oid, role)	pg_database_ownercheck(oid, role)
#endif

/* From 19 on, DROP DATABASE and its like end such a worker themselves. */
#if PG_VERSION_NUM < 190000
#define BGWORKER_INTERRUPTIBLE	0
#endif

/* The core function is exported from 16 on. */
static inline bool
tl_have_createdb_privilege_compat(void)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool		result = HeapTupleIsValid(tuple) &&
		((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result || superuser();
}

#endif							/* TL_COMPAT_H */
