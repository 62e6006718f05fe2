/*
 * mailbox.h
 *		What committed transactions tell the worker of their database.
 */
#ifndef TL_MAILBOX_H
#define TL_MAILBOX_H

#include "lib/stringinfo.h"
#include "storage/itemptr.h"

#include "rules/deadline.h"
#include "shared/database.h"
#include "shared/lease_key.h"

typedef enum TlMailType
{
	TL_MAIL_WATCH,				/* an owed row to keep an eye on */
	TL_MAIL_ENDED,				/* its turn is owed no more */
	TL_MAIL_REPLY,				/* conversation, platform: due, or ended */
	TL_MAIL_LAPSED,				/* deployment: a turn of it is offered */
	TL_MAIL_CLAIMED				/* a reply was claimed: see parking.c */
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

/* a turn that ended, and the address of its row when it was owed last */
typedef struct TlEnded
{
	ItemPointerData tid;
	TlLeaseKey	turn;
	int64		begun;
} TlEnded;

/* a message as tl_mail_next() reads it */
typedef struct TlMail
{
	TlMailType	type;
	TlWatch		watch;
	TlEnded		ended;
	const char *conversation;	/* or the deployment */
	int			conversation_len;
	const char *platform;
	int			platform_len;
	int64		reply_id;
	int64		due;
} TlMail;

/* append a message to a letter, in a transaction's own memory */
extern void tl_mail_watch(StringInfo letter, const TlWatch *watch);
extern void tl_mail_ended(StringInfo letter, const TlEnded *ended);
/* a letter of which a part was rolled back ends no turn */
extern void tl_mail_void_ended(StringInfo letter);
/* false: a row that is not of our functions has a name too long */
extern bool tl_mail_reply(StringInfo letter, const char *conversation, int clen,
						  const char *platform, int plen);
extern bool tl_mail_lapsed(StringInfo letter, const char *deployment, int len);
extern void tl_mail_claimed(StringInfo letter, int64 reply_id, int64 due);
/* walk over a letter; *at starts at 0 */
extern bool tl_mail_next(const StringInfo letter, int *at, TlMail *mail);

/*
 * post a letter after the commit: cannot fail; a full box raises look flags.
 * From that id on replies became due (due_ids.c); PG_INT64_MAX: none
 */
extern void tl_mailbox_post(TlDatabase *db, StringInfo letter, bool look_turns, bool look_replies,
							int64 lowest_due);
/* for the worker: take everything; true if there was something */
extern bool tl_mailbox_take(TlDatabase *db, StringInfo letter, bool *look_turns, bool *look_replies);
/* the worker sleeps until then; wake: mail may set its latch meanwhile */
extern void tl_mailbox_arm_latch(TlDatabase *db, bool wake, int64 until);

#endif							/* TL_MAILBOX_H */
