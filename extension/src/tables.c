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
#include "utils/snapmgr.h"

static Tables tables;
static bool tables_valid = false;

static const Oid key_layout[KEY_COLUMNS] = {
	INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID,
	TEXTOID, TEXTOID, BYTEAOID, JSONBOID
};

static const Oid ring_layout[RING_COLUMNS] = {
	TEXTOID, INT8OID, INT2OID, TIMESTAMPTZOID, INT4ARRAYOID,
	TIMESTAMPTZARRAYOID, XID8OID
};

/*
 * Any change to one of our tables, or a reset of all caches.
 */
static void
forget_tables(Datum arg, Oid relid)
{
	(void) arg;

	if (!tables_valid)
		return;
	if (relid == InvalidOid || relid == tables.ring ||
		relid == tables.pinned.heap)
		tables_valid = false;
	for (int i = 0; i < KEY_GENERATIONS; i++)
	{
		if (relid == tables.generation[i].heap)
			tables_valid = false;
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

const Tables *
idem_tables(void)
{
	static bool registered = false;
	Tables		found;
	char		name[NAMEDATALEN];

	if (likely(tables_valid))
		return &tables;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_tables, (Datum) 0);
		registered = true;
	}

	found.schema = extension_schema();
	if (!OidIsValid(found.schema))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"idem\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION idem.")));

	found.ring = find_table(found.schema, "idem_ring", ring_layout, RING_COLUMNS);
	for (int i = 0; i < KEY_GENERATIONS; i++)
	{
		snprintf(name, sizeof(name), "idem_keys_%d", i);
		found.generation[i].heap = find_table(found.schema, name, key_layout, KEY_COLUMNS);
		snprintf(name, sizeof(name), "idem_keys_%d_digest", i);
		found.generation[i].index = find_relation(found.schema, name);
	}
	found.pinned.heap = find_table(found.schema, "idem_pinned", key_layout, KEY_COLUMNS);
	found.pinned.index = find_relation(found.schema, "idem_pinned_digest");
	found.pinned_expiry = find_relation(found.schema, "idem_pinned_expires_at");

	/*
	 * What was read holds unless one of the tables changed meanwhile, which
	 * the next opening of it would notice: the callback then finds the set
	 * valid and forgets it.
	 */
	tables = found;
	tables_valid = true;
	return &tables;
}
