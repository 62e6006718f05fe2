/* What cppcheck has to know of PostgreSQL's headers, which it does not read. */
#define PG_VERSION_NUM	150000
#define PGDLLEXPORT
#define PG_FUNCTION_INFO_V1(function)	extern int info_##function
#define pg_attribute_aligned(a)
#define foreach(cell, list) \
	for ((cell) = list_head(list); (cell) != NULL; (cell) = lnext(list, cell))
#define pg_unreachable()	__builtin_unreachable()
#define PG_TRY()	if (1) {
#define PG_CATCH()	} else {
#define PG_FINALLY()	} {
#define PG_END_TRY()	}
