/*
 * deadline.c
 *	  Cancelling keys that are past their deadline.
 *
 * Maintenance starts a background worker for each role that has
 * registered the first handler of such a key, connected as that role: so the
 * handlers are ordinary calls of an ordinary session of theirs, and whoever
 * maintains lends them nothing.
 *
 * The worker tries each key once, the longest overdue first, each in a
 * transaction of its own.  One that fails stays for the next call and stands
 * in nobody's way.
 */
#include "deadline.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "compensation.h"
#include "handler.h"
#include "key_store.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define BATCH 1000				/* keys read at a time */

/* what a worker is to do */
typedef struct DeadlineTask
{
	Oid			database;
	Oid			role;
	TimestampTz until;			/* keys whose deadline was over then */
} DeadlineTask;

extern PGDLLEXPORT void idem_deadline_worker(Datum arg);

/*
 * The roles, by name, whose workers have something to do.  The caller has an
 * active snapshot.
 */
List *
deadline_roles(TimestampTz until)
{
	MemoryContext result = CurrentMemoryContext;
	MemoryContext batch = AllocSetContextCreate(result, "idem deadlines", ALLOCSET_DEFAULT_SIZES);
	DuePosition position = {0};
	List	   *roles = NIL;
	List	   *due;

	MemoryContextSwitchTo(batch);
	while ((due = key_store_due(&position, until, BATCH)) != NIL)
	{
		ListCell   *cell;

		foreach(cell, due)
		{
			char	   *role = handlers_first_role(((DueKey *) lfirst(cell))->handlers);
			ListCell   *known;

			foreach(known, roles)
				if (strcmp(role, lfirst(known)) == 0)
					break;
			if (known == NULL)
			{
				MemoryContextSwitchTo(result);
				roles = lappend(roles, pstrdup(role));
				MemoryContextSwitchTo(batch);
			}
		}
		MemoryContextReset(batch);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(result);
	MemoryContextDelete(batch);
	return roles;
}

static int64
count_due(const char *role, TimestampTz until)
{
	MemoryContext save = CurrentMemoryContext;
	MemoryContext batch = AllocSetContextCreate(save, "idem deadlines", ALLOCSET_DEFAULT_SIZES);
	DuePosition position = {0};
	int64		count = 0;
	List	   *due;

	MemoryContextSwitchTo(batch);
	while ((due = key_store_due(&position, until, BATCH)) != NIL)
	{
		ListCell   *cell;

		foreach(cell, due)
			count += strcmp(role, handlers_first_role(((DueKey *) lfirst(cell))->handlers)) == 0;
		MemoryContextReset(batch);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(save);
	MemoryContextDelete(batch);
	return count;
}

static void
warn_left(const char *role, const char *detail, const char *hint)
{
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("keys past their deadline whose handlers role \"%s\" registered were not cancelled", role),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

static bool
may_connect(Oid role)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		login = HeapTupleIsValid(tuple) &&
		((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return login || !IDEM_WORKER_NEEDS_LOGIN;
}

/*
 * Who waits for a worker takes it along when it goes.
 */
static void
end_worker(int code, Datum handle)
{
	(void) code;
	TerminateBackgroundWorker((BackgroundWorkerHandle *) DatumGetPointer(handle));
}

/*
 * Start the role's worker and wait for its end.  The caller is in a
 * transaction that has done nothing yet.  What cannot be done now is left to
 * the next call, with a warning.
 */
void
deadline_run(const char *role, TimestampTz until)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	DeadlineTask task = {.database = MyDatabaseId, .until = until};
	int64		left;

	task.role = get_role_oid(role, true);
	if (!OidIsValid(task.role))
	{
		warn_left(role, _("The role does not exist."),
				  _("Confirm the keys with idem_confirm(), or make the role again. idem_compensations shows them."));
		return;
	}
	if (!may_connect(task.role))
	{
		warn_left(role, _("The role has no LOGIN, which a background worker needs before PostgreSQL 17."),
				  psprintf(_("ALTER ROLE %s LOGIN; a password is not needed."), quote_identifier(role)));
		return;
	}

	snprintf(worker.bgw_name, BGW_MAXLEN, "idem deadlines of %s", role);
	snprintf(worker.bgw_type, BGW_MAXLEN, "idem deadlines");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "idem");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "idem_deadline_worker");
	worker.bgw_notify_pid = MyProcPid;
	StaticAssertStmt(sizeof(task) <= BGW_EXTRALEN, "a worker is told what to do");
	memcpy(worker.bgw_extra, &task, sizeof(task));

	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		warn_left(role, _("There is no background worker left."),
				  _("The next CALL idem_maintain() tries again. If this happens often, raise max_worker_processes."));
		return;
	}

	/* nothing of ours may hold back vacuum while it works */
	InvalidateCatalogSnapshot();
	PG_ENSURE_ERROR_CLEANUP(end_worker, PointerGetDatum(handle));
	{
		(void) WaitForBackgroundWorkerShutdown(handle);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_worker, PointerGetDatum(handle));

	PushActiveSnapshot(GetTransactionSnapshot());
	left = count_due(role, until);
	PopActiveSnapshot();
	if (left > 0)
		warn_left(role, psprintf(ngettext("%lld key is left.", "%lld keys are left.", (unsigned long) left),
								 (long long) left),
				  _("The server's log says why. The next CALL idem_maintain() tries again."));
}

/*
 * Those of the next keys that are this role's to cancel, as DueKey pointers;
 * false when there are no more of anybody's.
 */
static bool
next_batch(const char *role, DuePosition *position, TimestampTz until,
		   MemoryContext context, List **keys)
{
	List	   *due;
	ListCell   *cell;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextReset(context);
	MemoryContextSwitchTo(context);
	due = key_store_due(position, until, BATCH);
	*keys = NIL;
	foreach(cell, due)
	{
		DueKey	   *key = lfirst(cell);

		if (strcmp(role, handlers_first_role(key->handlers)) == 0)
			*keys = lappend(*keys, key);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	return due != NIL;
}

static void
cancel_key(const IdemKey *key, MemoryContext context)
{
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		compensation_expire(key);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not cancel idempotency key \"%.*s\" at its deadline: %s",
						key->key_len, key->key, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 error->hint ? errhint("%s", error->hint) : 0,
				 error->context ? errcontext("%s", error->context) : 0));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/*
 * One worker a role at a time; another would only meet the same keys.
 */
static bool
lock_role(Oid role)
{
	LOCKTAG		tag;
	bool		locked;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, role, 1, IDEM_LOCK_MAINTAIN);
	StartTransactionCommand();
	locked = LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	CommitTransactionCommand();
	return locked;
}

void
idem_deadline_worker(Datum arg)
{
	DeadlineTask task;
	MemoryContext context;
	DuePosition position = {0};
	List	   *keys;
	const char *role;

	(void) arg;
	memcpy(&task, MyBgworkerEntry->bgw_extra, sizeof(task));
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(task.database, task.role, IDEM_WORKER_FLAGS);

	/*
	 * The role's own settings hold, but for these.  That its sessions are
	 * read-only unless they say otherwise did not keep it from promising what
	 * is due.
	 */
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	/* a row that somebody has locked must not hold up everybody's upkeep */
	if (LockTimeout == 0 && idem_claim_wait > 0)
		SetConfigOption("lock_timeout", psprintf("%d", idem_claim_wait), PGC_SUSET, PGC_S_OVERRIDE);

	pgstat_report_activity(STATE_RUNNING, "idem: cancelling keys past their deadline");
	if (!lock_role(task.role))
		proc_exit(0);

	StartTransactionCommand();
	role = MemoryContextStrdup(TopMemoryContext, GetUserNameFromId(task.role, false));
	CommitTransactionCommand();
	context = AllocSetContextCreate(TopMemoryContext, "idem deadlines", ALLOCSET_DEFAULT_SIZES);
	while (next_batch(role, &position, task.until, context, &keys))
	{
		ListCell   *cell;

		foreach(cell, keys)
		{
			CHECK_FOR_INTERRUPTS();
			cancel_key(&((DueKey *) lfirst(cell))->key, context);
		}
	}
	proc_exit(0);
}
