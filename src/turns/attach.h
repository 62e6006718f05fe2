/*
 * attach.h
 *		Tying deployments to this session.
 */
#ifndef TL_ATTACH_H
#define TL_ATTACH_H

/* is the server being shut down?  That ends every session and is no death */
extern bool tl_attach_is_shutdown(void);

#endif							/* TL_ATTACH_H */
