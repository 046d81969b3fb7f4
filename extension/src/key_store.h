/*
 * key_store.h
 *	  How keys are kept.  Nothing else knows.
 *
 * Callers hold the key's lock (key_locktag) throughout, but for the lists, and
 * where the scope is away: then nobody else writes its keys.
 */
#ifndef IDEM_KEY_STORE_H
#define IDEM_KEY_STORE_H

#include "key.h"
#include "ring.h"
#include "row.h"

#include "access/genam.h"
#include "access/xlogdefs.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"

/* what became of a key that is leased, can be cancelled, or was */
typedef enum Fate
{
	FATE_NONE,					/* it cannot: an ordinary key */
	FATE_HELD,					/* completed; neither confirmed nor cancelled yet */
	FATE_CONFIRMED,
	FATE_COMPENSATED,
	FATE_REFUSED,				/* the state machine refused, at the deadline */
	FATE_TOMBSTONE,				/* cancelled without having been completed */
	FATE_LEASED					/* not completed yet; see lease.c */
} Fate;

typedef struct KeyRow
{
	TimestampTz claimed_at;
	TimestampTz completed_at;
	TimestampTz expires_at;
	int32		life;			/* 1, and one more after each expiry */
	int32		attempt;		/* 1, and one more after each takeover */
	bool		has_fingerprint;
	uint8		fingerprint[FINGERPRINT_BYTES];
	Datum		response;		/* jsonb */

	Fate		fate;			/* if none, what follows is not set */
	TimestampTz deadline;		/* DT_NOEND: none */
	TimestampTz ttl_ends_at;	/* when it would expire, were there no deadline */
	Datum		handlers;		/* jsonb, see handler.c; 0: none */
	Datum		answer;			/* jsonb: what a cancellation answers; 0: none yet */

	/* set if it is leased */
	int64		token;
	TimestampTz lease_ends_at;
	int			holder_pid;		/* who claimed or renewed it */
	Datum		checkpoint;		/* jsonb; 0: none yet */

	/* set by key_store_find() */
	TransactionId xmin;			/* who wrote it */
	XLogRecPtr	frozen;			/* if known to all: where that is safe in the log */
	Oid			table;
	ItemPointerData tid;
} KeyRow;

/*
 * What stays open from one key to the next where a call has many; all zero:
 * nothing yet.  Of no use to another call.
 */
typedef struct KeyReader
{
	uint64		version;		/* of the tables, when the first was opened */
	IndexScanDesc scans[RING_GENERATIONS + 1];	/* NULL: not open */
} KeyReader;

typedef struct KeyWriter
{
	uint64		version;
	RowWriter	rows;			/* of the current generation; rel is NULL: not open */
} KeyWriter;

/* how far a scan of all keys has come, in the order of their places */
typedef struct KeyPlace
{
	int			table;			/* the generations, then idem_pinned */
	Oid			file;			/* if it is another one, its rows have moved */
	ItemPointerData tid;		/* the last one read */
} KeyPlace;

typedef struct FoundKey
{
	IdemKey		key;
	KeyRow		row;
} FoundKey;

/* a key past its deadline */
typedef struct DueKey
{
	IdemKey		key;
	Datum		handlers;
} DueKey;

/* how far a scan of those has come; all zero: not begun */
typedef struct DuePosition
{
	int			pass;			/* one for each fate that can be due */
	bool		begun;			/* in this pass */
	TimestampTz deadline;
	ItemPointerData tid;
} DuePosition;

extern bool fate_is_cancelled(Fate fate);
extern const char *fate_name(Fate fate);
extern Fate fate_named(const char *name);

extern void key_reader_close(KeyReader *reader);
extern void key_writer_close(KeyWriter *writer);
extern bool key_store_find(const IdemKey *key, KeyReader *reader, KeyRow *row);
extern bool key_store_find_away(const IdemKey *key, KeyReader *reader, KeyRow *row);
extern void key_store_insert(const IdemKey *key, KeyWriter *writer, KeyRow *row, int64 ttl);
extern void key_store_pin(const IdemKey *key, const KeyRow *row);
extern bool key_store_delete(const IdemKey *key, KeyRow *row);
extern void key_store_hold(void);
extern void key_store_update(const IdemKey *key, KeyRow *row);
extern List *key_store_due(DuePosition *position, TimestampTz until, int max);
extern List *key_store_other_scopes(const IdemKey *key, int max);
extern void key_store_settle(void);
extern List *key_store_scan(const IdemKey *scope, KeyPlace *place, int max);
extern bool key_store_scanned(const KeyPlace *place);

#endif							/* IDEM_KEY_STORE_H */
