/*
 * ring.c
 *	  The rings of tables that everything lives in, and how they turn.
 *
 * Each store is a ring.  One generation of it, the current one, takes rows.
 * Once nothing in the oldest is needed it is emptied by TRUNCATE, so that no
 * row is touched and nothing is left to vacuum.  A ring turns in steps, each in
 * a transaction of its own:
 *
 *	 open		readers look into the next generation, which is empty
 *	 advance	it becomes the current one
 *	 promise	the one before gets its ends_at
 *	 retire		past its ends_at, and if the store agrees, it is hidden
 *	 shrink		made small, if it is large, bit by bit
 *	 truncate	and then emptied
 *
 * Backends keep the state in memory.  A step tells them by invalidating the
 * relation cache, which comes a moment after its commit can be seen but before
 * its transaction gives up the maintainer's lock: so one backend can act on a
 * step that another has not noticed, but never on two.  Each step is harmless
 * to who has not noticed it.
 *
 * Why a reader misses no row: the row is in the current generation of its
 * writer, who saw the advance to it; so everybody knows of the open.
 *
 * Why no row is lost before it expires: its writer took the clock reading c,
 * and then found the generation that it has locked still current.  So the
 * promise was made later than c, at p, and says p + ttl; the row expires at
 * c + its own ttl, admitted only if not above the generation's.
 *
 * Why nobody writes to a table that is truncated: retiring needs a SHARE lock,
 * which no writer in flight allows, and one who comes later looks at the ring
 * after it has its lock, and goes elsewhere.
 *
 * No lock is ever waited for: behind a queued ACCESS EXCLUSIVE request all
 * others would queue as well.
 */
#include "ring.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "consumer.h"
#include "latest.h"
#include "lock.h"
#include "miscadmin.h"
#include "shrink.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#define PURGE_BATCH 1000		/* expired rows of idem_pinned a step */

/*
 * The latest positions and watermarks live for ever, carried from generation
 * to generation; what is not the latest is needed by nobody.
 */
static int	latest_ttl = 60;
#define LATEST_BLOCKS (16 * 1024 * 1024 / BLCKSZ)

/* how each store turns */
static const struct
{
	const int  *ttl;			/* s; the setting */
	BlockNumber min_blocks;		/* a smaller generation goes on */
	bool		(*may_retire) (Store store, int generation);
}			policy[STORES] =

{
	[STORE_KEYS] = {&idem_key_ttl, 0, NULL},
	[STORE_INBOX] = {&idem_inbox_retention, 1, NULL},
	[STORE_OUTBOX] = {&idem_outbox_retention, 1, consumers_are_past},
	[STORE_POSITIONS] = {&latest_ttl, LATEST_BLOCKS, latest_carry},
	[STORE_WATERMARKS] = {&latest_ttl, LATEST_BLOCKS, latest_carry},
};

/*
 * A column that is an array of one fixed-width element a generation.
 */
static void *
generation_array(TupleTableSlot *slot, int column, Oid type)
{
	bool		isnull;
	ArrayType  *array = DatumGetArrayTypeP(slot_getattr(slot, column, &isnull));

	if (isnull || ARR_NDIM(array) != 1 || ARR_HASNULL(array) ||
		ARR_DIMS(array)[0] != RING_GENERATIONS || ARR_ELEMTYPE(array) != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("column %d of idem_ring is damaged", column),
				 errdetail("It must be an array of %d elements, none of them NULL.", RING_GENERATIONS),
				 errhint("Restore its row from a backup; the store cannot be read without it.")));
	return ARR_DATA_PTR(array);
}

/*
 * Read the state as last committed, not as of the transaction's snapshot and
 * not from memory.
 *
 * It is one row a store.  Reading without an MVCC snapshot can meet a change half-way
 * and see both versions of it, or neither: of two, the later step counts, and
 * after none it looks again.
 */
void
ring_read(Store store, RingState *ring)
{
	const char *name = store_name(store);
	Relation	rel = table_open(idem_tables()->ring, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		found = false;

	for (int tries = 0; !found; tries++)
	{
		TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL);

		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;
			text	   *of = DatumGetTextPP(slot_getattr(slot, RING_STORE, &isnull));
			int64		step = DatumGetInt64(slot_getattr(slot, RING_STEP, &isnull));

			if (VARSIZE_ANY_EXHDR(of) != strlen(name) ||
				memcmp(VARDATA_ANY(of), name, strlen(name)) != 0 ||
				(found && step < ring->step))
				continue;
			found = true;
			ring->step = step;
			ring->current = DatumGetInt16(slot_getattr(slot, RING_CURRENT, &isnull));
			ring->opened_at = DatumGetTimestampTz(slot_getattr(slot, RING_OPENED_AT, &isnull));
			ring->emptied = DatumGetFullTransactionId(slot_getattr(slot, RING_EMPTIED, &isnull));
			memcpy(ring->ttl, generation_array(slot, RING_TTL, INT4OID),
				   sizeof(ring->ttl));
			memcpy(ring->ends_at, generation_array(slot, RING_ENDS_AT, TIMESTAMPTZOID),
				   sizeof(ring->ends_at));
			ring->tid = slot->tts_tid;
		}
		table_endscan(scan);

		if (!found && tries == 1000)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("idem_ring has no row for store \"%s\"", name),
					 errdetail("It tells which tables hold what lives."),
					 errhint("Restore its row from a backup; the store cannot be read without it.")));
		CHECK_FOR_INTERRUPTS();
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);

	if (ring->current < 0 || ring->current >= RING_GENERATIONS)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("idem_ring names generation %d of store \"%s\" as current",
						ring->current, name),
				 errdetail("There are generations 0 to %d.", RING_GENERATIONS - 1),
				 errhint("Restore its row from a backup; the store cannot be read without it.")));
}

/*
 * The ring as this backend knows it: at most one step behind.  The result
 * holds until the next call.
 */
const RingState *
ring_now(Store store)
{
	static RingState rings[STORES];
	static uint64 versions[STORES];

	AcceptInvalidationMessages();
	if (unlikely(idem_tables()->version != versions[store]))
	{
		/* what changes while it is read is noticed by the next call */
		uint64		reading = idem_tables()->version;

		ring_read(store, &rings[store]);
		versions[store] = reading;
	}
	return &rings[store];
}

/*
 * May it hold rows that count?
 */
bool
ring_is_living(const RingState *ring, int generation)
{
	return !TIMESTAMP_IS_NOBEGIN(ring->ends_at[generation]);
}

/*
 * Open the current generation, locked for writing, for a row that lives for
 * *ttl seconds from a clock reading made before the call.
 */
Relation
ring_open_current(Store store, int32 *ttl)
{
	for (;;)
	{
		int			current = ring_now(store)->current;
		Relation	rel = table_open(idem_tables()->generation[store][current].heap,
									 RowExclusiveLock);
		const RingState *ring = ring_now(store);

		if (ring->current == current)
		{
			if (ttl != NULL)
				*ttl = ring->ttl[current];
			return rel;
		}
		table_close(rel, RowExclusiveLock);
	}
}

static void
maintainer_locktag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, 0, IDEM_LOCK_MAINTAIN);
}

/*
 * Let no ring turn before this transaction ends.
 */
void
ring_hold(void)
{
	LOCKTAG		tag;

	maintainer_locktag(&tag);
	(void) idem_lock(&tag, ShareLock, true);
}

/*
 * Were expired rows hidden since this transaction's snapshot was taken?  Then
 * finding no row tells nothing about that snapshot.
 *
 * The number may come from another cluster by way of a dump.  One not yet
 * drawn here is ignored; any other can at worst cause a needless retry.
 */
bool
ring_hides_from_snapshot(const RingState *ring)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint64		emptied = U64FromFullTransactionId(ring->emptied);

	return emptied < U64FromFullTransactionId(next) &&
		U64FromFullTransactionId(next) - emptied < (1U << 30) &&
		TransactionIdIsNormal(XidFromFullTransactionId(ring->emptied)) &&
		XidInMVCCSnapshot(XidFromFullTransactionId(ring->emptied),
						  GetTransactionSnapshot());
}

/*
 * Write the changed state.  The caller is the only maintainer.
 */
static void
ring_write(Store store, RingState *ring)
{
	Relation	rel = table_open(idem_tables()->ring, RowExclusiveLock);
	Datum		values[RING_COLUMNS];
	bool		nulls[RING_COLUMNS] = {false};
	Datum		ttl[RING_GENERATIONS];
	Datum		ends_at[RING_GENERATIONS];

	for (int i = 0; i < RING_GENERATIONS; i++)
	{
		ttl[i] = Int32GetDatum(ring->ttl[i]);
		ends_at[i] = TimestampTzGetDatum(ring->ends_at[i]);
	}
	values[RING_STORE - 1] = CStringGetTextDatum(store_name(store));
	values[RING_STEP - 1] = Int64GetDatum(++ring->step);
	values[RING_CURRENT - 1] = Int16GetDatum(ring->current);
	values[RING_OPENED_AT - 1] = TimestampTzGetDatum(ring->opened_at);
	values[RING_TTL - 1] =
		PointerGetDatum(construct_array(ttl, RING_GENERATIONS, INT4OID,
										sizeof(int32), true, TYPALIGN_INT));
	values[RING_ENDS_AT - 1] =
		PointerGetDatum(construct_array(ends_at, RING_GENERATIONS, TIMESTAMPTZOID,
										sizeof(TimestampTz), FLOAT8PASSBYVAL,
										TYPALIGN_DOUBLE));
	values[RING_EMPTIED - 1] = FullTransactionIdGetDatum(ring->emptied);

	CatalogTupleUpdate(rel, &ring->tid,
					   heap_form_tuple(RelationGetDescr(rel), values, nulls));
	CacheInvalidateRelcache(rel);
	table_close(rel, RowExclusiveLock);
}

static BlockNumber
blocks(Store store, int generation)
{
	Relation	rel = table_open(idem_tables()->generation[store][generation].heap,
								 AccessShareLock);
	BlockNumber result = RelationGetNumberOfBlocks(rel);

	if (OidIsValid(rel->rd_rel->reltoastrelid))
	{
		Relation	toast = table_open(rel->rd_rel->reltoastrelid, AccessShareLock);

		result += RelationGetNumberOfBlocks(toast);
		table_close(toast, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
	return result;
}

static bool
is_empty(Store store, int generation)
{
	return blocks(store, generation) == 0 &&
		!shrink_is_under_way(store, generation);
}

static bool
retire(Store store, RingState *ring, int generation)
{
	Oid			relid = idem_tables()->generation[store][generation].heap;

	if (!ConditionalLockRelationOid(relid, ShareLock))
		return false;
	if (policy[store].may_retire != NULL &&
		!policy[store].may_retire(store, generation))
	{
		UnlockRelationOid(relid, ShareLock);
		return false;
	}
	ring->ends_at[generation] = DT_NOBEGIN;
	ring->emptied = GetTopFullTransactionId();
	ring_write(store, ring);
	return true;
}

/*
 * Empty it, or take a step towards that; all at once if the ring waits for it.
 * All that TRUNCATE will lock is locked here, heap first and without waiting.
 */
static bool
empty_table(Store store, int generation, int current, bool urgent)
{
	Oid			relid = idem_tables()->generation[store][generation].heap;
	Relation	rel;
	List	   *others;
	bool		large = !urgent && shrink_is_due(relid);

	if (large && !shrink_may_step())
		return false;
	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;
	/* a subscription may have filled it since the ring was read */
	if (OidIsValid(idem_tables()->subscription))
	{
		UnlockRelationOid(relid, AccessExclusiveLock);
		return false;
	}
	rel = table_open(relid, NoLock);
	others = RelationGetIndexList(rel);
	if (OidIsValid(rel->rd_rel->reltoastrelid))
		others = lappend_oid(others, rel->rd_rel->reltoastrelid);

	for (int i = 0; i < list_length(others); i++)
	{
		if (ConditionalLockRelationOid(list_nth_oid(others, i), AccessExclusiveLock))
			continue;
		while (--i >= 0)
			UnlockRelationOid(list_nth_oid(others, i), AccessExclusiveLock);
		table_close(rel, AccessExclusiveLock);
		return false;
	}

	/*
	 * The lock outlives a wait for synchronous standbys, and who has read
	 * the ring before it was retired waits for it: so let this commit wait for
	 * none.  Should it be lost, the next call does it again.
	 */
	(void) set_config_option("synchronous_commit", "off",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	if (large)
		shrink_step(rel);
	else
	{
		idem_truncate(list_make1(rel), list_make1_oid(relid));
		shrink_end(rel, store, generation, current);
	}
	table_close(rel, NoLock);
	return true;
}

/*
 * Delete a batch of expired rows from idem_pinned; false when there is none.
 */
static bool
purge_pinned(RingState *ring, TimestampTz now)
{
	Relation	rel = table_open(idem_tables()->pinned.heap, RowExclusiveLock);
	Relation	index = index_open(idem_tables()->pinned_expiry, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan;
	ScanKeyData key;
	int			purged = 0;

	ScanKeyInit(&key, 1, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE,
				TimestampTzGetDatum(now));
	scan = idem_index_beginscan(rel, index, SnapshotSelf, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	while (purged < PURGE_BATCH &&
		   index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		TM_FailureData failure;

		/* one that somebody evicts at this moment is theirs */
		if (table_tuple_delete(rel, &slot->tts_tid, GetCurrentCommandId(true),
							   SnapshotSelf, InvalidSnapshot, false, &failure,
							   false) == TM_Ok)
			purged++;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, RowExclusiveLock);

	if (purged == 0)
		return false;
	ring->emptied = GetTopFullTransactionId();
	ring_write(STORE_KEYS, ring);
	return true;
}

static bool
turn(Store store)
{
	int32		ttl = *policy[store].ttl;
	TimestampTz now;
	RingState	ring;
	int			last;
	int			next;
	bool		old;

	ring_read(store, &ring);
	now = GetCurrentTimestamp();
	old = now - ring.opened_at >= ring.ttl[ring.current] * USECS_PER_SEC;

	/* the advance that closed it has been noticed by all */
	last = (ring.current + RING_GENERATIONS - 1) % RING_GENERATIONS;
	if (TIMESTAMP_IS_NOEND(ring.ends_at[last]))
	{
		ring.ends_at[last] = now + ring.ttl[last] * USECS_PER_SEC;
		ring_write(store, &ring);
		return true;
	}

	/*
	 * One that has rows and never was current was filled by a restore, whose
	 * state of the ring is yet to come.
	 */
	for (int i = 0; i < RING_GENERATIONS; i++)
	{
		if (TIMESTAMP_IS_NOBEGIN(ring.ends_at[i]))
		{
			if (ring.ttl[i] > 0 && !is_empty(store, i) && empty_table(store, i, ring.current, old))
				return true;
		}
		else if (ring.ends_at[i] <= now && retire(store, &ring, i))
			return true;
	}

	/*
	 * A generation takes rows for as long as they live, so two hold all that do
	 * and the third can be emptied meanwhile.  Where that was held up, the
	 * current one just goes on.
	 */
	next = (ring.current + 1) % RING_GENERATIONS;
	if (old && blocks(store, ring.current) >= policy[store].min_blocks)
	{
		if (TIMESTAMP_IS_NOBEGIN(ring.ends_at[next]) && is_empty(store, next))
		{
			ring.ends_at[next] = DT_NOEND;
			ring_write(store, &ring);
			return true;
		}
		if (TIMESTAMP_IS_NOEND(ring.ends_at[next]))
		{
			ring.current = next;
			ring.opened_at = now;
			ring.ttl[next] = ttl;
			ring_write(store, &ring);
			return true;
		}
	}

	/* a longer ttl is admitted at once, a shorter one with the next advance */
	if (ring.ttl[ring.current] < ttl)
	{
		ring.ttl[ring.current] = ttl;
		ring_write(store, &ring);
		return true;
	}

	return store == STORE_KEYS && purge_pinned(&ring, now);
}

/*
 * Be the one who maintains until the transaction ends; false if somebody else
 * is at it.
 */
bool
ring_lock(void)
{
	LOCKTAG		tag;

	maintainer_locktag(&tag);
	return idem_lock(&tag, ExclusiveLock, false);
}

/*
 * Take one step in the current transaction, which the caller commits before
 * it asks for the next.  False when nothing is left that can be done now.
 */
bool
ring_turn(void)
{
	for (int store = 0; store < STORES; store++)
		if (turn(store))
			return true;
	return false;
}
