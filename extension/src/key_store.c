/*
 * key_store.c
 *	  How keys are kept: in the ring, or in idem_pinned.
 *
 * Rows are read by SnapshotSelf, as last committed, never by the
 * transaction's own snapshot: the key's lock has settled who wrote before us,
 * and a snapshot taken before that would miss it.  It also keeps the probes
 * out of serializable transactions' predicate locks, which cover whole index
 * pages and fail transactions over keys that have nothing in common.
 *
 * The index is a b-tree: a hash index keeps 32 bits of the digest, so that of
 * a hundred million keys one claim in thirty would have to read a stranger's
 * row, from a page that is in nobody's memory.
 *
 * An index is locked without its table: TRUNCATE locks the table first, and
 * would find itself in a deadlock with who does it the other way round.  So
 * whatever index is open is closed before one of their tables is opened.
 */
#include "key_store.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "scope.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

static const char *const fate_names[] = {
	[FATE_NONE] = NULL,
	[FATE_HELD] = "held",
	[FATE_CONFIRMED] = "confirmed",
	[FATE_COMPENSATED] = "compensated",
	[FATE_REFUSED] = "refused",
	[FATE_TOMBSTONE] = "tombstone",
	[FATE_LEASED] = "leased",
};

bool
fate_is_cancelled(Fate fate)
{
	return fate == FATE_COMPENSATED || fate == FATE_TOMBSTONE;
}

const char *
fate_name(Fate fate)
{
	return fate_names[fate];
}

/*
 * FATE_NONE if it is no name of one.
 */
Fate
fate_named(const char *name)
{
	Fate		fate = lengthof(fate_names) - 1;

	while (fate > FATE_NONE && strcmp(name, fate_names[fate]) != 0)
		fate--;
	return fate;
}

/*
 * Does the text column hold these bytes?
 */
static bool
text_matches(TupleTableSlot *slot, int column, const char *bytes, int len)
{
	bool		isnull;
	text	   *value = DatumGetTextPP(slot_getattr(slot, column, &isnull));

	return (int) VARSIZE_ANY_EXHDR(value) == len &&
		memcmp(VARDATA_ANY(value), bytes, len) == 0;
}

/*
 * What only idem_pinned has.
 */
static void
read_pinned(TupleTableSlot *slot, KeyRow *row)
{
	bool		isnull;
	Datum		value;
	char	   *name;

	row->fate = FATE_NONE;
	row->attempt = 1;
	if (slot->tts_tupleDescriptor->natts == KEY_COLUMNS)
		return;
	value = slot_getattr(slot, PINNED_ATTEMPT, &isnull);
	if (!isnull)
		row->attempt = DatumGetInt32(value);
	value = slot_getattr(slot, PINNED_FATE, &isnull);
	if (isnull)
		return;

	name = TextDatumGetCString(value);
	row->fate = fate_named(name);
	if (row->fate == FATE_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("unknown fate \"%s\" in table \"%s\"",
						name, get_rel_name(slot->tts_tableOid))));

	value = slot_getattr(slot, PINNED_DEADLINE, &isnull);
	row->deadline = isnull ? DT_NOEND : DatumGetTimestampTz(value);
	value = slot_getattr(slot, PINNED_TTL_ENDS_AT, &isnull);
	row->ttl_ends_at = isnull ? row->expires_at : DatumGetTimestampTz(value);
	value = slot_getattr(slot, PINNED_HANDLERS, &isnull);
	row->handlers = isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	value = slot_getattr(slot, PINNED_ANSWER, &isnull);
	row->answer = isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	if (row->fate != FATE_LEASED)
		return;

	row->token = DatumGetInt64(slot_getattr(slot, PINNED_TOKEN, &isnull));
	row->lease_ends_at = DatumGetTimestampTz(slot_getattr(slot, PINNED_LEASE_ENDS_AT, &isnull));
	row->holder_pid = DatumGetInt32(slot_getattr(slot, PINNED_HOLDER_PID, &isnull));
	value = slot_getattr(slot, PINNED_CHECKPOINT, &isnull);
	row->checkpoint = isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

static void
read_row(TupleTableSlot *slot, int32 life, KeyRow *row)
{
	BufferHeapTupleTableSlot *heap_slot = (BufferHeapTupleTableSlot *) slot;
	HeapTupleHeader header = heap_slot->base.tuple->t_data;
	bool		isnull;
	Datum		value;

	row->claimed_at = DatumGetTimestampTz(slot_getattr(slot, KEY_CLAIMED_AT, &isnull));
	row->completed_at = DatumGetTimestampTz(slot_getattr(slot, KEY_COMPLETED_AT, &isnull));
	row->expires_at = DatumGetTimestampTz(slot_getattr(slot, KEY_EXPIRES_AT, &isnull));
	row->life = life;

	value = slot_getattr(slot, KEY_FINGERPRINT, &isnull);
	row->has_fingerprint = !isnull;
	if (!isnull)
	{
		bytea	   *fingerprint = DatumGetByteaPP(value);

		if (VARSIZE_ANY_EXHDR(fingerprint) != FINGERPRINT_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("fingerprint in table \"%s\" has %d bytes, not %d",
							get_rel_name(slot->tts_tableOid),
							(int) VARSIZE_ANY_EXHDR(fingerprint), FINGERPRINT_BYTES)));
		memcpy(row->fingerprint, VARDATA_ANY(fingerprint), FINGERPRINT_BYTES);
	}

	value = slot_getattr(slot, KEY_RESPONSE, &isnull);
	row->response = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	read_pinned(slot, row);

	/* a frozen row's transaction may be forgotten, but the freezing came after it */
	row->xmin = HeapTupleHeaderGetRawXmin(header);
	row->frozen = HeapTupleHeaderXminFrozen(header) ?
		BufferGetLSNAtomic(heap_slot->buffer) : InvalidXLogRecPtr;
	row->table = slot->tts_tableOid;
	row->tid = slot->tts_tid;
}

/* which table to look into, where it is no generation */
#define PINNED (-1)

static const StoreTable *
table_of(int generation)
{
	return generation == PINNED ? &idem_tables()->pinned :
		&idem_tables()->generation[STORE_KEYS][generation];
}

/*
 * Open the table's index; NULL if the generation does not live.
 *
 * REINDEX CONCURRENTLY waits for those who have locked the table, so it does
 * not wait for us, and the index that we knew may be gone.  But who wrote the
 * key did so before we had its lock; if the index is the right one now, it was
 * then.
 */
static IndexScanDesc
open_index(int generation)
{
	const StoreTable *table = table_of(generation);
	Relation	index;

	for (;;)
	{
		if (!OidIsValid(table->index))
			idem_index_is_lost(table->heap);
		index = try_relation_open(table->index, AccessShareLock);
		(void) idem_tables();
		if (index != NULL && RelationGetRelid(index) == table->index)
			break;
		if (index != NULL)
			index_close(index, AccessShareLock);
		CHECK_FOR_INTERRUPTS();
	}

	/* one that was retired before it was locked has lost its rows, or is about to */
	if (generation != PINNED && !ring_is_living(ring_now(STORE_KEYS), generation))
	{
		index_close(index, AccessShareLock);
		return NULL;
	}
	return idem_index_beginscan_bitmap(index, SnapshotSelf, 1);
}

static void
close_index(IndexScanDesc scan)
{
	Relation	index = scan->indexRelation;

	index_endscan(scan);
	index_close(index, AccessShareLock);
}

void
key_reader_close(KeyReader *reader)
{
	for (int i = 0; i <= RING_GENERATIONS; i++)
	{
		if (reader->scans[i] != NULL)
			close_index(reader->scans[i]);
		reader->scans[i] = NULL;
	}
}

/*
 * The same, from the reader.  An index that was opened for a key before this
 * one is as good if nothing has happened to the tables since: we have looked,
 * after we had this key's lock.  And while it is locked, it is not emptied.
 */
static IndexScanDesc
open_index_once(int generation, KeyReader *reader)
{
	IndexScanDesc *scan = &reader->scans[generation == PINNED ? RING_GENERATIONS : generation];

	if (reader->version != idem_tables()->version)
	{
		key_reader_close(reader);
		reader->version = idem_tables()->version;
	}
	if (*scan == NULL)
		*scan = open_index(generation);
	return *scan;
}

/*
 * Where the index says that rows with the digest may be: mostly nowhere, and
 * then the table itself need not be opened.
 */
static List *
probe(int generation, const IdemKey *key, KeyReader *reader)
{
	IndexScanDesc scan = reader == NULL ? open_index(generation) :
		open_index_once(generation, reader);
	ScanKeyData digest;
	ItemPointer tid;
	List	   *tids = NIL;

	if (scan == NULL)
		return NIL;

	ScanKeyInit(&digest, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(key->digest));
	index_rescan(scan, &digest, 1, NULL, 0);
	while ((tid = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
	{
		ItemPointer copy = palloc(sizeof(ItemPointerData));

		*copy = *tid;
		tids = lappend(tids, copy);
	}

	/* who goes on to the table must not hold its index */
	if (reader == NULL)
		close_index(scan);
	else if (tids != NIL)
		key_reader_close(reader);
	return tids;
}

/*
 * Look for the key in one table.  A row that is newer than *row, where found
 * says that there is one, takes its place.  There may be expired rows beside
 * the living one; which is newest is told by life and not by time, since a
 * clock can be set back.  True when the table holds the key at all.
 */
static bool
find_in(int generation, const IdemKey *key, KeyReader *reader, KeyRow *row, bool found)
{
	Relation	heap;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	List	   *tids;
	ListCell   *cell;
	uint64		version;
	bool		here = false;

	for (;;)
	{
		version = idem_tables()->version;
		tids = probe(generation, key, reader);
		if (tids == NIL)
			return false;

		/* rows stay where they are, unless the table was rewritten just now */
		heap = table_open(table_of(generation)->heap, AccessShareLock);
		if (idem_tables()->version == version)
			break;
		table_close(heap, AccessShareLock);
	}

	slot = table_slot_create(heap, NULL);
	fetch = table_index_fetch_begin(heap);
	foreach(cell, tids)
	{
		ItemPointer tid = lfirst(cell);
		bool		more = false;	/* versions that share the index entry */

		while (table_index_fetch_tuple(fetch, tid, SnapshotSelf, slot, &more, NULL))
		{
			int32		life;
			bool		isnull;

			if (!text_matches(slot, KEY_KEY, key->key, key->key_len) ||
				!text_matches(slot, KEY_SCOPE, key->scope, key->scope_len))
				continue;
			here = true;
			life = DatumGetInt32(slot_getattr(slot, KEY_LIFE, &isnull));
			if (isnull)
				life = 1;
			if (found && life < row->life)
				continue;
			read_row(slot, life, row);
			found = true;
		}
	}
	table_index_fetch_end(fetch);
	ExecDropSingleTupleTableSlot(slot);
	table_close(heap, AccessShareLock);
	list_free_deep(tids);
	return here;
}

/*
 * Above READ COMMITTED, what the transaction's snapshot cannot see must not
 * be answered from: neither a row that it does not see, nor the lack of a
 * living one that was there then.  That is the ordinary serialization failure,
 * and a retry takes a new snapshot.
 */
static void
check_snapshot(const IdemKey *key, const KeyRow *row, bool found)
{
	bool		unseen = false;

	if (found && XLogRecPtrIsInvalid(row->frozen) &&
		!TransactionIdIsCurrentTransactionId(row->xmin))
		unseen = XidInMVCCSnapshot(row->xmin, GetTransactionSnapshot());

	if (!found || row->expires_at <= GetCurrentTimestamp())
	{
		RingState	ring;

		ring_read(STORE_KEYS, &ring);
		unseen |= ring_hides_from_snapshot(&ring);
	}

	if (unseen)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent use of an idempotency key"),
				 errdetail("The key \"%.*s\" was written or removed after this transaction's snapshot was taken.",
						   key->key_len, key->key),
				 errhint("Retry the transaction.")));
}

/*
 * The key's newest row, expired or not, wherever its scope is.
 *
 * A key's lives can be in idem_pinned and in the ring in any order.  Within the
 * ring a younger generation holds the younger life, but for a moment when the
 * ring turns: a row that expired at once can be in the new current generation,
 * and its successor, by who had not noticed yet, in the one before.  So only a
 * living row ends the search.  The youngest generation is the one after the
 * current, from when it is opened.
 */
bool
key_store_find_away(const IdemKey *key, KeyReader *reader, KeyRow *row)
{
	const RingState *ring = ring_now(STORE_KEYS);
	int			youngest = ring->current;
	bool		found;
	bool		in_ring = false;

	if (TIMESTAMP_IS_NOEND(ring->ends_at[(youngest + 1) % RING_GENERATIONS]))
		youngest++;

	found = find_in(PINNED, key, reader, row, false);
	for (int age = 0; age < RING_GENERATIONS; age++)
	{
		int			i = (youngest + RING_GENERATIONS - age) % RING_GENERATIONS;

		if (in_ring && row->expires_at > GetCurrentTimestamp())
			break;
		if (!TIMESTAMP_IS_NOBEGIN(ring->ends_at[i]))
			in_ring |= find_in(i, key, reader, row, found || in_ring);
	}
	found |= in_ring;

	if (IsolationUsesXactSnapshot())
		check_snapshot(key, row, found);
	return found;
}

/*
 * The same, if its scope is here.
 */
bool
key_store_find(const IdemKey *key, KeyReader *reader, KeyRow *row)
{
	scope_require_here(key);
	return key_store_find_away(key, reader, row);
}

/*
 * The table that a row with this ttl belongs in, just now.
 */
static Oid
home_of(const KeyRow *row, int64 ttl)
{
	const RingState *ring = ring_now(STORE_KEYS);

	if (row->fate != FATE_NONE || ttl > ring->ttl[ring->current] * USECS_PER_SEC)
		return idem_tables()->pinned.heap;
	return idem_tables()->generation[STORE_KEYS][ring->current].heap;
}

/*
 * Open it, locked for writing: see ring.c for the order of things.
 */
static void
key_writer_open(KeyWriter *writer, const KeyRow *row, int64 ttl)
{
	for (;;)
	{
		Relation	rel = table_open(home_of(row, ttl), RowExclusiveLock);

		if (RelationGetRelid(rel) == home_of(row, ttl))
		{
			writer->version = idem_tables()->version;
			row_writer_open(&writer->rows, rel);
			return;
		}
		table_close(rel, RowExclusiveLock);
	}
}

/*
 * The tables stay locked, until the transaction ends.
 */
void
key_writer_close(KeyWriter *writer)
{
	Relation	rel = writer->rows.rel;

	if (rel == NULL)
		return;
	row_writer_close(&writer->rows);
	table_close(rel, NoLock);
	writer->rows.rel = NULL;
}

/*
 * The row as the columns of its table.
 */
static void
row_columns(const IdemKey *key, const KeyRow *row, Datum *values, bool *nulls)
{
	bool		fated = row->fate != FATE_NONE;
	bool		leased = row->fate == FATE_LEASED;

	memset(nulls, false, sizeof(bool) * PINNED_COLUMNS);
	values[KEY_DIGEST - 1] = Int64GetDatum(key->digest);
	values[KEY_CLAIMED_AT - 1] = TimestampTzGetDatum(row->claimed_at);
	values[KEY_COMPLETED_AT - 1] = TimestampTzGetDatum(row->completed_at);
	values[KEY_EXPIRES_AT - 1] = TimestampTzGetDatum(row->expires_at);
	values[KEY_LIFE - 1] = Int32GetDatum(row->life);
	nulls[KEY_LIFE - 1] = row->life == 1;	/* takes no room */
	values[KEY_SCOPE - 1] =
		PointerGetDatum(cstring_to_text_with_len(key->scope, key->scope_len));
	values[KEY_KEY - 1] =
		PointerGetDatum(cstring_to_text_with_len(key->key, key->key_len));
	nulls[KEY_FINGERPRINT - 1] = !row->has_fingerprint;
	values[KEY_FINGERPRINT - 1] = row->has_fingerprint ?
		PointerGetDatum(cstring_to_text_with_len((const char *) row->fingerprint,
												 FINGERPRINT_BYTES)) : (Datum) 0;
	values[KEY_RESPONSE - 1] = row->response;

	nulls[PINNED_ATTEMPT - 1] = row->attempt == 1;
	values[PINNED_ATTEMPT - 1] = Int32GetDatum(row->attempt);
	nulls[PINNED_FATE - 1] = !fated;
	nulls[PINNED_DEADLINE - 1] = !fated || TIMESTAMP_IS_NOEND(row->deadline);
	nulls[PINNED_TTL_ENDS_AT - 1] = !fated || row->ttl_ends_at == row->expires_at;
	nulls[PINNED_HANDLERS - 1] = !fated || row->handlers == 0;
	nulls[PINNED_ANSWER - 1] = !fated || row->answer == 0;
	if (fated)
	{
		values[PINNED_FATE - 1] = CStringGetTextDatum(fate_names[row->fate]);
		values[PINNED_DEADLINE - 1] = TimestampTzGetDatum(row->deadline);
		values[PINNED_TTL_ENDS_AT - 1] = TimestampTzGetDatum(row->ttl_ends_at);
		values[PINNED_HANDLERS - 1] = row->handlers;
		values[PINNED_ANSWER - 1] = row->answer;
	}
	nulls[PINNED_TOKEN - 1] = nulls[PINNED_LEASE_ENDS_AT - 1] = nulls[PINNED_HOLDER_PID - 1] = !leased;
	nulls[PINNED_CHECKPOINT - 1] = !leased || row->checkpoint == 0;
	if (leased)
	{
		values[PINNED_TOKEN - 1] = Int64GetDatum(row->token);
		values[PINNED_LEASE_ENDS_AT - 1] = TimestampTzGetDatum(row->lease_ends_at);
		values[PINNED_HOLDER_PID - 1] = Int32GetDatum(row->holder_pid);
		values[PINNED_CHECKPOINT - 1] = row->checkpoint;
	}
}

/*
 * Store a row that lives for ttl microseconds from now.  Sets completed_at
 * and expires_at, unless ttl is 0: then it is born expired.  One that has a
 * deadline does not expire before it is settled.
 */
void
key_store_insert(const IdemKey *key, KeyWriter *writer, KeyRow *row, int64 ttl)
{
	KeyWriter	own = {0};
	Datum		values[PINNED_COLUMNS];
	bool		nulls[PINNED_COLUMNS];

	if (writer == NULL)
		writer = &own;

	/* before the table is chosen: ring.c relies on it */
	row->completed_at = GetCurrentTimestamp();
	row->expires_at = ttl > 0 ? row->completed_at + ttl : DT_NOBEGIN;
	if (row->fate != FATE_NONE)
	{
		row->ttl_ends_at = row->expires_at;
		if (!TIMESTAMP_IS_NOEND(row->deadline))
			row->expires_at = DT_NOEND;
	}

	/* where an earlier row went is as good if this one belongs there, by its own clock reading */
	if (writer->rows.rel == NULL || RelationGetRelid(writer->rows.rel) != home_of(row, ttl) ||
		writer->version != idem_tables()->version)
	{
		key_writer_close(writer);
		key_writer_open(writer, row, ttl);
	}

	/* the claim may have been made before the scope went away */
	scope_require_here(key);
	row_columns(key, row, values, nulls);
	row_write(&writer->rows, values, nulls);
	if (writer == &own)
		key_writer_close(writer);
}

/*
 * Store a row in idem_pinned, with the times that it has.
 */
void
key_store_pin(const IdemKey *key, const KeyRow *row)
{
	Datum		values[PINNED_COLUMNS];
	bool		nulls[PINNED_COLUMNS];
	Relation	rel = table_open(idem_tables()->pinned.heap, RowExclusiveLock);

	(void) idem_tables();
	row_columns(key, row, values, nulls);
	row_insert(rel, values, nulls);
	table_close(rel, NoLock);
}

/*
 * Who will call key_store_update() calls this before key_store_find(): rows of
 * idem_pinned then stay where they are until the transaction ends, but for
 * those that expire.
 */
void
key_store_hold(void)
{
	LockRelationOid(idem_tables()->pinned.heap, RowExclusiveLock);
	(void) idem_tables();
}

/*
 * Write back a row of idem_pinned.
 */
void
key_store_update(const IdemKey *key, KeyRow *row)
{
	Datum		values[PINNED_COLUMNS];
	bool		nulls[PINNED_COLUMNS];
	Relation	rel = table_open(row->table, RowExclusiveLock);
	HeapTuple	tuple;

	Assert(row->table == idem_tables()->pinned.heap);

	/* the same statement may have written it already */
	CommandCounterIncrement();
	row_columns(key, row, values, nulls);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleUpdate(rel, &row->tid, tuple);
	row->tid = tuple->t_self;
	table_close(rel, NoLock);
}

/*
 * Delete the key's newest row, which is *row, unless it has expired.  False if
 * there is none.
 */
bool
key_store_delete(const IdemKey *key, KeyRow *row)
{
	for (;;)
	{
		uint64		version = idem_tables()->version;
		Relation	rel;

		if (!key_store_find_away(key, NULL, row) || row->expires_at <= GetCurrentTimestamp())
			return false;

		/* the row stays where it is, unless the table was rewritten just now */
		rel = table_open(row->table, RowExclusiveLock);
		if (idem_tables()->version == version)
		{
			simple_table_tuple_delete(rel, &row->tid, SnapshotSelf);
			table_close(rel, NoLock);
			return true;
		}
		table_close(rel, RowExclusiveLock);
	}
}

static void
copy_key(TupleTableSlot *slot, IdemKey *key)
{
	bool		isnull;
	text	   *name = DatumGetTextPCopy(slot_getattr(slot, KEY_SCOPE, &isnull));

	key->scope = VARDATA(name);
	key->scope_len = VARSIZE_ANY_EXHDR(name);
	name = DatumGetTextPCopy(slot_getattr(slot, KEY_KEY, &isnull));
	key->key = VARDATA(name);
	key->key_len = VARSIZE_ANY_EXHDR(name);
	key->digest = DatumGetInt64(slot_getattr(slot, KEY_DIGEST, &isnull));
}

/*
 * Add those of one fate, up to max of all.
 */
static List *
add_due(List *due, Fate fate, DuePosition *position, TimestampTz until, int max)
{
	Relation	rel = table_open(idem_tables()->pinned.heap, AccessShareLock);
	Relation	index = index_open(idem_tables()->pinned_deadline, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan;
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(fate_names[fate]));
	ScanKeyInit(&keys[1], 2, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE,
				TimestampTzGetDatum(until));
	ScanKeyInit(&keys[2], 2, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
				TimestampTzGetDatum(position->begun ? position->deadline : DT_NOBEGIN));
	scan = idem_index_beginscan(rel, index, SnapshotSelf, 3);
	index_rescan(scan, keys, 3, NULL, 0);
	while (list_length(due) < max && index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		DueKey	   *found;
		bool		isnull;
		TimestampTz deadline = DatumGetTimestampTz(slot_getattr(slot, PINNED_DEADLINE, &isnull));

		/* in the index, equal ones are in the order of their places */
		if (position->begun && deadline == position->deadline &&
			ItemPointerCompare(&slot->tts_tid, &position->tid) <= 0)
			continue;
		position->begun = true;
		position->deadline = deadline;
		position->tid = slot->tts_tid;

		/* its owner may yet complete it */
		if (fate == FATE_LEASED &&
			DatumGetTimestampTz(slot_getattr(slot, PINNED_LEASE_ENDS_AT, &isnull)) > until)
			continue;

		found = palloc(sizeof(DueKey));
		copy_key(slot, &found->key);
		/* what has moved is for the other node to undo */
		if (!scope_is_here(&found->key))
			continue;
		found->handlers = slot_getattr(slot, PINNED_HANDLERS, &isnull);
		found->handlers = isnull ? (Datum) 0 :
			PointerGetDatum(PG_DETOAST_DATUM_COPY(found->handlers));
		due = lappend(due, found);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return due;
}

/*
 * Up to max keys that are past their deadline, as DueKey pointers, completed
 * ones and then those whose lease is over, the longest overdue first; those
 * after the position, which moves on.
 */
List *
key_store_due(DuePosition *position, TimestampTz until, int max)
{
	static const Fate fates[] = {FATE_HELD, FATE_LEASED};
	List	   *due = NIL;

	while (position->pass < (int) lengthof(fates))
	{
		due = add_due(due, fates[position->pass], position, until, max);
		if (list_length(due) == max)
			break;
		position->pass++;
		position->begun = false;
	}
	return due;
}

/*
 * Up to max other scopes, as text pointers, in which the same key is alive, has
 * a compensation or a lease, and is not cancelled.
 */
List *
key_store_other_scopes(const IdemKey *key, int max)
{
	Relation	rel = table_open(idem_tables()->pinned.heap, AccessShareLock);
	Relation	index = index_open(idem_tables()->pinned_key, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TimestampTz now = GetCurrentTimestamp();
	IndexScanDesc scan;
	ScanKeyData keys[1];
	List	   *scopes = NIL;

	ScanKeyInit(&keys[0], 1, HTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(cstring_to_text_with_len(key->key, key->key_len)));
	scan = idem_index_beginscan(rel, index, SnapshotSelf, 1);
	index_rescan(scan, keys, 1, NULL, 0);
	while (list_length(scopes) < max && index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		KeyRow		row;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		row.expires_at = DatumGetTimestampTz(slot_getattr(slot, KEY_EXPIRES_AT, &isnull));
		read_pinned(slot, &row);
		if (row.expires_at > now && row.fate != FATE_NONE && !fate_is_cancelled(row.fate) &&
			text_matches(slot, KEY_KEY, key->key, key->key_len) &&
			!text_matches(slot, KEY_SCOPE, key->scope, key->scope_len))
			scopes = lappend(scopes, DatumGetTextPCopy(slot_getattr(slot, KEY_SCOPE, &isnull)));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return scopes;
}

/*
 * Wait for all who have written keys, or may just be about to, as they had
 * found the scope here.  Nobody queues behind us meanwhile.
 */
void
key_store_settle(void)
{
	for (int i = PINNED; i < RING_GENERATIONS; i++)
	{
		LOCKTAG		tag;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, table_of(i)->heap);
		WaitForLockers(tag, ShareLock, false);
	}
}

#define SCAN_BLOCKS (128 * 1024 * 1024 / BLCKSZ)	/* of one call, at most */
#define SCAN_BYTES (8 * 1024 * 1024)	/* of responses, more or less */

/* a living row of the scope, which may not be its key's newest */
typedef struct Candidate
{
	IdemKey		key;
	Oid			table;
	ItemPointerData tid;
} Candidate;

static int
place_generation(const KeyPlace *place)
{
	return place->table == RING_GENERATIONS ? PINNED : place->table;
}

static void
next_table(KeyPlace *place)
{
	place->table++;
	place->file = InvalidOid;
}

/*
 * Add those of one table, up to max of all.  True if that is all it has, or the
 * table is not to be read.
 */
static bool
scan_table(const IdemKey *scope, KeyPlace *place, int max, BlockNumber *blocks, List **candidates)
{
	int			generation = place_generation(place);
	Relation	rel = table_open(table_of(generation)->heap, AccessShareLock);
	TimestampTz now = GetCurrentTimestamp();
	TupleTableSlot *slot;
	TableScanDesc scan;
	BlockNumber begin;
	BlockNumber end;
	bool		all = true;

	if (generation != PINNED && !ring_is_living(ring_now(STORE_KEYS), generation))
	{
		table_close(rel, AccessShareLock);
		return true;
	}
	if (place->file != rel->rd_rel->relfilenode)
	{
		place->file = rel->rd_rel->relfilenode;
		ItemPointerSet(&place->tid, 0, 0);
	}

	slot = table_slot_create(rel, NULL);
	scan = table_beginscan_strat(rel, SnapshotSelf, 0, NULL, true, false);
	begin = ItemPointerGetBlockNumberNoCheck(&place->tid);
	end = ((HeapScanDesc) scan)->rs_nblocks;
	if (begin < end)
		heap_setscanlimits(scan, begin, end - begin);
	while (begin < end && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		Candidate  *candidate;

		CHECK_FOR_INTERRUPTS();
		if (ItemPointerCompare(&slot->tts_tid, &place->tid) <= 0)
			continue;
		if (list_length(*candidates) == max ||
			ItemPointerGetBlockNumber(&slot->tts_tid) - begin + *blocks >= SCAN_BLOCKS)
		{
			/* so that it is the next one, also if there was none before it */
			ItemPointerSet(&place->tid, ItemPointerGetBlockNumber(&slot->tts_tid),
						   ItemPointerGetOffsetNumber(&slot->tts_tid) - 1);
			all = false;
			break;
		}
		place->tid = slot->tts_tid;
		if (!text_matches(slot, KEY_SCOPE, scope->scope, scope->scope_len) ||
			DatumGetTimestampTz(slot_getattr(slot, KEY_EXPIRES_AT, &isnull)) <= now)
			continue;

		candidate = palloc(sizeof(Candidate));
		copy_key(slot, &candidate->key);
		candidate->table = RelationGetRelid(rel);
		candidate->tid = slot->tts_tid;
		*candidates = lappend(*candidates, candidate);
	}
	*blocks += end - Min(begin, end);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return all;
}

/*
 * The next living keys of a scope that is away, as FoundKey pointers, up to max
 * of them, and maybe none.  The place is at first all zero.
 *
 * Nobody writes them, so they stay where they are, but if the whole table is
 * rewritten; then some are found again.
 */
List *
key_store_scan(const IdemKey *scope, KeyPlace *place, int max)
{
	BlockNumber blocks = 0;
	Size		bytes = 0;
	List	   *candidates = NIL;
	List	   *keys = NIL;
	ListCell   *cell;
	bool		all = false;

	/* of one table at a time, so that the place can be that of any of them */
	while (candidates == NIL && !key_store_scanned(place) && blocks < SCAN_BLOCKS)
	{
		all = scan_table(scope, place, max, &blocks, &candidates);
		if (all && candidates == NIL)
			next_table(place);
	}

	foreach(cell, candidates)
	{
		Candidate  *candidate = lfirst(cell);
		FoundKey   *found = palloc(sizeof(FoundKey));

		CHECK_FOR_INTERRUPTS();
		found->key = candidate->key;
		if (!key_store_find_away(&found->key, NULL, &found->row) ||
			found->row.table != candidate->table ||
			!ItemPointerEquals(&found->row.tid, &candidate->tid))
			continue;
		keys = lappend(keys, found);
		bytes += VARSIZE_ANY(DatumGetPointer(found->row.response));
		if (bytes > SCAN_BYTES)
		{
			place->tid = candidate->tid;
			return keys;
		}
	}
	if (all && candidates != NIL)
		next_table(place);
	return keys;
}

bool
key_store_scanned(const KeyPlace *place)
{
	return place->table > RING_GENERATIONS; /* idem_pinned comes after them */
}
