/*
 * sweep.h
 *		Failing the turns that have lapsed.
 */
#ifndef TL_SWEEP_H
#define TL_SWEEP_H

/* fail the turns of deployments whose last session ended before that time */
extern int	tl_sweep_deaths(int64 before, int max);

#endif							/* TL_SWEEP_H */
