/*
 * args.c
 *		Checks of what callers pass, before anything is written.
 *
 * No SQL function of ours is strict: a NULL that would silently make the whole
 * call a NULL is an error with a name instead.
 */
#include "base/turn_liveness.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "base/guc.h"

/* 22023 for an argument that is NULL. */
TL_HOT static void
check_not_null(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		tl_invalid_argument(errmsg("%s must not be null", name));
}

TL_HOT bool
tl_name_is_valid(const text *value)
{
	return VARSIZE_ANY_EXHDR(value) >= 1 && VARSIZE_ANY_EXHDR(value) <= TL_MAX_NAME;
}

TL_HOT text *
tl_arg_name(FunctionCallInfo fcinfo, int argno, const char *name)
{
	text	   *value;

	check_not_null(fcinfo, argno, name);
	value = PG_GETARG_TEXT_PP(argno);
	if (!tl_name_is_valid(value))
		tl_invalid_argument(errmsg("%s must be 1 to %d bytes long", name, TL_MAX_NAME),
							errdetail("It is %d bytes long.", (int) VARSIZE_ANY_EXHDR(value)));
	return value;
}

/* 54000 for a value that is over the limit of a setting, in kilobytes. */
static void
check_size(Size size, int limit_kb, const char *setting, const char *name)
{
	Size		limit = (Size) limit_kb * 1024;

	if (size > limit)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too large", name),
				 errdetail("It takes %zu bytes, \"%s\" allows %zu.", size, setting, limit),
				 errhint("Keep large contents elsewhere and send a reference, or raise the setting.")));
}

text *
tl_arg_text(FunctionCallInfo fcinfo, int argno, const char *name)
{
	text	   *value;

	check_not_null(fcinfo, argno, name);
	value = PG_GETARG_TEXT_PP(argno);
	if (VARSIZE_ANY_EXHDR(value) == 0)
		tl_invalid_argument(errmsg("%s must not be empty", name));
	check_size(VARSIZE_ANY_EXHDR(value), tl_max_reply_size, "turn_liveness.max_reply_size", name);
	return value;
}

TL_HOT int
tl_arg_elements(FunctionCallInfo fcinfo, int argno, const char *name,
				Datum **elements, bool **nulls)
{
	ArrayType  *array;
	int			n;

	if (PG_ARGISNULL(argno))
		return 0;
	array = PG_GETARG_ARRAYTYPE_P(argno);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be a one-dimensional array", name)));
	if (ARR_ELEMTYPE(array) == INT8OID)
		deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
						  elements, nulls, &n);
	else if (ARR_ELEMTYPE(array) == INT4OID)
		deconstruct_array(array, INT4OID, sizeof(int32), true, TYPALIGN_INT, elements, nulls, &n);
	else
		deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, elements, nulls, &n);
	return n;
}

TL_HOT text **
tl_arg_text_array(FunctionCallInfo fcinfo, int argno, const char *name, int *n)
{
	Datum	   *elements;
	bool	   *nulls;
	text	  **result;
	int			i;

	*n = tl_arg_elements(fcinfo, argno, name, &elements, &nulls);
	if (PG_ARGISNULL(argno))
		return NULL;
	result = palloc(sizeof(text *) * Max(*n, 1));
	for (i = 0; i < *n; i++)
		result[i] = nulls[i] ? NULL : DatumGetTextPP(elements[i]);
	return result;
}

/* The order of COLLATE "C": every function locks rows in this order. */
int
tl_compare_texts(const void *a, const void *b)
{
	const text *left = *(text *const *) a;
	const text *right = *(text *const *) b;
	int			llen = VARSIZE_ANY_EXHDR(left);
	int			rlen = VARSIZE_ANY_EXHDR(right);
	int			result = memcmp(VARDATA_ANY(left), VARDATA_ANY(right), Min(llen, rlen));

	return result != 0 ? result : llen - rlen;
}

/* A list by which functions lock rows: not empty, bounded, all of it names. */
TL_HOT static void
check_names(text **names, int n, const char *name)
{
	int			i;

	if (n == 0)
		tl_invalid_argument(errmsg("%s must not be null or empty", name));
	if (n > TL_MAX_IDS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s must not have more than %d elements", name, TL_MAX_IDS),
				 errdetail("It has %d.", n),
				 errhint("Spread them over several calls.")));
	for (i = 0; i < n; i++)
	{
		if (names[i] == NULL)
			tl_invalid_argument(errmsg("%s must not contain nulls", name));
		if (!tl_name_is_valid(names[i]))
			tl_invalid_argument(errmsg("each of %s must be 1 to %d bytes long", name, TL_MAX_NAME));
	}
}

/* A number that no turn has must not be taken for none. */
TL_HOT static int32
generation_of(int32 value)
{
	return value > 0 ? value : -1;
}

int32
tl_arg_generation(FunctionCallInfo fcinfo, int argno)
{
	return PG_ARGISNULL(argno) ? 0 : generation_of(PG_GETARG_INT32(argno));
}

TL_HOT int32 *
tl_arg_generations(FunctionCallInfo fcinfo, int argno, int n)
{
	Datum	   *elements;
	bool	   *nulls;
	int32	   *result;
	int			i;

	if (PG_ARGISNULL(argno))
		return NULL;
	if (tl_arg_elements(fcinfo, argno, "generations", &elements, &nulls) != n)
		tl_invalid_argument(errmsg("message_ids and generations must have the same length"),
							errhint("Pass NULL for an element whose generation does not matter."));
	result = palloc_extended(Max(n, 1) * sizeof(int32), MCXT_ALLOC_HUGE);
	for (i = 0; i < n; i++)
		result[i] = nulls[i] ? 0 : generation_of(DatumGetInt32(elements[i]));
	return result;
}

/* Most calls name one turn: they need no copy of the array. */
static inline bool
has_one_element(ArrayType *array)
{
	return ARR_NDIM(array) == 1 && ARR_DIMS(array)[0] == 1 && !ARR_HASNULL(array);
}

TL_HOT TlNamed *
tl_arg_turns(FunctionCallInfo fcinfo, int argno, int generations, int *n)
{
	bool		fenced = !PG_ARGISNULL(generations);
	text	   *name;
	int32		generation = 0;
	text	  **names = &name;
	int32	   *held = &generation;
	TlNamed    *result;
	int			i;
	int			kept = 0;

	if (!PG_ARGISNULL(argno) && has_one_element(PG_GETARG_ARRAYTYPE_P(argno)) &&
		(!fenced || has_one_element(PG_GETARG_ARRAYTYPE_P(generations))))
	{
		*n = 1;
		name = DatumGetTextPP(PointerGetDatum(ARR_DATA_PTR(PG_GETARG_ARRAYTYPE_P(argno))));
		if (fenced)
			generation = generation_of(*(int32 *) ARR_DATA_PTR(PG_GETARG_ARRAYTYPE_P(generations)));
	}
	else
	{
		names = tl_arg_text_array(fcinfo, argno, "message_ids", n);
		held = tl_arg_generations(fcinfo, generations, *n);
	}
	check_names(names, *n, "message_ids");
	result = palloc(*n * sizeof(TlNamed));
	for (i = 0; i < *n; i++)
		result[i] = (TlNamed) {names[i], held != NULL ? held[i] : 0};
	if (*n > 1)
		qsort(result, *n, sizeof(TlNamed), tl_compare_texts);
	for (i = 0; i < *n; i++)
		if (kept == 0 || tl_compare_texts(&result[kept - 1], &result[i]) != 0)
			result[kept++] = result[i];
		else if (result[kept - 1].generation != result[i].generation)
			tl_invalid_argument(errmsg("message_ids must not name a turn twice with different generations"));
	*n = kept;
	return result;
}

Jsonb *
tl_arg_object(FunctionCallInfo fcinfo, int argno, const char *name,
			  int limit_kb, const char *limit_setting)
{
	Jsonb	   *value;

	check_not_null(fcinfo, argno, name);
	/* the size is known before the value is fetched */
	check_size(toast_raw_datum_size(PG_GETARG_DATUM(argno)) - VARHDRSZ,
			   limit_kb, limit_setting, name);
	value = PG_GETARG_JSONB_P(argno);
	if (!JB_ROOT_IS_OBJECT(value))
		tl_invalid_argument(errmsg("%s must be a JSON object", name));
	return value;
}

int64
tl_interval_us(const Interval *interval, const char *name)
{
	double		us = (double) interval->time +
		((double) interval->day + (double) interval->month * 30.0) * USECS_PER_DAY;

	/* the infinite intervals of 17 are out of this range too */
	if (us < 0 || us > (double) PG_INT64_MAX / 2)
		tl_invalid_argument(errmsg("%s must be a finite interval that is not negative", name));
	return (int64) us;
}

int32
tl_arg_milliseconds(FunctionCallInfo fcinfo, int argno, const char *name, int32 otherwise)
{
	int64		ms;

	if (PG_ARGISNULL(argno))
		return otherwise;
	ms = tl_interval_us(PG_GETARG_INTERVAL_P(argno), name) / TL_MS;
	if (ms < 1 || ms > PG_INT32_MAX)
		tl_invalid_argument(errmsg("%s must be at least 1 millisecond and at most 24 days", name),
							TL_UNIT_HINT);
	return (int32) ms;
}

/*
 * A member of the routing.  An address (is_name) must be text that an index can
 * hold; an organization may be any text or a number.  JSON null is the same as
 * no key.
 */
text *
tl_routing_text(Jsonb *routing, const char *key, bool is_name)
{
	JsonbValue	value;
	text	   *result;

	if (getKeyJsonValueFromContainer(&routing->root, key, strlen(key), &value) == NULL ||
		value.type == jbvNull)
		return NULL;
	if (value.type == jbvString)
		result = cstring_to_text_with_len(value.val.string.val, value.val.string.len);
	else if (value.type == jbvNumeric && !is_name)
		result = cstring_to_text(DatumGetCString(
			DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric))));
	else
		tl_invalid_argument(errmsg("\"%s\" in the routing must be text%s", key,
								   is_name ? "" : " or a number"));
	if (is_name ? !tl_name_is_valid(result) : VARSIZE_ANY_EXHDR(result) > TL_MAX_NAME)
		tl_invalid_argument(errmsg("\"%s\" in the routing must be %d to %d bytes long",
								   key, is_name ? 1 : 0, TL_MAX_NAME));
	return result;
}

text *
tl_routing_trace(Jsonb *routing)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&routing->root, "traceparent", 11, &value) == NULL ||
		value.type != jbvString)
		return NULL;
	return cstring_to_text_with_len(value.val.string.val, value.val.string.len);
}

text *
tl_arg_reason(FunctionCallInfo fcinfo, int argno, const char *name)
{
	text	   *reason = tl_arg_optional_text(fcinfo, argno, name);

	if (reason != NULL && VARSIZE_ANY_EXHDR(reason) > TL_MAX_REASON)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too large", name),
				 errdetail("It takes %d bytes, %d are allowed.",
						   (int) VARSIZE_ANY_EXHDR(reason), TL_MAX_REASON)));
	return reason;
}
