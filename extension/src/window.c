/*
 * window.c
 *	  The messages between two marks: seen by the high, not by the low.
 *
 * They come by id, in two parts.  First those of transactions that were late
 * for the low mark, with ids up to its floor: they are looked up by
 * transaction.  Then those with ids from its floor to that of the high mark,
 * by the index on id.  So a window costs what it holds, however many messages
 * there are on either side of it, and however long a transaction stays late.
 * Of other lanes' messages it looks at the index entries alone.
 *
 * Rows are read as last committed; the marks tell which of them count.  That
 * is what an MVCC snapshot would say, but does not cover the index with
 * predicate locks, which would fail serializable publishers.
 */
#include "window.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "ring.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#define LATE_CHUNK 1024			/* late messages sorted at a time */
#define LOOKUP_COST 16			/* of a transaction, in ids */

typedef struct Generation
{
	Relation	heap;
	Relation	by_id;
	Relation	by_xid;
	TupleTableSlot *slot;
	IndexScanDesc fresh;
	bool		filled;			/* slot has the next fresh message */
} Generation;

typedef struct LateMessage
{
	int64		id;
	ItemPointerData tid;
	Generation *generation;
} LateMessage;

struct Window
{
	const Mark *low;
	const Mark *high;
	int64		after;			/* this id and those below have been had */
	Slots		slots;			/* of the lane */
	int64		cost;

	int			ngenerations;
	Generation	generation[RING_GENERATIONS];

	int			nlate;
	int			next_late;
	bool		more_late;		/* there are more than these */
	LateMessage *late;			/* 2 * LATE_CHUNK */
	bool		fresh;			/* the second part has begun */
};

static int64
id_of(TupleTableSlot *slot)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, OUTBOX_ID, &isnull));
}

static bool
is_between(const Window *window, TupleTableSlot *slot)
{
	bool		isnull;
	int64		id = id_of(slot);
	FullTransactionId xid = DatumGetFullTransactionId(slot_getattr(slot, OUTBOX_XID, &isnull));
	int64		era = DatumGetInt64(slot_getattr(slot, OUTBOX_ERA, &isnull));
	int32		message_slot = DatumGetInt32(slot_getattr(slot, OUTBOX_SLOT, &isnull));

	return message_slot >= window->slots.first && message_slot <= window->slots.last &&
		mark_sees(window->high, era, xid, id) &&
		!mark_sees(window->low, era, xid, id);
}

static int
compare_late(const void *a, const void *b)
{
	int64		x = ((const LateMessage *) a)->id;
	int64		y = ((const LateMessage *) b)->id;

	return x < y ? -1 : x > y;
}

/*
 * Keep the first LATE_CHUNK of those found.
 */
static void
sort_late(Window *window)
{
	qsort(window->late, window->nlate, sizeof(LateMessage), compare_late);
	if (window->nlate > LATE_CHUNK)
	{
		window->nlate = LATE_CHUNK;
		window->more_late = true;
	}
}

/*
 * Add the messages of one late transaction, as far as they come before the
 * chunk's end.
 */
static void
collect_transaction(Window *window, Generation *generation, IndexScanDesc scan,
					FullTransactionId xid, int64 *end)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_XID8EQ,
				FullTransactionIdGetDatum(xid));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(window->after));
	ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(window->low->floor));
	index_rescan(scan, keys, 3, NULL, 0);
	window->cost += LOOKUP_COST;

	while (index_getnext_slot(scan, ForwardScanDirection, generation->slot))
	{
		LateMessage *message = &window->late[window->nlate];

		message->id = id_of(generation->slot);
		if (message->id > *end)
			break;
		if (!is_between(window, generation->slot))
			continue;
		message->tid = generation->slot->tts_tid;
		message->generation = generation;
		if (++window->nlate == 2 * LATE_CHUNK)
		{
			sort_late(window);
			*end = window->late[LATE_CHUNK - 1].id;
		}
	}
}

/*
 * The first transaction, from *xid up to before the end, that has messages.
 */
static bool
next_transaction(IndexScanDesc scan, TupleTableSlot *slot,
				 FullTransactionId *xid, FullTransactionId end)
{
	ScanKeyData keys[2];
	bool		isnull;

	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_XID8GE,
				FullTransactionIdGetDatum(*xid));
	ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_XID8LT,
				FullTransactionIdGetDatum(end));
	index_rescan(scan, keys, 2, NULL, 0);
	if (!index_getnext_slot(scan, ForwardScanDirection, slot))
		return false;
	*xid = DatumGetFullTransactionId(slot_getattr(slot, OUTBOX_XID, &isnull));
	return true;
}

/*
 * Those of one era that are late for the high mark too need not be looked up.
 */
static bool
is_settled(const Window *window, FullTransactionId xid)
{
	return window->low->era != window->high->era || !mark_is_late(window->high, xid);
}

static void
collect_late(Window *window)
{
	const Mark *low = window->low;
	int64		end = low->floor;

	window->nlate = window->next_late = 0;
	window->more_late = false;
	if (window->after >= low->floor ||
		(low->nrunning == 0 && !FullTransactionIdPrecedes(low->from, low->to)))
		return;
	if (window->late == NULL)
		window->late = palloc(sizeof(LateMessage) * 2 * LATE_CHUNK);

	for (int i = 0; i < window->ngenerations; i++)
	{
		Generation *generation = &window->generation[i];
		IndexScanDesc one = idem_index_beginscan(generation->heap, generation->by_xid,
												 SnapshotSelf, 3);
		IndexScanDesc next = idem_index_beginscan(generation->heap, generation->by_xid,
												  SnapshotSelf, 2);
		FullTransactionId xid = low->from;

		for (int j = 0; j < low->nrunning; j++)
			if (is_settled(window, low->running[j]))
				collect_transaction(window, generation, one, low->running[j], &end);
		while (FullTransactionIdPrecedes(xid, low->to) &&
			   next_transaction(next, generation->slot, &xid, low->to))
		{
			if (is_settled(window, xid))
				collect_transaction(window, generation, one, xid, &end);
			FullTransactionIdAdvance(&xid);
		}
		index_endscan(next);
		index_endscan(one);
		ExecClearTuple(generation->slot);
	}
	sort_late(window);
}

static void
begin_fresh(Window *window)
{
	int64		above = Max(window->after, window->low->floor);
	ScanKeyData keys[4];
	int			nkeys = 2;

	window->fresh = true;
	window->cost += Max(window->high->floor - above, 0);
	ScanKeyInit(&keys[0], 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(above));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(window->high->floor));
	if (window->slots.first > ALL_SLOTS.first || window->slots.last < ALL_SLOTS.last)
	{
		ScanKeyInit(&keys[2], 2, BTGreaterEqualStrategyNumber, F_INT4GE,
					Int32GetDatum(window->slots.first));
		ScanKeyInit(&keys[3], 2, BTLessEqualStrategyNumber, F_INT4LE,
					Int32GetDatum(window->slots.last));
		nkeys = 4;
	}
	for (int i = 0; i < window->ngenerations; i++)
	{
		Generation *generation = &window->generation[i];

		generation->fresh = idem_index_beginscan(generation->heap, generation->by_id,
												 SnapshotSelf, nkeys);
		index_rescan(generation->fresh, keys, nkeys, NULL, 0);
		generation->filled = false;
		ExecClearTuple(generation->slot);
	}
}

/*
 * The fresh message of the lowest id.  Generations overlap a little where one
 * took over from the other.
 */
static TupleTableSlot *
next_fresh(Window *window)
{
	Generation *lowest = NULL;

	for (int i = 0; i < window->ngenerations; i++)
	{
		Generation *generation = &window->generation[i];

		while (!generation->filled && generation->fresh != NULL)
		{
			CHECK_FOR_INTERRUPTS();
			if (!index_getnext_slot(generation->fresh, ForwardScanDirection, generation->slot))
			{
				index_endscan(generation->fresh);
				generation->fresh = NULL;
				break;
			}
			generation->filled = is_between(window, generation->slot);
		}
		if (generation->filled &&
			(lowest == NULL || id_of(generation->slot) < id_of(lowest->slot)))
			lowest = generation;
	}
	if (lowest == NULL)
		return NULL;
	lowest->filled = false;
	return lowest->slot;
}

/*
 * Open the window from low to high, without the messages up to id after, of
 * some slots, and of one generation of the outbox or of all.  The marks must
 * stay.
 */
Window *
window_open(const Mark *low, const Mark *high, int64 after, Slots slots, int generation)
{
	Window	   *window = palloc0(sizeof(Window));
	const RingState *ring = ring_now(STORE_OUTBOX);

	window->low = low;
	window->high = high;
	window->after = after;
	window->slots = slots;

	for (int i = 0; i < RING_GENERATIONS; i++)
	{
		const StoreTable *table = &idem_tables()->generation[STORE_OUTBOX][i];
		Generation *g = &window->generation[window->ngenerations];

		if (!ring_is_living(ring, i) ||
			(generation != ALL_GENERATIONS && generation != i))
			continue;
		g->heap = table_open(table->heap, AccessShareLock);
		/* it may have been retired before it was locked */
		if (!ring_is_living(ring_now(STORE_OUTBOX), i) ||
			RelationGetNumberOfBlocks(g->heap) == 0)
		{
			table_close(g->heap, AccessShareLock);
			continue;
		}
		(void) idem_tables();
		g->by_id = idem_open_index(g->heap, table->index);
		g->by_xid = idem_open_index(g->heap, idem_tables()->outbox_by_xid[i]);
		g->slot = table_slot_create(g->heap, NULL);
		g->fresh = NULL;
		window->ngenerations++;
	}
	collect_late(window);
	return window;
}

/*
 * Open the window of one message.
 */
Window *
window_of(int64 id, int32 slot)
{
	Mark	   *low = palloc(sizeof(Mark));
	Mark	   *high = palloc(sizeof(Mark));

	mark_at(low, id - 1);
	mark_at(high, id);
	return window_open(low, high, 0, (Slots) {slot, slot}, ALL_GENERATIONS);
}

/*
 * The next message, or NULL.  It stays until the next call.
 */
TupleTableSlot *
window_next(Window *window)
{
	while (!window->fresh)
	{
		if (window->next_late < window->nlate)
		{
			LateMessage *message = &window->late[window->next_late++];
			TupleTableSlot *slot = message->generation->slot;

			if (!table_tuple_fetch_row_version(message->generation->heap, &message->tid,
											   SnapshotSelf, slot))
				elog(ERROR, "message " INT64_FORMAT " is gone", message->id);
			return slot;
		}
		if (window->more_late)
		{
			window->after = window->late[window->nlate - 1].id;
			collect_late(window);
		}
		else
			begin_fresh(window);
	}
	return next_fresh(window);
}

/*
 * How much was looked at, in ids.
 */
int64
window_cost(const Window *window)
{
	return window->cost;
}

void
window_close(Window *window)
{
	for (int i = 0; i < window->ngenerations; i++)
	{
		Generation *generation = &window->generation[i];

		if (generation->fresh != NULL)
			index_endscan(generation->fresh);
		ExecDropSingleTupleTableSlot(generation->slot);
		index_close(generation->by_xid, AccessShareLock);
		index_close(generation->by_id, AccessShareLock);
		table_close(generation->heap, AccessShareLock);
	}
	if (window->late != NULL)
		pfree(window->late);
	pfree(window);
}
