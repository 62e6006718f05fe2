/*
 * failure.h
 *		What every failure of a turn stores, counts and logs.
 */
#ifndef TL_FAILURE_H
#define TL_FAILURE_H

#include "turns/election.h"

/* store the reply of a turn that was won */
extern void tl_store_error(TlOutbox *outbox, const text *deployment, TlElected *won,
						   const text *error, const text *error_code,
						   char decided_by, int64 now);
/* for LOG lines: what the setting asks for */
extern void tl_log_failure(const text *deployment, const text *message_id,
						   const char *code, const char *decided_by);

#endif							/* TL_FAILURE_H */
