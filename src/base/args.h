/*
 * args.h
 *		Checks of what callers pass.
 */
#ifndef TL_ARGS_H
#define TL_ARGS_H

#include "fmgr.h"
#include "utils/array.h"
#include "utils/jsonb.h"

#define TL_UNIT_HINT \
	errhint("An interval without a unit is seconds: write '90 seconds' or '2 minutes'.")

/* 25006 on a standby or in a read-only transaction, before anything is done */
extern void tl_check_writable(const char *function);

/* text of 1 to 255 bytes; 22023 otherwise, also for NULL */
extern text *tl_arg_name(FunctionCallInfo fcinfo, int argno, const char *name);
/* is it 1 to 255 bytes long? */
extern bool tl_name_is_valid(const text *value);
/* a non-empty text that fits into a reply; 22023 or 54000 otherwise */
extern text *tl_arg_text(FunctionCallInfo fcinfo, int argno, const char *name);
/* the same, or NULL for a NULL */
#define tl_arg_optional_text(fcinfo, argno, name) \
	(PG_ARGISNULL(argno) ? NULL : tl_arg_text(fcinfo, argno, name))
#define tl_arg_optional_name(fcinfo, argno, name) \
	(PG_ARGISNULL(argno) ? NULL : tl_arg_name(fcinfo, argno, name))
/* a text of at most TL_MAX_REASON bytes (54000), or NULL for a NULL */
extern text *tl_arg_reason(FunctionCallInfo fcinfo, int argno, const char *name);

/* a turn that a caller names, and the generation that it holds; 0 = none */
typedef struct TlNamed
{
	text	   *message_id;		/* first: see tl_compare_texts */
	int32		generation;
} TlNamed;

/*
 * a text[] of valid names, sorted and without duplicates (an empty list is
 * 22023, more than TL_MAX_IDS elements are 54000), with the generations of
 * another argument (22023 if they are not as many, or differ for one id)
 */
extern TlNamed *tl_arg_turns(FunctionCallInfo fcinfo, int argno, int generations, int *n);
/* a generation that a caller holds; 0 for NULL, -1 for what no turn can have */
extern int32 tl_arg_generation(FunctionCallInfo fcinfo, int argno);
/* the elements of a list of generations, likewise; NULL for NULL */
extern int32 *tl_arg_generations(FunctionCallInfo fcinfo, int argno, int n);
/*
 * the elements of a text[], int4[] or int8[] of one dimension at most (2202E
 * otherwise); returns how many, 0 if the argument is NULL
 */
extern int	tl_arg_elements(FunctionCallInfo fcinfo, int argno, const char *name,
							Datum **elements, bool **nulls);
/*
 * elements of a one-dimensional array; NULL elements are NULL; n = 0 if the
 * argument is NULL
 */
extern text **tl_arg_text_array(FunctionCallInfo fcinfo, int argno, const char *name, int *n);
/* a JSON object of at most limit_kb kilobytes (54000) */
extern Jsonb *tl_arg_object(FunctionCallInfo fcinfo, int argno, const char *name,
							int limit_kb, const char *limit_setting);
/* milliseconds of an interval, 1 to 24 days (22023); NULL gives the default */
extern int32 tl_arg_milliseconds(FunctionCallInfo fcinfo, int argno, const char *name, int32 otherwise);
/* microseconds of an interval, not negative and finite (22023) */
extern int64 tl_interval_us(const Interval *interval, const char *name);

/* for qsort over text pointers, in the order of COLLATE "C" */
extern int	tl_compare_texts(const void *a, const void *b);

/*
 * a member of the routing; NULL if it lacks the key (22023 for a value that is
 * no address)
 */
extern text *tl_routing_text(Jsonb *routing, const char *key, bool is_name);
/* the routing's traceparent, if that is a text; NULL otherwise */
extern text *tl_routing_trace(Jsonb *routing);

#endif							/* TL_ARGS_H */
