/*
 * guard.c
 *	  State machines on users' own tables.
 *
 * The trigger is all there is to it: what it guards stands in its arguments
 * (state column, machine, topic, columns), so a dump carries it along with the
 * table, and nothing is looked up before a row is written.
 *
 * It is an AFTER trigger, which sees rows as they have become, whatever other
 * triggers did to them.  A row that moves to another partition is deleted here
 * and inserted there: the deleted row's header tells that it moved, and the
 * next row that the same command inserts is where it went.  (Should a BEFORE trigger drop a row on its way, and the same command
 * insert another one next, that one is taken for it, and must follow from its
 * state.)
 */
#include "guard.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "machine.h"
#include "miscadmin.h"
#include "outbox.h"
#include "storage/lmgr.h"
#include "tables.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(idem_guard);
PG_FUNCTION_INFO_V1(idem_attach);
PG_FUNCTION_INFO_V1(idem_detach);
PG_FUNCTION_INFO_V1(idem_guards);

#define TRIGGER_NAME "idem_guard"

/* arguments of the trigger */
enum
{
	GUARD_COLUMN,
	GUARD_MACHINE,
	GUARD_TOPIC,				/* '': publishes nothing */
	GUARD_COLUMNS				/* of the payload, as many as there are; none: all */
};

/* a row that has left its partition and not arrived yet */
typedef struct Move
{
	struct Move *outer;			/* of a command that this one runs within */
	CommandId	command;
	Oid			root;
	char	   *state;			/* or NULL */
} Move;

static Move *moves = NULL;		/* innermost first; of ... */
static TransactionId moves_of = InvalidTransactionId;

static char *
qualified_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name_or_temp(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

/*
 * Can states be of this type?
 */
static bool
is_state_type(Oid type)
{
	type = getBaseType(type);
	return type == TEXTOID || type == VARCHAROID || type == NAMEOID ||
		get_typtype(type) == TYPTYPE_ENUM;
}

static char *
state_text(Datum value, Oid type)
{
	HeapTuple	tuple;
	char	   *label;

	if (type != TEXTOID && type != VARCHAROID)
		type = getBaseType(type);
	if (type == TEXTOID || type == VARCHAROID)
		return TextDatumGetCString(value);
	if (type == NAMEOID)
		return pstrdup(NameStr(*DatumGetName(value)));

	tuple = get_typtype(type) == TYPTYPE_ENUM ? SearchSysCache1(ENUMOID, value) : NULL;
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type %s cannot hold states", format_type_be(type)),
				 errdetail("The column's type was changed after its table was attached."),
				 errhint("Call idem_detach(), and idem_attach() with a column of type text, varchar, name or an enum.")));
	label = pstrdup(NameStr(((Form_pg_enum) GETSTRUCT(tuple))->enumlabel));
	ReleaseSysCache(tuple);
	return label;
}

/*
 * Number of the column, or 0.
 */
static int
find_column(Relation rel, const char *name)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (strcmp(NameStr(column->attname), name) == 0 && !column->attisdropped)
			return i + 1;
	}
	return 0;
}

static int
require_column(Relation rel, const char *name)
{
	int			column = find_column(rel, name);

	if (column == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table %s does not exist", name, qualified_name(rel)),
				 errdetail("It is one that its state machine is attached with."),
				 errhint("After renaming or dropping a column, call idem_detach() and idem_attach() again."),
				 errtable(rel)));
	return column;
}

/*
 * The values of the primary key's columns; returns their number, 0 if it has
 * no primary key.
 */
static int
primary_key(Relation rel, HeapTuple tuple, Oid *index, int *columns, Datum *values, bool *nulls)
{
	Relation	key;
	int			count;

	*index = idem_primary_key(rel);
	if (!OidIsValid(*index))
		return 0;
	key = index_open(*index, AccessShareLock);
	count = IndexRelationGetNumberOfKeyAttributes(key);
	for (int i = 0; i < count; i++)
	{
		columns[i] = key->rd_index->indkey.values[i];
		values[i] = heap_getattr(tuple, columns[i], RelationGetDescr(rel), &nulls[i]);
	}
	index_close(key, AccessShareLock);
	return count;
}

/*
 * The row, as far as the user may see it.
 */
static char *
describe_row(Relation rel, HeapTuple tuple)
{
	int			columns[INDEX_MAX_KEYS];
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	char	   *row = NULL;
	Oid			index;

	if (primary_key(rel, tuple, &index, columns, values, nulls) > 0)
	{
		Relation	key = index_open(index, AccessShareLock);

		row = BuildIndexValueDescription(key, values, nulls);
		index_close(key, AccessShareLock);
	}
	return row == NULL ? psprintf("Table %s.", qualified_name(rel)) :
		psprintf("Table %s, row %s.", qualified_name(rel), row);
}

/*
 * A value as text that no setting of the session changes: it identifies.
 */
static char *
stable_text(Datum value, Oid type)
{
	static const char *const settings[][2] = {
		{"datestyle", "ISO"}, {"timezone", "UTC"}, {"intervalstyle", "postgres"},
		{"extra_float_digits", "1"}, {"bytea_output", "hex"}
	};
	int			level = 0;
	Oid			output;
	bool		is_varlena;
	char	   *result;

	getTypeOutputInfo(type, &output, &is_varlena);
	type = getBaseType(type);
	if (type == INT8OID || type == INT4OID || type == INT2OID || type == TEXTOID ||
		type == VARCHAROID || type == UUIDOID)
		return OidOutputFunctionCall(output, value);

	level = NewGUCNestLevel();
	for (int i = 0; i < (int) lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	result = OidOutputFunctionCall(output, value);
	AtEOXact_GUC(true, level);
	return result;
}

/*
 * The primary key as text: of several columns, a JSON array of their texts.
 */
static text *
message_key(Relation rel, HeapTuple tuple)
{
	int			columns[INDEX_MAX_KEYS];
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	StringInfoData key;
	Oid			index;
	int			count = primary_key(rel, tuple, &index, columns, values, nulls);

	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s has no primary key", qualified_name(rel)),
				 errdetail("It is the key of the messages that its transitions publish."),
				 errhint("Add one, or attach the table without a topic."),
				 errtable(rel)));
	initStringInfo(&key);
	for (int i = 0; i < count; i++)
	{
		Oid			type = TupleDescAttr(RelationGetDescr(rel), columns[i] - 1)->atttypid;
		char	   *value = stable_text(values[i], type);

		if (count == 1)
			return cstring_to_text(value);
		appendStringInfoChar(&key, i == 0 ? '[' : ',');
		escape_json(&key, value);
	}
	appendStringInfoChar(&key, ']');
	return cstring_to_text_with_len(key.data, key.len);
}

/*
 * The row, or the columns of it that were asked for, as jsonb.
 */
static Datum
message_payload(Relation rel, HeapTuple tuple, char **names, int count)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Datum		row;

	if (count == 0)
		row = heap_copy_tuple_as_datum(tuple, desc);
	else
	{
		TupleDesc	part = CreateTemplateTupleDesc(count);
		Datum	   *values = palloc(count * sizeof(Datum));
		bool	   *nulls = palloc(count * sizeof(bool));

		for (int i = 0; i < count; i++)
		{
			int			column = require_column(rel, names[i]);

			TupleDescCopyEntry(part, i + 1, desc, column);
			values[i] = heap_getattr(tuple, column, desc, &nulls[i]);
		}
		row = HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(part), values, nulls));
	}
	return DirectFunctionCall1(jsonb_in,
							   CStringGetDatum(TextDatumGetCString(DirectFunctionCall1(row_to_json, row))));
}

static Oid
root_of(Relation rel)
{
	return rel->rd_rel->relispartition ?
		llast_oid(get_partition_ancestors(RelationGetRelid(rel))) : RelationGetRelid(rel);
}

/*
 * The row leaves its partition.
 */
static void
begin_move(Relation rel, CommandId command, const char *state)
{
	Move	   *move = MemoryContextAlloc(TopTransactionContext, sizeof(Move));

	move->outer = moves;
	move->command = command;
	move->root = root_of(rel);
	move->state = state == NULL ? NULL : MemoryContextStrdup(TopTransactionContext, state);
	moves = move;
	moves_of = GetTopTransactionIdIfAny();
}

/*
 * Is this row, which the command has written, the other half of a move?  Then
 * *state is where it was.
 *
 * Commands that triggers run have higher numbers than the one that they run
 * within.  Whatever else this command has written, or one that it runs within,
 * ends the move as well: another BEFORE trigger has dropped the row on its way.
 */
static bool
end_move(Relation rel, CommandId command, bool inserted, const char **state)
{
	bool		found = false;

	if (moves_of != GetTopTransactionIdIfAny())
		moves = NULL;			/* gone with their transaction */
	while (moves != NULL && moves->command >= command)
	{
		Move	   *move = moves;

		found = inserted && move->command == command && move->root == root_of(rel);
		if (found)
			*state = move->state == NULL ? NULL : pstrdup(move->state);
		moves = move->outer;
		if (move->state != NULL)
			pfree(move->state);
		pfree(move);
	}
	return found;
}

/*
 * Trigger on a guarded table
 */
Datum
idem_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	rel;
	TupleDesc	desc;
	HeapTuple	tuple;
	char	  **args;
	int			column;
	Form_pg_attribute attribute;
	const char *from = NULL;
	const char *to;
	Datum		value;
	bool		isnull;
	bool		begins;
	bool		is_heap;		/* a partition can be a foreign table */
	bool		moved = false;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs < GUARD_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("idem_guard() must be called as the trigger that idem_attach() creates")));

	rel = trigger->tg_relation;
	desc = RelationGetDescr(rel);
	args = trigger->tg_trigger->tgargs;
	column = require_column(rel, args[GUARD_COLUMN]);
	attribute = TupleDescAttr(desc, column - 1);
	begins = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	is_heap = rel->rd_rel->relkind == RELKIND_RELATION;


	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
	{
		tuple = trigger->tg_trigtuple;
		if (unlikely(moves != NULL) && is_heap)
			(void) end_move(rel, HeapTupleHeaderGetCmax(tuple->t_data), false, NULL);
		if (is_heap && HeapTupleHeaderIndicatesMovedPartitions(tuple->t_data))
		{
			value = heap_getattr(tuple, column, desc, &isnull);
			begin_move(rel, HeapTupleHeaderGetCmax(tuple->t_data),
					   isnull ? NULL : state_text(value, attribute->atttypid));
		}
		return PointerGetDatum(NULL);
	}

	tuple = begins ? trigger->tg_trigtuple : trigger->tg_newtuple;
	if (unlikely(moves != NULL) && is_heap)
		moved = end_move(rel, HeapTupleHeaderGetCmin(tuple->t_data), begins, &from);
	value = heap_getattr(tuple, column, desc, &isnull);

	if (!begins)
	{
		bool		old_isnull;
		Datum		old = heap_getattr(trigger->tg_trigtuple, column, desc, &old_isnull);

		if (old_isnull == isnull &&
			(isnull || datum_image_eq(old, value, attribute->attbyval, attribute->attlen)))
			return PointerGetDatum(NULL);
		if (!old_isnull)
			from = state_text(old, attribute->atttypid);
	}

	to = isnull ? NULL : state_text(value, attribute->atttypid);
	if ((!begins || moved) &&
		(from == NULL || to == NULL ? from == to : strcmp(from, to) == 0))
		return PointerGetDatum(NULL);
	if (to == NULL || !machine_allows(args[GUARD_MACHINE], from, to))
		machine_refuse(args[GUARD_MACHINE], from, to, rel, describe_row(rel, tuple));

	if (args[GUARD_TOPIC][0] != '\0')
		outbox_publish(cstring_to_text(args[GUARD_TOPIC]), message_key(rel, tuple),
							  cstring_to_text(to),
							  message_payload(rel, tuple, args + GUARD_COLUMNS,
											  trigger->tg_trigger->tgnargs - GUARD_COLUMNS));
	return PointerGetDatum(NULL);
}

/*
 * Our trigger on the table, or NULL.  A copy, for the relation cache may be
 * rebuilt at any moment.
 */
static const Trigger *
find_guard(Relation rel)
{
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (triggers->triggers[i].tgfoid == idem_tables()->guard)
			return &triggers->triggers[i];
	return NULL;
}

/*
 * The tables that were attached, without the partitions that came with them.
 */
static List *
guarded_tables(void)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *tables = NIL;

	ScanKeyInit(&key, Anum_pg_trigger_tgfoid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(idem_tables()->guard));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger row = (Form_pg_trigger) GETSTRUCT(tuple);

		if (!OidIsValid(row->tgparentid))
			tables = list_append_unique_oid(tables, row->tgrelid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return tables;
}

static List *
with_partitions(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ?
		find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL) :
		list_make1_oid(RelationGetRelid(rel));
}

/*
 * How many rows of the table are in the state, or, where that is NULL, in none
 * of the machine's; *example becomes one of those states.
 */
static int64
count_rows(Relation table, const char *name, const char *machine, const char *wanted,
		   char **example)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext row_context = AllocSetContextCreate(context, "idem guarded row", ALLOCSET_SMALL_SIZES);
	int64		count = 0;
	ListCell   *cell;

	foreach(cell, with_partitions(table))
	{
		Relation	rel = try_table_open(lfirst_oid(cell), AccessShareLock);
		Snapshot	snapshot;
		TupleTableSlot *slot;
		TableScanDesc scan;
		Oid			type;
		int			column;

		if (rel == NULL)
			continue;
		column = find_column(rel, name);
		type = column == 0 ? InvalidOid : TupleDescAttr(RelationGetDescr(rel), column - 1)->atttypid;
		if (rel->rd_rel->relkind != RELKIND_RELATION || column == 0 || !is_state_type(type))
		{
			table_close(rel, AccessShareLock);
			continue;
		}

		snapshot = RegisterSnapshot(GetLatestSnapshot());
		slot = table_slot_create(rel, NULL);
		scan = table_beginscan(rel, snapshot, 0, NULL);
		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;
			Datum		value = slot_getattr(slot, column, &isnull);
			char	   *state;
			bool		counts;

			CHECK_FOR_INTERRUPTS();
			MemoryContextReset(row_context);
			MemoryContextSwitchTo(row_context);
			state = isnull ? NULL : state_text(value, type);
			if (wanted != NULL)
				counts = state != NULL && strcmp(state, wanted) == 0;
			else
				counts = state == NULL || !machine_has_state(machine, state);
			MemoryContextSwitchTo(context);
			if (counts && count++ == 0 && example != NULL)
				*example = state == NULL ? "NULL" : psprintf("\"%s\"", state);
		}
		table_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
		UnregisterSnapshot(snapshot);
		table_close(rel, AccessShareLock);
	}
	MemoryContextDelete(row_context);
	return count;
}

/*
 * How many rows, of all tables that the machine guards, are in this state?
 * Tells where.
 */
int64
guard_count(const char *machine, const char *state, StringInfo where)
{
	int64		total = 0;
	ListCell   *cell;

	foreach(cell, guarded_tables())
	{
		Relation	rel = try_table_open(lfirst_oid(cell), AccessShareLock);
		const Trigger *guard;

		if (rel == NULL)
			continue;
		guard = RELATION_IS_OTHER_TEMP(rel) ? NULL : find_guard(rel);
		if (guard != NULL && guard->tgnargs >= GUARD_COLUMNS &&
			strcmp(guard->tgargs[GUARD_MACHINE], machine) == 0)
		{
			int64		count = count_rows(rel, guard->tgargs[GUARD_COLUMN], machine, state, NULL);

			if (count > 0)
				appendStringInfo(where, "%sTable %s: %lld in state \"%s\".", where->len > 0 ? " " : "",
								 qualified_name(rel), (long long) count, state);
			total += count;
		}
		table_close(rel, AccessShareLock);
	}
	return total;
}

/*
 * (tbl, state_column, machine, topic, columns) as the trigger's arguments;
 * their number.
 */
static int
guard_arguments(FunctionCallInfo fcinfo, char ***result)
{
	Datum	   *names = NULL;
	bool	   *nulls = NULL;
	int			count = 0;
	char	  **args;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", PG_ARGISNULL(0) ? "tbl" : "state_column"),
				 errdetail("They say which table is guarded, and by which column."),
				 errhint("Call idem_attach('orders', 'state', 'order').")));
	if (!PG_ARGISNULL(4))
	{
		ArrayType  *array = PG_GETARG_ARRAYTYPE_P(4);

		deconstruct_array(array, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, &nulls, &count);
		if (ARR_NDIM(array) != 1 || PG_ARGISNULL(3))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 PG_ARGISNULL(3) ? errmsg("columns were given, but no topic") :
					 errmsg("columns must be a list of at least one column"),
					 errdetail("They are what a message carries of the row."),
					 errhint("Pass NULL for the whole row, and for no messages.")));
	}

	args = palloc((GUARD_COLUMNS + count) * sizeof(char *));
	args[GUARD_COLUMN] = NameStr(*PG_GETARG_NAME(1));
	args[GUARD_MACHINE] = text_to_cstring(idem_name(fcinfo, 2, "machine"));
	args[GUARD_TOPIC] = PG_ARGISNULL(3) ? "" : text_to_cstring(idem_name(fcinfo, 3, "topic"));
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("columns must not contain NULL"),
					 errdetail("They are what a message carries of the row."),
					 errhint("Pass the names of columns.")));
		args[GUARD_COLUMNS + i] = NameStr(*DatumGetName(names[i]));
	}
	*result = args;
	return GUARD_COLUMNS + count;
}

/*
 * Open the table for idem_attach() or idem_detach().  Whoever may not create
 * triggers on it is not to lock it either.
 */
static Relation
open_guarded(Oid relid)
{
	char		kind = get_rel_relkind(relid);
	Relation	rel;

	if (kind != '\0' && kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", get_rel_name(relid)),
				 errdetail("State machines guard ordinary and partitioned tables."),
				 errhint("Attach the table that holds the rows.")));
	if (kind != '\0' && pg_class_aclcheck(relid, GetUserId(), ACL_TRIGGER) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relid));
	rel = try_table_open(relid, AccessShareLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table with OID %u does not exist", relid)));
	return rel;
}

static void
execute(const char *command)
{
	SPI_connect();
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute: %s", command);
	SPI_finish();
}

/*
 * Is the table attached just so?
 */
static bool
is_attached(Relation rel, char **args, int count)
{
	const Trigger *guard = find_guard(rel);
	bool		same;

	if (guard == NULL)
		return false;
	same = guard->tgnargs == count && !guard->tgisclone;
	for (int i = 0; same && i < count; i++)
		same = strcmp(guard->tgargs[i], args[i]) == 0;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table %s is already attached", qualified_name(rel)),
				 guard->tgisclone ?
				 errdetail("It is a partition, attached with its parent.") :
				 errdetail("To machine \"%s\" by column \"%s\"; its messages go to: %s.",
						   guard->tgargs[GUARD_MACHINE], guard->tgargs[GUARD_COLUMN],
						   guard->tgargs[GUARD_TOPIC][0] == '\0' ? "no topic" : guard->tgargs[GUARD_TOPIC]),
				 guard->tgisclone ?
				 errhint("Call idem_detach() and idem_attach() for the parent.") :
				 errhint("Call idem_detach() first.")));
	return true;
}

/*
 * (tbl, state_column, machine, topic, columns)
 *
 * A repeat changes nothing and holds up nobody: services attach whenever they
 * start.
 */
Datum
idem_attach(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	char	  **args;
	int			count = guard_arguments(fcinfo, &args);
	StringInfoData command;
	Relation	rel;
	char	   *example;
	int64		strays;
	bool		attached;
	Oid			type;

	idem_require_writable("idem_attach()");
	rel = open_guarded(relid);

	attached = is_attached(rel, args, count);
	if (!attached)
	{
		/* nobody writes from here on, not to a partition either */
		LockRelationOid(relid, ShareRowExclusiveLock);
		if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
			(void) find_all_inheritors(relid, ShareRowExclusiveLock, NULL);
		attached = is_attached(rel, args, count);
	}
	if (attached)
	{
		ereport(NOTICE,
				(errmsg("table %s is already attached to machine \"%s\"",
						qualified_name(rel), args[GUARD_MACHINE])));
		table_close(rel, NoLock);
		PG_RETURN_VOID();
	}

	type = TupleDescAttr(RelationGetDescr(rel), require_column(rel, args[GUARD_COLUMN]) - 1)->atttypid;
	if (!is_state_type(type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of table %s is of type %s", args[GUARD_COLUMN],
						qualified_name(rel), format_type_be(type)),
				 errdetail("A state is of type text, varchar, name, an enum, or a domain over one of them."),
				 errhint("Change the column's type, or attach by another column.")));
	machine_require(args[GUARD_MACHINE]);
	if (args[GUARD_TOPIC][0] != '\0')
	{
		if (!OidIsValid(idem_primary_key(rel)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table %s has no primary key", qualified_name(rel)),
					 errdetail("It is the key of the messages that its transitions publish."),
					 errhint("Add one, or attach the table without a topic.")));
		for (int i = GUARD_COLUMNS; i < count; i++)
			(void) require_column(rel, args[i]);
	}
	strays = count_rows(rel, args[GUARD_COLUMN], args[GUARD_MACHINE], NULL, &example);
	if (strays > 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("table %s has rows in no state of machine \"%s\"",
						qualified_name(rel), args[GUARD_MACHINE]),
				 errdetail_plural("%lld row, in state %s.", "%lld rows, one of them in state %s.",
								  (unsigned long) strays, (long long) strays, example),
				 errhint("Correct them, or add the states to idem_transitions."),
				 errtable(rel)));

	/* a plain DELETE is not guarded, but rows that change partitions are deleted */
	initStringInfo(&command);
	appendStringInfo(&command, "CREATE TRIGGER " TRIGGER_NAME " AFTER INSERT OR UPDATE%s ON %s "
					 "FOR EACH ROW EXECUTE FUNCTION %s.idem_guard(",
					 rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE || rel->rd_rel->relispartition ?
					 " OR DELETE" : "",
					 qualified_name(rel),
					 quote_identifier(get_namespace_name(idem_tables()->schema)));
	for (int i = 0; i < count; i++)
		appendStringInfo(&command, "%s%s", i == 0 ? "" : ", ", quote_literal_cstr(args[i]));
	appendStringInfoChar(&command, ')');
	table_close(rel, NoLock);
	execute(command.data);
	PG_RETURN_VOID();
}

/*
 * (tbl)
 */
Datum
idem_detach(PG_FUNCTION_ARGS)
{
	const Trigger *guard;
	Relation	rel;
	char	   *command;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("tbl must not be NULL"),
				 errdetail("It says which table is no longer guarded."),
				 errhint("Call idem_detach('orders').")));
	idem_require_writable("idem_detach()");
	rel = open_guarded(PG_GETARG_OID(0));
	guard = find_guard(rel);
	if (guard == NULL || guard->tgisclone)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table %s is not attached", qualified_name(rel)),
				 guard == NULL ?
				 errdetail("No state machine guards it.") :
				 errdetail("It is a partition, attached with its parent."),
				 guard == NULL ? 0 : errhint("Detach the parent.")));
	command = psprintf("DROP TRIGGER %s ON %s", quote_identifier(guard->tgname), qualified_name(rel));
	table_close(rel, NoLock);
	execute(command);
	PG_RETURN_VOID();
}

/*
 * One row of idem_guards(): of a table or, without a count, of a partition.
 */
static void
put_guard(ReturnSetInfo *result, Oid relid, const Trigger *guard, const Trigger *on, const int64 *strays)
{
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = ObjectIdGetDatum(relid);
	values[1] = CStringGetTextDatum(guard->tgargs[GUARD_COLUMN]);
	values[2] = CStringGetTextDatum(guard->tgargs[GUARD_MACHINE]);
	nulls[3] = guard->tgargs[GUARD_TOPIC][0] == '\0';
	if (!nulls[3])
		values[3] = CStringGetTextDatum(guard->tgargs[GUARD_TOPIC]);
	values[4] = BoolGetDatum(on != NULL && (on->tgenabled == TRIGGER_FIRES_ON_ORIGIN ||
											on->tgenabled == TRIGGER_FIRES_ALWAYS));
	nulls[5] = strays == NULL;
	if (strays != NULL)
		values[5] = Int64GetDatum(*strays);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * () -> (tbl, state_column, machine, topic, enabled, stray_rows)
 */
Datum
idem_guards(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, guarded_tables())
	{
		Relation	rel = try_table_open(lfirst_oid(cell), AccessShareLock);
		const Trigger *guard;
		ListCell   *part;

		if (rel == NULL)
			continue;
		guard = RELATION_IS_OTHER_TEMP(rel) ? NULL : find_guard(rel);
		if (guard != NULL && guard->tgnargs >= GUARD_COLUMNS)
		{
			int64		strays = count_rows(rel, guard->tgargs[GUARD_COLUMN],
											guard->tgargs[GUARD_MACHINE], NULL, NULL);

			put_guard(result, RelationGetRelid(rel), guard, guard, &strays);
			foreach(part, with_partitions(rel))
			{
				Relation	partition = lfirst_oid(part) == RelationGetRelid(rel) ? NULL :
					try_table_open(lfirst_oid(part), AccessShareLock);

				if (partition == NULL)
					continue;
				put_guard(result, lfirst_oid(part), guard, find_guard(partition), NULL);
				table_close(partition, AccessShareLock);
			}
		}
		table_close(rel, AccessShareLock);
	}
	return (Datum) 0;
}
