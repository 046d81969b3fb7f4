/*
 * batch.h
 *	  The batches that the current transaction has fetched.
 */
#ifndef IDEM_BATCH_H
#define IDEM_BATCH_H

#include "idem.h"

#include "position.h"

typedef struct BatchMessage
{
	int64		id;
	int32		slot;
	int32		failures;		/* before this delivery */
	SubTransactionId parked;	/* by which subtransaction; invalid: not at all */
} BatchMessage;

typedef struct Batch
{
	struct Batch *next;
	SubTransactionId fetched;	/* by which subtransaction */
	SubTransactionId acked;		/* invalid: not yet */
	text	   *consumer;
	int			lane;
	bool		external;
	bool		from_parked;	/* its messages are in idem_parked, not the outbox */
	bool		some_parked;	/* some may be there: of an external consumer */
	bool		marked;			/* there are attempt marks of the lane */
	const char *client;
	Position	before;
	Position	after;			/* its n is the batch's number */
	int			count;
	BatchMessage *messages;
} Batch;

extern bool batch_is_open(void);
extern void batch_refuse_open(void);
extern void batch_require_none(const text *consumer);
extern void batch_note(const Batch *batch);

#endif							/* IDEM_BATCH_H */
