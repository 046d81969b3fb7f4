/*
 * maintain.c
 *	  All upkeep, in steps with a commit after each: CALL idem_maintain(), and
 *	  what the background worker does (worker.c).
 */
#include "maintain.h"

#include "idem.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "deadline.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "ring.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shrink.h"
#include "storage/latch.h"
#include "stats.h"
#include "topic.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_maintain);

static void
turn_rings(void (*commit) (void))
{
	bool		more = true;

	while (more)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		more = !OidIsValid(idem_tables()->subscription) &&
			ring_lock() && (ring_turn() || topic_evict());
		PopActiveSnapshot();
		commit();
		CHECK_FOR_INTERRUPTS();
	}
}

static void
keep_deadlines(void (*commit) (void))
{
	TimestampTz now = GetCurrentTimestamp();
	List	   *roles;
	int			first;

	PushActiveSnapshot(GetTransactionSnapshot());
	roles = deadline_roles(now);
	PopActiveSnapshot();
	commit();

	/* a handler that does not end may use up the round, but not each role's */
	first = roles == NIL ? 0 : (int) pg_prng_uint64_range(&pg_global_prng_state, 0, list_length(roles) - 1);
	for (int i = 0; i < list_length(roles); i++)
	{
		deadline_run(list_nth(roles, (first + i) % list_length(roles)), now);
		commit();
	}
}

/*
 * The caller is in a transaction that has done nothing yet, and is in one when
 * this returns; commit() ends one and begins the next.
 *
 * What is put off for a while is waited for, but no longer than until the next
 * call would come; and deadlines do not wait for it.
 */
void
maintain(void (*commit) (void))
{
	TimestampTz began = GetCurrentTimestamp();
	long		ms;

	for (;;)
	{
		turn_rings(commit);
		keep_deadlines(commit);
		stats_maintained();

		ms = shrink_wait_ms();
		if (ms < 0 || TimestampDifferenceExceeds(began, GetCurrentTimestamp() + ms * INT64CONST(1000),
												 idem_naptime * 1000))
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, idem_wait_event("IdemShrinkPause"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

Datum
idem_maintain(PG_FUNCTION_ARGS)
{
	CallContext *call = (CallContext *) fcinfo->context;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("idem_maintain() cannot run inside a transaction block"),
				 errdetail("It commits after each of its steps."),
				 errhint("Run CALL idem_maintain() by itself.")));
	idem_require_writable("idem_maintain()");

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	maintain(SPI_commit);
	SPI_finish();
	PG_RETURN_VOID();
}
