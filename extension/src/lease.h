/*
 * lease.h
 *	  Keys whose work spans transactions.
 */
#ifndef IDEM_LEASE_H
#define IDEM_LEASE_H

#include "handler.h"
#include "key.h"
#include "key_store.h"
#include "portability/instr_time.h"

#define LEASE_MAX USECS_PER_DAY
#define TOKEN_SEQUENCE_BITS 48	/* low ones of a token; idem_tokens has that maximum */

/* how long a caller waits for a key, for its lock and for a lease together */
typedef struct LeaseWait
{
	instr_time	began;
	int			ms;
	int			pause;			/* ms */
} LeaseWait;

extern void lease_wait_begin(LeaseWait *wait, int ms);
extern int	lease_wait_left(const LeaseWait *wait);
extern bool lease_wait(LeaseWait *wait);

extern bool lease_is_live(const KeyRow *row);
extern bool lease_is_own(const KeyRow *row);
extern int64 lease_ttl(const KeyRow *row);
extern void lease_begin(const IdemKey *key, KeyRow *row, bool takeover,
						int64 lease, int64 ttl);
extern void lease_pass_token_number(int64 number);
extern void lease_settle(KeyRow *row, Datum response, int64 ttl);
extern void lease_complete(IdemKey *key, int64 token, Datum response);
extern void lease_release(IdemKey *key, int64 token);
extern void lease_add_handler(IdemKey *key, int64 token, const Handler *handler,
							  int64 deadline);

#endif							/* IDEM_LEASE_H */
