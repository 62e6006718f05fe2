/*
 * retention.h
 *		The end of records that were kept long enough.
 */
#ifndef TL_RETENTION_H
#define TL_RETENTION_H

/*
 * Remove at most max_rows records in the current transaction; *gone is how many
 * went.  False, and nothing is done, if the caller does not wait and one of the
 * tables is locked.
 */
extern bool tl_retention_run(int max_rows, bool wait, int *gone);

#endif							/* TL_RETENTION_H */
