/*
 * sweep_log.c
 *		What the log says of turns that a sweep fails, offers, or cannot take.
 *
 * A reader of the log asks which worker it was, how long it was silent, and of
 * how much: one line has it all.  A program reads the same line, so names that
 * contain quotes have them doubled (test/monitoring/README.md).  The lines of a
 * batch share messages, because a message costs the backend three times as much
 * time as a line.
 */
#include "base/turn_liveness.h"

#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/subtrans.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/args.h"
#include "base/guc.h"
#include "turns/sweep_log.h"

#define MESSAGE_SIZE	4096	/* bytes; a message that has as many is full */
#define HELD_LONG	(30 * TL_SECOND)
#define HELD_TOLD	PG_INT64_MAX	/* in place of a time */

PG_FUNCTION_INFO_V1(turn_liveness_holder);

/* A sweep writes many lines, and printf is slow. */
static void
append_number(StringInfo line, int64 number)
{
	char		digits[MAXINT8LEN + 1];

	appendBinaryStringInfo(line, digits, pg_lltoa(number, digits));
}

/* Seconds with one decimal. */
static void
append_seconds(StringInfo line, const char *what, int64 us)
{
	int64		tenths = (Max(us, 0) + TL_SECOND / 20) / (TL_SECOND / 10);

	appendStringInfoString(line, what);
	append_number(line, tenths / 10);
	appendStringInfoChar(line, '.');
	appendStringInfoChar(line, '0' + tenths % 10);
	appendBinaryStringInfo(line, " s", 2);
}

static void
append_quoted(StringInfo line, const char *name, int len)
{
	const char *quote;

	appendStringInfoChar(line, '"');
	while ((quote = memchr(name, '"', len)) != NULL)
	{
		appendBinaryStringInfo(line, name, quote - name);
		appendStringInfoString(line, "\"\"");
		len -= quote + 1 - name;
		name = quote + 1;
	}
	appendBinaryStringInfo(line, name, len);
	appendStringInfoChar(line, '"');
}

static void
append_name(StringInfo line, const char *what, const text *name)
{
	appendStringInfoString(line, what);
	append_quoted(line, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
}

/* A caller's code may contain anything: the backend ends no line with it. */
static void
append_code(StringInfo line, const char *code)
{
	for (; *code != '\0'; code++)
		appendStringInfoChar(line, *code == '\n' || *code == '\r' ? ' ' : *code);
}

static void
append_of(StringInfo line, const char *what, int64 us, int64 limit)
{
	append_seconds(line, what, us);
	append_seconds(line, " of ", limit);
}

/* What passed, and of how much. */
static void
append_cause(StringInfo line, const TlTurn *turn, const TlVerdict *verdict, TlCode lapse, int64 now)
{
	const TlTimes *times = &turn->times;

	switch (lapse)
	{
		case TL_CODE_UNRESPONSIVE:
			if (verdict->last_beat > 0)
				append_of(line, ", silent for ", now - verdict->last_beat, times->silence_ms * TL_MS);
			break;
		case TL_CODE_NEVER_STARTED:
			append_of(line, ", waited for ", now - times->armed, times->admission_ms * TL_MS);
			break;
		case TL_CODE_DIED:
			appendStringInfoString(line, ", its session ended");
			break;
		case TL_CODE_TOO_LONG:
			append_of(line, ", took ", now - times->begun, times->duration_ms * TL_MS);
			break;
		case TL_CODE_WAIT_EXPIRED:
			append_seconds(line, ", suspended for ", now - times->suspended);
			break;
		default:
			break;
	}
	if (times->lapsed > 0 && verdict->offered)
		append_of(line, ", offered for ", now - times->lapsed, times->rescue_ms * TL_MS);
}

/* The message that the next line belongs to: the last one, or a new one. */
static StringInfo
next_line(TlSweepLog *log)
{
	StringInfo	message = log->messages == NIL ? NULL : llast(log->messages);
	MemoryContext old;

	if (message != NULL && message->len < MESSAGE_SIZE)
	{
		appendStringInfoChar(message, '\n');
		return message;
	}
	old = MemoryContextSwitchTo(log->context);
	message = makeStringInfo();
	log->messages = lappend(log->messages, message);
	MemoryContextSwitchTo(old);
	return message;
}

void
tl_sweep_log(TlSweepLog *log, const TlTurn *turn, const char *verb, const char *code,
			 const TlVerdict *verdict, TlCode lapse, int64 now)
{
	static char *database = NULL;
	StringInfo	line = next_line(log);
	text	   *platform = tl_turn_isnull(turn, TURN_ROUTING) ? NULL :
		tl_routing_text(DatumGetJsonbP(tl_turn_value(turn, TURN_ROUTING)), "platform", true);
	text	   *traceparent = tl_turn_isnull(turn, TURN_ROUTING) ? NULL :
		tl_routing_trace(DatumGetJsonbP(tl_turn_value(turn, TURN_ROUTING)));

	/* no session renames a database to which another one is connected */
	if (database == NULL)
		database = MemoryContextStrdup(TopMemoryContext, get_database_name(MyDatabaseId));
	appendStringInfoString(line, verb);
	append_name(line, " turn ", tl_turn_text(turn, TURN_MESSAGE_ID));
	append_name(line, " of deployment ", tl_turn_text(turn, TURN_DEPLOYMENT));
	append_name(line, " (conversation ", tl_turn_text(turn, TURN_CONVERSATION));
	if (platform != NULL)
		append_name(line, ", platform ", platform);
	else
		appendStringInfoString(line, ", platform \"" TL_DEFAULT_PLATFORM "\"");
	appendStringInfoString(line, ", generation ");
	append_number(line, turn->times.generation);
	if (!tl_turn_isnull(turn, TURN_WORKER))
		append_name(line, ", worker ", tl_turn_text(turn, TURN_WORKER));
	if (traceparent != NULL)
		append_name(line, ", traceparent ", traceparent);
	appendStringInfoString(line, "): ");
	append_code(line, code);
	append_cause(line, turn, verdict, lapse, now);
	append_seconds(line, ", armed ", now - turn->times.armed);
	if (verdict->started)
		append_seconds(line, " ago, started ", now - verdict->first_beat);
	appendStringInfoString(line, lapse == TL_CODE_DIED ?
						   " ago, decided by session" : " ago, decided by sweep");
	appendStringInfoString(line, " in database ");
	append_quoted(line, database, strlen(database));
}

void
tl_sweep_log_emit(const TlSweepLog *log)
{
	ListCell   *cell;

	foreach(cell, log->messages)
		ereport(LOG,
				(errcode(ERRCODE_WARNING), errhidestmt(true), errhidecontext(true),
				 errmsg_internal("%s", ((StringInfo) lfirst(cell))->data)));
}

/*
 * The process whose transaction that is, or of whose transaction it is a part;
 * 0 for one that is prepared, -1 if it has ended.
 */
static int
process_of(TransactionId xid)
{
	if (!TransactionIdIsNormal(xid) || !TransactionIdIsInProgress(xid))
		return -1;
	return BackendXidGetPid(SubTransGetTopmostTransaction(xid));
}

/*
 * The process whose transaction keeps the sweep from that row; 0 and -1 as
 * above.  The caller has pinned the page.  A lock FOR KEY SHARE, which a
 * foreign key takes, keeps no sweep from a row.
 */
static int
holder_of(Buffer buffer, OffsetNumber offset)
{
	Page		page = BufferGetPage(buffer);
	TransactionId xmax = InvalidTransactionId;
	uint16		infomask = HEAP_XMAX_INVALID;
	MultiXactMember *members;
	int			nmembers;
	int			pid = -1;
	int			i;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (offset >= FirstOffsetNumber && offset <= PageGetMaxOffsetNumber(page) &&
		ItemIdIsNormal(PageGetItemId(page, offset)))
	{
		HeapTupleHeader tuple = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, offset));

		xmax = HeapTupleHeaderGetRawXmax(tuple);
		infomask = tuple->t_infomask;
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);

	if ((infomask & HEAP_XMAX_INVALID) != 0 || HEAP_LOCKED_UPGRADED(infomask))
		return -1;
	if ((infomask & HEAP_XMAX_IS_MULTI) == 0)
		return HEAP_XMAX_IS_LOCKED_ONLY(infomask) && HEAP_XMAX_IS_KEYSHR_LOCKED(infomask) ? -1 :
			process_of(xmax);

	nmembers = GetMultiXactIdMembers(xmax, &members, false, HEAP_XMAX_IS_LOCKED_ONLY(infomask));
	for (i = 0; i < nmembers && pid < 0; i++)
		if (members[i].status != MultiXactStatusForKeyShare)
			pid = process_of(members[i].xid);
	if (nmembers > 0)
		pfree(members);
	return pid;
}

/* The view turns passes the address of a row: which process holds it? */
Datum
turn_liveness_holder(PG_FUNCTION_ARGS)
{
	ItemPointer tid = PG_ARGISNULL(0) ? NULL : (ItemPointer) PG_GETARG_POINTER(0);
	TlRel		turns;
	int			pid = -1;

	if (tid == NULL)
		PG_RETURN_NULL();
	tl_rel_open(&turns, TL_TURN, false);
	/* a caller may pass any address */
	if (ItemPointerGetBlockNumberNoCheck(tid) < RelationGetNumberOfBlocks(turns.rel))
	{
		Buffer		buffer = ReadBuffer(turns.rel, ItemPointerGetBlockNumberNoCheck(tid));

		pid = holder_of(buffer, ItemPointerGetOffsetNumberNoCheck(tid));
		ReleaseBuffer(buffer);
	}
	tl_rel_close(&turns);
	if (pid < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(pid);
}

void
tl_sweep_held(int64 *since, const TlTurn *turn, int64 now)
{
	int			pid;

	if (*since == 0)
		*since = now;
	if (now - *since < HELD_LONG)
		return;
	pid = holder_of(((BufferHeapTupleTableSlot *) turn->slot)->buffer,
					ItemPointerGetOffsetNumber(&turn->tid));
	if (pid < 0)
		return;
	*since = HELD_TOLD;
	ereport(LOG,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errhidestmt(true),
			 errhidecontext(true),
			 errmsg("turn \"%s\" of deployment \"%s\" has lapsed, but a transaction has held it for 30 s in database \"%s\"",
					text_to_cstring(tl_turn_text(turn, TURN_MESSAGE_ID)),
					text_to_cstring(tl_turn_text(turn, TURN_DEPLOYMENT)),
					get_database_name(MyDatabaseId)),
			 pid != 0 ? errdetail("Process %d holds it.", pid) :
			 errdetail("A prepared transaction holds it."),
			 pid != 0 ? errhint("End that transaction, and set \"idle_in_transaction_session_timeout\" for its role.") :
			 errhint("Commit or roll back the prepared transaction.")));
}
