/*
 * compensation.c
 *	  Undoing a key once: idem_compensate_with, idem_confirm, idem_cancel.
 *
 * Compensations are registered with the claim and stored with its completion,
 * or at once under a lease, in the key's own row, whose fate tells what became
 * of it:
 *
 *	 leased					not completed yet; once the lease is over, as held
 *	 held -> confirmed		it can no longer be cancelled
 *	 held -> compensated	it was cancelled: the handlers have run
 *	 held -> refused		at the deadline the state machine refused
 *	 tombstone				it was cancelled before it was ever completed
 *
 * All of these take the lock that a claim takes, so that the action and its
 * cancellation can never both win, and a cancellation is itself idempotent by
 * the key.
 */
#include "compensation.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "claim.h"
#include "funcapi.h"
#include "json.h"
#include "key_store.h"
#include "lease.h"
#include "machine.h"
#include "replay.h"
#include "stats.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(idem_compensate_with);
PG_FUNCTION_INFO_V1(idem_confirm);
PG_FUNCTION_INFO_V1(idem_cancel);

/* how long a key answers after it is settled, at least */
#define SETTLED_TTL (30 * USECS_PER_DAY)

#define SCOPES_SHOWN 5

/*
 * (key, handler, args, scope, deadline, token)
 */
Datum
idem_compensate_with(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	int64		deadline;
	Handler    *handler;

	key_from_args(fcinfo, 0, 3, &key);
	deadline = idem_interval_us(fcinfo, 4, "deadline", 1, IDEM_MAX_TTL_S * USECS_PER_SEC);
	idem_require_writable("idem_compensate_with()");
	handler = handler_make(fcinfo, 1, 2);
	if (PG_ARGISNULL(5))
		claim_add_handler(&key, handler, Max(deadline, 0));
	else
		lease_add_handler(&key, PG_GETARG_INT64(5), handler, Max(deadline, 0));
	PG_RETURN_VOID();
}

/*
 * Find the key's living row, to write it back.  The caller holds its lock.
 */
static bool
find_living(const IdemKey *key, KeyRow *row, bool *expired)
{
	bool		found;

	key_store_hold();
	found = key_store_find(key, NULL, row);
	*expired = found && row->expires_at <= GetCurrentTimestamp();
	return found && !*expired;
}

static void
settle(KeyRow *row, Fate fate, Datum answer)
{
	if (row->fate == FATE_LEASED)
		row->completed_at = GetCurrentTimestamp();
	row->fate = fate;
	row->answer = answer;
	row->expires_at = Max(row->ttl_ends_at, GetCurrentTimestamp() + SETTLED_TTL);
	row->ttl_ends_at = row->expires_at;
}

/*
 * (key, scope)
 */
Datum
idem_confirm(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	KeyRow		row;
	bool		expired;
	bool		open;
	bool		living;
	bool		leased;

	key_from_args(fcinfo, 0, 1, &key);
	idem_require_writable("idem_confirm()");
	open = claim_state(&key) == CLAIM_OPEN;
	key_digest(&key);
	if (!open)
		claim_require_lock(&key);

	living = !open && find_living(&key, &row, &expired);
	leased = living && row.fate == FATE_LEASED;
	if (!living || leased)
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_NOT_COMPLETED),
				 errmsg("idempotency key \"%.*s\" is not completed", key.key_len, key.key),
				 open ? errdetail("This transaction has claimed it.") :
				 leased ? errdetail("Scope: \"%.*s\". It is leased.", key.scope_len, key.scope) :
				 expired ? errdetail("Scope: \"%.*s\". It has expired.", key.scope_len, key.scope) :
				 errdetail("Scope: \"%.*s\".", key.scope_len, key.scope),
				 open ? errhint("Call idem_complete() first.") :
				 errhint("Confirm what idem_complete() has completed, by the same key and scope.")));
	if (fate_is_cancelled(row.fate))
		ereport(ERROR,
				(errcode(ERRCODE_IDEM_CANCELLED),
				 errmsg("idempotency key \"%.*s\" is cancelled", key.key_len, key.key),
				 row.fate == FATE_COMPENSATED ?
				 errdetail("What was done under it has been undone.") :
				 errdetail("It was cancelled before it was completed."),
				 errhint("idem_status() tells when and why.")));

	if (row.fate == FATE_HELD)
	{
		settle(&row, FATE_CONFIRMED, (Datum) 0);
		key_store_update(&key, &row);
	}
	else
	{
		/* refused from here on already; there is nothing to write */
		claim_unlock(&key);
		replay_wait_durable(row.xmin, row.frozen);
	}
	PG_RETURN_VOID();
}

/*
 * {"reason": ...}
 */
static Datum
refusal(const char *reason)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	json_put_string(&state, "reason", reason, strlen(reason));
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * What a handler met.
 */
static Datum
transition_refusal(const ErrorData *error)
{
	JsonbParseState *state = NULL;
	const char *reason = "transition refused";
	const MachineRefusal *step = machine_last_refusal();

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	json_put_string(&state, "reason", reason, strlen(reason));
	json_put_string(&state, "message", error->message, strlen(error->message));
	if (step != NULL)
	{
		json_put_string(&state, "machine", step->machine, strlen(step->machine));
		json_put_string(&state, "from", step->has_from ? step->from : NULL,
						step->has_from ? strlen(step->from) : 0);
		json_put_string(&state, "to", step->has_to ? step->to : NULL,
						step->has_to ? strlen(step->to) : 0);
	}
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * {"reason": ..., "cancelled_at": ..., "results": [...]}; the reason may be
 * NULL and the results 0.
 */
static Datum
cancellation(const text *reason, TimestampTz at, Datum results)
{
	JsonbParseState *state = NULL;
	char		time[MAXDATELEN + 1];
	int			utc = 0;

	JsonEncodeDateTime(time, TimestampTzGetDatum(at), TIMESTAMPTZOID, &utc);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	json_put_string(&state, "reason", reason == NULL ? NULL : VARDATA_ANY(reason),
					reason == NULL ? 0 : VARSIZE_ANY_EXHDR(reason));
	json_put_string(&state, "cancelled_at", time, strlen(time));
	if (results != 0)
		json_put_jsonb(&state, "results", DatumGetJsonbP(results));
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * Run the handlers of a held key, or of one whose lease is over.  False if one met the state machine's
 * refusal; then all that they did is undone, and the key is as before.
 * Sets the answer in either case.
 *
 * The row is written before, too: so it cannot expire meanwhile, and a handler
 * that asks for its own key is told "cancelled".
 */
static bool
compensate(const IdemKey *key, const KeyRow *held, const text *reason, Datum *answer)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	TimestampTz now = GetCurrentTimestamp();
	KeyRow		row = *held;
	volatile bool done = true;

	machine_forget_refusal();
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		settle(&row, FATE_COMPENSATED, cancellation(reason, now, 0));
		key_store_update(key, &row);
		row.answer = cancellation(reason, now, handlers_run(key, held->handlers));
		key_store_update(key, &row);
		*answer = row.answer;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error = idem_undo_for(ERRCODE_IDEM_TRANSITION_REFUSED, context, owner);

		*answer = transition_refusal(error);
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (done)
		stats_count(STAT_CANCELLATIONS);
	return done;
}

/*
 * The key may have been completed elsewhere: with another scope.
 */
static void
hint_other_scopes(const IdemKey *key)
{
	List	   *scopes = key_store_other_scopes(key, SCOPES_SHOWN);
	StringInfoData list;
	ListCell   *cell;

	if (scopes == NIL)
		return;
	initStringInfo(&list);
	foreach(cell, scopes)
		appendStringInfo(&list, "%s\"%s\"", list.len > 0 ? ", " : "",
						 text_to_cstring(lfirst(cell)));
	ereport(NOTICE,
			(errmsg("idempotency key \"%.*s\" is not known in scope \"%.*s\", but in others",
					key->key_len, key->key, key->scope_len, key->scope),
			 errdetail("Scopes that have it: %s.", list.data),
			 errhint("If one of these was meant, call idem_cancel() with that scope.")));
}

static void
refuse_own(const IdemKey *key)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_ALREADY_CLAIMED),
			 errmsg("cannot cancel idempotency key \"%.*s\" in the transaction that claimed it",
					key->key_len, key->key),
			 errdetail("Scope: \"%.*s\".", key->scope_len, key->scope),
			 errhint("Use idem_release() to give a claim up, or ROLLBACK to undo it.")));
}

/*
 * Cancel the key, whose lock the caller holds.  The result is the status, or
 * NULL if a lease is in the way.
 */
static const char *
cancel(const IdemKey *key, const text *reason, Datum *response)
{
	KeyRow		row;
	bool		expired;

	if (!find_living(key, &row, &expired))
	{
		row.life = expired ? row.life + 1 : 1;
		row.attempt = 1;
		row.claimed_at = GetCurrentTimestamp();
		row.has_fingerprint = false;
		row.response = DirectFunctionCall1(jsonb_in, CStringGetDatum("null"));
		row.fate = FATE_TOMBSTONE;
		row.deadline = DT_NOEND;
		row.handlers = (Datum) 0;
		row.answer = cancellation(reason, row.claimed_at, 0);
		key_store_insert(key, NULL, &row, SETTLED_TTL);
		stats_count(STAT_CANCELLATIONS);
		hint_other_scopes(key);
		*response = row.answer;
		return "tombstoned";
	}

	if (row.fate == FATE_LEASED)
	{
		if (lease_is_own(&row))
			refuse_own(key);
		if (lease_is_live(&row))
			return NULL;
		if (row.handlers == 0)
		{
			settle(&row, FATE_TOMBSTONE, cancellation(reason, GetCurrentTimestamp(), 0));
			key_store_update(key, &row);
			hint_other_scopes(key);
			*response = row.answer;
			return "tombstoned";
		}
	}

	if (row.fate == FATE_HELD || row.fate == FATE_LEASED)
	{
		if (compensate(key, &row, reason, response))
			return "compensated";
		claim_unlock(key);
		return "refused";
	}

	/* settled: nothing that we would do needs the lock */
	claim_unlock(key);
	replay_wait_durable(row.xmin, row.frozen);
	switch (row.fate)
	{
		case FATE_TOMBSTONE:
			hint_other_scopes(key);
			*response = row.answer;
			return "tombstoned";
		case FATE_COMPENSATED:
			*response = row.answer;
			return "already";
		case FATE_REFUSED:
			*response = row.answer;
			return "refused";
		case FATE_CONFIRMED:
			*response = refusal("confirmed");
			return "refused";
		default:
			*response = refusal("no handler");
			return "refused";
	}
}

/*
 * (key, reason, scope, wait) -> idem_cancel_result (status, response)
 */
Datum
idem_cancel(PG_FUNCTION_ARGS)
{
	IdemKey		key;
	text	   *reason = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	LeaseWait	wait;
	const char *status = NULL;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false};
	HeapTuple	tuple;

	key_from_args(fcinfo, 0, 2, &key);
	lease_wait_begin(&wait, claim_wait_ms(fcinfo, 3));
	idem_require_writable("idem_cancel()");
	if (claim_state(&key) == CLAIM_OPEN)
		refuse_own(&key);

	key_digest(&key);
	do
	{
		if (!claim_lock(&key, lease_wait_left(&wait)))
			break;
		status = cancel(&key, reason, &values[1]);
		if (status == NULL)
			claim_unlock(&key);
	} while (status == NULL && lease_wait(&wait));
	nulls[1] = status == NULL;
	values[0] = CStringGetTextDatum(status == NULL ? "in_progress" : status);

	desc = lookup_rowtype_tupdesc(idem_tables()->cancel_result, -1);
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

/*
 * Cancel a key whose deadline is over.  The state machine's refusal settles
 * it.  One that somebody holds is left to the next call.
 */
void
compensation_expire(const IdemKey *key)
{
	text	   *reason = cstring_to_text("deadline");
	KeyRow		row;
	bool		expired;
	Datum		answer;

	if (!claim_lock(key, 0))
	{
		ereport(LOG,
				(errmsg("idempotency key \"%.*s\" is in use at its deadline",
						key->key_len, key->key)));
		return;
	}
	if (!find_living(key, &row, &expired) ||
		(row.fate != FATE_HELD && row.fate != FATE_LEASED) ||
		row.deadline > GetCurrentTimestamp() ||
		(row.fate == FATE_LEASED && lease_is_live(&row)))
		return;
	if (compensate(key, &row, reason, &answer))
		return;
	if (row.fate == FATE_LEASED)
	{
		/* it was never completed, so a claim may still take it over */
		row.deadline = DT_NOEND;
		row.answer = answer;
		row.expires_at = Max(row.ttl_ends_at, GetCurrentTimestamp() + SETTLED_TTL);
	}
	else
		settle(&row, FATE_REFUSED, answer);
	key_store_update(key, &row);
}
