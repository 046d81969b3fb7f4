/*
 * scope.h
 *	  Scopes that move from node to node.
 */
#ifndef IDEM_SCOPE_H
#define IDEM_SCOPE_H

#include "key.h"

extern bool scope_is_here(const IdemKey *key);
extern void scope_require_here(const IdemKey *key);

#endif							/* IDEM_SCOPE_H */
