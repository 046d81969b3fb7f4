/*
 * idem.c
 *	  The library's entry point: settings, and the checks every verb makes.
 */
#include "idem.h"

#include <limits.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "subscriber.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

int			idem_claim_wait;
int			idem_key_ttl;
bool		idem_require_completion;
int			idem_outbox_retention;
int			idem_inbox_retention;
bool		idem_strand_rows;
int			idem_max_attempts;
char	   *idem_client;
int			idem_naptime;

void		_PG_init(void);

void
_PG_init(void)
{
	DefineCustomIntVariable("idem.claim_wait",
							"How long idem_claim() waits for a key that another transaction holds.",
							"Used when its argument wait is NULL.",
							&idem_claim_wait,
							5000, 0, IDEM_MAX_WAIT_MS,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("idem.key_ttl",
							"How long a completed key is remembered.",
							"Used when the argument ttl of idem_claim() is NULL. After it the key may be claimed anew.",
							&idem_key_ttl,
							24 * 60 * 60, 1, IDEM_MAX_TTL_S,
							PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("idem.require_completion",
							 "Refuses to commit a claim that was neither completed nor released.",
							 NULL,
							 &idem_require_completion,
							 true,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("idem.outbox_retention",
							"How long messages are kept at least, for idem_seek().",
							"What a consumer has not passed is kept longer.",
							&idem_outbox_retention,
							24 * 60 * 60, 1, IDEM_MAX_TTL_S,
							PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("idem.inbox_retention",
							"How long the ids of consumed messages are remembered.",
							"After it idem_consume() takes a redelivered message for a new one.",
							&idem_inbox_retention,
							14 * 24 * 60 * 60, 1, IDEM_MAX_TTL_S,
							PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("idem.strand_rows",
							 "Allows an edit of idem_transitions that leaves existing rows in a state without a way on.",
							 NULL,
							 &idem_strand_rows,
							 false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("idem.max_attempts",
							"How often a message is tried before it becomes a dead letter.",
							NULL,
							&idem_max_attempts,
							5, 1, 1000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomStringVariable("idem.client",
							   "Names the process that fetches.",
							   "A process that lost its connection and goes on under the same name was not killed by a message.",
							   &idem_client,
							   "",
							   PGC_USERSET, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("idem.naptime",
							"How long the background worker rests between two rounds of upkeep.",
							"It is there if shared_preload_libraries has idem.",
							&idem_naptime,
							60, 1, 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("idem");

	idem_claim_init();
	idem_batch_init();
	idem_stats_init();
	idem_worker_init();
}

/*
 * Keys are looked up where they are locked: on the primary, and not where
 * another one's are replicated to.
 */
void
idem_require_primary(const char *function)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s on a standby", function),
				 errdetail("A standby knows neither the locks nor the latest rows of the primary."),
				 errhint("Connect to the primary.")));
	subscriber_refuse(function);
}

/*
 * Every verb that claims or writes begins here.  A standby is named before
 * read-only, because there the two come together.
 */
void
idem_require_writable(const char *function)
{
	idem_require_primary(function);
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s in a read-only transaction", function),
				 errdetail("What it does is kept by writing it."),
				 errhint("Begin the transaction with READ WRITE.")));
	PreventCommandIfParallelMode(function);
}

/*
 * An interval argument in microseconds, or -1 for NULL.  Days count 24 hours
 * and months 30 days, so that the result depends on no time zone.
 */
int64
idem_interval_us(FunctionCallInfo fcinfo, int arg, const char *name,
				 int64 min, int64 max)
{
	Interval   *interval;
	int64		days;

	if (PG_ARGISNULL(arg))
		return -1;

	interval = PG_GETARG_INTERVAL_P(arg);
	days = (int64) interval->month * DAYS_PER_MONTH + interval->day;

	/* each part is bounded before they are added; infinity is far beyond */
	if (days >= -IDEM_MAX_DAYS && days <= IDEM_MAX_DAYS &&
		interval->time >= -IDEM_MAX_DAYS * USECS_PER_DAY &&
		interval->time <= IDEM_MAX_DAYS * USECS_PER_DAY)
	{
		int64		us = days * USECS_PER_DAY + interval->time;

		if (us >= min && us <= max)
			return us;
	}

	ereport(ERROR,
			(errcode(ERRCODE_IDEM_INVALID_INTERVAL),
			 errmsg("%s is out of range: %s", name,
					DatumGetCString(DirectFunctionCall1(interval_out,
														IntervalPGetDatum(interval)))),
			 min > 0 ?
			 errdetail("It must be greater than zero and at most " INT64_FORMAT " seconds.",
					   max / USECS_PER_SEC) :
			 errdetail("It must be between zero and " INT64_FORMAT " seconds.",
					   max / USECS_PER_SEC),
			 errhint("Pass an interval within these bounds.")));
}

/*
 * A name: of a consumer, a topic, a source, a message.
 */
void
idem_check_name(const text *name, const char *what)
{
	int			len = name == NULL ? 0 : VARSIZE_ANY_EXHDR(name);

	if (len > 0 && len <= IDEM_MAX_NAME_BYTES)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_IDEM_INVALID_NAME),
			 name == NULL ? errmsg("%s must not be NULL", what) :
			 len == 0 ? errmsg("%s must not be empty", what) :
			 errmsg("%s is too long", what),
			 name == NULL ? 0 :
			 errdetail("It has %d bytes.", len),
			 errhint("Pass text of 1 to %d bytes.", IDEM_MAX_NAME_BYTES)));
}

text *
idem_name(FunctionCallInfo fcinfo, int arg, const char *what)
{
	text	   *name = PG_ARGISNULL(arg) ? NULL : PG_GETARG_TEXT_PP(arg);

	idem_check_name(name, what);
	return name;
}

/*
 * The same bytes?
 */
bool
idem_text_equal(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/*
 * In PG_CATCH: roll back the internal subtransaction that was begun in this
 * context and with this owner, and return the error.
 */
ErrorData *
idem_undo(MemoryContext context, ResourceOwner owner)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * The same if the error is the one that is an answer; any other goes on.
 */
ErrorData *
idem_undo_for(int sqlstate, MemoryContext context, ResourceOwner owner)
{
	ErrorData  *error = idem_undo(context, owner);

	if (error->sqlerrcode != sqlstate)
		ReThrowError(error);
	return error;
}
