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
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/guc.h"
#include "replies/delivery.h"
#include "shared/database.h"

#define MAX_PAYLOAD		7900
#define MAX_NAMES		2000	/* with more, a look is cheaper */

/* a conversation, a platform, or a deployment with a turn that lapsed */
typedef struct NotifyName
{
	char		kind;			/* 'c', 'p' or 'l' */
	char		name[TL_MAX_NAME + 1];
} NotifyName;

/* what was gathered; NULL: no name yet */
static HTAB *names = NULL;
static bool everything = false;

/* Mail has no longer name than TL_MAX_NAME. */
void
tl_notify_add(const TlMail *mail)
{
	NotifyName	conversation = {.kind = mail->type == TL_MAIL_LAPSED ? 'l' : 'c'};
	NotifyName	platform = {.kind = 'p'};
	HASHCTL		ctl = {
		.keysize = sizeof(NotifyName), .entrysize = sizeof(NotifyName), .hcxt = TopMemoryContext
	};

	if (everything)
		return;
	if (names == NULL)
		names = hash_create("turn_liveness names to notify", 64, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	memcpy(conversation.name, mail->conversation, mail->conversation_len);
	memcpy(platform.name, mail->platform, mail->platform_len);
	(void) hash_search(names, &conversation, HASH_ENTER, NULL);
	if (mail->type == TL_MAIL_REPLY)
		(void) hash_search(names, &platform, HASH_ENTER, NULL);
	everything = hash_get_num_entries(names) > MAX_NAMES;
}

void
tl_notify_add_all(void)
{
	everything = true;
}

int
tl_notify_pending(void)
{
	return everything ? MAX_NAMES : names != NULL ? hash_get_num_entries(names) : 0;
}

static void
notify(const char *payload)
{
	Async_Notify(tl_notify_channel, payload);
	tl_counter_add(TL_COUNT_NOTIFICATIONS, 1);
}

/* Send the lists; whenever a payload is full, begin another. */
static void
send_names(void)
{
	static const char kinds[] = {'c', 'p', 'l'};
	static const char *const begins[] = {
		"{\"conversations\":[", "],\"platforms\":[", "],\"lapsed\":["
	};
	static const char *const heads[] = {
		"{\"conversations\":[", "{\"conversations\":[],\"platforms\":[",
		"{\"conversations\":[],\"platforms\":[],\"lapsed\":["
	};
	static const char *const tails[] = {
		"],\"platforms\":[],\"lapsed\":[]}", "],\"lapsed\":[]}", "]}"
	};
	StringInfoData payload;
	StringInfoData json;
	int			i;

	initStringInfo(&payload);
	initStringInfo(&json);
	for (i = 0; i < lengthof(heads); i++)
	{
		HASH_SEQ_STATUS scan;
		NotifyName *name;

		appendStringInfoString(&payload, begins[i]);
		hash_seq_init(&scan, names);
		while ((name = hash_seq_search(&scan)) != NULL)
		{
			if (name->kind != kinds[i])
				continue;
			resetStringInfo(&json);
			escape_json(&json, name->name);
			if (payload.len + json.len + 1 + strlen(tails[i]) > MAX_PAYLOAD)
			{
				appendStringInfoString(&payload, tails[i]);
				notify(payload.data);
				resetStringInfo(&payload);
				appendStringInfoString(&payload, heads[i]);
			}
			if (payload.data[payload.len - 1] != '[')
				appendStringInfoChar(&payload, ',');
			appendStringInfoString(&payload, json.data);
		}
	}
	appendStringInfoString(&payload, tails[lengthof(tails) - 1]);
	notify(payload.data);
}

void
tl_notify_send(void)
{
	if (tl_notify_pending() > 0 && tl_notify_channel[0] != '\0')
	{
		if (everything || !tl_notify_detail)
			notify("{}");
		else
			send_names();
	}
	everything = false;
	if (names != NULL)
		hash_destroy(names);
	names = NULL;
}

/* Of a reply that is open no process has notified. */
void
tl_notify_in_transaction(bool look)
{
	TlRel		deliveries;
	Snapshot	snapshot;

	if (tl_notify_channel[0] == '\0')
		return;
	tl_rel_open(&deliveries, TL_DELIVERY, false);
	snapshot = tl_latest_snapshot();
	if (look ||
		tl_delivery_next_platform(&deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, NULL, snapshot) ||
		tl_delivery_next_platform(&deliveries, TL_IDX_DELIVERY_PARKED, NULL, snapshot))
		notify("{}");
	UnregisterSnapshot(snapshot);
	tl_rel_close(&deliveries);
}
