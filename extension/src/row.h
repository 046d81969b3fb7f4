/*
 * row.h
 *	  Rows written directly, without the executor.
 */
#ifndef IDEM_ROW_H
#define IDEM_ROW_H

#include "idem.h"

#include "utils/relcache.h"

extern void row_insert(Relation rel, const Datum *values, const bool *nulls);

#endif							/* IDEM_ROW_H */
