/*
 * parking.c
 *		Moving claims that last out of the way of the claims to come.
 *
 * A claim changes no column that stands in an index, so it costs no entry in
 * any.  But the replies that gateways hold stay among those that are due, and
 * each claim passes over them.  Most are acknowledged at once.  The worker
 * parks the others a second after the claim, or sooner where claims are
 * shorter: it sets parked_until to the time at which they are due again, which
 * takes them out of that index and puts them into one in the order of time.
 *
 * A letter tells the worker of each claim.  Where a letter was lost, when the
 * worker begins, and a minute after it met a claim whose row a transaction
 * held, the worker walks over all replies that are due.  Where there is a
 * subscription it does so with each scan of the owed rows, too.  It walks some
 * rows at a time, and for a tenth of its time: millions may be due where no
 * gateway fetches.
 * The walk and the list hold hints: a claim that the worker misses is due again
 * at its time all the same, for the next gateway that looks.
 */
#include "base/turn_liveness.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "commit/xact.h"
#include "replies/delivery.h"
#include "shared/clock.h"
#include "shared/database.h"
#include "store/reply_row.h"

#define PATIENCE_US		TL_SECOND	/* so long a gateway may hold a reply */
#define BATCH			1000		/* rows that one transaction looks at */
#define MAX_NOTED		100000		/* more claims than that: walk over all */
#define WALK_PAUSE_US	TL_SECOND	/* from one walk to the next */
#define WALK_SHARE		10			/* it takes a tenth of the worker's time */
#define HELD_PAUSE_US	(60 * TL_SECOND)	/* after a claim that was held */

/* a claim to look at */
typedef struct Claim
{
	int64		reply_id;
	int64		look;			/* at that time */
} Claim;

static Claim *claims = NULL;	/* TopMemoryContext; in the order of letters */
static int	first = 0;
static int	nclaims = 0;

/* where the walk over all of them stands */
static bool walk_wanted = false;
static bool walk_again = false; /* from the beginning, when it has ended */
static int64 next_walk = 0;
static char walk_platform[TL_MAX_NAME + 1] = "";
static int64 walk_after = PG_INT64_MIN;
static int64 walk_for_held = PG_INT64_MAX;	/* another one begins then */

void
tl_parking_note(const TlMail *mail, int64 now)
{
	int64		patience = Min(PATIENCE_US, (mail->due - now) / 2);

	if (claims == NULL)
		claims = MemoryContextAlloc(TopMemoryContext, MAX_NOTED * sizeof(Claim));
	if (nclaims == MAX_NOTED && first > 0)
	{
		memmove(claims, claims + first, (nclaims - first) * sizeof(Claim));
		nclaims -= first;
		first = 0;
	}
	if (nclaims == MAX_NOTED)
		tl_parking_note_all();
	else
		claims[nclaims++] = (Claim) {mail->reply_id, now + patience};
}

void
tl_parking_note_all(void)
{
	walk_again |= walk_wanted && walk_platform[0] != '\0';
	walk_wanted = true;
}

int64
tl_parking_next(void)
{
	int64		next = Min(first < nclaims ? claims[first].look : PG_INT64_MAX,
						   walk_wanted ? next_walk : PG_INT64_MAX);

	return Min(next, walk_for_held);
}

/*
 * Park the reply that the scan stands on, if a gateway holds it.  A session
 * that claims or acknowledges may hold the row: then it is none that lasts, the
 * worker learns of it anew, or the session rolls back, and the worker hears
 * nothing.
 *
 * A claim may have ended before the worker comes to it: its transaction was
 * open for longer.  Such a claim is never parked, so no look for replies that
 * are due again finds it.  The worker tells the listeners here, for a claim
 * that a letter told of: a walk would tell of the same ones each time.
 */
static void
park(TlRel *deliveries, TlScan *scan, Snapshot snapshot, int64 now, bool told)
{
	ItemPointer tid = &scan->slot->tts_tid;
	TlDelivery	d;

	tl_delivery_decode(scan->slot, &d);
	if (!tl_delivery_is_open(&d) || !tl_row_isnull(&d, DELIVERY_PARKED_UNTIL))
		return;
	if (tl_delivery_due(&d) <= now)
	{
		if (told && !tl_row_isnull(&d, DELIVERY_GATEWAY))
			tl_xact_reply(DatumGetTextPP(tl_row_value(&d, DELIVERY_CONVERSATION_ID)),
						  DatumGetTextPP(tl_row_value(&d, DELIVERY_PLATFORM)));
		return;
	}
	tl_row_set(&d, DELIVERY_PARKED_UNTIL, TimestampTzGetDatum(tl_delivery_due(&d)));
	if (tl_rel_update_unless_held(deliveries, tid, snapshot, d.values, d.nulls) == TM_WouldBlock)
		walk_for_held = Min(walk_for_held, now + HELD_PAUSE_US);
	if (tl_database() != NULL)
		tl_due_again_by(tl_database(), tl_delivery_due(&d));
}

/* Look at the next claims of the list; returns how many. */
static int
park_noted(TlRel *replies, TlRel *deliveries, Snapshot snapshot, int64 now)
{
	TlScan		by_id = {0};
	TlScan		scan = {0};
	int			n;

	tl_reply_scan(&by_id, replies, snapshot);
	tl_delivery_scan(&scan, deliveries, snapshot);
	for (n = 0; n < BATCH && first < nclaims && claims[first].look <= now; n++, first++)
	{
		CHECK_FOR_INTERRUPTS();
		tl_clock_keep_ticking();
		if (tl_delivery_find_by_id(&scan, &by_id, claims[first].reply_id, true))
			park(deliveries, &scan, snapshot, now, true);
	}
	tl_scan_end(&scan);
	tl_scan_end(&by_id);
	if (first == nclaims)
		first = nclaims = 0;
	return n;
}

/*
 * Go on with the walk over all that are due, platform by platform.  A session
 * whose transaction has stored replies leaves out those from the lowest of them
 * on: no gateway holds its own, and the next call looks at the others.
 */
static void
park_all(TlRel *deliveries, Snapshot snapshot, int64 now, int max)
{
	TlScan		scan = {0};
	text	   *platform = cstring_to_text(walk_platform);
	int64		own = tl_xact_lowest_due();

	/* the transaction has changed rows by hand */
	if (own == PG_INT64_MIN)
		own = PG_INT64_MAX;

	tl_scan_key_text(&scan, 1, BTEqualStrategyNumber, (Datum) 0);
	tl_scan_key_int8(&scan, 2, BTGreaterStrategyNumber, 0);
	tl_scan_begin(&scan, deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM, snapshot);
	while (max > 0)
	{
		bool		found = tl_scan_find(&scan, PointerGetDatum(platform), Int64GetDatum(walk_after));

		for (; found && max > 0; max--)
		{
			bool		isnull;

			CHECK_FOR_INTERRUPTS();
			tl_clock_keep_ticking();
			walk_after = DatumGetInt64(slot_getattr(scan.slot, DELIVERY_REPLY_ID, &isnull));
			if (walk_after >= own)
			{
				found = false;
				break;
			}
			park(deliveries, &scan, snapshot, now, false);
			found = tl_scan_next(&scan, ForwardScanDirection);
		}
		if (found)
			break;
		walk_after = PG_INT64_MIN;
		platform = tl_delivery_next_platform(deliveries, TL_IDX_DELIVERY_OPEN_PLATFORM,
											 platform, snapshot);
		walk_platform[0] = '\0';
		if (platform == NULL)
		{
			walk_wanted = walk_again;
			walk_again = false;
			next_walk = now + WALK_PAUSE_US;
			break;
		}
		text_to_cstring_buffer(platform, walk_platform, sizeof(walk_platform));
	}
	tl_scan_end(&scan);
}

bool
tl_parking_run(int64 now, bool wait)
{
	TlRel		replies;
	TlRel		deliveries;
	Snapshot	snapshot;
	int			n;

	if (!tl_rel_open_with(&replies, TL_REPLY, false, wait, 0))
		return false;
	if (!tl_rel_try_open(&deliveries, TL_DELIVERY, wait))
	{
		tl_rel_close(&replies);
		return false;
	}
	if (now >= walk_for_held)
	{
		walk_for_held = PG_INT64_MAX;
		tl_parking_note_all();
	}
	snapshot = tl_latest_snapshot();
	n = park_noted(&replies, &deliveries, snapshot, now);
	if (walk_wanted && now >= next_walk)
	{
		int64		start = tl_monotonic();

		park_all(&deliveries, snapshot, now, BATCH - n);
		/* a session that does the worker's part walks to the end in one call */
		if (!wait)
			next_walk = Max(next_walk,
							now + Min(WALK_SHARE * (tl_monotonic() - start), WALK_PAUSE_US));
	}
	UnregisterSnapshot(snapshot);
	tl_rel_close(&deliveries);
	tl_rel_close(&replies);
	return true;
}
