/*
 * util.c
 *		What the gateway, its worker and the demo share.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

void
die(const char *format,...)
{
	va_list		args;

	fflush(stdout);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

void *
xcalloc(size_t size)
{
	void	   *result = calloc(1, size ? size : 1);

	if (result == NULL)
		die("out of memory");
	return result;
}

char *
xstrdup(const char *string)
{
	char	   *result = strdup(string);

	if (result == NULL)
		die("out of memory");
	return result;
}

/* room for len more bytes and the zero byte */
static void
buffer_reserve(Buffer *buffer, size_t len)
{
	size_t		need = buffer->len + len + 1;

	if (need <= buffer->size)
		return;
	if (need < 2 * buffer->size)
		need = 2 * buffer->size;
	if (need < 256)
		need = 256;
	buffer->data = realloc(buffer->data, need);
	if (buffer->data == NULL)
		die("out of memory");
	buffer->size = need;
}

void
buffer_add(Buffer *buffer, const void *data, size_t len)
{
	buffer_reserve(buffer, len);
	memcpy(buffer->data + buffer->len, data, len);
	buffer->len += len;
	buffer->data[buffer->len] = '\0';
}

void
buffer_printf(Buffer *buffer, const char *format,...)
{
	va_list		args;
	int			len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	if (len < 0)
		die("bad format \"%s\"", format);

	buffer_reserve(buffer, len);
	va_start(args, format);
	vsnprintf(buffer->data + buffer->len, len + 1, format, args);
	va_end(args);
	buffer->len += len;
}

void
buffer_clear(Buffer *buffer)
{
	buffer->len = 0;
	if (buffer->data != NULL)
		buffer->data[0] = '\0';
}

void
buffer_free(Buffer *buffer)
{
	free(buffer->data);
	memset(buffer, 0, sizeof(Buffer));
}

void
array_add(Buffer *array, const char *element)
{
	buffer_add(array, array->len == 0 ? "{\"" : ",\"", 2);
	for (const char *c = element; *c; c++)
	{
		if (*c == '"' || *c == '\\')
			buffer_add(array, "\\", 1);
		buffer_add(array, c, 1);
	}
	buffer_add(array, "\"", 1);
}

const char *
array_end(Buffer *array)
{
	if (array->len == 0)
		buffer_add(array, "{", 1);
	buffer_add(array, "}", 1);
	return array->data;
}

int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool
write_all(int fd, const void *data, size_t len)
{
	while (len > 0)
	{
		ssize_t		done = write(fd, data, len);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		data = (const char *) data + done;
		len -= done;
	}
	return true;
}
