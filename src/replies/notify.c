/*
 * notify.c
 *		Telling gateways what to look at: bounded payloads, each name once.
 *
 * A notification is a hint.  Names that do not fit into a few payloads become
 * the one payload that says "look" ({}).  Elections never notify: only the
 * worker does, and a session's sweep where there is no worker.
 */
#include "base/turn_liveness.h"

#include "commands/async.h"
#include "mb/pg_wchar.h"
#include "shared/counters.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "replies/delivery.h"
#include "base/guc.h"
#include "replies/notify.h"
#include "store/rel.h"
#include "commit/xact.h"

#define MAX_PAYLOAD		7900
#define MAX_NAMES		2000	/* with more, a look is cheaper */

typedef struct NotifyName
{
	char		name[TL_MAX_NAME + 1];
} NotifyName;

static HTAB *conversations = NULL;
static HTAB *platforms = NULL;
static bool everything = false;

static HTAB *make_set(const char *what);
static void add(HTAB *set, const char *name, int len);
static void clear(void);
static void send_names(HTAB *set, bool are_platforms, StringInfo payload, const char *tail);

/* An empty set of names that lives until clear(). */
static HTAB *
make_set(const char *what)
{
	HASHCTL		ctl;

	ctl.keysize = sizeof(NotifyName);
	ctl.entrysize = sizeof(NotifyName);
	ctl.hcxt = TopMemoryContext;
	return hash_create(what, 64, &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/* Add a name to a set; mail has no longer one. */
static void
add(HTAB *set, const char *name, int len)
{
	NotifyName	key;

	Assert(len <= TL_MAX_NAME);
	memcpy(key.name, name, len);
	key.name[len] = '\0';
	(void) hash_search(set, key.name, HASH_ENTER, NULL);
}

void
tl_notify_add(const TlMail *mail)
{
	if (conversations == NULL)
		conversations = make_set("turn_liveness conversations to notify");
	if (platforms == NULL)
		platforms = make_set("turn_liveness platforms to notify");
	if (everything || hash_get_num_entries(conversations) >= MAX_NAMES ||
		hash_get_num_entries(platforms) >= MAX_NAMES)
	{
		everything = true;
		return;
	}
	add(conversations, mail->conversation, mail->conversation_len);
	add(platforms, mail->platform, mail->platform_len);
}

void
tl_notify_add_all(void)
{
	everything = true;
}

int
tl_notify_pending(void)
{
	return everything ? MAX_NAMES :
		conversations != NULL ? hash_get_num_entries(conversations) : 0;
}

/* Forget what was gathered. */
static void
clear(void)
{
	everything = false;
	if (conversations != NULL)
		hash_destroy(conversations);
	if (platforms != NULL)
		hash_destroy(platforms);
	conversations = platforms = NULL;
}

/* Begin a payload that goes on with conversations, or with platforms alone. */
static void
begin_payload(StringInfo payload, bool are_platforms)
{
	resetStringInfo(payload);
	appendStringInfoString(payload, are_platforms ?
						   "{\"conversations\":[],\"platforms\":[" : "{\"conversations\":[");
}

/* Append the names; whenever a payload is full, send it and begin another. */
static void
send_names(HTAB *set, bool are_platforms, StringInfo payload, const char *tail)
{
	HASH_SEQ_STATUS scan;
	NotifyName *name;
	bool		first = true;
	StringInfoData json;

	initStringInfo(&json);
	hash_seq_init(&scan, set);
	while ((name = hash_seq_search(&scan)) != NULL)
	{
		resetStringInfo(&json);
		escape_json(&json, name->name);
		if (payload->len + json.len + 1 + strlen(tail) > MAX_PAYLOAD)
		{
			appendStringInfoString(payload, tail);
			Async_Notify(tl_notify_channel, payload->data);
			tl_counter_add(TL_COUNT_NOTIFICATIONS, 1);
			begin_payload(payload, are_platforms);
			first = true;
		}
		if (!first)
			appendStringInfoChar(payload, ',');
		appendBinaryStringInfo(payload, json.data, json.len);
		first = false;
	}
	pfree(json.data);
}

void
tl_notify_send(void)
{
	StringInfoData payload;

	if (tl_notify_pending() == 0 || tl_notify_channel[0] == '\0')
	{
		clear();
		return;
	}
	if (everything || !tl_notify_detail)
	{
		Async_Notify(tl_notify_channel, "{}");
		tl_counter_add(TL_COUNT_NOTIFICATIONS, 1);
		clear();
		return;
	}

	initStringInfo(&payload);
	begin_payload(&payload, false);
	send_names(conversations, false, &payload, "],\"platforms\":[]}");
	appendStringInfoString(&payload, "],\"platforms\":[");
	if (payload.len > MAX_PAYLOAD / 2)
	{
		/*
		 * platforms are few and usually fit behind; here they get a payload of
		 * their own
		 */
		appendStringInfoString(&payload, "]}");
		Async_Notify(tl_notify_channel, payload.data);
		tl_counter_add(TL_COUNT_NOTIFICATIONS, 1);
		begin_payload(&payload, true);
	}
	send_names(platforms, true, &payload, "]}");
	appendStringInfoString(&payload, "]}");
	Async_Notify(tl_notify_channel, payload.data);
	tl_counter_add(TL_COUNT_NOTIFICATIONS, 1);
	pfree(payload.data);
	clear();
}

void
tl_notify_in_transaction(void)
{
	bool		look = false;
	StringInfo	letter;
	TlMail		mail;
	int			at = 0;
	TlRel		deliveries;
	Snapshot	snapshot;

	if (tl_notify_channel[0] == '\0')
		return;
	clear();
	letter = tl_xact_letter(&look);
	while (letter != NULL && tl_mail_next(letter, &at, &mail))
		if (mail.type == TL_MAIL_REPLY)
			tl_notify_add(&mail);

	/* replies that other transactions committed: no process notified of them */
	snapshot = tl_latest_snapshot();
	tl_rel_open(&deliveries, TL_DELIVERY, false);
	if (tl_delivery_next_platform(&deliveries, NULL, snapshot) != NULL)
		look = true;
	tl_rel_close(&deliveries);
	UnregisterSnapshot(snapshot);

	if (look)
		tl_notify_add_all();
	tl_notify_send();
}
