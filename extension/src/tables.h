/*
 * tables.h
 *	  Where idem's tables are in this database.
 */
#ifndef IDEM_TABLES_H
#define IDEM_TABLES_H

#include "idem.h"

#define KEY_GENERATIONS 3

/* columns shared by every table that holds keys */
typedef enum KeyColumn
{
	KEY_DIGEST = 1,
	KEY_CLAIMED_AT,
	KEY_COMPLETED_AT,
	KEY_EXPIRES_AT,
	KEY_LIFE,
	KEY_SCOPE,
	KEY_KEY,
	KEY_FINGERPRINT,
	KEY_RESPONSE,
	KEY_COLUMNS = KEY_RESPONSE
} KeyColumn;

/* columns of idem_ring */
typedef enum RingColumn
{
	RING_STORE = 1,
	RING_STEP,
	RING_CURRENT,
	RING_OPENED_AT,
	RING_TTL,
	RING_ENDS_AT,
	RING_EMPTIED,
	RING_COLUMNS = RING_EMPTIED
} RingColumn;

/* a table of keys and its index on digest */
typedef struct KeyTable
{
	Oid			heap;
	Oid			index;
} KeyTable;

typedef struct Tables
{
	uint64		version;		/* another after any change to one of them */
	Oid			schema;
	Oid			claim_result;	/* the row type that idem_claim() returns */
	Oid			ring;
	KeyTable	generation[KEY_GENERATIONS];
	KeyTable	pinned;
	Oid			pinned_expiry;	/* index of pinned on expires_at */
} Tables;

extern const Tables *idem_tables(void);

#endif							/* IDEM_TABLES_H */
