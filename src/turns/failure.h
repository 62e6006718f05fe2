/*
 * failure.h
 *		What every failure of a turn stores, and how the log tells of it.
 */
#ifndef TL_FAILURE_H
#define TL_FAILURE_H

#include "turns/election.h"

/* store the terminal error of a turn; returns the reply's id */
extern int64 tl_store_error(TlOutbox *outbox, TlElected *elected, const text *error,
							const text *error_code, char decided_by, int64 now);

/* a failure for the log; "turn_liveness.log_failures" asks for it */
extern char *tl_failure_line(const TlElected *elected, const text *error_code,
							 const char *decided_by);
extern void tl_log_failure(const char *line);

#endif							/* TL_FAILURE_H */
