/*
 * guard.h
 *	  State machines on users' own tables.
 */
#ifndef IDEM_GUARD_H
#define IDEM_GUARD_H

#include "idem.h"

#include "lib/stringinfo.h"

extern int64 guard_count(const char *machine, const char *state, StringInfo where);

#endif							/* IDEM_GUARD_H */
