/*
 * lost_flush.c
 *		A disk that loses what was not flushed: a library to preload.
 *
 * A killed server leaves its writes to the kernel, which keeps them; a machine
 * that loses its power does not.  For each file below the data directory of the
 * server (LOST_FLUSH_DATA) this keeps a journal of what the writes since the
 * last flush replaced (in LOST_FLUSH_JOURNAL).  LostFlush.pm plays the journals
 * back when the server is down, and each file is as it was when it was last
 * flushed.
 *
 * - A process holds the journal's lock from before it reads the old bytes until
 *   it has written the new ones, and while it flushes: the order of writes and
 *   flushes of one file is exact, whichever processes do them.
 * - A flush is not passed on to the real disk: it empties the journal.
 * - Names are durable at once (create, rename, unlink), and ftruncate() is a
 *   flush too.  So some disks are worse than this one.
 * - stdio's writes are not seen, and files at the top of the data directory
 *   are left out: they are postmaster.pid and its like.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* LostFlush.pm reads it: then come `old` bytes that stood at `offset` */
typedef struct Record
{
	int64_t		offset;
	int64_t		length;			/* of the file */
	int64_t		old;
} Record;

#define REAL(name) ((__typeof__(name) *) real(#name))

/* The C library's own function.  Looked up each time: it is a test. */
static void *
real(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static void
give_up(const char *what)
{
	dprintf(STDERR_FILENO, "lost_flush: %s: %s\n", what, strerror(errno));
	abort();
}

static void
journal_of(const struct stat *file, char *path)
{
	snprintf(path, PATH_MAX, "%s/%ju-%ju", getenv("LOST_FLUSH_JOURNAL"),
			 (uintmax_t) file->st_dev, (uintmax_t) file->st_ino);
}

/*
 * Lock the journal of a file; closing it gives the lock back.  -1: the file is
 * none of the data directory's.
 */
static int
lock_journal(int fd)
{
	const char *data = getenv("LOST_FLUSH_DATA");
	char		link[64];
	char		path[PATH_MAX];
	struct stat file;
	ssize_t		len;
	int			journal;

	if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode))
		return -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < 0)
		give_up("readlink");
	path[len] = '\0';
	len = strlen(data);
	if (strncmp(path, data, len) != 0 || path[len] != '/' || strchr(path + len + 1, '/') == NULL)
		return -1;
	journal_of(&file, path);
	journal = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (journal < 0)
		give_up(path);
	while (flock(journal, LOCK_EX) != 0)
		if (errno != EINTR)
			give_up("flock");
	return journal;
}

/* Note what the next size bytes at that offset will replace. */
static void
note(int fd, int journal, off_t offset, size_t size)
{
	Record		record = {.offset = offset};
	char		path[64];
	char	   *old;
	struct stat file;
	struct iovec parts[2];
	int			reader;

	if (fcntl(fd, F_GETFL) & O_DSYNC)
		return;
	/* the file may be open for writing only */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	if (reader < 0 || fstat(fd, &file) != 0)
		give_up(path);
	record.length = file.st_size;
	if (offset < file.st_size)
		record.old = offset + (off_t) size < file.st_size ? (off_t) size : file.st_size - offset;
	old = malloc(record.old + 1);
	if (old == NULL || pread(reader, old, record.old, offset) != record.old)
		give_up("read");
	parts[0] = (struct iovec) {&record, sizeof(record)};
	parts[1] = (struct iovec) {old, record.old};
	if (writev(journal, parts, 2) != (ssize_t) sizeof(record) + record.old)
		give_up("journal");
	free(old);
	close(reader);
}

static ssize_t
total(const struct iovec *iov, int n)
{
	ssize_t		size = 0;

	while (n-- > 0)
		size += iov[n].iov_len;
	return size;
}

/* errno is the call's */
static void
unlock(int journal)
{
	int			result = errno;

	if (journal >= 0)
		close(journal);
	errno = result;
}

/* --- what the server calls; it knows files longer than 2 GB */

ssize_t
write(int fd, const void *buf, size_t size)
{
	int			journal = lock_journal(fd);
	ssize_t		result;

	if (journal >= 0)
		note(fd, journal, lseek(fd, 0, SEEK_CUR), size);
	result = REAL(write)(fd, buf, size);
	unlock(journal);
	return result;
}

ssize_t
pwrite64(int fd, const void *buf, size_t size, off64_t offset)
{
	int			journal = lock_journal(fd);
	ssize_t		result;

	if (journal >= 0)
		note(fd, journal, offset, size);
	result = REAL(pwrite64)(fd, buf, size, offset);
	unlock(journal);
	return result;
}

ssize_t
pwritev64(int fd, const struct iovec *iov, int n, off64_t offset)
{
	int			journal = lock_journal(fd);
	ssize_t		result;

	if (journal >= 0)
		note(fd, journal, offset, total(iov, n));
	result = REAL(pwritev64)(fd, iov, n, offset);
	unlock(journal);
	return result;
}

ssize_t
pwrite(int fd, const void *buf, size_t size, off_t offset)
{
	return pwrite64(fd, buf, size, offset);
}

ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	return pwritev64(fd, iov, n, offset);
}

/* All that was written to the file is on the disk now. */
static int
flush(int fd)
{
	int			journal = lock_journal(fd);

	if (journal >= 0 && REAL(ftruncate64)(journal, 0) != 0)
		give_up("flush");
	unlock(journal);
	return 0;
}

int
fsync(int fd)
{
	return flush(fd);
}

int
fdatasync(int fd)
{
	return flush(fd);
}

/* What stood behind the new end must not come back. */
int
ftruncate64(int fd, off64_t length)
{
	flush(fd);
	return REAL(ftruncate64)(fd, length);
}

int
ftruncate(int fd, off_t length)
{
	return ftruncate64(fd, length);
}

int
truncate64(const char *path, off64_t length)
{
	int			fd = open(path, O_RDWR | O_CLOEXEC);
	int			result = fd < 0 ? -1 : ftruncate64(fd, length);

	unlock(fd);
	return result;
}

int
truncate(const char *path, off_t length)
{
	return truncate64(path, length);
}

/* A file whose name goes takes its journal along: its number is used again. */
static void
forget(const char *path)
{
	char		journal[PATH_MAX];
	struct stat file;
	int			result = errno;

	if (lstat(path, &file) == 0 && S_ISREG(file.st_mode) && file.st_nlink == 1)
	{
		journal_of(&file, journal);
		(void) REAL(unlink)(journal);
	}
	errno = result;
}

int
unlink(const char *path)
{
	forget(path);
	return REAL(unlink)(path);
}

int
rename(const char *from, const char *to)
{
	forget(to);
	return REAL(rename)(from, to);
}
