/*
 * latest.h
 *	  The latest of each lane: rows that are only added, the newest counts.
 */
#ifndef IDEM_LATEST_H
#define IDEM_LATEST_H

#include "idem.h"

#include "access/xlogdefs.h"
#include "tables.h"
#include "utils/snapshot.h"

typedef struct Latest
{
	Datum		values[POSITION_COLUMNS];	/* as many as the store has */
	bool		nulls[POSITION_COLUMNS];
	TransactionId xmin;			/* who wrote it */
	XLogRecPtr	frozen;			/* if known to all: where that is safe in the log */
} Latest;

extern bool latest_find(Store store, const text *name, int64 lane, Latest *latest);
extern bool latest_is_visible(const Latest *latest, Snapshot snapshot);
extern void latest_append(Store store, const Datum *values, const bool *nulls);
extern bool latest_carry(Store store, int generation);

#endif							/* IDEM_LATEST_H */
