/*
 * maintain.c
 *	  CALL idem_maintain(): all upkeep, in steps with a commit after each.
 */
#include "idem.h"

#include "access/xact.h"
#include "deadline.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "ring.h"
#include "miscadmin.h"
#include "topic.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(idem_maintain);

Datum
idem_maintain(PG_FUNCTION_ARGS)
{
	CallContext *call = (CallContext *) fcinfo->context;
	bool		more = true;
	TimestampTz now;
	List	   *roles;
	ListCell   *cell;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("idem_maintain() cannot run inside a transaction block"),
				 errdetail("It commits after each of its steps."),
				 errhint("Run CALL idem_maintain() by itself.")));
	idem_require_writable("idem_maintain()");

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	while (more)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		more = ring_lock() && (ring_turn() || topic_evict());
		PopActiveSnapshot();
		SPI_commit();
		CHECK_FOR_INTERRUPTS();
	}

	now = GetCurrentTimestamp();
	PushActiveSnapshot(GetTransactionSnapshot());
	roles = deadline_roles(now);
	PopActiveSnapshot();
	SPI_commit();
	foreach(cell, roles)
	{
		deadline_run(lfirst(cell), now);
		SPI_commit();
	}
	SPI_finish();
	PG_RETURN_VOID();
}
