/*
 * replay.h
 *	  What must be durable before a replay may say so.
 */
#ifndef IDEM_REPLAY_H
#define IDEM_REPLAY_H

#include "idem.h"

#include "access/xlogdefs.h"

extern void replay_wait_durable(TransactionId winner, XLogRecPtr frozen);
extern void replay_wait_all_durable(void);

#endif							/* IDEM_REPLAY_H */
