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
#include "batch.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "outbox.h"
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

static void
refuse_feature(const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("argument \"%s\" of idem_subscribe() is not supported by idem %s",
					argument, IDEM_VERSION),
			 errdetail("A consumer has one lane and works in this database."),
			 errhint("Leave the argument out.")));
}

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
 * (consumer, topics, lanes, start, external)
 *
 * A repeat changes nothing: services subscribe whenever they start.
 */
Datum
idem_subscribe(PG_FUNCTION_ARGS)
{
	Subscription subscription = {0};
	Subscription existing;
	Position	position = {0};
	Position	earlier;
	Latest		row;
	char	   *start;

	subscription.consumer = idem_name(fcinfo, 0, "consumer");
	subscription.all_topics = PG_ARGISNULL(1);
	if (!subscription.all_topics)
	{
		subscription.topics = PointerGetDatum(PG_GETARG_ARRAYTYPE_P(1));
		check_topics(PG_GETARG_ARRAYTYPE_P(1));
	}
	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 PG_ARGISNULL(2) ? errmsg("lanes must not be NULL") :
				 errmsg("lanes is out of range: %d", PG_GETARG_INT32(2)),
				 errdetail("A consumer has at least one lane."),
				 errhint("Leave the argument out for one.")));
	if (PG_GETARG_INT32(2) > 1)
		refuse_feature("lanes");
	subscription.lanes = 1;
	start = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (start == NULL || (strcmp(start, "now") != 0 && strcmp(start, "earliest") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 start == NULL ? errmsg("start must not be NULL") :
				 errmsg("unknown start \"%s\"", start),
				 errdetail("A consumer starts \"now\" or with the \"earliest\" message that is kept."),
				 errhint("Leave the argument out for \"now\"; idem_seek() goes to any time.")));
	if (PG_ARGISNULL(4) || PG_GETARG_BOOL(4))
		refuse_feature("external");
	idem_require_writable("idem_subscribe()");

	/* one at a time; and no generation goes that it counts on */
	LockRelationOid(idem_tables()->subscriptions.heap, ShareRowExclusiveLock);
	ring_hold();

	if (subscription_find(subscription.consumer, &existing))
	{
		if (existing.all_topics == subscription.all_topics &&
			(existing.all_topics ||
			 DatumGetBool(OidFunctionCall2Coll(F_ARRAY_EQ, C_COLLATION_OID,
											   existing.topics, subscription.topics))))
			PG_RETURN_VOID();
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("consumer \"%s\" already exists, with other topics",
						text_to_cstring(subscription.consumer)),
				 errdetail("A repeated idem_subscribe() changes nothing."),
				 errhint("Use another name, or idem_unsubscribe() first.")));
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

	/* there may be the end of an earlier consumer of that name */
	position.n = position_find(subscription.consumer, SUBSCRIPTION_LANE, &earlier, &row) ?
		earlier.n + 1 : 1;
	position_append(subscription.consumer, SUBSCRIPTION_LANE, &position);
	PG_RETURN_VOID();
}

/*
 * The subscription, and its position, locked until the transaction ends.
 */
static void
lock_consumer(FunctionCallInfo fcinfo, Subscription *subscription, Position *position)
{
	text	   *consumer = idem_name(fcinfo, 0, "consumer");
	Latest		row;

	batch_require_none(consumer);
	(void) subscription_lock(consumer, subscription, true);
	if (!position_find(consumer, SUBSCRIPTION_LANE, position, &row) || position->ended)
		subscription_is_unknown(consumer);
}

/*
 * (consumer)
 */
Datum
idem_unsubscribe(PG_FUNCTION_ARGS)
{
	Subscription subscription;
	Position	position;

	idem_require_writable("idem_unsubscribe()");
	lock_consumer(fcinfo, &subscription, &position);
	subscription_delete(&subscription);
	position.n++;
	position.ended = true;
	position.in_window = false;
	position_append(subscription.consumer, SUBSCRIPTION_LANE, &position);
	PG_RETURN_VOID();
}

/*
 * (consumer, since)
 *
 * Times are not quite in the order of ids, so this starts at the first of the
 * messages that are not older: whatever is newer comes after it.  What is not
 * committed yet comes in any case.
 */
Datum
idem_seek(PG_FUNCTION_ARGS)
{
	Subscription subscription;
	Position	position;
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
	lock_consumer(fcinfo, &subscription, &position);
	ring_hold();

	mark_at(&nothing, 0);
	mark_take(&now, GetLatestSnapshot());
	floor = now.floor;
	window = window_open(&nothing, &now, 0, ALL_GENERATIONS);
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
	position.n++;
	position.low = now;
	position.low.floor = floor;
	position.in_window = false;
	position_append(subscription.consumer, SUBSCRIPTION_LANE, &position);
	PG_RETURN_VOID();
}

/*
 * Count what the consumer has yet to get from the window, and find the oldest,
 * until there are as many as wanted.
 */
static void
count_pending(const Subscription *subscription, const Mark *low, const Mark *high,
			  int64 after, int generation, int64 wanted, int64 *count, TimestampTz *oldest)
{
	Window	   *window = window_open(low, high, after, generation);
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

static int64
pending(const Subscription *subscription, int generation, int64 wanted, TimestampTz *oldest)
{
	Position	position;
	Latest		row;
	Mark		now;
	int64		count = 0;

	*oldest = DT_NOEND;
	if (!position_find(subscription->consumer, SUBSCRIPTION_LANE, &position, &row) || position.ended)
		return wanted;			/* nothing is known of it */
	mark_take(&now, GetLatestSnapshot());
	if (position.in_window)
		count_pending(subscription, &position.low, &position.high, position.last_id,
					  generation, wanted, &count, oldest);
	count_pending(subscription, position.in_window ? &position.high : &position.low, &now, 0,
				  generation, wanted, &count, oldest);
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
		TimestampTz oldest;

		if (pending(lfirst(cell), generation, 1, &oldest) > 0)
			return false;
	}
	return true;
}

/*
 * (consumer) -> lane, depth, oldest: a row a lane, for idem_consumers
 */
Datum
idem_pending(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Subscription subscription;
	Datum		values[3];
	bool		nulls[3] = {false};
	TimestampTz oldest;

	idem_require_primary("idem_pending()");
	InitMaterializedSRF(fcinfo, 0);
	if (subscription_find(idem_name(fcinfo, 0, "consumer"), &subscription))
	{
		values[0] = Int64GetDatum(SUBSCRIPTION_LANE);
		values[1] = Int64GetDatum(pending(&subscription, ALL_GENERATIONS, PG_INT64_MAX, &oldest));
		values[2] = TimestampTzGetDatum(oldest);
		nulls[2] = TIMESTAMP_IS_NOEND(oldest);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * (consumer, era, xid, id): has it had this message? for idem_delivered()
 */
Datum
idem_is_past(PG_FUNCTION_ARGS)
{
	Position	position;
	Latest		row;

	if (!position_find(PG_GETARG_TEXT_PP(0), SUBSCRIPTION_LANE, &position, &row) || position.ended)
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(position_is_past(&position, PG_GETARG_INT64(1),
									PG_GETARG_FULLTRANSACTIONID(2), PG_GETARG_INT64(3)));
}
