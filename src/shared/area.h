/*
 * area.h
 *		Shared memory: asked for at preload, laid out at start.
 */
#ifndef TL_AREA_H
#define TL_AREA_H

extern void tl_area_init(void);

#endif							/* TL_AREA_H */
