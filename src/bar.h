/*
 * bar.h
 *		Keeps our worker out of a database while a command needs it to itself.
 */
#ifndef TL_BAR_H
#define TL_BAR_H

/* returns when our worker is gone, or after five seconds */
extern void tl_bar_raise(Oid dboid);
/* does nothing when none is up; dropped: the database is gone, and its slot with it */
extern void tl_bar_lower(bool dropped);

#endif							/* TL_BAR_H */
