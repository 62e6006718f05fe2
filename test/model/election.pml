/*
 * election.pml
 *		Which session ends a turn, in which order replies become visible, and
 *		what a crash leaves of it.
 *
 * The turns are messages of one conversation.  Each session runs one
 * transaction: it arms, answers, fails or updates.  A session may roll back, and
 * may lose the server at each step; then its client calls again.  Silence is
 * not modelled here (time.pml does that): the sweep may find a turn lapsed at
 * any time.
 *
 * A row is its committed, visible version.  What an open transaction changes is
 * in that session's variables until its commit.  A commit is two steps: its
 * record is flushed (the disk has it), then other sessions see it and the client
 * hears of it.
 *
 * README.md says how to choose a scenario and a broken variant.
 */

#ifndef SCENARIO
#define SCENARIO	1
#endif

/*
 * 1: one turn, armed by ARMS sessions; an answer and an update
 * 2: two turns; two sessions end both, each naming them in another order
 * 3: two turns of one conversation; two sessions end one each
 * 4: the same; a standby that has not replayed all is promoted
 */
#if SCENARIO == 1
#define TURNS		1
#ifndef ARMS
#define ARMS		2
#endif
#define SESSIONS	(ARMS + 2)
#else
#define TURNS		2
#define SESSIONS	2
#define ARMS		0
#endif

#ifndef CRASHES
#define CRASHES		1
#endif
#ifndef READS
#define READS		2			/* of the stream, before its last one */
#endif
#define LAST_ID		9
#define JUMP		5			/* a promoted standby gives ids above */

/* the state of a turn */
#define NONE		0
#define OWED		1
#define ENDED		2

/* the state of a reply's row, with its index entry */
#define ABSENT		0
#define OPEN		1			/* its transaction is open */
#define DONE		2
#define DEAD		3			/* its transaction has rolled back */

#define UPDATE		0
#define TERMINAL	1

#define ME			(_pid + 1)
#define bit_of(n)	(1 << (n))

typedef Row
{
	byte	state;
	bit		tomb;				/* TWO_TABLES: the outcome, in a table of its own */
};

typedef Reply
{
	byte	status;
	byte	kind;
	byte	turns;				/* the turns that it lists */
	bit		flushed;
};

Row		row[2 * TURNS];
#define turn(t)		row[t]				/* as other sessions see it */
#define disk(t)		row[TURNS + (t)]	/* as a crash leaves it */
byte	holder[TURNS];			/* the session that locks the row; 0: none */
Reply	reply[LAST_ID + 1];		/* in the order of the index */
byte	last_id;				/* the sequence */
byte	short_lock;				/* of the conversation */

byte	run_no = 1;				/* of the server: one more after each crash */
byte	arms_open = ARMS;		/* sessions that may still arm */
byte	open = SESSIONS;		/* sessions that have not ended */
bit		faults = 1;				/* the server may still die */

/* what clients know */
byte	told_armed;				/* turns */
short	told_won;				/* replies: a caller heard "won" */
byte	cursor;
short	seen;					/* replies that the stream has */
byte	seen_end;				/* turns whose terminal reply the stream has */
bit		lagged;					/* the standby that was promoted did not have all */

#if SCENARIO == 4
Row		standby[TURNS];
short	standby_replies;
#endif

/* used within a d_step only, and 0 outside */
byte	i_, n_, last_;

/* --- Properties.  A d_step uses them once something has become visible. */

inline check_replies()
{
	i_ = 0;
	do
	:: i_ < TURNS ->
		n_ = 1;
		last_ = 0;
		do
		:: n_ <= LAST_ID ->
			if
			:: reply[n_].status == DONE && (reply[n_].turns & bit_of(i_)) ->
				if
				:: reply[n_].kind == TERMINAL ->
					/* PROPERTY: never two terminal replies */
					assert(last_ == 0);
					last_ = n_
				:: else ->
					/* PROPERTY: no update after the terminal reply */
					assert(last_ == 0)
				fi
			:: else
			fi;
			n_++
		:: else -> break
		od;
		i_++
	:: else -> break
	od;
	i_ = 0;
	n_ = 0;
	last_ = 0
}

inline check_cursor()
{
	i_ = 1;
	do
	:: i_ <= cursor ->
		/* PROPERTY: a cursor misses nothing */
		assert(reply[i_].status != DONE || (seen & bit_of(i_)));
		i_++
	:: else -> break
	od;
	i_ = 0
}

/* --- Transactions */

inline set_ended(base, ended)
{
	i_ = 0;
	do
	:: i_ < TURNS ->
		if
		:: (ended) & bit_of(i_) ->
#ifdef TWO_TABLES
			row[(base) + i_].state = NONE;
			row[(base) + i_].tomb = 1
#else
			row[(base) + i_].state = ENDED
#endif
		:: else
		fi;
		i_++
	:: else -> break
	od;
	i_ = 0
}

inline unlock_rows()
{
	i_ = 0;
	do
	:: i_ < TURNS ->
		holder[i_] = (holder[i_] == ME -> 0 : holder[i_]);
		i_++
	:: else -> break
	od;
	i_ = 0
}

inline flush(id, ended)
{
	printf("%d: the commit of reply %d is flushed\n", ME, id);
	reply[id].flushed = 1;
	set_ended(TURNS, ended)
}

inline reveal(id, ended)
{
	printf("%d: the commit of reply %d is visible\n", ME, id);
	reply[id].status = DONE;
	set_ended(0, ended);
	unlock_rows();
	check_replies();
	check_cursor()
}

/* A commit that ends turns, or with ended = 0 stores an update. */
inline commit(id, ended)
{
#ifdef NO_FLUSH
	/* BROKEN: synchronous_commit = off is obeyed, the flush comes later */
	d_step
	{
		reveal(id, ended);
		told_won = (ended -> told_won | bit_of(id) : told_won)
	};
	d_step { flush(id, ended) }
#else
	d_step { flush(id, ended) };
	d_step
	{
		reveal(id, ended);
		told_won = (ended -> told_won | bit_of(id) : told_won)
	}
#endif
}

inline roll_back(id)
{
	d_step
	{
		printf("%d: rolls back\n", ME);
		reply[id].status = (id != 0 -> DEAD : ABSENT);
		unlock_rows()
	}
}

/* Take the id and make the index entry, under the conversation's short lock. */
inline store_reply(id, kind_, turns_)
{
#ifdef NO_SHORT_LOCK
	/* BROKEN: an id comes from the sequence, its entry some time later */
	d_step
	{
		last_id++; id = last_id;
		printf("%d: takes the id %d\n", ME, id)
	};
#else
	d_step
	{
		short_lock == 0 -> short_lock = ME;
		last_id++; id = last_id;
		printf("%d: takes the id %d under the short lock\n", ME, id)
	};
#endif
	d_step
	{
		printf("%d: stores reply %d (%d: 0 = update) for turns %d\n", ME, id, kind_, turns_);
		assert(id <= LAST_ID);
		reply[id].status = OPEN;
		reply[id].kind = kind_;
		reply[id].turns = turns_;
		reply[id].flushed = 0;
#ifndef NO_SHORT_LOCK
		short_lock = 0
#endif
	}
}

/*
 * Lock the row of a turn, waiting for another holder, and only then look whether
 * it is owed.  A session locks no row that has ended or is not there.
 */
inline lock_and_judge(t, won)
{
#ifdef LAST_WRITER_WINS
	/* BROKEN: judged before the wait for the lock, and not again */
	if
	:: atomic
		{
			turn(t).state == OWED -> won = won | bit_of(t);
			printf("%d: finds turn %d owed, and waits for its lock\n", ME, t)
		};
		atomic { holder[t] == 0 -> holder[t] = ME; printf("%d: locks turn %d\n", ME, t) }
	:: else
	fi
#else
	atomic
	{
		holder[t] == 0 || turn(t).state == NONE ->
		if
		:: turn(t).state == OWED ->
			printf("%d: locks turn %d and finds it owed\n", ME, t);
			holder[t] = ME;
			won = won | bit_of(t)
		:: else -> printf("%d: finds turn %d not owed\n", ME, t)
		fi
	}
#endif
}

/* --- Sessions */

/* arm_turn: insert the row, or arm the turn that is there again. */
proctype Arm(byte t)
{
	byte	me = run_no;

again:
	{
#ifdef TWO_TABLES
		/* BROKEN: look for the outcome, then insert the marker */
		if
		:: turn(t).tomb -> goto over
		:: else -> printf("%d: finds no outcome\n", ME)
		fi;
#endif
		/* the unique key: a session waits for another one's open insert */
		atomic
		{
			holder[t] == 0 ->
			if
			:: turn(t).state == ENDED -> goto over
			:: else -> holder[t] = ME; printf("%d: has the key of turn %d\n", ME, t)
			fi
		};
		if
		:: disk(t).state = OWED;
			d_step
			{
				printf("%d: turn %d is armed\n", ME, t);
				turn(t).state = OWED;
				told_armed = told_armed | bit_of(t);
				unlock_rows()
			}
		:: roll_back(0)
		fi;
		goto over
	} unless { me != run_no };
	me = run_no;
	goto again;
over:
	atomic { arms_open--; open-- }
}

/* commit_terminal_reply; with one turn also fail_turn, reject, discharge. */
proctype End(byte first; byte second)
{
	byte	me = run_no;
	byte	id, won;

again:
	{
		/* a message is dispatched once its arm has committed */
		atomic { (turn(first).state != NONE || arms_open == 0) -> id = 0; won = 0 };
#ifdef REPLY_FIRST
		/* BROKEN: the reply is stored before the row of its turn is locked */
		store_reply(id, TERMINAL, bit_of(first));
#endif
#ifdef CALLER_ORDER
		/* BROKEN: rows are locked in the caller's order */
		lock_and_judge(first, won);
		if
		:: second != first -> lock_and_judge(second, won)
		:: else
		fi;
#else
		/* in the order of COLLATE "C" */
		if
		:: first <= second -> lock_and_judge(first, won)
		:: else -> lock_and_judge(second, won)
		fi;
		if
		:: first < second -> lock_and_judge(second, won)
		:: first > second -> lock_and_judge(first, won)
		:: else
		fi;
#endif
		if
		:: won == 0 -> roll_back(id); goto over		/* lost */
		:: else
		fi;
#if defined(LISTS_ALL)
		/* BROKEN: the reply lists all turns that the caller names */
		store_reply(id, TERMINAL, bit_of(first) | bit_of(second));
#elif !defined(REPLY_FIRST)
		store_reply(id, TERMINAL, won);
#endif
		if
		:: commit(id, won)
		:: roll_back(id)
		fi;
		goto over
	} unless { me != run_no };
	me = run_no;
	goto again;
over:
	open--
}

/* post_update: a message of a turn that is owed. */
proctype Post(byte t)
{
	byte	me = run_no;
	byte	id, owed;

again:
	{
		atomic { (turn(t).state != NONE || arms_open == 0) -> id = 0; owed = 0 };
#ifdef UPDATE_NO_LOCK
		/* BROKEN: looks at the row and does not lock it */
		atomic
		{
			owed = (turn(t).state == OWED -> bit_of(t) : 0);
			printf("%d: finds turns %d owed\n", ME, owed)
		};
#else
		lock_and_judge(t, owed);
#endif
		if
		:: owed == 0 -> goto over
		:: else
		fi;
		store_reply(id, UPDATE, owed);
		if
		:: commit(id, 0)
		:: roll_back(id)
		fi;
		goto over
	} unless { me != run_no };
	me = run_no;
	goto again;
over:
	open--
}

#define may_sweep(t)	(turn(t).state == OWED && holder[t] == 0)
#if TURNS > 1
#define all_over		(open == 0 && !faults && turn(0).state != OWED && turn(1).state != OWED)
#else
#define all_over		(open == 0 && !faults && turn(0).state != OWED)
#endif

/* The sweep passes over what is locked and looks again later. */
active proctype Sweep()
{
	byte	me = run_no;
	byte	id, won;

again:
	{
		do
		:: atomic { may_sweep(0) -> holder[0] = ME; won = bit_of(0); id = 0;
				printf("%d: the sweep locks turn 0\n", ME) };
			store_reply(id, TERMINAL, won);
			commit(id, won)
#if TURNS > 1
		:: atomic { may_sweep(1) -> holder[1] = ME; won = bit_of(1); id = 0;
				printf("%d: the sweep locks turn 1\n", ME) };
			store_reply(id, TERMINAL, won);
			commit(id, won)
#endif
		:: all_over -> goto over
		od
	} unless { me != run_no };
	me = run_no;
	goto again;
over:
	skip
}

/* What is committed when the statement begins. */
inline take_snapshot()
{
	printf("%d: a read begins past %d\n", ME, cursor);
	i_ = 1;
	snapshot = 0;
	do
	:: i_ <= LAST_ID ->
		snapshot = (reply[i_].status == DONE -> snapshot | bit_of(i_) : snapshot);
		i_++
	:: else -> break
	od;
	i_ = 0
}

/* The next entry that the walk meets: the stream takes it, or the walk ends. */
inline walk_on()
{
	found = cursor + 1;
	do
	:: found <= LAST_ID &&
		(reply[found].status == ABSENT || reply[found].status == DEAD
#ifdef READER_NO_STOP
		/* BROKEN: an ordinary snapshot passes over what is open */
		 || !(snapshot & bit_of(found))
#endif
#ifdef READER_PASSES_NEW
		/* BROKEN: passes over what committed after its snapshot */
		 || (reply[found].status == DONE && !(snapshot & bit_of(found)))
#endif
		) -> found++
	:: else -> break
	od;
	if
	:: found <= LAST_ID && reply[found].status == DONE && (snapshot & bit_of(found)) ->
		printf("%d: the stream reads reply %d\n", ME, found);
		cursor = found;
		seen = seen | bit_of(found);
		check_cursor();
		if
		:: reply[found].kind == TERMINAL ->
			/* PROPERTY: never two terminal replies */
			assert(lagged || (seen_end & reply[found].turns) == 0);
			seen_end = seen_end | reply[found].turns
		:: else
		fi
	:: else -> found = 0; printf("%d: the walk ends\n", ME)
	fi
}

/*
 * A stream: read_replies past its cursor.  The walk goes over the index in the
 * order of ids, under a dirty snapshot, one entry at a step.
 */
active proctype Stream()
{
	byte	me = run_no;
	byte	reads, found;
	short	snapshot;

again:
	{
		do
		:: atomic
			{
				/* as often as it likes, and once when all is over */
				reads < READS || (reads == READS && all_over) ->
				d_step { take_snapshot(); reads = (all_over -> READS + 1 : reads + 1) }
			};
			do
			:: d_step { walk_on() };
				if
				:: found == 0 -> break
				:: else
				fi
			od;
			snapshot = 0
		:: reads > READS -> goto over
		od
	} unless { me != run_no };
	d_step
	{
		me = run_no;
		snapshot = 0;
		found = 0;
		reads = (reads > READS -> READS : reads)
	};
	goto again;
over:
	skip;
	d_step
	{
		i_ = 0;
		do
		:: i_ < TURNS ->
			/* PROPERTY: every armed turn ends */
			assert(!(told_armed & bit_of(i_)) || turn(i_).state == ENDED || turn(i_).tomb);
			i_++
		:: else -> break
		od;
		i_ = 1;
		do
		:: i_ <= LAST_ID ->
			/* PROPERTY: a cursor misses nothing */
			assert(reply[i_].status != DONE || (seen & bit_of(i_)));
			i_++
		:: else -> break
		od;
		i_ = 0
	}
}

/* --- Crashes, and promotions */

inline lose_what_is_not_flushed()
{
	short_lock = 0;
	last_id = 0;
	i_ = 1;
	do
	:: i_ <= LAST_ID ->
		if
		:: reply[i_].flushed ->
			reply[i_].status = DONE;
			last_id = i_
		:: else ->
			/* PROPERTY: "won" is won */
			assert(lagged || !(told_won & bit_of(i_)));
			/* an id that no flushed row has is given again */
			reply[i_].status = ABSENT;
			reply[i_].kind = 0;
			reply[i_].turns = 0;
			seen = seen & ~bit_of(i_);
			told_won = told_won & ~bit_of(i_)
		fi;
		i_++
	:: else -> break
	od;
	i_ = 0;
	do
	:: i_ < TURNS ->
		turn(i_).state = disk(i_).state;
		turn(i_).tomb = disk(i_).tomb;
		holder[i_] = 0;
		/* PROPERTY: an arm that was acknowledged is there */
		assert(!(told_armed & bit_of(i_)) || turn(i_).state != NONE || turn(i_).tomb);
		i_++
	:: else -> break
	od;
	i_ = 0
}

#if SCENARIO == 4

/* The standby has replayed what was flushed at some time. */
inline replay()
{
	printf("the standby has replayed all that is flushed\n");
	standby_replies = 0;
	i_ = 1;
	do
	:: i_ <= LAST_ID ->
		standby_replies = (reply[i_].flushed -> standby_replies | bit_of(i_) : standby_replies);
		i_++
	:: else -> break
	od;
	i_ = 0;
	do
	:: i_ < TURNS ->
		standby[i_].state = disk(i_).state;
		i_++
	:: else -> break
	od;
	i_ = 0
}

/* What the standby has is what there is. */
inline promote()
{
	printf("the standby is promoted\n");
	lagged = 1;
	i_ = 1;
	do
	:: i_ <= LAST_ID ->
		reply[i_].flushed = (standby_replies & bit_of(i_) -> 1 : 0);
		i_++
	:: else -> break
	od;
	i_ = 0;
	do
	:: i_ < TURNS ->
		disk(i_).state = standby[i_].state;
		i_++
	:: else -> break
	od;
	i_ = 0
}

active proctype Promotion()
{
	/* the standby has both turns at least */
	told_armed != 0;
	d_step { replay() };
	d_step
	{
		run_no++;
		promote();
		lose_what_is_not_flushed();
#ifndef NO_JUMP
		/* BROKEN without: the ids of what was lost are given again */
		last_id = JUMP;
#endif
		check_replies();
		check_cursor();
		faults = 0
	}
}

#else

active proctype Crash()
{
	byte	n;

	do
	:: d_step
		{
			n < CRASHES ->
			printf("the server crashes and starts again\n");
			n++;
			run_no++;
			lose_what_is_not_flushed();
			check_replies();
			check_cursor()
		}
	:: faults = 0; break
	od
}

#endif

init
{
	byte	i;

	atomic
	{
#if SCENARIO == 1
		for (i : 1 .. ARMS)
		{
			run Arm(0)
		}
		run End(0, 0);
		run Post(0);
		printf("1 sweep, 2 stream, 5 to %d arm, %d answers, %d updates\n", 4 + ARMS, 5 + ARMS, 6 + ARMS)
#else
		for (i : 0 .. TURNS - 1)
		{
			turn(i).state = OWED;
			disk(i).state = OWED;
			told_armed = told_armed | bit_of(i)
		}
#if SCENARIO == 2
		run End(0, 1);
		run End(1, 0);
		printf("1 sweep, 2 stream, 5 answers turns 0 and 1, 6 answers turns 1 and 0\n")
#else
		run End(0, 0);
		run End(1, 1);
		printf("1 sweep, 2 stream, 5 answers turn 0, 6 answers turn 1\n")
#endif
#endif
		i = 0
	}
}
