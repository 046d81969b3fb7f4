/*
 * tables.h
 *	  Where idem's tables are in this database.
 */
#ifndef IDEM_TABLES_H
#define IDEM_TABLES_H

#include "idem.h"

#include "utils/relcache.h"

/* each store is a ring of tables, see ring.c */
typedef enum Store
{
	STORE_KEYS,					/* finished keys */
	STORE_INBOX,				/* ids of consumed messages */
	STORE_OUTBOX,				/* messages */
	STORE_POSITIONS,			/* how far each consumer is */
	STORE_WATERMARKS,			/* how far each source is consumed */
	STORES
} Store;

#define RING_GENERATIONS 3

/* columns that every table of keys has */
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

/* idem_pinned has these too */
typedef enum PinnedColumn
{
	PINNED_FATE = KEY_COLUMNS + 1,
	PINNED_DEADLINE,
	PINNED_TTL_ENDS_AT,
	PINNED_HANDLERS,
	PINNED_ANSWER,
	PINNED_ATTEMPT,
	PINNED_TOKEN,
	PINNED_LEASE_ENDS_AT,
	PINNED_HOLDER_PID,
	PINNED_CHECKPOINT,
	PINNED_COLUMNS = PINNED_CHECKPOINT
} PinnedColumn;

typedef enum InboxColumn
{
	INBOX_DIGEST = 1,
	INBOX_EXPIRES_AT,
	INBOX_SOURCE,
	INBOX_MESSAGE_ID,
	INBOX_COLUMNS = INBOX_MESSAGE_ID
} InboxColumn;

typedef enum OutboxColumn
{
	OUTBOX_ID = 1,
	OUTBOX_XID,
	OUTBOX_ERA,
	OUTBOX_CREATED_AT,
	OUTBOX_BRANCH,
	OUTBOX_SLOT,
	OUTBOX_TOPIC,
	OUTBOX_KEY,
	OUTBOX_TYPE,
	OUTBOX_PAYLOAD,
	OUTBOX_HEADERS,
	OUTBOX_COLUMNS = OUTBOX_HEADERS
} OutboxColumn;

/* columns shared by the stores that latest.c keeps */
typedef enum LatestColumn
{
	LATEST_NAME = 1,
	LATEST_LANE,
	LATEST_N,
	LATEST_COLUMNS = LATEST_N
} LatestColumn;

/* a mark is MARK_COLUMNS columns, see mark.h */
#define MARK_COLUMNS 5

typedef enum PositionColumn
{
	POSITION_LOW = LATEST_COLUMNS + 1,
	POSITION_HIGH = POSITION_LOW + MARK_COLUMNS,
	POSITION_LAST_ID = POSITION_HIGH + MARK_COLUMNS,
	POSITION_SEQ,
	POSITION_SEQ_ERA,
	POSITION_SEQ_BRANCH,
	POSITION_SEQ_NUMBERING,
	POSITION_WINDOW_LANES,
	POSITION_REDRIVEN_ID,
	POSITION_COLUMNS = POSITION_REDRIVEN_ID
} PositionColumn;

/* columns of idem_subscriptions */
typedef enum SubscriptionColumn
{
	SUBSCRIPTION_CONSUMER = 1,
	SUBSCRIPTION_ID,
	SUBSCRIPTION_TOPICS,
	SUBSCRIPTION_LANES,
	SUBSCRIPTION_EXTERNAL,
	SUBSCRIPTION_SINCE,
	SUBSCRIPTION_COLUMNS = SUBSCRIPTION_SINCE
} SubscriptionColumn;

/* columns of idem_parked; from PARKED_ERA on they are the message's own */
typedef enum ParkedColumn
{
	PARKED_CONSUMER = 1,
	PARKED_SLOT,
	PARKED_ID,
	PARKED_STATE,
	PARKED_ATTEMPTS,
	PARKED_DUE_AT,
	PARKED_FAILED_AT,
	PARKED_ERROR,
	PARKED_ERA,
	PARKED_CREATED_AT,
	PARKED_BRANCH,
	PARKED_TOPIC,
	PARKED_KEY,
	PARKED_TYPE,
	PARKED_PAYLOAD,
	PARKED_HEADERS,
	PARKED_COLUMNS = PARKED_HEADERS
} ParkedColumn;

/* columns of idem_attempts */
typedef enum AttemptColumn
{
	ATTEMPT_CONSUMER = 1,
	ATTEMPT_LANE,
	ATTEMPT_BATCH,
	ATTEMPT_MESSAGES,
	ATTEMPT_ID,
	ATTEMPT_CLIENT,
	ATTEMPT_FAILED_AT,
	ATTEMPT_COLUMNS = ATTEMPT_FAILED_AT
} AttemptColumn;

/* columns of idem_transitions */
typedef enum TransitionColumn
{
	TRANSITION_MACHINE = 1,
	TRANSITION_FROM,
	TRANSITION_TO,
	TRANSITION_ENABLED,
	TRANSITION_SHIPPED,
	TRANSITION_COLUMNS = TRANSITION_SHIPPED
} TransitionColumn;

/* columns of idem_guarded_topics */
typedef enum GuardedColumn
{
	GUARDED_TOPIC = 1,
	GUARDED_MACHINE,
	GUARDED_COLUMNS = GUARDED_MACHINE
} GuardedColumn;

/* columns of idem_outbox_states */
typedef enum StateColumn
{
	STATE_TOPIC = 1,
	STATE_KEY,
	STATE_STATE,
	STATE_ID,
	STATE_SINCE,
	STATE_COLUMNS = STATE_SINCE
} StateColumn;

/* columns of idem_scopes */
typedef enum ScopeColumn
{
	SCOPE_SCOPE = 1,
	SCOPE_STATE,
	SCOPE_EPOCH,
	SCOPE_MOVE,
	SCOPE_POSITION,
	SCOPE_SINCE,
	SCOPE_COLUMNS = SCOPE_SINCE
} ScopeColumn;

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

/*
 * A table and the index by which its rows are found.  A generation's is
 * InvalidOid where pg_upgrade has left it out, see shrink.c.
 */
typedef struct StoreTable
{
	Oid			heap;
	Oid			index;
} StoreTable;

typedef struct Tables
{
	uint64		version;		/* another after any change to one of them */
	Oid			schema;
	Oid			extension;		/* another after DROP and CREATE EXTENSION */
	Oid			subscription;	/* one that writes some of them, see subscriber.c */
	Oid			claim_result;	/* the row type that idem_claim() returns */
	Oid			cancel_result;	/* and idem_cancel() */
	Oid			execute_result; /* and idem_execute() */
	Oid			ring;
	StoreTable	generation[STORES][RING_GENERATIONS];
	StoreTable	pinned;
	Oid			pinned_expiry;	/* index of pinned on expires_at */
	Oid			pinned_deadline;	/* index of pinned on fate, deadline */
	Oid			pinned_key;		/* index of pinned on key alone */
	Oid			outbox_by_xid[RING_GENERATIONS];	/* index on xid, id */
	Oid			outbox_ids;		/* sequence */
	Oid			tokens;			/* sequence */
	StoreTable	scopes;
	StoreTable	subscriptions;
	StoreTable	parked;
	Oid			parked_due;		/* index of parked on consumer, due_at */
	StoreTable	attempts;
	Oid			transitions;
	Oid			guarded_topics;
	StoreTable	outbox_states;
	Oid			guard;			/* the function idem_guard() */
} Tables;

extern const Tables *idem_tables(void);
extern const char *store_name(Store store);
extern void idem_index_is_lost(Oid heap);
extern Relation idem_open_index(Relation heap, Oid index);

#endif							/* IDEM_TABLES_H */
