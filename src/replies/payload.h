/*
 * payload.h
 *		The JSON of a terminal reply.
 */
#ifndef TL_PAYLOAD_H
#define TL_PAYLOAD_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

extern Jsonb *tl_payload_error(Jsonb *routing, const text *message_id,
							   const text *error, const text *error_code);
/* the caller's reply, completed for the turns that it won */
extern Jsonb *tl_payload_reply(Jsonb *reply, Jsonb *routing, text **won, int nwon);
/* does it count as an error?  its code, if it has one */
extern bool tl_payload_is_error(Jsonb *reply, text **error_code);
/* a digest of the call: equal for an equal one, whatever its timestamp */
extern pg_uuid_t *tl_payload_request(const text *deployment, text **ids, int nids, Jsonb *reply);

#endif							/* TL_PAYLOAD_H */
