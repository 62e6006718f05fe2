/*
 * mailbox.c
 *		What committed transactions tell the worker of their database.
 *
 * Each database has a box of bytes under one LWLock.  A transaction gathers a
 * letter while it runs and posts it at XACT_EVENT_COMMIT, when nothing may
 * fail.  A letter that does not fit raises the flags that make the worker look
 * at everything, so a lost letter costs time and no turn.  The worker copies
 * the box out and reads it after it released the lock.
 *
 * A message is its type in one byte, then a TlWatch, a TlEnded, or an id and a
 * time, or the lengths of two names in one byte each and the names.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"

#include "shared/clock.h"
#include "shared/due_ids.h"
#include "shared/mailbox.h"

void
tl_mail_watch(StringInfo letter, const TlWatch *watch)
{
	appendStringInfoChar(letter, TL_MAIL_WATCH);
	appendBinaryStringInfo(letter, (const char *) watch, sizeof(TlWatch));
}

void
tl_mail_ended(StringInfo letter, const TlEnded *ended)
{
	appendStringInfoChar(letter, TL_MAIL_ENDED);
	appendBinaryStringInfo(letter, (const char *) ended, sizeof(TlEnded));
}

/* The worker knows no entry with the address that this puts into the letter. */
void
tl_mail_void_ended(StringInfo letter)
{
	TlMail		mail;
	int			at = 0;

	while (tl_mail_next(letter, &at, &mail))
		if (mail.type == TL_MAIL_ENDED)
		{
			ItemPointerSetInvalid(&mail.ended.tid);
			memcpy(letter->data + at - sizeof(TlEnded), &mail.ended, sizeof(TlEnded));
		}
}

/* This runs for rows of any origin, so it trusts no length. */
static bool
append_names(StringInfo letter, TlMailType type, const char *conversation, int clen,
			 const char *platform, int plen)
{
	if (clen > TL_MAX_NAME || plen > TL_MAX_NAME)
		return false;
	appendStringInfoChar(letter, (char) type);
	appendStringInfoChar(letter, (char) clen);
	appendStringInfoChar(letter, (char) plen);
	appendBinaryStringInfo(letter, conversation, clen);
	appendBinaryStringInfo(letter, platform, plen);
	return true;
}

bool
tl_mail_reply(StringInfo letter, const char *conversation, int clen,
			  const char *platform, int plen)
{
	return append_names(letter, TL_MAIL_REPLY, conversation, clen, platform, plen);
}

bool
tl_mail_lapsed(StringInfo letter, const char *deployment, int len)
{
	return append_names(letter, TL_MAIL_LAPSED, deployment, len, "", 0);
}

void
tl_mail_claimed(StringInfo letter, int64 reply_id, int64 due)
{
	appendStringInfoChar(letter, TL_MAIL_CLAIMED);
	appendBinaryStringInfo(letter, (const char *) &reply_id, sizeof(int64));
	appendBinaryStringInfo(letter, (const char *) &due, sizeof(int64));
}

bool
tl_mail_next(const StringInfo letter, int *at, TlMail *mail)
{
	const char *p = letter->data + *at;

	if (*at >= letter->len)
		return false;
	mail->type = (TlMailType) *p++;
	if (mail->type == TL_MAIL_WATCH)
	{
		memcpy(&mail->watch, p, sizeof(TlWatch));
		p += sizeof(TlWatch);
	}
	else if (mail->type == TL_MAIL_ENDED)
	{
		memcpy(&mail->ended, p, sizeof(TlEnded));
		p += sizeof(TlEnded);
	}
	else if (mail->type == TL_MAIL_CLAIMED)
	{
		memcpy(&mail->reply_id, p, sizeof(int64));
		memcpy(&mail->due, p + sizeof(int64), sizeof(int64));
		p += 2 * sizeof(int64);
	}
	else
	{
		mail->conversation_len = (uint8) *p++;
		mail->platform_len = (uint8) *p++;
		mail->conversation = p;
		mail->platform = p + mail->conversation_len;
		p = mail->platform + mail->platform_len;
	}
	*at = p - letter->data;
	return true;
}

/*
 * The session sets the worker's latch at once for replies and for rows that are
 * due before the worker means to wake; other rows can wait until the box is
 * half full.
 */
void
tl_mailbox_post(TlDatabase *db, StringInfo letter, bool look_turns, bool look_replies,
				int64 lowest_due)
{
	int64		now = tl_clock_now();
	int64		first = PG_INT64_MAX;	/* when the worker must look at a row */
	bool		replies = false;
	bool		claims = false;	/* they can wait: the worker looks later */
	bool		wake;
	TlMail		mail;
	int			at = 0;

	while (tl_mail_next(letter, &at, &mail))
	{
		if (mail.type != TL_MAIL_WATCH)
		{
			replies |= mail.type == TL_MAIL_REPLY || mail.type == TL_MAIL_LAPSED;
			claims |= mail.type == TL_MAIL_CLAIMED;
			continue;
		}
		first = Min(first, tl_times_next_check(&mail.watch.times));
		mail.watch.visible = now;
		memcpy(letter->data + at - sizeof(TlWatch), &mail.watch, sizeof(TlWatch));
	}

	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	if (letter->len <= TL_MAILBOX_SIZE - db->mailbox_len)
	{
		if (letter->len > 0)
			memcpy(db->mailbox + db->mailbox_len, letter->data, letter->len);
		db->mailbox_len += letter->len;
	}
	else
	{
		look_turns |= first < PG_INT64_MAX;
		look_replies |= replies || claims;
	}
	if (lowest_due < PG_INT64_MAX)
		tl_due_post(db, lowest_due);
	db->look_turns |= look_turns;
	db->look_replies |= look_replies;
	wake = !db->latch_set &&
		(replies || look_turns || look_replies || db->mailbox_len > TL_MAILBOX_SIZE / 2 ||
		 first < (int64) pg_atomic_read_u64(&db->wake_us));
	db->latch_set |= wake;
	LWLockRelease(&db->mailbox_lock);

	if (wake)
		tl_wake_worker(db);
}

/* Memory comes first: what was taken out of the box must not be lost. */
bool
tl_mailbox_take(TlDatabase *db, StringInfo letter, bool *look_turns, bool *look_replies)
{
	resetStringInfo(letter);
	enlargeStringInfo(letter, TL_MAILBOX_SIZE);

	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	appendBinaryStringInfo(letter, db->mailbox, db->mailbox_len);
	*look_turns |= db->look_turns;
	*look_replies |= db->look_replies;
	db->mailbox_len = 0;
	db->look_turns = db->look_replies = false;
	LWLockRelease(&db->mailbox_lock);
	return letter->len > 0;
}

/*
 * The worker calls this before it sleeps.  A letter that came since the worker
 * looked is not missed: with wake set, the worker sets its own latch if the
 * box is not empty.  A session that posts later sees for how long the worker
 * sleeps, because both change wake_us and latch_set under the lock.
 */
void
tl_mailbox_arm_latch(TlDatabase *db, bool wake, int64 until)
{
	bool		mail;

	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	mail = db->mailbox_len > 0 || db->look_turns || db->look_replies;
	db->latch_set = !wake || mail;
	pg_atomic_write_u64(&db->wake_us, until);
	LWLockRelease(&db->mailbox_lock);
	if (wake && mail)
		SetLatch(MyLatch);
}
