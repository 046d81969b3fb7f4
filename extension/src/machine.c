/*
 * machine.c
 *	  State machines: which state may follow which.
 *
 * The rules are a table that DBAs edit.  Each backend keeps all of them in
 * memory, ordered, and reads them anew when the table changed: also within a
 * transaction whose snapshot is older than the change.
 */
#include "machine.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "guard.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "stats.h"
#include "tables.h"
#include "topic.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(idem_next_states);
PG_FUNCTION_INFO_V1(idem_machine_dot);
PG_FUNCTION_INFO_V1(idem_transition_check);
PG_FUNCTION_INFO_V1(idem_transition_strands);

typedef struct Rule
{
	const char *machine;
	const char *from;			/* NULL: at first */
	const char *to;
	bool		enabled;
} Rule;

/* by machine, from and to, as bytes; NULL comes first */
static struct
{
	uint64		version;		/* of the tables, when they were read */
	MemoryContext context;
	int			count;
	Rule	   *rule;
}			rules;

static MachineRefusal last_refusal;
static bool was_refused = false;

static bool
same_state(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static const char *
quoted(const char *state)
{
	return state == NULL ? "NULL" : psprintf("\"%s\"", state);
}

static int
compare_rules(const void *left, const void *right)
{
	const Rule *a = left;
	const Rule *b = right;
	int			order = strcmp(a->machine, b->machine);

	if (order == 0)
		order = (a->from != NULL) - (b->from != NULL);
	if (order == 0 && a->from != NULL)
		order = strcmp(a->from, b->from);
	return order != 0 ? order : strcmp(a->to, b->to);
}

/*
 * A row of idem_transitions.  True if it is a rule that idem ships.
 */
static bool
read_rule(Relation rel, HeapTuple tuple, Rule *rule)
{
	Datum		values[TRANSITION_COLUMNS];
	bool		nulls[TRANSITION_COLUMNS];

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	rule->machine = nulls[TRANSITION_MACHINE - 1] ? NULL : TextDatumGetCString(values[TRANSITION_MACHINE - 1]);
	rule->from = nulls[TRANSITION_FROM - 1] ? NULL : TextDatumGetCString(values[TRANSITION_FROM - 1]);
	rule->to = nulls[TRANSITION_TO - 1] ? NULL : TextDatumGetCString(values[TRANSITION_TO - 1]);
	rule->enabled = !nulls[TRANSITION_ENABLED - 1] && DatumGetBool(values[TRANSITION_ENABLED - 1]);
	return !nulls[TRANSITION_SHIPPED - 1] && DatumGetBool(values[TRANSITION_SHIPPED - 1]);
}

/*
 * Read all of them, as last committed or changed by this transaction.
 */
static void
load_rules(void)
{
	uint64		version = idem_tables()->version;
	Relation	rel = table_open(idem_tables()->transitions, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "idem rules",
												  ALLOCSET_SMALL_SIZES);
	Rule	   *rule = MemoryContextAlloc(context, 16 * sizeof(Rule));
	int			room = 16;
	int			count = 0;
	int			kept = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext save = MemoryContextSwitchTo(context);

		if (count == room)
			rule = repalloc(rule, (room *= 2) * sizeof(Rule));
		(void) read_rule(rel, ExecFetchSlotHeapTuple(slot, false, NULL), &rule[count++]);
		MemoryContextSwitchTo(save);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);

	/*
	 * A restore without triggers leaves a shipped rule that was disabled beside
	 * the one that the extension came with: disabled counts.
	 */
	qsort(rule, count, sizeof(Rule), compare_rules);
	for (int i = 0; i < count; i++)
	{
		if (kept > 0 && compare_rules(&rule[kept - 1], &rule[i]) == 0)
			rule[kept - 1].enabled &= rule[i].enabled;
		else
			rule[kept++] = rule[i];
	}

	if (rules.context != NULL)
		MemoryContextDelete(rules.context);
	MemoryContextSetParent(context, CacheMemoryContext);
	rules.context = context;
	rules.rule = rule;
	rules.count = kept;
	rules.version = version;
}

/*
 * Prepared statements inside an open transaction can run for long without a
 * look at what other sessions changed: so look here.
 */
static void
refresh_rules(void)
{
	AcceptInvalidationMessages();
	while (unlikely(idem_tables()->version != rules.version))
		load_rules();
}

/*
 * The next rule of the machine; the first one after NULL.  What it points to
 * holds until the next refresh_rules().
 */
static const Rule *
next_rule(const char *machine, const Rule *rule)
{
	if (rule == NULL)
	{
		int			low = 0;
		int			high = rules.count;

		while (low < high)
		{
			int			middle = (low + high) / 2;

			if (strcmp(rules.rule[middle].machine, machine) < 0)
				low = middle + 1;
			else
				high = middle;
		}
		rule = &rules.rule[low];
	}
	else
		rule++;
	return rule < rules.rule + rules.count && strcmp(rule->machine, machine) == 0 ? rule : NULL;
}

static bool
has_state(const char *machine, const char *state)
{
	for (const Rule *rule = next_rule(machine, NULL); rule != NULL; rule = next_rule(machine, rule))
		if (rule->enabled && (same_state(rule->from, state) || same_state(rule->to, state)))
			return true;
	return false;
}

static bool
is_final(const char *machine, const char *state)
{
	for (const Rule *rule = next_rule(machine, NULL); rule != NULL; rule = next_rule(machine, rule))
		if (rule->enabled && same_state(rule->from, state))
			return false;
	return true;
}

/*
 * A machine is there when it has a rule, be it disabled.
 */
void
machine_require(const char *machine)
{
	refresh_rules();
	if (next_rule(machine, NULL) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("machine \"%s\" does not exist", machine),
				 errdetail("No rule in idem_transitions is of that machine."),
				 errhint("Insert its rules there: (machine, from_state, to_state), with a NULL from_state for each state that it begins with.")));
}

bool
machine_has_state(const char *machine, const char *state)
{
	refresh_rules();
	return has_state(machine, state);
}

/*
 * Has the state no way on?
 */
bool
machine_is_final(const char *machine, const char *state)
{
	refresh_rules();
	return is_final(machine, state);
}

/*
 * May it go there; from NULL: may it begin there?
 */
bool
machine_allows(const char *machine, const char *from, const char *to)
{
	Rule		wanted = {machine, from, to, true};
	const Rule *rule;

	refresh_rules();
	rule = bsearch(&wanted, rules.rule, rules.count, sizeof(Rule), compare_rules);
	return rule != NULL && rule->enabled;
}

/*
 * The states that may follow, as "a", "b"; an empty string if none may.
 */
static char *
quoted_next_states(const char *machine, const char *from)
{
	StringInfoData list;

	initStringInfo(&list);
	for (const Rule *rule = next_rule(machine, NULL); rule != NULL; rule = next_rule(machine, rule))
		if (rule->enabled && same_state(rule->from, from))
			appendStringInfo(&list, "%s\"%s\"", list.len > 0 ? ", " : "", rule->to);
	return list.data;
}

static bool
remember(char *copy, const char *name)
{
	int			len = name == NULL ? 0 :
		pg_mbcliplen(name, strlen(name), IDEM_MAX_NAME_BYTES);

	memcpy(copy, name == NULL ? "" : name, len);
	copy[len] = '\0';
	return name != NULL;
}

/*
 * Refuse a transition: of a row of the table, or of what the detail names.
 */
void
machine_refuse(const char *machine, const char *from, const char *to,
			   Relation rel, const char *detail)
{
	const char *wanted = quoted(to);
	char	   *next;

	machine_require(machine);
	(void) remember(last_refusal.machine, machine);
	last_refusal.has_from = remember(last_refusal.from, from);
	last_refusal.has_to = remember(last_refusal.to, to);
	was_refused = true;
	stats_count(STAT_REFUSED_TRANSITIONS);

	next = quoted_next_states(machine, from);
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_TRANSITION_REFUSED),
			 from == NULL ?
			 errmsg("machine \"%s\" does not begin with %s", machine, wanted) :
			 errmsg("machine \"%s\" does not go from \"%s\" to %s", machine, from, wanted),
			 errdetail_internal("%s", detail),
			 from == NULL ?
			 (rel == NULL ?
			  errhint("Allowed at first: %s.", next[0] == '\0' ? "nothing" : next) :
			  errhint("Allowed at first: %s. A restore of data alone needs pg_restore --disable-triggers.",
					  next[0] == '\0' ? "nothing" : next)) :
			 next[0] != '\0' ? errhint("Allowed after \"%s\": %s.", from, next) :
			 has_state(machine, from) ? errhint("\"%s\" is final.", from) :
			 errhint("\"%s\" is no state of the machine; add rules for it to idem_transitions.", from),
			 rel == NULL ? 0 : errtable(rel)));
}

/*
 * The last transition that this backend refused, or NULL.
 */
const MachineRefusal *
machine_last_refusal(void)
{
	return was_refused ? &last_refusal : NULL;
}

void
machine_forget_refusal(void)
{
	was_refused = false;
}

/*
 * (machine, state) -> the states that may follow
 */
Datum
idem_next_states(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const char *machine = text_to_cstring(idem_name(fcinfo, 0, "machine"));
	const char *state = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));

	machine_require(machine);
	if (state != NULL && !has_state(machine, state))
	{
		StringInfoData states;

		initStringInfo(&states);
		for (const Rule *rule = next_rule(machine, NULL); rule != NULL; rule = next_rule(machine, rule))
		{
			const char *name = quoted(rule->to);

			if (rule->enabled && strstr(states.data, name) == NULL)
				appendStringInfo(&states, "%s%s", states.len > 0 ? ", " : "", name);
		}
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("machine \"%s\" has no state \"%s\"", machine, state),
				 errdetail("It reaches: %s.", states.len > 0 ? states.data : "nothing"),
				 errhint("Pass NULL for the states that it begins with.")));
	}

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (const Rule *rule = next_rule(machine, NULL); rule != NULL; rule = next_rule(machine, rule))
	{
		if (rule->enabled && same_state(rule->from, state))
		{
			Datum		value = CStringGetTextDatum(rule->to);
			bool		null = false;

			tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
		}
	}
	return (Datum) 0;
}

/*
 * A name as Graphviz quotes it.
 */
static void
append_quoted(StringInfo dot, const char *name)
{
	appendStringInfoChar(dot, '"');
	for (; *name != '\0'; name++)
	{
		if (*name == '"' || *name == '\\')
			appendStringInfoChar(dot, '\\');
		appendStringInfoChar(dot, *name);
	}
	appendStringInfoChar(dot, '"');
}

/*
 * (machine) -> Graphviz text
 *
 * It begins at a point, whose name no state has; a final state has two rims,
 * a disabled rule is dashed and grey.
 */
Datum
idem_machine_dot(PG_FUNCTION_ARGS)
{
	const char *machine = text_to_cstring(idem_name(fcinfo, 0, "machine"));
	StringInfoData dot;

	machine_require(machine);
	initStringInfo(&dot);
	appendStringInfoString(&dot, "digraph ");
	append_quoted(&dot, machine);
	appendStringInfoString(&dot, " {\n\trankdir=LR;\n\tnode [shape=box, style=rounded];\n\t\"\" [shape=point];\n");

	for (const Rule *rule = next_rule(machine, NULL); rule != NULL; rule = next_rule(machine, rule))
	{
		const Rule *earlier = next_rule(machine, NULL);

		while (earlier != rule && strcmp(earlier->to, rule->to) != 0)
			earlier = next_rule(machine, earlier);
		if (earlier == rule && has_state(machine, rule->to) && is_final(machine, rule->to))
		{
			appendStringInfoChar(&dot, '\t');
			append_quoted(&dot, rule->to);
			appendStringInfoString(&dot, " [peripheries=2];\n");
		}
	}
	for (const Rule *rule = next_rule(machine, NULL); rule != NULL; rule = next_rule(machine, rule))
	{
		appendStringInfoChar(&dot, '\t');
		append_quoted(&dot, rule->from == NULL ? "" : rule->from);
		appendStringInfoString(&dot, " -> ");
		append_quoted(&dot, rule->to);
		appendStringInfoString(&dot, rule->enabled ? ";\n" : " [style=dashed, color=grey];\n");
	}
	appendStringInfoString(&dot, "}\n");
	PG_RETURN_TEXT_P(cstring_to_text_with_len(dot.data, dot.len));
}

static TriggerData *
require_trigger(FunctionCallInfo fcinfo, const char *function)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		RelationGetRelid(trigger->tg_relation) != idem_tables()->transitions)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s() must be called as a trigger on idem_transitions", function)));
	return trigger;
}

/*
 * Does idem ship this rule?
 */
static bool
is_shipped(Relation rel, const Rule *rule)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		found = false;

	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		Rule		other;

		found = read_rule(rel, ExecFetchSlotHeapTuple(slot, false, NULL), &other) &&
			compare_rules(rule, &other) == 0;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * What an INSERT of a shipped rule does: a restore's, mostly, which carries
 * those that were disabled.  It must not be held up by rows that the table it
 * comes from had as well.
 */
static void
set_enabled(const Rule *rule, bool restoring)
{
	Oid			types[] = {BOOLOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[4];
	char		nulls[] = "    ";
	int			level = NewGUCNestLevel();

	if (restoring)
		(void) set_config_option("idem.strand_rows", "on", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	values[0] = BoolGetDatum(rule->enabled);
	values[1] = CStringGetTextDatum(rule->machine);
	values[2] = rule->from == NULL ? (Datum) 0 : CStringGetTextDatum(rule->from);
	nulls[2] = rule->from == NULL ? 'n' : ' ';
	values[3] = CStringGetTextDatum(rule->to);
	SPI_connect();
	if (SPI_execute_with_args(psprintf("UPDATE %s.idem_transitions SET enabled = $1 "
									   "WHERE machine OPERATOR(pg_catalog.=) $2 "
									   "AND (from_state OPERATOR(pg_catalog.=) $3 OR (from_state IS NULL AND $3 IS NULL)) "
									   "AND to_state OPERATOR(pg_catalog.=) $4 AND shipped",
									   quote_identifier(get_namespace_name(idem_tables()->schema))),
							  4, types, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not update idem_transitions");
	SPI_finish();
	AtEOXact_GUC(true, level);
}

/*
 * BEFORE trigger on idem_transitions, for each row and for TRUNCATE: rules
 * are well formed, and those that idem ships stay.
 */
Datum
idem_transition_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = require_trigger(fcinfo, "idem_transition_check");
	HeapTuple	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
		trigger->tg_newtuple : trigger->tg_trigtuple;
	Rule		old;
	Rule		new;
	bool		was_shipped = false;
	bool		shipped;

	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot truncate \"idem_transitions\""),
				 errdetail("Rules that idem ships are in it."),
				 errhint("Delete rules by machine.")));

	if (!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		was_shipped = read_rule(trigger->tg_relation, trigger->tg_trigtuple, &old);
	shipped = read_rule(trigger->tg_relation, row, &new);

	if (was_shipped &&
		(TRIGGER_FIRED_BY_DELETE(trigger->tg_event) || !shipped ||
		 new.machine == NULL || new.to == NULL || compare_rules(&old, &new) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot %s a rule of machine \"%s\" that idem ships",
						TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ? "delete" : "change", old.machine),
				 errdetail("From %s to \"%s\".", quoted(old.from), old.to),
				 errhint("Disable it: UPDATE idem_transitions SET enabled = false WHERE machine = %s AND %s AND to_state = %s.",
						 quote_literal_cstr(old.machine),
						 old.from == NULL ? "from_state IS NULL" :
						 psprintf("from_state = %s", quote_literal_cstr(old.from)),
						 quote_literal_cstr(old.to))));
	if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event) || was_shipped)
		return PointerGetDatum(row);

	idem_check_name(new.machine == NULL ? NULL : cstring_to_text(new.machine), "machine");
	if (new.from != NULL)
		idem_check_name(cstring_to_text(new.from), "from_state");
	idem_check_name(new.to == NULL ? NULL : cstring_to_text(new.to), "to_state");
	if (same_state(new.from, new.to))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a rule of machine \"%s\" goes from \"%s\" to itself", new.machine, new.to),
				 errdetail("To set the state that a row has already is always allowed."),
				 errhint("Leave the rule out.")));

	if (creating_extension)
		return PointerGetDatum(row);
	if (is_shipped(trigger->tg_relation, &new))
	{
		if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		{
			set_enabled(&new, shipped);
			return PointerGetDatum(NULL);
		}
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("machine \"%s\" has this rule already", new.machine),
				 errdetail("From %s to \"%s\"; idem ships it.", quoted(new.from), new.to),
				 errhint("Enable that one, and delete the other.")));
	}
	if (shipped)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("idem does not ship this rule of machine \"%s\"", new.machine),
				 errdetail("From %s to \"%s\".", quoted(new.from), new.to),
				 errhint("Leave the column \"shipped\" out.")));
	return PointerGetDatum(row);
}

/*
 * AFTER ROW trigger on idem_transitions: an enabled rule that goes must not
 * take the way on, or the very state, from rows that are there.
 *
 * It counts what is committed, without a lock on the tables: a row that gets
 * there at the same moment is not counted.
 */
Datum
idem_transition_strands(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = require_trigger(fcinfo, "idem_transition_strands");
	Rule		old;
	Rule		new;
	StringInfoData where;
	int64		stranded = 0;

	if (idem_strand_rows)
		return PointerGetDatum(NULL);
	(void) read_rule(trigger->tg_relation, trigger->tg_trigtuple, &old);
	if (!old.enabled)
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		(void) read_rule(trigger->tg_relation, trigger->tg_newtuple, &new);
		if (new.enabled && compare_rules(&old, &new) == 0)
			return PointerGetDatum(NULL);
	}

	/* what the statement has done counts */
	CacheInvalidateRelcache(trigger->tg_relation);
	CommandCounterIncrement();

	initStringInfo(&where);
	if (old.from != NULL && machine_is_final(old.machine, old.from))
		stranded += guard_count(old.machine, old.from, &where) +
			topic_count(old.machine, old.from, &where);
	if (!machine_has_state(old.machine, old.to))
		stranded += guard_count(old.machine, old.to, &where) +
			topic_count(old.machine, old.to, &where);
	if (stranded > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_plural("%lld row would be stranded by this change to machine \"%s\"",
							   "%lld rows would be stranded by this change to machine \"%s\"",
							   (unsigned long) stranded, (long long) stranded, old.machine),
				 errdetail_internal("%s", where.data),
				 errhint("Move them first, or first add the rules that take them on; or SET LOCAL idem.strand_rows = on.")));
	return PointerGetDatum(NULL);
}
