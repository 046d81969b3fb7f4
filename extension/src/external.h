/*
 * external.h
 *	  Deliveries to where the database's transactions do not reach.
 */
#ifndef IDEM_EXTERNAL_H
#define IDEM_EXTERNAL_H

#include "fetch.h"

extern Look external_look(Fetch *fetch);
extern char *external_source(const text *consumer, const Position *position);
extern Slots external_window_slots(const Position *position, int lane);
extern bool external_is_elsewhere(const text *consumer, int lane, Slots slots);

#endif							/* IDEM_EXTERNAL_H */
