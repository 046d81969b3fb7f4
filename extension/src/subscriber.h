/*
 * subscriber.h
 *	  A database in which a subscription writes idem's tables.
 */
#ifndef IDEM_SUBSCRIBER_H
#define IDEM_SUBSCRIBER_H

#include "idem.h"

extern Oid	subscriber_find(Oid table);
extern void subscriber_refuse(const char *function);

#endif							/* IDEM_SUBSCRIBER_H */
