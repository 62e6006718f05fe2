/*
 * sweep_log.h
 *		What the log says of turns that a sweep fails, offers, or cannot take.
 */
#ifndef TL_SWEEP_LOG_H
#define TL_SWEEP_LOG_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "store/turn_row.h"

/* what the log is to say of a batch: a list of its messages */
typedef struct TlSweepLog
{
	MemoryContext context;		/* where they are kept */
	List	   *messages;		/* of StringInfo */
} TlSweepLog;

/* add a line: which turn, in whose hands, why, and after how long */
extern void tl_sweep_log(TlSweepLog *log, const TlTurn *turn, const char *verb, const char *code,
						 const TlVerdict *verdict, TlCode lapse, int64 now);
/* the batch is done: say it */
extern void tl_sweep_log_emit(const TlSweepLog *log);
/*
 * A transaction holds a turn that has lapsed: say so once, after a while.  The
 * caller keeps *since for the turn, which is 0 at first.
 */
extern void tl_sweep_held(int64 *since, const TlTurn *turn, int64 now);

#endif							/* TL_SWEEP_LOG_H */
