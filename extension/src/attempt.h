/*
 * attempt.h
 *	  Attempt marks: batches whose client went away with them.
 */
#ifndef IDEM_ATTEMPT_H
#define IDEM_ATTEMPT_H

#include "idem.h"

#include "nodes/pg_list.h"

/* a row of idem_attempts */
typedef struct Attempt
{
	const char *consumer;
	int64		lane;
	int64		batch;
	int32		messages;
	int64		id;				/* of the first */
	const char *client;
	TimestampTz failed_at;
} Attempt;

/* those of a lane that count for its next batch */
typedef struct Attempts
{
	bool		any;			/* there are rows, be it that none counts */
	List	   *marks;			/* of Attempt, the oldest first */
} Attempts;

extern void attempts_find(const text *consumer, int lane, int64 batch, Attempts *attempts);
extern int	attempts_of(const Attempts *attempts, int64 batch, int64 id, TimestampTz since);
extern bool attempts_alone(const Attempts *attempts, int64 id);
extern void attempts_forget(const text *consumer, int lane, int64 batch, int messages, int64 id);
extern void attempts_forget_all(const text *consumer, int lane);
extern void attempts_note(Oid relid, const Attempt *attempts, int count);

#endif							/* IDEM_ATTEMPT_H */
