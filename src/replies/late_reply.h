/*
 * late_reply.h
 *		Replies that came too late or for no turn that is known: kept, not
 *		delivered.
 */
#ifndef TL_LATE_REPLY_H
#define TL_LATE_REPLY_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

/* columns of the table late_reply */
enum
{
	TL_LATE_DIGEST = 1, TL_LATE_DEPLOYMENT, TL_LATE_MESSAGE_IDS, TL_LATE_CONVERSATION_ID,
	TL_LATE_PAYLOAD, TL_LATE_VERDICT, TL_LATE_CREATED_AT, TL_LATE_KEPT_AT,
	TL_LATE_NATTS = TL_LATE_KEPT_AT
};

/* keep an equal one once; beyond the limits it is counted and logged only */
extern void tl_late_reply_keep(const text *deployment, text **ids, int nids,
							   const text *conversation, Jsonb *payload, bool lost,
							   const pg_uuid_t *request);

#endif							/* TL_LATE_REPLY_H */
