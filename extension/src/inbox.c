/*
 * inbox.c
 *	  The inbox: has this message been consumed before?
 *
 * By its id, in a ring of tables as keys are; or, where a source numbers its
 * deliveries without holes, by a watermark a lane.  Either way the answer
 * commits with the work, and who comes second waits for who came first.
 */
#include "idem.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "key.h"
#include "latest.h"
#include "lock.h"
#include "miscadmin.h"
#include "replay.h"
#include "ring.h"
#include "row.h"
#include "stats.h"
#include "storage/bufmgr.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_consume);
PG_FUNCTION_INFO_V1(idem_consume_seq);

/*
 * Locks what the source and the other text name, in a class of locks, until
 * the transaction ends.  Returns their digest.
 */
static int64
lock_digest(const text *source, const char *other, int other_len, uint16 class)
{
	IdemKey		key;
	LOCKTAG		tag;

	key.scope = VARDATA_ANY(source);
	key.scope_len = VARSIZE_ANY_EXHDR(source);
	key.key = other;
	key.key_len = other_len;
	key_digest(&key);
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) ((uint64) key.digest >> 32),
						 (uint32) key.digest, class);
	(void) idem_lock(&tag, ExclusiveLock, true);
	return key.digest;
}

/*
 * Above READ COMMITTED, what was consumed must be visible to the transaction:
 * its effects are what the next message's work builds upon.
 */
static void
require_visible(TransactionId winner, XLogRecPtr frozen, const text *source)
{
	if (IsolationUsesXactSnapshot() && XLogRecPtrIsInvalid(frozen) &&
		!TransactionIdIsCurrentTransactionId(winner) &&
		XidInMVCCSnapshot(winner, GetTransactionSnapshot()))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent use of source \"%s\"",
						text_to_cstring(source)),
				 errdetail("Something was consumed after this transaction's snapshot was taken."),
				 errhint("Retry the transaction.")));
}

static bool
column_is(TupleTableSlot *slot, int column, const text *value)
{
	bool		isnull;
	text	   *stored = DatumGetTextPP(slot_getattr(slot, column, &isnull));

	return VARSIZE_ANY_EXHDR(stored) == VARSIZE_ANY_EXHDR(value) &&
		memcmp(VARDATA_ANY(stored), VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)) == 0;
}

/*
 * Is the message in this generation, and not expired?
 */
static bool
find_in(int generation, int64 digest, const text *source, const text *message_id,
		TimestampTz now, TransactionId *winner, XLogRecPtr *frozen)
{
	const StoreTable *table = &idem_tables()->generation[STORE_INBOX][generation];
	Relation	heap = table_open(table->heap, AccessShareLock);
	bool		found = false;

	/* it may have been retired before it was locked */
	if (ring_is_living(ring_now(STORE_INBOX), generation) &&
		RelationGetNumberOfBlocks(heap) > 0)
	{
		TupleTableSlot *slot = table_slot_create(heap, NULL);
		Relation	index;
		IndexScanDesc scan;
		ScanKeyData key;

		(void) idem_tables();
		index = idem_open_index(heap, table->index);
		scan = idem_index_beginscan(heap, index, SnapshotSelf, 1);
		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(digest));
		index_rescan(scan, &key, 1, NULL, 0);
		while (!found && index_getnext_slot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;

			found = DatumGetTimestampTz(slot_getattr(slot, INBOX_EXPIRES_AT, &isnull)) > now &&
				column_is(slot, INBOX_MESSAGE_ID, message_id) &&
				column_is(slot, INBOX_SOURCE, source);
			if (found)
			{
				BufferHeapTupleTableSlot *heap_slot = (BufferHeapTupleTableSlot *) slot;
				HeapTupleHeader header = heap_slot->base.tuple->t_data;

				*winner = HeapTupleHeaderGetRawXmin(header);
				*frozen = HeapTupleHeaderXminFrozen(header) ?
					BufferGetLSNAtomic(heap_slot->buffer) : InvalidXLogRecPtr;
			}
		}
		index_endscan(scan);
		index_close(index, AccessShareLock);
		ExecDropSingleTupleTableSlot(slot);
	}
	table_close(heap, AccessShareLock);
	return found;
}

/*
 * (source, message_id) -> true the first time
 */
Datum
idem_consume(PG_FUNCTION_ARGS)
{
	text	   *source = idem_name(fcinfo, 0, "source");
	text	   *message_id = idem_name(fcinfo, 1, "message_id");
	Datum		values[INBOX_COLUMNS];
	bool		nulls[INBOX_COLUMNS] = {false};
	TimestampTz now;
	const RingState *ring;
	Relation	rel;
	int64		digest;
	int32		ttl;

	idem_require_writable("idem_consume()");
	digest = lock_digest(source, VARDATA_ANY(message_id), VARSIZE_ANY_EXHDR(message_id),
						 IDEM_LOCK_INBOX);

	now = GetCurrentTimestamp();
	ring = ring_now(STORE_INBOX);
	for (int i = 0; i < RING_GENERATIONS; i++)
	{
		TransactionId winner = InvalidTransactionId;
		XLogRecPtr	frozen = InvalidXLogRecPtr;

		if (ring_is_living(ring, i) &&
			find_in(i, digest, source, message_id, now, &winner, &frozen))
		{
			/* the caller may tell the source, so it must be as safe as a commit */
			require_visible(winner, frozen, source);
			replay_wait_durable(winner, frozen);
			stats_count(STAT_DUPLICATES);
			PG_RETURN_BOOL(false);
		}
	}

	rel = ring_open_current(STORE_INBOX, &ttl);
	values[INBOX_DIGEST - 1] = Int64GetDatum(digest);
	values[INBOX_EXPIRES_AT - 1] = TimestampTzGetDatum(now + ttl * USECS_PER_SEC);
	values[INBOX_SOURCE - 1] = PointerGetDatum(source);
	values[INBOX_MESSAGE_ID - 1] = PointerGetDatum(message_id);
	row_insert(rel, values, nulls);
	table_close(rel, NoLock);
	stats_count(STAT_CONSUMED);
	PG_RETURN_BOOL(true);
}

/*
 * (source, lane, seq) -> 'first', 'duplicate' or 'gap'
 *
 * The watermark of a lane is the last seq that was consumed, at first 0.
 */
Datum
idem_consume_seq(PG_FUNCTION_ARGS)
{
	text	   *source = idem_name(fcinfo, 0, "source");
	Latest		latest;
	bool		nulls[LATEST_COLUMNS] = {false};
	char		lane[MAXINT8LEN + 1];
	int64		watermark;
	int64		seq;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lane and seq must not be NULL"),
				 errdetail("The source delivers them with each message."),
				 errhint("Where there are none, use idem_consume() with the message's id.")));
	seq = PG_GETARG_INT64(2);
	if (seq < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("seq is out of range: " INT64_FORMAT, seq),
				 errdetail("A source numbers the deliveries of a lane 1, 2, 3 and so on."),
				 errhint("Where numbers have holes, use idem_consume() with the message's id.")));
	idem_require_writable("idem_consume_seq()");
	lock_digest(source, lane, pg_lltoa(PG_GETARG_INT64(1), lane), IDEM_LOCK_WATERMARK);

	watermark = latest_find(STORE_WATERMARKS, source, PG_GETARG_INT64(1), &latest) ?
		DatumGetInt64(latest.values[LATEST_N - 1]) : 0;
	if (seq > watermark + 1)
		PG_RETURN_TEXT_P(cstring_to_text("gap"));
	if (watermark > 0)
		require_visible(latest.xmin, latest.frozen, source);
	if (seq <= watermark)
	{
		replay_wait_durable(latest.xmin, latest.frozen);
		stats_count(STAT_DUPLICATES);
		PG_RETURN_TEXT_P(cstring_to_text("duplicate"));
	}

	latest.values[LATEST_NAME - 1] = PointerGetDatum(source);
	latest.values[LATEST_LANE - 1] = Int64GetDatum(PG_GETARG_INT64(1));
	latest.values[LATEST_N - 1] = Int64GetDatum(seq);
	latest_append(STORE_WATERMARKS, latest.values, nulls);
	stats_count(STAT_CONSUMED);
	PG_RETURN_TEXT_P(cstring_to_text("first"));
}
