/*
 * handler.c
 *	  Handlers: functions that do the work of a key, or undo it.
 *
 * One that does the work is given with the request and called as any function
 * is, by the caller.  One that undoes it is registered for later.
 *
 * That is kept by its qualified name, not by its oid, so that dump,
 * restore and pg_upgrade carry it; what it is, whose, and whether its role may
 * call it is looked at again before each call.
 *
 * It runs as the role that registered it.  For that role itself it is an
 * ordinary call.  For anybody else it is a security-restricted operation, as
 * the server's calls of index functions are: neither can the caller make the
 * handler do something with its role's rights, nor the handler something with
 * the caller's.
 */
#include "handler.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "json.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "tables.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(idem_handlers_check);

/* the one that runs */
typedef struct HandlerCall
{
	const IdemKey *key;
	const char *function;
	const char *role;
	bool		restricted;
} HandlerCall;

static void
refuse_handler(const char *function, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_HANDLER),
			 errmsg("handler %s cannot be called", function),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

/*
 * Is the function one that can be such a handler, and may the role execute it?
 */
void
handler_check(Oid function, Oid role, HandlerUse use, const char *hint)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	bool		plain;
	bool		temporary;

	if (!HeapTupleIsValid(tuple))
		refuse_handler(psprintf("%u", function), _("There is no such function."), hint);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	plain = proc->prokind == PROKIND_FUNCTION && !proc->proretset &&
		proc->pronargs == 1 && proc->proargtypes.values[0] == JSONBOID &&
		(proc->prorettype == JSONBOID ||
		 (proc->prorettype == VOIDOID && use == HANDLER_COMPENSATES));
	temporary = use == HANDLER_COMPENSATES && isAnyTempNamespace(proc->pronamespace);
	ReleaseSysCache(tuple);

	if (!plain)
		refuse_handler(format_procedure(function), use == HANDLER_EXECUTES ?
					   _("It is not a function of one argument of type jsonb that returns jsonb.") :
					   _("It is not a function of one argument of type jsonb that returns void or jsonb."), hint);
	if (temporary)
		refuse_handler(format_procedure(function), _("It is temporary: when the handler is called, its session may be gone."), hint);
	if (!idem_may_execute(function, role))
		refuse_handler(format_procedure(function), psprintf(_("Role \"%s\" has no EXECUTE privilege on it."),
									  GetUserNameFromId(role, false)), hint);
}

static char *
owner_of(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	char	   *owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = GetUserNameFromId(((Form_pg_proc) GETSTRUCT(tuple))->proowner, false);
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * The handler that the arguments name, in the memory of the transaction.
 */
Handler *
handler_make(FunctionCallInfo fcinfo, int function_arg, int args_arg)
{
	Oid			function;
	MemoryContext save;
	Handler    *handler;

	if (PG_ARGISNULL(function_arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("handler must not be NULL"),
				 errdetail("It is the function that undoes the work."),
				 errhint("Pass a function by its signature, such as 'refund(jsonb)'.")));
	function = PG_GETARG_OID(function_arg);
	handler_check(function, GetUserId(), HANDLER_COMPENSATES,
				  _("Pass a function f(jsonb) that returns void or jsonb and that you may execute."));

	save = MemoryContextSwitchTo(TopTransactionContext);
	handler = palloc(sizeof(Handler));
	handler->before = NULL;
	handler->function =
		psprintf("%s(jsonb)",
				 quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
											get_func_name(function)));
	handler->owner = owner_of(function);
	handler->role = GetUserNameFromId(GetUserId(), false);
	if (PG_ARGISNULL(args_arg))
	{
		JsonbValue	null = {.type = jbvNull};

		handler->args = JsonbPGetDatum(JsonbValueToJsonb(&null));
	}
	else
		handler->args = JsonbPGetDatum(PG_GETARG_JSONB_P_COPY(args_arg));
	MemoryContextSwitchTo(save);
	return handler;
}

static void
put_handlers(JsonbParseState **state, const Handler *handler)
{
	if (handler->before != NULL)
		put_handlers(state, handler->before);
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	json_put_string(state, "handler", handler->function, strlen(handler->function));
	json_put_jsonb(state, "args", DatumGetJsonbP(handler->args));
	json_put_string(state, "owner", handler->owner, strlen(handler->owner));
	json_put_string(state, "role", handler->role, strlen(handler->role));
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/*
 * As they are stored: an array of {handler, args, owner, role}, in the order in which
 * they were registered, behind those that are stored already, if not 0.
 */
Datum
handlers_to_jsonb(Datum stored, const Handler *newest)
{
	JsonbParseState *state = NULL;
	Jsonb	   *before = stored == 0 ? NULL : DatumGetJsonbP(stored);

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (uint32 i = 0; before != NULL && i < JB_ROOT_COUNT(before); i++)
		pushJsonbValue(&state, WJB_ELEM, getIthJsonbValueFromContainer(&before->root, i));
	put_handlers(&state, newest);
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}

/*
 * A member of the nth stored handler, of this type or, if that is jbvNull, of
 * any.
 */
static JsonbValue *
stored_member(Jsonb *handlers, int n, const char *name, enum jbvType type)
{
	JsonbValue *handler = getIthJsonbValueFromContainer(&handlers->root, n);
	JsonbValue *member = NULL;

	if (handler != NULL && handler->type == jbvBinary &&
		JsonContainerIsObject(handler->val.binary.data))
		member = getKeyJsonValueFromContainer(handler->val.binary.data, name, strlen(name), NULL);
	if (member == NULL || (type != jbvNull && member->type != type))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the handlers of an idempotency key are damaged"),
				 errdetail("Handler %d has no \"%s\".", n + 1, name),
				 errhint("Restore the key's row in idem_pinned from a backup.")));
	return member;
}

static char *
stored_string(Jsonb *handlers, int n, const char *name)
{
	JsonbValue *member = stored_member(handlers, n, name, jbvString);

	return pnstrdup(member->val.string.val, member->val.string.len);
}

char *
handlers_first_role(Datum handlers)
{
	return stored_string(DatumGetJsonbP(handlers), 0, "role");
}

/*
 * Whoever writes handlers that it has not registered writes what is called as
 * the roles that they name, so it must be able to become them.
 */
void
handlers_check_writer(Datum stored)
{
	Jsonb	   *handlers = DatumGetJsonbP(stored);

	if (superuser())
		return;
	for (uint32 i = 0; i < JB_ROOT_COUNT(handlers); i++)
	{
		const char *role = stored_string(handlers, i, "role");
		Oid			oid = get_role_oid(role, true);

		if (!OidIsValid(oid) || !has_privs_of_role(GetUserId(), oid))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to write a handler of role \"%s\"", role),
					 errdetail("It would be called as that role."),
					 errhint("Register handlers by idem_compensate_with().")));
	}
}

/*
 * Trigger on idem_pinned, for rows written by SQL: the privilege to write all
 * tables, pg_write_all_data, is not that of a superuser.
 */
Datum
idem_handlers_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple	tuple;
	Datum		value;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		RelationGetRelid(trigger->tg_relation) != idem_tables()->pinned.heap)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("idem_handlers_check() must be called as a trigger on idem_pinned")));
	tuple = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
	value = heap_getattr(tuple, PINNED_HANDLERS, RelationGetDescr(trigger->tg_relation), &isnull);
	if (!isnull)
		handlers_check_writer(value);
	return PointerGetDatum(tuple);
}

/*
 * The function of that name and signature, by the catalog alone: neither what
 * the caller may see nor a type that it has made changes what is found.
 */
static Oid
find_function(const char *function)
{
	const char *parenthesis = strrchr(function, '(');
	Oid			argument = JSONBOID;
	List	   *names;
	Oid			schema;

	if (parenthesis == NULL)
		return InvalidOid;
	names = textToQualifiedNameList(cstring_to_text_with_len(function, parenthesis - function));
	if (list_length(names) != 2)
		return InvalidOid;
	schema = get_namespace_oid(strVal(linitial(names)), true);
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(strVal(lsecond(names))),
						   PointerGetDatum(buildoidvector(&argument, 1)),
						   ObjectIdGetDatum(schema));
}

/*
 * A function of that name may have been dropped since, and another made by
 * anybody who may create in its schema: that one is not what the role chose.
 */
static void
refuse_other_owner(const HandlerCall *call, Oid function, const char *owner)
{
	const char *now = owner_of(function);

	if (strcmp(now, owner) == 0 || strcmp(now, call->role) == 0 ||
		superuser_arg(get_role_oid(now, false)))
		return;
	refuse_handler(call->function,
				   psprintf(_("It belonged to role \"%s\" when it was registered, and is now role \"%s\"'s."), owner, now),
				   psprintf(_("If it is the right one, ALTER FUNCTION ... OWNER TO %s, or to %s, and cancel again."),
							quote_identifier(owner), quote_identifier(call->role)));
}

/*
 * May the handler run as an ordinary call?  Who plays the role, by SET ROLE or
 * in a SECURITY DEFINER function, and is more than that or somebody else, could
 * be made itself again by RESET ROLE.
 */
static bool
is_own(Oid role)
{
	return role == GetUserId() &&
		has_privs_of_role(role, GetSessionUserId()) &&
		has_privs_of_role(role, GetAuthenticatedUserId());
}

/*
 * Could who called become the role anyway?
 */
static bool
may_become(Oid role)
{
	return has_privs_of_role(GetUserId(), role) && has_privs_of_role(GetSessionUserId(), role);
}

/*
 * Is there anything in this session's temporary schema?
 */
static bool
have_temporary(void)
{
	Oid			schema;
	Oid			toast_schema;
	Relation	rel;
	ScanKeyData keys[2];
	SysScanDesc scan;
	bool		found;

	GetTempNamespaceState(&schema, &toast_schema);
	if (!OidIsValid(schema))
		return false;

	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(schema));
	scan = systable_beginscan(rel, DependReferenceIndexId, true, NULL, 2, keys);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * In a session of somebody else, an unqualified name could stand for a
 * temporary table of theirs, with triggers of theirs, which would run as the
 * role.  That is refused, but for those who may become the role anyway.
 */
static void
refuse_temporary(const HandlerCall *call, Oid role)
{
	if (!may_become(role) && have_temporary())
		refuse_handler(call->function,
					   psprintf(_("It would run as role \"%s\", and could take a temporary object of this session for its own."),
								call->role),
					   psprintf(_("DISCARD TEMP, or cancel the key connected as \"%s\"."), call->role));
}

static void
add_context(void *arg)
{
	const HandlerCall *call = arg;

	errcontext("handler %s of idempotency key \"%.*s\"",
			   call->function, call->key->key_len, call->key->key);
	if (call->restricted && geterrcode() == ERRCODE_INSUFFICIENT_PRIVILEGE)
		errhint("The handler runs as role \"%s\" in a security-restricted operation, in which no deferred trigger can fire. "
				"SET CONSTRAINTS ALL IMMEDIATE, or call idem_cancel() connected as \"%s\".",
				call->role, call->role);
}

Datum
handler_call(FmgrInfo *function, Datum args, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);
	PgStat_FunctionCallUsage usage;
	Datum		result;

	InvokeFunctionExecuteHook(function->fn_oid);
	InitFunctionCallInfoData(*fcinfo, function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = args;
	fcinfo->args[0].isnull = false;
	pgstat_init_function_usage(fcinfo, &usage);
	result = FunctionCallInvoke(fcinfo);
	pgstat_end_function_usage(&usage, true);
	*isnull = fcinfo->isnull;
	return result;
}

/*
 * Call the function as the role.  Its error is caught by a subtransaction,
 * whose end puts user and settings back.
 */
static Datum
call_function(HandlerCall *call, Oid function, Oid role, Datum args, bool *isnull)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = add_context,
		.arg = call
	};
	FmgrInfo	flinfo;
	Oid			save_user;
	int			save_context;
	int			save_level = 0;
	bool		foreign_path = role != GetUserId() || !may_become(role);
	Datum		result;

	call->restricted = !is_own(role);
	if (call->restricted)
		refuse_temporary(call, role);

	GetUserIdAndSecContext(&save_user, &save_context);
	error_context_stack = &context;
	if (call->restricted)
	{
		SetUserIdAndSecContext(role, save_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
		save_level = NewGUCNestLevel();
		if (foreign_path)
			(void) set_config_option("search_path", "pg_catalog, pg_temp",
									 PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
	}

	fmgr_info(function, &flinfo);
	result = handler_call(&flinfo, args, isnull);
	*isnull |= get_func_rettype(function) == VOIDOID;

	if (call->restricted)
	{
		AtEOXact_GUC(false, save_level);
		SetUserIdAndSecContext(save_user, save_context);
	}
	error_context_stack = context.previous;
	return result;
}

/*
 * Run the stored handlers, the last registered first; what each returned, as
 * an array.  The caller does so in a subtransaction.
 */
Datum
handlers_run(const IdemKey *key, Datum stored)
{
	Jsonb	   *handlers = DatumGetJsonbP(stored);
	JsonbParseState *results = NULL;

	pushJsonbValue(&results, WJB_BEGIN_ARRAY, NULL);
	for (int i = JB_ROOT_COUNT(handlers) - 1; i >= 0; i--)
	{
		const char *hint = _("Nothing has been undone. Put the handler right, and cancel again.");
		HandlerCall call = {.key = key};
		JsonbValue	element = {.type = jbvNull};
		Datum		result;
		Oid			function;
		Oid			role;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		call.function = stored_string(handlers, i, "handler");
		call.role = stored_string(handlers, i, "role");
		role = get_role_oid(call.role, true);
		if (!OidIsValid(role))
			refuse_handler(call.function,
						   psprintf(_("Role \"%s\", which registered it, does not exist."), call.role),
						   hint);
		function = find_function(call.function);
		if (!OidIsValid(function))
			refuse_handler(call.function, _("There is no function of that name and signature."), hint);
		handler_check(function, role, HANDLER_COMPENSATES, hint);
		refuse_other_owner(&call, function, stored_string(handlers, i, "owner"));

		result = call_function(&call, function, role,
							   JsonbPGetDatum(JsonbValueToJsonb(stored_member(handlers, i, "args", jbvNull))),
							   &isnull);
		if (!isnull)
			JsonbToJsonbValue(DatumGetJsonbP(result), &element);
		pushJsonbValue(&results, WJB_ELEM, &element);
	}
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&results, WJB_END_ARRAY, NULL)));
}
