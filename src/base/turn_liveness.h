/*
 * turn_liveness.h
 *		What every file of the extension needs: names, limits, time units.
 *
 * Everything else stands in the header of the file that offers it.
 */
#ifndef TURN_LIVENESS_H
#define TURN_LIVENESS_H

#include "postgres.h"

#include "base/compat.h"

#define TL_EXTENSION	"turn_liveness"
#define TL_SCHEMA		"turn_liveness"

#define TL_MAX_NAME		255		/* bytes of a deployment, message id, ... */
#define TL_MAX_IDS		10000	/* message ids in one call */
#define TL_MAX_REASON	8192	/* bytes of a reason */

/* platform of a routing that names none; the view turns says the same */
#define TL_DEFAULT_PLATFORM	"api"

/*
 * The functions of the beat's path stand on few pages of code: a session that
 * was just switched to misses the caches less often.
 */
#define TL_HOT	pg_attribute_hot

/*
 * Ask the memory for a line that will be wanted soon.  The builtin asks for one
 * that can be written only on processors that the compiler is told of.  And GCC
 * drops calls of a function that merely prefetches, unless it has inlined them
 * before.
 */
static pg_attribute_always_inline void
tl_prefetch(void *line, bool write)
{
#ifdef __GNUC__
	if (!write)
		__builtin_prefetch(line);
	else
#ifdef __x86_64__
		__asm__ __volatile__("prefetchw %0" : : "m"(*(char *) line));
#else
		__builtin_prefetch(line, 1);
#endif
#endif
}

#define TL_MS			INT64CONST(1000)	/* microseconds */
#define TL_SECOND		INT64CONST(1000000)

/* 22023 and 55000; the parts are errmsg, errdetail and errhint */
#define tl_invalid_argument(...) \
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), __VA_ARGS__)
#define tl_not_as_installed(...) \
	ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), __VA_ARGS__)

/* turn.outcome (NULL is owed) and reply.outcome */
#define TL_OUTCOME_ANSWER		'a'
#define TL_OUTCOME_ERROR		'e'
#define TL_OUTCOME_DISCHARGED	'd'
/* reply.outcome only: the turn goes on */
#define TL_OUTCOME_UPDATE		'u'

/* reply.decided_by */
#define TL_DECIDED_REPLY		'r'
#define TL_DECIDED_FAIL			'f'
#define TL_DECIDED_SWEEP		's'
#define TL_DECIDED_SESSION		'w'
#define TL_DECIDED_REJECT		'j'
#define TL_DECIDED_DISCHARGE	'd'

/* error codes that the extension sets; tl_code_name() spells them */
typedef enum TlCode
{
	TL_CODE_UNRESPONSIVE,
	TL_CODE_NEVER_STARTED,
	TL_CODE_DIED,
	TL_CODE_TOO_LONG,
	TL_CODE_WAIT_EXPIRED,
	TL_NCODES
} TlCode;

#endif							/* TURN_LIVENESS_H */
