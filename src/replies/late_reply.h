/*
 * late_reply.h
 *		Replies that came too late or for no turn that is known: kept, not
 *		delivered.
 */
#ifndef TL_LATE_REPLY_H
#define TL_LATE_REPLY_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

/* keep an equal one once; beyond the limits it is counted and logged only */
extern void tl_late_reply_keep(const text *deployment, text **ids, int nids,
							   const text *conversation, Jsonb *payload, bool lost,
							   const pg_uuid_t *request);

#endif							/* TL_LATE_REPLY_H */
