/*
 * many.c
 *	  Many keys in one call: idem_claim_many, idem_complete_many, and what
 *	  idem_execute_many shares with them.
 *
 * Their locks are taken in the order of the digests and never waited for: one
 * that somebody else holds is in progress.  So calls with the same keys in
 * other orders cannot deadlock.
 */
#include "many.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_claim_many);
PG_FUNCTION_INFO_V1(idem_complete_many);

/* each claim is a lock, and the server's table of these has an end */
#define MANY_MAX 500

/* the element of an array argument that is looked at */
typedef struct Element
{
	const char *array;
	int			position;
} Element;

static void
add_element(void *arg)
{
	const Element *element = arg;

	errcontext("element %d of %s", element->position, element->array);
}

/*
 * The elements of an array argument.
 */
static int
elements(FunctionCallInfo fcinfo, int arg, const char *name, Oid type,
		 Datum **values, bool **nulls)
{
	ArrayType  *array;
	int			count;

	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", name),
				 errdetail("It is an array, with an element for each key."),
				 errhint("Pass '{}' for no keys: array_agg() of no rows is NULL, coalesce(array_agg(...), '{}') is not.")));
	array = PG_GETARG_ARRAYTYPE_P(arg);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a one-dimensional array", name),
				 errdetail("It has %d dimensions.", ARR_NDIM(array)),
				 errhint("Pass a flat list with an element for each key.")));
	count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (count > MANY_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("too many %s in one call: %d", name, count),
				 errdetail("One call takes at most %d keys.", MANY_MAX),
				 errhint("Split them into several calls, each in a transaction of its own: locks are held until that ends.")));
	deconstruct_array(array, type, -1, false, TYPALIGN_INT, values, nulls, &count);
	return count;
}

/*
 * The same of an array that has one for each key.
 */
static void
elements_each(FunctionCallInfo fcinfo, int arg, const char *name, Oid type, int count,
			  Datum **values, bool **nulls)
{
	int			found = elements(fcinfo, arg, name, type, values, nulls);

	if (found != count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keys and %s differ in length", name),
				 errdetail("There are %d keys and %d %s.", count, found, name),
				 errhint("Pass an element of %s for each key, in the same order.", name)));
}

/*
 * The arguments (keys, values) from keys_arg on, checked; their scopes are
 * still to be set.
 */
ManyItem *
many_items(FunctionCallInfo fcinfo, int keys_arg, const char *values_name,
		   bool values_needed, int *count)
{
	bool		have_values = values_needed || !PG_ARGISNULL(keys_arg + 1);
	Datum	   *names;
	bool	   *no_name;
	Datum	   *values = NULL;
	bool	   *no_value = NULL;
	ManyItem   *items;
	Element		element = {.array = "keys"};
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = add_element,
		.arg = &element
	};

	*count = elements(fcinfo, keys_arg, "keys", TEXTOID, &names, &no_name);
	if (have_values)
		elements_each(fcinfo, keys_arg + 1, values_name, JSONBOID, *count, &values, &no_value);

	items = palloc0(*count * sizeof(ManyItem));
	for (int i = 0; i < *count; i++)
	{
		element.position = i + 1;
		error_context_stack = &context;
		key_set_name(no_name[i] ? NULL : DatumGetTextPP(names[i]), &items[i].key);
		error_context_stack = context.previous;

		if (have_values && no_value[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain NULL", values_name),
					 errdetail("Element %d is NULL.", i + 1),
					 errhint("Pass 'null'::jsonb for a JSON null.")));
		items[i].name = names[i];
		items[i].value = have_values ? DatumGetJsonbP(values[i]) : NULL;
		items[i].cacheable_until = DT_NOBEGIN;
	}
	return items;
}

/*
 * One scope for all of them.
 */
void
many_set_scope(FunctionCallInfo fcinfo, int arg, ManyItem *items, int count)
{
	IdemKey		key;

	key_set_scope(PG_ARGISNULL(arg) ? NULL : PG_GETARG_TEXT_PP(arg), &key);
	for (int i = 0; i < count; i++)
	{
		items[i].key.scope = key.scope;
		items[i].key.scope_len = key.scope_len;
	}
}

/*
 * Or one for each.
 */
void
many_set_scopes(FunctionCallInfo fcinfo, int arg, ManyItem *items, int count)
{
	Datum	   *scopes;
	bool	   *no_scope;
	Element		element = {.array = "scopes"};
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = add_element,
		.arg = &element
	};

	elements_each(fcinfo, arg, "scopes", TEXTOID, count, &scopes, &no_scope);
	error_context_stack = &context;
	for (int i = 0; i < count; i++)
	{
		element.position = i + 1;
		key_set_scope(no_scope[i] ? NULL : DatumGetTextPP(scopes[i]), &items[i].key);
	}
	error_context_stack = context.previous;
}

/*
 * What comes along with each request, if anything does.
 */
void
many_set_contexts(FunctionCallInfo fcinfo, int arg, ManyItem *items, int count)
{
	Datum	   *contexts;
	bool	   *no_context;

	if (PG_ARGISNULL(arg))
		return;
	elements_each(fcinfo, arg, "contexts", JSONBOID, count, &contexts, &no_context);
	for (int i = 0; i < count; i++)
		items[i].context = no_context[i] ? NULL : DatumGetJsonbP(contexts[i]);
}

static int
compare_bytes(const char *a, int a_len, const char *b, int b_len)
{
	int			order = memcmp(a, b, Min(a_len, b_len));

	return order != 0 ? order : a_len - b_len;
}

static int
compare_items(const void *a, const void *b)
{
	const ManyItem *x = *(const ManyItem *const *) a;
	const ManyItem *y = *(const ManyItem *const *) b;
	int			order;

	if (x->key.digest != y->key.digest)
		return x->key.digest < y->key.digest ? -1 : 1;
	order = compare_bytes(x->key.key, x->key.key_len, y->key.key, y->key.key_len);
	if (order == 0)
		order = compare_bytes(x->key.scope, x->key.scope_len, y->key.scope, y->key.scope_len);
	if (order == 0)
		order = x < y ? -1 : 1; /* as they were given */
	return order;
}

static bool
same_request(const ManyItem *a, const ManyItem *b)
{
	uint8		fingerprints[2][FINGERPRINT_BYTES];

	if (a->value == NULL)
		return true;
	fingerprint_request(JsonbPGetDatum(a->value), fingerprints[0]);
	fingerprint_request(JsonbPGetDatum(b->value), fingerprints[1]);
	return memcmp(fingerprints[0], fingerprints[1], FINGERPRINT_BYTES) == 0;
}

/*
 * Answer an item whose key an earlier one has claimed, as its own call would
 * be answered.
 */
void
many_repeat(ManyItem *item, ClaimAnswer answer)
{
	item->status = claim_answer_name(answer);
	claim_count(answer);
}

/*
 * Claim every key that can be had at once, and say why not of the others.  Of
 * those that are equal the first gets the claim; what becomes of the others
 * with the same request is the caller's to say.
 */
void
many_claim(ManyItem *items, int count)
{
	ManyItem **order = palloc(count * sizeof(ManyItem *));
	const ManyItem *claimed = NULL; /* the last one */
	KeyReader	reader = {0};

	for (int i = 0; i < count; i++)
	{
		key_digest(&items[i].key);
		order[i] = &items[i];
	}
	qsort(order, count, sizeof(ManyItem *), compare_items);

	for (int i = 0; i < count; i++)
	{
		ManyItem   *item = order[i];
		ClaimTerms	terms = {.request = item->value, .wait_ms = 0, .ttl = -1, .reader = &reader};
		ClaimAnswer answer;
		KeyRow		row;

		CHECK_FOR_INTERRUPTS();
		if (claimed != NULL && key_equal(&claimed->key, &item->key))
		{
			if (same_request(claimed, item))
				item->first = claimed;
			else
				many_repeat(item, ANSWER_MISMATCH);
			continue;
		}

		answer = claim_take(&item->key, &terms, &row);
		item->status = claim_answer_name(answer);
		item->claimed = answer == ANSWER_CLAIMED;
		if (item->claimed)
			claimed = item;
		else if (answer == ANSWER_COMPLETED)
		{
			item->response = row.response;
			item->cacheable_until = claim_cacheable_until(&row);
		}
	}
	key_reader_close(&reader);
}

/*
 * As an idem_many_result (key, status, response, cacheable_until) each.
 */
void
many_answer(FunctionCallInfo fcinfo, const ManyItem *items, int count)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < count; i++)
	{
		const ManyItem *item = &items[i];
		Datum		values[4] = {item->name, CStringGetTextDatum(item->status), item->response,
		TimestampTzGetDatum(item->cacheable_until)};
		bool		nulls[4] = {false, false, item->response == 0,
		TIMESTAMP_IS_NOBEGIN(item->cacheable_until)};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/*
 * (keys, requests, scope) -> setof idem_many_result
 */
Datum
idem_claim_many(PG_FUNCTION_ARGS)
{
	int			count;
	ManyItem   *items = many_items(fcinfo, 0, "requests", false, &count);

	many_set_scope(fcinfo, 2, items, count);
	idem_require_writable("idem_claim_many()");
	many_claim(items, count);
	for (int i = 0; i < count; i++)
		if (items[i].first != NULL)
			many_repeat(&items[i], ANSWER_IN_PROGRESS);
	many_answer(fcinfo, items, count);
	return (Datum) 0;
}

/*
 * (keys, responses, scope) -> how many
 */
Datum
idem_complete_many(PG_FUNCTION_ARGS)
{
	int			count;
	ManyItem   *items = many_items(fcinfo, 0, "responses", true, &count);
	KeyWriter	writer = {0};

	many_set_scope(fcinfo, 2, items, count);
	idem_require_writable("idem_complete_many()");
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		(void) claim_complete(&items[i].key, &writer, JsonbPGetDatum(items[i].value));
	}
	key_writer_close(&writer);
	PG_RETURN_INT32(count);
}
