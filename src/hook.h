/*
 * hook.h
 *		What other people's utility commands mean to us.
 */
#ifndef TL_HOOK_H
#define TL_HOOK_H

/* from _PG_init, when preloaded and not in a binary upgrade */
extern void tl_hook_init(void);

#endif							/* TL_HOOK_H */
