/*
 * shrink.h
 *	  Making a retired generation small before it is truncated.
 */
#ifndef IDEM_SHRINK_H
#define IDEM_SHRINK_H

#include "tables.h"

#include "utils/relcache.h"

extern bool shrink_is_due(Oid heap);
extern bool shrink_is_under_way(Store store, int generation);
extern bool shrink_may_step(void);
extern long shrink_wait_ms(void);
extern void shrink_step(Relation heap);
extern void shrink_end(Relation heap, Store store, int generation, int current);

#endif							/* IDEM_SHRINK_H */
