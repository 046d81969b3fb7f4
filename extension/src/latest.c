/*
 * latest.c
 *	  The latest of each lane: rows that are only added, the newest counts.
 *
 * A row that is updated again and again leaves its old versions behind for as
 * long as anybody's snapshot could see them, and who looks for the newest
 * wades through them.  Here each change is a row of its own, numbered by its
 * writer, who holds a lock on the lane; the newest is the last of its lane in
 * a b-tree, of whichever generation of the ring.
 *
 * Before a generation is retired the rows in it that are still the newest are
 * copied to the current one, number and all.  That needs no lock on the lane:
 * should a newer one come up meanwhile, it has a greater number, wherever it
 * is.
 */
#include "latest.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "ring.h"
#include "row.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

static int64
number_of(const Latest *latest)
{
	return DatumGetInt64(latest->values[LATEST_N - 1]);
}

/*
 * The newest row of the lane in this generation takes the place of *latest,
 * where found says that there is one, if it is newer.  True when it does.
 */
static bool
newest_in(Store store, int generation, Datum name, Datum lane, bool found, Latest *latest)
{
	const StoreTable *table = &idem_tables()->generation[store][generation];
	Relation	heap = table_open(table->heap, AccessShareLock);
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	ScanKeyData keys[2];
	bool		newer = false;

	/* it may have been retired before it was locked */
	if (!ring_is_living(ring_now(store), generation) ||
		RelationGetNumberOfBlocks(heap) == 0)
	{
		table_close(heap, AccessShareLock);
		return false;
	}

	(void) idem_tables();
	index = idem_open_index(heap, table->index);
	slot = table_slot_create(heap, NULL);
	scan = idem_index_beginscan(heap, index, SnapshotSelf, 2);
	ScanKeyInit(&keys[0], LATEST_NAME, BTEqualStrategyNumber, F_TEXTEQ, name);
	ScanKeyInit(&keys[1], LATEST_LANE, BTEqualStrategyNumber, F_INT8EQ, lane);
	index_rescan(scan, keys, 2, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		bool		isnull;

		newer = !found ||
			DatumGetInt64(slot_getattr(slot, LATEST_N, &isnull)) > number_of(latest);
		if (newer)
		{
			HeapTuple	tuple = toast_flatten_tuple(ExecFetchSlotHeapTuple(slot, false, NULL),
													RelationGetDescr(heap));

			heap_deform_tuple(tuple, RelationGetDescr(heap), latest->values, latest->nulls);
			latest->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
			latest->frozen = HeapTupleHeaderXminFrozen(tuple->t_data) ?
				BufferGetLSNAtomic(((BufferHeapTupleTableSlot *) slot)->buffer) : InvalidXLogRecPtr;
		}
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return newer;
}

/*
 * The lane's latest, as last committed or written by this transaction.  The
 * caller holds its lock.
 *
 * While it looks into one generation after the other, the ring can turn and
 * carry the row to where it has looked already: then it looks again.
 */
bool
latest_find(Store store, const text *name, int64 lane, Latest *latest)
{
	for (;;)
	{
		const RingState *ring = ring_now(store);
		int64		step = ring->step;
		bool		found = false;

		for (int i = 0; i < RING_GENERATIONS; i++)
			if (ring_is_living(ring, i))
				found |= newest_in(store, i, PointerGetDatum(name), Int64GetDatum(lane),
								   found, latest);
		if (ring_now(store)->step == step)
			return found;
	}
}

/*
 * Would the snapshot see it too?
 */
bool
latest_is_visible(const Latest *latest, Snapshot snapshot)
{
	return !XLogRecPtrIsInvalid(latest->frozen) ||
		TransactionIdIsCurrentTransactionId(latest->xmin) ||
		!XidInMVCCSnapshot(latest->xmin, snapshot);
}

void
latest_append(Store store, const Datum *values, const bool *nulls)
{
	Relation	rel = ring_open_current(store, NULL);

	row_insert(rel, values, nulls);
	table_close(rel, NoLock);
}

/*
 * Is there one as new as this in another generation?
 */
static bool
is_elsewhere(Store store, int generation, const Latest *latest)
{
	const RingState *ring = ring_now(store);
	Latest		other;

	for (int i = 0; i < RING_GENERATIONS; i++)
		if (i != generation && ring_is_living(ring, i) &&
			newest_in(store, i, latest->values[LATEST_NAME - 1],
					  latest->values[LATEST_LANE - 1], false, &other) &&
			number_of(&other) >= number_of(latest))
			return true;
	return false;
}

static bool
of_same_lane(HeapTuple tuple, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, LATEST_LANE, desc, &isnull)) ==
		DatumGetInt64(slot_getattr(slot, LATEST_LANE, &isnull)) &&
		DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID,
											 heap_getattr(tuple, LATEST_NAME, desc, &isnull),
											 slot_getattr(slot, LATEST_NAME, &isnull)));
}

static bool
is_end(TupleDesc desc, const Latest *latest)
{
	for (int i = LATEST_COLUMNS; i < desc->natts; i++)
		if (!latest->nulls[i])
			return false;
	return desc->natts > LATEST_COLUMNS;
}

/*
 * Copy to the current generation what is the newest of its lane in this one.
 * Nobody writes to it any more, and the caller sees to it that none will.  A
 * row that has a number and nothing else marks an end and is left behind.
 * Always succeeds.
 */
bool
latest_carry(Store store, int generation)
{
	Relation	heap = table_open(idem_tables()->generation[store][generation].heap, AccessShareLock);
	Relation	index = idem_open_index(heap, idem_tables()->generation[store][generation].index);
	TupleDesc	desc = RelationGetDescr(heap);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	IndexScanDesc scan = idem_index_beginscan(heap, index, SnapshotSelf, 0);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "idem carried row", ALLOCSET_DEFAULT_SIZES);
	HeapTuple	above = NULL;	/* the row that comes after, in the index */

	index_rescan(scan, NULL, 0, NULL, 0);
	while (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		MemoryContext save;
		Latest		latest;

		CHECK_FOR_INTERRUPTS();
		if (above != NULL && of_same_lane(above, slot))
			continue;

		MemoryContextReset(row_context);
		save = MemoryContextSwitchTo(row_context);
		above = toast_flatten_tuple(ExecFetchSlotHeapTuple(slot, false, NULL), desc);
		heap_deform_tuple(above, desc, latest.values, latest.nulls);
		if (!is_end(desc, &latest) && !is_elsewhere(store, generation, &latest))
			latest_append(store, latest.values, latest.nulls);
		MemoryContextSwitchTo(save);
	}
	MemoryContextDelete(row_context);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(heap, AccessShareLock);
	return true;
}
