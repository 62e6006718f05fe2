/*
 * worker_start.h
 *		The workers that the launcher started.  For the launcher's process only.
 */
#ifndef TL_WORKER_START_H
#define TL_WORKER_START_H

/* look after those that ended */
extern void tl_crew_reap(void);
/* one that we started for this slot lives, as far as we know */
extern bool tl_crew_has(int slot);
/* one may be started there now; the caller holds the directory */
extern bool tl_crew_can_start(int slot, int64 now);
/* so many are on their way that others had better wait */
extern bool tl_crew_is_full(void);
extern void tl_crew_start(int slot, Oid dboid, const char *name);
extern void tl_crew_note_no_shortage(void);

#endif							/* TL_WORKER_START_H */
