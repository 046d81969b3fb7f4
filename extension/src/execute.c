/*
 * execute.c
 *	  Claim, call, complete in one statement: idem_execute, idem_execute_many.
 *
 * The handler is a function of the user's, called as any statement of theirs
 * would call it.
 *
 * Of many, one that fails must undo its own work and nobody else's.  A
 * subtransaction for each would cost each a transaction id, and, beyond 64,
 * everybody's snapshots a look at the disk.  So all run in one.  When one of
 * them fails, that is rolled back, and those before it run again in a
 * subtransaction that then stays; the failed one is known to fail after them,
 * and the run goes on behind it.  No handler that succeeds runs more than
 * twice, and a call has as many subtransactions left as it has failures, and
 * one.
 */
#include "claim.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "funcapi.h"
#include "json.h"
#include "many.h"
#include "miscadmin.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(idem_execute);
PG_FUNCTION_INFO_V1(idem_execute_many);
PG_FUNCTION_INFO_V1(idem_execute_many_scopes);
PG_FUNCTION_INFO_V1(idem_context);

#define STATUS_EXECUTED "executed"
#define STATUS_FAILED "failed"

/* a handler, ready to be called */
typedef struct Execution
{
	FmgrInfo	function;
	const char *name;			/* its signature is name(jsonb) */
	const IdemKey *key;			/* that it works on */
	Jsonb	   *context;		/* what came along with the request, or NULL */
} Execution;

static void
add_context(void *arg)
{
	const Execution *execution = arg;

	errcontext("handler %s(jsonb) of idempotency key \"%.*s\"",
			   execution->name, execution->key->key_len, execution->key->key);
}

/*
 * The handler that the argument names, checked.  What the function keeps from
 * call to call is kept in the context.
 */
static void
execution_begin(Execution *execution, FunctionCallInfo fcinfo, int handler_arg, MemoryContext context)
{
	Oid			handler;

	if (PG_ARGISNULL(handler_arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("handler must not be NULL"),
				 errdetail("It is the function that does the work."),
				 errhint("Pass a function by its signature, such as 'place_order(jsonb)'.")));
	handler = PG_GETARG_OID(handler_arg);
	handler_check(handler, GetUserId(), HANDLER_EXECUTES,
				  _("Pass a function f(jsonb) that returns jsonb and that you may execute."));
	execution->name = get_func_name(handler);
	fmgr_info_cxt(handler, &execution->function, context);
}

/*
 * Do the work of a key that is claimed, and complete it; the response, as
 * stored, and until when it may be cached.
 */
static Datum
execute(Execution *execution, const IdemKey *key, Jsonb *request, Jsonb *came_along,
		TimestampTz *cacheable_until)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = add_context,
		.arg = execution
	};
	Datum		response;
	bool		isnull;

	execution->key = key;
	execution->context = came_along;
	error_context_stack = &context;
	CHECK_FOR_INTERRUPTS();

	/* it sees what whoever had the lock before us did, and those that ran before it in this call */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	response = handler_call(&execution->function, JsonbPGetDatum(request), &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("handler %s(jsonb) returned NULL", execution->name),
				 errdetail("What it returns is the response that every retry of \"%.*s\" will be answered with.",
						   key->key_len, key->key),
				 errhint("Return 'null'::jsonb for a JSON null.")));
	response = JsonbPGetDatum(DatumGetJsonbP(response));
	PopActiveSnapshot();
	*cacheable_until = claim_complete(key, NULL, response);
	error_context_stack = context.previous;
	return response;
}

/*
 * (handler, key, request, scope, ttl) ->
 * idem_execute_result (status, response, cacheable_until)
 */
Datum
idem_execute(PG_FUNCTION_ARGS)
{
	Execution	execution;
	IdemKey		key;
	ClaimTerms	terms = {0};
	ClaimAnswer answer;
	KeyRow		row;
	TimestampTz cacheable_until = DT_NOBEGIN;
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};
	HeapTuple	tuple;

	key_from_args(fcinfo, 1, 3, &key);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("request must not be NULL"),
				 errdetail("It is what the handler is called with."),
				 errhint("Pass 'null'::jsonb for a JSON null.")));
	terms.request = PG_GETARG_JSONB_P(2);
	terms.wait_ms = idem_claim_wait;
	terms.ttl = idem_interval_us(fcinfo, 4, "ttl", 1, IDEM_MAX_TTL_S * USECS_PER_SEC);
	execution_begin(&execution, fcinfo, 0, CurrentMemoryContext);
	idem_require_writable("idem_execute()");

	key_digest(&key);
	answer = claim_take(&key, &terms, &row);
	if (answer == ANSWER_CLAIMED)
	{
		values[0] = CStringGetTextDatum(STATUS_EXECUTED);
		values[1] = execute(&execution, &key, terms.request, NULL, &cacheable_until);
	}
	else
	{
		values[0] = CStringGetTextDatum(claim_answer_name(answer));
		nulls[1] = answer != ANSWER_COMPLETED;
		values[1] = nulls[1] ? (Datum) 0 : row.response;
		if (answer == ANSWER_COMPLETED)
			cacheable_until = claim_cacheable_until(&row);
	}
	values[2] = TimestampTzGetDatum(cacheable_until);
	nulls[2] = TIMESTAMP_IS_NOBEGIN(cacheable_until);

	desc = lookup_rowtype_tupdesc(idem_tables()->execute_result, -1);
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

/*
 * Does the error say that the transaction, the session or the server cannot go
 * on, and nothing of the item?
 */
static bool
is_of_all(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
			return true;
		default:
			return false;
	}
}

/*
 * {"sqlstate": ..., "message": ...}, and what else it says.
 */
static Datum
failure(const ErrorData *error)
{
	const struct
	{
		const char *name;
		const char *value;
	}			members[] = {
		{"sqlstate", unpack_sql_state(error->sqlerrcode)},
		{"message", error->message},
		{"detail", error->detail},
		{"hint", error->hint},
		{"constraint", error->constraint_name},
		{"context", error->context},
	};
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < (int) lengthof(members); i++)
		if (members[i].value != NULL)
			json_put_string(&state, members[i].name, members[i].value, strlen(members[i].value));
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * Run those of the items from .. to that are claimed, in one subtransaction.
 * If one fails, nothing of that remains, and its place is returned, otherwise
 * to.
 */
static int
run_items(Execution *execution, ManyItem *items, int from, int to)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext function_context = execution->function.fn_mcxt;
	MemoryContext item_context;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int at = from;

	while (at < to && !items[at].claimed)
		at++;
	if (at == to)
		return to;

	item_context = AllocSetContextCreate(context, "idem item", ALLOCSET_DEFAULT_SIZES);
	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		for (; at < to; at++)
		{
			ManyItem   *item = &items[at];

			if (item->claimed)
			{
				Datum		response;

				MemoryContextSwitchTo(item_context);
				response = execute(execution, &item->key, item->value, item->context,
								   &item->cacheable_until);
				MemoryContextSwitchTo(context);
				item->response = datumCopy(response, false, -1);
				MemoryContextReset(item_context);
			}
		}
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error = idem_undo(context, owner);

		if (at == to || is_of_all(error))
			ReThrowError(error);

		claim_release(&items[at].key);
		items[at].claimed = false;
		items[at].status = STATUS_FAILED;
		items[at].response = failure(error);
		items[at].cacheable_until = DT_NOBEGIN; /* it may have succeeded before */
		FreeErrorData(error);

		/* what the function has kept for its next call may be of what was rolled back */
		MemoryContextReset(function_context);
		fmgr_info_cxt(execution->function.fn_oid, &execution->function, function_context);
	}
	PG_END_TRY();
	MemoryContextDelete(item_context);
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return at;
}

/*
 * (handler, keys, requests, ...), and the items of these.
 */
static void
execute_many(FunctionCallInfo fcinfo, ManyItem *items, int count)
{
	Execution	execution;
	int			from = 0;
	int			to = count;

	execution_begin(&execution, fcinfo, 0,
					AllocSetContextCreate(CurrentMemoryContext, "idem handler", ALLOCSET_SMALL_SIZES));
	idem_require_writable("idem_execute_many()");
	many_claim(items, count);

	while (from < count)
	{
		int			stop = run_items(&execution, items, from, to);

		if (stop == to)
		{
			from = to;
			to = count;
		}
		else
			to = stop;
	}

	for (int i = 0; i < count; i++)
	{
		ManyItem   *item = &items[i];

		if (item->claimed)
			item->status = STATUS_EXECUTED;
		else if (item->first != NULL)
		{
			/* answered as a retry right after it */
			if (item->first->claimed)
				many_repeat(item, ANSWER_COMPLETED);
			else
				item->status = item->first->status;
			item->response = item->first->response;
			item->cacheable_until = item->first->cacheable_until;
		}
	}
	many_answer(fcinfo, items, count);
}

/*
 * (handler, keys, requests, scope) -> setof idem_many_result
 */
Datum
idem_execute_many(PG_FUNCTION_ARGS)
{
	int			count;
	ManyItem   *items = many_items(fcinfo, 1, "requests", true, &count);

	many_set_scope(fcinfo, 3, items, count);
	execute_many(fcinfo, items, count);
	return (Datum) 0;
}

/*
 * (handler, keys, requests, scopes, contexts) -> setof idem_many_result
 */
Datum
idem_execute_many_scopes(PG_FUNCTION_ARGS)
{
	int			count;
	ManyItem   *items = many_items(fcinfo, 1, "requests", true, &count);

	many_set_scopes(fcinfo, 3, items, count);
	many_set_contexts(fcinfo, 4, items, count);
	execute_many(fcinfo, items, count);
	return (Datum) 0;
}

/*
 * () -> jsonb, of the handler that calls it: the innermost one that runs, and
 * that is to be found where an error would find it.
 */
Datum
idem_context(PG_FUNCTION_ARGS)
{
	for (const ErrorContextCallback *each = error_context_stack; each != NULL; each = each->previous)
	{
		if (each->callback == add_context)
		{
			const Execution *execution = each->arg;

			if (execution->context == NULL)
				break;
			PG_RETURN_JSONB_P(execution->context);
		}
	}
	PG_RETURN_NULL();
}
