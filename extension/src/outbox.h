/*
 * outbox.h
 *	  Messages that commit with the work.
 */
#ifndef IDEM_OUTBOX_H
#define IDEM_OUTBOX_H

#include "idem.h"

extern int64 outbox_last_id(void);

#endif							/* IDEM_OUTBOX_H */
