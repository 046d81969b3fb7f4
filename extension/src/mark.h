/*
 * mark.h
 *	  What of the outbox could be seen at a moment.
 */
#ifndef IDEM_MARK_H
#define IDEM_MARK_H

#include "idem.h"

#include "access/transam.h"
#include "utils/snapshot.h"

/*
 * All messages up to floor, but for those of late transactions: the ones that
 * were listed as running, and those from the first of from up to before to.
 */
typedef struct Mark
{
	int64		era;			/* of the cluster whose transactions these are */
	int64		floor;
	FullTransactionId from;
	FullTransactionId to;
	int			nrunning;
	FullTransactionId *running; /* in order; all before from */
} Mark;

extern void mark_take(Mark *mark, Snapshot snapshot);
extern void mark_at(Mark *mark, int64 floor);
extern bool mark_is_late(const Mark *mark, FullTransactionId xid);
extern bool mark_sees(const Mark *mark, int64 era, FullTransactionId xid, int64 id);
extern void mark_copy(Mark *to, const Mark *from, MemoryContext context);
extern void mark_get(Mark *mark, const Datum *values);
extern void mark_put(const Mark *mark, Datum *values);

#endif							/* IDEM_MARK_H */
