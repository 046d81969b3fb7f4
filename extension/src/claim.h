/*
 * claim.h
 *	  The claims of the current transaction.
 */
#ifndef IDEM_CLAIM_H
#define IDEM_CLAIM_H

#include "handler.h"
#include "key.h"

typedef enum ClaimState
{
	CLAIM_NONE,					/* never made, or rolled back */
	CLAIM_OPEN,
	CLAIM_COMPLETED,
	CLAIM_RELEASED
} ClaimState;

extern ClaimState claim_state(const IdemKey *key);
extern bool claim_lock(const IdemKey *key, int wait_ms);
extern void claim_unlock(const IdemKey *key);
extern int	claim_wait_ms(FunctionCallInfo fcinfo, int arg);
extern void claim_refuse_lease(FunctionCallInfo fcinfo, int arg, const char *name);
extern void claim_add_handler(const IdemKey *key, Handler *handler, int64 deadline);

/* status.c */
extern void claim_require_lock(const IdemKey *key);

#endif							/* IDEM_CLAIM_H */
