/*
 * outbox.h
 *	  Messages that commit with the work.
 */
#ifndef IDEM_OUTBOX_H
#define IDEM_OUTBOX_H

#include "idem.h"

extern void outbox_publish(text *topic, text *key, text *type, Datum payload);

#endif							/* IDEM_OUTBOX_H */
