/*
 * subscriber.c
 *	  A database in which a subscription writes idem's tables.
 *
 * A publication FOR ALL TABLES takes idem's along: keys, messages, positions,
 * and the row that tells where the ring is.  Once all of it has come, this
 * database goes on where the publisher was, as after a restore (mark.c tells
 * why positions of another cluster hold).
 *
 * Until the subscription is dropped it alone may write them.  A ring that was
 * turned here too would no longer be the one that the publisher's keys came
 * for, and a key that is not looked for is a request that runs twice.  So all
 * verbs are refused, as on a standby, and there is no upkeep.
 *
 * What rows do not carry is done by triggers that fire for replicated ones:
 * the ring that CREATE EXTENSION began here goes, and the sequences, which are
 * not replicated, follow.
 */
#include "subscriber.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_subscription_rel.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "lease.h"
#include "sequence.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(idem_replicated);

/*
 * A subscription that writes the table, or InvalidOid.
 */
Oid
subscriber_find(Oid table)
{
	CatCList   *list = SearchSysCacheList1(SUBSCRIPTIONRELMAP, ObjectIdGetDatum(table));
	Oid			subscription = InvalidOid;

	if (list->n_members > 0)
		subscription = ((Form_pg_subscription_rel) GETSTRUCT(&list->members[0]->tuple))->srsubid;
	ReleaseSysCacheList(list);
	return subscription;
}

void
subscriber_refuse(const char *function)
{
	Oid			subscription = idem_tables()->subscription;

	if (likely(!OidIsValid(subscription)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("cannot execute %s while a subscription writes idem's tables", function),
			 errdetail("Subscription \"%s\" replicates them into this database.",
					   get_subscription_name(subscription, true)),
			 errhint("Connect to the publisher. To go on here instead, stop it, let the subscription catch up, and drop the subscription.")));
}

/*
 * The publisher's ring is being copied: that of the store which is here goes.
 * Rows of the same copy are not visible yet; of those the later step counts.
 */
static void
replace_ring(Relation rel, HeapTuple row)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		isnull;
	text	   *store = DatumGetTextPP(heap_getattr(row, RING_STORE, RelationGetDescr(rel), &isnull));

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		if (idem_text_equal(store, DatumGetTextPP(slot_getattr(slot, RING_STORE, &isnull))))
			simple_heap_delete(rel, &slot->tts_tid);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
}

static bool
is_being_copied(Oid table)
{
	Oid			subscription = subscriber_find(table);
	XLogRecPtr	at;

	return OidIsValid(subscription) &&
		GetSubscriptionRelState(subscription, table, &at) == SUBREL_STATE_DATASYNC;
}

static int64
number(Relation rel, HeapTuple row, int column)
{
	bool		isnull;
	Datum		value = heap_getattr(row, column, RelationGetDescr(rel), &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/*
 * BEFORE ROW trigger for what replication brings.
 */
Datum
idem_replicated(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const Tables *tables;
	Relation	rel;
	HeapTuple	row;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("idem_replicated() must be called as a BEFORE INSERT OR UPDATE trigger, for each row")));
	tables = idem_tables();
	rel = trigger->tg_relation;
	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;

	if (RelationGetRelid(rel) == tables->ring)
	{
		if (is_being_copied(tables->ring))
			replace_ring(rel, row);
	}
	else if (RelationGetRelid(rel) == tables->pinned.heap)
		sequence_reach(tables->tokens, number(rel, row, PINNED_TOKEN) & ((INT64CONST(1) << TOKEN_SEQUENCE_BITS) - 1));
	else
	{
		for (int i = 0; i < RING_GENERATIONS; i++)
		{
			if (RelationGetRelid(rel) == tables->generation[STORE_OUTBOX][i].heap)
				sequence_reach(tables->outbox_ids, number(rel, row, OUTBOX_ID));
			else if (RelationGetRelid(rel) == tables->generation[STORE_POSITIONS][i].heap)
				/* a floor, see mark.c */
				sequence_reach(tables->outbox_ids, Max(number(rel, row, POSITION_LOW + 1), number(rel, row, POSITION_HIGH + 1)));
		}
	}
	return PointerGetDatum(row);
}
