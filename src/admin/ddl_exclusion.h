/*
 * ddl_exclusion.h
 *		Keeps our worker out of a database while a command needs it to itself.
 */
#ifndef TL_DDL_EXCLUSION_H
#define TL_DDL_EXCLUSION_H

/* returns when our worker is gone, or after five seconds */
extern void tl_ddl_exclude_worker(Oid dboid);
/* does nothing when none is up; dropped: the database is gone, and its slot with it */
extern void tl_ddl_readmit_worker(bool dropped);

#endif							/* TL_DDL_EXCLUSION_H */
