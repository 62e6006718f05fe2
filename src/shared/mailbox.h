/*
 * mailbox.h
 *		What committed transactions tell the worker of their database.
 */
#ifndef TL_MAILBOX_H
#define TL_MAILBOX_H

#include "lib/stringinfo.h"
#include "storage/itemptr.h"

#include "rules/deadline.h"
#include "shared/lease_key.h"
#include "shared/database.h"

typedef enum TlMailType
{
	TL_MAIL_WATCH,				/* TlWatch: an owed row to keep an eye on */
	TL_MAIL_REPLY				/* conversation, platform: something is due or ended */
} TlMailType;

/* all that the watch list needs of a row */
typedef struct TlWatch
{
	ItemPointerData tid;
	TlLeaseKey	deployment;
	TlLeaseKey	turn;
	TlTimes		times;
	bool		fresh;			/* an arm, not a later change of the row */
	int64		visible;		/* when its transaction had committed */
} TlWatch;

/* append a message to a letter, in a transaction's own memory */
extern void tl_mail_watch(StringInfo letter, const TlWatch *watch);
/*
 * false: a row that our functions did not write has a name too long for a
 * message
 */
extern bool tl_mail_reply(StringInfo letter, const char *conversation, int clen,
						  const char *platform, int plen);

/* after the commit: note when it was */
extern void tl_mail_stamp(StringInfo letter, int64 now);
/* post a letter after the commit: cannot fail; a full box raises look flags */
extern void tl_mailbox_post(TlDatabase *db, const StringInfo letter, bool look_turns, bool look_replies);

/* for the worker: take everything; true if there was something */
extern bool tl_mailbox_take(TlDatabase *db, StringInfo letter, bool *look_turns, bool *look_replies);
/*
 * the worker sleeps until then; wake: a letter for which it is to wake sets its
 * latch
 */
extern void tl_mailbox_arm_latch(TlDatabase *db, bool wake, int64 until);
/* walk over a letter; *at starts at 0 */
typedef struct TlMail
{
	TlMailType	type;
	TlWatch		watch;
	const char *conversation;
	int			conversation_len;
	const char *platform;
	int			platform_len;
} TlMail;
extern bool tl_mail_next(const StringInfo letter, int *at, TlMail *mail);

#endif							/* TL_MAILBOX_H */
