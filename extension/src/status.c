/*
 * status.c
 *	  What a DBA asks of one key, and does to it: idem_status, idem_evict.
 */
#include "claim.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "key_store.h"
#include "miscadmin.h"
#include "storage/proc.h"
#if PG_VERSION_NUM < 170000
#include "storage/sinvaladt.h"
#else
#include "storage/procarray.h"
#endif
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_status);
PG_FUNCTION_INFO_V1(idem_evict);

/*
 * Is the key's lock held by another transaction, and by which process?  That
 * is 0 for a prepared transaction: its process has gone on to something else.
 */
static bool
lock_holder(const IdemKey *key, int *pid)
{
	LOCKTAG		tag;
	VirtualTransactionId *holders;
	PGPROC	   *proc;
	int			count;

	*pid = 0;
	key_locktag(key, &tag);
	holders = GetLockConflicts(&tag, ExclusiveLock, &count);
	if (count == 0)
		return false;

	proc = idem_vxid_proc(holders[0]);
	if (proc != NULL && idem_proc_lxid(proc) == holders[0].localTransactionId)
		*pid = proc->pid;
	return true;
}

/*
 * Lock the key, or say who holds it for longer than idem.claim_wait.
 */
void
claim_require_lock(const IdemKey *key)
{
	int			pid;

	if (claim_lock(key, idem_claim_wait))
		return;
	(void) lock_holder(key, &pid);
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("idempotency key \"%.*s\" is in use", key->key_len, key->key),
			 pid != 0 ?
			 errdetail("Process %d holds it.", pid) :
			 errdetail("A prepared transaction holds it."),
			 errhint("Try again after that transaction has ended; pg_locks and pg_prepared_xacts show it.")));
}

/*
 * (status, response, attempt, claimed_at, completed_at, expires_at, holder_pid)
 */
Datum
idem_status(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	KeyRow		row;
	TupleDesc	desc;
	Datum		values[7];
	bool		nulls[7] = {false, true, true, true, true, true, true};
	bool		living;
	int			pid;

	key_from_args(fcinfo, 0, 1, &key);
	idem_require_primary("idem_status()");
	key_digest(&key);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	living = claim_state(&key) != CLAIM_OPEN &&
		key_store_find(&key, NULL, &row) && row.expires_at > GetCurrentTimestamp();
	if (claim_state(&key) == CLAIM_OPEN)
	{
		values[0] = CStringGetTextDatum("in_progress");
		values[6] = Int32GetDatum(MyProcPid);
		nulls[6] = false;
	}
	else if (living && row.fate == FATE_LEASED)
	{
		values[0] = CStringGetTextDatum("in_progress");
		values[2] = Int32GetDatum(row.attempt);
		values[3] = TimestampTzGetDatum(row.claimed_at);
		values[5] = TimestampTzGetDatum(row.lease_ends_at);
		values[6] = Int32GetDatum(row.holder_pid);
		nulls[2] = nulls[3] = nulls[5] = false;
		nulls[6] = row.holder_pid == 0; /* of another node, from where the key has moved */
	}
	else if (living)
	{
		bool		cancelled = fate_is_cancelled(row.fate);

		values[0] = CStringGetTextDatum(cancelled ? "cancelled" : "completed");
		values[1] = cancelled ? row.answer : row.response;
		values[2] = Int32GetDatum(row.attempt);
		values[3] = TimestampTzGetDatum(row.claimed_at);
		values[4] = TimestampTzGetDatum(row.completed_at);
		values[5] = TimestampTzGetDatum(row.expires_at);
		memset(nulls, false, 6);
	}
	else if (lock_holder(&key, &pid))
	{
		values[0] = CStringGetTextDatum("in_progress");
		values[6] = Int32GetDatum(pid);
		nulls[6] = pid == 0;
	}
	else
		values[0] = CStringGetTextDatum("unknown");

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * Forget a completed, cancelled or leased key.  In its place an expired row of the key's next life
 * is written, so that a transaction whose snapshot is older than the eviction
 * notices it.
 */
Datum
idem_evict(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	KeyRow		row;

	key_from_args(fcinfo, 0, 1, &key);
	idem_require_writable("idem_evict()");

	if (claim_state(&key) != CLAIM_NONE)
		ereport(ERROR,
				(errcode(claim_state(&key) == CLAIM_COMPLETED ?
						 ERRCODE_IDEM_ALREADY_COMPLETED : ERRCODE_IDEM_ALREADY_CLAIMED),
				 errmsg("cannot evict idempotency key \"%.*s\" in the transaction that claimed it",
						key.key_len, key.key),
				 errdetail("Scope: \"%.*s\".", key.scope_len, key.scope),
				 errhint("Use idem_release() to give a claim up, or ROLLBACK to undo it.")));

	key_digest(&key);
	claim_require_lock(&key);

	if (key_store_find(&key, NULL, &row) && row.expires_at > GetCurrentTimestamp() &&
		(row.fate == FATE_HELD || (row.fate == FATE_LEASED && row.handlers != 0)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot evict idempotency key \"%.*s\": it has a compensation",
						key.key_len, key.key),
				 errdetail("What was done under it could no longer be cancelled."),
				 errhint("Call idem_confirm() or idem_cancel() first.")));

	if (!key_store_delete(&key, &row))
	{
		claim_unlock(&key);
		PG_RETURN_BOOL(false);
	}
	row.life++;
	row.fate = FATE_NONE;
	key_store_insert(&key, NULL, &row, 0);
	PG_RETURN_BOOL(true);
}
