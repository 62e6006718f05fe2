/*
 * lease_table.c
 *		The lease table: its memory, its keys, and how leases come and go.
 *
 * A hash table of fixed size, made of pages that hold leases and the buckets of
 * those leases that do not stand at home.  A deployment and its named turns
 * hash to one partition by h1, which is a lock and some pages.  Nothing here
 * waits for anything but an LWLock, allocates, or can fail.
 */
#include "base/turn_liveness.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "shared/database.h"
#include "shared/lease_table.h"

#define LEASE_PAGE	sizeof(TlLeasePage)
#define WORD_BITS	64			/* of "full" */
/* the bits of all leases of a page */
#define ALL_TAKEN	((UINT64CONST(1) << TL_LEASES_PER_PAGE) - 1)

TlLeases	tl_leases;

/* Hash a name, which may have a short header. */
static inline uint64
hash_text(const text *t, uint64 seed)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(t),
							   VARSIZE_ANY_EXHDR(t), seed);
}

/* The seeds are secret, so that no caller can choose names that collide. */
TL_HOT TlLeaseKey
tl_lease_key(const text *deployment)
{
	/* of this database and extension */
	static uint64 seeds[2];
	static Oid	seeded_extension = InvalidOid;
	Oid			extension = tl_extension_oid();

	if (extension != seeded_extension)
	{
		uint64		where = ((uint64) MyDatabaseId << 32) | extension;
		int			i;

		for (i = 0; i < 2; i++)
			seeds[i] = hash_bytes_extended((unsigned char *) &where, sizeof(where),
										   tl_shared ? tl_shared->seeds[i] : i);
		seeded_extension = extension;
	}
	return (TlLeaseKey) {hash_text(deployment, seeds[0]), hash_text(deployment, seeds[1])};
}

TL_HOT TlLeaseKey
tl_lease_turn_key(TlLeaseKey deployment, const text *message_id)
{
	uint64		seed = deployment.h2 ^ (tl_shared ? tl_shared->seeds[2] : 2);

	return (TlLeaseKey) {deployment.h1, hash_text(message_id, seed)};
}

static uint32
number_of_pages(void)
{
	return tl_leases.npartitions * tl_leases.pages_each;
}

static uint32
number_of_words(void)
{
	return number_of_pages() / WORD_BITS + 1;
}

/* As many pages as the setting needs; partitions of equal size. */
static void
set_shape(void)
{
	uint32		least = tl_lease_capacity / TL_LEASES_PER_PAGE + 1;

	tl_leases.pages_each = (least - 1) / TL_LEASE_PARTITIONS + 1;
	tl_leases.npartitions = (least - 1) / tl_leases.pages_each + 1;
}

Size
tl_lease_shmem_size(void)
{
	Size		size;

	set_shape();
	size = add_size(offsetof(TlLeaseTable, full), mul_size(sizeof(uint64), number_of_words()));
	/* one more, for they begin where a page of memory does */
	return add_size(size, mul_size(LEASE_PAGE, number_of_pages() + 1));
}

void
tl_lease_shmem_startup(int tranche)
{
	TlLeaseTable *table;
	bool		found;
	uint32		i;

	table = ShmemInitStruct("turn_liveness leases", tl_lease_shmem_size(), &found);
	tl_leases.table = table;
	tl_leases.pages = (TlLeasePage *) TYPEALIGN(LEASE_PAGE, &table->full[number_of_words()]);
	if (found)
		return;
	memset(table, 0, tl_lease_shmem_size());
	SpinLockInit(&table->free_mutex);
	for (i = 0; i < TL_LEASE_PARTITIONS; i++)
		LWLockInitialize(&table->partitions[i].lock, tranche);
	/* there is no room where there is no page */
	for (i = number_of_pages(); i < number_of_words() * WORD_BITS; i++)
		table->full[i / WORD_BITS] |= UINT64CONST(1) << (i % WORD_BITS);
}

/*
 * The page where a lease has room: its own, or the next one that has.  Caller
 * knows that there is one, for the pages have room for more than the capacity.
 */
static TlLeasePage *
page_with_room(uint32 number)
{
	const uint64 *full = tl_leases.table->full;
	uint32		words = number_of_words();
	uint32		word = number / WORD_BITS;

	if ((full[word] & (UINT64CONST(1) << (number % WORD_BITS))) == 0)
		return &tl_leases.pages[number];
	while (full[word] == PG_UINT64_MAX)
		word = word + 1 < words ? word + 1 : 0;
	return &tl_leases.pages[word * WORD_BITS + pg_rightmost_one_pos64(~full[word])];
}

/* Note that a place of a page is taken, or is not, and whether it has room. */
static void
note_taken(TlLeasePage *page, uint32 place, bool taken)
{
	uint32		number = page - tl_leases.pages;
	uint64		bit = UINT64CONST(1) << (number % WORD_BITS);

	if (taken)
		page->taken |= UINT64CONST(1) << place;
	else
		page->taken &= ~(UINT64CONST(1) << place);
	if (page->taken == ALL_TAKEN)
		tl_leases.table->full[number / WORD_BITS] |= bit;
	else
		tl_leases.table->full[number / WORD_BITS] &= ~bit;
}

/* Take the home of a key, or any other place. */
static TlLease *
take(TlLeaseKey deployment, TlLeaseKey key)
{
	TlLeaseTable *table = tl_leases.table;
	TlLease    *lease = NULL;

	SpinLockAcquire(&table->free_mutex);
	if (table->used < tl_lease_capacity)
	{
		TlLeasePage *page = &tl_leases.pages[tl_lease_page(deployment)];
		uint32		place = tl_lease_place(key);

		if (page->taken & (UINT64CONST(1) << place))
		{
			page = page_with_room(tl_lease_page(key));
			place = pg_rightmost_one_pos64(~page->taken);
		}
		note_taken(page, place, true);
		table->used++;
		lease = &page->leases[place];
	}
	SpinLockRelease(&table->free_mutex);
	return lease;
}

/* The backend gives a lease its key last, and links it, when all is written. */
TlLease *
tl_lease_make(TlLeaseKey deployment, TlLeaseKey key)
{
	TlLease    *lease = tl_lease_find(deployment, key);

	Assert(LWLockHeldByMeInMode(tl_lease_partition(key), LW_EXCLUSIVE));
	if (lease != NULL)
		return lease;
	lease = take(deployment, key);
	if (lease == NULL)
		return NULL;

	memset(lease, 0, sizeof(TlLease));
	lease->is_turn = !tl_lease_key_equal(deployment, key);
	lease->database = tl_database() - tl_shared->databases;
	lease->incarnation = tl_database()->incarnation;
	pg_atomic_write_u32(&lease->generation,
						pg_atomic_add_fetch_u32(&tl_shared->generation, 1));
	lease->used = true;
	lease->key = key;
	if (lease != tl_lease_home(deployment, key))
	{
		uint32	   *bucket = tl_lease_bucket(key);

		lease->next = *bucket;
		*bucket = lease - tl_lease_at(0);
	}
	return lease;
}

/* A lease that stands at home is in no chain. */
void
tl_lease_remove(TlLease *lease)
{
	TlLeaseTable *table = tl_leases.table;
	uint32		number = lease - tl_lease_at(0);
	TlLeasePage *page = &tl_leases.pages[number / TL_PAGE_UNITS];
	uint32	   *link = tl_lease_bucket(lease->key);

	Assert(LWLockHeldByMeInMode(tl_lease_partition(lease->key), LW_EXCLUSIVE));
	while (*link != 0 && *link != number)
		link = &tl_lease_at(*link)->next;
	if (*link == number)
		*link = lease->next;
	lease->used = false;
	lease->key = (TlLeaseKey) {0, 0};

	SpinLockAcquire(&table->free_mutex);
	note_taken(page, lease - page->leases, false);
	table->used--;
	SpinLockRelease(&table->free_mutex);
}

/* A lease of an earlier owner of the slot did not. */
static bool
has_beaten_since(TlLease *lease, int64 since)
{
	return lease->incarnation == tl_database()->incarnation &&
		((int64) pg_atomic_read_u64(&lease->beat) >= since ||
		 (int64) pg_atomic_read_u64(&lease->named) >= since);
}

/*
 * Look at the next n leases and drop those that have been silent for long: a
 * turn that still counts on such a beat has lapsed, and a beat makes a new
 * one.
 */
void
tl_lease_reclaim(int n, int64 silent_since)
{
	uint16		database = tl_database() - tl_shared->databases;

	while (n-- > 0)
	{
		/* the workers of all databases share the hand; a race skips an entry */
		uint32		i = tl_leases.table->reclaim_hand++ % (number_of_pages() * TL_LEASES_PER_PAGE);
		TlLease    *lease = &tl_leases.pages[i / TL_LEASES_PER_PAGE].leases[i % TL_LEASES_PER_PAGE];
		TlLeaseKey	key = lease->key;

		/*
		 * One without a key is about to come.  The worker needs no lock to
		 * see that a lease is not silent; it looks again under the lock.
		 */
		if (!lease->used || lease->database != database || (key.h1 | key.h2) == 0 ||
			has_beaten_since(lease, silent_since))
			continue;
		LWLockAcquire(tl_lease_partition(key), LW_EXCLUSIVE);
		if (lease->used && lease->moving == 0 && tl_lease_key_equal(lease->key, key) &&
			!has_beaten_since(lease, silent_since))
			tl_lease_remove(lease);
		LWLockRelease(tl_lease_partition(key));
	}
}

/* A hint: it reads without a lock. */
int
tl_lease_count_since(int64 since, int max)
{
	uint16		database = tl_database() - tl_shared->databases;
	int			count = 0;
	uint32		i;
	uint64		taken;

	if (tl_leases.table->used < max)
		return 0;
	for (i = 0; i < number_of_pages() && count < max; i++)
		for (taken = tl_leases.pages[i].taken; taken != 0 && count < max; taken &= taken - 1)
		{
			TlLease    *lease = &tl_leases.pages[i].leases[pg_rightmost_one_pos64(taken)];

			count += lease->used && !lease->is_turn && lease->database == database &&
				has_beaten_since(lease, since);
		}
	return count;
}

int
tl_lease_used(void)
{
	return tl_leases.table != NULL ? tl_leases.table->used : 0;
}
