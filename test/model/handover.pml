/*
 * handover.pml
 *		Which worker holds a turn, and which calls of an earlier holder count.
 *
 * One turn.  Arming again, rescue, resume and take-over are hand-overs: each
 * makes the turn's generation one more.  Workers beat, suspend and answer with
 * the generation that start_turn gave them, for as long as they like.
 *
 * A transaction locks the row, judges it, and commits or rolls back.  That is one
 * step here, save for those that judge silence; election.pml has the steps of a
 * commit.  What follows a hand-over's commit in shared memory is another step.  Time is abstract: at any time the last sign of life
 * may become too old, a window or a wait may be over (time.pml counts).
 *
 * With STRICT a stale holder is told so as soon as the hand-over is visible, not
 * only when its call has returned.  That needs ANNOUNCE: the session tells the
 * lease before it commits.
 *
 * README.md says how to choose a scenario and a broken variant.
 */

#ifndef SCENARIO
#define SCENARIO	1
#endif

/*
 * 1: two workers; a gateway rescues, or two if RESCUES is 2
 * 2: two workers that also suspend; a gateway resumes
 * 3: two workers, one of which takes over
 * 4: one worker; a gateway arms again, another one fails the deployment
 */
#ifndef RESCUES
#define RESCUES		1
#endif
#ifndef BEATS
#define BEATS		3			/* of all workers */
#endif
#ifndef CRASHES
#define CRASHES		0
#endif
#if SCENARIO == 1
#define SESSIONS	(2 + RESCUES)
#elif SCENARIO == 3
#define SESSIONS	2
#else
#define SESSIONS	3
#endif
#define LAST_GEN	7

#define ME			(_pid + 1)

/* the row, as other sessions see it; all of it is durable */
bit		owed = 1;
byte	gen = 1;
byte	taken;					/* the generation that start_turn gave out */
bit		suspended;
bit		lapsed;					/* offered to rescue_turns */
byte	holder;					/* the session that locks it; 0: none */

/* the lease: shared memory, gone after a crash */
byte	beaten;					/* generation of its last beat; 0: none, or too old */
byte	cached;					/* generation of an owed turn, as a beat has found it */
/*
 * The lease's number moves on with each commit that touched the turn: the
 * cached verdict is void then, and so is what a beat is just finding out.
 */
byte	unmoved;				/* beats (bits) since whose look the number stands */
byte	fence;					/* FENCE_BEFORE_COMMIT */
byte	announced;				/* ANNOUNCE: rescues that are about to commit */

/* time */
bit		young = 1;				/* armed, handed over, started or restarted lately */
bit		window_over;			/* of this offer */
bit		wait_over;				/* of this suspension */

byte	beats = BEATS;			/* that may still come */
byte	run_no = 1;
byte	open = SESSIONS;		/* workers and gateways that have not ended */
bit		faults = 1;				/* the server may still die */

/*
 * What is true, whatever the protocol believes: properties go by these.
 */
byte	handovers;				/* committed ones */
byte	settled = 1;			/* generation of the last one whose call has returned */
bit		holder_beats;			/* the present holder was told "owed" lately */
bit		silent;					/* since the row was locked there was silence */
byte	holders;				/* bit g: a worker was given generation g */
bit		answered;

/* Alive, as the protocol judges: a beat of an older generation is nothing. */
#ifdef NO_FENCE
/* BROKEN: a beat is a beat, whichever worker it comes from */
#define alive		(young || beaten != 0)
#else
#define alive		(young || beaten == gen)
#endif

/* Alive, in truth. */
#define lives		(young || holder_beats)

/* --- The row */

inline lock_row()
{
	atomic
	{
		holder == 0 -> holder = ME;
		silent = !lives
	}
}

inline unlock_row()
{
	holder = 0;
	silent = 0
}

inline roll_back()
{
	d_step { printf("%d: rolls back\n", ME); unlock_row() }
}

/* Caller is a d_step that commits. */
inline hand_over(new)
{
	gen = new;
	assert(gen <= LAST_GEN);
	handovers++;
	suspended = 0;
	wait_over = 0;
	lapsed = 0;
	window_over = 0;
	young = 1;
	holder_beats = 0;
	unlock_row()
}

/* Caller is a d_step that commits. */
inline end_turn()
{
	/* PROPERTY: never two terminal replies */
	assert(owed && !answered);
	owed = 0;
	answered = 1;
	beats = 0;
	taken = 0;
	holders = 0;
	fence = 0;
	cached = 0;
	unmoved = 0;
	suspended = 0;
	wait_over = 0;
	lapsed = 0;
	window_over = 0;
	young = 0;
	beaten = 0;
	holder_beats = 0;
	unlock_row()
}

/* After its commit a session moves the lease on, and its call returns. */
inline move_lease()
{
	d_step
	{
		printf("%d: moves the lease on\n", ME);
		cached = 0;
		unmoved = 0;
		settled = gen
	}
}

/* --- Workers */

#ifdef START_NOT_TAKEN
/* BROKEN: start_turn does not remember that the generation has been taken */
#define may_start	(owed && !suspended)
#else
#define may_start	(owed && !suspended && taken != gen)
#endif

#define may_take_over	(take_over && owed && !suspended && taken == gen)

inline start_turn(take_over)
{
	/* if it is told NULL, it has done nothing: so it waits here */
	atomic
	{
		!owed || (holder == 0 && (may_start || may_take_over)) ->
		tried = 1;
		if
		:: may_start ->
			lapsed = 0;
			window_over = 0;
			young = 1;
			cached = 0;
			unmoved = 0;
			taken = gen;
			mine = gen
		:: !may_start && may_take_over ->
			hand_over(gen + 1);
			taken = gen;
			mine = gen;
			handed_over = 1
		:: else
		fi;
		if
		:: mine != 0 ->
			printf("%d: starts the turn, generation %d\n", ME, mine);
			/* PROPERTY: a generation has one holder */
			assert((holders & (1 << mine)) == 0);
			holders = holders | (1 << mine);
			at = handovers
		:: else
		fi
	};
	if
	:: handed_over -> move_lease()
	:: else
	fi
}

/* What the table or the cache says of the turn: its generation, 0 = not owed. */
inline beat_with(found)
{
	if
	:: owed && found != 0 && mine >= found && mine >= fence ->
		printf("%d: beats with generation %d, is told \"owed\"\n", ME, mine);
		/* an older beat does not take the place of a newer one */
		beaten = (suspended || mine < beaten -> beaten : mine);
		holder_beats = (at == handovers && !suspended -> 1 : holder_beats);
		/* PROPERTY: a stale holder is told so once the hand-over's call has returned */
		assert(mine >= began)
	:: else ->
		printf("%d: beats with generation %d, is told to give up\n", ME, mine);
		/* PROPERTY: a holder is not told to give up what it holds */
		assert(!owed || mine < gen);
		gave_up = 1
	fi
}

#define my_bit	(1 << (_pid - 4))

inline heartbeat()
{
	atomic
	{
		beats = (beats > 0 -> beats - 1 : 0);
#ifdef STRICT
		began = gen;
#else
		began = settled;
#endif
		if
		:: cached != 0 && announced == 0 -> beat_with(cached)
		:: else -> probe = 1
		fi
	};
	if
	:: probe ->
#ifdef PROBE_LATE
		/* BROKEN: the lease's number is read after the snapshot */
		known = (owed -> gen : 0);
		unmoved = unmoved | my_bit;
#else
		unmoved = unmoved | my_bit;
		known = (owed -> gen : 0);
#endif
		atomic
		{
			cached = (known != 0 && announced == 0 && (unmoved & my_bit) -> known : cached);
			unmoved = unmoved & ~my_bit;
			beat_with(known);
			probe = 0;
			known = 0
		}
	:: else
	fi;
	began = 0
}

inline suspend_turn()
{
	atomic
	{
		holder == 0 ->
		if
		:: owed && mine == gen && !suspended ->
			printf("%d: suspends the turn\n", ME);
			suspended = 1;
			lapsed = 0;
			window_over = 0
		:: else
		fi
	}
}

#ifdef ANSWER_NO_FENCE
/* BROKEN: an answer is an answer, whichever worker it comes from */
#define may_answer	owed
#else
#define may_answer	(owed && mine == gen)
#endif

inline answer()
{
	atomic
	{
		holder == 0 ->
		if
		:: may_answer ->
			printf("%d: answers with generation %d, and wins\n", ME, mine);
			/* PROPERTY: a stale holder never wins */
			assert(at == handovers);
			end_turn()
		:: else -> printf("%d: answers with generation %d, and is late or stale\n", ME, mine)
		fi
	}
}

proctype Worker(bit take_over)
{
	byte	me = run_no;
	byte	mine, at;			/* the generation it holds, given after that many hand-overs */
	byte	began, known;
	bit		probe, gave_up, waited, tried, handed_over;

again:
	{
		if
		:: !tried && owed -> start_turn(take_over)
		:: else
		fi;
		do
		:: mine == 0 || gave_up || !owed -> break
		:: mine != 0 && !gave_up && owed && beats > 0 -> heartbeat()
#if SCENARIO == 2
		:: mine != 0 && !gave_up && owed && !waited -> waited = 1; suspend_turn()
#endif
		:: mine != 0 && owed -> answer(); break
		od;
		goto over
	} unless { me != run_no };
	d_step { me = run_no; probe = 0; known = 0; began = 0 };
	goto again;
over:
	atomic { mine = 0; at = 0; gave_up = 0; waited = 0; tried = 0; handed_over = 0; me = 0; open-- }
}

/* --- Gateways */

#if defined(RESCUE_NO_RECHECK)
/* BROKEN: takes the row as it was before the lock */
#define may_rescue	owed
#define next_gen	(looked + 1)
#elif defined(RESCUE_NO_JUDGE)
/* BROKEN: an offer is an offer, though the worker has beaten since */
#define may_rescue	(owed && lapsed && !suspended)
#else
#define may_rescue	(owed && lapsed && !suspended && !alive)
#endif

#ifndef next_gen
#define next_gen	(gen + 1)
#endif

/* rescue_turns takes a turn that was offered, for another worker. */
proctype Rescue()
{
	byte	me = run_no;
	byte	looked;

again:
	{
		/* it looks for turns that are offered, without a lock */
		if
		:: atomic { lapsed -> looked = gen; printf("%d: finds the turn offered\n", ME) }
		:: !owed -> goto over
		fi;
		/* passes over a row that another session locks */
		if
		:: lock_row()
		:: atomic { holder != 0 -> goto over }
		fi;
#ifdef FENCE_BEFORE_COMMIT
		/* BROKEN: the fence is raised before the hand-over has committed */
		fence = gen + 1;
#endif
#ifdef ANNOUNCE
		/* from here on beats look at the table */
		announced++;
#endif
		if
		:: may_rescue ->
			if
			:: atomic
				{
					/* PROPERTY: a worker that beats in time does not lose its turn */
					assert(silent);
					/* PROPERTY: each turn is rescued by one caller */
					assert(lapsed && next_gen == gen + 1);
					hand_over(next_gen);
					printf("%d: rescues the turn, generation %d\n", ME, gen)
				};
				move_lease()
			:: roll_back()
			fi
		:: else -> roll_back()
		fi;
#ifdef ANNOUNCE
		announced--;
#endif
		goto over
	} unless { me != run_no };
	me = run_no;
	goto again;
over:
	atomic { looked = 0; me = 0; open-- }
}

/* resume_turn: the wait is over. */
proctype Resume()
{
	byte	me = run_no;

again:
	{
		if
		:: suspended
		:: !owed -> goto over
		fi;
		atomic
		{
			holder == 0 ->
			if
			:: suspended ->
#ifdef RESUME_KEEPS_GENERATION
				/* BROKEN: no hand-over, so the first holder holds it still */
				hand_over(gen);
				taken = 0;
				holders = 0;
#else
				hand_over(gen + 1);
#endif
				printf("%d: resumes the turn, generation %d\n", ME, gen)
			:: else -> goto over
			fi
		};
		move_lease();
		goto over
	} unless { me != run_no };
	me = run_no;
	goto again;
over:
	open--
}

/* arm_turn of a turn that is there: for another worker. */
proctype ArmAgain()
{
	byte	me = run_no;

again:
	{
		atomic
		{
			holder == 0 ->
			if
			:: owed ->
				hand_over(gen + 1);
				printf("%d: arms the turn again, generation %d\n", ME, gen)
			:: else -> goto over
			fi
		};
		move_lease();
		goto over
	} unless { me != run_no };
	me = run_no;
	goto again;
over:
	open--
}

#ifdef FAIL_NO_RECHECK
/* BROKEN: ends what it has listed before the lock */
#define may_fail	(owed && listed)
#else
#define may_fail	(owed && listed && called == handovers)
#endif

/* fail_deployment: what was armed before the call. */
proctype FailDeployment()
{
	byte	me = run_no;
	byte	called;
	bit		listed;

again:
	{
		atomic
		{
			called = handovers;
			listed = owed;
			printf("%d: fail_deployment, of what was armed until now\n", ME)
		};
		atomic
		{
			holder == 0 ->
			if
			:: may_fail ->
				printf("%d: fails the turn\n", ME);
				/* PROPERTY: what was armed again after the call is not failed */
				assert(called == handovers);
				end_turn()
			:: else
			fi
		};
		goto over
	} unless { me != run_no };
	me = run_no;
	goto again;
over:
	atomic { called = 0; listed = 0; me = 0; open-- }
}

/* --- The sweep, time and crashes */

#define to_offer	(!alive && !lapsed)
#define to_fail		(!alive && lapsed && window_over)
#define to_revive	(alive && lapsed)

#ifdef SUSPENDED_BY_SILENCE
/* BROKEN: a suspended turn is judged like any other */
#define judged		1
#else
#define judged		(!suspended)
#endif

inline decide()
{
	offer = judged && to_offer;
	fail = judged && to_fail;
	expire = suspended && wait_over;
	/* PROPERTY: beats of a stale holder keep nothing alive */
	assert(!judged || suspended || !alive || lives)
}

active proctype Sweep()
{
	byte	me = run_no;
	bit		offer, fail, expire;

again:
	{
		do
		:: owed && (judged -> (to_offer || to_fail || to_revive) : wait_over) ->
#ifdef SWEEP_BEFORE_LOCK
			/* BROKEN: row and lease are read, then the row is locked */
			d_step { decide() };
			lock_row();
#else
			/* where it is to fail the sweep takes the row, which is as good as a lock */
			lock_row();
			d_step { decide() };
#endif
			if
			:: atomic
				{
					owed && (fail || expire) ->
					printf("%d: the sweep fails the turn\n", ME);
					/* PROPERTY: a worker that beats in time is not failed */
					assert(expire || silent);
					/* PROPERTY: a suspended turn waits until its wait is over */
					assert(!suspended || wait_over);
					end_turn()
				}
			:: atomic
				{
					owed && !fail && !expire ->
					printf("%d: the sweep offers the turn: %d\n", ME, offer);
					lapsed = offer || (lapsed && !to_revive);
					window_over = (offer || !lapsed -> 0 : window_over);
					unlock_row()
				}
			:: else -> roll_back()
			fi;
			d_step { offer = 0; fail = 0; expire = 0 }
		:: !owed && !faults -> goto over
		od
	} unless { me != run_no };
	d_step { me = run_no; offer = 0; fail = 0; expire = 0 };
	goto again;
over:
	skip
}

active proctype Time()
{
	do
	:: d_step
		{
			young || beaten != 0 || holder_beats ->
			printf("the last sign of life is too old\n");
			young = 0;
			beaten = 0;
			holder_beats = 0;
			silent = (holder != 0)
		}
	:: d_step
		{
			lapsed && !window_over -> window_over = 1;
			printf("the rescue window is over\n")
		}
	:: d_step
		{
			suspended && !wait_over -> wait_over = 1;
			printf("the wait is over\n")
		}
	:: !owed && !faults && open == 0 -> break
	od
}

active proctype Crash()
{
	byte	n;

	do
	:: d_step
		{
			n < CRASHES && owed ->
			printf("the server crashes and starts again\n");
			n++;
			run_no++;
			holder = 0;
			silent = 0;
			/* the lease is gone; the floor of a restart is one deadline */
			beaten = 0;
			holder_beats = 0;
			cached = 0;
			unmoved = 0;
			fence = 0;
			announced = 0;
			settled = gen;
			young = owed
		}
	:: d_step { n = 0; faults = 0 }; break
	od
}

init
{
	atomic
	{
		run Worker(0);
#if SCENARIO == 1
		run Worker(0);
		run Rescue();
#if RESCUES > 1
		run Rescue();
#endif
		printf("1 sweep, 5 and 6 workers, 7 rescues (and 8)\n")
#elif SCENARIO == 2
		run Worker(0);
		run Resume();
		printf("1 sweep, 5 and 6 workers, 7 resumes\n")
#elif SCENARIO == 3
		run Worker(1);
		printf("1 sweep, 5 worker, 6 a worker that takes over\n")
#else
		run ArmAgain();
		run FailDeployment();
		printf("1 sweep, 5 worker, 6 arms again, 7 fails the deployment\n")
#endif
	}
}
