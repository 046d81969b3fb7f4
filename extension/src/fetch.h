/*
 * fetch.h
 *	  A look for messages, in one lane after the other.
 */
#ifndef IDEM_FETCH_H
#define IDEM_FETCH_H

#include "idem.h"

#include "attempt.h"
#include "batch.h"
#include "lane.h"
#include "nodes/execnodes.h"
#include "parked.h"
#include "position.h"
#include "subscription.h"

typedef struct Fetch
{
	const text *consumer;
	int			max_messages;
	ReturnSetInfo *result;
	Snapshot	snapshot;
	Subscription subscription;

	/* what was met on the way, if there was nothing to deliver */
	bool		held;			/* somebody else has a lane */
	TimestampTz due_at;			/* when the next retry is due */

	/* the lane that is locked */
	int			lane;
	Slots		slots;
	Position	position;		/* its n is the batch's number already */
	Latest		row;			/* which says so */
	Attempts	attempts;
	const char *source;			/* of an external consumer */
	int64		cost;			/* of looking in vain, in ids */

	int			count;			/* delivered by now */
	BatchMessage *messages;
} Fetch;

/* what a look into a lane came to */
typedef enum Look
{
	LOOK_NOTHING,				/* for now */
	LOOK_AGAIN,					/* its position was changed: look again */
	LOOK_COMMIT,				/* its position was changed, which must be committed first */
	LOOK_DELIVERED
} Look;

extern void fetch_put(Fetch *fetch, TupleTableSlot *message, int failures, int64 seq,
					  bool is_tombstone);
extern void fetch_put_parked(Fetch *fetch, const Parked *parked, int failures, int64 seq,
							 bool is_tombstone);
extern void fetch_note(Fetch *fetch, const Position *before, bool from_parked, bool some_parked);

#endif							/* IDEM_FETCH_H */
