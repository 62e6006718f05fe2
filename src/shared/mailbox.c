/*
 * mailbox.c
 *		What committed transactions tell the worker of their database.
 *
 * Each database has a ring of bytes under one LWLock.  A transaction gathers a
 * letter while it runs and posts it at XACT_EVENT_COMMIT, when nothing may
 * fail.  A letter that does not fit raises the flags that make the worker look
 * at everything, so a lost letter costs time and no turn.  The worker copies
 * the ring out and reads it after it released the lock.
 *
 * The session sets the worker's latch at once for replies and for rows that are
 * due before the worker means to wake; other rows can wait until the ring is
 * half full.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "shared/mailbox.h"

#define HEADER	(sizeof(uint16) + 1)

static void
append(StringInfo letter, TlMailType type, const void *data, uint16 len)
{
	appendBinaryStringInfo(letter, (const char *) &len, sizeof(len));
	appendStringInfoChar(letter, (char) type);
	if (data)
		appendBinaryStringInfo(letter, data, len);
}

void
tl_mail_watch(StringInfo letter, const TlWatch *watch)
{
	append(letter, TL_MAIL_WATCH, watch, sizeof(*watch));
}

/*
 * A length is one byte in the message.  Functions refuse longer names, and so
 * do the tables; but this runs for rows of any origin, so it trusts none.
 */
bool
tl_mail_reply(StringInfo letter, const char *conversation, int clen,
			  const char *platform, int plen)
{
	if (clen > TL_MAX_NAME || plen > TL_MAX_NAME)
		return false;
	append(letter, TL_MAIL_REPLY, NULL, 1 + clen + plen);
	appendStringInfoChar(letter, (char) (uint8) clen);
	appendBinaryStringInfo(letter, conversation, clen);
	appendBinaryStringInfo(letter, platform, plen);
	return true;
}

bool
tl_mail_next(const StringInfo letter, int *at, TlMail *mail)
{
	const char *p = letter->data + *at;
	uint16		len;

	if (*at + HEADER > letter->len)
		return false;
	memcpy(&len, p, sizeof(len));
	mail->type = (TlMailType) p[sizeof(len)];
	p += HEADER;
	*at += HEADER + len;

	if (mail->type == TL_MAIL_WATCH)
		memcpy(&mail->watch, p, sizeof(TlWatch));
	else
	{
		mail->conversation_len = (uint8) p[0];
		mail->conversation = p + 1;
		mail->platform = p + 1 + mail->conversation_len;
		mail->platform_len = len - 1 - mail->conversation_len;
	}
	return true;
}

void
tl_mail_stamp(StringInfo letter, int64 now)
{
	int			at = 0;

	while (at + HEADER <= letter->len)
	{
		uint16		len;

		memcpy(&len, letter->data + at, sizeof(len));
		if (letter->data[at + sizeof(len)] == TL_MAIL_WATCH)
			memcpy(letter->data + at + HEADER + offsetof(TlWatch, visible), &now, sizeof(now));
		at += HEADER + len;
	}
}

/* The earliest time at which the worker must look at a row of the letter. */
static int64
earliest(const StringInfo letter, bool *replies)
{
	TlMail		mail;
	int			at = 0;
	int64		first = PG_INT64_MAX;

	*replies = false;
	while (tl_mail_next(letter, &at, &mail))
	{
		if (mail.type == TL_MAIL_WATCH)
			first = Min(first, tl_times_next_check(&mail.watch.times));
		else
			*replies = true;
	}
	return first;
}

void
tl_mailbox_post(TlDatabase *db, const StringInfo letter, bool look_turns, bool look_replies)
{
	bool		replies;
	int64		first = earliest(letter, &replies);
	uint64		used;
	bool		wake;

	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	used = db->mailbox_tail - db->mailbox_head;
	if (letter->len > TL_MAILBOX_SIZE - used)
	{
		look_turns |= first < PG_INT64_MAX;
		look_replies |= replies;
	}
	else
	{
		uint32		at = db->mailbox_tail % TL_MAILBOX_SIZE;
		uint32		part = Min(letter->len, TL_MAILBOX_SIZE - at);

		memcpy(db->mailbox + at, letter->data, part);
		memcpy(db->mailbox, letter->data + part, letter->len - part);
		db->mailbox_tail += letter->len;
		used += letter->len;
	}
	db->look_turns |= look_turns;
	db->look_replies |= look_replies;
	wake = !db->latch_set &&
		(replies || look_turns || look_replies || used > TL_MAILBOX_SIZE / 2 ||
		 first < (int64) pg_atomic_read_u64(&db->wake_us));
	if (wake)
		db->latch_set = true;
	LWLockRelease(&db->mailbox_lock);

	if (wake)
		tl_wake_worker(db);
}

/*
 * The worker empties the ring into its own letter.  Memory comes first: what
 * was taken out of the ring must not be lost.
 */
bool
tl_mailbox_take(TlDatabase *db, StringInfo letter, bool *look_turns, bool *look_replies)
{
	uint32		len;
	uint32		at;
	uint32		part;

	resetStringInfo(letter);
	enlargeStringInfo(letter, TL_MAILBOX_SIZE);

	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	len = db->mailbox_tail - db->mailbox_head;
	at = db->mailbox_head % TL_MAILBOX_SIZE;
	part = Min(len, TL_MAILBOX_SIZE - at);
	appendBinaryStringInfo(letter, db->mailbox + at, part);
	appendBinaryStringInfo(letter, db->mailbox, len - part);
	db->mailbox_head += len;
	*look_turns |= db->look_turns;
	*look_replies |= db->look_replies;
	db->look_turns = db->look_replies = false;
	LWLockRelease(&db->mailbox_lock);
	return len > 0;
}

/*
 * The worker calls this before it sleeps.  A letter that came since the worker
 * looked is not missed: with wake set, the worker sets its own latch if the
 * ring is not empty.  A session that posts later sees for how long the worker
 * sleeps, because both change wake_us and latch_set under the lock.
 */
void
tl_mailbox_arm_latch(TlDatabase *db, bool wake, int64 until)
{
	bool		mail;

	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	mail = db->mailbox_tail != db->mailbox_head || db->look_turns || db->look_replies;
	db->latch_set = !wake || mail;
	pg_atomic_write_u64(&db->wake_us, until);
	LWLockRelease(&db->mailbox_lock);
	if (wake && mail)
		SetLatch(MyLatch);
}
