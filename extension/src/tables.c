/*
 * tables.c
 *	  Where idem's tables are in this database.
 *
 * The tables are read and written directly, so a library must never meet a
 * layout that it was not built for: after ALTER EXTENSION UPDATE an old
 * backend still runs the old library.  Their columns are therefore checked
 * whenever the server tells that one of the tables changed.
 */
#include "tables.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

static Tables tables;
static bool tables_valid = false;
static uint64 changes = 1;		/* never 0, so that 0 is no version */

static const Oid key_layout[KEY_COLUMNS] = {
	INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID,
	TEXTOID, TEXTOID, BYTEAOID, JSONBOID
};

static const Oid ring_layout[RING_COLUMNS] = {
	TEXTOID, INT8OID, INT2OID, TIMESTAMPTZOID, INT4ARRAYOID,
	TIMESTAMPTZARRAYOID, XID8OID
};

/*
 * A change to one of our tables, or to one that may be, or a reset of all.
 */
static void
forget_tables(Datum arg, Oid relid)
{
	bool		ours = !tables_valid || relid == InvalidOid ||
		relid == tables.ring || relid == tables.pinned.heap;

	(void) arg;
	for (int i = 0; !ours && i < KEY_GENERATIONS; i++)
		ours = relid == tables.generation[i].heap;

	if (ours)
	{
		tables_valid = false;
		changes++;
	}
}

/*
 * The schema of the extension, or InvalidOid where it is not installed.
 */
static Oid
extension_schema(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("idem"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

static Oid
find_relation(Oid schema, const char *name)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" of extension idem does not exist", name),
				 errhint("Install the extension again.")));
	return relid;
}

static Oid
find_table(Oid schema, const char *name, const Oid *layout, int columns)
{
	Oid			relid = find_relation(schema, name);
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	bool		known = desc->natts == columns;

	for (int i = 0; known && i < columns; i++)
		known = TupleDescAttr(desc, i)->atttypid == layout[i];
	table_close(rel, AccessShareLock);

	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this session's library idem " IDEM_VERSION " does not know the layout of table \"%s\"",
						name),
				 errdetail("The extension was updated after this session loaded its library."),
				 errhint("Reconnect.")));
	return relid;
}

static void
find_tables(void)
{
	char		name[NAMEDATALEN];

	tables.version = changes;
	tables.schema = extension_schema();
	if (!OidIsValid(tables.schema))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"idem\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION idem.")));

	tables.claim_result = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										  CStringGetDatum("idem_claim_result"),
										  ObjectIdGetDatum(tables.schema));
	tables.ring = find_table(tables.schema, "idem_ring", ring_layout, RING_COLUMNS);
	for (int i = 0; i < KEY_GENERATIONS; i++)
	{
		snprintf(name, sizeof(name), "idem_keys_%d", i);
		tables.generation[i].heap = find_table(tables.schema, name, key_layout, KEY_COLUMNS);
		snprintf(name, sizeof(name), "idem_keys_%d_digest", i);
		tables.generation[i].index = find_relation(tables.schema, name);
	}
	tables.pinned.heap = find_table(tables.schema, "idem_pinned", key_layout, KEY_COLUMNS);
	tables.pinned.index = find_relation(tables.schema, "idem_pinned_digest");
	tables.pinned_expiry = find_relation(tables.schema, "idem_pinned_expires_at");
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
		registered = true;
	}

	do
		find_tables();
	while (tables.version != changes);
	tables_valid = true;
	return &tables;
}
