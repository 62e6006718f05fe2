/*
 * guc.h
 *		The settings.  Times are milliseconds.
 */
#ifndef TL_GUC_H
#define TL_GUC_H

extern int	tl_admission_deadline;
extern int	tl_attach_capacity;
extern int	tl_claim_timeout;
extern bool tl_enabled;
extern int	tl_lease_capacity;
extern bool tl_log_failures;
extern int	tl_mass_silence_hold;
extern int	tl_max_attempts;
extern int	tl_max_late_replies;
extern int	tl_max_reply_size;
extern int	tl_max_routing_size;
extern int	tl_max_turn_duration;
extern char *tl_message_died;
extern char *tl_message_never_started;
extern char *tl_message_too_long;
extern char *tl_message_unresponsive;
extern char *tl_notify_channel;
extern bool tl_notify_detail;
extern int	tl_reconnect_window;
extern int	tl_restore_grace;
extern int	tl_retention;
extern int	tl_retry_delay;
extern bool tl_sweep;
extern int	tl_sweep_batch;
extern int	tl_turn_deadline;
extern int	tl_undelivered_retention;

extern void tl_guc_init(void);

/* settings of which a pair can contradict itself: the longer time */
extern int	tl_default_duration(void);
extern int64 tl_undelivered_retention_us(void);

/* the code as callers see it, and its text, which a setting gives */
extern const char *tl_code_name(TlCode code);
extern const char *tl_code_message(TlCode code);

#endif							/* TL_GUC_H */
