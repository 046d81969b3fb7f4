/*
 * compensation.h
 *	  Cancellations that are not asked for: at the deadline.
 */
#ifndef IDEM_COMPENSATION_H
#define IDEM_COMPENSATION_H

#include "key.h"

extern void compensation_expire(const IdemKey *key);

#endif							/* IDEM_COMPENSATION_H */
