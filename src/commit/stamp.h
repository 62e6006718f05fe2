/*
 * stamp.h
 *		Rows of turns that become visible later than they were armed.
 */
#ifndef TL_STAMP_H
#define TL_STAMP_H

/* from _PG_init: registers a callback before commit and prepare */
extern void tl_stamp_init(void);

#endif							/* TL_STAMP_H */
