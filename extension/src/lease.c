/*
 * lease.c
 *	  Keys whose work spans transactions: idem_renew, idem_checkpoint, and
 *	  what claim, complete, release and compensation do with a lease.
 *
 * A lease is a row of idem_pinned, written when the key is claimed and from
 * then on changed in place, always under the key's lock.  The row has a token,
 * and who knows it owns the key.  Once the lease is over, the next claim takes
 * the key over: it writes another token, and what the late owner does is
 * refused.
 *
 * So nobody's ownership rests on a clock.  The clock decides when others may
 * take over, the token who the owner is; that is compared under the lock, in
 * the transaction that changes the row.  A clock set forward ends leases early,
 * one set back makes them last; in between there is always one token.
 *
 * A token must not be given out twice, whatever the server may forget.  Its
 * high bits tell the incarnation, for a standby that is promoted can be behind
 * on the sequence that the low bits are from.  And no lease is committed
 * asynchronously, for the sequence is flushed with it.
 */
#include "lease.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "claim.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "incarnation.h"
#include "json.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "sequence.h"
#include "stats.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_renew);
PG_FUNCTION_INFO_V1(idem_checkpoint);

#define TOKEN_BRANCHES 0x8000	/* and 15 bits above, so that it is positive */

#define MAX_PAUSE 32			/* ms */

/*
 * Leases are asked for again and again, the less often the longer it takes:
 * their owners are elsewhere, and there is nothing of theirs to wait on.
 */
void
lease_wait_begin(LeaseWait *wait, int ms)
{
	INSTR_TIME_SET_CURRENT(wait->began);
	wait->ms = LockTimeout > 0 ? Min(ms, LockTimeout) : ms;
	wait->pause = 1;
}

/*
 * In ms.  A clock that is set does not change it.
 */
int
lease_wait_left(const LeaseWait *wait)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, wait->began);
	return (int) Max(wait->ms - INSTR_TIME_GET_MILLISEC(now), 0);
}

/*
 * Sleep a little; false if the time is over.  The caller has given the key's
 * lock up, for the owner needs it.
 */
bool
lease_wait(LeaseWait *wait)
{
	int			left = lease_wait_left(wait);

	if (left == 0)
		return false;
	if (wait->pause == 1)
		stats_count(STAT_WAITS);	/* once */
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(wait->pause, left), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	wait->pause = Min(wait->pause * 2, MAX_PAUSE);
	return true;
}

/*
 * Of a leased key: may nobody take it over yet?
 */
bool
lease_is_live(const KeyRow *row)
{
	return row->lease_ends_at > GetCurrentTimestamp();
}

/*
 * Did this very transaction claim it, or renew it?
 */
bool
lease_is_own(const KeyRow *row)
{
	return TransactionIdIsCurrentTransactionId(row->xmin);
}

/*
 * How long the key is to be remembered once completed.
 */
int64
lease_ttl(const KeyRow *row)
{
	return row->ttl_ends_at - row->lease_ends_at;
}

/*
 * Tokens of one database differ for as long as its timeline does; those of two
 * databases almost certainly.
 */
static int64
next_token(void)
{
	Incarnation now = incarnation_now();
	uint64		identity = hash_bytes_extended((const unsigned char *) &now.era, sizeof(now.era),
											   (uint32) now.branch);
	uint64		branch = (identity + (uint64) (now.branch >> 32)) % TOKEN_BRANCHES;

	return (int64) (branch << TOKEN_SEQUENCE_BITS) |
		nextval_internal(idem_tables()->tokens, false);
}

/*
 * Draw only greater ones: the keys of another node, with their tokens, are to
 * be ours, and whoever had one of them before must not find it again.
 */
void
lease_pass_token_number(int64 number)
{
	/* nobody draws one meanwhile */
	Relation	rel = relation_open(idem_tables()->tokens, ShareRowExclusiveLock);
	Oid			save_user;
	int			save_context;

	/* who may not set it otherwise may raise it so */
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner, save_context | SECURITY_LOCAL_USERID_CHANGE);
	sequence_reach(RelationGetRelid(rel), number);
	SetUserIdAndSecContext(save_user, save_context);
	relation_close(rel, NoLock);
}

/*
 * Let it last from now on.  A lease that is left alone is forgotten
 * idem.key_ttl after its end, but not before a deadline is kept.
 */
static void
extend(KeyRow *row, int64 lease, int64 ttl)
{
	row->lease_ends_at = GetCurrentTimestamp() + lease;
	row->ttl_ends_at = row->lease_ends_at + ttl;
	row->expires_at = !TIMESTAMP_IS_NOEND(row->deadline) ? DT_NOEND :
		row->lease_ends_at + idem_key_ttl * USECS_PER_SEC;
	row->holder_pid = MyProcPid;
}

static Datum
json_null(void)
{
	JsonbValue	null = {.type = jbvNull};

	return JsonbPGetDatum(JsonbValueToJsonb(&null));
}

/*
 * Lease the key, whose lock the caller holds, to a new owner.  A takeover
 * goes on with the row, its compensation and checkpoint included.
 */
void
lease_begin(const IdemKey *key, KeyRow *row, bool takeover, int64 lease, int64 ttl)
{
	row->token = next_token();
	row->answer = (Datum) 0;
	if (!takeover)
	{
		row->fate = FATE_LEASED;
		row->response = json_null();
		row->deadline = DT_NOEND;
		row->handlers = (Datum) 0;
	}
	row->claimed_at = row->completed_at = GetCurrentTimestamp();
	extend(row, lease, ttl);
	if (takeover)
		key_store_update(key, row);
	else
		key_store_pin(key, row);
	ForceSyncCommit();
}

/*
 * The row of a lease that is completed.
 */
void
lease_settle(KeyRow *row, Datum response, int64 ttl)
{
	row->fate = row->handlers == 0 ? FATE_NONE : FATE_HELD;
	row->response = response;
	row->answer = (Datum) 0;
	row->completed_at = GetCurrentTimestamp();
	row->expires_at = row->ttl_ends_at = row->completed_at + ttl;
	if (row->fate == FATE_HELD && !TIMESTAMP_IS_NOEND(row->deadline))
		row->expires_at = DT_NOEND;
}

/*
 * What became of a lease, for the owner that has lost it.
 */
static const char *
loss(const KeyRow *row, bool found)
{
	if (!found)
		return _("No lease of the key is known here: it was released or evicted, has been forgotten, or never was.");
	if (row->fate == FATE_LEASED)
		return psprintf(_("Token " INT64_FORMAT " has it since %s."), row->token,
						timestamptz_to_str(row->claimed_at));
	if (fate_is_cancelled(row->fate))
		return _("The key is cancelled.");
	return psprintf(_("The key was completed at %s."), timestamptz_to_str(row->completed_at));
}

/*
 * Lock the key and find its row, if the token is that of its lease.  A lease
 * that is over and that nobody has taken is its owner's still.
 */
static void
require_lease(IdemKey *key, int64 token, KeyRow *row)
{
	bool		found;

	if (claim_state(key) == CLAIM_OPEN)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_ALREADY_CLAIMED),
				 errmsg("idempotency key \"%.*s\" is claimed by this transaction without a lease",
						key->key_len, key->key),
				 errdetail("Scope: \"%.*s\".", key->scope_len, key->scope),
				 errhint("Leave the token out: the claim took the lease over.")));

	key_digest(key);
	claim_require_lock(key);
	key_store_hold();
	found = key_store_find(key, NULL, row) && row->expires_at > GetCurrentTimestamp();
	if (!found || row->fate != FATE_LEASED || row->token != token)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_LEASE_LOST),
				 errmsg("token " INT64_FORMAT " does not hold idempotency key \"%.*s\"",
						token, key->key_len, key->key),
				 errdetail_internal("%s", loss(row, found)),
				 errhint("Stop the work. idem_claim() tells what became of it, or goes on where it was left.")));
}

void
lease_complete(IdemKey *key, int64 token, Datum response)
{
	KeyRow		row;

	require_lease(key, token, &row);
	lease_settle(&row, response, lease_ttl(&row));
	key_store_update(key, &row);
}

/*
 * What stays is an expired row, so that a transaction whose snapshot is older
 * notices it.
 */
void
lease_release(IdemKey *key, int64 token)
{
	KeyRow		row;

	require_lease(key, token, &row);
	row.fate = FATE_NONE;
	row.expires_at = DT_NOBEGIN;
	key_store_update(key, &row);
}

/*
 * The handler is kept at once, and its deadline counts from now: the owner may
 * never come back.
 */
void
lease_add_handler(IdemKey *key, int64 token, const Handler *handler, int64 deadline)
{
	KeyRow		row;

	require_lease(key, token, &row);
	row.handlers = handlers_to_jsonb(row.handlers, handler);
	if (deadline > 0)
	{
		row.deadline = Min(row.deadline, GetCurrentTimestamp() + deadline);
		row.expires_at = DT_NOEND;
	}
	key_store_update(key, &row);
	ForceSyncCommit();
}

static int64
token_arg(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("token must not be NULL"),
				 errdetail("It says that the lease is the caller's."),
				 errhint("Pass the token that idem_claim() answered.")));
	return PG_GETARG_INT64(arg);
}

/*
 * (key, token, lease, scope) -> when it ends now
 */
Datum
idem_renew(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	KeyRow		row;
	int64		token;
	int64		lease;

	key_from_args(fcinfo, 0, 3, &key);
	token = token_arg(fcinfo, 1);
	lease = idem_interval_us(fcinfo, 2, "lease", 1, LEASE_MAX);
	if (lease < 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lease must not be NULL"),
				 errdetail("It is how long the lease is to last from now."),
				 errhint("Pass an interval of at most one day.")));
	idem_require_writable("idem_renew()");

	require_lease(&key, token, &row);
	extend(&row, lease, lease_ttl(&row));
	key_store_update(&key, &row);
	ForceSyncCommit();
	PG_RETURN_TIMESTAMPTZ(row.lease_ends_at);
}

/*
 * (key, token, step, state, scope)
 */
Datum
idem_checkpoint(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	KeyRow		row;
	int64		token;
	text	   *step;
	JsonbParseState *checkpoint = NULL;

	key_from_args(fcinfo, 0, 4, &key);
	token = token_arg(fcinfo, 1);
	step = idem_name(fcinfo, 2, "step");
	idem_require_writable("idem_checkpoint()");

	require_lease(&key, token, &row);
	pushJsonbValue(&checkpoint, WJB_BEGIN_OBJECT, NULL);
	json_put_string(&checkpoint, "step", VARDATA_ANY(step), VARSIZE_ANY_EXHDR(step));
	json_put_jsonb(&checkpoint, "state",
				   DatumGetJsonbP(PG_ARGISNULL(3) ? json_null() : PG_GETARG_DATUM(3)));
	row.checkpoint = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&checkpoint, WJB_END_OBJECT, NULL)));
	row.holder_pid = MyProcPid;
	key_store_update(&key, &row);
	PG_RETURN_VOID();
}
