/*
 * subscription.h
 *	  Which consumers there are, and what they want.
 */
#ifndef IDEM_SUBSCRIPTION_H
#define IDEM_SUBSCRIPTION_H

#include "idem.h"

#include "access/htup.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"

typedef struct Subscription
{
	text	   *consumer;
	int32		id;				/* by which its lanes are locked */
	Datum		topics;			/* text[] */
	bool		all_topics;		/* topics is NULL */
	int			ntopics;
	Datum	   *topic;
	int32		lanes;
	bool		external;
	TimestampTz since;			/* older messages are none of its own */
	HeapTuple	tuple;
} Subscription;

extern bool subscription_find(const text *consumer, Subscription *subscription);
extern void subscription_is_unknown(const text *consumer);
extern List *subscription_list(void);
extern void subscription_insert(Subscription *subscription);
extern void subscription_require(const text *consumer, Subscription *subscription);
extern void subscription_set_since(const Subscription *subscription, TimestampTz since);
extern void subscription_set_lanes(Subscription *subscription, int lanes);
extern void subscription_delete(const Subscription *subscription);
extern bool subscription_wants(const Subscription *subscription, TupleTableSlot *message);
extern bool subscription_lock(Subscription *subscription, int lane, bool wait);
extern void subscription_lock_all(const text *consumer, Subscription *subscription);
extern void subscription_unlock(const Subscription *subscription, int lane);

#endif							/* IDEM_SUBSCRIPTION_H */
