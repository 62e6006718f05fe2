/*
 * ddl_hook.h
 *		What the utility commands of other sessions mean to us.
 */
#ifndef TL_DDL_HOOK_H
#define TL_DDL_HOOK_H

/* from _PG_init, when preloaded and not in a binary upgrade */
extern void tl_ddl_hook_init(void);

#endif							/* TL_DDL_HOOK_H */
