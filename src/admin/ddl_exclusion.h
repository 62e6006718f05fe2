/*
 * ddl_exclusion.h
 *		Keeps our worker out of a database while a command needs it to itself.
 */
#ifndef TL_DDL_EXCLUSION_H
#define TL_DDL_EXCLUSION_H

/* returns when our worker is gone, or after five seconds */
extern void tl_ddl_exclude_worker(Oid dboid);

#endif							/* TL_DDL_EXCLUSION_H */
