/*
 * prepared.h
 *		What prepared transactions lead to once somebody ends them.
 */
#ifndef TL_PREPARED_H
#define TL_PREPARED_H

#include "nodes/parsenodes.h"
#include "shared/shmem.h"

extern Size tl_prepared_shmem_size(void);
extern void tl_prepared_shmem_startup(int tranche);

/* around the command, by the utility hook: what it is called, what became of it */
extern void tl_prepared_begin(TransactionStmt *stmt);
extern void tl_prepared_end(TransactionStmt *stmt);

/*
 * At XACT_EVENT_PREPARE, where nothing may fail: its commit counts so many, and
 * changes what decides about the worker of that database (InvalidOid: of any).
 */
extern void tl_prepared_count(const uint32 *counts);
extern void tl_prepared_want(Oid dboid);

#endif							/* TL_PREPARED_H */
