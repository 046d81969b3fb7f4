/*
 * worker.c
 *	  Upkeep in the care of the server.
 *
 * Where the library is preloaded there is a launcher, which has no database
 * and so is in nobody's way.  Round after round it starts a worker in each
 * database, one after the other, which does what CALL idem_maintain() does, if
 * the extension is there, and ends.  On a standby it begins with the promotion.
 *
 * What goes wrong in a database is logged and left to the next round; what
 * takes long there is broken off, for the others are to have their turn.  Each
 * step is a transaction, so nothing is lost by that.
 */
#include "idem.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "maintain.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "tables.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#define RESTART_S 5
#define TURN_NAPS 10			/* a database's turn is no longer than so many naps */

extern PGDLLEXPORT void idem_launcher(Datum arg);
extern PGDLLEXPORT void idem_maintenance_worker(Datum arg);

void
idem_worker_init(void)
{
	BackgroundWorker worker = {0};

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	snprintf(worker.bgw_name, BGW_MAXLEN, "idem launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "idem launcher");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_S;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "idem");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "idem_launcher");
	RegisterBackgroundWorker(&worker);
}

/* ---------------- the launcher ---------------- */

/*
 * By a clock that nobody sets.
 */
static int64
ms_since(instr_time since)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, since);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

static void
nap(int64 ms, uint32 wait_event)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 (long) ms, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ShutdownRequestPending)
		proc_exit(1);			/* should the server go on, so shall we */
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Go on to the next database, by oid, that takes connections; false when there
 * is none.  A template is none of them: who copies it must find nobody in it.
 */
static bool
next_database(Oid *database, NameData *name)
{
	Oid			last = *database;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	/* who is in no database may lack what it takes to use the index */
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	*database = InvalidOid;
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		/* -2: its DROP DATABASE was interrupted */
		if (form->oid <= last || !form->datallowconn || form->datistemplate ||
			form->datconnlimit == -2 ||
			(OidIsValid(*database) && form->oid > *database))
			continue;
		*database = form->oid;
		*name = form->datname;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return OidIsValid(*database);
}

static BackgroundWorkerHandle *
start_worker(Oid database, const NameData *name)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	snprintf(worker.bgw_name, BGW_MAXLEN, "idem maintenance: %s", NameStr(*name));
	snprintf(worker.bgw_type, BGW_MAXLEN, "idem maintenance");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "idem");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "idem_maintenance_worker");
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	if (RegisterDynamicBackgroundWorker(&worker, &handle))
		return handle;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("there is no background worker left for the upkeep of database \"%s\"", NameStr(*name)),
			 errdetail("The next round tries again."),
			 errhint("If this happens often, raise max_worker_processes.")));
	return NULL;
}

static void
wait_for_end(BackgroundWorkerHandle *handle, const NameData *name, uint32 wait_event)
{
	instr_time	began;
	bool		told = false;
	pid_t		pid;

	INSTR_TIME_SET_CURRENT(began);
	while (GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED)
	{
		int64		turn = idem_naptime * INT64CONST(1000) * TURN_NAPS;

		nap(1000, wait_event);
		if (!told && ms_since(began) > turn)
		{
			told = true;
			TerminateBackgroundWorker(handle);
			ereport(LOG,
					(errmsg("upkeep of database \"%s\" took longer than %d s and was broken off",
							NameStr(*name), (int) (turn / 1000)),
					 errdetail("The next round goes on with it.")));
		}
	}
	pfree(handle);
}

void
idem_launcher(Datum arg)
{
	uint32		resting;
	uint32		waiting;

	(void) arg;
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	resting = idem_wait_event("IdemLauncherNap");
	waiting = idem_wait_event("IdemLauncherWorker");
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "idem launcher",
												ALLOCSET_DEFAULT_SIZES));
	for (;;)
	{
		MemoryContext context = CurrentMemoryContext;
		instr_time	ended;
		Oid			database = InvalidOid;
		NameData	name;

		while (next_database(&database, &name))
		{
			BackgroundWorkerHandle *handle;

			MemoryContextSwitchTo(context);
			handle = start_worker(database, &name);
			if (handle == NULL)
				break;
			wait_for_end(handle, &name, waiting);
		}
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);

		/* a setting that changes meanwhile holds at once */
		INSTR_TIME_SET_CURRENT(ended);
		for (;;)
		{
			int64		left = idem_naptime * INT64CONST(1000) - ms_since(ended);

			if (left <= 0)
				break;
			nap(left, resting);
		}
	}
}

/* ---------------- a worker ---------------- */

static MemoryContext work_context;

static void
commit_and_begin(void)
{
	CommitTransactionCommand();
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(work_context);
}

/*
 * As an autovacuum worker: who drops, renames or copies the database has the
 * server end it, and who waits for a lock of it has it cancelled.  CREATE INDEX
 * CONCURRENTLY does not wait for its snapshots, by which nothing is looked up.
 */
static void
stand_in_nobodys_way(void)
{
	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	MyProc->statusFlags |= PROC_IS_AUTOVACUUM;
	ProcGlobal->statusFlags[MyProc->pgxactoff] = MyProc->statusFlags;
	LWLockRelease(ProcArrayLock);
}

void
idem_maintenance_worker(Datum arg)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	/*
	 * Who has made it read-only, to move it elsewhere or for want of space,
	 * wants nothing written here, and above all no handler called that may be
	 * called there too.
	 */
	if (DefaultXactReadOnly)
		proc_exit(0);
	stand_in_nobodys_way();

	/* the database's own settings hold, but for this */
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	/* a table that somebody has locked must not hold up the other databases */
	if (LockTimeout == 0 && idem_claim_wait > 0)
		SetConfigOption("lock_timeout", psprintf("%d", idem_claim_wait), PGC_SUSET, PGC_S_OVERRIDE);

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (OidIsValid(get_extension_oid("idem", true)) && !OidIsValid(idem_tables()->subscription))
	{
		pgstat_report_activity(STATE_RUNNING, "idem: upkeep");
		work_context = AllocSetContextCreate(TopMemoryContext, "idem maintenance",
											 ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(work_context);
		maintain(commit_and_begin);
	}
	CommitTransactionCommand();
	proc_exit(0);
}
