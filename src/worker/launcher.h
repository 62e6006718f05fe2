/*
 * launcher.h
 *		The process that keeps a worker in each database with the extension.
 */
#ifndef TL_LAUNCHER_H
#define TL_LAUNCHER_H

/* from _PG_init, when preloaded and not in a binary upgrade */
extern void tl_launcher_register(void);

#endif							/* TL_LAUNCHER_H */
