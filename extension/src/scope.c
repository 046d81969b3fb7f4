/*
 * scope.c
 *	  Scopes that move from node to node: idem_export, idem_import.
 *
 * A scope is at one node at a time.  Of one that has ever moved there is a row
 * in idem_scopes:
 *
 *	 closed		it has left, or is leaving
 *	 checking	it is to come, and was never here: no key of it must be here
 *	 clearing	it is to come back: keys that it left here are forgotten
 *	 arriving	its keys come, page by page
 *	 here		as if there were no row
 *
 * Only where it is here are its keys claimed, cancelled or otherwise spoken
 * of.  What the source writes before it lets a page out is the row "closed", and
 * the last thing that the destination writes is "here", with the last page: that
 * commit decides.  Until then neither answers; so whatever crashes, it can be gone
 * on with from what the two have written, in whatever order they are asked.
 *
 * Nobody looks at idem_scopes while all scopes are here: backends keep that
 * in memory, and are told by an invalidation of the relation cache.  That comes a
 * moment after a row's commit can be seen.  So a claim may be made by who has
 * not noticed yet, and completed as well; but whoever writes a key looks again
 * after the lock on the table that it writes to, and whoever closes a scope
 * waits, once that is committed, for all who have such a lock.
 *
 * The epoch grows with each move, so that what is left of an earlier one is
 * told from this one; "move" tells apart two that both think it is theirs.
 */
#include "scope.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "common/hashfn.h"
#include "handler.h"
#include "json.h"
#include "key_store.h"
#include "lease.h"
#include "lock.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "replay.h"
#include "row.h"
#include "sequence.h"
#include "tables.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_export);
PG_FUNCTION_INFO_V1(idem_import);

#define MAX_KEYS 10000			/* of a page */
#define BATCH 1000				/* keys read at a time where they make no page */

/*
 * Keys that expire so soon are not compared at the end: of one node's clock
 * they may have expired already.
 */
#define SOON (60 * USECS_PER_SEC)

/* positions between which those of the source's tables are */
#define AT_CLOSE "close"
#define AT_SCAN "scan"
#define AT_CHECK "check"

/* a row of idem_scopes */
typedef struct ScopeRow
{
	bool		known;			/* if not: it is here, in epoch 0 */
	const char *state;
	int64		epoch;
	const char *move;
	const char *position;		/* what is asked for next, or how far it is looked through */
	TimestampTz since;
	ItemPointerData tid;
} ScopeRow;

static bool
state_is(const ScopeRow *row, const char *state)
{
	return strcmp(row->state, state) == 0;
}

/* ---- which scopes are here ---- */

static ScopeRow
read_scope(Relation rel, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(rel);
	ScopeRow	row;
	Datum		value;
	bool		isnull;

	row.known = true;
	row.state = TextDatumGetCString(heap_getattr(tuple, SCOPE_STATE, desc, &isnull));
	row.epoch = DatumGetInt64(heap_getattr(tuple, SCOPE_EPOCH, desc, &isnull));
	row.move = TextDatumGetCString(heap_getattr(tuple, SCOPE_MOVE, desc, &isnull));
	value = heap_getattr(tuple, SCOPE_POSITION, desc, &isnull);
	row.position = isnull ? "" : TextDatumGetCString(value);
	row.since = DatumGetTimestampTz(heap_getattr(tuple, SCOPE_SINCE, desc, &isnull));
	row.tid = tuple->t_self;
	return row;
}

/*
 * Is any scope not here?  By a snapshot of its own that is taken now, for the
 * row is updated and must not be missed.
 */
static bool
some_are_away(void)
{
	static bool some;
	static uint64 version;

	AcceptInvalidationMessages();
	if (unlikely(idem_tables()->version != version))
	{
		/* what changes while it is read is noticed by the next call */
		uint64		reading = idem_tables()->version;
		Relation	rel = table_open(idem_tables()->scopes.heap, AccessShareLock);
		SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
		HeapTuple	tuple;

		some = false;
		while (!some && HeapTupleIsValid(tuple = systable_getnext(scan)))
		{
			ScopeRow	row = read_scope(rel, tuple);

			some = !state_is(&row, "here");
		}
		systable_endscan(scan);
		table_close(rel, AccessShareLock);
		version = reading;
	}
	return some;
}

static ScopeRow
find_scope(const IdemKey *scope)
{
	Relation	rel = table_open(idem_tables()->scopes.heap, AccessShareLock);
	ScopeRow	row = {.state = "here"};
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, SCOPE_SCOPE, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(cstring_to_text_with_len(scope->scope, scope->scope_len)));
	scan = systable_beginscan(rel, idem_tables()->scopes.index, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		row = read_scope(rel, tuple);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return row;
}

bool
scope_is_here(const IdemKey *key)
{
	ScopeRow	row;

	if (likely(!some_are_away()))
		return true;
	row = find_scope(key);
	return state_is(&row, "here");
}

/*
 * Whoever writes a key of the scope calls this before it looks for it, and
 * again with the table locked.
 */
void
scope_require_here(const IdemKey *key)
{
	ScopeRow	row;

	if (likely(!some_are_away()))
		return;
	row = find_scope(key);
	if (state_is(&row, "here"))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_SCOPE_AWAY),
			 errmsg("scope \"%.*s\" is not here", key->scope_len, key->scope),
			 state_is(&row, "closed") ?
			 errdetail("It was closed at %s, to move to another node.", timestamptz_to_str(row.since)) :
			 errdetail("It comes from another node, and not all of its keys have arrived."),
			 errhint("Send the request, with the same key, to the node that has the scope.")));
}

static void
write_scope(const IdemKey *scope, const ScopeRow *old, const char *state, int64 epoch,
			const char *move, const char *position)
{
	Relation	rel = table_open(idem_tables()->scopes.heap, RowExclusiveLock);
	bool		changed = !old->known || !state_is(old, state);
	Datum		values[SCOPE_COLUMNS];
	bool		nulls[SCOPE_COLUMNS] = {false};

	values[SCOPE_SCOPE - 1] =
		PointerGetDatum(cstring_to_text_with_len(scope->scope, scope->scope_len));
	values[SCOPE_STATE - 1] = CStringGetTextDatum(state);
	values[SCOPE_EPOCH - 1] = Int64GetDatum(epoch);
	values[SCOPE_MOVE - 1] = CStringGetTextDatum(move);
	nulls[SCOPE_POSITION - 1] = position == NULL;
	values[SCOPE_POSITION - 1] = position == NULL ? (Datum) 0 : CStringGetTextDatum(position);
	values[SCOPE_SINCE - 1] = TimestampTzGetDatum(changed ? GetCurrentTimestamp() : old->since);

	if (!old->known)
		row_insert(rel, values, nulls);
	else
	{
		ItemPointerData tid = old->tid;

		CatalogTupleUpdate(rel, &tid, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	}
	/* not at each page: it makes all backends look at all of our tables anew */
	if (changed)
		CacheInvalidateRelcache(rel);
	table_close(rel, NoLock);
	ForceSyncCommit();
}

/*
 * One call a transaction, and nothing else before it: what it reads and waits
 * for is what others have committed.
 */
static void
begin_page(const char *function)
{
	idem_require_writable(function);
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s needs isolation level READ COMMITTED", function),
				 errdetail("At a higher level the transaction does not see what is committed while it waits."),
				 errhint("Begin the transaction at READ COMMITTED.")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s must come first in its transaction", function),
				 errdetail("This one has written already."),
				 errhint("Commit after each page.")));
}

static void
lock_scope(const IdemKey *scope)
{
	LOCKTAG		tag;
	uint64		digest = hash_bytes_extended((const unsigned char *) scope->scope, scope->scope_len, 0);

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (digest >> 32), (uint32) digest,
						 IDEM_LOCK_SCOPE);
	(void) idem_lock(&tag, ExclusiveLock, true);
}

static void
refuse_state(const IdemKey *scope, const char *what, const ScopeRow *row, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("scope \"%.*s\" %s", scope->scope_len, scope->scope, what),
			 !row->known ? errdetail("It has never moved.") :
			 errdetail("Its state is \"%s\", in epoch " INT64_FORMAT ".", row->state, row->epoch),
			 errhint("%s", hint)));
}

/* ---- keys as JSON ---- */

static void
put_text(JsonbParseState **state, const char *name, const char *value)
{
	json_put_string(state, name, value, value == NULL ? 0 : strlen(value));
}

static void
put_int64(JsonbParseState **state, const char *name, int64 value)
{
	put_text(state, name, psprintf(INT64_FORMAT, value));
}

static void
put_datum(JsonbParseState **state, const char *name, Datum value)
{
	if (value != 0)
		json_put_jsonb(state, name, DatumGetJsonbP(value));
}

/*
 * All that belongs to a key, but for its life, which is another one there, and
 * the process that holds its lease.
 */
static Jsonb *
key_to_jsonb(const IdemKey *key, const KeyRow *row)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	json_put_string(&state, "key", key->key, key->key_len);
	put_int64(&state, "claimed_at", row->claimed_at);
	put_int64(&state, "completed_at", row->completed_at);
	put_int64(&state, "expires_at", row->expires_at);
	put_int64(&state, "attempt", row->attempt);
	if (row->has_fingerprint)
	{
		char		hex[2 * FINGERPRINT_BYTES + 1] = "";

		hex_encode((const char *) row->fingerprint, FINGERPRINT_BYTES, hex);
		json_put_string(&state, "fingerprint", hex, 2 * FINGERPRINT_BYTES);
	}
	put_datum(&state, "response", row->response);
	if (row->fate != FATE_NONE)
	{
		put_text(&state, "fate", fate_name(row->fate));
		put_int64(&state, "deadline", row->deadline);
		put_int64(&state, "ttl_ends_at", row->ttl_ends_at);
		put_datum(&state, "handlers", row->handlers);
		put_datum(&state, "answer", row->answer);
	}
	if (row->fate == FATE_LEASED)
	{
		put_int64(&state, "token", row->token);
		put_int64(&state, "lease_ends_at", row->lease_ends_at);
		put_datum(&state, "checkpoint", row->checkpoint);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
refuse_page(const char *member)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("page is damaged"),
			 errdetail("It has no \"%s\", or one of another kind.", member),
			 errhint("Pass what idem_export() answered, as it is.")));
}

/*
 * A member of the page, or of a key in it; NULL if it has none.
 */
static JsonbValue *
member(JsonbContainer *object, const char *name)
{
	return JsonContainerIsObject(object) ?
		getKeyJsonValueFromContainer(object, name, strlen(name), NULL) : NULL;
}

static text *
get_text(JsonbContainer *object, const char *name, bool needed)
{
	JsonbValue *value = member(object, name);

	if (value == NULL && !needed)
		return NULL;
	if (value == NULL || value->type != jbvString)
	{
		refuse_page(name);
		return NULL;
	}
	return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
}

static const char *
get_string(JsonbContainer *object, const char *name, bool needed)
{
	text	   *value = get_text(object, name, needed);

	return value == NULL ? NULL : text_to_cstring(value);
}

static int64
get_int64(JsonbContainer *object, const char *name)
{
	return DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(get_string(object, name, true))));
}

static Datum
get_datum(JsonbContainer *object, const char *name)
{
	JsonbValue *value = member(object, name);

	return value == NULL ? (Datum) 0 : JsonbPGetDatum(JsonbValueToJsonb(value));
}

static void
key_from_jsonb(const IdemKey *scope, JsonbContainer *object, IdemKey *key, KeyRow *row)
{
	const char *fingerprint = get_string(object, "fingerprint", false);
	const char *fate = get_string(object, "fate", false);

	*key = *scope;
	key_set_name(get_text(object, "key", true), key);
	key_digest(key);

	memset(row, 0, sizeof(KeyRow));
	row->claimed_at = get_int64(object, "claimed_at");
	row->completed_at = get_int64(object, "completed_at");
	row->expires_at = get_int64(object, "expires_at");
	row->attempt = (int32) get_int64(object, "attempt");
	row->has_fingerprint = fingerprint != NULL && strlen(fingerprint) == 2 * FINGERPRINT_BYTES;
	if (row->has_fingerprint)
		hex_decode(fingerprint, 2 * FINGERPRINT_BYTES, (char *) row->fingerprint);
	row->response = get_datum(object, "response");
	if (row->response == 0)
		refuse_page("response");
	row->fate = fate == NULL ? FATE_NONE : fate_named(fate);
	if (row->fate == FATE_NONE)
		return;
	row->deadline = get_int64(object, "deadline");
	row->ttl_ends_at = get_int64(object, "ttl_ends_at");
	row->handlers = get_datum(object, "handlers");
	row->answer = get_datum(object, "answer");
	if (row->handlers != 0)
		handlers_check_writer(row->handlers);
	if (row->fate != FATE_LEASED)
		return;
	row->token = get_int64(object, "token");
	row->lease_ends_at = get_int64(object, "lease_ends_at");
	row->checkpoint = get_datum(object, "checkpoint");
}

/*
 * The first eight bytes of SHA-256 over its text, as a number.
 */
static uint64
jsonb_digest(Jsonb *value)
{
	text	   *written = cstring_to_text(JsonbToCString(NULL, &value->root, VARSIZE(value)));
	bytea	   *hash = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(written)));
	uint64		digest = 0;

	for (int i = 0; i < (int) sizeof(digest); i++)
		digest = digest << 8 | (uint8) VARDATA_ANY(hash)[i];
	return digest;
}

/*
 * How many keys of the scope are here that live at that time, and the sum of
 * their digests, which does not depend on their order.
 */
static void
sum_keys(const IdemKey *scope, TimestampTz at, int64 *count, uint64 *sum)
{
	MemoryContext save = CurrentMemoryContext;
	MemoryContext batch = AllocSetContextCreate(save, "idem scope", ALLOCSET_DEFAULT_SIZES);
	KeyPlace	place = {0};

	*count = 0;
	*sum = 0;
	MemoryContextSwitchTo(batch);
	while (!key_store_scanned(&place))
	{
		ListCell   *cell;

		foreach(cell, key_store_scan(scope, &place, BATCH))
		{
			FoundKey   *found = lfirst(cell);

			if (found->row.expires_at <= at)
				continue;
			++*count;
			*sum += jsonb_digest(key_to_jsonb(&found->key, &found->row));
		}
		MemoryContextReset(batch);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(save);
	MemoryContextDelete(batch);
}

/* ---- places as positions ---- */

static char *
place_text(const KeyPlace *place)
{
	return psprintf("%s %d %u %u %u", AT_SCAN, place->table, place->file,
					ItemPointerGetBlockNumberNoCheck(&place->tid),
					ItemPointerGetOffsetNumberNoCheck(&place->tid));
}

static KeyPlace
place_of(const char *position)
{
	KeyPlace	place = {0};
	BlockNumber block;
	int			offset;

	if (strcmp(position, AT_SCAN) == 0)
		return place;
	if (sscanf(position, AT_SCAN " %d %u %u %d", &place.table, &place.file, &block, &offset) != 4)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown position \"%s\"", position),
				 errdetail("A position is what idem_import() answers."),
				 errhint("Begin with none.")));
	ItemPointerSet(&place.tid, block, (OffsetNumber) offset);
	return place;
}

/* ---- the source ---- */

static Datum
finish_page(JsonbParseState *state)
{
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * What all pages have.
 */
static JsonbParseState *
begin_json(const IdemKey *scope, int64 epoch, const char *move, const char *position)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	json_put_string(&state, "scope", scope->scope, scope->scope_len);
	put_int64(&state, "epoch", epoch);
	put_text(&state, "move", move);
	put_text(&state, "position", position);
	return state;
}

/*
 * Close the scope, unless it is; the page that says so.
 */
static Datum
close_scope(const IdemKey *scope)
{
	JsonbParseState *state;
	ScopeRow	row;
	int64		epoch;
	const char *move;

	lock_scope(scope);
	row = find_scope(scope);
	epoch = row.epoch;
	move = row.move;
	if (state_is(&row, "here"))
	{
		uint64		id;

		if (!pg_strong_random(&id, sizeof(id)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		epoch++;
		move = psprintf("%08x%08x", (uint32) (id >> 32), (uint32) id);
		write_scope(scope, &row, "closed", epoch, move, NULL);
	}
	else if (!state_is(&row, "closed"))
		refuse_state(scope, "has not arrived here yet", &row,
					 _("Go on with the move that brings it here, and begin the next one after that."));

	state = begin_json(scope, epoch, move, AT_CLOSE);
	put_text(&state, "encoding", GetDatabaseEncodingName());
	put_int64(&state, "token_number", sequence_last(idem_tables()->tokens));
	return finish_page(state);
}

/*
 * The next keys.  At the first of them, all that was done before the scope was
 * closed must have come to its end, and must not be lost: what leaves the
 * node says that it was done.
 */
static Datum
next_keys(const IdemKey *scope, const ScopeRow *row, const char *position, int max_keys)
{
	KeyPlace	place = place_of(position);
	JsonbParseState *state;
	ListCell   *cell;
	List	   *keys;

	if (strcmp(position, AT_SCAN) == 0)
	{
		key_store_settle();
		replay_wait_all_durable();
	}
	keys = key_store_scan(scope, &place, max_keys);

	state = begin_json(scope, row->epoch, row->move, position);
	put_text(&state, "next", key_store_scanned(&place) ? AT_CHECK : place_text(&place));
	json_put_name(&state, "keys");
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	foreach(cell, keys)
	{
		FoundKey   *found = lfirst(cell);
		JsonbValue	element;

		JsonbToJsonbValue(key_to_jsonb(&found->key, &found->row), &element);
		pushJsonbValue(&state, WJB_ELEM, &element);
	}
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return finish_page(state);
}

static Datum
last_page(const IdemKey *scope, const ScopeRow *row)
{
	JsonbParseState *state = begin_json(scope, row->epoch, row->move, AT_CHECK);
	TimestampTz at = GetCurrentTimestamp() + SOON;
	int64		count;
	uint64		sum;

	sum_keys(scope, at, &count, &sum);
	put_int64(&state, "at", at);
	put_int64(&state, "count", count);
	put_int64(&state, "sum", (int64) sum);
	return finish_page(state);
}

/*
 * (scope, position, max_keys) -> page
 */
Datum
idem_export(PG_FUNCTION_ARGS)
{
	const char *position = PG_ARGISNULL(1) ? AT_CLOSE : text_to_cstring(PG_GETARG_TEXT_PP(1));
	IdemKey		scope = {0};
	ScopeRow	row;

	key_set_scope(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0), &scope);
	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 1 || PG_GETARG_INT32(2) > MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_keys is out of range"),
				 errdetail("A page has 1 to %d keys.", MAX_KEYS),
				 errhint("Leave the argument out.")));
	begin_page("idem_export()");
	if (strcmp(position, AT_CLOSE) == 0)
		return close_scope(&scope);

	row = find_scope(&scope);
	if (!state_is(&row, "closed"))
		refuse_state(&scope, "is not closed", &row, _("Begin with no position."));
	if (strcmp(position, AT_CHECK) == 0)
		return last_page(&scope, &row);
	return next_keys(&scope, &row, position, PG_GETARG_INT32(2));
}

/* ---- the destination ---- */

/*
 * The first page, again and again until nothing of the scope is here: after a
 * former stay its keys are forgotten, for what became of them since is
 * what the pages say.  Answers what to ask for next.
 */
static const char *
prepare(const IdemKey *scope, const ScopeRow *row)
{
	KeyPlace	place = place_of(row->position);
	const char *position;
	ListCell   *cell;
	List	   *keys;

	if (strcmp(row->position, AT_SCAN) == 0)
		key_store_settle();
	keys = key_store_scan(scope, &place, BATCH);
	if (keys != NIL && state_is(row, "checking"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("scope \"%.*s\" has keys here that did not come from another node",
						scope->scope_len, scope->scope),
				 errdetail("One of them is \"%.*s\".", ((FoundKey *) linitial(keys))->key.key_len,
						   ((FoundKey *) linitial(keys))->key.key),
				 errhint("A scope is at one node at a time: find out what was done here under them. To have them forgotten, set its state in idem_scopes to \"clearing\".")));
	foreach(cell, keys)
	{
		FoundKey   *found = lfirst(cell);
		KeyRow	   *expired = &found->row;

		/* in its place an expired row, as idem_evict() leaves */
		if (!key_store_delete(&found->key, expired))
			continue;
		expired->life++;
		expired->fate = FATE_NONE;
		expired->expires_at = DT_NOBEGIN;
		key_store_pin(&found->key, expired);
	}

	position = place_text(&place);
	if (!key_store_scanned(&place))
		write_scope(scope, row, row->state, row->epoch, row->move, position);
	else
	{
		write_scope(scope, row, "arriving", row->epoch, row->move, AT_SCAN);
		return AT_SCAN;
	}
	return AT_CLOSE;
}

static const char *
open_close_page(const IdemKey *scope, const ScopeRow *row, JsonbContainer *page, int64 epoch, const char *move)
{
	const char *encoding = get_string(page, "encoding", true);

	if (strcmp(encoding, GetDatabaseEncodingName()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a scope moves between databases of one encoding only"),
				 errdetail("There it is \"%s\", here \"%s\".", encoding, GetDatabaseEncodingName()),
				 errhint("Fingerprints of requests with other than ASCII names in them would differ.")));
	lease_pass_token_number(get_int64(page, "token_number"));
	write_scope(scope, row, row->known ? "clearing" : "checking", epoch, move, AT_SCAN);
	return AT_CLOSE;
}

/*
 * Take one key.  It may be here already, if a table of the source was
 * rewritten meanwhile.
 */
static void
take_key(const IdemKey *scope, JsonbContainer *object)
{
	IdemKey		key;
	KeyRow		row;
	KeyRow		here;

	key_from_jsonb(scope, object, &key, &row);
	row.life = 1;
	if (key_store_find_away(&key, NULL, &here))
	{
		/* lest an expired row, that a former stay left, hides it */
		row.life = here.life + 1;
		if (here.expires_at > GetCurrentTimestamp())
		{
			if (jsonb_digest(key_to_jsonb(&key, &here)) == jsonb_digest(key_to_jsonb(&key, &row)))
				return;
			ereport(ERROR,
					(errcode(ERRCODE_IDEM_SCOPE_DIFFERS),
					 errmsg("idempotency key \"%.*s\" has arrived twice, and differs", key.key_len, key.key),
					 errdetail("Scope: \"%.*s\".", key.scope_len, key.scope),
					 errhint("Look at both nodes' idem_keys: something has written there that should not.")));
		}
	}
	key_store_pin(&key, &row);
}

static void
take_keys(const IdemKey *scope, JsonbContainer *page)
{
	JsonbValue *keys = member(page, "keys");
	MemoryContext save = CurrentMemoryContext;
	MemoryContext one = AllocSetContextCreate(save, "idem scope", ALLOCSET_DEFAULT_SIZES);

	if (keys == NULL || keys->type != jbvBinary || !JsonContainerIsArray(keys->val.binary.data))
	{
		refuse_page("keys");
		return;
	}
	MemoryContextSwitchTo(one);
	for (uint32 i = 0; i < JsonContainerSize(keys->val.binary.data); i++)
	{
		JsonbValue *key = getIthJsonbValueFromContainer(keys->val.binary.data, i);

		CHECK_FOR_INTERRUPTS();
		if (key->type != jbvBinary)
			refuse_page("keys");
		take_key(scope, key->val.binary.data);
		MemoryContextReset(one);
	}
	MemoryContextSwitchTo(save);
	MemoryContextDelete(one);
}

/*
 * Is all here that should be?
 */
static void
check_arrival(const IdemKey *scope, JsonbContainer *page)
{
	int64		sent = get_int64(page, "count");
	int64		count;
	uint64		sum;

	sum_keys(scope, get_int64(page, "at"), &count, &sum);
	if (count == sent && (int64) sum == get_int64(page, "sum"))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_SCOPE_DIFFERS),
			 errmsg("scope \"%.*s\" has not arrived as it was sent", scope->scope_len, scope->scope),
			 errdetail("There are " INT64_FORMAT " keys here, " INT64_FORMAT " there, and they differ.", count, sent),
			 errhint("It stays closed at both nodes. If their clocks differ by more than a minute, ask for the last page again later; "
					 "else compare their idem_keys.")));
}

/*
 * Answers what to ask for next, or NULL if the scope is here.
 */
static const char *
take_page(const IdemKey *scope, JsonbContainer *page)
{
	int64		epoch = get_int64(page, "epoch");
	const char *move = get_string(page, "move", true);
	const char *position = get_string(page, "position", true);
	bool		closing = strcmp(position, AT_CLOSE) == 0;
	const char *next;
	ScopeRow	row;
	bool		same;

	lock_scope(scope);
	row = find_scope(scope);
	same = row.known && row.epoch == epoch && strcmp(row.move, move) == 0;

	if (same && state_is(&row, "here"))
		return NULL;			/* it was not heard */
	if (closing && !same && (!row.known || (state_is(&row, "closed") && row.epoch < epoch)))
		return open_close_page(scope, &row, page, epoch, move);
	if (!same || state_is(&row, "closed"))
		refuse_state(scope, "cannot come here by this page", &row,
					 _("It is of another move, of an earlier one, or of this very node. A scope moves from where idem_scopes says it is."));
	if (!state_is(&row, "arriving"))
		return closing ? prepare(scope, &row) : AT_CLOSE;
	if (strcmp(position, row.position) != 0)
		return row.position;	/* had already, or not yet to be had */

	if (strcmp(position, AT_CHECK) == 0)
	{
		check_arrival(scope, page);
		write_scope(scope, &row, "here", epoch, move, NULL);
		return NULL;
	}
	next = get_string(page, "next", true);
	take_keys(scope, page);
	write_scope(scope, &row, row.state, epoch, move, next);
	return next;
}

/*
 * (page) -> position
 */
Datum
idem_import(PG_FUNCTION_ARGS)
{
	JsonbContainer *page;
	IdemKey		scope = {0};
	const char *next;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("page must not be NULL"),
				 errdetail("It is what idem_export() answers."),
				 errhint("Ask the source for a page first.")));
	page = &PG_GETARG_JSONB_P(0)->root;
	key_set_scope(get_text(page, "scope", true), &scope);
	begin_page("idem_import()");

	next = take_page(&scope, page);
	if (next == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(next));
}
