/*
 * clock_row.h
 *		The durable rows of the liveness clock, one for each home.  For clock.c only.
 */
#ifndef TL_CLOCK_ROW_H
#define TL_CLOCK_ROW_H

#include "storage/itemptr.h"

#define TL_CLOCK_SAVE_INTERVAL	(60 * TL_SECOND)
#define TL_CLOCK_SWEEP_IS_OFF	INT64CONST(-1)

typedef struct TlClockRow
{
	bool		found;			/* our own home's row, which the extension comes with ... */
	bool		written;		/* ... and which counts once it was written */
	bool		open;			/* our own transaction made or wrote it: it may yet roll back */
	ItemPointerData tid;
	int64		base;			/* of the greatest row, whosever it is */
	int64		mono;			/* the rest is of our own home's row */
	int64		own_base;
	int32		server;
	int64		start;
	int64		resumed;		/* sweep was turned on again; TL_CLOCK_SWEEP_IS_OFF, or 0 */
} TlClockRow;

extern void tl_clock_row_read(TlClockRow *row);
extern void tl_clock_row_write(TlClockRow *row, int64 now, int64 mono, int64 start);
extern int64 tl_clock_row_restored(const TlClockRow *row);
/* the clock without preload; and what tells the starts of the server apart there */
extern int64 tl_clock_row_now(const TlClockRow *row);
extern int32 tl_clock_row_server(void);
extern bool tl_clock_row_is_idle(void);

#endif							/* TL_CLOCK_ROW_H */
