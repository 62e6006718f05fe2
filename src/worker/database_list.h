/*
 * database_list.h
 *		Which databases there are.  For the launcher's process only.
 */
#ifndef TL_DATABASE_LIST_H
#define TL_DATABASE_LIST_H

/* there is a database to look at, or to look for */
extern bool tl_census_is_due(void);
/* read pg_database and start workers; allocates in the current memory context */
extern void tl_census_round(void);
/* some are left for the next round */
extern bool tl_census_goes_on(void);
/* when to look again for a slot for a database that found none; PG_INT64_MAX for never */
extern int64 tl_census_next_retry(void);

#endif							/* TL_DATABASE_LIST_H */
