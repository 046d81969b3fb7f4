/*
 * fetch.c
 *	  Fetch: a consumer's next messages, of one of its lanes.
 *
 * A fetch locks the lane until the transaction ends and reads what comes after
 * the lane's position.  It writes nothing, unless there are messages to be
 * parked: those whose key waits, and those that were given up.
 */
#include "fetch.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "external.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/latch.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"
#include "window.h"

PG_FUNCTION_INFO_V1(idem_fetch);

#define MAX_MESSAGES 100000		/* in a batch */
#define COST_PASSED 1000		/* what an empty fetch looks at before it says so */
#define MAX_POLL_MS 32
#define MAX_BLOCKED 1024		/* keys that are looked up in memory */
#define MAX_RETRIES 128			/* in a batch */

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
	FETCH_LANE,
	FETCH_SOURCE,
	FETCH_MESSAGE_ID,
	FETCH_COLUMNS
};

static int	next_lane = -1;		/* where this backend looks first */

/*
 * Add a row to the result.  The columns are given by their numbers in values,
 * which are those of the outbox or of idem_parked.
 */
static void
put(Fetch *fetch, const int *column, const Datum *from, const bool *isnull,
	int failures, int64 seq, bool is_tombstone)
{
	Datum		values[FETCH_COLUMNS];
	bool		nulls[FETCH_COLUMNS];
	Incarnation published;
	BatchMessage *message;

	memset(nulls, true, sizeof(nulls));
	for (int i = FETCH_ID; i <= FETCH_CREATED_AT; i++)
	{
		values[i] = from[column[i] - 1];
		nulls[i] = isnull[column[i] - 1];
	}
	if (is_tombstone)
		nulls[FETCH_PAYLOAD] = nulls[FETCH_HEADERS] = true;
	values[FETCH_BATCH] = Int64GetDatum(fetch->position.n);
	values[FETCH_ATTEMPT] = Int32GetDatum(failures + 1);
	values[FETCH_LANE] = Int64GetDatum(fetch->lane);
	nulls[FETCH_BATCH] = nulls[FETCH_ATTEMPT] = nulls[FETCH_LANE] = false;
	if (fetch->subscription.external)
	{
		published.era = DatumGetInt64(from[column[FETCH_SOURCE] - 1]);
		published.branch = DatumGetInt64(from[column[FETCH_MESSAGE_ID] - 1]);
		values[FETCH_SEQ] = Int64GetDatum(seq);
		values[FETCH_SOURCE] = CStringGetTextDatum(fetch->source);
		values[FETCH_MESSAGE_ID] =
			CStringGetTextDatum(psprintf("%s." INT64_FORMAT, incarnation_text(&published),
										 DatumGetInt64(values[FETCH_ID])));
		nulls[FETCH_SEQ] = nulls[FETCH_SOURCE] = nulls[FETCH_MESSAGE_ID] = false;
	}
	tuplestore_putvalues(fetch->result->setResult, fetch->result->setDesc, values, nulls);

	if (fetch->messages == NULL)
		fetch->messages = palloc(sizeof(BatchMessage) * 64);
	else if (fetch->count >= 64 && (fetch->count & (fetch->count - 1)) == 0)
		fetch->messages = repalloc(fetch->messages, sizeof(BatchMessage) * 2 * fetch->count);
	message = &fetch->messages[fetch->count++];
	message->id = DatumGetInt64(values[FETCH_ID]);
	message->slot = DatumGetInt32(from[column[FETCH_SEQ] - 1]);
	message->failures = failures;
	message->parked = InvalidSubTransactionId;
}

void
fetch_put(Fetch *fetch, TupleTableSlot *message, int failures, int64 seq, bool is_tombstone)
{
	static const int column[FETCH_COLUMNS] = {
		[FETCH_ID] = OUTBOX_ID, [FETCH_TOPIC] = OUTBOX_TOPIC, [FETCH_KEY] = OUTBOX_KEY,
		[FETCH_TYPE] = OUTBOX_TYPE, [FETCH_PAYLOAD] = OUTBOX_PAYLOAD,
		[FETCH_HEADERS] = OUTBOX_HEADERS, [FETCH_CREATED_AT] = OUTBOX_CREATED_AT,
		/* what these are made of */
		[FETCH_SEQ] = OUTBOX_SLOT, [FETCH_SOURCE] = OUTBOX_ERA, [FETCH_MESSAGE_ID] = OUTBOX_BRANCH
	};

	slot_getallattrs(message);
	put(fetch, column, message->tts_values, message->tts_isnull, failures, seq, is_tombstone);
}

void
fetch_put_parked(Fetch *fetch, const Parked *parked, int failures, int64 seq, bool is_tombstone)
{
	static const int column[FETCH_COLUMNS] = {
		[FETCH_ID] = PARKED_ID, [FETCH_TOPIC] = PARKED_TOPIC, [FETCH_KEY] = PARKED_KEY,
		[FETCH_TYPE] = PARKED_TYPE, [FETCH_PAYLOAD] = PARKED_PAYLOAD,
		[FETCH_HEADERS] = PARKED_HEADERS, [FETCH_CREATED_AT] = PARKED_CREATED_AT,
		[FETCH_SEQ] = PARKED_SLOT, [FETCH_SOURCE] = PARKED_ERA, [FETCH_MESSAGE_ID] = PARKED_BRANCH
	};

	put(fetch, column, parked->values, parked->nulls, failures, seq, is_tombstone);
}

/*
 * What was delivered is the transaction's batch; fetch->position comes after.
 */
void
fetch_note(Fetch *fetch, const Position *before, bool from_parked, bool some_parked)
{
	Batch		batch = {0};

	batch.consumer = (text *) fetch->consumer;
	batch.lane = fetch->lane;
	batch.external = fetch->subscription.external;
	batch.from_parked = from_parked;
	batch.some_parked = some_parked;
	batch.marked = fetch->attempts.any;
	if (before != NULL)
		batch.before = *before;
	batch.after = fetch->position;
	batch.count = fetch->count;
	batch.messages = fetch->messages;
	batch_note(&batch);
}

/* ---------------- internal consumers: retries ---------------- */

/* the keys of the lane that wait, by their slots */
typedef struct Blocked
{
	bool		many;			/* too many to list */
	int			count;
	int32	   *slots;
} Blocked;

static int
compare_slots(const void *a, const void *b)
{
	int32		x = *(const int32 *) a;
	int32		y = *(const int32 *) b;

	return x < y ? -1 : x > y;
}

/*
 * The lane's keys that wait, and the first of its messages that are due.
 */
static int
find_due(Fetch *fetch, Blocked *blocked, Parked *due, int max_due)
{
	TimestampTz now = GetCurrentTimestamp();
	ParkedScan *scan = parked_open_due(fetch->consumer, fetch->slots, DT_NOEND);
	TimestampTz due_at;
	int32		slot;
	int			ndue = 0;

	while (parked_step(scan, &slot, &due_at))
	{
		if (due_at > now)
			fetch->due_at = Min(fetch->due_at, due_at);
		else if (ndue < max_due)
			parked_get(scan, &due[ndue++]);
		if (blocked->count == MAX_BLOCKED)
		{
			blocked->many = true;
			break;
		}
		if (blocked->slots == NULL)
			blocked->slots = palloc(sizeof(int32) * MAX_BLOCKED);
		blocked->slots[blocked->count++] = slot;
	}
	parked_close(scan);
	if (!blocked->many)
		qsort(blocked->slots, blocked->count, sizeof(int32), compare_slots);
	return ndue;
}

static bool
is_blocked(const Fetch *fetch, const Blocked *blocked, TupleTableSlot *message)
{
	bool		isnull;
	int32		slot;
	Datum		key;

	if (blocked->count == 0)
		return false;
	slot = DatumGetInt32(slot_getattr(message, OUTBOX_SLOT, &isnull));
	if (!blocked->many &&
		bsearch(&slot, blocked->slots, blocked->count, sizeof(int32), compare_slots) == NULL)
		return false;
	key = slot_getattr(message, OUTBOX_KEY, &isnull);
	return !isnull && parked_is_blocked(fetch->consumer, slot, DatumGetTextPP(key));
}

static text *
lost_error(void)
{
	return cstring_to_text("the client's connection ended while it worked on this message");
}

/*
 * How often a parked message has failed: as it says, and what marks say since.
 */
static int
failures_of(const Fetch *fetch, const Parked *row)
{
	return row->attempts + attempts_of(&fetch->attempts, fetch->position.n, row->id, row->failed_at);
}

static int
compare_parked(const void *a, const void *b)
{
	int64		x = ((const Parked *) a)->id;
	int64		y = ((const Parked *) b)->id;

	return x < y ? -1 : x > y;
}

/*
 * A message that is due, and, unless it has failed before, those of its key
 * that wait for nothing else.
 */
static int
collect_run(Fetch *fetch, const Parked *first, Parked *run, int max)
{
	ParkedScan *scan;
	Parked		row;
	int			count = 0;

	run[count++] = *first;
	if (first->attempts > 0 || first->key == NULL)
		return count;
	scan = parked_open(fetch->consumer, (Slots) {first->slot, first->slot});
	while (count < max && parked_next(scan, &row))
	{
		if (row.id == first->id || row.key == NULL || !idem_text_equal(row.key, first->key) ||
			parked_is(&row, PARKED_DEAD))
			continue;
		if (!parked_is(&row, PARKED_WAITING) || row.attempts > 0)
			break;				/* later ones wait for this one too */
		run[count++] = row;
	}
	parked_close(scan);
	return count;
}

/*
 * Deliver what is due, in a batch of its own.
 */
static Look
retry(Fetch *fetch, Parked *due, int ndue, int max)
{
	Parked	   *run = palloc(sizeof(Parked) * MAX_RETRIES);
	int			count = 0;
	bool		wrote = false;

	for (int i = 0; i < ndue && count < max; i++)
	{
		Parked	   *row = &due[i];

		if (attempts_alone(&fetch->attempts, row->id))
		{
			int			attempts = failures_of(fetch, row);
			bool		give_up = attempts >= idem_max_attempts;

			parked_set(row, give_up ? PARKED_DEAD : PARKED_RETRY, attempts,
					   give_up ? DT_NOEND : parked_backoff(attempts, GetCurrentTimestamp()),
					   lost_error());
			if (give_up)
				parked_promote(fetch->consumer, row->slot, row->key);
			attempts_forget(fetch->consumer, fetch->lane, fetch->position.n - 1, 1, row->id);
			wrote = true;
		}
		else
			count += collect_run(fetch, row, run + count, max - count);
	}
	if (wrote)
		return LOOK_AGAIN;
	if (count == 0)
		return LOOK_NOTHING;

	qsort(run, count, sizeof(Parked), compare_parked);
	for (int i = 0; i < count; i++)
		fetch_put_parked(fetch, &run[i], failures_of(fetch, &run[i]), 0, false);
	fetch_note(fetch, NULL, true, false);
	return LOOK_DELIVERED;
}

/* ---------------- internal consumers: the outbox ---------------- */

/*
 * A message that was lost with its client, alone, is tried again later: that
 * can have been chance, and the next client should not meet it first.
 */
static void
park_lost(Fetch *fetch, TupleTableSlot *message, int failures)
{
	bool		give_up = failures >= idem_max_attempts;

	parked_add(fetch->consumer, message, give_up ? PARKED_DEAD : PARKED_RETRY, failures,
			   give_up ? DT_NOEND : parked_backoff(failures, GetCurrentTimestamp()),
			   lost_error());
	attempts_forget(fetch->consumer, fetch->lane, fetch->position.n - 1, 1,
					DatumGetInt64(message->tts_values[OUTBOX_ID - 1]));
}

/*
 * Deliver from the window from position.low to position.high, after last_id.
 * *parked tells if messages had to be parked on the way.
 */
static void
deliver(Fetch *fetch, const Blocked *blocked, int max, bool *parked)
{
	Position   *position = &fetch->position;
	Window	   *window = window_open(&position->low, &position->high, position->last_id,
									 fetch->slots, ALL_GENERATIONS);
	TupleTableSlot *message = NULL;
	int			passed = 0;

	while (fetch->count + passed < max && (message = window_next(window)) != NULL)
	{
		bool		isnull;
		int64		id;
		int			failures = 0;

		if (!subscription_wants(&fetch->subscription, message))
			continue;
		id = DatumGetInt64(slot_getattr(message, OUTBOX_ID, &isnull));
		if (fetch->attempts.marks != NIL)
			failures = attempts_of(&fetch->attempts, position->n, id, DT_NOBEGIN);
		if (failures > 0 && attempts_alone(&fetch->attempts, id))
		{
			/* from here on its key is blocked */
			if (fetch->count == 0)
			{
				park_lost(fetch, message, failures);
				position->last_id = id;
				passed++;
			}
			break;
		}
		if (is_blocked(fetch, blocked, message))
		{
			parked_add(fetch->consumer, message, PARKED_WAITING, 0, DT_NOEND, NULL);
			passed++;
		}
		else
			fetch_put(fetch, message, failures, 0, false);
		position->last_id = id;
	}
	fetch->cost += window_cost(window);
	window_close(window);

	position->in_window = message != NULL;
	if (!position->in_window)
		position->low = position->high;
	*parked |= passed > 0;
}

static Look
look_into_outbox(Fetch *fetch, const Blocked *blocked, int max)
{
	Position   *position = &fetch->position;
	Mark		now;
	bool		parked = false;

	mark_take(&now, fetch->snapshot);
	if (position->in_window)
		deliver(fetch, blocked, max, &parked);
	if (fetch->count == 0 && !parked)
	{
		position->high = now;
		position->last_id = 0;
		deliver(fetch, blocked, max, &parked);
	}
	if (fetch->count > 0)
	{
		fetch_note(fetch, NULL, false, false);
		return LOOK_DELIVERED;
	}
	if (parked)
	{
		position_append(fetch->consumer, fetch->lane, position);
		return LOOK_AGAIN;
	}
	return LOOK_NOTHING;
}

static Look
look_internal(Fetch *fetch)
{
	Blocked		blocked = {0};
	Parked	   *due = NULL;
	int			ndue = 0;
	int			max = fetch->max_messages;
	Look		look = LOOK_NOTHING;

	attempts_find(fetch->consumer, fetch->lane, fetch->position.n, &fetch->attempts);
	if (fetch->attempts.marks != NIL)
		max = 1;
	if (parked_any())
	{
		due = palloc(sizeof(Parked) * MAX_RETRIES);
		ndue = find_due(fetch, &blocked, due, MAX_RETRIES);
	}

	/* in turns, so that neither holds up the other */
	if (ndue > 0 && fetch->position.n % 2 == 0)
		look = retry(fetch, due, ndue, Min(max, MAX_RETRIES));
	if (look == LOOK_NOTHING)
	{
		look = look_into_outbox(fetch, &blocked, max);
		if (look == LOOK_NOTHING && ndue > 0 && fetch->position.n % 2 != 0)
			look = retry(fetch, due, ndue, Min(max, MAX_RETRIES));
	}
	return look;
}

/* ---------------- the lanes ---------------- */

static void
fail_to_serialize(const text *consumer)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent use of consumer \"%s\"",
					text_to_cstring(consumer)),
			 errdetail("It was advanced after this transaction's snapshot was taken."),
			 errhint("Retry the transaction.")));
}

/*
 * Look into a lane, if it is free.
 *
 * Who had the lane before may have committed after the snapshot was taken, and
 * have had more than it sees: then the lane counts as held.
 */
static Look
look_into_lane(Fetch *fetch, int lane)
{
	Look		look;

	if (!subscription_lock(&fetch->subscription, lane, false))
	{
		fetch->held = true;
		return LOOK_NOTHING;
	}
	if (!position_find(fetch->consumer, lane, &fetch->position, &fetch->row) ||
		fetch->position.ended)
		subscription_is_unknown(fetch->consumer);
	if (!latest_is_visible(&fetch->row, fetch->snapshot))
	{
		if (IsolationUsesXactSnapshot())
			fail_to_serialize(fetch->consumer);
		fetch->held = true;
		subscription_unlock(&fetch->subscription, lane);
		return LOOK_NOTHING;
	}

	fetch->lane = lane;
	fetch->slots = lane_slots(lane, fetch->subscription.lanes);
	fetch->position.n++;
	fetch->cost = 0;
	fetch->count = 0;
	look = fetch->subscription.external ? external_look(fetch) : look_internal(fetch);
	if (look != LOOK_NOTHING)
		return look;

	/*
	 * Nothing for this lane.  If that was much to look at, let nobody look at
	 * it again.  A position of this very transaction is left alone: it can be
	 * ahead of a snapshot that was taken before.
	 */
	if (fetch->cost >= COST_PASSED && !TransactionIdIsCurrentTransactionId(fetch->row.xmin))
		position_append(fetch->consumer, lane, &fetch->position);
	else
		subscription_unlock(&fetch->subscription, lane);
	return LOOK_NOTHING;
}

/*
 * Look into the lane that is asked for, or into all, until there is something.
 * True when there is, or when there will be after a COMMIT.
 */
static bool
look_into_lanes(Fetch *fetch, int64 lane)
{
	int			first;
	int			count;

	subscription_require(fetch->consumer, &fetch->subscription);
	if (lane >= fetch->subscription.lanes)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lane " INT64_FORMAT " of consumer \"%s\" does not exist",
						lane, text_to_cstring(fetch->consumer)),
				 errdetail_plural("It has %d lane, number 0.", "It has %d lanes, from number 0.",
								  fetch->subscription.lanes, fetch->subscription.lanes),
				 errhint("Leave the argument out for any that is free; idem_subscribe() adds lanes.")));
	if (next_lane < 0)
		next_lane = MyProcPid;	/* not all the same */
	first = lane >= 0 ? (int) lane : next_lane % fetch->subscription.lanes;
	count = lane >= 0 ? 1 : fetch->subscription.lanes;
	fetch->held = false;
	fetch->due_at = DT_NOEND;

	for (int i = 0; i < count; i++)
	{
		int			this = (first + i) % fetch->subscription.lanes;
		Look		look;

		while ((look = look_into_lane(fetch, this)) == LOOK_AGAIN)
			CHECK_FOR_INTERRUPTS();
		if (look != LOOK_NOTHING)
		{
			next_lane = look == LOOK_COMMIT ? this : this + 1;
			return true;
		}
	}
	return false;
}

/* ---------------- waiting ---------------- */

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

/* what of a snapshot changes when a transaction that has written ends */
typedef struct Moment
{
	TransactionId xmin;
	TransactionId xmax;
	uint32		xcnt;
	uint32		hash;
} Moment;

static Moment
moment_of(Snapshot snapshot)
{
	Moment		moment = {snapshot->xmin, snapshot->xmax, snapshot->xcnt, 0};

	for (uint32 i = 0; i < snapshot->xcnt; i++)
		moment.hash = moment.hash * 31 + snapshot->xip[i];
	return moment;
}

/*
 * (consumer, max_messages, wait, lane) -> batch, seq, id, topic, key, type,
 * payload, headers, created_at, attempt, lane, source, message_id
 */
Datum
idem_fetch(PG_FUNCTION_ARGS)
{
	Fetch		fetch = {0};
	int64		wait;
	int64		lane = -1;
	TimestampTz began;
	int64		checked = 0;
	MemoryContext context;

	fetch.consumer = idem_name(fcinfo, 0, "consumer");
	fetch.result = (ReturnSetInfo *) fcinfo->resultinfo;
	fetch.snapshot = GetActiveSnapshot();
	if (PG_ARGISNULL(1) || PG_GETARG_INT32(1) < 1 || PG_GETARG_INT32(1) > MAX_MESSAGES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 PG_ARGISNULL(1) ? errmsg("max_messages must not be NULL") :
				 errmsg("max_messages is out of range: %d", PG_GETARG_INT32(1)),
				 errdetail("A batch has 1 to %d messages.", MAX_MESSAGES),
				 errhint("Leave the argument out for 100.")));
	fetch.max_messages = PG_GETARG_INT32(1);
	wait = idem_interval_us(fcinfo, 2, "wait", 0, INT64CONST(1000) * IDEM_MAX_FETCH_WAIT_MS);
	if (!PG_ARGISNULL(3))
	{
		lane = PG_GETARG_INT64(3);
		if (lane < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("lane is out of range: " INT64_FORMAT, lane),
					 errdetail("Lanes are numbered from 0."),
					 errhint("Leave the argument out for any that is free.")));
	}
	idem_require_writable("idem_fetch()");
	InitMaterializedSRF(fcinfo, 0);
	if (wait > 0)
		require_wait_allowed(fetch.result);
	batch_require_none(fetch.consumer);

	context = AllocSetContextCreate(CurrentMemoryContext, "idem fetch", ALLOCSET_DEFAULT_SIZES);
	began = GetCurrentTimestamp();
	for (;;)
	{
		MemoryContext save = MemoryContextSwitchTo(context);
		bool		done = look_into_lanes(&fetch, lane);
		Moment		before = moment_of(fetch.snapshot);
		bool		quiet = true;

		MemoryContextSwitchTo(save);
		MemoryContextReset(context);
		fetch.messages = NULL;
		if (done || wait <= 0)
			break;

		while (quiet)
		{
			int64		waited = Max(GetCurrentTimestamp() - began, 0);
			Moment		now;

			if (waited >= wait)
				goto end;

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

			/* nobody has committed anything, and no lane can have become free */
			fetch.snapshot = GetLatestSnapshot();
			now = moment_of(fetch.snapshot);
			quiet = !fetch.held && fetch.due_at > GetCurrentTimestamp() &&
				memcmp(&now, &before, sizeof(Moment)) == 0;
		}
	}
end:
	MemoryContextDelete(context);
	return (Datum) 0;
}
