/*
 * batch.h
 *	  The batches that the current transaction has fetched.
 */
#ifndef IDEM_BATCH_H
#define IDEM_BATCH_H

#include "idem.h"

extern bool batch_is_open(void);
extern void batch_refuse_open(void);
extern void batch_require_none(const text *consumer);

#endif							/* IDEM_BATCH_H */
