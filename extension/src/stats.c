/*
 * stats.c
 *	  Counters of what happens in each database, for the view idem_stats.
 *
 * They are in shared memory, so that a rollback leaves them as they are, and
 * only where the library is preloaded.  They begin anew when the server does.
 *
 * To count is one atomic addition.  Each database has several sets of them,
 * over which its backends are spread, so that a busy one's processors do not
 * take the same cache line from each other at every turn; who reads adds up.
 */
#include "stats.h"

#include "access/htup_details.h"
#include "catalog/pg_database.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_counters);
PG_FUNCTION_INFO_V1(idem_stats_reset);

#define DATABASES 64
#define SETS 16

typedef union CounterSet
{
	pg_atomic_uint64 counter[STATS];
	char		pad[TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(pg_atomic_uint64) * STATS)];
} CounterSet;

typedef struct DatabaseStats
{
	CounterSet	set[SETS];
	pg_atomic_uint64 since;		/* TimestampTz; likewise the next */
	pg_atomic_uint64 maintained_at; /* 0: not yet */
	Oid			database;		/* InvalidOid: not in use */
	char		pad[PG_CACHE_LINE_SIZE - 2 * sizeof(pg_atomic_uint64) - sizeof(Oid)];
} DatabaseStats;

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;

/* of all databases, under the lock; NULL: the library is not preloaded */
static DatabaseStats *shared = NULL;
static LWLock *lock = NULL;

/* of this backend's database; NULL: none, or not known yet */
static DatabaseStats *here = NULL;
static CounterSet *mine = NULL;
static bool is_known = false;

static void
on_shmem_request(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	RequestAddinShmemSpace(sizeof(DatabaseStats) * DATABASES);
	RequestNamedLWLockTranche("idem", 1);
}

static void
on_shmem_startup(void)
{
	bool		found;

	if (previous_shmem_startup)
		previous_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("idem counters", sizeof(DatabaseStats) * DATABASES, &found);
	lock = &GetNamedLWLockTranche("idem")->lock;
	for (int i = 0; !found && i < DATABASES; i++)
	{
		for (int set = 0; set < SETS; set++)
			for (int stat = 0; stat < STATS; stat++)
				pg_atomic_init_u64(&shared[i].set[set].counter[stat], 0);
		pg_atomic_init_u64(&shared[i].since, 0);
		pg_atomic_init_u64(&shared[i].maintained_at, 0);
		shared[i].database = InvalidOid;
	}
	LWLockRelease(AddinShmemInitLock);
}

void
idem_stats_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = on_shmem_request;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = on_shmem_startup;
}

bool
stats_are_kept(void)
{
	return shared != NULL;
}

static void
reset(DatabaseStats *stats)
{
	for (int set = 0; set < SETS; set++)
		for (int stat = 0; stat < STATS; stat++)
			pg_atomic_write_u64(&stats->set[set].counter[stat], 0);
	pg_atomic_write_u64(&stats->since, (uint64) GetCurrentTimestamp());
}

/*
 * This database's place, or else that of another one, which is no more, or of
 * none.  NULL if there is neither.
 */
static DatabaseStats *
take_place(Oid other)
{
	DatabaseStats *place = NULL;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < DATABASES; i++)
	{
		if (shared[i].database == MyDatabaseId)
		{
			place = &shared[i];
			break;
		}
		if (place == NULL && shared[i].database == other)
			place = &shared[i];
	}
	if (place != NULL && place->database != MyDatabaseId)
	{
		reset(place);
		pg_atomic_write_u64(&place->maintained_at, 0);
		place->database = MyDatabaseId;
	}
	LWLockRelease(lock);
	return place;
}

static void
find_place(void)
{
	is_known = true;
	if (shared == NULL || !OidIsValid(MyDatabaseId))
		return;

	here = take_place(InvalidOid);
	for (int i = 0; here == NULL && i < DATABASES; i++)
	{
		Oid			other = shared[i].database;

		if (!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(other)))
			here = take_place(other);
	}
	if (here != NULL)
		mine = &here->set[MyProcPid % SETS];
}

/*
 * In a transaction, which may be rolled back without undoing this.
 */
void
stats_add(Stat stat, uint64 count)
{
	if (unlikely(!is_known))
		find_place();
	if (mine != NULL)
		pg_atomic_fetch_add_u64(&mine->counter[stat], (int64) count);
}

/*
 * All upkeep of this database that could be done has been.
 */
void
stats_maintained(void)
{
	if (!is_known)
		find_place();
	if (here != NULL)
		pg_atomic_write_u64(&here->maintained_at, (uint64) GetCurrentTimestamp());
}

/*
 * () -> each counter, then maintained_at, since and missing
 */
Datum
idem_counters(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[STATS + 3];
	bool		nulls[STATS + 3];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != lengthof(values))
		elog(ERROR, "return type must be a row type of %d columns", (int) lengthof(values));

	if (!is_known)
		find_place();
	memset(nulls, here == NULL, sizeof(nulls));
	if (here != NULL)
	{
		uint64		maintained_at = pg_atomic_read_u64(&here->maintained_at);

		for (int stat = 0; stat < STATS; stat++)
		{
			uint64		sum = 0;

			for (int set = 0; set < SETS; set++)
				sum += pg_atomic_read_u64(&here->set[set].counter[stat]);
			values[stat] = Int64GetDatum((int64) sum);
		}
		values[STATS] = TimestampTzGetDatum((TimestampTz) maintained_at);
		nulls[STATS] = maintained_at == 0;
		values[STATS + 1] = TimestampTzGetDatum((TimestampTz) pg_atomic_read_u64(&here->since));
		nulls[STATS + 2] = true;
	}
	else
	{
		values[STATS + 2] = shared == NULL ?
			CStringGetTextDatum("all: shared_preload_libraries lacks idem") :
			CStringGetTextDatum(psprintf("all: %d other databases of this server have counters", DATABASES));
		nulls[STATS + 2] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

Datum
idem_stats_reset(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	if (!is_known)
		find_place();
	if (here == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there are no counters of this database"),
				 shared == NULL ?
				 errdetail("They need the library in shared memory from the server's start.") :
				 errdetail("%d other databases of this server have counters, and there are no more.", DATABASES),
				 shared == NULL ?
				 errhint("Add idem to shared_preload_libraries and restart the server.") :
				 errhint("Drop databases that are not needed, and reconnect.")));
	reset(here);
	PG_RETURN_VOID();
}
