/*
 * topic.h
 *	  Guarded topics: each key's messages follow a state machine.
 */
#ifndef IDEM_TOPIC_H
#define IDEM_TOPIC_H

#include "idem.h"

#include "access/htup.h"
#include "lib/stringinfo.h"

/* where a key is */
typedef struct TopicState
{
	Datum		topic;
	Datum		key;			/* 0: NULL */
	Datum		type;			/* what it is to be; 0: NULL */
	int64		id;				/* of the message that brought it there */
	TimestampTz since;
	HeapTuple	before;			/* its row, or NULL */
} TopicState;

extern const char *topic_machine(Datum topic);
extern bool topic_step(const char *machine, TopicState *state);
extern void topic_store(const TopicState *state);
extern int64 topic_count(const char *machine, const char *state, StringInfo where);
extern bool topic_evict(void);

#endif							/* IDEM_TOPIC_H */
