/*
 * lock.h
 *	  Advisory locks that a transaction holds.
 */
#ifndef IDEM_LOCK_H
#define IDEM_LOCK_H

#include "idem.h"

extern bool idem_lock(const LOCKTAG *tag, LOCKMODE mode, bool wait);
extern void idem_unlock(const LOCKTAG *tag, LOCKMODE mode);

#endif							/* IDEM_LOCK_H */
