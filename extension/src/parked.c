/*
 * parked.c
 *	  Messages that a consumer failed on, and those that wait behind them.
 *
 * They are copied out of the outbox into idem_parked, so that the consumer's
 * position can pass them: whatever has another key goes on.  Of each key the
 * first is retried when it is due, and the later ones wait behind it.  What has
 * failed too often is a dead letter, which nothing waits for.
 *
 * Rows are read as last committed, and changed by who has the lane; but for
 * dead letters, which only idem_redrive() touches.
 */
#include "parked.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "row.h"
#include "stats.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "subscription.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "window.h"

PG_FUNCTION_INFO_V1(idem_redrive);

#define FIRST_RETRY_S 1
#define LAST_RETRY_S 3600

struct ParkedScan
{
	Relation	heap;			/* NULL: the table is empty */
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	Slots		slots;
};

bool
parked_any(void)
{
	Relation	heap = table_open(idem_tables()->parked.heap, AccessShareLock);
	bool		any = RelationGetNumberOfBlocks(heap) > 0;

	table_close(heap, AccessShareLock);
	return any;
}

bool
parked_is(const Parked *parked, const char *state)
{
	const text *is = DatumGetTextPP(parked->values[PARKED_STATE - 1]);

	return VARSIZE_ANY_EXHDR(is) == strlen(state) &&
		memcmp(VARDATA_ANY(is), state, strlen(state)) == 0;
}

static ParkedScan *
open_scan(Oid index, Slots slots, ScanKeyData *keys, int nkeys)
{
	ParkedScan *scan = palloc0(sizeof(ParkedScan));

	scan->slots = slots;
	if (!parked_any())
		return scan;
	scan->heap = table_open(idem_tables()->parked.heap, AccessShareLock);
	scan->index = index_open(index, AccessShareLock);
	scan->slot = table_slot_create(scan->heap, NULL);
	scan->scan = idem_index_beginscan(scan->heap, scan->index, SnapshotSelf, nkeys);
	index_rescan(scan->scan, keys, nkeys, NULL, 0);
	return scan;
}

/*
 * All of the consumer's in these slots: by slot, then by id.
 */
ParkedScan *
parked_open(const text *consumer, Slots slots)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(consumer));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT4GE, Int32GetDatum(slots.first));
	ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_INT4LE, Int32GetDatum(slots.last));
	return open_scan(idem_tables()->parked.index, slots, keys, lengthof(keys));
}

/*
 * Those that are due until then, the longest overdue first.
 */
ParkedScan *
parked_open_due(const text *consumer, Slots slots, TimestampTz until)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(consumer));
	ScanKeyInit(&keys[1], 2, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE,
				TimestampTzGetDatum(until));
	return open_scan(idem_tables()->parked_due, slots, keys, lengthof(keys));
}

static TimestampTz
due_at_of(Datum value, bool isnull)
{
	return isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

/*
 * Go to the next one, without reading more of it.
 */
bool
parked_step(ParkedScan *scan, int32 *slot, TimestampTz *due_at)
{
	bool		isnull;
	Datum		value;

	do
	{
		if (scan->heap == NULL ||
			!index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot))
			return false;
		*slot = DatumGetInt32(slot_getattr(scan->slot, PARKED_SLOT, &isnull));
	} while (*slot < scan->slots.first || *slot > scan->slots.last);

	value = slot_getattr(scan->slot, PARKED_DUE_AT, &isnull);
	*due_at = due_at_of(value, isnull);
	return true;
}

void
parked_get(const ParkedScan *scan, Parked *parked)
{
	parked->tuple = ExecCopySlotHeapTuple(scan->slot);
	heap_deform_tuple(parked->tuple, RelationGetDescr(scan->heap),
					  parked->values, parked->nulls);
	parked->slot = DatumGetInt32(parked->values[PARKED_SLOT - 1]);
	parked->id = DatumGetInt64(parked->values[PARKED_ID - 1]);
	parked->attempts = DatumGetInt32(parked->values[PARKED_ATTEMPTS - 1]);
	parked->due_at = due_at_of(parked->values[PARKED_DUE_AT - 1], parked->nulls[PARKED_DUE_AT - 1]);
	parked->failed_at = parked->nulls[PARKED_FAILED_AT - 1] ? DT_NOBEGIN :
		DatumGetTimestampTz(parked->values[PARKED_FAILED_AT - 1]);
	parked->key = parked->nulls[PARKED_KEY - 1] ? NULL :
		DatumGetTextPP(parked->values[PARKED_KEY - 1]);
}

bool
parked_next(ParkedScan *scan, Parked *parked)
{
	int32		slot;
	TimestampTz due_at;

	if (!parked_step(scan, &slot, &due_at))
		return false;
	parked_get(scan, parked);
	return true;
}

void
parked_close(ParkedScan *scan)
{
	if (scan->heap != NULL)
	{
		index_endscan(scan->scan);
		ExecDropSingleTupleTableSlot(scan->slot);
		index_close(scan->index, AccessShareLock);
		table_close(scan->heap, AccessShareLock);
	}
	pfree(scan);
}

/*
 * The row of a message: the living one, should an earlier one be dead.
 */
bool
parked_find(const text *consumer, Slots slots, int64 id, Parked *parked)
{
	ParkedScan *scan = parked_open(consumer, slots);
	Parked		row;
	bool		found = false;

	while (parked_next(scan, &row))
	{
		if (row.id != id)
			continue;
		*parked = row;
		found = true;
		if (!parked_is(&row, PARKED_DEAD))
			break;
	}
	parked_close(scan);
	return found;
}

static bool
same_key(const Parked *parked, const text *key)
{
	return key != NULL && parked->key != NULL && idem_text_equal(parked->key, key);
}

static bool
blocks(const Parked *parked)
{
	return parked_is(parked, PARKED_RETRY) || parked_is(parked, PARKED_WAITING);
}

/*
 * Must a message of this key wait?
 */
bool
parked_is_blocked(const text *consumer, int32 slot, const text *key)
{
	ParkedScan *scan;
	Parked		row;
	bool		blocked = false;

	if (key == NULL)
		return false;
	scan = parked_open(consumer, (Slots) {slot, slot});
	while (!blocked && parked_next(scan, &row))
		blocked = same_key(&row, key) && blocks(&row);
	parked_close(scan);
	return blocked;
}

/*
 * When to try again, after so many attempts: each time twice as late.
 */
TimestampTz
parked_backoff(int attempts, TimestampTz now)
{
	int64		wait = FIRST_RETRY_S;

	for (int i = 1; i < attempts && wait < LAST_RETRY_S; i++)
		wait *= 2;
	return now + Min(wait, LAST_RETRY_S) * USECS_PER_SEC;
}

static void
put_failure(Datum *values, bool *nulls, const char *state, int attempts,
			TimestampTz due_at, const text *error)
{
	values[PARKED_STATE - 1] = CStringGetTextDatum(state);
	values[PARKED_ATTEMPTS - 1] = Int32GetDatum(attempts);
	nulls[PARKED_DUE_AT - 1] = TIMESTAMP_IS_NOEND(due_at);
	values[PARKED_DUE_AT - 1] = TimestampTzGetDatum(due_at);
	if (error != NULL)
	{
		nulls[PARKED_ERROR - 1] = nulls[PARKED_FAILED_AT - 1] = false;
		values[PARKED_ERROR - 1] = PointerGetDatum(error);
		values[PARKED_FAILED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	}
	if (strcmp(state, PARKED_DEAD) == 0)
		stats_count(STAT_DEAD_LETTERS);
}

/*
 * Copy a message of the outbox.  due_at DT_NOEND: never.
 */
void
parked_add(const text *consumer, TupleTableSlot *message, const char *state,
		   int attempts, TimestampTz due_at, const text *error)
{
	static const int column[] = {
		[PARKED_SLOT] = OUTBOX_SLOT, [PARKED_ID] = OUTBOX_ID, [PARKED_ERA] = OUTBOX_ERA,
		[PARKED_CREATED_AT] = OUTBOX_CREATED_AT, [PARKED_BRANCH] = OUTBOX_BRANCH,
		[PARKED_TOPIC] = OUTBOX_TOPIC, [PARKED_KEY] = OUTBOX_KEY, [PARKED_TYPE] = OUTBOX_TYPE,
		[PARKED_PAYLOAD] = OUTBOX_PAYLOAD, [PARKED_HEADERS] = OUTBOX_HEADERS
	};
	Relation	rel = table_open(idem_tables()->parked.heap, RowExclusiveLock);
	Datum		values[PARKED_COLUMNS];
	bool		nulls[PARKED_COLUMNS] = {false};

	slot_getallattrs(message);
	for (int i = 1; i <= PARKED_COLUMNS; i++)
	{
		if (column[i] == 0)
			continue;
		values[i - 1] = message->tts_values[column[i] - 1];
		nulls[i - 1] = message->tts_isnull[column[i] - 1];
	}
	values[PARKED_CONSUMER - 1] = PointerGetDatum(consumer);
	nulls[PARKED_ERROR - 1] = nulls[PARKED_FAILED_AT - 1] = true;
	put_failure(values, nulls, state, attempts, due_at, error);
	row_insert(rel, values, nulls);
	table_close(rel, NoLock);
}

void
parked_set(Parked *parked, const char *state, int attempts, TimestampTz due_at,
		   const text *error)
{
	Relation	rel = table_open(idem_tables()->parked.heap, RowExclusiveLock);
	HeapTuple	tuple;

	CommandCounterIncrement();	/* it may be of this very command */
	put_failure(parked->values, parked->nulls, state, attempts, due_at, error);
	tuple = heap_form_tuple(RelationGetDescr(rel), parked->values, parked->nulls);
	CatalogTupleUpdate(rel, &parked->tuple->t_self, tuple);
	table_close(rel, NoLock);
}

void
parked_delete(const Parked *parked)
{
	Relation	rel = table_open(idem_tables()->parked.heap, RowExclusiveLock);
	ItemPointerData tid = parked->tuple->t_self;

	CommandCounterIncrement();
	simple_table_tuple_delete(rel, &tid, SnapshotSelf);
	table_close(rel, NoLock);
}

/*
 * Is it in the outbox too, and not only here?
 */
static bool
is_in_outbox(const Parked *parked)
{
	Window	   *window = window_of(parked->id, parked->slot);
	bool		found = window_next(window) != NULL;

	window_close(window);
	return found;
}

/*
 * Of a consumer that goes elsewhere: remove what is to be tried again; with an
 * id to start after, what comes again from there.  What was given up stays.
 */
void
parked_forget(const text *consumer, int64 after)
{
	ParkedScan *scan = parked_open(consumer, ALL_SLOTS);
	Parked		row;
	List	   *removed = NIL;
	ListCell   *cell;

	while (parked_next(scan, &row))
	{
		if (parked_is(&row, PARKED_DEAD))
			continue;
		if (parked_is(&row, PARKED_TOMBSTONE) || parked_is(&row, PARKED_REDRIVEN))
			parked_set(&row, PARKED_DEAD, row.attempts, DT_NOEND, NULL);
		else if (after < 0 || (row.id > after && is_in_outbox(&row)))
		{
			parked_delete(&row);
			removed = lappend(removed, memcpy(palloc(sizeof(Parked)), &row, sizeof(Parked)));
		}
	}
	parked_close(scan);

	/* one that came late can have waited for one with a higher id */
	foreach(cell, removed)
	{
		const Parked *parked = lfirst(cell);

		parked_promote(consumer, parked->slot, parked->key);
	}
}

/*
 * The first one of the key is in nobody's way any more: the next is due.
 */
void
parked_promote(const text *consumer, int32 slot, const text *key)
{
	ParkedScan *scan;
	Parked		row;
	bool		found = false;

	if (key == NULL)
		return;
	scan = parked_open(consumer, (Slots) {slot, slot});
	while (!found && parked_next(scan, &row))
		found = same_key(&row, key) && blocks(&row);
	parked_close(scan);
	if (found && parked_is(&row, PARKED_WAITING))
		parked_set(&row, PARKED_RETRY, row.attempts, GetCurrentTimestamp(), NULL);
}

/*
 * Lock a dead letter, which a DBA may just be deleting.  False if it is gone.
 */
static bool
lock_row(const Parked *parked)
{
	Relation	rel = table_open(idem_tables()->parked.heap, RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ItemPointerData tid = parked->tuple->t_self;
	TM_FailureData failure;
	TM_Result	result;

	CommandCounterIncrement();
	result = table_tuple_lock(rel, &tid, SnapshotSelf, slot, GetCurrentCommandId(true),
							  LockTupleExclusive, LockWaitBlock, 0, &failure);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return result == TM_Ok;
}

/*
 * (consumer, id)
 *
 * It needs no lane: but for DBAs nobody else changes a dead letter.
 */
Datum
idem_redrive(PG_FUNCTION_ARGS)
{
	text	   *consumer = idem_name(fcinfo, 0, "consumer");
	Subscription subscription;
	Parked		row;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("id must not be NULL"),
				 errhint("idem_dead_letters lists what can be redriven.")));
	idem_require_writable("idem_redrive()");
	subscription_require(consumer, &subscription);
	LockRelationOid(idem_tables()->parked.heap, ShareUpdateExclusiveLock);	/* one at a time */
	if (!parked_find(consumer, ALL_SLOTS, PG_GETARG_INT64(1), &row) ||
		!parked_is(&row, PARKED_DEAD) || !lock_row(&row))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("message " INT64_FORMAT " is not a dead letter of consumer \"%s\"",
						PG_GETARG_INT64(1), text_to_cstring(consumer)),
				 errdetail("Only a message that was given up can be redriven."),
				 errhint("idem_dead_letters lists them; idem_delivered(" INT64_FORMAT ") tells where this one is.",
						 PG_GETARG_INT64(1))));
	parked_set(&row, subscription.external ? PARKED_REDRIVEN : PARKED_RETRY, 0,
			   GetCurrentTimestamp(), NULL);
	PG_RETURN_VOID();
}
