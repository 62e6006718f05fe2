/*
 * mailbox.c
 *		What committed transactions tell the worker of their database.
 *
 * A ring of bytes for each database, under one LWLock.  A letter is written at
 * XACT_EVENT_COMMIT, when nothing may fail: one that does not fit raises the
 * flags that make the worker look at everything, so a lost letter costs time
 * and no turn.  The worker copies the ring out and reads it at leisure; in the middle of long
 * work it only copies, so that the ring does not fill up meanwhile.
 *
 * The latch is set at once for replies and for rows that are due before the worker
 * means to wake; other rows can wait until the ring is half full.
 */
#include "base/turn_liveness.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "shared/mailbox.h"

#define HEADER	(sizeof(uint16) + 1)
#define MAX_EARLY	(16 * TL_MAILBOX_SIZE)

/* what the worker took before it could read it; no data: this process is no worker */
static StringInfoData early;

static void take(TlDatabase *db, StringInfo letter);

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

void
tl_mail_reply(StringInfo letter, const char *conversation, int clen,
			  const char *platform, int plen)
{
	Assert(clen <= TL_MAX_NAME && plen <= TL_MAX_NAME);
	append(letter, TL_MAIL_REPLY, NULL, 1 + clen + plen);
	appendStringInfoChar(letter, (char) (uint8) clen);
	appendBinaryStringInfo(letter, conversation, clen);
	appendBinaryStringInfo(letter, platform, plen);
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

/* The earliest time at which one of the letter's rows must be looked at. */
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
	wake = !db->told &&
		(replies || look_turns || look_replies || used > TL_MAILBOX_SIZE / 2 ||
		 first < (int64) pg_atomic_read_u64(&db->wake_us));
	if (wake)
		db->told = true;
	LWLockRelease(&db->mailbox_lock);

	if (wake)
		tl_wake_worker(db);
}

bool
tl_mailbox_take(TlDatabase *db, StringInfo letter, bool *look_turns, bool *look_replies)
{
	if (early.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		StringInfoData whole;

		/* for good: later on there need be no memory */
		initStringInfo(&whole);
		enlargeStringInfo(&whole, MAX_EARLY);
		early = whole;
		MemoryContextSwitchTo(old);
	}
	resetStringInfo(letter);
	enlargeStringInfo(letter, MAX_EARLY + TL_MAILBOX_SIZE);
	appendBinaryStringInfo(letter, early.data, early.len);
	resetStringInfo(&early);

	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	take(db, letter);
	*look_turns |= db->look_turns;
	*look_replies |= db->look_replies;
	db->look_turns = db->look_replies = false;
	LWLockRelease(&db->mailbox_lock);
	return letter->len > 0;
}

/* The caller holds the lock, and has made room for the whole ring. */
static void
take(TlDatabase *db, StringInfo letter)
{
	uint32		len = db->mailbox_tail - db->mailbox_head;
	uint32		at = db->mailbox_head % TL_MAILBOX_SIZE;
	uint32		part = Min(len, TL_MAILBOX_SIZE - at);

	memcpy(letter->data + letter->len, db->mailbox + at, part);
	memcpy(letter->data + letter->len + part, db->mailbox, len - part);
	letter->len += len;
	letter->data[letter->len] = '\0';
	db->mailbox_head += len;
}

void
tl_mailbox_take_early(void)
{
	TlDatabase *db = tl_database();

	/* without the lock: should it be old, the next row looks again */
	if (early.data == NULL || db == NULL || early.len > MAX_EARLY - TL_MAILBOX_SIZE ||
		db->mailbox_tail - db->mailbox_head < TL_MAILBOX_SIZE / 4)
		return;
	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	take(db, &early);
	LWLockRelease(&db->mailbox_lock);
}

/*
 * Before the worker sleeps.  Mail that came since it looked is not missed: with
 * wake set the box must be empty, else the latch is set at once.  Who posts next
 * sees for how long the worker sleeps: both are changed under the lock.
 */
void
tl_mailbox_wake_me(TlDatabase *db, bool wake, int64 until)
{
	bool		mail;

	LWLockAcquire(&db->mailbox_lock, LW_EXCLUSIVE);
	mail = db->mailbox_tail != db->mailbox_head || db->look_turns || db->look_replies;
	db->told = !wake || mail;
	pg_atomic_write_u64(&db->wake_us, until);
	LWLockRelease(&db->mailbox_lock);
	if (wake && mail)
		SetLatch(MyLatch);
}
