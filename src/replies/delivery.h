/*
 * delivery.h
 *		The life of a stored reply: due, notified of, gone.
 */
#ifndef TL_DELIVERY_H
#define TL_DELIVERY_H

#include "shared/mailbox.h"
#include "store/rel.h"

/* the next platform (NULL: the first) of that index; frees this one */
extern text *tl_delivery_next_platform(TlRel *deliveries, TlIndex index, text *platform,
									   Snapshot snapshot);

/*
 * Note for the listeners what became due again after one time and until the
 * other; *next is when the next reply will, PG_INT64_MAX for never.  False, and
 * nothing is done, if the caller does not wait and the table is locked.
 */
extern bool tl_delivery_due_again(int64 after, int64 until, bool wait, int64 *next);

/*
 * parking.c: the worker notes of which claims it was told, or that it may have
 * missed some.
 */
extern void tl_parking_note(const TlMail *mail, int64 now);
extern void tl_parking_note_all(void);
/* when tl_parking_run() has something to do; PG_INT64_MAX for never */
extern int64 tl_parking_next(void);
/*
 * Park what is still claimed of a batch.  False, and nothing is done, if the
 * caller does not wait and the table is locked.
 */
extern bool tl_parking_run(int64 now, bool wait);

/*
 * retention.c: remove at most max_rows records in the current transaction;
 * *pause is how long the next batch can wait.  False, likewise, if a table is
 * locked.
 */
extern bool tl_retention_run(int max_rows, bool wait, int64 *pause);

/* notify.c: gather names; the worker's, in its own memory */
extern void tl_notify_add(const TlMail *mail);
extern void tl_notify_add_all(void);	/* "look" */
extern int	tl_notify_pending(void);	/* how many names */
/* send what was gathered, in the current transaction */
extern void tl_notify_send(void);
/* a sweep without a worker: "look", if a reply is open */
extern void tl_notify_in_transaction(bool look);

#endif							/* TL_DELIVERY_H */
