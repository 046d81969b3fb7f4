/*
 * consumer.h
 *	  Consumers as a whole.
 */
#ifndef IDEM_CONSUMER_H
#define IDEM_CONSUMER_H

#include "tables.h"

extern bool consumers_are_past(Store store, int generation);

#endif							/* IDEM_CONSUMER_H */
