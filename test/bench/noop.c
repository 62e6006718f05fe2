/*
 * noop.c
 *		A C function that does nothing: what any call costs before heartbeat
 *		begins.  Same arguments and result as heartbeat.
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(noop);

Datum
noop(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(1);
}
