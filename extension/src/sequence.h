/*
 * sequence.h
 *	  What has been drawn from a sequence, by anybody.
 */
#ifndef IDEM_SEQUENCE_H
#define IDEM_SEQUENCE_H

#include "idem.h"

extern int64 sequence_last(Oid sequence);
extern void sequence_reach(Oid sequence, int64 value);

#endif							/* IDEM_SEQUENCE_H */
