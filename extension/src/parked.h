/*
 * parked.h
 *	  Messages that a consumer failed on, and those that wait behind them.
 */
#ifndef IDEM_PARKED_H
#define IDEM_PARKED_H

#include "idem.h"

#include "access/htup.h"
#include "executor/tuptable.h"
#include "lane.h"
#include "tables.h"

/* states, see the table's definition */
#define PARKED_RETRY "retry"
#define PARKED_WAITING "waiting"
#define PARKED_DEAD "dead"
#define PARKED_TOMBSTONE "tombstone"
#define PARKED_REDRIVEN "redriven"

/* a row of idem_parked */
typedef struct Parked
{
	Datum		values[PARKED_COLUMNS];
	bool		nulls[PARKED_COLUMNS];
	HeapTuple	tuple;
	int32		slot;
	int64		id;
	int32		attempts;
	TimestampTz due_at;			/* if retry or redriven, else DT_NOEND */
	TimestampTz failed_at;		/* the last time, or DT_NOBEGIN */
	const text *key;			/* or NULL */
} Parked;

typedef struct ParkedScan ParkedScan;

extern bool parked_any(void);
extern bool parked_is(const Parked *parked, const char *state);
extern ParkedScan *parked_open(const text *consumer, Slots slots);
extern ParkedScan *parked_open_due(const text *consumer, Slots slots, TimestampTz until);
extern bool parked_step(ParkedScan *scan, int32 *slot, TimestampTz *due_at);
extern void parked_get(const ParkedScan *scan, Parked *parked);
extern bool parked_next(ParkedScan *scan, Parked *parked);
extern void parked_close(ParkedScan *scan);
extern bool parked_find(const text *consumer, Slots slots, int64 id, Parked *parked);
extern bool parked_is_blocked(const text *consumer, int32 slot, const text *key);
extern TimestampTz parked_backoff(int attempts, TimestampTz now);
extern void parked_add(const text *consumer, TupleTableSlot *message, const char *state,
					   int attempts, TimestampTz due_at, const text *error);
extern void parked_set(Parked *parked, const char *state, int attempts,
					   TimestampTz due_at, const text *error);
extern void parked_delete(const Parked *parked);
extern void parked_forget(const text *consumer, int64 after);
extern void parked_promote(const text *consumer, int32 slot, const text *key);

#endif							/* IDEM_PARKED_H */
