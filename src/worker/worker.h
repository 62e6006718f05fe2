/*
 * worker.h
 *		The background worker of one database.
 */
#ifndef TL_WORKER_H
#define TL_WORKER_H

extern PGDLLEXPORT void tl_worker_main(Datum arg);

#endif							/* TL_WORKER_H */
