/*
 * process.h
 *		What the launcher and the workers share as processes.
 */
#ifndef TL_PROCESS_H
#define TL_PROCESS_H

/* connect to a database, or to none, as a process of this kind */
extern void tl_process_connect(Oid dboid, const char *kind);
/* between two rounds: end if told to; true if the configuration was re-read */
extern bool tl_process_handle_signals(int exit_code);

#endif							/* TL_PROCESS_H */
