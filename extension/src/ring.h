/*
 * ring.h
 *	  The rings of tables that everything lives in, and how they turn.
 */
#ifndef IDEM_RING_H
#define IDEM_RING_H

#include "idem.h"

#include "access/transam.h"
#include "storage/itemptr.h"
#include "tables.h"
#include "utils/relcache.h"

/*
 * A generation's ends_at tells all of its life:
 *
 *	 infinity	it takes rows, will in a moment, or did until a moment ago
 *	 a time		no row in it lives longer
 *	 -infinity	retired: nobody reads or writes it; to be emptied, or empty
 */
typedef struct RingState
{
	int64		step;			/* grows with every change */
	int			current;		/* the generation that takes rows */
	TimestampTz opened_at;		/* since when it does */
	int32		ttl[RING_GENERATIONS];	/* s; no row was admitted with more */
	TimestampTz ends_at[RING_GENERATIONS];
	FullTransactionId emptied;	/* the last to hide rows; 0: none yet */
	ItemPointerData tid;
} RingState;

extern const RingState *ring_now(Store store);
extern void ring_read(Store store, RingState *ring);
extern bool ring_is_living(const RingState *ring, int generation);
extern Relation ring_open_current(Store store, int32 *ttl);
extern void ring_hold(void);
extern bool ring_hides_from_snapshot(const RingState *ring);
extern bool ring_lock(void);
extern bool ring_turn(void);

#endif							/* IDEM_RING_H */
