/*
 * stats.h
 *	  Counters of what happens in each database.
 */
#ifndef IDEM_STATS_H
#define IDEM_STATS_H

#include "idem.h"

typedef enum Stat
{
	/* what idem_claim() answered */
	STAT_CLAIMS,
	STAT_REPLAYS,
	STAT_MISMATCHES,
	STAT_IN_PROGRESS,
	STAT_CANCELLED,

	STAT_WAITS,					/* for a key that somebody else held */
	STAT_TAKEOVERS,				/* of an expired lease */
	STAT_REFUSED_TRANSITIONS,
	STAT_CANCELLATIONS,			/* keys that idem_cancel() or a deadline cancelled */
	STAT_PUBLISHED,				/* messages stored */
	STAT_FETCHED,				/* messages delivered */
	STAT_NACKS,
	STAT_DEAD_LETTERS,
	STAT_CONSUMED,				/* messages that were new to the inbox */
	STAT_DUPLICATES,			/* and those that were not */
	STATS
} Stat;

extern void stats_add(Stat stat, uint64 count);
extern void stats_maintained(void);
extern bool stats_are_kept(void);

#define stats_count(stat) stats_add(stat, 1)

#endif							/* IDEM_STATS_H */
