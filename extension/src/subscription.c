/*
 * subscription.c
 *	  Which consumers there are, and what they want.
 *
 * Subscriptions are read as last committed.  A lane is locked while a
 * transaction has a batch of it, or changes its subscription.
 */
#include "subscription.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "lock.h"
#include "miscadmin.h"
#include "row.h"
#include "storage/lmgr.h"
#include "tables.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

static void
read_subscription(Relation rel, TupleTableSlot *slot, Subscription *subscription)
{
	Datum		values[SUBSCRIPTION_COLUMNS];
	bool		nulls[SUBSCRIPTION_COLUMNS];

	subscription->tuple = ExecCopySlotHeapTuple(slot);
	heap_deform_tuple(subscription->tuple, RelationGetDescr(rel), values, nulls);
	subscription->consumer = DatumGetTextPP(values[SUBSCRIPTION_CONSUMER - 1]);
	subscription->id = DatumGetInt32(values[SUBSCRIPTION_ID - 1]);
	subscription->all_topics = nulls[SUBSCRIPTION_TOPICS - 1];
	subscription->topics = values[SUBSCRIPTION_TOPICS - 1];
	subscription->ntopics = 0;
	if (!subscription->all_topics)
		deconstruct_array(DatumGetArrayTypeP(subscription->topics), TEXTOID, -1, false,
						  TYPALIGN_INT, &subscription->topic, NULL, &subscription->ntopics);
	subscription->lanes = DatumGetInt32(values[SUBSCRIPTION_LANES - 1]);
	subscription->external = DatumGetBool(values[SUBSCRIPTION_EXTERNAL - 1]);
	subscription->since = DatumGetTimestampTz(values[SUBSCRIPTION_SINCE - 1]);
}

bool
subscription_find(const text *consumer, Subscription *subscription)
{
	Relation	rel = table_open(idem_tables()->subscriptions.heap, AccessShareLock);
	Relation	index = index_open(idem_tables()->subscriptions.index, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = idem_index_beginscan(rel, index, SnapshotSelf, 1);
	ScanKeyData key;
	bool		found;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(consumer));
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	if (found)
		read_subscription(rel, slot, subscription);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return found;
}

void
subscription_is_unknown(const text *consumer)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("consumer \"%s\" does not exist", text_to_cstring(consumer)),
			 errdetail("It has not subscribed, or has unsubscribed."),
			 errhint("Call idem_subscribe() once, before the first fetch. The view idem_consumers lists those there are.")));
}

void
subscription_require(const text *consumer, Subscription *subscription)
{
	if (!subscription_find(consumer, subscription))
		subscription_is_unknown(consumer);
}

/*
 * All of them, as Subscription pointers.
 */
List *
subscription_list(void)
{
	Relation	rel = table_open(idem_tables()->subscriptions.heap, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL);
	List	   *list = NIL;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		Subscription *subscription = palloc(sizeof(Subscription));

		read_subscription(rel, slot, subscription);
		list = lappend(list, subscription);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return list;
}

/*
 * Sets its id.  The caller has the table locked against other inserts.
 */
void
subscription_insert(Subscription *subscription)
{
	Relation	rel = table_open(idem_tables()->subscriptions.heap, RowExclusiveLock);
	Datum		values[SUBSCRIPTION_COLUMNS];
	bool		nulls[SUBSCRIPTION_COLUMNS] = {false};
	ListCell   *cell;

	subscription->id = 1;
	foreach(cell, subscription_list())
	{
		Subscription *other = lfirst(cell);

		subscription->id = Max(subscription->id, other->id + 1);
	}
	values[SUBSCRIPTION_CONSUMER - 1] = PointerGetDatum(subscription->consumer);
	values[SUBSCRIPTION_ID - 1] = Int32GetDatum(subscription->id);
	values[SUBSCRIPTION_TOPICS - 1] = subscription->topics;
	nulls[SUBSCRIPTION_TOPICS - 1] = subscription->all_topics;
	values[SUBSCRIPTION_LANES - 1] = Int32GetDatum(subscription->lanes);
	values[SUBSCRIPTION_EXTERNAL - 1] = BoolGetDatum(subscription->external);
	values[SUBSCRIPTION_SINCE - 1] = TimestampTzGetDatum(subscription->since);
	row_insert(rel, values, nulls);
	table_close(rel, NoLock);
}

static void
update(const Subscription *subscription, int column, Datum value)
{
	Relation	rel = table_open(idem_tables()->subscriptions.heap, RowExclusiveLock);
	bool		null = false;
	ItemPointerData tid = subscription->tuple->t_self;

	CommandCounterIncrement();	/* it may be of this very command */
	CatalogTupleUpdate(rel, &tid,
					   heap_modify_tuple_by_cols(subscription->tuple, RelationGetDescr(rel),
												 1, &column, &value, &null));
	table_close(rel, NoLock);
}

void
subscription_set_since(const Subscription *subscription, TimestampTz since)
{
	update(subscription, SUBSCRIPTION_SINCE, TimestampTzGetDatum(since));
}

void
subscription_set_lanes(Subscription *subscription, int lanes)
{
	update(subscription, SUBSCRIPTION_LANES, Int32GetDatum(lanes));
	subscription->lanes = lanes;
}

void
subscription_delete(const Subscription *subscription)
{
	Relation	rel = table_open(idem_tables()->subscriptions.heap, RowExclusiveLock);
	ItemPointerData tid = subscription->tuple->t_self;

	CommandCounterIncrement();
	simple_table_tuple_delete(rel, &tid, SnapshotSelf);
	table_close(rel, NoLock);
}

/*
 * Is the message of a topic that it wants?
 */
bool
subscription_wants(const Subscription *subscription, TupleTableSlot *message)
{
	bool		isnull;
	text	   *topic;

	if (subscription->all_topics)
		return true;
	topic = DatumGetTextPP(slot_getattr(message, OUTBOX_TOPIC, &isnull));
	for (int i = 0; i < subscription->ntopics; i++)
	{
		if (idem_text_equal(DatumGetTextPP(subscription->topic[i]), topic))
			return true;
	}
	return false;
}

static void
lane_locktag(const Subscription *subscription, int lane, LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) subscription->id, (uint32) lane,
						 IDEM_LOCK_LANE);
}

/*
 * Lock a lane of the consumer until the transaction ends, and read again what
 * it subscribes to, which holds from then on: it may have been replaced.
 * False if somebody else has the lane, or it is no more.
 */
bool
subscription_lock(Subscription *subscription, int lane, bool wait)
{
	for (;;)
	{
		LOCKTAG		tag;
		int32		id = subscription->id;

		lane_locktag(subscription, lane, &tag);
		if (!idem_lock(&tag, ExclusiveLock, wait))
			return false;

		subscription_require(subscription->consumer, subscription);
		if (subscription->id == id && lane < subscription->lanes)
			return true;
		idem_unlock(&tag, ExclusiveLock);
		if (lane >= subscription->lanes)
			return false;
	}
}

/*
 * Lock all lanes, the first one first: who has it can count on the others.
 */
void
subscription_lock_all(const text *consumer, Subscription *subscription)
{
	subscription_require(consumer, subscription);
	for (int lane = 0; lane < subscription->lanes; lane++)
		(void) subscription_lock(subscription, lane, true);
}

void
subscription_unlock(const Subscription *subscription, int lane)
{
	LOCKTAG		tag;

	lane_locktag(subscription, lane, &tag);
	idem_unlock(&tag, ExclusiveLock);
}
