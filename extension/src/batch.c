/*
 * batch.c
 *	  The batches that the current transaction has fetched: ack and nack.
 *
 * They are remembered in this backend's memory until the transaction ends.  An
 * ack adds the position after the batch, which commits with the work or not at
 * all.
 */
#include "batch.h"

#include "access/xact.h"
#include "attempt.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parked.h"
#include "pgstat.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "tables.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "window.h"

PG_FUNCTION_INFO_V1(idem_ack);
PG_FUNCTION_INFO_V1(idem_nack);

static Batch *batches = NULL;	/* newest first; none between transactions */
static Batch *failed = NULL;	/* those of a (sub)transaction that failed, until it is rolled back */
static Oid	attempts_table;

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
		if (is_open(batch) && idem_text_equal(batch->consumer, consumer))
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_BATCH_OPEN),
					 errmsg("batch " INT64_FORMAT " of consumer \"%s\" is fetched but not acked",
							batch->after.n, text_to_cstring(consumer)),
					 errdetail("This transaction has fetched it."),
					 errhint("Call idem_ack() first.")));
}

/*
 * Add these batches to the attempts.  Those of one lane are one, which begins
 * with the first: any of their messages may have done it.
 */
static int
add_attempts(Attempt *attempts, int count, const Batch *lost)
{
	for (; lost != NULL; lost = lost->next)
	{
		const char *consumer = text_to_cstring(lost->consumer);
		int			i = 0;

		if (lost->external)
			continue;
		while (i < count && (attempts[i].lane != lost->lane ||
							 strcmp(attempts[i].consumer, consumer) != 0))
			i++;
		if (i == count)
		{
			attempts[count++].messages = 0;
			attempts[i].consumer = consumer;
			attempts[i].lane = lost->lane;
			attempts[i].batch = PG_INT64_MAX;
			attempts[i].client = pstrdup(lost->client);
		}
		attempts[i].messages += lost->count;
		if (lost->after.n < attempts[i].batch)
		{
			attempts[i].batch = lost->after.n;
			attempts[i].id = lost->messages[0].id;
		}
	}
	return count;
}

static int
length_of(const Batch *list)
{
	int			length = 0;

	for (; list != NULL; list = list->next)
		length++;
	return length;
}

/*
 * The client goes, and this transaction with it.  Who ended the session by
 * command did not mean the messages, and nor did who ended the server.
 */
static void
on_exit_with_batches(int code, Datum arg)
{
	const Batch *undone = IsAbortedTransactionBlockState() ? failed : NULL;
	MemoryContext save;
	Attempt    *attempts;
	int			count;

	(void) code;
	(void) arg;
	if ((batches == NULL && undone == NULL) ||
		pgStatSessionEndCause == DISCONNECT_KILLED || !PostmasterIsAlive())
		return;

	save = MemoryContextSwitchTo(TopMemoryContext);
	attempts = palloc(sizeof(Attempt) * (length_of(batches) + length_of(undone)));
	count = add_attempts(attempts, 0, undone);
	count = add_attempts(attempts, count, batches);
	MemoryContextSwitchTo(save);
	if (count > 0)
		attempts_note(attempts_table, attempts, count);
}

static void
copy_position(Position *position)
{
	Mark		low = position->low;
	Mark		high = position->high;

	mark_copy(&position->low, &low, CurrentMemoryContext);
	if (position->in_window)
		mark_copy(&position->high, &high, CurrentMemoryContext);
}

/*
 * Remember a batch that is being delivered.
 */
void
batch_note(const Batch *template)
{
	static bool registered = false;
	MemoryContext save = MemoryContextSwitchTo(TopTransactionContext);
	Batch	   *batch = palloc(sizeof(Batch));

	*batch = *template;
	batch->fetched = GetCurrentSubTransactionId();
	batch->acked = InvalidSubTransactionId;
	batch->consumer = cstring_to_text_with_len(VARDATA_ANY(template->consumer),
											   VARSIZE_ANY_EXHDR(template->consumer));
	batch->client = pstrdup(idem_client);
	copy_position(&batch->after);
	if (batch->external)
		copy_position(&batch->before);
	batch->messages = palloc(sizeof(BatchMessage) * batch->count);
	memcpy(batch->messages, template->messages, sizeof(BatchMessage) * batch->count);
	batch->next = batches;
	batches = batch;
	MemoryContextSwitchTo(save);
	stats_add(STAT_FETCHED, batch->count);

	if (!registered)
	{
		before_shmem_exit(on_exit_with_batches, (Datum) 0);
		registered = true;
	}

	/* as it is now: on exit there is no looking for it */
	attempts_table = idem_tables()->attempts.heap;
}

static void
on_transaction_end(XactEvent event, void *arg)
{
	(void) arg;

	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		failed = event == XACT_EVENT_ABORT ? batches : NULL;
		batches = NULL;
	}
}

/*
 * What a rolled-back subtransaction fetched, acked and parked is undone, as
 * with claims.
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
	failed = NULL;
	while (*link != NULL)
	{
		Batch	   *batch = *link;

		if (batch->fetched >= subid)
		{
			*link = batch->next;
			batch->next = failed;
			failed = batch;
			continue;
		}
		if (batch->acked >= subid)
			batch->acked = InvalidSubTransactionId;
		for (int i = 0; i < batch->count; i++)
			if (batch->messages[i].parked >= subid)
				batch->messages[i].parked = InvalidSubTransactionId;
		link = &batch->next;
	}
}

void
idem_batch_init(void)
{
	RegisterXactCallback(on_transaction_end, NULL);
	RegisterSubXactCallback(on_subtransaction_end, NULL);
}

/*
 * The open batch that (consumer, batch) names.
 */
static Batch *
require_batch(FunctionCallInfo fcinfo, const char *verb)
{
	text	   *consumer = idem_name(fcinfo, 0, "consumer");
	Batch	   *batch = NULL;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("batch must not be NULL"),
				 errdetail("A fetch that finds nothing has no batch to %s.", verb),
				 errhint("Pass the column \"batch\" of what idem_fetch() returned.")));
	idem_require_writable(psprintf("idem_%s()", verb));

	for (batch = batches; batch != NULL; batch = batch->next)
		if (batch->after.n == PG_GETARG_INT64(1) && idem_text_equal(batch->consumer, consumer))
			break;
	if (batch == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BATCH_NOT_HELD),
				 errmsg("batch " INT64_FORMAT " of consumer \"%s\" is not held by this transaction",
						PG_GETARG_INT64(1), text_to_cstring(consumer)),
				 errdetail("A batch is %sed by the transaction that fetched it.", verb),
				 errhint("If that transaction has ended, fetch again: what was not acked is delivered again.")));
	if (!is_open(batch))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_BATCH_ACKED),
				 errmsg("batch " INT64_FORMAT " of consumer \"%s\" is already acked",
						PG_GETARG_INT64(1), text_to_cstring(consumer)),
				 errdetail("This transaction has acked it."),
				 errhint("Ack each batch once.")));
	return batch;
}

/*
 * Those of idem_parked that were delivered and not nacked are done with, and
 * what waited for them is due.
 */
static void
settle_parked(const Batch *batch)
{
	Parked	   *done = palloc(sizeof(Parked) * batch->count);
	int			ndone = 0;

	for (int i = 0; i < batch->count; i++)
	{
		const BatchMessage *message = &batch->messages[i];
		Parked	   *row = &done[ndone];

		if (message->parked != InvalidSubTransactionId ||
			!parked_find(batch->consumer, (Slots) {message->slot, message->slot},
						 message->id, row) ||
			parked_is(row, PARKED_DEAD))
			continue;
		if (parked_is(row, PARKED_TOMBSTONE))
			parked_set(row, PARKED_DEAD, row->attempts, DT_NOEND, NULL);
		else
		{
			parked_delete(row);
			ndone++;
		}
	}
	if (!batch->external)
		for (int i = 0; i < ndone; i++)
			parked_promote(batch->consumer, done[i].slot, done[i].key);
}

/*
 * Of an external consumer: what was nacked, and all that comes after it, is
 * still to be delivered.
 */
static void
stop_at_nacked(const Batch *batch, Position *after)
{
	int			done = 0;

	while (done < batch->count && batch->messages[done].parked == InvalidSubTransactionId)
		done++;
	if (done == batch->count)
		return;
	*after = batch->before;
	after->n = batch->after.n;
	after->seq += done;
	if (done > 0)
		after->last_id = batch->messages[done - 1].id;
}

/*
 * (consumer, batch)
 */
Datum
idem_ack(PG_FUNCTION_ARGS)
{
	Batch	   *batch = require_batch(fcinfo, "ack");
	Position	after = batch->after;

	if (batch->external)
		stop_at_nacked(batch, &after);
	if (batch->from_parked || batch->some_parked)
		settle_parked(batch);
	if (batch->marked)
		attempts_forget(batch->consumer, batch->lane, batch->after.n, batch->count,
						batch->messages[0].id);
	position_append(batch->consumer, batch->lane, &after);
	batch->acked = GetCurrentSubTransactionId();
	PG_RETURN_VOID();
}

static BatchMessage *
require_message(const Batch *batch, int64 id)
{
	BatchMessage *message = NULL;

	for (int i = 0; i < batch->count && message == NULL; i++)
		if (batch->messages[i].id == id)
			message = &batch->messages[i];
	if (message == NULL || message->parked != InvalidSubTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_IN_BATCH),
				 errmsg(message == NULL ?
						"message " INT64_FORMAT " is not in batch " INT64_FORMAT " of consumer \"%s\"" :
						"message " INT64_FORMAT " in batch " INT64_FORMAT " of consumer \"%s\" is nacked already",
						id, batch->after.n, text_to_cstring(batch->consumer)),
				 message == NULL ?
				 errdetail_plural("The batch has %d message.", "The batch has %d messages.",
								  batch->count, batch->count) :
				 errdetail("It was nacked itself, or parked with an earlier one."),
				 errhint("Pass the column \"id\" of a message in this batch that is to be tried again later.")));
	return message;
}

/*
 * A message of the batch, copied from the outbox to idem_parked.
 */
static void
park(const Batch *batch, const BatchMessage *message, const char *state, int attempts,
	 TimestampTz due_at, const text *error)
{
	Window	   *window = window_of(message->id, message->slot);
	TupleTableSlot *slot = window_next(window);

	if (slot == NULL)
		elog(ERROR, "message " INT64_FORMAT " is gone", message->id);
	parked_add(batch->consumer, slot, state, attempts, due_at, error);
	window_close(window);
}

/*
 * The key of a message of the batch, or NULL.
 */
static const text *
key_of(const Batch *batch, const BatchMessage *message)
{
	const text *key = NULL;
	Parked		row;

	if (batch->from_parked)
	{
		if (parked_find(batch->consumer, (Slots) {message->slot, message->slot}, message->id, &row))
			key = row.key;
	}
	else
	{
		Window	   *window = window_of(message->id, message->slot);
		TupleTableSlot *slot = window_next(window);
		bool		isnull;
		Datum		value;

		if (slot != NULL)
		{
			value = slot_getattr(slot, OUTBOX_KEY, &isnull);
			if (!isnull)
				key = DatumGetTextPCopy(value);
		}
		window_close(window);
	}
	return key;
}

/*
 * A message of the batch must wait for an earlier one, be it that it was to be
 * retried itself.
 */
static void
make_wait(const Batch *batch, const BatchMessage *message)
{
	Parked		row;

	if (!batch->from_parked && message->parked == InvalidSubTransactionId)
		park(batch, message, PARKED_WAITING, 0, DT_NOEND, NULL);
	else if (parked_find(batch->consumer, (Slots) {message->slot, message->slot},
						 message->id, &row) &&
			 parked_is(&row, PARKED_RETRY))
		parked_set(&row, PARKED_WAITING, row.attempts, DT_NOEND, NULL);
}

/*
 * (consumer, batch, id, error, retry_in) -> the ids that must wait with it
 */
Datum
idem_nack(PG_FUNCTION_ARGS)
{
	Batch	   *batch = require_batch(fcinfo, "nack");
	int64		retry_in = idem_interval_us(fcinfo, 4, "retry_in", 0,
											IDEM_MAX_TTL_S * USECS_PER_SEC);
	SubTransactionId now = GetCurrentSubTransactionId();
	BatchMessage *message;
	const text *error;
	Parked		row;
	bool		is_parked;
	bool		give_up;
	int			attempts;
	TimestampTz due_at;
	const char *state;
	Datum	   *waiting = palloc(sizeof(Datum) * batch->count);
	int			nwaiting = 0;

	if (PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("id and error must not be NULL"),
				 errdetail("They say which message failed, and why."),
				 errhint("Pass the text of the error; idem_dead_letters will show it.")));
	message = require_message(batch, PG_GETARG_INT64(2));
	error = PG_GETARG_TEXT_PP(3);

	is_parked = (batch->from_parked || batch->some_parked) &&
		parked_find(batch->consumer, (Slots) {message->slot, message->slot}, message->id, &row) &&
		!parked_is(&row, PARKED_DEAD);
	attempts = message->failures + 1;
	give_up = attempts >= idem_max_attempts;
	due_at = retry_in >= 0 ? GetCurrentTimestamp() + retry_in :
		parked_backoff(attempts, GetCurrentTimestamp());
	if (batch->external)
	{
		state = give_up ? PARKED_TOMBSTONE :
			batch->before.redriven_id != 0 ? PARKED_REDRIVEN : PARKED_RETRY;
		if (give_up && !(is_parked && parked_is(&row, PARKED_TOMBSTONE)))
			due_at = GetCurrentTimestamp();
	}
	else
	{
		state = give_up ? PARKED_DEAD : PARKED_RETRY;
		if (give_up)
			due_at = DT_NOEND;
	}

	/* which of those after it must not be worked upon now */
	if (batch->external || !give_up)
	{
		const text *key = batch->external ? NULL : key_of(batch, message);

		for (BatchMessage *later = message + 1; later < batch->messages + batch->count; later++)
		{
			bool		is_new = later->parked == InvalidSubTransactionId;

			if (!batch->external)
			{
				const text *later_key;

				if (key == NULL || later->slot != message->slot)
					continue;
				later_key = key_of(batch, later);
				if (later_key == NULL || !idem_text_equal(key, later_key))
					continue;
				make_wait(batch, later);
			}
			if (is_new)
			{
				later->parked = now;
				waiting[nwaiting++] = Int64GetDatum(later->id);
			}
		}
	}

	if (is_parked)
		parked_set(&row, state, attempts, due_at, error);
	else
		park(batch, message, state, attempts, due_at, error);
	if (is_parked && give_up && !batch->external)
		parked_promote(batch->consumer, row.slot, row.key);
	message->parked = now;
	stats_count(STAT_NACKS);
	PG_RETURN_ARRAYTYPE_P(construct_array(waiting, nwaiting, INT8OID, sizeof(int64),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
