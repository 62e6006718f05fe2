/*
 * retention.h
 *		The end of records that were kept long enough.
 */
#ifndef TL_RETENTION_H
#define TL_RETENTION_H

/* at most that many in the current transaction; returns how many records went */
extern int	tl_retention_run(int max_rows);

#endif							/* TL_RETENTION_H */
