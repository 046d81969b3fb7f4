/*
 * lane.h
 *	  Which of a consumer's lanes a message is in.
 */
#ifndef IDEM_LANE_H
#define IDEM_LANE_H

#include "idem.h"

#define MAX_LANES 256

/* the slots of a lane, from first to last */
typedef struct Slots
{
	int32		first;
	int32		last;
} Slots;

#define ALL_SLOTS ((Slots) {0, PG_INT32_MAX})

extern int32 lane_slot(const text *key, int64 id);
extern Slots lane_slots(int lane, int lanes);
extern int	lane_of(int32 slot, int lanes);
extern int	lane_parent(int lane);

#endif							/* IDEM_LANE_H */
