/*
 * shrink.h
 *	  Making a retired generation small before it is truncated.
 */
#ifndef IDEM_SHRINK_H
#define IDEM_SHRINK_H

#include "idem.h"

#include "utils/relcache.h"

extern bool shrink_is_due(Oid heap);
extern bool shrink_is_under_way(Oid heap);
extern bool shrink_may_step(void);
extern long shrink_wait_ms(void);
extern void shrink_step(Relation heap);
extern void shrink_end(Relation heap);

#endif							/* IDEM_SHRINK_H */
