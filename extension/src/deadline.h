/*
 * deadline.h
 *	  Cancelling keys that are past their deadline.
 */
#ifndef IDEM_DEADLINE_H
#define IDEM_DEADLINE_H

#include "idem.h"

#include "nodes/pg_list.h"

extern List *deadline_roles(TimestampTz until);
extern void deadline_run(const char *role, TimestampTz until);

#endif							/* IDEM_DEADLINE_H */
