/*
 * maintain.c
 *	  All upkeep, in steps with a commit after each: CALL idem_maintain(), and
 *	  what the background worker does (worker.c).
 */
#include "maintain.h"

#include "idem.h"

#include "access/xact.h"
#include "deadline.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "ring.h"
#include "miscadmin.h"
#include "stats.h"
#include "topic.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_maintain);

/*
 * The caller is in a transaction that has done nothing yet, and is in one when
 * this returns; commit() ends one and begins the next.
 */
void
maintain(void (*commit) (void))
{
	bool		more = true;
	TimestampTz now;
	List	   *roles;
	ListCell   *cell;

	while (more)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		more = ring_lock() && (ring_turn() || topic_evict());
		PopActiveSnapshot();
		commit();
		CHECK_FOR_INTERRUPTS();
	}

	now = GetCurrentTimestamp();
	PushActiveSnapshot(GetTransactionSnapshot());
	roles = deadline_roles(now);
	PopActiveSnapshot();
	commit();
	foreach(cell, roles)
	{
		deadline_run(lfirst(cell), now);
		commit();
	}
	stats_maintained();
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
