/*
 * noop.c
 *		A C function that does nothing: what any call costs before heartbeat
 *		begins.  Same arguments and result as heartbeat.  And one that touches
 *		a part of shared memory, before a session's calls count.
 */
#include "postgres.h"

#include "fmgr.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(noop);
PG_FUNCTION_INFO_V1(touch);

Datum
noop(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(1);
}

/* Read a byte of each page of the part that pg_shmem_allocations calls so. */
Datum
touch(PG_FUNCTION_ARGS)
{
	int64		size = PG_GETARG_INT64(1);
	bool		found;
	volatile char *part = ShmemInitStruct(text_to_cstring(PG_GETARG_TEXT_PP(0)), size, &found);
	int64		sum = 0;
	int64		i;

	for (i = 0; i < size; i += 4096)
		sum += part[i];
	PG_RETURN_INT64(sum);
}
