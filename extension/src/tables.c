/*
 * tables.c
 *	  Where idem's tables are in this database.
 *
 * The tables are read and written directly, so a library must never meet a
 * layout that it was not built for: after ALTER EXTENSION UPDATE an old
 * backend still runs the old library.  So whenever the server tells that one
 * of the tables changed, their columns are checked, and that the SQL script is
 * not of a later version than the library.  A later library serves an earlier
 * script as long as it knows the columns.
 *
 * An upgrade step need not change a table, so each does this, which tells:
 *
 *	UPDATE @extschema@.idem_ring SET step = step WHERE false;
 *
 * What its tables mean it changes under ACCESS EXCLUSIVE locks on them.
 */
#include "tables.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "stats.h"
#include "subscriber.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(idem_table_changed);

static Tables tables;
static bool tables_valid = false;
static uint64 changes = 1;		/* never 0, so that 0 is no version */
static char script_version[NAMEDATALEN];

#define KEY_LAYOUT \
	INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, \
	TEXTOID, TEXTOID, BYTEAOID, JSONBOID
#define MARK_LAYOUT \
	INT8OID, INT8OID, XID8OID, XID8OID, XID8ARRAYOID

/*
 * A store's tables are idem_<name>_0 and so on, each with an index of the
 * given suffix.  The layout ends with 0.
 */
static const struct
{
	const char *name;
	const char *index;
	Oid			layout[POSITION_COLUMNS + 1];
}			stores[STORES] =

{
	[STORE_KEYS] = {"keys", "digest", {KEY_LAYOUT}},
	[STORE_INBOX] = {"inbox", "digest", {INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID}},
	[STORE_OUTBOX] = {"outbox", "id",
		{INT8OID, XID8OID, INT8OID, TIMESTAMPTZOID, INT8OID, INT4OID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID}},
	[STORE_POSITIONS] = {"positions", "n",
		{TEXTOID, INT8OID, INT8OID, MARK_LAYOUT, MARK_LAYOUT, INT8OID,
		INT8OID, INT8OID, INT8OID, INT8OID, INT4OID, INT8OID}},
	[STORE_WATERMARKS] = {"watermarks", "seq", {TEXTOID, INT8OID, INT8OID}},
};

static const Oid pinned_layout[] = {
	KEY_LAYOUT, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, JSONBOID, JSONBOID,
	INT4OID, INT8OID, TIMESTAMPTZOID, INT4OID, JSONBOID, 0
};

static const Oid ring_layout[] = {
	TEXTOID, INT8OID, INT2OID, TIMESTAMPTZOID, INT4ARRAYOID,
	TIMESTAMPTZARRAYOID, XID8OID, 0
};

static const Oid subscription_layout[] = {
	TEXTOID, INT4OID, TEXTARRAYOID, INT4OID, BOOLOID, TIMESTAMPTZOID, 0
};

static const Oid parked_layout[] = {
	TEXTOID, INT4OID, INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID,
	INT8OID, TIMESTAMPTZOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, 0
};

static const Oid attempt_layout[] = {
	TEXTOID, INT8OID, INT8OID, INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID, 0
};

static const Oid transition_layout[] = {TEXTOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID, 0};
static const Oid guarded_layout[] = {TEXTOID, TEXTOID, 0};
static const Oid scope_layout[] = {TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, 0};
static const Oid state_layout[] = {TEXTOID, TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID, 0};

const char *
store_name(Store store)
{
	return stores[store].name;
}

/*
 * A change to one of our tables, or to one that may be, or a reset of all.
 */
static void
forget_tables(Datum arg, Oid relid)
{
	bool		ours = !tables_valid || relid == InvalidOid ||
		relid == tables.ring || relid == tables.pinned.heap || relid == tables.scopes.heap ||
		relid == tables.subscriptions.heap || relid == tables.parked.heap ||
		relid == tables.attempts.heap || relid == tables.transitions ||
		relid == tables.guarded_topics || relid == tables.outbox_states.heap;

	(void) arg;
	for (int store = 0; !ours && store < STORES; store++)
		for (int i = 0; !ours && i < RING_GENERATIONS; i++)
			ours = relid == tables.generation[store][i].heap;

	if (ours)
	{
		tables_valid = false;
		changes++;
	}
}

/*
 * A change to what subscriptions write.
 */
static void
forget_subscription(Datum arg, int cache, uint32 hash)
{
	(void) cache;
	(void) hash;
	forget_tables(arg, InvalidOid);
}

/*
 * How the version of the script compares with the library's.  Of one that is
 * not like ours nothing is known, so it counts as later.
 */
static int
compare_version(const char *script)
{
	int			theirs[3];
	int			ours[3];

	if (sscanf(script, "%d.%d.%d", &theirs[0], &theirs[1], &theirs[2]) != 3 ||
		sscanf(IDEM_VERSION, "%d.%d.%d", &ours[0], &ours[1], &ours[2]) != 3)
		return 1;
	for (int i = 0; i < 3; i++)
		if (theirs[i] != ours[i])
			return theirs[i] < ours[i] ? -1 : 1;
	return 0;
}

/*
 * What to do about a library that is behind.
 */
static int
library_is_old(void)
{
	if (stats_are_kept())
	{
		errdetail("The extension was updated after the server loaded its library.");
		return errhint("Restart the server, for shared_preload_libraries has idem.");
	}
	errdetail("The extension was updated after this session loaded its library.");
	return errhint("Reconnect.");
}

/*
 * Find the extension, its schema and its version; InvalidOid where it is not
 * installed.
 */
static void
find_extension(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Datum		version;
	bool		isnull;

	tables.extension = tables.schema = InvalidOid;
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("idem"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		tables.extension = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		tables.schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
		version = heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull);
		strlcpy(script_version, TextDatumGetCString(version), sizeof(script_version));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static Oid
find_relation(Oid schema, const char *name)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" of extension idem does not exist", name),
				 errdetail("Somebody dropped it."),
				 errhint("Make it again as the extension's script does, or restore it from a backup.")));
	return relid;
}

/*
 * An index of a generation that is to be read is InvalidOid.
 */
void
idem_index_is_lost(Oid heap)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("table \"%s\" has lost an index by which idem reads it", get_rel_name(heap)),
			 errdetail("Somebody dropped it."),
			 errhint("Make it again as the extension's script does, or restore it from a backup.")));
}

Relation
idem_open_index(Relation heap, Oid index)
{
	if (!OidIsValid(index))
		idem_index_is_lost(RelationGetRelid(heap));
	return index_open(index, AccessShareLock);
}

static Oid
find_type(Oid schema, const char *name)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
						   CStringGetDatum(name), ObjectIdGetDatum(schema));
}

/*
 * Find a table and check its layout.  One that is locked just now, mostly to be
 * truncated, is not waited for: who opens it will, and calls idem_tables()
 * again, and if its layout has changed by then we are told.
 */
static Oid
find_table(Oid schema, const char *name, const Oid *layout)
{
	Oid			relid = find_relation(schema, name);
	Relation	rel;
	TupleDesc	desc;
	int			column = 0;
	bool		known;

	if (!OidIsValid(tables.subscription))
		tables.subscription = subscriber_find(relid);
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return relid;
	rel = table_open(relid, NoLock);
	desc = RelationGetDescr(rel);
	while (column < desc->natts && layout[column] != 0 &&
		   TupleDescAttr(desc, column)->atttypid == layout[column])
		column++;
	known = layout[column] == 0 && column == desc->natts;
	table_close(rel, AccessShareLock);

	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this session's library idem " IDEM_VERSION " does not know the layout of table \"%s\"",
						name),
				 compare_version(script_version) >= 0 ? library_is_old() :
				 (errdetail("The extension here is of version \"%s\" still.", script_version),
				  errhint("Run ALTER EXTENSION idem UPDATE."))));
	return relid;
}

static void
find_tables(void)
{
	char		name[NAMEDATALEN];

	tables.version = changes;
	tables.subscription = InvalidOid;
	find_extension();
	if (!OidIsValid(tables.schema))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"idem\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION idem.")));
	if (compare_version(script_version) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this session's library idem " IDEM_VERSION " is older than the extension, which is of version \"%s\"",
						script_version),
				 library_is_old()));

	tables.claim_result = find_type(tables.schema, "idem_claim_result");
	tables.cancel_result = find_type(tables.schema, "idem_cancel_result");
	tables.execute_result = find_type(tables.schema, "idem_execute_result");
	tables.ring = find_table(tables.schema, "idem_ring", ring_layout);
	for (int store = 0; store < STORES; store++)
	{
		for (int i = 0; i < RING_GENERATIONS; i++)
		{
			StoreTable *table = &tables.generation[store][i];

			snprintf(name, sizeof(name), "idem_%s_%d", stores[store].name, i);
			table->heap = find_table(tables.schema, name, stores[store].layout);
			snprintf(name, sizeof(name), "idem_%s_%d_%s", stores[store].name, i, stores[store].index);
			table->index = get_relname_relid(name, tables.schema);
		}
	}
	tables.pinned.heap = find_table(tables.schema, "idem_pinned", pinned_layout);
	tables.pinned.index = find_relation(tables.schema, "idem_pinned_digest");
	tables.pinned_expiry = find_relation(tables.schema, "idem_pinned_expires_at");
	tables.pinned_deadline = find_relation(tables.schema, "idem_pinned_deadline");
	tables.pinned_key = find_relation(tables.schema, "idem_pinned_key");
	tables.tokens = find_relation(tables.schema, "idem_tokens");
	tables.scopes.heap = find_table(tables.schema, "idem_scopes", scope_layout);
	tables.scopes.index = find_relation(tables.schema, "idem_scopes_scope");

	for (int i = 0; i < RING_GENERATIONS; i++)
	{
		snprintf(name, sizeof(name), "idem_outbox_%d_xid", i);
		tables.outbox_by_xid[i] = get_relname_relid(name, tables.schema);
	}
	tables.outbox_ids = find_relation(tables.schema, "idem_outbox_ids");
	tables.subscriptions.heap = find_table(tables.schema, "idem_subscriptions", subscription_layout);
	tables.subscriptions.index = find_relation(tables.schema, "idem_subscriptions_consumer");
	tables.parked.heap = find_table(tables.schema, "idem_parked", parked_layout);
	tables.parked.index = find_relation(tables.schema, "idem_parked_id");
	tables.parked_due = find_relation(tables.schema, "idem_parked_due");
	tables.attempts.heap = find_table(tables.schema, "idem_attempts", attempt_layout);
	tables.attempts.index = find_relation(tables.schema, "idem_attempts_batch");
	tables.transitions = find_table(tables.schema, "idem_transitions", transition_layout);
	tables.guarded_topics = find_table(tables.schema, "idem_guarded_topics", guarded_layout);
	tables.outbox_states.heap = find_table(tables.schema, "idem_outbox_states", state_layout);
	tables.outbox_states.index = find_relation(tables.schema, "idem_outbox_states_key");
	tables.guard = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
								   CStringGetDatum("idem_guard"),
								   PointerGetDatum(buildoidvector(NULL, 0)),
								   ObjectIdGetDatum(tables.schema));
}

/*
 * The tables, their layout checked.  Whoever has just opened one of them calls
 * this again, for the lock may have been waited for.
 */
const Tables *
idem_tables(void)
{
	static bool registered = false;

	if (likely(tables_valid))
		return &tables;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_tables, (Datum) 0);
		CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, forget_subscription, (Datum) 0);
		registered = true;
	}

	do
		find_tables();
	while (tables.version != changes);
	tables_valid = true;
	return &tables;
}

/*
 * Trigger on those of the tables whose rows backends keep in memory, for a
 * restore's COPY and whoever else writes them by SQL: they must not go on with
 * what they have.
 */
Datum
idem_table_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("idem_table_changed() must be called as a trigger")));
	CacheInvalidateRelcache(trigger->tg_relation);
	return PointerGetDatum(NULL);
}
