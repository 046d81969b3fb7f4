/*
 * attempt.c
 *	  Attempt marks: batches whose client went away with them.
 *
 * A message that kills its consumer's process leaves no trace of its own: the
 * transaction is rolled back, and the next process gets the same batch.  But
 * this backend outlives its client, and before it exits it adds a row to
 * idem_attempts, in a transaction of its own.  Thus marks cost nothing while
 * all is well, need nothing of the client, and a crash or shutdown of the
 * server, which is no message's fault, leaves none.
 *
 * What a mark says is uncertain while the batch has several messages: so these
 * are then delivered one by one, and the culprit's next mark names it.
 *
 * A client that survived the loss of its connection is none of that.  It can
 * say so by a value of idem.client that is its own: what has the same value as
 * the fetching session does not count.
 */
#include "attempt.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "row.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define NAMED_BATCHES 64		/* for so many a message is looked out for */

/*
 * How many batches on from its own a mark is of interest.  A message that was
 * alone may come a little later the next time: others can precede it.
 */
static int64
reach(const Attempt *mark)
{
	return mark->batch + (mark->messages == 1 ? NAMED_BATCHES : mark->messages);
}

typedef struct MarkScan
{
	Relation	heap;			/* NULL: the table is empty */
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	LOCKMODE	mode;
} MarkScan;

static void
open_scan(MarkScan *scan, const text *consumer, int lane, LOCKMODE mode)
{
	ScanKeyData keys[2];

	scan->mode = mode;
	scan->heap = table_open(idem_tables()->attempts.heap, mode);
	if (RelationGetNumberOfBlocks(scan->heap) == 0)
	{
		table_close(scan->heap, mode);
		scan->heap = NULL;
		return;
	}
	scan->index = index_open(idem_tables()->attempts.index, AccessShareLock);
	scan->slot = table_slot_create(scan->heap, NULL);
	scan->scan = idem_index_beginscan(scan->heap, scan->index, SnapshotSelf, 2);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(consumer));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(lane));
	index_rescan(scan->scan, keys, 2, NULL, 0);
}

static bool
next_mark(MarkScan *scan, Attempt *mark)
{
	Datum	   *values;

	if (scan->heap == NULL ||
		!index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot))
		return false;
	slot_getallattrs(scan->slot);
	values = scan->slot->tts_values;
	mark->batch = DatumGetInt64(values[ATTEMPT_BATCH - 1]);
	mark->messages = DatumGetInt32(values[ATTEMPT_MESSAGES - 1]);
	mark->id = DatumGetInt64(values[ATTEMPT_ID - 1]);
	mark->client = TextDatumGetCString(values[ATTEMPT_CLIENT - 1]);
	mark->failed_at = DatumGetTimestampTz(values[ATTEMPT_FAILED_AT - 1]);
	return true;
}

static void
close_scan(MarkScan *scan)
{
	if (scan->heap == NULL)
		return;
	index_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	index_close(scan->index, AccessShareLock);
	table_close(scan->heap, scan->mode);
}

static int
compare_marks(const ListCell *a, const ListCell *b)
{
	const Attempt *x = lfirst(a);
	const Attempt *y = lfirst(b);

	return x->failed_at < y->failed_at ? -1 : x->failed_at > y->failed_at;
}

/*
 * The marks that count for a batch of the lane.
 */
void
attempts_find(const text *consumer, int lane, int64 batch, Attempts *attempts)
{
	MarkScan	scan;
	Attempt		mark;

	attempts->any = false;
	attempts->marks = NIL;
	open_scan(&scan, consumer, lane, AccessShareLock);
	while (next_mark(&scan, &mark))
	{
		Attempt    *copy;

		attempts->any = true;
		if (batch < mark.batch || batch >= reach(&mark) ||
			(*idem_client != '\0' && strcmp(mark.client, idem_client) == 0))
			continue;
		copy = palloc(sizeof(Attempt));
		*copy = mark;
		attempts->marks = lappend(attempts->marks, copy);
	}
	close_scan(&scan);
	list_sort(attempts->marks, compare_marks);
}

/*
 * How often the message was lost with its client since then: alone in a batch,
 * and before that among others, which is once, for no more is known.
 */
int
attempts_of(const Attempts *attempts, int64 batch, int64 id, TimestampTz since)
{
	int			count = 0;
	ListCell   *cell;

	foreach(cell, attempts->marks)
	{
		const Attempt *mark = lfirst(cell);

		if (mark->failed_at <= since)
			continue;
		if (mark->messages == 1)
			count += mark->id == id;
		else if (count == 0 && batch < reach(mark))
			count++;
	}
	return count;
}

/*
 * Is there proof that it was this one?
 */
bool
attempts_alone(const Attempts *attempts, int64 id)
{
	ListCell   *cell;

	foreach(cell, attempts->marks)
	{
		const Attempt *mark = lfirst(cell);

		if (mark->messages == 1 && mark->id == id)
			return true;
	}
	return false;
}

/*
 * Remove the lane's marks that are of no more interest once a batch of so many
 * messages is acked, and those that name its first.
 */
void
attempts_forget(const text *consumer, int lane, int64 batch, int messages, int64 id)
{
	MarkScan	scan;
	Attempt		mark;

	open_scan(&scan, consumer, lane, RowExclusiveLock);
	while (next_mark(&scan, &mark))
	{
		TM_FailureData failure;

		if (mark.messages == 1 ? mark.id == id || batch + 1 >= reach(&mark) :
			batch + messages >= reach(&mark))
			(void) table_tuple_delete(scan.heap, &scan.slot->tts_tid, GetCurrentCommandId(true),
									  SnapshotSelf, InvalidSnapshot, false, &failure, false);
	}
	close_scan(&scan);
}

void
attempts_forget_all(const text *consumer, int lane)
{
	attempts_forget(consumer, lane, PG_INT64_MAX - 1, 1, 0);
}

/*
 * From a backend that exits: note what its client had, in that table.  Nothing
 * is waited for: if the table is locked or no more, there is no mark.
 */
void
attempts_note(Oid relid, const Attempt *attempts, int count)
{
	Relation	rel = NULL;

	AbortOutOfAnyTransaction();
	StartTransactionCommand();
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	if (ConditionalLockRelationOid(relid, RowExclusiveLock))
		rel = try_table_open(relid, NoLock);
	if (rel != NULL && RelationGetNumberOfAttributes(rel) == ATTEMPT_COLUMNS)
	{
		for (int i = 0; i < count; i++)
		{
			const Attempt *attempt = &attempts[i];
			Datum		values[ATTEMPT_COLUMNS];
			bool		nulls[ATTEMPT_COLUMNS] = {false};

			values[ATTEMPT_CONSUMER - 1] = CStringGetTextDatum(attempt->consumer);
			values[ATTEMPT_LANE - 1] = Int64GetDatum(attempt->lane);
			values[ATTEMPT_BATCH - 1] = Int64GetDatum(attempt->batch);
			values[ATTEMPT_MESSAGES - 1] = Int32GetDatum(attempt->messages);
			values[ATTEMPT_ID - 1] = Int64GetDatum(attempt->id);
			values[ATTEMPT_CLIENT - 1] = CStringGetTextDatum(attempt->client);
			values[ATTEMPT_FAILED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
			row_insert(rel, values, nulls);
		}
	}
	if (rel != NULL)
		table_close(rel, NoLock);
	CommitTransactionCommand();
}
