/*
 * copied.c
 *		Did this server begin as a copy of another one, and when?
 *
 * A server that starts from a base backup, or after pg_rewind, renames its
 * backup label, and keeps it.  The first session that asks in a server whose
 * label is new notes it durably, with the end of the WAL: what was logged
 * before that is of the other server.  So a sequence whose page was last logged
 * before has given out no id here, also when the server crashes before it does.
 *
 * Sessions of different databases may note the same label at the same time.
 * Each notes an end of its own, and any of them will do: a sequence that was
 * moved before the one that stays is moved once more, in a later run.
 */
#include "base/turn_liveness.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "common/hashfn.h"
#include "storage/fd.h"

#include "replies/outbox.h"

#define NOTE	"turn_liveness.copied"
#define MAX_LABEL	4096		/* with the name that a DBA gave the backup */

/* The beginning of a file as a string; false if there is none. */
static bool
read_file(const char *path, char *text)
{
	FILE	   *file = AllocateFile(path, PG_BINARY_R);
	size_t		length;

	if (file == NULL)
		return false;
	length = fread(text, 1, MAX_LABEL, file);
	text[length] = '\0';
	(void) FreeFile(file);
	return true;
}

/*
 * Without the note the next run merely moves the ids on once more, so a disk
 * that is full is no reason to refuse a reply.
 */
static void
write_note(uint64 label, XLogRecPtr end)
{
	char		path[MAXPGPATH];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s.%d", NOTE, MyProcPid);
	file = AllocateFile(path, PG_BINARY_W);
	if (file == NULL || fprintf(file, UINT64_FORMAT " " UINT64_FORMAT "\n", label, end) < 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	if (file != NULL && FreeFile(file) == 0)
		(void) durable_rename(path, NOTE, LOG);
}

bool
tl_copied_since(XLogRecPtr lsn)
{
	char		text[MAX_LABEL + 1];
	uint64		label;
	uint64		noted;
	uint64		end;

	if (!read_file(BACKUP_LABEL_OLD, text))
		return false;
	label = hash_bytes_extended((const unsigned char *) text, strlen(text), 0);
	if (read_file(NOTE, text) &&
		sscanf(text, UINT64_FORMAT " " UINT64_FORMAT, &noted, &end) == 2 && noted == label)
		return lsn < end;
	write_note(label, GetXLogInsertRecPtr());
	return true;
}
