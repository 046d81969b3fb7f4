/*
 * position.h
 *	  How far a consumer is.
 */
#ifndef IDEM_POSITION_H
#define IDEM_POSITION_H

#include "incarnation.h"
#include "latest.h"
#include "mark.h"

/*
 * It has had what low sees; and, while it goes through a window, what high
 * sees up to last_id.
 */
typedef struct Position
{
	int64		n;				/* one more with every change */
	bool		ended;			/* the consumer has unsubscribed */
	Mark		low;
	bool		in_window;
	Mark		high;
	int64		last_id;

	/* of external consumers, see external.c */
	bool		is_numbered;
	int64		seq;			/* the last one acked */
	Incarnation incarnation;	/* where it counts */
	int64		numbering;		/* and since which change of place */
	int32		window_lanes;	/* when what follows was fixed: the window, or */
	int64		redriven_id;	/* the message to be delivered again; or 0 */
} Position;

extern bool position_find(const text *consumer, int64 lane, Position *position,
						  Latest *row);
extern void position_append(const text *consumer, int64 lane, const Position *position);
extern bool position_is_past(const Position *position, int64 era,
							 FullTransactionId xid, int64 id);

#endif							/* IDEM_POSITION_H */
