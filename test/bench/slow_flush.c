/*
 * slow_flush.c
 *		LD_PRELOAD: a disk whose flush takes a millisecond longer, as cloud
 *		volumes do.  The real flush is done as well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

int			fdatasync(int fd);

int
fdatasync(int fd)
{
	static int	(*real) (int) = 0;
	struct timespec delay = {0, 1000000};

	if (!real)
		real = (int (*) (int)) dlsym(RTLD_NEXT, "fdatasync");
	nanosleep(&delay, 0);
	return real(fd);
}
