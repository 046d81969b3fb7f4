/*
 * external.c
 *	  Deliveries to where the database's transactions do not reach.
 *
 * What is delivered there may be delivered again, if the acknowledgement is
 * lost on its way back.  The receiver tells by seq: the deliveries of a lane
 * are numbered 1, 2, 3 and so on, and a message keeps its number when it comes
 * again.  So what a number stands for must be settled, and safe on disk, before
 * it is given out: a fetch first fixes the window, and returns no rows; only
 * when that is committed does the next one deliver from it.
 *
 * Nothing is parked: the lane stops at a message that is refused, until it is
 * due again.  One that is given up keeps its number, and a tombstone is
 * delivered in its place.  If it is redriven it gets a new number.
 *
 * Numbers count within one source.  After a failover the window fixed last may
 * be lost, and a seek leaves it, though its numbers may have been given out: so
 * a new incarnation of the database, or a new place of the consumer, is another
 * source, which begins with 1.
 *
 * A window that was fixed belongs to the lane as it was then.  Should lanes be
 * added meanwhile, a new one waits until its messages are delivered from there.
 */
#include "external.h"

#include "access/xact.h"
#include "replay.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "window.h"

/*
 * The name of what is delivered, for the receiver.
 */
char *
external_source(const text *consumer, const Position *position)
{
	return psprintf("%s@%s." INT64_FORMAT, text_to_cstring(consumer),
					incarnation_text(&position->incarnation), position->numbering);
}

static bool
is_fixed(const Position *position)
{
	return position->in_window || position->redriven_id != 0;
}

/*
 * The slots of the window that the lane goes through.
 */
Slots
external_window_slots(const Position *position, int lane)
{
	return lane_slots(lane, position->window_lanes);
}

/*
 * Has a lane that these slots were in before still to deliver of them?
 */
bool
external_is_elsewhere(const text *consumer, int lane, Slots slots)
{
	while (lane > 0)
	{
		Position	position;
		Latest		row;

		lane = lane_parent(lane);
		if (position_find(consumer, lane, &position, &row) && !position.ended &&
			position.is_numbered && is_fixed(&position) &&
			lane_of(slots.first, position.window_lanes) == lane)
			return true;
	}
	return false;
}

/* what of the lane is in idem_parked */
typedef struct Stops
{
	bool		any;
	bool		waits;			/* the lane stands still until fetch->due_at */
	List	   *rows;			/* Parked: what was nacked, and tombstones */
	int64		redriven_id;	/* the first to be redriven; 0: none */
} Stops;

static void
find_stops(Fetch *fetch, Slots slots, Stops *stops)
{
	TimestampTz now = GetCurrentTimestamp();
	ParkedScan *scan = parked_open_due(fetch->consumer, slots, DT_NOEND);
	Parked		row;

	while (parked_next(scan, &row))
	{
		stops->any = true;
		if (parked_is(&row, PARKED_REDRIVEN))
		{
			if (stops->redriven_id == 0)
				stops->redriven_id = row.id;
			if (row.id != fetch->position.redriven_id)
				continue;
		}
		if (row.due_at > now)
		{
			stops->waits = true;
			fetch->due_at = Min(fetch->due_at, row.due_at);
		}
		stops->rows = lappend(stops->rows, memcpy(palloc(sizeof(Parked)), &row, sizeof(Parked)));
	}
	parked_close(scan);
}

static const Parked *
find_stop(const Stops *stops, int64 id)
{
	ListCell   *cell;

	foreach(cell, stops->rows)
	{
		const Parked *row = lfirst(cell);

		if (row->id == id)
			return row;
	}
	return NULL;
}

/*
 * Deliver from the window that was fixed.  It looks one further, so that the
 * window ends with its last message: another lane can be waiting for that.
 */
static void
deliver(Fetch *fetch, Slots slots, const Stops *stops)
{
	Position   *position = &fetch->position;
	Window	   *window = window_open(&position->low, &position->high, position->last_id,
									 slots, ALL_GENERATIONS);
	TupleTableSlot *message = NULL;

	while ((message = window_next(window)) != NULL)
	{
		const Parked *stop = NULL;
		bool		isnull;

		if (!subscription_wants(&fetch->subscription, message))
			continue;
		if (fetch->count == fetch->max_messages)
			break;
		position->last_id = DatumGetInt64(slot_getattr(message, OUTBOX_ID, &isnull));
		if (stops->rows != NIL)
			stop = find_stop(stops, position->last_id);
		fetch_put(fetch, message, stop == NULL ? 0 : stop->attempts, ++position->seq,
				  stop != NULL && parked_is(stop, PARKED_TOMBSTONE));
	}
	window_close(window);

	position->in_window = message != NULL;
	if (!position->in_window)
		position->low = position->high;
}

/*
 * Is there anything in the window?
 */
static bool
window_has_message(Fetch *fetch)
{
	Position   *position = &fetch->position;
	Window	   *window = window_open(&position->low, &position->high, 0, fetch->slots,
									 ALL_GENERATIONS);
	TupleTableSlot *message;

	while ((message = window_next(window)) != NULL &&
		   !subscription_wants(&fetch->subscription, message))
		;
	fetch->cost += window_cost(window);
	window_close(window);
	return message != NULL;
}

static Look
fix(Fetch *fetch)
{
	position_append(fetch->consumer, fetch->lane, &fetch->position);
	return LOOK_COMMIT;
}

/*
 * Look into the lane that is locked.
 */
Look
external_look(Fetch *fetch)
{
	Position   *position = &fetch->position;
	Position	before = *position;
	Incarnation now = incarnation_now();
	Stops		stops = {0};
	Slots		slots;
	const Parked *redriven;

	/* fixed, or acked, by this very transaction */
	if (TransactionIdIsCurrentTransactionId(fetch->row.xmin))
		return LOOK_COMMIT;

	if (!incarnation_equal(&position->incarnation, &now))
	{
		position->incarnation = now;
		position->seq = 0;
		return fix(fetch);
	}
	fetch->source = external_source(fetch->consumer, position);
	slots = is_fixed(position) ? external_window_slots(position, fetch->lane) : fetch->slots;
	if (parked_any())
		find_stops(fetch, slots, &stops);
	if (stops.waits)
		return LOOK_NOTHING;

	if (position->redriven_id != 0)
	{
		redriven = find_stop(&stops, position->redriven_id);
		position->redriven_id = 0;
		if (redriven == NULL)	/* somebody has deleted it */
		{
			position->numbering++;
			position->seq = 0;
			return fix(fetch);
		}
		replay_wait_durable(fetch->row.xmin, fetch->row.frozen);
		fetch_put_parked(fetch, redriven, redriven->attempts, ++position->seq,
						 parked_is(redriven, PARKED_TOMBSTONE));
		fetch_note(fetch, &before, false, true);
		return LOOK_DELIVERED;
	}
	if (position->in_window)
	{
		replay_wait_durable(fetch->row.xmin, fetch->row.frozen);
		deliver(fetch, slots, &stops);
		if (fetch->count > 0)
		{
			fetch_note(fetch, &before, false, stops.any);
			return LOOK_DELIVERED;
		}
	}

	/* something new; unless another lane comes first */
	if (external_is_elsewhere(fetch->consumer, fetch->lane, fetch->slots))
		return LOOK_NOTHING;
	if (stops.redriven_id != 0)
	{
		position->redriven_id = stops.redriven_id;
		position->window_lanes = fetch->subscription.lanes;
		return fix(fetch);
	}
	mark_take(&position->high, fetch->snapshot);
	if (window_has_message(fetch))
	{
		position->in_window = true;
		position->last_id = 0;
		position->window_lanes = fetch->subscription.lanes;
		return fix(fetch);
	}
	position->low = position->high;
	return LOOK_NOTHING;
}
