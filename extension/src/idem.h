/*
 * idem.h
 *	  What every part of the extension shares: settings, locks, guards.
 */
#ifndef IDEM_H
#define IDEM_H

#include "postgres.h"

#include "fmgr.h"
#include "datatype/timestamp.h"
#include "storage/lock.h"
#include "utils/resowner.h"

#include "compat.h"
#include "errors.h"

/*
 * Our locks live in the advisory lock space under classes of their own (the
 * server's functions use 1 and 2).  pg_locks shows the class as objsubid; the
 * view idem_holders selects by it.
 */
#define IDEM_LOCK_CLAIM		7341	/* one key, by digest */
#define IDEM_LOCK_MAINTAIN	7342	/* one maintainer at a time */
#define IDEM_LOCK_LANE		7343	/* one lane of a consumer, by its id */
#define IDEM_LOCK_INBOX		7344	/* one message, by digest */
#define IDEM_LOCK_WATERMARK	7345	/* one lane of a source, by digest */
#define IDEM_LOCK_STATE		7346	/* one key of a guarded topic, by digest */
#define IDEM_LOCK_SCOPE		7347	/* one scope that moves, by digest */

#define IDEM_MAX_NAME_BYTES 255 /* of a key, a scope or another name */

#define IDEM_MAX_WAIT_MS	(60 * 60 * 1000)	/* one hour */
#define IDEM_MAX_FETCH_WAIT_MS	(60 * 1000) /* one minute */
#define IDEM_MAX_DAYS		3653	/* ten years */
#define IDEM_MAX_TTL_S		(IDEM_MAX_DAYS * 24 * 60 * 60)

/* settings, idem.c */
extern int	idem_claim_wait;	/* ms */
extern int	idem_key_ttl;		/* s */
extern bool idem_require_completion;
extern int	idem_outbox_retention;	/* s */
extern int	idem_inbox_retention;	/* s */
extern bool idem_strand_rows;
extern int	idem_max_attempts;
extern char *idem_client;
extern int	idem_naptime;		/* s */

/* idem.c */
extern void idem_require_primary(const char *function);
extern void idem_require_writable(const char *function);
extern int64 idem_interval_us(FunctionCallInfo fcinfo, int arg,
							  const char *name, int64 min, int64 max);
extern text *idem_name(FunctionCallInfo fcinfo, int arg, const char *what);
extern void idem_check_name(const text *name, const char *what);
extern bool idem_text_equal(const text *a, const text *b);
extern ErrorData *idem_undo(MemoryContext context, ResourceOwner owner);
extern ErrorData *idem_undo_for(int sqlstate, MemoryContext context, ResourceOwner owner);

/* claim.c */
extern void idem_claim_init(void);

/* batch.c */
extern void idem_batch_init(void);

/* stats.c */
extern void idem_stats_init(void);

/* worker.c */
extern void idem_worker_init(void);

#endif							/* IDEM_H */
