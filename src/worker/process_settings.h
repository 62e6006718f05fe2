/*
 * process_settings.h
 *		The settings that the launcher and the workers fix for themselves.
 */
#ifndef TL_PROCESS_SETTINGS_H
#define TL_PROCESS_SETTINGS_H

extern void tl_process_settings_fix(const char *application_name);

#endif							/* TL_PROCESS_SETTINGS_H */
