/*
 * consumer.c
 *	  Subscribe, unsubscribe, seek; and how far each consumer is.
 */
#include "consumer.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "attempt.h"
#include "batch.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "external.h"
#include "funcapi.h"
#include "lane.h"
#include "miscadmin.h"
#include "outbox.h"
#include "parked.h"
#include "position.h"
#include "ring.h"
#include "storage/lmgr.h"
#include "subscription.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"
#include "window.h"

PG_FUNCTION_INFO_V1(idem_subscribe);
PG_FUNCTION_INFO_V1(idem_unsubscribe);
PG_FUNCTION_INFO_V1(idem_seek);
PG_FUNCTION_INFO_V1(idem_pending);
PG_FUNCTION_INFO_V1(idem_is_past);

/* that a source's name has room for */
#define MAX_EXTERNAL_BYTES (IDEM_MAX_NAME_BYTES - INCARNATION_MAX_BYTES - MAXINT8LEN - 2)

static void
check_topics(ArrayType *topics)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(topics, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	if (ARR_NDIM(topics) != 1 || count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topics must be a list of at least one topic"),
				 errdetail("The array has %d dimensions and %d elements.", ARR_NDIM(topics), count),
				 errhint("Pass NULL for all topics.")));
	for (int i = 0; i < count; i++)
		idem_check_name(nulls[i] ? NULL : DatumGetTextPP(elements[i]), "topic");
}

/*
 * The place of a lane is another one: nothing is fixed, and numbers begin anew.
 */
static void
begin_numbering(Position *position)
{
	position->in_window = false;
	position->redriven_id = 0;
	position->window_lanes = 0;
	position->seq = 0;
	position->numbering++;
	position->incarnation = incarnation_now();
}

/*
 * A position for a lane that is new.  There may be the end of an earlier
 * consumer of that name.
 */
static void
begin_lane(const Subscription *subscription, int lane, Position *position)
{
	Position	earlier;
	Latest		row;

	position->n = 1;
	position->is_numbered = subscription->external;
	position->seq = 0;
	if (position_find(subscription->consumer, lane, &earlier, &row))
	{
		position->n = earlier.n + 1;
		if (earlier.is_numbered)
		{
			position->is_numbered = true;
			position->numbering = Max(position->numbering, earlier.numbering + 1);
		}
	}
	position_append(subscription->consumer, lane, position);
}

/*
 * A lane that is added is where its parent is; or, if that is fixed, where it
 * will be then.
 */
static void
add_lanes(Subscription *subscription, int lanes)
{
	int			lane = subscription->lanes;

	subscription_set_lanes(subscription, lanes);
	for (; lane < lanes; lane++)
	{
		Position	position;
		Latest		row;

		if (!position_find(subscription->consumer, lane_parent(lane), &position, &row) ||
			position.ended)
			subscription_is_unknown(subscription->consumer);
		if (subscription->external)
		{
			if (position.in_window)
				position.low = position.high;
			position.in_window = false;
			position.redriven_id = 0;
		}
		begin_lane(subscription, lane, &position);
	}
}

static bool
same_topics(const Subscription *a, const Subscription *b)
{
	return a->all_topics == b->all_topics &&
		(a->all_topics ||
		 DatumGetBool(OidFunctionCall2Coll(F_ARRAY_EQ, C_COLLATION_OID, a->topics, b->topics)));
}

/*
 * (consumer, topics, lanes, start, external)
 *
 * A repeat changes nothing, but that it can add lanes: services subscribe
 * whenever they start.
 */
Datum
idem_subscribe(PG_FUNCTION_ARGS)
{
	Subscription subscription = {0};
	Subscription existing;
	Position	position = {0};
	char	   *start;

	subscription.consumer = idem_name(fcinfo, 0, "consumer");
	subscription.all_topics = PG_ARGISNULL(1);
	if (!subscription.all_topics)
	{
		subscription.topics = PointerGetDatum(PG_GETARG_ARRAYTYPE_P(1));
		check_topics(PG_GETARG_ARRAYTYPE_P(1));
	}
	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1 || PG_GETARG_INT32(2) > MAX_LANES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 PG_ARGISNULL(2) ? errmsg("lanes must not be NULL") :
				 errmsg("lanes is out of range: %d", PG_GETARG_INT32(2)),
				 errdetail("A consumer has 1 to %d lanes.", MAX_LANES),
				 errhint("Leave the argument out for one.")));
	subscription.lanes = PG_GETARG_INT32(2);
	start = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (start == NULL || (strcmp(start, "now") != 0 && strcmp(start, "earliest") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 start == NULL ? errmsg("start must not be NULL") :
				 errmsg("unknown start \"%s\"", start),
				 errdetail("A consumer starts \"now\" or with the \"earliest\" message that is kept."),
				 errhint("Leave the argument out for \"now\"; idem_seek() goes to any time.")));
	if (PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("external must not be NULL"),
				 errdetail("It says if the consumer's work is outside this database."),
				 errhint("Leave the argument out for false.")));
	subscription.external = PG_GETARG_BOOL(4);
	if (subscription.external &&
		VARSIZE_ANY_EXHDR(subscription.consumer) > MAX_EXTERNAL_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_INVALID_NAME),
				 errmsg("consumer is too long"),
				 errdetail("It has %d bytes, and is part of the source's name as delivered.",
						   (int) VARSIZE_ANY_EXHDR(subscription.consumer)),
				 errhint("Pass text of 1 to %d bytes for an external consumer.",
						 MAX_EXTERNAL_BYTES)));
	idem_require_writable("idem_subscribe()");

	/* lanes before the table, as all who lock both */
	if (subscription_find(subscription.consumer, &existing) &&
		existing.lanes < subscription.lanes)
	{
		batch_require_none(subscription.consumer);
		subscription_lock_all(subscription.consumer, &existing);
	}

	/* one at a time; and no generation goes that it counts on */
	LockRelationOid(idem_tables()->subscriptions.heap, ShareRowExclusiveLock);
	ring_hold();

	if (subscription_find(subscription.consumer, &existing))
	{
		if (!same_topics(&existing, &subscription) || existing.external != subscription.external)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 existing.external != subscription.external ?
					 errmsg("consumer \"%s\" already exists, and is %s",
							text_to_cstring(subscription.consumer),
							existing.external ? "external" : "not external") :
					 errmsg("consumer \"%s\" already exists, with other topics",
							text_to_cstring(subscription.consumer)),
					 errdetail("A repeated idem_subscribe() changes nothing but the number of lanes."),
					 errhint("Use another name, or idem_unsubscribe() first.")));
		if (existing.lanes < subscription.lanes)
		{
			subscription_lock_all(subscription.consumer, &existing);
			add_lanes(&existing, subscription.lanes);
		}
		PG_RETURN_VOID();
	}

	if (strcmp(start, "earliest") == 0)
	{
		subscription.since = DT_NOBEGIN;
		mark_at(&position.low, 0);
	}
	else
	{
		subscription.since = GetCurrentTimestamp();
		mark_take(&position.low, GetLatestSnapshot());
	}
	subscription_insert(&subscription);
	begin_numbering(&position);
	for (int lane = 0; lane < subscription.lanes; lane++)
		begin_lane(&subscription, lane, &position);
	PG_RETURN_VOID();
}

/*
 * The subscription with all lanes locked until the transaction ends.
 */
static void
lock_consumer(FunctionCallInfo fcinfo, Subscription *subscription)
{
	text	   *consumer = idem_name(fcinfo, 0, "consumer");

	batch_require_none(consumer);
	subscription_lock_all(consumer, subscription);
}

static void
find_position(const Subscription *subscription, int lane, Position *position)
{
	Latest		row;

	if (!position_find(subscription->consumer, lane, position, &row) || position->ended)
		subscription_is_unknown(subscription->consumer);
}

/*
 * (consumer)
 *
 * Dead letters are kept for who wants to know of them.
 */
Datum
idem_unsubscribe(PG_FUNCTION_ARGS)
{
	Subscription subscription;

	idem_require_writable("idem_unsubscribe()");
	lock_consumer(fcinfo, &subscription);
	subscription_delete(&subscription);
	for (int lane = 0; lane < subscription.lanes; lane++)
	{
		Position	position;

		find_position(&subscription, lane, &position);
		position.n++;
		position.ended = true;
		position.in_window = false;
		position_append(subscription.consumer, lane, &position);
		attempts_forget_all(subscription.consumer, lane);
	}
	parked_forget(subscription.consumer, -1);
	PG_RETURN_VOID();
}

/*
 * (consumer, since)
 *
 * Times are not quite in the order of ids, so this starts at the first of the
 * messages that are not older: whatever is newer comes after it.  What is not
 * committed yet comes in any case, and so does what is parked.
 */
Datum
idem_seek(PG_FUNCTION_ARGS)
{
	Subscription subscription;
	TimestampTz since;
	TimestampTz oldest = DT_NOEND;
	int64		floor;
	Mark		nothing;
	Mark		now;
	Window	   *window;
	TupleTableSlot *message;
	RingState	ring;

	(void) idem_name(fcinfo, 0, "consumer");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("since must not be NULL"),
				 errdetail("It is the time of the first message to be delivered."),
				 errhint("Pass a timestamptz.")));
	since = PG_GETARG_TIMESTAMPTZ(1);
	idem_require_writable("idem_seek()");
	lock_consumer(fcinfo, &subscription);
	ring_hold();

	mark_at(&nothing, 0);
	mark_take(&now, GetLatestSnapshot());
	floor = now.floor;
	window = window_open(&nothing, &now, 0, ALL_SLOTS, ALL_GENERATIONS);
	while ((message = window_next(window)) != NULL)
	{
		bool		isnull;
		TimestampTz created_at = DatumGetTimestampTz(slot_getattr(message, OUTBOX_CREATED_AT, &isnull));

		oldest = Min(oldest, created_at);
		if (created_at >= since)
		{
			floor = DatumGetInt64(slot_getattr(message, OUTBOX_ID, &isnull)) - 1;
			break;
		}
	}
	window_close(window);

	ring_read(STORE_OUTBOX, &ring);
	if (TIMESTAMP_IS_NOEND(oldest))
		oldest = ring.opened_at;
	if (since < oldest && U64FromFullTransactionId(ring.emptied) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot seek to %s: older messages are no longer kept",
						timestamptz_to_str(since)),
				 errdetail("What is kept begins at %s.", pstrdup(timestamptz_to_str(oldest))),
				 errhint("Seek to that time or a later one. idem.outbox_retention says how long messages are kept.")));

	if (since < subscription.since)
		subscription_set_since(&subscription, since);
	for (int lane = 0; lane < subscription.lanes; lane++)
	{
		Position	position;

		find_position(&subscription, lane, &position);
		position.n++;
		position.low = now;
		position.low.floor = floor;
		begin_numbering(&position);
		position_append(subscription.consumer, lane, &position);
		attempts_forget_all(subscription.consumer, lane);
	}

	/* what comes again anyhow */
	parked_forget(subscription.consumer, subscription.external ? -1 : floor);
	PG_RETURN_VOID();
}

/*
 * Count what the consumer has yet to get from the window, and find the oldest,
 * until there are as many as wanted.
 */
static void
count_pending(const Subscription *subscription, const Mark *low, const Mark *high,
			  int64 after, Slots slots, int generation, int64 wanted, int64 *count,
			  TimestampTz *oldest)
{
	Window	   *window = window_open(low, high, after, slots, generation);
	TupleTableSlot *message;

	while (*count < wanted && (message = window_next(window)) != NULL)
	{
		bool		isnull;
		TimestampTz created_at;

		if (!subscription_wants(subscription, message))
			continue;
		created_at = DatumGetTimestampTz(slot_getattr(message, OUTBOX_CREATED_AT, &isnull));
		*oldest = Min(*oldest, created_at);
		++*count;
	}
	window_close(window);
}

/*
 * In a lane.
 */
static int64
pending(const Subscription *subscription, int lane, int generation, int64 wanted,
		TimestampTz *oldest)
{
	Slots		slots = lane_slots(lane, subscription->lanes);
	Position	position;
	Latest		row;
	Mark		now;
	int64		count = 0;

	*oldest = DT_NOEND;
	if (!position_find(subscription->consumer, lane, &position, &row) || position.ended)
		return wanted;			/* nothing is known of it */
	mark_take(&now, GetLatestSnapshot());
	if (position.in_window)
		count_pending(subscription, &position.low, &position.high, position.last_id,
					  subscription->external ? external_window_slots(&position, lane) : slots,
					  generation, wanted, &count, oldest);
	count_pending(subscription, position.in_window ? &position.high : &position.low, &now, 0,
				  slots, generation, wanted, &count, oldest);
	return count;
}

/*
 * Has every consumer had all that it wants of this generation?  Nobody writes
 * to it any more.
 */
bool
consumers_are_past(Store store, int generation)
{
	ListCell   *cell;

	Assert(store == STORE_OUTBOX);
	(void) store;
	foreach(cell, subscription_list())
	{
		const Subscription *subscription = lfirst(cell);

		for (int lane = 0; lane < subscription->lanes; lane++)
		{
			TimestampTz oldest;

			if (pending(subscription, lane, generation, 1, &oldest) > 0)
				return false;
		}
	}
	return true;
}

/*
 * (consumer) -> lane, depth, oldest, parked, dead: a row a lane, for
 * idem_consumers
 */
Datum
idem_pending(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Subscription subscription;

	idem_require_primary("idem_pending()");
	InitMaterializedSRF(fcinfo, 0);
	if (!subscription_find(idem_name(fcinfo, 0, "consumer"), &subscription))
		return (Datum) 0;
	for (int lane = 0; lane < subscription.lanes; lane++)
	{
		ParkedScan *scan = parked_open(subscription.consumer, lane_slots(lane, subscription.lanes));
		Parked		row;
		int64		count = 0;
		int64		dead = 0;
		Datum		values[5];
		bool		nulls[5] = {false};
		TimestampTz oldest;

		while (parked_next(scan, &row))
		{
			if (parked_is(&row, PARKED_DEAD))
				dead++;
			else
				count++;
			heap_freetuple(row.tuple);
		}
		parked_close(scan);
		values[0] = Int64GetDatum(lane);
		values[1] = Int64GetDatum(pending(&subscription, lane, ALL_GENERATIONS, PG_INT64_MAX, &oldest));
		values[2] = TimestampTzGetDatum(oldest);
		nulls[2] = TIMESTAMP_IS_NOEND(oldest);
		values[3] = Int64GetDatum(count);
		values[4] = Int64GetDatum(dead);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * (consumer, era, xid, slot, id): is it past this message?  Its lane, and one
 * that the message was in as the window was fixed.
 */
Datum
idem_is_past(PG_FUNCTION_ARGS)
{
	const text *consumer = PG_GETARG_TEXT_PP(0);
	int64		era = PG_GETARG_INT64(1);
	FullTransactionId xid = PG_GETARG_FULLTRANSACTIONID(2);
	int32		slot = PG_GETARG_INT32(3);
	int64		id = PG_GETARG_INT64(4);
	Subscription subscription;
	int			lane;

	if (!subscription_find(consumer, &subscription))
		PG_RETURN_BOOL(false);
	for (lane = lane_of(slot, subscription.lanes);; lane = lane_parent(lane))
	{
		Position	position;
		Latest		row;

		if (!position_find(consumer, lane, &position, &row) || position.ended)
			PG_RETURN_BOOL(false);
		if ((lane == lane_of(slot, subscription.lanes) ||
			 (subscription.external && position.in_window &&
			  lane == lane_of(slot, position.window_lanes) &&
			  mark_sees(&position.high, era, xid, id))) &&
			!position_is_past(&position, era, xid, id))
			PG_RETURN_BOOL(false);
		if (lane == 0)
			PG_RETURN_BOOL(true);
	}
}
