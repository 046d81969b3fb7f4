/*
 * claim.c
 *	  Claim, complete, release: what a transaction does with a key.
 *
 * A claim is a lock on the key's digest, held until the transaction ends, and
 * an entry in this backend's memory, compensation included.  Nothing is written before the
 * completion, so a rollback, a crash or a rolled-back savepoint frees the key
 * without a trace.  A claim with a lease is a row instead, see lease.c.
 */
#include "claim.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "batch.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "key_store.h"
#include "lease.h"
#include "lock.h"
#include "replay.h"
#include "stats.h"
#include "storage/proc.h"
#include "tables.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(idem_claim);
PG_FUNCTION_INFO_V1(idem_complete);
PG_FUNCTION_INFO_V1(idem_release);

/* what changes over a claim's time, and is put back with a savepoint */
typedef struct ClaimInfo
{
	ClaimState	state;
	TimestampTz claimed_at;
	int64		ttl;			/* us */
	int32		life;
	XLogRecPtr	wal;			/* this transaction's WAL at the claim */
	bool		has_fingerprint;
	uint8		fingerprint[FINGERPRINT_BYTES];
	const Handler *handlers;	/* newest first */
	int64		deadline;		/* us from the completion; 0: none */
	bool		takeover;		/* of a lease that was over */
} ClaimInfo;

typedef struct Claim
{
	IdemKey		key;			/* hash key; its texts are the claim's own */
	ClaimInfo	info;
} Claim;

/* what a claim was before a change, newest first */
typedef struct ClaimUndo
{
	struct ClaimUndo *next;
	SubTransactionId subid;
	Claim	   *claim;
	ClaimInfo	before;
} ClaimUndo;

/* all three are empty between transactions */
static HTAB *claims = NULL;
static ClaimUndo *undo = NULL;
static int	open_claims = 0;

static ExecutorEnd_hook_type previous_executor_end = NULL;
static ProcessUtility_hook_type previous_utility = NULL;

#define CLAIMS_KEPT 256			/* a larger table is given back */

static uint32
claim_hash(const void *key, Size size)
{
	const IdemKey *k = key;

	(void) size;
	return hash_combine(hash_bytes((const unsigned char *) k->key, k->key_len),
						hash_bytes((const unsigned char *) k->scope, k->scope_len));
}

static int
claim_match(const void *a, const void *b, Size size)
{
	(void) size;
	return key_equal(a, b) ? 0 : 1;
}

static Claim *
find_claim(const IdemKey *key)
{
	if (claims == NULL || hash_get_num_entries(claims) == 0)
		return NULL;
	return hash_search(claims, key, HASH_FIND, NULL);
}

ClaimState
claim_state(const IdemKey *key)
{
	Claim	   *claim = find_claim(key);

	return claim == NULL ? CLAIM_NONE : claim->info.state;
}

static void
set_info(Claim *claim, const ClaimInfo *info)
{
	open_claims += (info->state == CLAIM_OPEN) - (claim->info.state == CLAIM_OPEN);
	claim->info = *info;
}

/*
 * Change a claim so that a rollback to a savepoint changes it back.
 */
static void
change_claim(Claim *claim, const ClaimInfo *info)
{
	ClaimUndo  *entry = MemoryContextAlloc(TopTransactionContext, sizeof(ClaimUndo));

	entry->next = undo;
	entry->subid = GetCurrentSubTransactionId();
	entry->claim = claim;
	entry->before = claim->info;
	undo = entry;
	set_info(claim, info);
}

static void
change_state(Claim *claim, ClaimState state)
{
	ClaimInfo	info = claim->info;

	info.state = state;
	change_claim(claim, &info);
}

static void on_transaction_end(XactEvent event, void *arg);

/*
 * Callbacks run newest first.  Another extension's may commit something
 * remote; ours must have refused the transaction before that.
 */
static void
come_first(void)
{
	UnregisterXactCallback(on_transaction_end, NULL);
	RegisterXactCallback(on_transaction_end, NULL);
}

/*
 * postgres_fdw registers when it is first used, which can be after the claim:
 * so again after every statement while a claim is open.
 */
static void
on_executor_end(QueryDesc *query)
{
	if (previous_executor_end)
		previous_executor_end(query);
	else
		standard_ExecutorEnd(query);
	if (open_claims > 0 || batch_is_open())
		come_first();
}

static void
on_utility(PlannedStmt *statement, const char *source, bool read_only_tree,
		   ProcessUtilityContext context, ParamListInfo params,
		   QueryEnvironment *environment, DestReceiver *receiver,
		   QueryCompletion *completion)
{
	if (previous_utility)
		previous_utility(statement, source, read_only_tree, context, params,
						 environment, receiver, completion);
	else
		standard_ProcessUtility(statement, source, read_only_tree, context, params,
								environment, receiver, completion);
	if (open_claims > 0 || batch_is_open())
		come_first();
}

/*
 * The claim of this key, made if there is none.
 */
static Claim *
enter_claim(const IdemKey *key)
{
	Claim	   *claim;
	bool		found;

	if (claims == NULL)
	{
		HASHCTL		ctl = {
			.keysize = sizeof(IdemKey),
			.entrysize = sizeof(Claim),
			.hash = claim_hash,
			.match = claim_match,
			.hcxt = TopMemoryContext
		};

		claims = hash_create("idem claims", 16, &ctl,
							 HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	}
	if (hash_get_num_entries(claims) == 0)
		come_first();

	claim = hash_search(claims, key, HASH_ENTER, &found);
	if (!found)
	{
		char	   *texts;

		memset(&claim->info, 0, sizeof(claim->info));
		claim->info.state = CLAIM_NONE;

		/* until it is its own, the entry must not outlive an error */
		texts = MemoryContextAllocExtended(TopTransactionContext,
										   key->key_len + key->scope_len + 1,
										   MCXT_ALLOC_NO_OOM);
		if (texts == NULL)
		{
			hash_search(claims, key, HASH_REMOVE, NULL);
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		}
		memcpy(texts, key->key, key->key_len);
		memcpy(texts + key->key_len, key->scope, key->scope_len);
		claim->key.key = texts;
		claim->key.scope = texts + key->key_len;
	}
	claim->key.digest = key->digest;
	return claim;
}

static void
forget_claims(void)
{
	undo = NULL;
	open_claims = 0;
	if (claims == NULL)
		return;
	if (hash_get_num_entries(claims) > CLAIMS_KEPT)
	{
		hash_destroy(claims);
		claims = NULL;
	}
	else if (hash_get_num_entries(claims) > 0)
	{
		HASH_SEQ_STATUS scan;
		Claim	   *claim;

		hash_seq_init(&scan, claims);
		while ((claim = hash_seq_search(&scan)) != NULL)
			hash_search(claims, &claim->key, HASH_REMOVE, NULL);
	}
}

/*
 * A claim left open at the end would silently lose its protection: the work
 * would be kept and the key forgotten.
 */
static void
refuse_open_claims(void)
{
	HASH_SEQ_STATUS scan;
	Claim	   *claim;

	if (open_claims == 0)
		return;

	hash_seq_init(&scan, claims);
	while ((claim = hash_seq_search(&scan)) != NULL)
	{
		if (claim->info.state == CLAIM_OPEN)
		{
			hash_seq_term(&scan);
			break;
		}
	}
	Assert(claim != NULL);

	ereport(idem_require_completion ? ERROR : WARNING,
			(errcode(ERRCODE_IDEM_CLAIM_OPEN),
			 errmsg("idempotency key \"%.*s\" is claimed but neither completed nor released",
					claim->key.key_len, claim->key.key),
			 errdetail_plural("%d claim of this transaction is open.",
							  "%d claims of this transaction are open.",
							  open_claims, open_claims),
			 IsTransactionBlock() ?
			 errhint("Call idem_complete() or idem_release() before the transaction ends.") :
			 errhint("Begin a transaction: BEGIN; SELECT * FROM idem_claim(...); your work; SELECT idem_complete(...); COMMIT. Or pass lease, for work in several transactions.")));
}

static void
on_transaction_end(XactEvent event, void *arg)
{
	(void) arg;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			refuse_open_claims();
			batch_refuse_open();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_claims();
			break;
		default:
			break;
	}
}

/*
 * What a rolled-back subtransaction did to claims is undone.  Its own number
 * is below those of all its descendants, and above all that came before.
 */
static void
on_subtransaction_end(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	(void) parent;
	(void) arg;

	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (undo != NULL && undo->subid >= subid)
	{
		ClaimUndo  *entry = undo;

		set_info(entry->claim, &entry->before);
		undo = entry->next;
		pfree(entry);
	}
}

void
idem_claim_init(void)
{
	RegisterXactCallback(on_transaction_end, NULL);
	RegisterSubXactCallback(on_subtransaction_end, NULL);
	previous_executor_end = ExecutorEnd_hook;
	ExecutorEnd_hook = on_executor_end;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = on_utility;
}

/*
 * Wait in the lock's queue, so that the next in line is woken at once and
 * deadlocks are found.  Running out of time is an answer here, not an error;
 * the subtransaction cleans up after the one that the server raises.
 */
static bool
lock_within(const LOCKTAG *tag, int wait_ms)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			save_timeout = LockTimeout;
	volatile bool locked = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	if (LockTimeout == 0 || LockTimeout > wait_ms)
		LockTimeout = wait_ms;
	PG_TRY();
	{
		(void) idem_lock(tag, ExclusiveLock, true);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		LockTimeout = save_timeout;
		FreeErrorData(idem_undo_for(ERRCODE_LOCK_NOT_AVAILABLE, context, owner));
		locked = false;
	}
	PG_END_TRY();
	LockTimeout = save_timeout;
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return locked;
}

bool
claim_lock(const IdemKey *key, int wait_ms)
{
	LOCKTAG		tag;

	key_locktag(key, &tag);
	if (idem_lock(&tag, ExclusiveLock, false))
		return true;
	if (wait_ms <= 0)
		return false;
	stats_count(STAT_WAITS);
	return lock_within(&tag, wait_ms);
}

void
claim_unlock(const IdemKey *key)
{
	LOCKTAG		tag;

	key_locktag(key, &tag);
	idem_unlock(&tag, ExclusiveLock);
}

/*
 * Until when the response of a completed key may be cached; DT_NOBEGIN: not at
 * all, for it may still be cancelled.
 */
TimestampTz
claim_cacheable_until(const KeyRow *row)
{
	return row->fate == FATE_HELD ? DT_NOBEGIN : row->expires_at;
}

/*
 * An idem_claim_result (status, response, attempt, token, checkpoint,
 * cacheable_until).
 */
static Datum
claim_answer(ClaimAnswer answer, const KeyRow *row)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(idem_tables()->claim_result, -1);
	Datum		values[6];
	bool		nulls[6] = {false, true, true, true, true, true};
	HeapTuple	tuple;

	values[0] = CStringGetTextDatum(claim_answer_name(answer));
	if (answer == ANSWER_CLAIMED || answer == ANSWER_COMPLETED)
	{
		values[2] = Int32GetDatum(row->attempt);
		nulls[2] = false;
	}
	if (answer == ANSWER_CLAIMED)
	{
		values[3] = Int64GetDatum(row->token);
		nulls[3] = row->token == 0;
		values[4] = row->checkpoint;
		nulls[4] = row->checkpoint == 0;
	}
	if (answer == ANSWER_COMPLETED)
	{
		values[1] = row->response;
		nulls[1] = false;
		values[5] = TimestampTzGetDatum(claim_cacheable_until(row));
		nulls[5] = TIMESTAMP_IS_NOBEGIN(claim_cacheable_until(row));
	}
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

const char *
claim_answer_name(ClaimAnswer answer)
{
	static const char *const names[] = {
		[ANSWER_CLAIMED] = "claimed",
		[ANSWER_COMPLETED] = "completed",
		[ANSWER_IN_PROGRESS] = "in_progress",
		[ANSWER_MISMATCH] = "mismatch",
		[ANSWER_CANCELLED] = "cancelled",
	};

	return names[answer];
}

/*
 * How long to wait for a lock, from an argument that may be NULL.
 */
int
claim_wait_ms(FunctionCallInfo fcinfo, int arg)
{
	int64		wait = idem_interval_us(fcinfo, arg, "wait", 0,
										INT64CONST(1000) * IDEM_MAX_WAIT_MS);

	return wait < 0 ? idem_claim_wait : (int) ((wait + 999) / 1000);
}

static void
refuse_claimed(const IdemKey *key)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_ALREADY_CLAIMED),
			 errmsg("idempotency key \"%.*s\" is already claimed by this transaction",
					key->key_len, key->key),
			 errdetail("Scope: \"%.*s\".", key->scope_len, key->scope),
			 errhint("Claim once and complete once. SELECT (idem_claim(...)).* calls it once for each column; write SELECT * FROM idem_claim(...).")));
}

/*
 * What the key's living row answers to a claim.
 */
static ClaimAnswer
answer_of(const IdemKey *key, const KeyRow *row, const ClaimInfo *info)
{
	if (row->fate == FATE_LEASED && lease_is_own(row))
		refuse_claimed(key);
	if (fate_is_cancelled(row->fate))
		return ANSWER_CANCELLED;
	if (info->has_fingerprint && row->has_fingerprint &&
		memcmp(info->fingerprint, row->fingerprint, FINGERPRINT_BYTES) != 0)
		return ANSWER_MISMATCH;
	if (row->fate != FATE_LEASED)
		return ANSWER_COMPLETED;
	return lease_is_live(row) ? ANSWER_IN_PROGRESS : ANSWER_CLAIMED;
}

/*
 * A claim without a request leaves that of the claim before it.
 */
static void
keep_fingerprint(KeyRow *row, const ClaimInfo *info)
{
	if (!info->has_fingerprint)
		return;
	row->has_fingerprint = true;
	memcpy(row->fingerprint, info->fingerprint, FINGERPRINT_BYTES);
}

static ClaimAnswer
take(const IdemKey *key, const ClaimTerms *terms, KeyRow *row)
{
	ClaimInfo	info = {0};
	Claim	   *claim;
	ClaimState	state = claim_state(key);
	LeaseWait	wait;
	bool		found;
	bool		living;

	if (state == CLAIM_OPEN)
		refuse_claimed(key);

	info.has_fingerprint = terms->request != NULL;
	if (info.has_fingerprint)
		fingerprint_request(JsonbPGetDatum(terms->request), info.fingerprint);

	lease_wait_begin(&wait, terms->wait_ms);
	for (;;)
	{
		ClaimAnswer answer;

		if (state == CLAIM_NONE && !claim_lock(key, lease_wait_left(&wait)))
			return ANSWER_IN_PROGRESS;
		if (terms->lease > 0)
			key_store_hold();

		info.claimed_at = GetCurrentTimestamp();
		found = key_store_find(key, terms->reader, row);
		living = found && (state == CLAIM_COMPLETED || row->expires_at > info.claimed_at);
		answer = living ? answer_of(key, row, &info) : ANSWER_CLAIMED;
		if (answer == ANSWER_CLAIMED)
			break;

		/* nothing that we would do needs the lock */
		if (state == CLAIM_NONE)
			claim_unlock(key);
		if (answer == ANSWER_COMPLETED || answer == ANSWER_CANCELLED)
			replay_wait_durable(row->xmin, row->frozen);
		if (answer != ANSWER_IN_PROGRESS || state != CLAIM_NONE || !lease_wait(&wait))
			return answer;
	}

	/* what lives and can be claimed is a lease that is over */
	info.takeover = living;
	info.life = found ? row->life + 1 : 1;
	info.ttl = terms->ttl >= 0 ? terms->ttl :
		living ? lease_ttl(row) : idem_key_ttl * USECS_PER_SEC;
	row->attempt = living ? row->attempt + 1 : 1;
	row->token = 0;
	if (!living)
		row->checkpoint = (Datum) 0;

	if (terms->lease > 0)
	{
		if (!living)
		{
			row->life = info.life;
			row->has_fingerprint = false;
		}
		keep_fingerprint(row, &info);
		lease_begin(key, row, living, terms->lease, info.ttl);
		return ANSWER_CLAIMED;
	}

	info.state = CLAIM_OPEN;
	info.wal = XactLastRecEnd;
	claim = enter_claim(key);
	change_claim(claim, &info);
	return ANSWER_CLAIMED;
}

/*
 * For idem_stats.
 */
void
claim_count(ClaimAnswer answer)
{
	static const Stat counted[] = {
		[ANSWER_CLAIMED] = STAT_CLAIMS,
		[ANSWER_COMPLETED] = STAT_REPLAYS,
		[ANSWER_IN_PROGRESS] = STAT_IN_PROGRESS,
		[ANSWER_MISMATCH] = STAT_MISMATCHES,
		[ANSWER_CANCELLED] = STAT_CANCELLED,
	};

	stats_count(counted[answer]);
}

/*
 * Claim the key, or say why not.  Sets *row if it is completed; of a claim, its
 * attempt, token (0: none) and checkpoint.
 */
ClaimAnswer
claim_take(const IdemKey *key, const ClaimTerms *terms, KeyRow *row)
{
	ClaimAnswer answer = take(key, terms, row);

	claim_count(answer);
	if (answer == ANSWER_CLAIMED && row->attempt > 1)
		stats_count(STAT_TAKEOVERS);
	return answer;
}

Datum
idem_claim(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	ClaimTerms	terms = {0};
	KeyRow		row;

	key_from_args(fcinfo, 0, 2, &key);
	terms.request = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	terms.wait_ms = claim_wait_ms(fcinfo, 3);
	terms.ttl = idem_interval_us(fcinfo, 4, "ttl", 1, IDEM_MAX_TTL_S * USECS_PER_SEC);
	terms.lease = Max(idem_interval_us(fcinfo, 5, "lease", 1, LEASE_MAX), 0);
	idem_require_writable("idem_claim()");
	key_digest(&key);
	return claim_answer(claim_take(&key, &terms, &row), &row);
}

/*
 * The open claim that complete, release and compensate_with are about.
 */
static Claim *
require_claim(const IdemKey *key)
{
	Claim	   *claim = find_claim(key);

	if (claim == NULL || claim->info.state == CLAIM_NONE ||
		claim->info.state == CLAIM_RELEASED)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_CLAIMED),
				 errmsg("idempotency key \"%.*s\" is not claimed by this transaction",
						key->key_len, key->key),
				 errdetail("Scope: \"%.*s\".", key->scope_len, key->scope),
				 errhint("Call idem_claim() with the same key and scope first, in the same transaction, and go on only if it answers \"claimed\"; of a lease, pass the token.")));
	if (claim->info.state == CLAIM_COMPLETED)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_ALREADY_COMPLETED),
				 errmsg("idempotency key \"%.*s\" is already completed by this transaction",
						key->key_len, key->key),
				 errdetail("Scope: \"%.*s\".", key->scope_len, key->scope),
				 errhint("A completed response never changes; complete each claim once.")));
	return claim;
}

/*
 * The handler is to be kept with the key, once that is completed.
 */
void
claim_add_handler(const IdemKey *key, Handler *handler, int64 deadline)
{
	Claim	   *claim = require_claim(key);
	ClaimInfo	info = claim->info;

	handler->before = info.handlers;
	info.handlers = handler;
	if (deadline > 0 && (info.deadline == 0 || deadline < info.deadline))
		info.deadline = deadline;
	change_claim(claim, &info);
}

/*
 * Complete the row of the lease that was taken over: the key must not have
 * two.  False if it was forgotten meanwhile.
 */
static bool
complete_takeover(const Claim *claim, Datum response, KeyRow *row)
{
	const ClaimInfo *info = &claim->info;

	key_store_hold();
	if (!key_store_find(&claim->key, NULL, row) || row->fate != FATE_LEASED ||
		row->expires_at <= GetCurrentTimestamp())
		return false;

	row->claimed_at = info->claimed_at;
	row->attempt++;
	keep_fingerprint(row, info);
	if (info->handlers != NULL)
		row->handlers = handlers_to_jsonb(row->handlers, info->handlers);
	if (info->deadline > 0)
		row->deadline = Min(row->deadline, GetCurrentTimestamp() + info->deadline);
	lease_settle(row, response, info->ttl);
	key_store_update(&claim->key, row);
	return true;
}

static void
insert_completed(const Claim *claim, KeyWriter *writer, Datum response, KeyRow *row)
{
	const ClaimInfo *info = &claim->info;

	row->claimed_at = info->claimed_at;
	row->life = info->life;
	row->attempt = 1;
	row->has_fingerprint = info->has_fingerprint;
	memcpy(row->fingerprint, info->fingerprint, FINGERPRINT_BYTES);
	row->response = response;
	row->fate = FATE_NONE;
	if (info->handlers != NULL)
	{
		row->fate = FATE_HELD;
		row->handlers = handlers_to_jsonb((Datum) 0, info->handlers);
		row->answer = (Datum) 0;
		row->deadline = info->deadline == 0 ? DT_NOEND :
			GetCurrentTimestamp() + info->deadline;
	}
	key_store_insert(&claim->key, writer, row, info->ttl);
}

/*
 * Store the response of a key that this transaction has claimed; until when it
 * may be cached.
 */
TimestampTz
claim_complete(const IdemKey *key, KeyWriter *writer, Datum response)
{
	Claim	   *claim = require_claim(key);
	KeyRow		row;

	if (!claim->info.takeover || !complete_takeover(claim, response, &row))
		insert_completed(claim, writer, response, &row);
	change_state(claim, CLAIM_COMPLETED);
	return claim_cacheable_until(&row);
}

Datum
idem_complete(PG_FUNCTION_ARGS)
{
	IdemKey		key;

	key_from_args(fcinfo, 0, 2, &key);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("response must not be NULL"),
				 errdetail("The response is what every retry of \"%.*s\" will be answered with.",
						   key.key_len, key.key),
				 errhint("Pass 'null'::jsonb to store a JSON null.")));
	idem_require_writable("idem_complete()");
	if (PG_ARGISNULL(3))
		(void) claim_complete(&key, NULL, PG_GETARG_DATUM(1));
	else
		lease_complete(&key, PG_GETARG_INT64(3), PG_GETARG_DATUM(1));
	PG_RETURN_DATUM(PG_GETARG_DATUM(1));
}

/*
 * Give the claim up.  The lock stays, for others must not run before it is
 * settled whether this transaction commits.
 */
void
claim_release(const IdemKey *key)
{
	change_state(require_claim(key), CLAIM_RELEASED);
}

Datum
idem_release(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	Claim	   *claim;

	key_from_args(fcinfo, 0, 1, &key);
	if (!PG_ARGISNULL(2))
	{
		idem_require_writable("idem_release()");
		lease_release(&key, PG_GETARG_INT64(2));
		PG_RETURN_VOID();
	}
	claim = require_claim(&key);

	/*
	 * A warning and no error, because this can be a false alarm: a row lock
	 * draws a transaction id too, a rolled-back savepoint leaves its own, and
	 * reading can write hint bits.
	 */
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		XactLastRecEnd != claim->info.wal)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("transaction has written since it claimed idempotency key \"%.*s\"",
						key.key_len, key.key),
				 errdetail("If it commits, what it wrote is kept and the key is not: a retry would do it again."),
				 errhint("Roll the transaction back, or complete the key instead of releasing it.")));

	claim_release(&key);
	PG_RETURN_VOID();
}
