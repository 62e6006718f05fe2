/*
 * database.h
 *		The slots of databases in shared memory: what they hold, and which
 *		lock protects it.
 */
#ifndef TL_DATABASE_H
#define TL_DATABASE_H

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "rules/deadline.h"

#define TL_MAILBOX_SIZE		65536	/* bytes */
#define TL_DUE_IDS			64
#define TL_KEPT_PAUSES	16
#define TL_STEP_LEN			48
#define TL_STRIPES			16		/* copies of each counter */

typedef enum TlWorkerState
{
	TL_WORKER_NONE,				/* no extension there, a template, or closed */
	TL_WORKER_WANTED,			/* the launcher starts one */
	TL_WORKER_RUNNING,
	TL_WORKER_DISABLED,			/* turn_liveness.enabled is off there */
	TL_WORKER_NO_SLOT			/* no background worker is free; tried again */
} TlWorkerState;

/* the worker of a database, see worker_slot.c; under TlShared.directory */
typedef struct TlWorkerSlot
{
	TlWorkerState state;
	pid_t		pid;			/* 0: none has published itself */
	Latch	   *latch;
	bool		look_again;		/* wanted afresh when this worker has ended */
	bool		failed;			/* the last worker ended with an error */
	bool		closed;			/* its database lets no session in for now */
	int64		next_try_us;	/* monotonic: the launcher starts none before */
	/* the same, for a command that needs the database */
	int64		excluded_until_us;
	/* monotonic: no process is free for a worker; 0: one was */
	int64		short_since_us;
	uint64		prepared;		/* hash of the transaction that wants it anew */
	/* monotonic: when its last step began; without lock */
	pg_atomic_uint64 step_since_us;
	/* monotonic: a step that it could not do since then */
	int64		skipped_since_us;
	char		skipped[TL_STEP_LEN];
} TlWorkerSlot;

/* The clock of this run of the server, see clock.c. */
typedef struct TlRun
{
	TimestampTz anchor;			/* the clock's line begins here ... */
	int64		anchor_mono;	/* ... at this time of the monotonic clock */
	pg_atomic_uint64 alive_us;	/* last sign of life before that; 0 = unknown */
	pg_atomic_uint64 start_us;	/* end of recovery; 0: it still runs */
} TlRun;

/* The clock of a database, see clock.c. */
typedef struct TlClockState
{
	pg_atomic_uint64 offset;	/* from the run's clock: lost in pauses */
	pg_atomic_uint64 limit;
	pg_atomic_uint64 push;		/* tests move the clock: the worker does it */
	pg_atomic_uint64 pause_us;	/* when the last pause ended */
	pg_atomic_uint32 ticking;	/* a worker ticks */
	pg_atomic_uint32 no_pauses; /* tests: a late tick is none */
} TlClockState;

/* Where our clock stood when the wall clock left it, and by how much. */
typedef struct TlPause
{
	pg_atomic_uint64 at;
	pg_atomic_uint64 lost;
} TlPause;

/* What holds lapses back in a database, see grace.c. */
typedef struct TlGraceState
{
	pg_atomic_uint64 resumed_us;	/* sweep was turned on again */
	pg_atomic_uint32 sweep_off;
	pg_atomic_uint64 asked_us;	/* the silence since this call was looked at */
	pg_atomic_uint64 crowd_us;	/* many deployments beat before this call */
	TlGap		gaps[TL_GAPS];	/* silences, ended; under the directory */
} TlGraceState;

/* late replies that are kept, see late_reply.c */
typedef struct TlLateState
{
	pg_atomic_uint64 rows;		/* and one more; 0: unknown */
	pg_atomic_uint64 counted_us;
	pg_atomic_uint64 logged_us; /* the log told of some that were not kept */
} TlLateState;

/* cumulative counters, in the order of the columns of stat_row */
typedef enum TlCounter
{
	TL_COUNT_ARMED,
	TL_COUNT_ANSWERED,
	TL_COUNT_FAILED_UNRESPONSIVE,
	TL_COUNT_FAILED_NEVER_STARTED,
	TL_COUNT_FAILED_DIED,
	TL_COUNT_FAILED_TOO_LONG,
	TL_COUNT_FAILED_WAIT_EXPIRED,
	TL_COUNT_FAILED_STOPPED,
	TL_COUNT_FAILED_REJECTED,
	TL_COUNT_FAILED_PROVIDER,
	TL_COUNT_FAILED_OTHER,
	TL_COUNT_DISCHARGED,
	TL_COUNT_UPDATES,
	TL_COUNT_REARMED,
	TL_COUNT_OFFERED,
	TL_COUNT_RESCUED,
	TL_COUNT_LATE,
	TL_COUNT_STALE,
	TL_COUNT_UNKNOWN,
	TL_COUNT_LATE_DROPPED,
	TL_COUNT_BEATS,
	TL_COUNT_BEATS_IN_ROWS,
	TL_COUNT_SWEEPS,
	TL_COUNT_SWEEP_ERRORS,
	TL_COUNT_NOTIFICATIONS,
	TL_COUNT_CLAIMS,
	TL_COUNT_ACKNOWLEDGED,
	TL_COUNT_REDELIVERIES,
	TL_COUNT_DEAD,
	TL_COUNT_EXPIRED_UNDELIVERED,
	TL_COUNT_WORKER_STARTS,
	TL_NCOUNTERS
} TlCounter;

/*
 * One copy of the counters, in cache lines of its own: each beat counts, and
 * processes on different cores shall not take the line from one another.  A
 * session adds to the copy that its pid chooses, and takes no lock.
 */
typedef struct TlStripe
{
	pg_atomic_uint64 counters[TL_NCOUNTERS];
} pg_attribute_aligned(64) TlStripe;

/*
 * One database.  Slots are given out and taken back under TlShared.directory;
 * a session of the database may keep the pointer, as the database cannot go
 * while it is connected.
 */
typedef struct TlDatabase
{
	/* each beat reads these, a process seldom writes them: one cache line */
	TlClockState clock;
	pg_atomic_uint64 last_call_us;	/* of a worker's session, see grace.c */
	pg_atomic_uint32 generation;	/* changes that no lease was told of */
	pg_atomic_uint32 recheck;	/* counts go stale by time (subscriptions) */
	pg_atomic_uint32 refuses;	/* turn_liveness.accept is off */

	/* under TlShared.directory */
	Oid			dboid;			/* InvalidOid: free */
	uint8		incarnation;	/* one more each time the slot changes hands */
	TlWorkerSlot worker;

	TlGraceState grace;

	/* the last pauses of the clock: the worker writes them (clock.c) */
	TlPause		pauses[TL_KEPT_PAUSES];
	uint32		npauses;
	int64		skew;			/* from our clock to the wall clock, as noted */

	pg_atomic_uint32 ids_fit;	/* to this run, see reply_id.c */
	/* beats went to rows: some may be missing there */
	pg_atomic_uint32 rows_beaten;
	TlLateState late;

	/* the worker's appointments, see worker_round.c */
	pg_atomic_uint64 wake_us;	/* it sleeps until then */
	pg_atomic_uint64 due_again_us;	/* the next claim or delay that ends */
	pg_atomic_uint64 death_us;	/* an attached deployment lost its session */
	pg_atomic_uint64 last_sweep_us;
	pg_atomic_uint64 last_sweep_took_us;

	TlStripe	stripes[TL_STRIPES];
	TimestampTz stats_reset;

	/* the mailbox, see mailbox.c: under its lock */
	uint32		mailbox_len;
	bool		look_turns;		/* rows may have come without a letter */
	bool		look_replies;	/* the same for replies: notify {} */
	bool		latch_set;		/* the worker's latch was set for this mail */
	/* of the last posts of due replies, see due_ids.c; read without lock */
	pg_atomic_uint64 ndue;
	pg_atomic_uint64 due_ids[TL_DUE_IDS];
	LWLock		mailbox_lock;	/* a new owner of the slot finds zero above */
	char		mailbox[TL_MAILBOX_SIZE];
} pg_attribute_aligned(64) TlDatabase;

StaticAssertDecl(offsetof(TlDatabase, refuses) + sizeof(pg_atomic_uint32) <= 64,
				 "each beat reads one cache line of its database");

typedef struct TlShared
{
	LWLock		directory;
	pid_t		launcher_pid;
	Latch	   *launcher_latch;
	uint32		run;			/* random: this run of the server, never 0 */
	TlRun		clock;
	uint64		seeds[3];		/* of the lease hashes */
	pg_atomic_uint32 generation;	/* source of generations, never repeated */
	/* monotonic: the launcher looks at each database again */
	int64		rescan_us;
	/* monotonic: a command needs one without a slot */
	int64		no_looks_until_us;
	Oid			refused;		/* a worker found no slot free for this one */
	TlDatabase	databases[FLEXIBLE_ARRAY_MEMBER];	/* tl_database_capacity */
} TlShared;

/* NULL without preload */
extern TlShared *tl_shared;

extern Size tl_database_shmem_size(void);
extern void tl_database_shmem_startup(int tranche);

/* for tl_database() */
extern TlDatabase *tl_my_database;
extern TlDatabase *tl_database_look_up(void);

/*
 * This session's database.  A slot is made only where the extension is.  NULL
 * without preload, without the extension, or when the slots are used up.
 */
static inline TlDatabase *
tl_database(void)
{
	return tl_my_database != NULL ? tl_my_database : tl_database_look_up();
}

/*
 * Before anything is done: 25006 on a standby or in a read-only transaction,
 * 55000 with turn_liveness.accept = off
 */
extern void tl_check_writable(const char *function);
extern void tl_check_accepts(void);
/* a slot by oid, made if asked for; the caller holds the directory */
extern TlDatabase *tl_database_find(Oid dboid, bool make);
extern void tl_database_free(TlDatabase *db);

/* counts of this database; a call counts, even if its transaction aborts */
extern void tl_counter_add(TlCounter counter, uint64 n);
extern uint64 tl_counter_read(TlDatabase *db, TlCounter counter);
extern void tl_counters_reset(TlDatabase *db);

/* do beats go to rows, so that one of them can meet a row that is held? */
extern bool tl_rows_are_beaten(void);
extern void tl_due_again_by(TlDatabase *db, int64 us);
extern void tl_wake_worker(TlDatabase *db);
/* caller holds the directory, so that the launcher cannot withdraw */
extern void tl_wake_launcher(void);

#endif							/* TL_DATABASE_H */
