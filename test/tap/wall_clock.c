/*
 * wall_clock.c
 *		A library to preload that shifts the wall clock of a whole server, and
 *		no other clock.  libfaketime leaves out what PostgreSQL 15 starts from a
 *		signal handler, such as background workers.
 *
 * The offset in seconds is in the file that WALL_CLOCK_OFFSET names.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;
static int (*real_clock) (clockid_t, struct timespec *);

__attribute__((constructor)) static void
begin(void)
{
	int			fd = open(getenv("WALL_CLOCK_OFFSET"), O_RDONLY);

	real_clock = (int (*) (clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	offset = mmap(NULL, sizeof(*offset), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
}

int
clock_gettime(clockid_t which, struct timespec *ts)
{
	int			result = real_clock(which, ts);

	if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)
		ts->tv_sec += *offset;
	return result;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *t)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (t)
		*t = ts.tv_sec;
	return ts.tv_sec;
}
