/*
 * claim.h
 *	  The claims of the current transaction.
 */
#ifndef IDEM_CLAIM_H
#define IDEM_CLAIM_H

#include "handler.h"
#include "key.h"
#include "key_store.h"
#include "utils/jsonb.h"

typedef enum ClaimState
{
	CLAIM_NONE,					/* never made, or rolled back */
	CLAIM_OPEN,
	CLAIM_COMPLETED,
	CLAIM_RELEASED
} ClaimState;

/* what a claim answers */
typedef enum ClaimAnswer
{
	ANSWER_CLAIMED,
	ANSWER_COMPLETED,
	ANSWER_IN_PROGRESS,
	ANSWER_MISMATCH,
	ANSWER_CANCELLED
} ClaimAnswer;

typedef struct ClaimTerms
{
	Jsonb	   *request;		/* NULL: not compared */
	int			wait_ms;
	int64		ttl;			/* us; negative: idem.key_ttl */
	int64		lease;			/* us; 0: none */
	KeyReader  *reader;			/* of a call with many keys, or NULL */
} ClaimTerms;

extern ClaimAnswer claim_take(const IdemKey *key, const ClaimTerms *terms, KeyRow *row);
extern const char *claim_answer_name(ClaimAnswer answer);
extern void claim_count(ClaimAnswer answer);
extern TimestampTz claim_complete(const IdemKey *key, KeyWriter *writer, Datum response);
extern TimestampTz claim_cacheable_until(const KeyRow *row);
extern void claim_release(const IdemKey *key);
extern ClaimState claim_state(const IdemKey *key);
extern bool claim_lock(const IdemKey *key, int wait_ms);
extern void claim_unlock(const IdemKey *key);
extern int	claim_wait_ms(FunctionCallInfo fcinfo, int arg);
extern void claim_add_handler(const IdemKey *key, Handler *handler, int64 deadline);

/* status.c */
extern void claim_require_lock(const IdemKey *key);

#endif							/* IDEM_CLAIM_H */
