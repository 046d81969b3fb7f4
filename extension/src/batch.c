/*
 * batch.c
 *	  Fetch and ack: a consumer's work, in one transaction.
 *
 * A fetch locks the lane until the transaction ends and reads what comes after
 * the lane's position; it writes nothing.  An ack adds the new position, which
 * commits with the work or not at all.  What was fetched is remembered in this
 * backend's memory until the transaction ends.
 */
#include "batch.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/parsenodes.h"
#include "position.h"
#include "storage/latch.h"
#include "subscription.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"
#include "window.h"

PG_FUNCTION_INFO_V1(idem_fetch);
PG_FUNCTION_INFO_V1(idem_ack);

#define MAX_MESSAGES 100000		/* in a batch */
#define COST_PASSED 1000		/* what an empty fetch looks at before it says so */
#define MAX_POLL_MS 32

/* columns of idem_fetch()'s result */
enum
{
	FETCH_BATCH,
	FETCH_SEQ,
	FETCH_ID,
	FETCH_TOPIC,
	FETCH_KEY,
	FETCH_TYPE,
	FETCH_PAYLOAD,
	FETCH_HEADERS,
	FETCH_CREATED_AT,
	FETCH_ATTEMPT,
	FETCH_COLUMNS
};

typedef struct Batch
{
	struct Batch *next;
	SubTransactionId fetched;	/* by which subtransaction */
	SubTransactionId acked;		/* invalid: not yet */
	text	   *consumer;
	Position	after;			/* its n is the batch's number */
} Batch;

static Batch *batches = NULL;	/* newest first; none between transactions */

static bool
is_of(const Batch *batch, const text *consumer)
{
	return VARSIZE_ANY_EXHDR(batch->consumer) == VARSIZE_ANY_EXHDR(consumer) &&
		memcmp(VARDATA_ANY(batch->consumer), VARDATA_ANY(consumer),
			   VARSIZE_ANY_EXHDR(consumer)) == 0;
}

static bool
is_open(const Batch *batch)
{
	return batch->acked == InvalidSubTransactionId;
}

static Batch *
find_open(void)
{
	for (Batch *batch = batches; batch != NULL; batch = batch->next)
		if (is_open(batch))
			return batch;
	return NULL;
}

bool
batch_is_open(void)
{
	return batches != NULL && find_open() != NULL;
}

/*
 * The work of a batch that is not acked would be kept, and done again.
 */
void
batch_refuse_open(void)
{
	Batch	   *batch = find_open();

	if (batch == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_BATCH_OPEN),
			 errmsg("batch " INT64_FORMAT " of consumer \"%s\" is fetched but not acked",
					batch->after.n, text_to_cstring(batch->consumer)),
			 errdetail("If the transaction committed, its messages would be delivered again after their work was done."),
			 IsTransactionBlock() ?
			 errhint("Call idem_ack() before the transaction ends, or roll it back.") :
			 errhint("Begin a transaction: BEGIN; SELECT * FROM idem_fetch(...); your work; SELECT idem_ack(...); COMMIT.")));
}

/*
 * No open batch of this consumer.
 */
void
batch_require_none(const text *consumer)
{
	for (Batch *batch = batches; batch != NULL; batch = batch->next)
		if (is_open(batch) && is_of(batch, consumer))
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BATCH_OPEN),
					 errmsg("batch " INT64_FORMAT " of consumer \"%s\" is fetched but not acked",
							batch->after.n, text_to_cstring(consumer)),
					 errdetail("This transaction has fetched it."),
					 errhint("Call idem_ack() first.")));
}

static void
note_batch(const text *consumer, const Position *after)
{
	MemoryContext save = MemoryContextSwitchTo(TopTransactionContext);
	Batch	   *batch = palloc(sizeof(Batch));

	batch->fetched = GetCurrentSubTransactionId();
	batch->acked = InvalidSubTransactionId;
	batch->consumer = cstring_to_text_with_len(VARDATA_ANY(consumer), VARSIZE_ANY_EXHDR(consumer));
	batch->after = *after;
	mark_copy(&batch->after.low, &after->low, TopTransactionContext);
	if (after->in_window)
		mark_copy(&batch->after.high, &after->high, TopTransactionContext);
	batch->next = batches;
	batches = batch;
	MemoryContextSwitchTo(save);
}

static void
on_transaction_end(XactEvent event, void *arg)
{
	(void) arg;

	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		batches = NULL;
}

/*
 * What a rolled-back subtransaction fetched and acked is undone, as with
 * claims.
 */
static void
on_subtransaction_end(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	Batch	  **link = &batches;

	(void) parent;
	(void) arg;

	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (*link != NULL)
	{
		if ((*link)->fetched >= subid)
			*link = (*link)->next;
		else
		{
			if ((*link)->acked >= subid)
				(*link)->acked = InvalidSubTransactionId;
			link = &(*link)->next;
		}
	}
}

void
idem_batch_init(void)
{
	RegisterXactCallback(on_transaction_end, NULL);
	RegisterSubXactCallback(on_subtransaction_end, NULL);
}

static void
put_message(ReturnSetInfo *result, int64 number, TupleTableSlot *message)
{
	static const int column[] = {
		[FETCH_ID] = OUTBOX_ID, [FETCH_TOPIC] = OUTBOX_TOPIC, [FETCH_KEY] = OUTBOX_KEY,
		[FETCH_TYPE] = OUTBOX_TYPE, [FETCH_PAYLOAD] = OUTBOX_PAYLOAD,
		[FETCH_HEADERS] = OUTBOX_HEADERS, [FETCH_CREATED_AT] = OUTBOX_CREATED_AT
	};
	Datum		values[FETCH_COLUMNS];
	bool		nulls[FETCH_COLUMNS];

	slot_getallattrs(message);
	for (int i = FETCH_ID; i <= FETCH_CREATED_AT; i++)
	{
		values[i] = message->tts_values[column[i] - 1];
		nulls[i] = message->tts_isnull[column[i] - 1];
	}
	values[FETCH_BATCH] = Int64GetDatum(number);
	nulls[FETCH_BATCH] = false;
	nulls[FETCH_SEQ] = true;	/* numbers the deliveries to external consumers */
	values[FETCH_ATTEMPT] = Int32GetDatum(1);
	nulls[FETCH_ATTEMPT] = false;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * Deliver from the window from next->low to next->high, after last_id.  True
 * if there was anything; then *next is what comes after it.
 */
static bool
deliver(const Subscription *subscription, Position *next, int max_messages,
		ReturnSetInfo *result, int64 *cost)
{
	Window	   *window = window_open(&next->low, &next->high, next->last_id, ALL_GENERATIONS);
	TupleTableSlot *message = NULL;
	int			count = 0;

	while (count < max_messages && (message = window_next(window)) != NULL)
	{
		bool		isnull;

		if (!subscription_wants(subscription, message))
			continue;
		put_message(result, next->n, message);
		next->last_id = DatumGetInt64(slot_getattr(message, OUTBOX_ID, &isnull));
		count++;
	}
	*cost += window_cost(window);
	window_close(window);

	next->in_window = message != NULL;
	if (!next->in_window)
		next->low = next->high;
	return count > 0;
}

/*
 * Fetch what the snapshot sees, if the lane is free.
 *
 * Who had the lane before may have committed after the snapshot was taken, and
 * have had more than it sees: then the lane counts as held.
 */
static bool
try_fetch(const text *consumer, Snapshot snapshot, int max_messages,
		  ReturnSetInfo *result)
{
	Subscription subscription;
	Position	next;
	Latest		row;
	Mark		now;
	int64		cost = 0;

	if (!subscription_lock(consumer, &subscription, false))
		return false;
	if (!position_find(consumer, SUBSCRIPTION_LANE, &next, &row) || next.ended)
		subscription_is_unknown(consumer);
	if (!latest_is_visible(&row, snapshot))
	{
		if (IsolationUsesXactSnapshot())
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent use of consumer \"%s\"",
							text_to_cstring(consumer)),
					 errdetail("It was advanced after this transaction's snapshot was taken."),
					 errhint("Retry the transaction.")));
		subscription_unlock(&subscription);
		return false;
	}

	mark_take(&now, snapshot);
	next.n++;
	if (next.in_window && deliver(&subscription, &next, max_messages, result, &cost))
	{
		note_batch(consumer, &next);
		return true;
	}
	next.high = now;
	next.last_id = 0;
	if (deliver(&subscription, &next, max_messages, result, &cost))
	{
		note_batch(consumer, &next);
		return true;
	}

	/*
	 * Nothing for this consumer.  If that was much to look at, let nobody look
	 * at it again.  A position of this very transaction is left alone: it can
	 * be ahead of a snapshot that was taken before.
	 */
	if (cost >= COST_PASSED && !TransactionIdIsCurrentTransactionId(row.xmin))
		position_append(consumer, SUBSCRIPTION_LANE, &next);
	else
		subscription_unlock(&subscription);
	return false;
}

/*
 * What was waited for is newer than the statement's snapshot.  A table in the
 * same statement would lack what the messages speak of.
 */
static void
require_wait_allowed(ReturnSetInfo *result)
{
	EState	   *estate = result->econtext->ecxt_estate;
	ListCell   *cell;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("idem_fetch() can wait at isolation level READ COMMITTED only"),
				 errdetail("At a higher level the transaction never sees what is published while it waits."),
				 errhint("Pass wait => '0', or begin the transaction at READ COMMITTED.")));
	if (estate == NULL)
		return;
	foreach(cell, estate->es_range_table)
	{
		if (lfirst_node(RangeTblEntry, cell)->rtekind == RTE_RELATION)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("idem_fetch() cannot wait in a statement that uses tables"),
					 errdetail("The messages may be newer than what the statement sees of the tables."),
					 errhint("Fetch by SELECT * FROM idem_fetch(...) alone and join in the next statement, or pass wait => '0'.")));
	}
}

/*
 * (consumer, max_messages, wait, lane) -> batch, seq, id, topic, key, type,
 * payload, headers, created_at, attempt
 */
Datum
idem_fetch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *consumer = idem_name(fcinfo, 0, "consumer");
	int			max_messages;
	int64		wait;
	TimestampTz began;
	int64		checked = 0;
	Snapshot	snapshot = GetActiveSnapshot();
	MemoryContext context;

	if (PG_ARGISNULL(1) || PG_GETARG_INT32(1) < 1 || PG_GETARG_INT32(1) > MAX_MESSAGES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 PG_ARGISNULL(1) ? errmsg("max_messages must not be NULL") :
				 errmsg("max_messages is out of range: %d", PG_GETARG_INT32(1)),
				 errdetail("A batch has 1 to %d messages.", MAX_MESSAGES),
				 errhint("Leave the argument out for 100.")));
	max_messages = PG_GETARG_INT32(1);
	wait = idem_interval_us(fcinfo, 2, "wait", 0, INT64CONST(1000) * IDEM_MAX_FETCH_WAIT_MS);
	if (!PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("lanes are not supported by idem %s", IDEM_VERSION),
				 errdetail("Argument \"lane\" was given."),
				 errhint("Leave the argument out.")));
	idem_require_writable("idem_fetch()");
	InitMaterializedSRF(fcinfo, 0);
	if (wait > 0)
		require_wait_allowed(result);
	batch_require_none(consumer);

	context = AllocSetContextCreate(CurrentMemoryContext, "idem fetch", ALLOCSET_DEFAULT_SIZES);
	began = GetCurrentTimestamp();
	for (;;)
	{
		MemoryContext save = MemoryContextSwitchTo(context);
		bool		fetched = try_fetch(consumer, snapshot, max_messages, result);
		int64		waited;

		MemoryContextSwitchTo(save);
		MemoryContextReset(context);
		if (fetched || wait <= 0)
			break;
		waited = Max(GetCurrentTimestamp() - began, 0);
		if (waited >= wait)
			break;

		/* a dead client's backend must not stand in line for the lane */
		if (waited - checked >= USECS_PER_SEC)
		{
			checked = waited;
			if (MyProcPort != NULL && WaitEventSetCanReportClosed() &&
				!pq_check_connection())
				ereport(FATAL,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("connection to client lost")));
		}

		/* the longer it has been quiet, the less often it looks */
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(1 + (long) Min(waited / 1000 / MAX_POLL_MS, MAX_POLL_MS - 1),
							 1 + (long) ((wait - waited) / 1000)),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		snapshot = GetLatestSnapshot();
	}
	MemoryContextDelete(context);
	return (Datum) 0;
}

/*
 * (consumer, batch)
 */
Datum
idem_ack(PG_FUNCTION_ARGS)
{
	text	   *consumer = idem_name(fcinfo, 0, "consumer");
	Batch	   *batch = NULL;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("batch must not be NULL"),
				 errdetail("A fetch that finds nothing has no batch to ack."),
				 errhint("Pass the column \"batch\" of what idem_fetch() returned.")));
	idem_require_writable("idem_ack()");

	for (batch = batches; batch != NULL; batch = batch->next)
		if (batch->after.n == PG_GETARG_INT64(1) && is_of(batch, consumer))
			break;
	if (batch == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BATCH_NOT_HELD),
				 errmsg("batch " INT64_FORMAT " of consumer \"%s\" is not held by this transaction",
						PG_GETARG_INT64(1), text_to_cstring(consumer)),
				 errdetail("A batch is acked by the transaction that fetched it."),
				 errhint("If that transaction has ended, fetch again: what was not acked is delivered again.")));
	if (!is_open(batch))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BATCH_ACKED),
				 errmsg("batch " INT64_FORMAT " of consumer \"%s\" is already acked",
						PG_GETARG_INT64(1), text_to_cstring(consumer)),
				 errdetail("This transaction has acked it."),
				 errhint("Ack each batch once.")));

	position_append(batch->consumer, SUBSCRIPTION_LANE, &batch->after);
	batch->acked = GetCurrentSubTransactionId();
	PG_RETURN_VOID();
}
