/*
 * guc.h
 *		The settings: turn_liveness.NAME is the variable tl_NAME.
 */
#ifndef TL_GUC_H
#define TL_GUC_H

#include <limits.h>

#define TL_HOUR_MS	(60 * 60 * 1000)
#define TL_DAY_MS	(24 * TL_HOUR_MS)

/*
 * All settings, in alphabetical order.  TIME (milliseconds), NUMBER, SIZE
 * (kilobytes) and MEMORY (sizes shared memory, so it needs preload and a
 * restart): default, minimum, maximum.  FLAG: default.  TEXT: check hook, and
 * the default last.
 */
#define TL_SETTINGS(TIME, NUMBER, SIZE, MEMORY, FLAG, TEXT) \
	FLAG(accept, true, \
		 "Lets functions write; off for a server that must not be asked.") \
	TIME(admission_deadline, 180 * 1000, 1, INT_MAX, \
		 "How long an armed turn may wait for its worker's first beat.") \
	MEMORY(attach_capacity, 2048, 16, 1024 * 1024, \
		 "How many deployments can be attached to sessions at once.") \
	TIME(claim_timeout, 30 * 1000, 1, TL_DAY_MS, \
		 "How long a gateway may hold a claimed reply before it is due again.") \
	MEMORY(database_capacity, 32, 1, 10000, \
		 "How many databases can have shared memory and a worker; others are served as without preload.") \
	FLAG(enabled, true, \
		 "Runs a background worker for the database.") \
	MEMORY(lease_capacity, 131072, 16, 64 * 1024 * 1024, \
		 "How many deployments and named turns can beat in shared memory; other beats are written to rows.") \
	FLAG(log_failures, true, \
		 "Logs one line for each turn that is failed by the extension.") \
	TIME(mass_silence_hold, 60 * 1000, 0, INT_MAX, \
		 "How long lapses are held back when all workers fall silent at once.") \
	NUMBER(max_attempts, 30, 1, INT_MAX, \
		 "How many times a reply is claimed before it is dead.") \
	NUMBER(max_late_replies, 100000, 0, INT_MAX, \
		 "How many late replies the database keeps for inspection.") \
	SIZE(max_reply_size, 1024, 1, 256 * 1024, \
		 "Largest terminal reply that is accepted.") \
	SIZE(max_routing_size, 64, 1, 16 * 1024, \
		 "Largest routing that is accepted.") \
	TIME(max_turn_duration, 4 * TL_HOUR_MS, 1, INT_MAX, \
		 "How long a turn may take in all, beats or not.") \
	TEXT(message_died, check_message, "Text of the error WORKER_DIED.", \
		 "The worker handling your request stopped unexpectedly before it could reply. Please retry in a moment.") \
	TEXT(message_never_started, check_message, "Text of the error WORKER_NEVER_STARTED.", \
		 "No worker could be started for your request. Please retry in a moment.") \
	TEXT(message_too_long, check_message, "Text of the error TURN_TOO_LONG.", \
		 "Your request took longer than is allowed and was ended.") \
	TEXT(message_unresponsive, check_message, "Text of the error WORKER_UNRESPONSIVE.", \
		 "The worker handling your request stopped responding before it could reply. Please retry in a moment.") \
	TEXT(message_wait_expired, check_message, "Text of the error WAIT_EXPIRED.", \
		 "Your request waited too long for an answer and was ended.") \
	NUMBER(node, 0, 0, 510, \
		 "Number of this server among those whose ids of replies must differ.") \
	TEXT(notify_channel, check_channel, "Channel on which gateways are told what to look at; empty for none.", \
		 TL_EXTENSION) \
	FLAG(notify_detail, true, \
		 "Names conversations and platforms in notifications.") \
	TIME(notify_interval, 20, 0, INT_MAX, \
		 "How long notifications are gathered under load.") \
	TIME(reconnect_window, 2000, 0, INT_MAX, \
		 "How long after its session's end an attached deployment may come back.") \
	TIME(rescue_window, 0, 0, INT_MAX, \
		 "How long a lapsed turn is offered to another worker before it fails.") \
	TIME(restore_grace, 10 * 60 * 1000, 0, INT_MAX, \
		 "How long turns that this server did not arm are left alone.") \
	TIME(retention, TL_DAY_MS, 1, INT_MAX, \
		 "How long delivered, discharged and late records are kept.") \
	TIME(retry_delay, 1000, 1, INT_MAX, \
		 "How long a released reply waits before it is due again; doubled with every attempt.") \
	FLAG(sweep, true, \
		 "Fails lapsed turns; off holds every automatic failure.") \
	NUMBER(sweep_batch, 1000, 1, 1000000, \
		 "How many lapsed turns one transaction of the sweep fails.") \
	TIME(turn_deadline, 60 * 1000, 1, INT_MAX, \
		 "How long a turn may stay silent after a beat.") \
	TIME(undelivered_retention, 7 * TL_DAY_MS, 1, INT_MAX, \
		 "How long due and dead replies are kept.")

#define TL_EXTERN_INT(name, ...)	extern int tl_##name;
#define TL_EXTERN_BOOL(name, ...)	extern bool tl_##name;
#define TL_EXTERN_STRING(name, ...)	extern char *tl_##name;
TL_SETTINGS(TL_EXTERN_INT, TL_EXTERN_INT, TL_EXTERN_INT, TL_EXTERN_INT,
			TL_EXTERN_BOOL, TL_EXTERN_STRING)

extern void tl_guc_init(void);

/* settings of which a pair can contradict itself: the longer time */
extern int	tl_default_duration(void);
extern int64 tl_undelivered_retention_us(void);

/* the code as callers see it, and its text, which a setting gives */
extern const char *tl_code_name(TlCode code);
extern const char *tl_code_message(TlCode code);

#endif							/* TL_GUC_H */
