/*
 * launcher.h
 *		The process that keeps a worker in each database that has the extension.
 */
#ifndef TL_LAUNCHER_H
#define TL_LAUNCHER_H

#include "shared/shmem.h"

/* from _PG_init, when preloaded and not in a binary upgrade */
extern void tl_launcher_register(void);
extern PGDLLEXPORT void tl_launcher_main(Datum arg);

/*
 * Something changed in that database: a worker shall look at it afresh, and
 * one that serves it already starts again.  Cannot fail, so it may be called
 * after a commit.
 */
extern void tl_database_want(Oid dboid);
/* its worker has failed: another one after a while; the caller holds the directory */
extern void tl_database_want_later(TlDatabase *db);
/* the same for every database that has, or would have, a worker */
extern void tl_database_want_all(void);

#endif							/* TL_LAUNCHER_H */
