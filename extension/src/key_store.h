/*
 * key_store.h
 *	  How finished keys are kept.  Nothing else knows.
 *
 * Callers hold the key's lock (key_locktag) throughout.
 */
#ifndef IDEM_KEY_STORE_H
#define IDEM_KEY_STORE_H

#include "key.h"

#include "access/xlogdefs.h"
#include "storage/itemptr.h"

typedef struct KeyRow
{
	TimestampTz claimed_at;
	TimestampTz completed_at;
	TimestampTz expires_at;
	int32		life;			/* 1, and one more after each expiry */
	bool		has_fingerprint;
	uint8		fingerprint[FINGERPRINT_BYTES];
	Datum		response;		/* jsonb */

	/* set by key_store_find() */
	TransactionId xmin;			/* who wrote it */
	XLogRecPtr	frozen;			/* if known to all: where that is safe in the log */
	Oid			table;
	ItemPointerData tid;
} KeyRow;

extern bool key_store_find(const IdemKey *key, KeyRow *row);
extern void key_store_insert(const IdemKey *key, KeyRow *row, int64 ttl);
extern bool key_store_delete(const IdemKey *key, KeyRow *row);

#endif							/* IDEM_KEY_STORE_H */
