/*
 * topic.c
 *	  Guarded topics: each key's messages follow a state machine.
 *
 * A message's type is the state, and (topic, key) what it is a state of.  Who
 * publishes locks the key until the transaction ends, so that the state as
 * last committed is the one that the message follows; its id is drawn after
 * that, lest ids and states come in different orders.
 */
#include "topic.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "common/pg_prng.h"
#include "key.h"
#include "lock.h"
#include "machine.h"
#include "miscadmin.h"
#include "replay.h"
#include "ring.h"
#include "row.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"

PG_FUNCTION_INFO_V1(idem_guard_topic);
PG_FUNCTION_INFO_V1(idem_unguard_topic);

#define EVICT_BATCH 10000		/* states a step */
#define EVICT_BLOCKS 1024		/* that it reads at least */

typedef struct GuardedTopic
{
	text	   *topic;
	char	   *machine;
} GuardedTopic;

/* all of them, as machine.c keeps the rules */
static struct
{
	uint64		version;
	MemoryContext context;
	int			count;
	GuardedTopic *topic;
}			guarded;

static void
load_guarded(void)
{
	uint64		version = idem_tables()->version;
	Relation	rel = table_open(idem_tables()->guarded_topics, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "idem guarded topics",
												  ALLOCSET_SMALL_SIZES);
	GuardedTopic *topic = MemoryContextAlloc(context, 16 * sizeof(GuardedTopic));
	int			room = 16;
	int			count = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext save = MemoryContextSwitchTo(context);

		if (count == room)
			topic = repalloc(topic, (room *= 2) * sizeof(GuardedTopic));
		slot_getallattrs(slot);
		topic[count].topic = DatumGetTextPCopy(slot->tts_values[GUARDED_TOPIC - 1]);
		topic[count].machine = TextDatumGetCString(slot->tts_values[GUARDED_MACHINE - 1]);
		count++;
		MemoryContextSwitchTo(save);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);

	if (guarded.context != NULL)
		MemoryContextDelete(guarded.context);
	MemoryContextSetParent(context, CacheMemoryContext);
	guarded.context = context;
	guarded.topic = topic;
	guarded.count = count;
	guarded.version = version;
}

/*
 * The machine that guards the topic, or NULL; holds until the next call.  The
 * caller has just locked a table, so what others have changed is known.
 */
const char *
topic_machine(Datum topic)
{
	while (unlikely(idem_tables()->version != guarded.version))
		load_guarded();
	for (int i = 0; i < guarded.count; i++)
		if (idem_text_equal(guarded.topic[i].topic, DatumGetTextPP(topic)))
			return guarded.topic[i].machine;
	return NULL;
}

static void
lock_state(Datum topic, Datum key)
{
	text	   *scope = DatumGetTextPP(topic);
	text	   *name = DatumGetTextPP(key);
	IdemKey		digest;
	LOCKTAG		tag;

	digest.scope = VARDATA_ANY(scope);
	digest.scope_len = VARSIZE_ANY_EXHDR(scope);
	digest.key = VARDATA_ANY(name);
	digest.key_len = VARSIZE_ANY_EXHDR(name);
	key_digest(&digest);
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) ((uint64) digest.digest >> 32),
						 (uint32) digest.digest, IDEM_LOCK_STATE);
	(void) idem_lock(&tag, ExclusiveLock, true);
}

/*
 * The key's row, as last committed or written by this transaction, or NULL, and
 * its columns.  *frozen as in KeyRow.
 */
static HeapTuple
find_state(Datum topic, Datum key, Datum *values, bool *nulls, XLogRecPtr *frozen)
{
	Relation	rel = table_open(idem_tables()->outbox_states.heap, AccessShareLock);
	Relation	index = index_open(idem_tables()->outbox_states.index, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = idem_index_beginscan(rel, index, SnapshotSelf, 2);
	HeapTuple	tuple = NULL;
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, topic);
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, key);
	index_rescan(scan, keys, 2, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		tuple = ExecCopySlotHeapTuple(slot);
		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		*frozen = HeapTupleHeaderXminFrozen(tuple->t_data) ?
			BufferGetLSNAtomic(((BufferHeapTupleTableSlot *) slot)->buffer) : InvalidXLogRecPtr;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return tuple;
}

/*
 * May a message of state->type follow, for this key?  False if the key is
 * there already: then *state tells by which message, and nothing is to be
 * published.  Locks the key.
 *
 * Terminal states are evicted in the end; then a snapshot that is older misses
 * them as everybody does.
 */
bool
topic_step(const char *machine, TopicState *state)
{
	char	   *from = NULL;
	char	   *to;
	XLogRecPtr	frozen = InvalidXLogRecPtr;
	Datum		values[STATE_COLUMNS];
	bool		nulls[STATE_COLUMNS];

	if (state->key == (Datum) 0 || state->type == (Datum) 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a message to guarded topic \"%s\" needs a key and a type",
						TextDatumGetCString(state->topic)),
				 errdetail("Machine \"%s\" guards it: the type is the state that the key is in now.", machine),
				 errhint("Pass both.")));
	machine = pstrdup(machine);
	to = TextDatumGetCString(state->type);
	idem_check_name(DatumGetTextPP(state->key), "key of a message to a guarded topic");
	lock_state(state->topic, state->key);

	state->before = find_state(state->topic, state->key, values, nulls, &frozen);
	if (state->before != NULL)
	{
		TransactionId writer = HeapTupleHeaderGetRawXmin(state->before->t_data);

		from = TextDatumGetCString(values[STATE_STATE - 1]);
		state->id = DatumGetInt64(values[STATE_ID - 1]);
		state->since = DatumGetTimestampTz(values[STATE_SINCE - 1]);

		if (IsolationUsesXactSnapshot() && XLogRecPtrIsInvalid(frozen) &&
			!TransactionIdIsCurrentTransactionId(writer) &&
			XidInMVCCSnapshot(writer, GetTransactionSnapshot()))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to a concurrent message for key \"%s\"",
							TextDatumGetCString(state->key)),
					 errdetail("Its state changed after this transaction's snapshot was taken."),
					 errhint("Retry the transaction.")));
		if (strcmp(from, to) == 0)
		{
			/* the answer must be as safe as a commit */
			replay_wait_durable(writer, frozen);
			return false;
		}
	}

	if (!machine_allows(machine, from, to))
		machine_refuse(machine, from, to, NULL,
					   from == NULL ?
					   psprintf("Topic \"%s\", key \"%s\", which has no message yet.",
								TextDatumGetCString(state->topic), TextDatumGetCString(state->key)) :
					   psprintf("Topic \"%s\", key \"%s\", in state \"%s\" since message %lld.",
								TextDatumGetCString(state->topic), TextDatumGetCString(state->key),
								from, (long long) state->id));
	return true;
}

/*
 * The key is there now, by the message state->id.
 */
void
topic_store(const TopicState *state)
{
	Relation	rel = table_open(idem_tables()->outbox_states.heap, RowExclusiveLock);
	Datum		values[STATE_COLUMNS];
	bool		nulls[STATE_COLUMNS] = {false};

	values[STATE_TOPIC - 1] = state->topic;
	values[STATE_KEY - 1] = state->key;
	values[STATE_STATE - 1] = state->type;
	values[STATE_ID - 1] = Int64GetDatum(state->id);
	values[STATE_SINCE - 1] = TimestampTzGetDatum(state->since);
	if (state->before == NULL)
		row_insert(rel, values, nulls);
	else
	{
		HeapTupleHeader header = state->before->t_data;
		ItemPointerData tid = state->before->t_self;

		/* one statement may take a key two steps */
		if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(header)) &&
			HeapTupleHeaderGetCmin(header) >= GetCurrentCommandId(false))
			CommandCounterIncrement();
		CatalogTupleUpdate(rel, &tid, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	}
	table_close(rel, NoLock);
}

/*
 * Lock out all who publish, and wait for those who have; and let the rings
 * stand.
 */
static void
lock_outbox(void)
{
	LockRelationOid(idem_tables()->guarded_topics, ShareRowExclusiveLock);
	ring_hold();
	for (int i = 0; i < RING_GENERATIONS; i++)
		LockRelationOid(idem_tables()->generation[STORE_OUTBOX][i].heap, ShareLock);
}

/*
 * Messages of the topic that are kept, ordered by key and id, without what
 * they carry.  *wrong counts those that have no place in a machine.
 */
static Tuplesortstate *
sort_messages(Datum topic, TupleDesc desc, int64 *wrong)
{
	AttrNumber	columns[] = {OUTBOX_KEY, OUTBOX_ID};
	Oid			operators[] = {TextLessOperator, Int8LessOperator};
	Oid			collations[] = {C_COLLATION_OID, InvalidOid};
	bool		nulls_first[] = {false, false};
	const RingState *ring = ring_now(STORE_OUTBOX);
	Tuplesortstate *sort = tuplesort_begin_heap(desc, 2, columns, operators, collations, nulls_first,
												work_mem, NULL, TUPLESORT_NONE);
	TupleTableSlot *part = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);

	for (int i = 0; i < RING_GENERATIONS; i++)
	{
		Relation	rel;
		TupleTableSlot *slot;
		TableScanDesc scan;

		if (!ring_is_living(ring, i))
			continue;
		rel = table_open(idem_tables()->generation[STORE_OUTBOX][i].heap, NoLock);
		slot = table_slot_create(rel, NULL);
		scan = table_beginscan(rel, SnapshotSelf, 0, NULL);
		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			CHECK_FOR_INTERRUPTS();
			slot_getallattrs(slot);
			if (!idem_text_equal(DatumGetTextPP(slot->tts_values[OUTBOX_TOPIC - 1]), DatumGetTextPP(topic)))
				continue;
			ExecClearTuple(part);
			memcpy(part->tts_values, slot->tts_values, desc->natts * sizeof(Datum));
			memcpy(part->tts_isnull, slot->tts_isnull, desc->natts * sizeof(bool));
			part->tts_isnull[OUTBOX_PAYLOAD - 1] = true;
			part->tts_isnull[OUTBOX_HEADERS - 1] = true;
			ExecStoreVirtualTuple(part);
			if (part->tts_isnull[OUTBOX_KEY - 1] || part->tts_isnull[OUTBOX_TYPE - 1] ||
				toast_raw_datum_size(part->tts_values[OUTBOX_KEY - 1]) - VARHDRSZ > IDEM_MAX_NAME_BYTES ||
				toast_raw_datum_size(part->tts_values[OUTBOX_KEY - 1]) == VARHDRSZ)
				(*wrong)++;
			else
				tuplesort_puttupleslot(sort, part);
		}
		table_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
		table_close(rel, NoLock);
	}
	ExecDropSingleTupleTableSlot(part);
	tuplesort_performsort(sort);
	return sort;
}

/*
 * Take over where each key of the topic is: by the last of its messages.
 */
static int64
take_states(text *topic, const char *machine)
{
	Relation	rel = table_open(idem_tables()->generation[STORE_OUTBOX][0].heap, NoLock);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "idem taken state",
												  ALLOCSET_DEFAULT_SIZES);
	int64		wrong = 0;
	Tuplesortstate *sort = sort_messages(PointerGetDatum(topic), RelationGetDescr(rel), &wrong);
	MemoryContext save = MemoryContextSwitchTo(context);
	TopicState	last = {0};
	bool		more;

	do
	{
		bool		isnull;

		more = tuplesort_gettupleslot(sort, true, false, slot, NULL);
		if (last.topic != (Datum) 0 &&
			(!more || !idem_text_equal(DatumGetTextPP(last.key),
									   DatumGetTextPP(slot_getattr(slot, OUTBOX_KEY, &isnull)))))
		{
			if (machine_has_state(machine, TextDatumGetCString(last.type)))
				topic_store(&last);
			else
				wrong++;
		}
		MemoryContextReset(context);
		if (more)
		{
			slot_getallattrs(slot);
			last.topic = PointerGetDatum(topic);
			last.key = PointerGetDatum(DatumGetTextPCopy(slot->tts_values[OUTBOX_KEY - 1]));
			last.type = PointerGetDatum(DatumGetTextPCopy(slot->tts_values[OUTBOX_TYPE - 1]));
			last.id = DatumGetInt64(slot->tts_values[OUTBOX_ID - 1]);
			last.since = DatumGetTimestampTz(slot->tts_values[OUTBOX_CREATED_AT - 1]);
		}
	} while (more);

	MemoryContextSwitchTo(save);
	MemoryContextDelete(context);
	ExecDropSingleTupleTableSlot(slot);
	tuplesort_end(sort);
	table_close(rel, NoLock);
	return wrong;
}

/*
 * Does this machine guard the topic?  The caller has just locked a table.
 */
static bool
is_guarded(text *topic, const char *machine)
{
	const char *existing = topic_machine(PointerGetDatum(topic));

	if (existing != NULL && strcmp(existing, machine) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("topic \"%s\" is already guarded", text_to_cstring(topic)),
				 errdetail("By machine \"%s\".", existing),
				 errhint("Call idem_unguard_topic() first.")));
	return existing != NULL;
}

/*
 * (topic, machine)
 *
 * A repeat changes nothing and holds up nobody: services guard their topics
 * whenever they start.
 */
Datum
idem_guard_topic(PG_FUNCTION_ARGS)
{
	text	   *topic = idem_name(fcinfo, 0, "topic");
	text	   *name = idem_name(fcinfo, 1, "machine");
	const char *machine = text_to_cstring(name);
	Datum		values[GUARDED_COLUMNS];
	bool		nulls[GUARDED_COLUMNS] = {false};
	Relation	rel;
	int64		wrong;

	idem_require_writable("idem_guard_topic()");
	machine_require(machine);
	LockRelationOid(idem_tables()->guarded_topics, AccessShareLock);
	if (is_guarded(topic, machine))
		PG_RETURN_VOID();
	lock_outbox();
	if (is_guarded(topic, machine))
		PG_RETURN_VOID();

	wrong = take_states(topic, machine);
	if (wrong > 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("topic \"%s\" has messages that are of no state of machine \"%s\"",
						text_to_cstring(topic), machine),
				 errdetail("%lld of those that are kept: without a key, without a type, or the last of its key and of an unknown type.",
						   (long long) wrong),
				 errhint("Add the states to idem_transitions, use another topic, or wait until idem.outbox_retention is over and they are gone.")));

	rel = table_open(idem_tables()->guarded_topics, RowExclusiveLock);
	values[GUARDED_TOPIC - 1] = PointerGetDatum(topic);
	values[GUARDED_MACHINE - 1] = PointerGetDatum(name);
	row_insert(rel, values, nulls);
	CacheInvalidateRelcache(rel);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/*
 * Delete the rows whose first column is the topic; how many there were.
 */
static int
delete_of_topic(Oid relid, text *topic)
{
	Relation	rel = table_open(relid, RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL);
	int			deleted = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		ItemPointerData tid = slot->tts_tid;

		CHECK_FOR_INTERRUPTS();
		if (!idem_text_equal(DatumGetTextPP(slot_getattr(slot, 1, &isnull)), topic))
			continue;
		simple_table_tuple_delete(rel, &tid, SnapshotSelf);
		deleted++;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	if (deleted > 0)
		CacheInvalidateRelcache(rel);
	table_close(rel, NoLock);
	return deleted;
}

/*
 * (topic)
 */
Datum
idem_unguard_topic(PG_FUNCTION_ARGS)
{
	text	   *topic = idem_name(fcinfo, 0, "topic");

	idem_require_writable("idem_unguard_topic()");
	lock_outbox();
	if (delete_of_topic(idem_tables()->guarded_topics, topic) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" is not guarded", text_to_cstring(topic)),
				 errdetail("No machine guards it."),
				 errhint("The table idem_guarded_topics lists those that are.")));
	(void) delete_of_topic(idem_tables()->outbox_states.heap, topic);
	PG_RETURN_VOID();
}

/*
 * How many keys, of all topics that the machine guards, are in this state?
 * Tells where.
 */
int64
topic_count(const char *machine, const char *state, StringInfo where)
{
	Relation	rel = table_open(idem_tables()->outbox_states.heap, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	text	   *wanted = cstring_to_text(state);
	int64		count = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		const char *guard;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		if (!idem_text_equal(DatumGetTextPP(slot->tts_values[STATE_STATE - 1]), wanted))
			continue;
		guard = topic_machine(slot->tts_values[STATE_TOPIC - 1]);
		if (guard != NULL && strcmp(guard, machine) == 0)
			count++;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	if (count > 0)
		appendStringInfo(where, "%sGuarded topics: %lld in state \"%s\".",
						 where->len > 0 ? " " : "", (long long) count, state);
	return count;
}

/*
 * Forget keys that have long been in a final state; true if there may be more.
 *
 * An index by time would cost every message; instead a part of the table is
 * read, another one each time, and all of it while it is small.  Nobody writes
 * to a key in a final state, so its lock is not needed; should its machine be
 * given another state at this very moment, who is busy with the row keeps it.
 */
bool
topic_evict(void)
{
	Relation	rel = table_open(idem_tables()->outbox_states.heap, RowExclusiveLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);
	TimestampTz before = GetCurrentTimestamp() - idem_outbox_retention * USECS_PER_SEC;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan_strat(rel, SnapshotSelf, 0, NULL, true, false);
	int			evicted = 0;

	if (blocks > EVICT_BLOCKS)
		heap_setscanlimits(scan, pg_prng_uint64_range(&pg_global_prng_state, 0, blocks - 1),
						   Max(EVICT_BLOCKS, blocks / 16));
	while (evicted < EVICT_BATCH && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		ItemPointerData tid = slot->tts_tid;
		TM_FailureData failure;
		const char *machine;
		char	   *state;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		if (DatumGetTimestampTz(slot->tts_values[STATE_SINCE - 1]) >= before)
			continue;
		machine = topic_machine(slot->tts_values[STATE_TOPIC - 1]);
		state = TextDatumGetCString(slot->tts_values[STATE_STATE - 1]);
		if (machine != NULL && machine_has_state(machine, state) && machine_is_final(machine, state) &&
			table_tuple_delete(rel, &tid, GetCurrentCommandId(true), SnapshotSelf, InvalidSnapshot,
							   false, &failure, false) == TM_Ok)
			evicted++;
		pfree(state);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return evicted == EVICT_BATCH;
}
