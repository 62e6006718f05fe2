/*
 * sweep.h
 *		Failing the turns that have lapsed.
 */
#ifndef TL_SWEEP_H
#define TL_SWEEP_H

/*
 * Fail the turns of deployments whose last session ended a reconnect window
 * ago; *next is when one that has to wait longer is to fail, or PG_INT64_MAX.
 */
extern int	tl_sweep_deaths(int64 now, int max, int64 *next);

#endif							/* TL_SWEEP_H */
