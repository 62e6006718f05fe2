/*
 * notify.h
 *		Telling gateways what to look at.
 */
#ifndef TL_NOTIFY_H
#define TL_NOTIFY_H

#include "shared/mailbox.h"

/* gather names; the worker's, in its own memory */
extern void tl_notify_add(const TlMail *mail);
extern void tl_notify_add_all(void);	/* "look" */
extern int	tl_notify_pending(void);	/* how many names */
/* send what was gathered, in the current transaction */
extern void tl_notify_send(void);
/* a sweep without a worker: "look", if this transaction did or one is due */
extern void tl_notify_in_transaction(void);

#endif							/* TL_NOTIFY_H */
