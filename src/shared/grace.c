/*
 * grace.c
 *		What holds lapses back for a whole database.
 *
 * Start of the server and pauses come from the clock.  While
 * turn_liveness.sweep is off, no process sweeps; when it is turned on again,
 * each turn gets one turn deadline.  Mass silence: at least ten deployments
 * beat within one turn deadline, and then no session at all calls one of our
 * functions for half of it.  Then the path to the database is dead, not the
 * workers.
 *
 * The fields are atomics in the database's slot.  The sweeping process writes
 * them, but for last_call_us, which sessions write at most twenty times a
 * second.
 */
#include "base/turn_liveness.h"

#include "shared/clock.h"
#include "shared/grace.h"
#include "base/guc.h"
#include "shared/lease.h"
#include "shared/shmem.h"

#define SILENT_DEPLOYMENTS	10
#define CALL_RESOLUTION		(50 * TL_MS)

void
tl_grace_note_call(void)
{
	if (tl_database() != NULL)
		tl_grace_note_call_at(tl_clock_now());
}

TL_HOT void
tl_grace_note_call_at(int64 now)
{
	TlDatabase *db = tl_database();

	if (db == NULL)
		return;
	if (now - (int64) pg_atomic_read_u64(&db->last_call_us) > CALL_RESOLUTION)
		pg_atomic_write_u64(&db->last_call_us, now);
}

void
tl_grace_get(TlGrace *grace)
{
	TlDatabase *db = tl_database();

	memset(grace, 0, sizeof(*grace));
	grace->epoch = tl_clock_epoch();
	grace->start = tl_clock_server_start();
	grace->downtime = tl_clock_downtime();
	grace->restore_grace = tl_restore_grace * TL_MS;
	/* without preload a promotion leaves no trace but the rows of another run */
	grace->start_is_unsure = tl_shared == NULL;
	if (db == NULL)
		return;
	grace->pause = pg_atomic_read_u64(&db->clock.pause_us);
	grace->resumed = pg_atomic_read_u64(&db->grace.resumed_us);
	grace->silent = pg_atomic_read_u32(&db->grace.silent) != 0;
	grace->hold_until = pg_atomic_read_u64(&db->grace.hold_until_us);
	grace->hold_max = tl_mass_silence_hold * TL_MS;
}

void
tl_grace_watch(int64 now)
{
	TlDatabase *db = tl_database();
	TlGraceState *grace = &db->grace;
	int64		deadline = tl_turn_deadline * TL_MS;
	int64		last_call = pg_atomic_read_u64(&db->last_call_us);
	bool		silent = pg_atomic_read_u32(&grace->silent) != 0;

	if (!tl_sweep)
		pg_atomic_write_u32(&grace->sweep_off, 1);
	else if (pg_atomic_exchange_u32(&grace->sweep_off, 0) != 0)
		pg_atomic_write_u64(&grace->resumed_us, now);

	/* calls came again since the silence that was asked about */
	if (silent && last_call != (int64) pg_atomic_read_u64(&grace->asked_us))
	{
		pg_atomic_write_u64(&grace->hold_until_us, last_call + deadline);
		silent = false;
	}

	/* asked once for each silence, as soon as it is long enough */
	if (!silent && last_call > 0 && now - last_call >= deadline / 2 &&
		last_call != (int64) pg_atomic_read_u64(&grace->asked_us))
	{
		pg_atomic_write_u64(&grace->asked_us, last_call);
		silent = tl_lease_count_since(last_call - deadline, SILENT_DEPLOYMENTS) >= SILENT_DEPLOYMENTS;
	}
	pg_atomic_write_u32(&grace->silent, silent && tl_mass_silence_hold > 0);
}
