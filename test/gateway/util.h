/*
 * util.h
 *		What the gateway, its worker and the demo share: a buffer that grows,
 *		array literals for SQL, a clock, and allocation that cannot fail.
 */
#ifndef UTIL_H
#define UTIL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* bytes with a zero byte behind them, which is not counted */
typedef struct Buffer
{
	char	   *data;
	size_t		len;
	size_t		size;
} Buffer;

extern void *xcalloc(size_t size);
extern char *xstrdup(const char *string);
extern void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

extern void buffer_add(Buffer *buffer, const void *data, size_t len);
extern void buffer_printf(Buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
extern void buffer_clear(Buffer *buffer);
extern void buffer_free(Buffer *buffer);

/* '{"a","b"}', element by element; array_end() closes it and gives the text */
extern void array_add(Buffer *array, const char *element);
extern const char *array_end(Buffer *array);

/* milliseconds of the monotonic clock */
extern int64_t now_ms(void);

/* writes everything, true if the other side took it */
extern bool write_all(int fd, const void *data, size_t len);

#endif							/* UTIL_H */
